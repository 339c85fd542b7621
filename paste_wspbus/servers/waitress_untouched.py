"""The channels of waitress in a worker: those on which no request has begun are marked."""

from __future__ import annotations

import contextlib

from waitress.channel import HTTPChannel
from waitress.task import Task

from paste_wspbus.servers.untouched import ROOM, came_in_at, own, total_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    import socket
    from typing import Any

    from paste_wspbus.servers.server import Server
    from paste_wspbus.servers.untouched import Untouched


def marking(base: type[Any], untouched: Untouched) -> type[Any]:
    """Return a class of channels that are marked as `Untouched` says."""
    more = {
        'untouched': untouched,
        'task_class': type('MarkingTask', (_Task, base.task_class), {}),
        'error_task_class': type(
            'MarkingErrorTask', (_Begun, base.error_task_class), {}
        ),
    }
    return type('MarkingChannel', (_Channel, base), more)


class _Begun(Task):  # type: ignore[misc]
    def service(self) -> None:
        channel = self.channel
        if (fd := channel.fd) is not None:
            channel.untouched.remove(fd)
        super().service()


class _Task(Task):  # type: ignore[misc]
    def service(self) -> None:
        channel = self.channel
        untouched, fd = channel.untouched, channel.fd
        if fd is None:
            super().service()
            return
        untouched.remove(fd)
        super().service()
        if self.close_on_finish or channel.total_outbufs_len:
            return
        # Mark the channel, if all that was read of it is answered. Its request does not
        # leave `requests` before that: until then, the loop does not read. But the loop may
        # not be done with what it has read; and another thread may close the channel.
        channel.requests_lock.acquire()
        channel.outbuf_lock.acquire()
        if len(channel.requests) == 1 and channel.request is None and channel.connected:
            untouched.add(fd)
        channel.outbuf_lock.release()
        channel.requests_lock.release()


class _Channel(HTTPChannel):  # type: ignore[misc]
    """A channel that is marked when it is made, and when a response has left."""

    untouched: Untouched
    #: The number of bytes that were read.
    total = 0
    #: Its descriptor; None when it is closed.
    fd: int | None = None

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.fd = self._fileno
        if self.fd is not None:
            self.untouched.add(self.fd)

    def recv(self, size: int) -> bytes:
        fd = self.fd
        if fd is None:
            return super().recv(size)  # type: ignore[no-any-return]
        if self.request is None and not self.requests:
            slot = self.untouched.reads(fd, self.total)
            if slot is not None and size >= ROOM:
                try:
                    count = self.socket.recv_into(slot)
                except OSError:  # waitress finds it again
                    count = 0
                if count:
                    self.total += count
                    return bytes(slot[:count])
        self.untouched.remove(fd)  # what is read now does not stand in a slot
        data: bytes = super().recv(size)
        self.total += len(data)
        return data

    def handle_close(self) -> None:
        with self.outbuf_lock:
            if self.fd is not None:
                self.untouched.remove(self.fd)
                self.fd = None
            super().handle_close()

    def is_given(self, read: bytes) -> None:
        """Serve a connection that another worker has had, and what it has read of it."""
        self.total = total_of(self.socket)
        if read and self.fd is not None:
            self.untouched.remove(self.fd)
            self.received(read)


def accept(
    server: Server, connection: socket.socket, read: bytes, servers: list[Any]
) -> None:
    """Make a channel for a connection, as if it had just been accepted; the loop calls this.

    :param read: what was read of it, and not answered.
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
        channel = accepting.active_channels.get(taken.fileno())
        if channel is not None:
            channel.is_given(read)
