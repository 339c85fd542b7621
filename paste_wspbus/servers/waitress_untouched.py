"""The channels of waitress in a worker: those on which no request has begun are marked."""

from __future__ import annotations

import contextlib
import time
from socket import MSG_PEEK

from waitress.channel import HTTPChannel

from paste_wspbus.servers.untouched import DESCRIPTORS, came_in_at, own

TYPE_CHECKING = False
if TYPE_CHECKING:
    import socket
    from collections.abc import Callable
    from typing import Any

    from paste_wspbus.servers.server import Server
    from paste_wspbus.servers.untouched import Untouched


def marking(base: type[Any], untouched: Untouched) -> type[Any]:
    """Return a class of channels that are marked as `Untouched` says."""
    more = {
        'numbers': untouched.numbers,
        'number': untouched.next,
        'task_class': _marking_task(base.task_class, untouched),
        'error_task_class': _beginning_task(base.error_task_class),
    }
    return type('MarkingChannel', (_Channel, base), more)


def _beginning_task(base: type[Any]) -> type[Any]:
    """Return a class of tasks whose request is received before they answer it."""
    service = base.service

    class BeginningTask(base):  # type: ignore[misc]
        def service(self) -> None:
            if self.channel.seen and not self.channel.receive():
                self.close_on_finish = True
                return
            service(self)

    return BeginningTask


def _marking_task(base: type[Any], untouched: Untouched) -> type[Any]:
    """Return the same; its channel is marked again when the response has left."""
    service, numbers, number = base.service, untouched.numbers, untouched.next

    class MarkingTask(base):  # type: ignore[misc]
        def service(self) -> None:
            channel = self.channel
            if channel.seen and not channel.receive():
                self.close_on_finish = True
                return
            service(self)
            if self.close_on_finish or channel.total_outbufs_len:
                return
            # Mark the channel, if all that was received of it is answered. Its request does
            # not leave `requests` before that: until then, the loop does not read. But the
            # loop may not be done with what it has read: then it holds this lock since
            # before the task began. And another thread may close the channel.
            if (
                len(channel.requests) == 1
                and channel.request is None
                and not channel.requests_lock.locked()
            ):
                lock = channel.outbuf_lock
                lock.acquire()
                if (fd := channel.fd) is not None:
                    numbers[fd] = number()
                lock.release()

    return MarkingTask


class _Channel(HTTPChannel):  # type: ignore[misc]
    """A channel that is marked when it is made, and when a response has left."""

    #: See `Untouched`.
    numbers: memoryview
    number: Callable[[], int]
    #: Its descriptor; None when it is closed, or if there is no mark for it.
    fd: int | None = None
    #: What was read, and still waits in the system.
    seen = b''

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        fd = self._fileno
        if fd is not None and fd < DESCRIPTORS:
            self.fd, self.numbers[fd] = fd, self.number()

    def handle_read(self) -> None:
        """Look at what has come (MSG_PEEK), and handle it; receive it if it is no whole request."""
        fd, data = self.fd, b''
        if fd is not None and self.request is None and not self.requests:
            try:
                data = self.socket.recv(self.adj.recv_bytes, MSG_PEEK)
            except OSError:  # waitress finds it again
                data = b''
        if not data:
            if fd is not None:
                self.numbers[fd] = 0
            super().handle_read()
            return
        self.seen = data
        self.last_activity = time.time()
        self.received(data)
        # Without a whole request, the loop would read this again. With one, it does not
        # read, and the thread of the request receives this.
        if not self.requests and self.seen and not self.receive():
            self.handle_close()

    def handle_write(self) -> None:
        """Send what waits; if a response has left by that, mark the channel as a task does."""
        super().handle_write()
        with self.outbuf_lock:
            fd = self.fd
            if fd is not None and self.request is None and self.readable():
                self.numbers[fd] = self.number()

    def receive(self) -> bool:
        """Receive what was only looked at; return whether that was possible."""
        seen, self.seen = self.seen, b''
        # AttributeError, TypeError: another thread has closed the channel.
        try:
            self.numbers[self.fd] = 0  # type: ignore[index]
            return self.socket.recv(len(seen)) == seen  # type: ignore[no-any-return]
        except (AttributeError, OSError, TypeError):
            return False

    def handle_close(self) -> None:
        with self.outbuf_lock:
            if (fd := self.fd) is not None:
                self.numbers[fd] = 0
                if self.seen:  # else the client could lose what was sent last
                    self.receive()
                self.fd = None
            super().handle_close()


def accept(server: Server, connection: socket.socket, servers: list[Any]) -> None:
    """Make a channel for a connection, as if it had just been accepted; the loop calls this.

    :param servers: those of waitress.
    """
    with contextlib.suppress(OSError):  # its client has gone; or this is late
        listening = came_in_at(connection, [one.socket for one in servers])
        found = [one for one in servers if one.socket is listening]
        if not found or server.draining:
            return
        address, (accepting,) = connection.getpeername(), found
        taken = own(connection)
        taken.setblocking(False)
        normal, accepting.accept = accepting.accept, lambda: (taken, address)
        try:
            accepting.handle_accept()
        finally:
            accepting.accept = normal
