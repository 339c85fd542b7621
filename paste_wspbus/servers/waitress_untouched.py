"""The channels of waitress in a worker: those on which no request has begun are marked."""

from __future__ import annotations

import contextlib

from waitress.channel import HTTPChannel
from waitress.task import WSGITask

from paste_wspbus.servers.untouched import came_in_at, consumed

TYPE_CHECKING = False
if TYPE_CHECKING:
    import socket
    from typing import Any

    from paste_wspbus.servers.server import Server
    from paste_wspbus.servers.untouched import Untouched


def marking(base: type[Any], untouched: Untouched) -> type[Any]:
    """Return a class of channels that are marked as `Untouched` says."""
    task = type('MarkingTask', (_Task, base.task_class), {})
    more = {'untouched': untouched, 'task_class': task}
    return type('MarkingChannel', (_Channel, base), more)


class _Task(WSGITask):  # type: ignore[misc]
    def service(self) -> None:
        super().service()
        if not self.close_on_finish:
            self.channel.has_answered()


class _Channel(HTTPChannel):  # type: ignore[misc]
    """A channel that is marked when it is made, and when a response has left.

    Then its request does not leave `requests` yet: until that, the loop does not read.
    """

    untouched: Untouched
    #: The number of bytes that were read.
    total = 0

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if self._fileno is not None:
            self.untouched.add(self._fileno)

    def recv(self, size: int) -> bytes:
        slot, fd = None, self._fileno
        if fd is not None and self.request is None and not self.requests:
            slot = self.untouched.reads(fd, self.total)
        elif fd is not None:
            self.untouched.remove(fd)
        if slot is None:
            data: bytes = super().recv(size)
        else:
            data = self._recv_into(slot[:size]) or super().recv(size)
        self.total += len(data)
        return data

    def _recv_into(self, slot: memoryview) -> bytes:
        """Read into a slot; if that fails, or at the end, return b''."""
        try:
            return bytes(slot[: self.socket.recv_into(slot)])
        except OSError:
            return b''

    def service(self) -> None:
        if self._fileno is not None:
            self.untouched.remove(self._fileno)
        super().service()

    def has_answered(self) -> None:
        """Mark the channel, if all that was read of it is answered."""
        # The loop may not be done with what it has read; another thread may close.
        with self.requests_lock, self.outbuf_lock:
            is_read = len(self.requests) == 1 and self.request is None
            is_sent = self.connected and not self.total_outbufs_len
            if is_read and is_sent and not self.adj.channel_request_lookahead:
                self.untouched.add(self._fileno)

    def handle_close(self) -> None:
        with self.outbuf_lock:
            if self._fileno is not None:
                self.untouched.remove(self._fileno)
            super().handle_close()

    def is_given(self, read: bytes) -> None:
        """Serve a connection that another worker has had, and what it has read of it."""
        # Of another socket, or if the client has closed it, nobody will ask for it.
        with contextlib.suppress(OSError):
            self.total = consumed(self.socket)
        if read:
            self.untouched.remove(self._fileno)
            self.received(read)


def accept(
    server: Server, connection: socket.socket, read: bytes, servers: list[Any]
) -> bool:
    """Make a channel for a connection, as if it had just been accepted; the loop calls this.

    :param read: what was read of it, and not answered.
    :param servers: those of waitress.
    :returns: False if this is not possible, for example because the client has gone.
    """
    try:
        listening = came_in_at(connection, [one.socket for one in servers])
        accepted = connection, connection.getpeername()
        connection.setblocking(False)
    except OSError:  # its client has gone; or this is late, and it is closed
        return False
    found = [one for one in servers if one.socket is listening]
    if not found or server.draining:
        return False
    (accepting,) = found
    own, accepting.accept = accepting.accept, lambda: accepted
    try:
        accepting.handle_accept()
    finally:
        accepting.accept = own
    channel = accepting.active_channels.get(connection.fileno())
    if channel is not None:
        channel.is_given(read)
    return True
