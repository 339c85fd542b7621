"""Adapts wsgiref, the standard library's server, with a thread for each request."""

from __future__ import annotations

import socketserver
import sys
from wsgiref.handlers import BaseHandler
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer

from paste_wspbus.plugins.threads import acquired
from paste_wspbus.servers.containing import Contained
from paste_wspbus.servers.settings import convert
from paste_wspbus.servers.socketserver import SocketServer

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from paste_wspbus.bus import Bus
    from paste_wspbus.servers.cutting import Stack


class _ThreadingServer(socketserver.ThreadingMixIn, WSGIServer):
    # In one thread, a client that sends nothing would hold up all others, and the stop.
    daemon_threads = True
    block_on_close = False
    bus: Bus

    def process_request_thread(self, *args: Any) -> None:
        """Answer one request in a thread that the bus acquires and releases."""
        with acquired(self.bus):
            super().process_request_thread(*args)

    def server_bind(self) -> None:
        """Set the attributes; the adapter binds. (wsgiref would ask the DNS for its name.)"""
        self.server_name, self.server_port = '127.0.0.1', 0
        self.setup_environ()

    def server_activate(self) -> None:
        """Do nothing: the adapter listens."""


class _Handler(WSGIRequestHandler):
    def get_stderr(self) -> Any:
        return sys.stderr

    def log_message(self, format: str, *args: object) -> None:
        """Write no access log: a filter can write it, as with every other server here."""


class WsgirefServer(SocketServer):
    """The adapter for ``use = egg:paste_wspbus#wsgiref``, a server for development."""

    def read_settings(self, conf: dict[str, str]) -> dict[str, Any]:
        """Convert host and port."""
        return convert(conf, self.known)

    def handler_class(self) -> type[Any]:
        """Return wsgiref's request handler class, without its log."""
        return _Handler

    def make(self, app: Any, handler: type[Any]) -> Any:
        """Make the server with a thread for each request."""
        server = _ThreadingServer(('127.0.0.1', 0), handler)
        server.set_app(_in_threads(Contained(app)))
        server.bus = self.bus
        return server

    def has_begun(self, handler: Any, stack: Stack) -> bool:
        """Whether the head of a response was sent: wsgiref's own handler knows it."""
        return bool(getattr(stack.find(BaseHandler), 'headers_sent', False))

    def open(self, app: Any) -> None:
        """Also set the address that wsgiref puts into each environ."""
        super().open(app)
        self._server.setup_environ()


def _in_threads(app: Any) -> Any:
    """Set wsgi.multithread (PEP 3333): wsgiref's handler sets it to False."""

    def threaded(environ: dict[str, Any], start_response: Any) -> Any:
        environ['wsgi.multithread'] = True
        return app(environ, start_response)

    return threaded
