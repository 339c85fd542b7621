"""A process that forks workers: it has composed the site, or imported its packages."""

from __future__ import annotations

import gc
import os
import selectors
import signal
import socket
from collections import deque

from paste_wspbus.errors import TooManyProcesses
from paste_wspbus.process.supervised_report import SupervisedReport
from paste_wspbus.report import Report
from paste_wspbus.role import Role
from paste_wspbus.streams import flush_streams
from paste_wspbus.unix.holding import hold
from paste_wspbus.watching.loop import Events
from paste_wspbus.wire.lines import read_order
from paste_wspbus.workers.orders import watch_for_the_end

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

#: The bytes and descriptors of one recvmsg(2): a few orders, each with a descriptor.
MAX_BYTES, MAX_FDS = 4096, 64

#: Signals that a process which forks others ignores. It ends only when the supervisor
#: orders it: no other process can report how its workers ended.
_IGNORED = (signal.SIGTERM, signal.SIGINT, signal.SIGCHLD)


class Forker:
    """Forks a worker for each order of the supervisor.

    :param reopen_logs: opens the log files anew: later workers inherit them.
    :param import_all: imports modules; it raises Spoiled.
    """

    def __init__(
        self,
        connection: socket.socket,
        report: SupervisedReport,
        reopen_logs: Callable[[], object],
        import_all: Callable[[list[str]], object] | None = None,
    ) -> None:
        self.connection, self.report = connection, report
        self._reopen_logs, self._import_all = reopen_logs, import_all
        self.events = Events()
        self._buffer = b''
        self._fds: deque[int] = deque()
        self._orders: deque[tuple[int, Role, int, int]] = deque()
        self._children: dict[int, int] = {}
        self._is_to_leave = False

    def run(self) -> tuple[socket.socket, Role, int] | None:
        """Fork workers until the supervisor has ended, or does not need this process any more.

        :returns: None at the end; but in each worker, its connection, its role, and the
            descriptor of its scoreboard.
        """
        # The workers share the present objects: a garbage collection would write to them.
        gc.freeze()
        previous: dict[int, Any] = {
            number: signal.signal(number, lambda *_: None) for number in _IGNORED
        }
        watch_for_the_end(self.connection, None)
        self.events.woken = self._reap
        self.events.selector.register(self.connection, selectors.EVENT_READ, self._hear)
        self.report.ready()
        try:
            with self.events:
                return self._run()
        finally:
            self.events.close()
            for number, handler in previous.items():
                # None stands for a handler that was not installed from Python: it is lost.
                signal.signal(number, signal.SIG_DFL if handler is None else handler)

    def _run(self) -> tuple[socket.socket, Role, int] | None:
        while not self._is_to_leave:
            while self._orders:
                token, role, fd, board = self._orders.popleft()
                connection = socket.socket(fileno=fd)
                connection.settimeout(None)  # the site may have set a default timeout
                if self._fork(token, role, connection):
                    return connection, role, board
                connection.close()
                os.close(board)
            self.events.step()
        return None

    def _fork(self, token: int, role: Role, connection: socket.socket) -> bool:
        """Fork a worker; return whether this process is the worker."""
        flush_streams()
        pid = -1
        hold(True)  # until the child has its own handlers
        try:
            pid = os.fork()
        except OSError as error:
            is_limit = isinstance(error, BlockingIOError)
            why = TooManyProcesses() if is_limit else error.strerror
            line = f'{role.title} cannot be started: {why}'
            Report(os.dup(connection.fileno())).failed(1, line)
            self.report.ended(token, 1)
            return False
        finally:
            if pid:
                hold(False)
        if not pid:
            for _, _, *fds in self._orders:
                for fd in fds:
                    os.close(fd)
            return True
        self._children[pid] = token
        self.report.forked(token, pid)
        return False

    def _hear(self) -> None:
        try:
            came, fds, _, _ = socket.recv_fds(self.connection, MAX_BYTES, MAX_FDS)
        except OSError:
            came, fds = b'', []
        self._fds.extend(fds)
        *lines, self._buffer = (self._buffer + came).split(b'\n')
        for line in lines:
            self._understand(*read_order(line))
        if not came:
            self._is_to_leave = True

    def _understand(self, word: str, carried: list[Any]) -> None:
        if word == 'fork':
            token, role = carried
            fd, board = self._fds.popleft(), self._fds.popleft()
            os.set_inheritable(fd, False)
            os.set_inheritable(board, False)
            self._orders.append((token, Role(*role), fd, board))
        elif word == 'reopen_logs':
            self._reopen_logs()
        elif word == 'import':
            self._import(*carried)
        elif word in ('make_way', 'stop', 'release'):
            self._is_to_leave = True

    def _import(self, names: list[str]) -> None:
        from paste_wspbus.workers.packages import Spoiled

        assert self._import_all is not None
        gc.disable()
        try:
            self._import_all(names)
        except Spoiled as spoiled:
            self.report.imported(spoiled.name, spoiled.why)
        else:
            self.report.imported()
        gc.freeze()
        gc.enable()

    def _reap(self) -> None:
        # Do not use waitpid(-1): the site may have other children.
        for pid, token in list(self._children.items()):
            try:
                ended, status = os.waitpid(pid, os.WNOHANG)
            except ChildProcessError:  # a thread of the site has reaped it
                ended, status = pid, None
            if ended:
                del self._children[pid]
                code = None if status is None else os.waitstatus_to_exitcode(status)
                dumped = status is not None and os.WCOREDUMP(status)
                self.report.ended(token, code, dumped)
