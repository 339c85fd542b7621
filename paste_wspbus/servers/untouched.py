"""The connections of a worker on which no request has begun: another worker can take them."""

from __future__ import annotations

import contextlib
import errno
import itertools
import mmap
import os
import socket

TYPE_CHECKING = False
if TYPE_CHECKING:
    import io
    from collections.abc import Iterable
    from typing import Any

#: The number of workers, and of descriptors of each, that have room here. Connections of
#: others are lost with their worker.
WORKERS, DESCRIPTORS = 256, 1024

#: The size of a number in bytes.
_NUMBER = 8


class Marks:
    """A number for each descriptor of each worker, in memory that all of them share.

    The number is 0 for a descriptor that nobody may take. Any other number marks the
    connection of a client: everything that the client has sent since the last whole
    response still waits in the system. No such number is used twice.

    The supervisor makes it, and its children inherit it. If the system does not give the
    memory (RLIMIT_AS), there is no room for anybody.
    """

    def __init__(self) -> None:
        self._numbers = memoryview(b'').cast('Q')
        with contextlib.suppress(OSError):
            memory = mmap.mmap(-1, WORKERS * DESCRIPTORS * _NUMBER)
            self._numbers = memoryview(memory).cast('Q')

    def of(self, place: int) -> Untouched | None:
        """Return what sets the marks of a worker; None if it has no room here.

        :param place: that of the worker; 0 stands for none.
        """
        return Untouched(self._numbers_of(place)) if self._has_room(place) else None

    def _has_room(self, place: int) -> bool:
        return 0 < place <= WORKERS and len(self._numbers) > 0

    def _numbers_of(self, place: int) -> memoryview:
        return self._numbers[(place - 1) * DESCRIPTORS : place * DESCRIPTORS]

    def clear(self, place: int) -> None:
        """Remove the marks of a worker: another one gets its place."""
        if self._has_room(place):
            zeros = memoryview(bytes(DESCRIPTORS * _NUMBER)).cast('Q')
            self._numbers_of(place)[:] = zeros

    def read(self, place: int) -> dict[int, int]:
        """Return the descriptors of a worker that are marked, and the numbers."""
        numbers = self._numbers_of(place) if self._has_room(place) else ()
        return {fd: number for fd, number in enumerate(numbers) if number}


class Untouched:
    """Marks the connections of this worker.

    Why no request is served twice, and no part of one is taken for a request. What a server
    reads first of a connection, it only looks at (MSG_PEEK): the bytes stay in the system.
    Before a request begins or an error is answered, and before anything more is read, the
    mark is removed, and then these bytes are received. A mark is set when the response has
    left, before anything can look at the connection again. Only the marks of a process that
    has ended count, so none of them changes any more.

    Connections are named by their descriptors.
    """

    def __init__(self, numbers: memoryview) -> None:
        #: The marks, by descriptor; and the function that returns the next number.
        self.numbers, self.next = numbers, itertools.count(1).__next__

    def add(self, fd: int) -> None:
        """Mark a connection: it is new, or all that was received of it is answered."""
        if 0 <= fd < DESCRIPTORS:
            self.numbers[fd] = self.next()

    def remove(self, fd: int) -> None:
        """Remove the mark of a connection."""
        if 0 <= fd < DESCRIPTORS:
            self.numbers[fd] = 0


class Reader(socket.SocketIO):
    """Reads a connection for a thread of a server; the first time, it only looks."""

    def __init__(self, sock: socket.socket, untouched: Untouched) -> None:
        super().__init__(sock, 'r')
        self._socket, self._fd, self._untouched = sock, sock.fileno(), untouched
        #: Whether nothing was read since the last response.
        self.is_first = True
        #: While this is set, it reads nothing, as if nothing had come.
        self.is_quiet = False
        #: What was read, and still waits in the system.
        self._seen = b''

    def readinto(self, buffer: Any) -> int | None:
        """Read from the socket.

        :raises ConnectionError: see `receive`.
        """
        if self.is_quiet:
            return None
        if not self.is_first:
            self.receive()
            return super().readinto(buffer)
        try:
            count = self._socket.recv_into(buffer, 0, socket.MSG_PEEK)
        except BlockingIOError:
            return None
        if count:
            self.is_first, self._seen = False, bytes(buffer[:count])
        return count

    def receive(self) -> None:
        """Receive what was only looked at, if there is something: its request begins.

        :raises ConnectionError: if something else comes, such as urgent data.
        """
        self._untouched.remove(self._fd)
        seen, self._seen = self._seen, b''
        if not seen:
            return
        try:
            comes = self._socket.recv(len(seen))
        except OSError:
            comes = b''
        if comes != seen:
            raise ConnectionResetError(errno.ECONNRESET, os.strerror(errno.ECONNRESET))

    def has_answered(self, file: io.BufferedReader) -> None:
        """Mark the connection again after a response, unless more was received of it.

        :param file: reads this, and may have more of it than one request.
        """
        self.is_quiet = True
        try:
            if file.peek(1):
                return
        finally:
            self.is_quiet = False
        self.is_first = True
        self._untouched.add(self._fd)


def came_in_at(
    connection: socket.socket, listening: Iterable[socket.socket]
) -> socket.socket | None:
    """Return the one of the listening sockets at which a connection came in.

    :returns: None if it came in at none of them.
    :raises OSError: if it is no socket.
    """
    name, found = connection.getsockname(), None
    for one in listening:
        own = one.getsockname()
        if connection.family != one.family:
            continue
        if own == name:
            return one
        if isinstance(own, tuple) and own[0] in ('0.0.0.0', '::') and own[1] == name[1]:
            found = one
    return found


def take(server: Any, fd: int) -> None:
    """Let a server serve a connection of another worker; if it cannot, close the connection."""
    connection = socket.socket(fileno=fd)
    try:
        if getattr(server, 'take', None) is not None:
            server.take(connection)
    except OSError:  # the client has gone
        pass
    finally:
        connection.close()  # this does nothing if the server owns it


def own(connection: socket.socket) -> socket.socket:
    """Take a connection away from the thread that offers it: that thread may close it meanwhile.

    :returns: another object; the given one is closed from here on.
    :raises OSError: if that thread has closed it.
    """
    fd = connection.detach()
    if fd < 0:
        raise OSError(errno.EBADF, os.strerror(errno.EBADF))
    taken = socket.socket(fileno=fd)
    # The descriptor may be non-blocking in the system.
    taken.settimeout(taken.gettimeout())
    return taken
