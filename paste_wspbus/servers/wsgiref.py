"""wsgiref: the standard library's server, with a thread for each request."""

from __future__ import annotations

import socketserver
import sys
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer

from paste_wspbus.plugins.threads import acquired
from paste_wspbus.servers.socketserver import SocketServer
from paste_wspbus.settings import convert

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from paste_wspbus.bus import Bus


class _ThreadingServer(socketserver.ThreadingMixIn, WSGIServer):
    # One client that sends nothing would hold up all others, and the stop.
    daemon_threads = True
    block_on_close = False
    bus: Bus

    def process_request_thread(self, *args: Any) -> None:
        """The thread of one request, as the bus is told of it."""
        with acquired(self.bus):
            super().process_request_thread(*args)

    def server_bind(self) -> None:
        """We bind; wsgiref would look up its name in the DNS."""
        self.server_name, self.server_port = '127.0.0.1', 0
        self.setup_environ()

    def server_activate(self) -> None:
        """We listen."""


class _Handler(WSGIRequestHandler):
    def get_stderr(self) -> Any:
        return sys.stderr

    def log_message(self, format: str, *args: object) -> None:
        """No access log: that is for a filter, as with every other server here."""


class WsgirefServer(SocketServer):
    """``use = egg:paste_wspbus#wsgiref``: for development."""

    def read_settings(self, conf: dict[str, str]) -> dict[str, Any]:
        """Host and port."""
        return convert(conf, self.known)

    def handler_class(self) -> type[Any]:
        """wsgiref's handler, silent."""
        return _Handler

    def make(self, app: Any, handler: type[Any]) -> Any:
        """Make it."""
        server = _ThreadingServer(('127.0.0.1', 0), handler)
        server.set_app(app)
        server.bus = self.bus
        return server

    def open(self, app: Any) -> None:
        """Also what wsgiref tells the application of its address."""
        super().open(app)
        self._server.setup_environ()
        self._server.base_environ['wsgi.multithread'] = True
