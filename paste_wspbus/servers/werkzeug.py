"""Adapts werkzeug as dataflake.wsgi.werkzeug offers it to Zope sites."""

from __future__ import annotations

from werkzeug.serving import WSGIRequestHandler, make_server

from paste_wspbus.plugins.threads import acquired
from paste_wspbus.servers.containing import Contained
from paste_wspbus.servers.server import WHERE
from paste_wspbus.servers.settings import convert
from paste_wspbus.servers.socketserver import SocketServer
from paste_wspbus.values import boolean

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    from paste_wspbus.servers.cutting import Stack


class _Handler(WSGIRequestHandler):  # type: ignore[misc, unused-ignore]
    """A handler that knows whether it has sent the head of a response."""

    has_begun = False

    def run_wsgi(self) -> None:
        self.has_begun = False
        super().run_wsgi()

    def end_headers(self) -> None:
        self.has_begun = True
        super().end_headers()


class DataflakeWerkzeug(SocketServer):
    """The adapter for ``use = egg:dataflake.wsgi.werkzeug#main`` with ``threaded = true``."""

    default_host = '0.0.0.0'
    known = {**SocketServer.known, 'threaded': boolean}

    def __init__(self, conf: Mapping[str, str], global_conf: Mapping[str, Any]) -> None:
        super().__init__(_with_host(conf), global_conf)

    def read_settings(self, conf: dict[str, str]) -> dict[str, Any]:
        """Convert host, port and threaded."""
        return convert(conf, self.known)

    @classmethod
    def knows(cls, conf: Mapping[str, str]) -> bool:
        """Whether the settings ask for threads, and for no debugger, reloader or processes."""
        threaded = conf.get('threaded', '').lower() in ('on', 'true', '1')
        return threaded and not set(_with_host(conf)) - {'threaded', *WHERE}

    def handler_class(self) -> type[Any]:
        """Return werkzeug's request handler class."""
        return _Handler

    def make(self, app: Any, handler: type[Any]) -> Any:
        """Let werkzeug make the server; the port does not matter."""
        server: Any = make_server(
            '127.0.0.1', 0, Contained(app), threaded=True, request_handler=handler
        )
        server.block_on_close = False
        answer = server.process_request_thread

        def process_request_thread(*args: Any) -> None:
            with acquired(self.bus):
                answer(*args)

        server.process_request_thread = process_request_thread
        return server

    def has_begun(self, handler: Any, stack: Stack) -> bool:
        """Whether the head of a response was sent."""
        return bool(handler.has_begun)


def _with_host(conf: Mapping[str, str]) -> dict[str, str]:
    """Return the settings with ``host`` for ``hostname``, which wins if both are there."""
    renamed = dict(conf)
    if 'hostname' in renamed:
        renamed['host'] = renamed.pop('hostname')
    return renamed
