"""The connections of a worker on which no request has begun: another worker can take them."""

from __future__ import annotations

import errno
import fcntl
import itertools
import mmap
import os
import socket
import sys
import termios

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any

#: The number of workers, and of descriptors of each, that have room here. Connections of
#: others are lost with their worker.
WORKERS, DESCRIPTORS = 256, 1024

#: The same for requests that are read before they begin; and the bytes of each that have
#: room. It is 32 MB, but memory that nobody touches costs nothing.
READERS, READ, ROOM = 32, 256, 4088

#: The bytes of a number, and of a number with what is read.
_NUMBER = 8
_SLOT = _NUMBER + ROOM

#: An empty slot.
_EMPTY = bytes(_SLOT)

#: The number of bytes that were read of a connection, if it is not known: with it,
#: `Marks.unanswered` knows nothing either.
UNKNOWN = 1 << 62

#: The numbers that have room in a slot.
_WORDS = _SLOT // _NUMBER

#: struct tcp_info, <linux/tcp.h>: tcpi_bytes_received, and a value of tcpi_state.
_BYTES_RECEIVED, _ESTABLISHED = slice(128, 136), 1


class Marks:
    """A number for each descriptor of each worker, in memory that all of them share.

    It is 0, or the descriptor is a connection of a client, and the worker has read nothing
    of it but requests that it has answered. If the number is odd, the worker may have read
    more, once; this stands here, and no request in it has begun. No number comes twice.

    The supervisor makes it, and its children inherit it. If the system does not give the
    memory (RLIMIT_AS), there is no room for anybody.
    """

    def __init__(self) -> None:
        self._numbers = _shared(WORKERS * DESCRIPTORS * _NUMBER).cast('Q')
        self._slots = _shared(READERS * READ * _SLOT)

    def of(self, place: int) -> Untouched | None:
        """Return what sets the marks of a worker; None if it has no room here.

        :param place: that of the worker; 0 stands for none.
        """
        if not self._has_room(place):
            return None
        return Untouched(self._numbers_of(place), self._slots_of(place))

    def _has_room(self, place: int) -> bool:
        return 0 < place <= WORKERS and len(self._numbers) > 0

    def _numbers_of(self, place: int) -> memoryview:
        return self._numbers[(place - 1) * DESCRIPTORS : place * DESCRIPTORS]

    def _slots_of(self, place: int) -> memoryview:
        """Return the slots of a worker; nothing if it has no room here."""
        size = READ * _SLOT
        return self._slots[(place - 1) * size : place * size]

    def clear(self, place: int) -> None:
        """Remove the marks of a worker: another one gets its place."""
        if self._has_room(place):
            zeros = memoryview(bytes(DESCRIPTORS * _NUMBER)).cast('Q')
            self._numbers_of(place)[:] = zeros

    def read(self, place: int) -> dict[int, int]:
        """Return the descriptors of a worker that are marked, and the numbers."""
        numbers = self._numbers_of(place) if self._has_room(place) else ()
        return {fd: number for fd, number in enumerate(numbers) if number}

    def unanswered(self, place: int, fd: int, consumed: int) -> bytes | None:
        """Return what a worker has read of a connection with an odd number, and not answered.

        Urgent data makes the system count wrongly, and a client may send that on purpose. So
        the slot, which was empty, must agree: it ends where its last byte other than 0 is. A
        request that ends with a byte of 0 is lost.

        :param consumed: what `consumed` returns of the connection.
        :returns: None if this cannot be.
        """
        slot = self._slots_of(place)[fd * _SLOT : (fd + 1) * _SLOT]
        length = consumed - int.from_bytes(slot[:_NUMBER], sys.byteorder)
        read = bytes(slot[_NUMBER:]).rstrip(b'\0')
        return read if len(read) == length else None


def _shared(size: int) -> memoryview:
    try:
        return memoryview(mmap.mmap(-1, size))
    except OSError:
        return memoryview(b'')


class Untouched:
    """Marks the connections of this worker.

    Why no request is served twice, and no part of one is taken for a request. A server
    reads into a slot here, or removes the mark before it reads. It removes the mark before
    a request begins or an error is answered, and sets one when the response has left,
    before anything can read again. Only the marks of a process that has ended count, so
    none of them changes any more.

    Why the slot does not say how much was read. The system call of a thread that waits for
    the GIL afterwards has read something, and nobody has noted how much. The system knows
    it (`consumed`).

    Connections are named by their descriptors.
    """

    def __init__(self, numbers: memoryview, slots: memoryview) -> None:
        self._numbers, self._slots = numbers, slots
        self._totals = slots.cast('Q')
        self._next = itertools.count(2, 2).__next__
        #: The part of each slot for what is read, as soon as a descriptor needs it.
        self._parts: dict[int, memoryview | None] = {}

    def add(self, fd: int) -> None:
        """Mark a connection: it is new, or all that was read of it is answered."""
        if 0 <= fd < DESCRIPTORS:
            self._numbers[fd] = self._next()

    def reads(self, fd: int, total: int) -> memoryview | None:
        """Return where to read from a marked connection to, once; None if there is no room.

        :param total: the number of bytes that were read of the connection before.
        """
        try:
            part = self._parts[fd]
        except KeyError:
            part = self._parts[fd] = self._part(fd)
        if part is None:
            self.remove(fd)
            return None
        numbers = self._numbers
        numbers[fd] = 0
        self._slots[fd * _SLOT : (fd + 1) * _SLOT] = _EMPTY
        self._totals[fd * _WORDS] = total
        numbers[fd] = self._next() + 1
        return part

    def _part(self, fd: int) -> memoryview | None:
        if not self._slots or not 0 <= fd < READ:
            return None
        return self._slots[fd * _SLOT + _NUMBER : (fd + 1) * _SLOT]

    def remove(self, fd: int) -> None:
        """Remove the mark of a connection."""
        if 0 <= fd < DESCRIPTORS:
            self._numbers[fd] = 0


class Reader(socket.SocketIO):
    """Reads a connection for a thread of a server; what it reads first, into a slot."""

    def __init__(self, sock: socket.socket, untouched: Untouched) -> None:
        super().__init__(sock, 'r')
        self._fd, self._untouched = sock.fileno(), untouched
        #: The number of bytes that were read of the connection.
        self.total = 0
        #: What another worker has read of it: this comes first.
        self.given = b''
        #: Whether nothing was read since the last response.
        self.is_first = True

    def is_given(self, read: bytes) -> None:
        """Read a connection that another worker has had, and what it has read of it."""
        self.total = total_of(self._sock)  # type: ignore[attr-defined]
        self.given, self.is_first = read, not read
        if read:
            self._untouched.remove(self._fd)

    def readinto(self, buffer: Any) -> int | None:
        """Read from the socket."""
        if self.given:
            length = min(len(buffer), len(self.given))
            buffer[:length], self.given = self.given[:length], self.given[length:]
            return length
        slot = None
        if self.is_first:
            slot = self._untouched.reads(self._fd, self.total)
        else:
            self._untouched.remove(self._fd)
        self.is_first = False
        if slot is None:
            count = super().readinto(buffer)
        else:
            slot = slot[: len(buffer)]
            count = super().readinto(slot)
            if count:
                buffer[:count] = slot[:count]
        self.total += count or 0
        return count


def consumed(connection: socket.socket) -> int:
    """Return how many bytes were read of a TCP connection.

    :raises OSError: if its client has closed it, or does not stop sending; and for other
        sockets.
    """
    received = _received(connection)
    for _ in range(3):
        before = received
        waiting = fcntl.ioctl(connection, termios.FIONREAD, bytes(4))
        received = _received(connection)
        if received == before:  # nothing has come meanwhile
            return received - int.from_bytes(waiting, sys.byteorder)
    raise OSError(errno.EAGAIN, os.strerror(errno.EAGAIN))


def total_of(connection: socket.socket) -> int:
    """Return how many bytes were read of a connection; `UNKNOWN` if the system does not say it."""
    try:
        return consumed(connection)
    except OSError:
        return UNKNOWN


def _received(connection: socket.socket) -> int:
    size = _BYTES_RECEIVED.stop
    info = connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, size)
    if len(info) < size or info[0] != _ESTABLISHED:
        raise OSError(errno.ENOTCONN, os.strerror(errno.ENOTCONN))
    return int.from_bytes(info[_BYTES_RECEIVED], sys.byteorder)


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


def take(server: Any, fd: int, read: bytes) -> None:
    """Let a server serve a connection of another worker; if it cannot, close the connection.

    :param read: what the other worker has read of it, and not answered.
    """
    connection = socket.socket(fileno=fd)
    try:
        if getattr(server, 'take', None) is not None:
            server.take(connection, read)
    except OSError:  # the client has gone
        pass
    finally:
        connection.close()  # this does nothing if the server owns it


def own(connection: socket.socket) -> socket.socket:
    """Take a connection away from the thread that offers it, and that may give it up meanwhile.

    :returns: another object; the given one is closed from here on.
    :raises OSError: if it is given up.
    """
    fd = connection.detach()
    if fd < 0:
        raise OSError(errno.EBADF, os.strerror(errno.EBADF))
    taken = socket.socket(fileno=fd)
    taken.settimeout(taken.gettimeout())  # the system may have it otherwise
    return taken
