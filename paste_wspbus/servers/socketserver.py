"""What Paste#http and wsgiref share: both are servers of the standard library's socketserver."""

from __future__ import annotations

import contextlib
import selectors
import socket
import time

from paste_wspbus.servers import ADDRESS, PAUSE, Server, Stage
from paste_wspbus.sockets import readable

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any


class _Connection:
    """An accepted connection: where it is, and since when."""

    def __init__(self) -> None:
        self.is_at(Stage.NEW)
        #: Whether its reads were ended: what came last may be half a request.
        self.cut = False

    def is_at(self, stage: Stage) -> None:
        self.stage, self.since = stage, time.time()


class _Lines:
    """A file of lines, and whether the last that was read was an empty one."""

    def __init__(self, file: Any) -> None:
        self._file = file
        self.has_ended = False

    def readline(self, *args: Any) -> Any:
        line = self._file.readline(*args)
        self.has_ended = line in (b'\r\n', b'\n')
        return line

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)


def _has_body(headers: Any) -> bool:
    length = headers.get('Content-Length', '0')
    return length != '0' or 'Transfer-Encoding' in headers


class SocketServer(Server):
    """Stops a `socketserver.BaseServer` without resetting anybody."""

    known: dict[str, Callable[[str], Any]] = ADDRESS

    def make(self, app: Any, handler: type[Any]) -> Any:
        """Make the server object; its socket is replaced by ours.

        :param handler: the request handler class to use.
        """
        raise NotImplementedError

    def handler_class(self) -> type[Any]:
        """The server's own request handler class."""
        raise NotImplementedError

    def open(self, app: Any) -> None:
        """Put our socket into the server, and ourselves between it and its connections."""
        self._open: dict[Any, _Connection] = {}
        self._wake, self._wake_reader = socket.socketpair()
        self._server = server = self.make(app, self._draining_handler())
        listening = self.sockets[0]
        server.socket.close()
        server.socket = listening.sock
        server.server_address = (
            ('localhost', 0) if listening.is_unix else listening.sock.getsockname()[:2]
        )
        server.server_name, server.server_port = server.server_address
        close = server.close_request

        def get_request() -> Any:
            connection, address = self.accept(server.socket)
            if connection.gettimeout() is None:
                connection.setblocking(True)  # BSD's inherit the listener's mode
            self._open[connection] = _Connection()
            return connection, address or ('127.0.0.1', 0)

        def close_request(connection: Any) -> None:
            close(connection)
            self._open.pop(connection, None)

        server.get_request, server.close_request = get_request, close_request
        server.socket.listen(self.conf.get('request_queue_size') or 128)

    def _draining_handler(self) -> type[Any]:
        adapter = self

        class DrainingHandler(self.handler_class()):  # type: ignore[misc]
            rfile: Any

            def parse_request(self) -> Any:
                adapter.mark(self.request, Stage.HEAD)
                rfile = self.rfile
                self.rfile = lines = _Lines(rfile)
                try:
                    found = super().parse_request()
                finally:
                    self.rfile = rfile
                adapter.mark(self.request, Stage.BUSY)
                if found and adapter.is_cut(self.request):
                    # It was read, and not marked yet, when its connection seemed idle.
                    return lines.has_ended and not _has_body(self.headers)
                return found

            def handle_one_request(self) -> None:
                super().handle_one_request()
                adapter.mark(self.request, Stage.IDLE)

            def end_headers(self) -> None:
                if adapter.draining and not self.close_connection:
                    self.send_header('Connection', 'close')
                super().end_headers()

        return DrainingHandler

    def mark(self, connection: Any, stage: Stage) -> None:
        """A handler tells where its connection is."""
        known = self._open.get(connection)
        if known is not None:
            known.is_at(stage)

    def is_cut(self, connection: Any) -> bool:
        """Whether we ended the connection's reads."""
        known = self._open.get(connection)
        return known is not None and known.cut

    def finish(self) -> bool:
        """End idle connections' reads; whether no connection is left."""
        for connection, known in list(self._open.items()):
            if self.may_close(known.stage, known.since):
                with contextlib.suppress(OSError, ValueError):
                    if not readable(connection):
                        known.cut = True
                        connection.shutdown(socket.SHUT_RD)
        return not self._open

    def count(self) -> int:
        """Those that were accepted and not closed."""
        return len(self._open)

    def run(self) -> None:
        """Serve until `stop_accepting`.

        `socketserver.serve_forever` polls twice a second; this sleeps.
        """
        self._server.timeout = 0
        with selectors.DefaultSelector() as selector:
            selector.register(self._server.socket, selectors.EVENT_READ)
            selector.register(self._wake_reader, selectors.EVENT_READ)
            while True:
                ready = [key.fileobj for key, _ in selector.select()]
                if self._wake_reader in ready:
                    return
                self._server.handle_request()
                if self.is_paused and readable(self._wake_reader, within=PAUSE):
                    return

    def stop_accepting(self) -> None:
        """End `run`, close the listener."""
        self._wake.send(b'.')
        if self._thread is not None:
            self._thread.join(2)
        self._server.socket.close()

    def end(self) -> None:
        """Close what `open` made."""
        if self._wake.fileno() != -1:
            self.stop_accepting()
            self._wake.close()
            self._wake_reader.close()
