"""The lines between the supervisor and its agent: each is a word with its arguments."""

from __future__ import annotations

import json

TYPE_CHECKING = False
if TYPE_CHECKING:
    import socket
    from typing import Any

#: The number of bytes that are read at once.
_READ = 65536


class Lines:
    """Reads the lines of a connection, as they come.

    :param connection: a stream socket. Each line is a JSON list that begins with a word.
    """

    def __init__(self, connection: socket.socket) -> None:
        self._connection, self._rest = connection, b''
        #: Whether the other end has closed the connection.
        self.has_ended = False

    def read(self) -> list[list[Any]]:
        """Read once; return the lines that are complete now."""
        try:
            came = self._connection.recv(_READ)
        except BlockingIOError:
            return []
        except OSError:
            came = b''
        self.has_ended = not came
        *lines, self._rest = (self._rest + came).split(b'\n')
        return [json.loads(line) for line in lines]
