"""Faster replacements of what cheroot has in Python: its files and its queue."""

from __future__ import annotations

import io
import queue
import socket
import threading

from cheroot.makefile import MakeFile
from cheroot.server import HTTPRequest

from paste_wspbus.bus.interrupts import threads_are_greenlets
from paste_wspbus.servers.thread_queue import ThreadQueue

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from cheroot.workers.threadpool import ThreadPool

#: Bytes. A longer first chunk is not copied to join it to the head of its response.
LONGEST_JOINED = 32768


class _Raw(socket.SocketIO):
    """Reads a socket; while ``is_quiet``, it reads nothing, as if nothing had come."""

    is_quiet = False

    def readinto(self, buffer: Any) -> int | None:
        return None if self.is_quiet else super().readinto(buffer)


class Reader(io.BufferedReader):
    """Takes the place of cheroot's StreamReader, which reads each line byte by byte in Python."""

    raw: _Raw

    def __init__(self, sock: socket.socket, size: int, raw: Any = None) -> None:
        super().__init__(raw or _Raw(sock, 'r'), size)
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

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock  # `servers.cutting` finds by it the client that does not read
        self._held = b''
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
        send = self._sock.send
        sent = send(data)
        # Each send(2) has the whole time limit: sendall() would have it for all of them.
        rest = memoryview(data)
        while sent < len(data):
            sent += send(rest[sent:])

    def close(self) -> None:
        """Drop what is held; the connection closes its socket."""
        self._held = b''


def files(sock: socket.socket, mode: str, size: int) -> Any:
    """Return a `Reader` or a `Writer`; cheroot's MakeFile has the same parameters."""
    return Reader(sock, size) if 'r' in mode else Writer(sock)


def faster(makefile: Any) -> Any:
    """Return `files` in the place of cheroot's own function for sockets without TLS."""
    return files if makefile is MakeFile else makefile


class OneSend(HTTPRequest):  # type: ignore[misc]
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


class Queue:
    """Takes the place of cheroot's unbounded queue.Queue, which is Python: see `ThreadQueue`."""

    def __init__(self) -> None:
        self._items = ThreadQueue()
        self._own = threading.local()

    def put(self, item: Any, block: bool = True, timeout: float | None = None) -> None:
        """Put something at the end; ``block`` and ``timeout`` are ignored."""
        self._items.put(item)

    def get(self, block: bool = True) -> Any:
        """Return what was put first; wait until there is something.

        :raises queue.Empty: if there is nothing, and ``block`` is false.
        """
        if not block:
            try:
                return self._items.take()
            except IndexError:
                raise queue.Empty from None
        try:
            lock = self._own.lock
        except AttributeError:
            lock = self._own.lock = threading.Lock()
            lock.acquire()
        return self._items.get(lock)

    def qsize(self) -> int:
        """Return how many items wait."""
        return len(self._items)


def take_faster_queue(pool: ThreadPool) -> None:
    """Give cheroot's threads a `Queue`, if the .ini does not bound theirs (accepted_queue_size)."""
    # It is fast because of Python's own locks, which gevent and eventlet replace.
    if not threads_are_greenlets() and pool._queue.maxsize <= 0:
        pool._queue = waiting = Queue()
        pool.get = waiting.get
