"""The connections of a killed worker whose requests have not begun: another worker gets them.

A worker whose request holds the GIL reads nothing more. The supervisor takes its connections
by pidfd_getfd(2), which needs no help from the worker.
"""

from __future__ import annotations

import contextlib
import errno
import os
import select
import socket
import struct

from paste_wspbus.forks import close_in_child
from paste_wspbus.servers.untouched import came_in_at

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from paste_wspbus.workers.handle import WorkerHandle
    from paste_wspbus.workers.supervisor import Supervisor

#: The number of pidfd_getfd(2) on all systems but alpha: the standard library lacks it.
_PIDFD_GETFD = 438

#: The number of descriptors that the supervisor keeps free while it has connections of a
#: worker: it starts other processes meanwhile.
KEPT = 64

#: struct linger: close(2) does not wait, whatever the worker has set.
_NO_LINGER = struct.pack('ii', 0, 0)


class _Taken:
    """The connections of a process that is killed.

    :raises OSError: if there is no such process, or the kernel is too old.
    """

    def __init__(self, pid: int) -> None:
        self.process = os.pidfd_open(pid)
        #: Each connection, with its descriptor in the process and its mark.
        self.connections: list[tuple[socket.socket, int, int]] = []
        # A forked child closes its copies: else the client would not notice when the
        # next process closes the connection.
        close_in_child(self, _Taken.close)

    def has_ended(self) -> bool:
        """Whether the process and all its threads have ended, as the system says.

        A report can be wrong: a process that another one has forked may have closed its
        connection to the supervisor, and live.
        """
        poll = select.poll()
        poll.register(self.process, select.POLLIN)
        return bool(poll.poll(0))

    def close(self) -> None:
        """Close all descriptors."""
        process, self.process = self.process, -1
        if process >= 0:
            os.close(process)
        while self.connections:
            _close(self.connections.pop()[0])


class HandingOn:
    """Takes the connections of a worker that is about to be killed, and gives them to another.

    It takes only connections on which no request has begun: the worker marks them
    (`Untouched`). The worker may wake up before it is killed, and begin one. So a
    connection is passed on only if it had its mark when it was taken, and still has it
    when the worker has ended.
    """

    def __init__(self, supervisor: Supervisor) -> None:
        self._supervisor = supervisor
        self._taken: dict[WorkerHandle, _Taken] = {}
        supervisor.leaving.killed.append(self.take)
        supervisor.bus.subscribe('worker_died', self.pass_on)

    def take(self, worker: WorkerHandle) -> None:
        """Take the connections of a worker, just before it is killed.

        If the system does not allow that, they are lost, as after a crash.
        """
        server = self._supervisor.server
        marks = self._supervisor.children.board.marks.read(worker.role.place)
        if server is None or not marks or not worker.pid:
            return
        listening = [one.sock for one in server.sockets]
        # OSError, AttributeError: the kernel is too old, or another user may not trace the
        # process, or no descriptor is free.
        with contextlib.suppress(OSError, AttributeError, ImportError):
            taken = self._taken[worker] = _Taken(worker.pid)
            get = _descriptors_of(taken.process)
            for fd, mark in marks.items():
                connection = _connection(get(fd), listening)
                if connection is not None:
                    taken.connections.append((connection, fd, mark))

    def pass_on(self, name: str, pid: int, code: int | None) -> None:
        """Give the connections of a process that has ended to a worker that serves."""
        for worker in [one for one in self._taken if one.pid == pid]:
            taken = self._taken.pop(worker)
            try:
                new = self._successor(worker)
                if new is not None and taken.has_ended():
                    self._give(worker, taken, new)
            finally:
                taken.close()

    def _give(self, worker: WorkerHandle, taken: _Taken, new: WorkerHandle) -> None:
        marks, count = self._supervisor.children.board.marks.read(worker.role.place), 0
        while taken.connections:
            connection, fd, mark = taken.connections.pop()
            if marks.get(fd) == mark:
                own = connection.fileno()
                new.tell('take', os.fstat(own).st_ino, fds=[own])
                count += 1
            # The order that waits for the worker has a copy of the descriptor.
            _close(connection)
        if count:
            noun = 'connection' if count == 1 else 'connections'
            self._supervisor.bus.log(
                f'{new.title} takes {count} {noun} of {worker.title} on which no request '
                'had begun'
            )

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
    _close(connection)
    return None


def _close(connection: socket.socket) -> None:
    with contextlib.suppress(OSError):
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _NO_LINGER)
    connection.close()


def _descriptors_of(process: int) -> Callable[[int], int | None]:
    """Return a function that copies a descriptor of another process.

    It returns None if the process has closed it. It raises OSError if the system does not
    allow it, or too few descriptors are free.

    :param process: the descriptor of the process: pidfd_open(2).
    """
    import ctypes  # a supervisor rarely needs them
    import resource

    syscall = ctypes.CDLL(None, use_errno=True).syscall
    limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)

    def get(fd: int) -> int | None:
        found: int = syscall(_PIDFD_GETFD, process, fd, 0)
        number = ctypes.get_errno()
        if found >= 0 and found + KEPT > limit >= 0:
            os.close(found)
            found, number = -1, errno.EMFILE
        if found >= 0:
            return found
        if number == errno.EBADF:
            return None
        raise OSError(number, os.strerror(number))

    return get
