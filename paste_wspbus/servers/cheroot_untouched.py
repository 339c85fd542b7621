"""The connections of cheroot in a worker: those on which no request has begun are marked."""

from __future__ import annotations

import contextlib
import queue

from paste_wspbus.servers.cheroot_fast import Files, Raw
from paste_wspbus.servers.untouched import Reader, came_in_at, own

TYPE_CHECKING = False
if TYPE_CHECKING:
    import socket
    from typing import Any

    from paste_wspbus.servers.cheroot_fast import TimeLimit
    from paste_wspbus.servers.untouched import Untouched


class _Raw(Raw, Reader):
    """Waits for bytes as `Raw` does, and reads them as `Reader` does."""

    def __init__(
        self, sock: socket.socket, limit: TimeLimit, untouched: Untouched
    ) -> None:
        Reader.__init__(self, sock, untouched)
        self._limit = limit


def marking(base: type[Any], untouched: Untouched) -> type[Any]:
    """Return a class of connections that are marked as `Untouched` says.

    Between two requests, nothing reads from a connection but the thread that serves it.
    """

    class Request(base.RequestHandlerClass):  # type: ignore[misc, name-defined]
        def simple_response(self, *args: Any, **kwargs: Any) -> None:
            try:
                self.conn.raw.receive()
            except OSError:
                self.close_connection = True
                return
            super().simple_response(*args, **kwargs)

    class Connection(base):  # type: ignore[misc]
        RequestHandlerClass = Request

        def __init__(self, server: Any, sock: socket.socket, makefile: Any) -> None:
            self.fd = sock.fileno()
            super().__init__(server, sock, Files(self._read).make)
            untouched.add(self.fd)

        def _read(self, sock: socket.socket, limit: TimeLimit) -> _Raw:
            self.raw = raw = _Raw(sock, limit, untouched)
            return raw

        def begins_request(self) -> None:
            self.raw.receive()
            super().begins_request()

        def communicate(self) -> Any:
            keeps = super().communicate()
            if keeps:
                self.raw.has_answered(self.rfile)
            return keeps

        def close(self) -> None:
            # Else the client could lose what was sent last.
            with contextlib.suppress(OSError):
                self.raw.receive()
            super().close()

    return Connection


class _Accepted:
    """Takes the place of a listening socket of cheroot's: it has accepted a connection."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        name = connection.getpeername()
        #: A Unix socket has none.
        self.address = name[:2] if isinstance(name, tuple) else (None, None)

    def accept(self) -> tuple[socket.socket, Any]:
        return own(self._connection), self.address


def take(connection: socket.socket, manager: Any, patience: float) -> None:
    """Have cheroot's loop watch a connection, as if it had been served before, if it can.

    :param manager: cheroot's connection manager: its `wake` and `watch` do the work.
    :param patience: seconds that the loop has.
    :raises OSError: if the client has gone.
    """
    accepted = _Accepted(connection)
    listening = came_in_at(connection, manager.listeners)
    done: queue.SimpleQueue[None] = queue.SimpleQueue()

    def watch() -> None:
        with contextlib.suppress(OSError):  # the client has gone; or this is late
            manager.watch(accepted, listening)
        done.put(None)

    manager.wake(watch)
    with contextlib.suppress(queue.Empty):
        done.get(timeout=patience)
