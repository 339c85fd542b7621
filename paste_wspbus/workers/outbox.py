"""The orders that a supervisor still has to send to a process: it never waits for a reader."""

from __future__ import annotations

import contextlib
import os
import socket
from collections import deque

from paste_wspbus.wire.lines import order

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

#: The number of bytes that wait at most for a process that does not read. The longest order
#: names the modules of a site: some 100 kB.
MAX_WAITING = 2 << 20

#: The number of bytes above which messages of the site are dropped: orders need room, too.
MAX_MESSAGES = 1 << 20


class Outbox:
    """Sends lines, each with its descriptors, as far as there is room for them.

    :param connection: a stream socket that does not block.
    :param waits: is called with True when lines begin to wait for room, and with False
        when no line waits any more. The caller calls `flush` when there is room.
    """

    def __init__(
        self,
        connection: socket.socket,
        waits: Callable[[bool], object] = lambda _: None,
    ) -> None:
        self.waits = waits
        self._connection = connection
        self._lines: deque[tuple[bytes, list[int]]] = deque()
        self._size = 0
        #: How many messages were dropped since the last ones were sent.
        self.missed = 0

    def put_message(self, line: bytes) -> bool:
        """Send a message, or drop and count it if the process does not read.

        After a dropped one, all are dropped until the process has read everything. Then the
        process gets their number.

        :returns: False if it was dropped.
        """
        if self.missed or not self.has_room(line):
            self.missed += 1
            return False
        return self.put(line)

    def has_room(self, line: bytes) -> bool:
        """Whether a message may wait here; orders need room, too."""
        return self._size + len(line) <= MAX_MESSAGES

    def put(self, line: bytes, fds: Iterable[int] = ()) -> bool:
        """Send a line, now or when there is room.

        :param fds: descriptors to send with it; the caller may close them at once.
        :returns: False if too much waits already; then this line is dropped.
        """
        if not self._lines:
            rest = self._send(line, [*fds])
            if not rest:
                return True
            # The first bytes carry the descriptors.
            fds, line = fds if len(rest) == len(line) else (), rest
        if self._size + len(line) > MAX_WAITING:
            return False
        try:
            copies = [os.dup(fd) for fd in fds]
        except OSError:  # no descriptor is free
            return False
        self._lines.append((line, copies))
        self._size += len(line)
        if len(self._lines) == 1:
            self.waits(True)
        return True

    @property
    def is_waiting(self) -> bool:
        """Whether lines wait for room."""
        return bool(self._lines)

    def flush(self) -> None:
        """Send as much as there is room for."""
        if not self._lines:
            return
        while self._lines:
            line, fds = self._lines.popleft()
            self._size -= len(line)
            rest = self._send(line, fds)
            if len(rest) < len(line):
                _close(fds)
                fds = []
            if rest:
                self._lines.appendleft((rest, fds))
                self._size += len(rest)
                return
        self.waits(False)
        if self.missed:
            missed, self.missed = self.missed, 0
            self.put(order('missed', [missed]))

    def _send(self, line: bytes, fds: list[int]) -> bytes:
        """Send, and return the rest that has no room; b'' also if nobody can read it."""
        try:
            if not fds:
                return line[self._connection.send(line) :]
            return line[socket.send_fds(self._connection, [line], fds) :]
        except BlockingIOError:
            return line
        except OSError:
            return b''

    def close(self) -> None:
        """Drop the lines that wait."""
        for _, fds in self._lines:
            _close(fds)
        self._lines.clear()
        self._size = 0


def _close(fds: list[int]) -> None:
    for fd in fds:
        with contextlib.suppress(OSError):
            os.close(fd)
