"""What cheroot's selector has beside connections: further listening sockets, and a wake-up."""

from __future__ import annotations

import os
import socket

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from paste_wspbus.listening.sockets import ListeningSocket
    from paste_wspbus.servers.cheroot import CherootServer, _Server


class Wake:
    """Wakes the selector like a readable connection; runs a function in the loop's thread."""

    since = float('inf')

    function: Callable[[], object]

    def __init__(self) -> None:
        self.reader, self.writer = socket.socketpair()

    def close(self) -> None:
        """Close both ends."""
        self.reader.close()
        self.writer.close()


class Listener:
    """Takes the place of a listening socket of cheroot's, and accepts for it."""

    def __init__(self, adapter: CherootServer, sock: socket.socket) -> None:
        self._adapter, self._sock = adapter, sock
        self.address: Any = (None, None)

    def accept(self) -> tuple[socket.socket, Any]:
        """Accept a connection; a Unix socket has no address."""
        sock, address = self._adapter.accept(self._sock)
        self.address = address if isinstance(address, tuple) else (None, None)
        return sock, self.address


class Door:
    """A second or further listening socket. The selector treats it as a readable connection."""

    since = float('inf')

    def __init__(self, server: _Server, listening: ListeningSocket) -> None:
        self.sock = listening.sock
        #: cheroot's classes take this for the server of the connections that came in
        #: here.
        self.server = At(server, bind_addr(listening))

    def close(self) -> None:
        """Stop accepting there."""
        self.sock.close()


class At:
    """The server with one of its other addresses: SERVER_PORT is that of the connection."""

    def __init__(self, server: _Server, bind_addr: Any) -> None:
        self._server, self.bind_addr = server, bind_addr

    def __getattr__(self, name: str) -> Any:
        return getattr(self._server, name)


def bind_addr(listening: ListeningSocket) -> Any:
    """Return the address of a socket as cheroot writes it: for a Unix socket, a text."""
    name = listening.name
    return os.fsdecode(name) if listening.is_unix else name[:2]
