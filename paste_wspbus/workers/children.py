"""The processes of a supervisor: this forks them, reads their reports, and notes their ends."""

from __future__ import annotations

import contextlib
import errno
import functools
import itertools
import os
import select
import selectors
import signal
import socket
import time

from paste_wspbus.errors import TooManyProcesses, WSPBusError
from paste_wspbus.exits import FAILED, INTERRUPTED, TERMINATED
from paste_wspbus.requests import scoreboard
from paste_wspbus.requests.ledger import Book
from paste_wspbus.role import PRELOAD, WITHOUT_BUS, WORKER, Role
from paste_wspbus.servers.free_threads import Board
from paste_wspbus.streams import flush_streams
from paste_wspbus.unix.holding import hold
from paste_wspbus.unix.processes import parent_of
from paste_wspbus.wire.words import REPORTS, UnknownWord
from paste_wspbus.workers.handle import WorkerHandle

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Any, NoReturn

    from paste_wspbus.watching.loop import Events

    #: It is called with the process that reports, and the message.
    Listener = Callable[[WorkerHandle, dict[str, Any]], object]

#: Seconds between two SIGTERMs to a process that composes. If one comes just before a
#: system call, Python handles it only when that call returns.
AGAIN = 1.0

#: Seconds that a process has to end at once, after it has logged its stacks.
FORCED = 1.0

#: The errors for which a process is not started: the system lacks processes,
#: descriptors or memory.
LACKS = OSError, MemoryError

#: The number of reads, of 8 kB at most, from the connection of a process that has ended.
LAST_READS = 2500


class WorkerFailed(WSPBusError):
    """A process of the site could not be started, was too slow, or ended before it was ready."""

    has_frames = False

    def __init__(self, code: int, line: str) -> None:
        super().__init__(line)
        self.exit_code = code


class BecomeWorker(SystemExit):
    """This is raised in a forked child, to unwind the supervisor's stack.

    It is a SystemExit, because a bus does not catch that.
    """

    def __init__(
        self, connection: socket.socket, role: Role, fresh: bool, board: int
    ) -> None:
        self.connection, self.role, self.board = connection, role, board
        #: Whether the child must become a fresh interpreter.
        self.fresh = fresh


class Children:
    """Forks processes, reads their reports, and notes their ends.

    ``alive`` has all of them, also those that another of them has forked.

    :param heard: from a name in `wire.REPORTS` to the listener, which is called with the
        process and the message.
    :param ended: is called with a process that has ended.
    :param sent_nonsense: is called once with a process that has sent something that
        is not a report, and with the error. All its later reports are ignored.
    """

    def __init__(
        self,
        events: Events,
        heard: Mapping[str, Listener],
        ended: Callable[[WorkerHandle], object],
        sent_nonsense: Callable[[WorkerHandle, Exception], object] = lambda *_: None,
    ) -> None:
        self.events, self._ended, self._sent_nonsense = (
            events,
            ended,
            sent_nonsense,
        )
        self._heard: dict[str, list[Listener]] = {}
        own = {
            'exits': self._is_about_to_end,
            'forked': self._has_forked,
            'ended': self._reports_an_end,
        }
        for word, listener in {**heard, **own}.items():
            self.hear(word, listener)
        self.alive: list[WorkerHandle] = []
        #: The board on which the workers show whether they have a free thread.
        self.board = Board()
        #: The ledger in which they count their requests.
        self.book = Book()
        self._tokens = itertools.count(1)
        #: From the number of an order to fork to the process that another process forks.
        self._ordered: dict[int, WorkerHandle] = {}
        self._previous: Any = signal.SIG_DFL

    def hear(self, word: str, listener: Listener, first: bool = False) -> None:
        """Call a listener with each report of this name, after the earlier listeners.

        :param first: whether it is called before them instead.
        :raises UnknownWord: if `wire.REPORTS` does not have this name.
        """
        if word not in REPORTS:
            raise UnknownWord(word)
        listeners = self._heard.setdefault(word, [])
        listeners.insert(0 if first else len(listeners), listener)

    def watch(self) -> None:
        """Notice from now on when a process ends."""
        self.events.woken = self._reap
        # The signal wakes up `Events.step`.
        self._previous = signal.signal(signal.SIGCHLD, lambda *_: None)

    def of_kind(self, kind: str) -> list[WorkerHandle]:
        """Return the living processes of a kind: such as WORKER or PACKAGES."""
        return [child for child in self.alive if child.role.kind == kind]

    def tell_all(self, word: str) -> None:
        """Send all of them an order."""
        for child in self.alive:
            child.tell(word)

    def force(self) -> list[WorkerHandle]:
        """Order all of them to end at once; return those that had to be killed.

        The loop does not run meanwhile: here, a process has ended when its end of the
        connection is closed. A process that is stopped (SIGSTOP) or composes does not read
        its orders, and is killed.
        """
        poll, remaining = select.poll(), {}
        for child in self.alive:
            if child.role.kind in WITHOUT_BUS:
                child.tell('stop')
            else:
                child.tell('force')
            if not child.silent:
                remaining[child.connection.fileno()] = child
                poll.register(child.connection, 0)  # it reports only the end
        killed = [child for child in self.alive if child.silent]
        until = time.monotonic() + FORCED
        while remaining and (seconds := until - time.monotonic()) > 0:
            for fd, _ in poll.poll(seconds * 1000):
                poll.unregister(fd)
                del remaining[fd]
        killed += remaining.values()
        for child in killed:
            child.signal(signal.SIGKILL)
        return killed

    def press(self, worker: WorkerHandle) -> None:
        """Send SIGTERM again and again to a process that composes."""
        if worker.ended or worker.was_ready:
            return
        self.events.call_later(AGAIN, lambda: self.press(worker))
        worker.signal(signal.SIGTERM)

    # -- starting -------------------------------------------------------------

    def spawn(
        self,
        role: Role,
        template: WorkerHandle | None,
        limit: float,
        fresh: bool = False,
    ) -> WorkerHandle:
        """Start a process.

        :param template: the process that forks it; None stands for the supervisor.
        :param limit: seconds until it should be READY.
        :param fresh: whether it becomes a fresh interpreter after the fork.
        :raises WorkerFailed: if the system has no more processes, descriptors or memory.
        :raises BecomeWorker: in the child.
        """
        try:
            mine, its = socket.socketpair()
        except LACKS as error:
            raise _cannot_start(role, error) from None
        try:
            role, board = self._give_memory(role)
        except LACKS as error:
            mine.close()
            its.close()
            raise _cannot_start(role, error) from None
        mine.setblocking(False)  # the supervisor never waits for a process that hangs
        worker = WorkerHandle(role, mine, template, limit, board)

        def serve() -> None:
            worker.outbox.flush()
            self._hear(worker)

        worker.outbox.waits = functools.partial(self._wait_for_room, worker, serve)
        try:
            if template is not None:
                self._have_forked(worker, template, its)
            else:
                self._fork(worker, its, fresh)
        except LACKS as error:
            worker.close()
            self.board.give_back(role.place)
            raise _cannot_start(role, error) from None
        finally:
            its.close()
        self.alive.append(worker)
        self.events.selector.register(mine, selectors.EVENT_READ, serve)
        worker.outbox.waits(worker.outbox.is_waiting)
        return worker

    def _give_memory(self, role: Role) -> tuple[Role, int]:
        """Return the role with its part of the shared memory, and a new scoreboard.

        :raises OSError: if no descriptor or no memory is free.
        """
        ledger = self.book.open()
        board = scoreboard.make()
        place = self.board.take() if role.kind == WORKER else 0
        self.book.use(place)
        return role._replace(ledger=ledger, place=place), board

    def _wait_for_room(self, worker: WorkerHandle, serve: object, waits: bool) -> None:
        events = selectors.EVENT_READ | (selectors.EVENT_WRITE if waits else 0)
        with contextlib.suppress(KeyError, ValueError):  # the process has ended
            self.events.selector.modify(worker.connection, events, serve)

    def _fork(self, worker: WorkerHandle, its: socket.socket, fresh: bool) -> None:
        flush_streams()
        pid = -1
        hold(True)  # until the child has its own handlers
        try:
            pid = os.fork()
        finally:
            if pid:
                hold(False)
        if pid:
            worker.is_process(pid)
            return
        try:
            self._become(worker, its, fresh)
        except Exception:  # the child must not go on as a second supervisor
            os._exit(1)

    def _become(
        self, worker: WorkerHandle, its: socket.socket, fresh: bool
    ) -> NoReturn:
        """Close, in the child, what belongs to the parent."""
        self.events.requests.clear()  # a queued stop is for the parent
        self.events.close()
        # The callers close the originals.
        connection, board = its.dup(), os.dup(worker.board.fd)
        # The parent sees the end of a process when its connection closes: no other
        # process may keep that open.
        for other in [*self.alive, worker]:
            other.close()
        signal.signal(signal.SIGCHLD, self._previous)
        raise BecomeWorker(connection, worker.role, fresh, board)

    def _have_forked(
        self, worker: WorkerHandle, template: WorkerHandle, its: socket.socket
    ) -> None:
        token = next(self._tokens)
        self._ordered[token] = worker
        fds = [its.fileno(), worker.board.fd]
        template.tell('fork', token, worker.role, fds=fds)

    def composed(self) -> list[WorkerHandle]:
        """Return the preload processes that can fork workers."""
        return [
            child
            for child in self.of_kind(PRELOAD)
            if child.is_ready and not (child.leaving or child.silent)
        ]

    # -- their reports, and their ends ----------------------------------------

    def _hear(self, worker: WorkerHandle) -> None:
        if worker.ended:
            return  # its end was noticed earlier, and its last reports were read then
        if self._read(worker) is not False:
            return
        worker.silent = True
        self._unregister(worker)
        if worker.template is None:
            # If it has ended, SIGCHLD comes soon; else the site has closed the connection.
            self.events.call_later(AGAIN, lambda: self._look_at_silent(worker))
            return
        if worker.template.ended:
            self._has_ended(worker, None)

    def _look_at_silent(self, worker: WorkerHandle) -> None:
        if not worker.is_about_to_end:
            self._has_babbled(worker, EOFError())

    def _unregister(self, worker: WorkerHandle) -> None:
        with contextlib.suppress(KeyError, ValueError):
            self.events.selector.unregister(worker.connection)

    def _read(self, worker: WorkerHandle) -> bool | None:
        """Read once the reports of a process.

        A process runs the site, and may send anything. If it sends something that is not
        a report, the supervisor ignores its later reports; nothing else happens. It does
        the same if a report is lost for want of memory.

        :returns: None if there is nothing to read now; False if the connection is closed.
        """
        try:
            messages = worker.inbox.read()
            if messages is not None and not worker.sends_nonsense:
                for message in messages:
                    self._understand(worker, message)
        except BlockingIOError:
            return None
        except OSError:
            return False
        except Exception as error:  # a listener may have expected other data
            self._has_babbled(worker, error)
            return True
        return messages is not None

    def _understand(self, worker: WorkerHandle, message: dict[str, Any]) -> None:
        for word in message:
            for listener in self._heard.get(word, ()):
                listener(worker, message)

    def _has_babbled(self, worker: WorkerHandle, error: Exception) -> None:
        if not worker.sends_nonsense:
            worker.sends_nonsense = True
            self._report_nonsense(worker, error)

    def _report_nonsense(self, worker: WorkerHandle, error: Exception) -> None:
        worker.nonsense = error  # if this fails, `note_lost` does it
        self._sent_nonsense(worker, error)
        worker.nonsense = None

    def _has_forked(self, template: WorkerHandle, message: dict[str, Any]) -> None:
        worker = self._ordered.get(message['forked'])
        if worker is not None and worker.template is template:
            worker.is_process(message['process'])
            if worker.leaving:
                self.press(worker)

    def _is_about_to_end(self, worker: WorkerHandle, message: dict[str, Any]) -> None:
        worker.code = message['exits']

    def _reports_an_end(self, template: WorkerHandle, message: dict[str, Any]) -> None:
        worker = self._ordered.get(message['ended'])
        if worker is not None and worker.template is template:
            del self._ordered[message['ended']]
            if not worker.ended:
                worker.dumped_core = message['dumped']
                self._has_ended(worker, message['code'])

    def _reap(self) -> None:
        """Reap the children that have ended; process 1 reaps orphans, too."""
        with contextlib.suppress(ChildProcessError):
            while True:
                pid, status = os.waitpid(-1, os.WNOHANG)
                if not pid:
                    return
                for child in self.alive:
                    own = child.guard or child.pid
                    if own == pid and child.template is None:
                        child.dumped_core = os.WCOREDUMP(status)
                        code = os.waitstatus_to_exitcode(status)
                        self.events.run(self._is_reaped, child, code)
                        break

    def _is_reaped(self, child: WorkerHandle, code: int) -> None:
        """Note the end of a child; if that is a guard, wait until its process has ended, too."""
        fd = child.pidfd

        def ends() -> None:
            self.events.selector.unregister(fd)
            self._has_ended(child, code)

        if fd >= 0 and child.guard:
            child.guard = 0  # another process may get its ID now
            self.events.selector.register(fd, selectors.EVENT_READ, ends)
        else:
            self._has_ended(child, code)

    def note_lost(self) -> None:
        """Note the ends that a failure has hidden: the system reports each of them once."""
        self._reap()
        for child in list(self.alive):
            if child.ended:  # some steps that follow an end were not taken
                self.alive.remove(child)
                self._ended(child)
            elif child.nonsense is not None:
                self._report_nonsense(child, child.nonsense)
            elif child.pid and not child.guard and parent_of(child.pid) == 0:
                # There is no such process, not even a zombie.
                self._has_ended(child, None)

    def forget_timers(self, worker: WorkerHandle) -> None:
        """Cancel the calls for a process that has ended, or that has replaced itself."""
        for timer in worker.timers:
            self.events.cancel(timer)
        worker.timers.clear()

    def _has_ended(self, worker: WorkerHandle, code: int | None) -> None:
        """Note the end of a process, after its last reports.

        :param code: its exit code. None if only the process itself may have reported it.
        """
        # Whatever fails here, the end must be known: else nothing takes its place.
        self.events.run(self._unregister, worker)
        self.events.run(self._read_last, worker)
        self.events.run(worker.close)
        worker.has_ended(code)
        self.events.run(self.forget_timers, worker)
        self.events.run(self.book.fold, worker.role.place)
        self.board.give_back(worker.role.place)
        self.alive.remove(worker)
        for child in [child for child in self.alive if child.template is worker]:
            if child.silent:  # only its template could have reported its end
                self._has_ended(child, None)
        self._ended(worker)

    def _read_last(self, worker: WorkerHandle) -> None:
        # There is a limit, because a child of the process may send for ever.
        reads = LAST_READS
        while reads and self._read(worker):
            reads -= 1


def _cannot_start(role: Role, error: OSError | MemoryError) -> WorkerFailed:
    reason = getattr(error, 'strerror', None) or str(error) or os.strerror(errno.ENOMEM)
    if isinstance(error, BlockingIOError):
        reason = str(TooManyProcesses())
    return WorkerFailed(1, f'{role.title} cannot be started: {reason}')


def exit_code(code: int | None) -> int:
    """Convert the number of os.waitstatus_to_exitcode to an exit code, as a shell does."""
    if code is None:
        return 1
    return code if code >= 0 else 128 - code


def site_code(worker: WorkerHandle) -> int:
    """Return the exit code of a site for the end of one of its processes.

    A process without a number is the site: the code is what a shell, or the init of a
    container, reports for it. If there are several, a signal that ended one of them is
    only a failure: 139 would say that wspserve has crashed, and 143 that somebody has
    ordered the site to stop.
    """
    code = exit_code(worker.code)
    is_signal = code in (INTERRUPTED, TERMINATED) or (worker.code or 0) < 0
    return FAILED if is_signal and worker.name != 'site' else code
