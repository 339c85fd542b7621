"""What a worker has accepted and not begun when it is killed: another worker gets it.

A worker whose request holds the GIL reads nothing more. The supervisor takes its connections
by pidfd_getfd(2), which needs no help from the worker.
"""

from __future__ import annotations

import binascii
import contextlib
import errno
import os
import socket

from paste_wspbus.role import WORKER
from paste_wspbus.servers.untouched import came_in_at, consumed

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Generator

    from paste_wspbus.workers.handle import WorkerHandle
    from paste_wspbus.workers.supervisor import Supervisor

#: The number of pidfd_getfd(2) on all systems but alpha: the standard library lacks it.
_PIDFD_GETFD = 438


class HandingOn:
    """Takes the connections of a worker that is about to be killed, and gives them to another.

    Only those on which no request has begun: the worker marks them (`Untouched`). It may
    wake up before it is killed. So the marks count that are there when it has ended, and
    only those that were there when the connection was taken.
    """

    def __init__(self, supervisor: Supervisor) -> None:
        self._supervisor = supervisor
        #: From a process to its connections, each with its descriptor there and its mark.
        self._taken: dict[WorkerHandle, list[tuple[socket.socket, int, int]]] = {}
        supervisor.leaving.killed.append(self.take)
        supervisor.bus.subscribe('worker_died', self.pass_on)

    def take(self, worker: WorkerHandle) -> None:
        """Take the connections of a worker, just before it is killed.

        If the system does not allow that, they are lost, as those of a crash are.
        """
        supervisor = self._supervisor
        server, place = supervisor.server, worker.role.place
        if server is None or supervisor.is_stopping or worker.role.kind != WORKER:
            return
        marks = self._supervisor.children.board.marks.read(place)
        if not marks or not worker.pid or worker in self._taken:
            return
        listening = [one.sock for one in server.sockets]
        taken: list[tuple[socket.socket, int, int]] = []
        self._taken[worker] = taken
        with _descriptors_of(worker.pid) as get:
            for fd, mark in marks.items():
                connection = _connection(get(fd), listening)
                if connection is not None:
                    taken.append((connection, fd, mark))

    def pass_on(self, name: str, pid: int, code: int | None) -> None:
        """Give the connections of a process that has ended to a worker that serves."""
        for worker in [one for one in self._taken if one.pid == pid]:
            self._give(worker, self._taken.pop(worker))

    def _give(
        self, worker: WorkerHandle, taken: list[tuple[socket.socket, int, int]]
    ) -> None:
        marks, count = self._supervisor.children.board.marks.read(worker.role.place), 0
        new = self._successor(worker)
        for connection, fd, mark in taken:
            if new is not None and marks.get(fd) == mark:
                read = self._read_of(worker.role.place, connection, fd, mark)
                if read is not None:
                    text = binascii.b2a_base64(read, newline=False).decode()
                    new.tell('take', text, fds=[connection.fileno()])
                    count += 1
            connection.close()
        if count and new is not None:
            noun = 'connection' if count == 1 else 'connections'
            self._supervisor.bus.log(
                f'{new.title} takes {count} {noun} of {worker.title} on which no request '
                'had begun'
            )

    def _read_of(
        self, place: int, connection: socket.socket, fd: int, mark: int
    ) -> bytes | None:
        """Return what was read of a connection and not answered; None if it is not known."""
        if mark % 2 == 0:
            return b''
        try:
            return self._supervisor.children.board.marks.unanswered(
                place, fd, consumed(connection)
            )
        except OSError:  # its client has closed it, or it is no TCP connection
            return None

    def _successor(self, worker: WorkerHandle) -> WorkerHandle | None:
        serving = [
            one
            for one in self._supervisor.serving()
            if one is not worker and not (one.leaving or one.silent)
        ]
        same = [one for one in serving if one.name == worker.name]
        return next(iter(same + serving), None)


def _connection(fd: int | None, listening: list[socket.socket]) -> socket.socket | None:
    """Return the connection of a descriptor, which may be anything; None if it came in elsewhere."""
    if fd is None:
        return None
    try:
        connection = socket.socket(fileno=fd)
    except OSError:  # it is no socket
        os.close(fd)
        return None
    with contextlib.suppress(OSError):
        accepts = connection.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
        if not accepts and came_in_at(connection, listening) is not None:
            return connection
    connection.close()
    return None


@contextlib.contextmanager
def _descriptors_of(pid: int) -> Generator[Callable[[int], int | None]]:
    """Yield a function that copies a descriptor of another process.

    It returns None if the process has closed it. If the system does not allow it, or no
    descriptor is free, that ends the ``with`` block.
    """
    # OSError, AttributeError: the kernel is too old, or another user may not trace it.
    with contextlib.suppress(OSError, AttributeError, ImportError):
        import ctypes  # a supervisor rarely needs it

        syscall = ctypes.CDLL(None, use_errno=True).syscall
        process = os.pidfd_open(pid)

        def get(fd: int) -> int | None:
            found: int = syscall(_PIDFD_GETFD, process, fd, 0)
            if found >= 0:
                return found
            number = ctypes.get_errno()
            if number == errno.EBADF:
                return None
            raise OSError(number, os.strerror(number))

        try:
            yield get
        finally:
            os.close(process)
