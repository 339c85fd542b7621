"""The base class of the adapters for `socketserver` servers: Paste#http, wsgiref, werkzeug."""

from __future__ import annotations

import contextlib
import selectors
import socket
import sys
import time

from paste_wspbus.listening.backlog import readable
from paste_wspbus.servers.accepting import PAUSE, Stage
from paste_wspbus.servers.server import ADDRESS, LOOK, Load, Server
from paste_wspbus.servers.socketserver_heads import parse
from paste_wspbus.servers.usual_heads import date

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from paste_wspbus.listening.sockets import ListeningSocket
    from paste_wspbus.servers.cutting import RequestInFlight, Stack


#: What wakes the loop: it must end, or look at its sockets again.
_END, _RESUME = b'.', b'+'


class _Connection:
    """An accepted connection: its stage, and since when it is there."""

    def __init__(self, listening: socket.socket) -> None:
        self.is_at(Stage.NEW)
        #: The listening socket where it came in.
        self.listening = listening
        #: Whether this adapter has ended its reads: the last bytes may be half a request.
        self.cut = False
        #: The request handler that reads its requests and writes its responses.
        self.handler: Any = None

    def is_at(self, stage: Stage) -> None:
        self.stage, self.since = stage, time.monotonic()


class _At:
    """The server with one of its addresses: SERVER_PORT is that of the connection."""

    def __init__(self, server: Any, listening: ListeningSocket) -> None:
        self._server = server
        name = ('localhost', 0) if listening.is_unix else listening.name[:2]
        self.server_address = name

    def __getattr__(self, name: str) -> Any:
        return getattr(self._server, name)

    @property
    def base_environ(self) -> dict[str, Any]:
        """Return the environ that wsgiref copies for each request."""
        host, port = self.server_address
        own = {'SERVER_NAME': host, 'SERVER_PORT': str(port)}
        return {**self._server.base_environ, **own}


class _Lines:
    """A file of lines that remembers whether the last line read was empty."""

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


def _readable(connection: Any) -> bool:
    try:
        return readable(connection)
    except (OSError, ValueError):  # its thread has closed it
        return False


class SocketServer(Server):
    """Stops a `socketserver.BaseServer` without resetting anybody."""

    known: dict[str, Callable[[str], Any]] = ADDRESS

    def make(self, app: Any, handler: type[Any]) -> Any:
        """Make the server object; its socket is replaced by ours.

        :param handler: the request handler class to use.
        """
        raise NotImplementedError

    def handler_class(self) -> type[Any]:
        """Return the server's own request handler class."""
        raise NotImplementedError

    def open(self, app: Any) -> None:
        """Give our socket to the server, and follow each connection that it accepts."""
        self._open: dict[Any, _Connection] = {}
        #: Those that have a thread, or wait for one.
        self._served: set[Any] = set()
        self._wake, self._wake_reader = socket.socketpair()
        self._server = server = self.make(app, self._draining_handler())
        server.socket.close()
        #: The socket to accept from; only the loop's thread sets it.
        server.socket = self.sockets[0].sock
        self._servers = {one.sock: _At(server, one) for one in self.sockets}
        at = self._servers[server.socket]
        server.server_address = at.server_address
        server.server_name, server.server_port = server.server_address
        close = server.close_request

        def get_request() -> Any:
            connection, address = self.accept(server.socket)
            if sys.platform != 'linux' and connection.gettimeout() is None:
                connection.setblocking(True)  # it has the listener's mode
            self.has_accepted(connection, server.socket)
            return connection, address or ('127.0.0.1', 0)

        def close_request(connection: Any) -> None:
            self._served.discard(connection)
            if self.sharing is not None:
                self.sharing.has_answered()  # before the client knows
            close(connection)
            self._open.pop(connection, None)

        handle_error = server.handle_error

        def handle_error_unless_cut(connection: Any, address: Any) -> None:
            # Else the log has named the request already.
            if not (self.has_cut or self._has_given_up):
                handle_error(connection, address)

        server.get_request, server.close_request = get_request, close_request
        server.handle_error = handle_error_unless_cut
        for listening in self.sockets:
            listening.sock.listen(self.conf.get('request_queue_size') or 128)

    def has_accepted(self, connection: Any, listening: socket.socket) -> None:
        """Note a new connection."""
        self._open[connection] = _Connection(listening)
        self._served.add(connection)

    def accepts_on(self) -> list[socket.socket]:
        """Return the sockets that the loop watches."""
        return list(self._servers)

    def _draining_handler(self) -> type[Any]:
        adapter = self

        class DrainingHandler(self.handler_class()):  # type: ignore[misc]
            rfile: Any
            server: Any

            def setup(self) -> None:
                self.server = adapter.server_at(self.request, self.server)
                super().setup()

            def parse_request(self) -> Any:
                adapter.mark(self.request, Stage.HEAD, self)
                found = has_ended = parse(self)
                if not found:
                    rfile = self.rfile
                    self.rfile = lines = _Lines(rfile)
                    try:
                        found = super().parse_request()
                    finally:
                        self.rfile = rfile
                    has_ended = lines.has_ended
                adapter.mark(self.request, Stage.BUSY)
                if found and adapter.is_cut(self.request):
                    # The thread had read the request but not marked the connection yet,
                    # so that the connection seemed idle, and `finish` ended its reads.
                    return has_ended and not _has_body(self.headers)
                return found

            def date_time_string(self, timestamp: Any = None) -> Any:
                if timestamp is None:
                    return date()
                return super().date_time_string(timestamp)

            def handle_one_request(self) -> None:
                super().handle_one_request()
                adapter.mark(self.request, Stage.IDLE)

            def end_headers(self) -> None:
                if adapter.draining and not self.close_connection:
                    self.send_header('Connection', 'close')
                super().end_headers()

        return DrainingHandler

    def server_at(self, connection: Any, server: Any) -> Any:
        """Return the server with the address where the connection came in."""
        known = self._open.get(connection)
        if len(self._servers) == 1 or known is None:
            return server
        return self._servers[known.listening]

    def mark(self, connection: Any, stage: Stage, handler: Any = None) -> None:
        """Note the stage of a connection; its handler calls this."""
        known = self._open.get(connection)
        if known is not None:
            known.is_at(stage)
            known.handler = handler or known.handler

    def is_cut(self, connection: Any) -> bool:
        """Whether this adapter has ended the reads of the connection."""
        known = self._open.get(connection)
        return known is not None and known.cut

    def finish(self) -> bool:
        """End the reads of idle connections; return whether no connection remains."""
        for connection, known in list(self._open.items()):
            if self.may_close(known.stage, known.since):
                with contextlib.suppress(OSError, ValueError):
                    if not readable(connection):
                        known.cut = True
                        connection.shutdown(socket.SHUT_RD)
        return not self._open

    def count(self) -> int:
        """Return how many connections were accepted and not closed."""
        return len(self._open)

    def requests_in_flight(self) -> list[RequestInFlight]:
        """List the requests of all connections."""
        from paste_wspbus.servers.cutting import stacks_by_owner

        stacks = stacks_by_owner()
        return [
            self._open_request(connection, known, stacks.get(id(known.handler)))
            for connection, known in list(self._open.items())
            if known.stage in (Stage.HEAD, Stage.BUSY) or _readable(connection)
        ]

    def _open_request(
        self, connection: Any, known: _Connection, stack: Stack | None
    ) -> RequestInFlight:
        from paste_wspbus.servers.cutting import RequestInFlight, WaitsFor, text_of

        handler = known.handler
        if known.stage in (Stage.NEW, Stage.IDLE):
            waits_for, handler = WaitsFor.THREAD, None
        elif stack is None or known.stage is Stage.HEAD:
            waits_for, handler = WaitsFor.CLIENT_SENDS, None
        elif (found := stack.waits_for_client(connection)) is not None:
            waits_for = found
        elif self.has_begun(handler, stack):
            waits_for = WaitsFor.STREAM
        else:
            waits_for = WaitsFor.APPLICATION
        return RequestInFlight(
            text_of(getattr(handler, 'command', '')),
            text_of(getattr(handler, 'path', '')),
            known.since,
            waits_for,
            stack,
            connection,
        )

    def give_up(self, request: RequestInFlight) -> bool:
        """Shut the connection down; see `refuse`."""
        connection, self._has_given_up = request.connection, True
        known = self._open.get(connection)
        answers = known is not None and self.refuse(known.handler, request.method)
        with contextlib.suppress(OSError, ValueError):
            connection.shutdown(socket.SHUT_RDWR)
        self._open.pop(connection, None)  # a stop does not wait for it
        return answers

    def refuse(self, handler: Any, method: str) -> bool:
        """Answer 503 to the request of a handler; return whether that was possible."""
        return False

    def has_begun(self, handler: Any, stack: Stack) -> bool:
        """Whether the head of a response was sent.

        :param handler: the handler of the connection.
        """
        raise NotImplementedError

    def load_now(self) -> Load:
        """Return how many threads have a request: each connection has a thread."""
        stages = [known.stage for known in list(self._open.values())]
        return Load(None, stages.count(Stage.BUSY), 0)

    def cut(self) -> None:
        """Shut down all connections; their threads close them."""
        for connection in list(self._open):
            with contextlib.suppress(OSError, ValueError):
                connection.shutdown(socket.SHUT_RDWR)

    def run(self) -> None:
        """Serve until `stop_accepting`.

        `socketserver.serve_forever` polls twice a second; this method sleeps.
        """
        self._server.timeout = 0
        with selectors.DefaultSelector() as selector:
            for sock in [*self._servers, self._wake_reader]:
                selector.register(sock, selectors.EVENT_READ)
            while True:
                ready: list[Any] = [key.fileobj for key, _ in selector.select()]
                if self._wake_reader in ready:
                    ready.remove(self._wake_reader)
                    if self._must_end():
                        return
                for sock in ready:
                    self._server.socket = sock
                    self._server._handle_request_noblock()
                while self.is_paused:
                    if readable(self._wake_reader, within=PAUSE) and self._must_end():
                        return

    def _must_end(self) -> bool:
        """Read what has woken `run`: whether it is the end, or `resume`."""
        return _END in self._wake_reader.recv(512)

    def resume(self) -> None:
        """Wake `run`."""
        with contextlib.suppress(OSError):  # it is closed
            self._wake.send(_RESUME)

    def stop_accepting(self) -> None:
        """End `run`, then close the listening socket."""
        self._wake.send(_END)
        if self._thread is not None:
            self._thread.join(self.at_most(2))
        for sock in self._servers:
            sock.close()

    def end(self) -> None:
        """Close what `open` made; wait for the threads of requests that were cut."""
        until = time.monotonic() + self.time_to_end
        while self._open and time.monotonic() < until:
            time.sleep(LOOK)
        if self._wake.fileno() != -1:
            self.stop_accepting()
            self._wake.close()
            self._wake_reader.close()
