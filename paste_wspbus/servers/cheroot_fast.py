"""Faster replacements of what cheroot has in Python: its files, and how a response is sent."""

from __future__ import annotations

import io
import select
import socket

from cheroot.makefile import MakeFile

from paste_wspbus.bus.interrupts import threads_are_greenlets
from paste_wspbus.servers.cheroot_heads import UsualHeads
from paste_wspbus.servers.faster_queue import Queue

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from cheroot.workers.threadpool import ThreadPool

#: Bytes. A longer first chunk is not copied to join it to the head of its response.
LONGEST_JOINED = 32768

#: Whether the system has poll(2): Windows has not.
_CAN_WAIT = hasattr(select, 'poll')


class TimeLimit:
    """The seconds that a client has for each read and each write of its connection.

    A socket with a time limit of its own makes Python call poll(2) before each recv(2) and
    send(2): each time the thread lets go of the interpreter, and waits for it again. So the
    socket does not wait, and only where nothing is there, or no room, this does.

    :param sock: the connection. It loses its own time limit.
    """

    def __init__(self, sock: socket.socket) -> None:
        self._sock, self._seconds = sock, sock.gettimeout()
        if _CAN_WAIT and not threads_are_greenlets():
            sock.setblocking(False)

    def wait(self, event: int) -> None:
        """Wait until the socket can be read (POLLIN) or written (POLLOUT).

        :raises TimeoutError: if that takes too long; with the text that cheroot knows.
        """
        seconds = self._seconds
        if seconds != 0:
            poll = select.poll()  # select(2) takes no descriptor above 1023
            poll.register(self._sock, event)
            if poll.poll(None if seconds is None else seconds * 1000):
                return
        raise TimeoutError('timed out')


class Raw(socket.SocketIO):
    """Reads a socket; while ``is_quiet``, it reads nothing, as if nothing had come."""

    is_quiet = False

    def __init__(self, sock: socket.socket, limit: TimeLimit) -> None:
        super().__init__(sock, 'r')
        self._limit = limit

    def readinto(self, buffer: Any) -> int | None:
        """Read what is there; if nothing is, wait for it."""
        if self.is_quiet:
            return None
        while (count := super().readinto(buffer)) is None:
            self._limit.wait(select.POLLIN)
        return count


class Reader(io.BufferedReader):
    """Takes the place of cheroot's StreamReader, which reads each line byte by byte in Python."""

    raw: Any

    def __init__(self, raw: socket.SocketIO, size: int) -> None:
        super().__init__(raw, size)
        #: cheroot's statistics show it.
        self.bytes_read = 0

    def read(self, size: int | None = -1, /) -> bytes:
        """Read ``size`` bytes, fewer at the end, or all."""
        found = super().read(size)
        self.bytes_read += len(found)
        return found

    def has_data(self) -> bool:
        """Return whether the buffer has bytes that were read from the socket."""
        self.raw.is_quiet = True
        try:
            return bool(self.peek(1))
        finally:
            self.raw.is_quiet = False


class Writer(io.BufferedIOBase):
    """Takes the place of cheroot's StreamWriter: the head and the first chunk leave in one send(2)."""

    def __init__(self, sock: socket.socket, limit: TimeLimit) -> None:
        self._sock = sock  # `servers.cutting` finds by it the client that does not read
        self._limit, self._held = limit, b''
        #: Whether the next bytes wait for those that are written after them, or for
        #: flush().
        self.holds = False
        #: cheroot's statistics show it.
        self.bytes_written = 0

    def writable(self) -> bool:
        """Return True."""
        return True

    def write(self, data: Any, /) -> int:
        """Send all of ``data``: bytes.

        :raises OSError: if the client has gone, or does not read within its time limit.
        """
        if not isinstance(data, bytes):
            data = bytes(data)
        self.bytes_written += len(data)
        if self.holds:
            self.holds, self._held = False, self._held + data
            return len(data)
        self._send_all(data)
        return len(data)

    def flush(self) -> None:
        """Send what is held."""
        self.holds = False
        if self._held:
            self.write(b'')

    def _send_all(self, data: bytes) -> None:
        if self._held:
            held, self._held = self._held, b''
            if len(data) > LONGEST_JOINED:
                self._send_all(held)
            else:
                data = held + data
        rest: Any = data
        while rest:
            try:
                sent = self._sock.send(rest)
            except BlockingIOError:
                self._limit.wait(select.POLLOUT)
                continue
            # Each send(2) has the whole time limit: sendall() would have it for all.
            rest = memoryview(rest)[sent:] if sent < len(rest) else b''

    def close(self) -> None:
        """Drop what is held; the connection closes its socket."""
        self._held = b''


def faster(makefile: Any) -> Any:
    """Return what makes `Reader` and `Writer` in the place of cheroot's files without TLS."""
    return Files().make if makefile is MakeFile else makefile


class Files:
    """Makes the two files of one connection; they share its `TimeLimit`.

    :param raw: makes what the reader reads.
    """

    def __init__(self, raw: Callable[[socket.socket, TimeLimit], Any] = Raw) -> None:
        self._raw = raw
        self._limit: TimeLimit | None = None

    def make(self, sock: socket.socket, mode: str, size: int) -> Any:
        """Return a `Reader` or a `Writer`; cheroot's MakeFile has the same parameters."""
        limit = self._limit = self._limit or TimeLimit(sock)
        if 'r' in mode:
            return Reader(self._raw(sock, limit), size)
        return Writer(sock, limit)


class OneSend(UsualHeads):
    """A request whose head waits for the first chunk, or for the end."""

    def send_headers(self) -> None:
        """Write the head."""
        self.conn.wfile.holds = True
        super().send_headers()

    def respond(self) -> None:
        """Answer the request."""
        try:
            super().respond()
        finally:
            self.conn.wfile.flush()


def take_faster_queue(pool: ThreadPool) -> None:
    """Give cheroot's threads a `Queue`, if the .ini does not bound theirs (accepted_queue_size)."""
    # It is fast because of Python's own locks, which gevent and eventlet replace.
    if not threads_are_greenlets() and pool._queue.maxsize <= 0:
        pool._queue = waiting = Queue()
        pool.get = waiting.get
