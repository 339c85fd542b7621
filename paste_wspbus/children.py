"""The processes that a supervisor forks, directly or not: what they say, how they end."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import selectors
import signal
import socket
import sys
import time

from paste_wspbus.errors import WSPBusError
from paste_wspbus.report import Inbox
from paste_wspbus.worker import PACKAGES, PRELOAD, Role

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Any

    from paste_wspbus.events import Events, Timer

#: Seconds between two SIGTERMs to a process that composes: one that comes in the
#: instant before a system call is seen by Python when that returns.
AGAIN = 1.0


class WorkerFailed(WSPBusError):
    """A process of the site ended before it was ready, was too slow, or could not be had."""

    def __init__(self, code: int, line: str) -> None:
        super().__init__(line)
        self.exit_code = code


class BecomeWorker(SystemExit):
    """Raised in a forked child, to unwind the supervisor's stack.

    A SystemExit, because a bus lets one of those pass.
    """

    def __init__(self, connection: socket.socket, role: Role, fresh: bool) -> None:
        self.connection, self.role = connection, role
        #: Whether it is to be in a fresh interpreter.
        self.fresh = fresh


class Worker:
    """A child process: what it is for, what it said, how it ended.

    ``pid`` is 0 until it is known; ``template`` the process that forked it,
    None: this one. ``code``: os.waitstatus_to_exitcode's number, once it has ended.
    """

    def __init__(
        self,
        role: Role,
        connection: socket.socket,
        template: Worker | None,
        limit: float,
    ) -> None:
        self.role, self.connection, self.template = role, connection, template
        self.pid = 0
        self.inbox = Inbox(connection.fileno())
        self.since = time.monotonic()
        self.until = self.since + limit
        self.ready_since: float | None = None
        self.lines: list[str] = []
        self.composed = False
        #: The signals that it gets when it is ready.
        self.waiting: list[str] = []
        #: Whether it was asked to go.
        self.leaving = False
        #: Whether its end of the connection is closed.
        self.silent = False
        self.ended = False
        #: Calls that are of no use when it has ended.
        self.timers: list[Timer] = []
        #: Whether the supervisor has killed it.
        self.killed = False
        self.code: int | None = None
        #: Why it is not ready: the exit code to leave with, and a line.
        self.problem: tuple[int, str] | None = None
        self.status: dict[str, Any] | None = None

    @property
    def name(self) -> str:
        """Such as 'worker 2'."""
        return self.role.name

    @property
    def was_ready(self) -> bool:
        """Whether it has been READY, ended or not."""
        return self.ready_since is not None

    @property
    def is_ready(self) -> bool:
        """Whether it was READY, and has not ended."""
        return self.was_ready and not self.ended

    @property
    def title(self) -> str:
        """What messages begin with."""
        return f'{self.role.title} (process {self.pid})'

    def was_ready_for(self, seconds: float) -> bool:
        """Whether it has been READY so long."""
        since = self.ready_since
        return since is not None and time.monotonic() - since >= seconds

    def begin_anew(self, limit: float) -> None:
        """The process replaces itself: it is to be ready again in ``limit`` seconds."""
        self.since = time.monotonic()
        self.until = self.since + limit
        self.ready_since = None
        self.composed = self.leaving = False

    def tell(self, message: str, *fds: int) -> None:
        """Send it a line: see `worker.Orders`; go; or fork, with a descriptor."""
        with contextlib.suppress(OSError):
            socket.send_fds(self.connection, [f'{message}\n'.encode()], fds)

    def signal(self, number: int) -> None:
        """Send it a signal, if there is somebody to get it."""
        if self.pid and not self.ended and not self.silent:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def describe(self) -> dict[str, Any]:
        """What `status` tells of it."""
        requests = self.status and self.status['requests']
        if self.role.kind in (PRELOAD, PACKAGES) or self.ended:
            requests = []
        state = 'draining' if self.leaving else 'ready' if self.is_ready else 'starting'
        state = 'spare' if self.role.spare else state
        state = 'crashed' if self.ended else state
        return {
            'name': self.name,
            'number': self.role.number or None,
            'pid': self.pid,
            'state': state,
            'generation': self.role.generation,
            'age': round(time.monotonic() - self.since, 3),
            'requests': requests,
        }


class Children:
    """Forks processes, reads what they say, takes note of their ends.

    ``alive``: all of them, those too that another of them has forked.

    :param heard: for each key of a message, what is called with the process and
        the message.
    :param ended: called with a process that has ended.
    """

    def __init__(
        self,
        events: Events,
        heard: Mapping[str, Callable[[Worker, dict[str, Any]], object]],
        ended: Callable[[Worker], object],
    ) -> None:
        self.events, self._ended = events, ended
        self._heard: dict[str, Callable[[Worker, dict[str, Any]], object]] = {
            **heard,
            'exits': self._is_about_to_end,
            'forked': self._has_forked,
            'ended': self._knows_an_end,
        }
        self.alive: list[Worker] = []
        self._tokens = itertools.count(1)
        #: Those that another process was asked to fork, by the number of the order.
        self._ordered: dict[int, Worker] = {}
        self._previous: Any = signal.SIG_DFL

    def hear(
        self, key: str, listener: Callable[[Worker, dict[str, Any]], object]
    ) -> None:
        """Have messages with a key heard, too."""
        self._heard[key] = listener

    def watch(self) -> None:
        """From now on, take note of ends."""
        self.events.woken = self._reap
        # It wakes up `Events.step`.
        self._previous = signal.signal(signal.SIGCHLD, lambda *_: None)

    def of_kind(self, kind: str) -> list[Worker]:
        """Those that are alive of WORKER, SITE or PRELOAD."""
        return [child for child in self.alive if child.role.kind == kind]

    def tell_all(self, message: str) -> None:
        """Send all a message."""
        for child in self.alive:
            child.tell(message)

    def press(self, worker: Worker) -> None:
        """SIGTERM, again and again: it composes."""
        if worker.ended or worker.ready_since is not None:
            return
        worker.signal(signal.SIGTERM)
        self.events.call_later(AGAIN, lambda: self.press(worker))

    # -- starting -------------------------------------------------------------

    def spawn(
        self, role: Role, template: Worker | None, limit: float, fresh: bool = False
    ) -> Worker:
        """Start a process.

        :param template: the process that is to fork it; None: this one.
        :param limit: seconds until it should be ready.
        :param fresh: whether, forked from this one, it is to be a fresh interpreter.
        :raises WorkerFailed: if the system has none to give.
        :raises BecomeWorker: in the child.
        """
        try:
            mine, its = socket.socketpair()
        except OSError as error:
            raise _not_to_be_had(role, error) from None
        worker = Worker(role, mine, template, limit)
        try:
            if template is not None:
                self._have_forked(worker, template, its)
            else:
                self._fork(worker, its, fresh)
        except OSError as error:
            mine.close()
            raise _not_to_be_had(role, error) from None
        finally:
            its.close()
        self.alive.append(worker)
        self.events.selector.register(
            mine, selectors.EVENT_READ, lambda: self._hear(worker)
        )
        return worker

    def _fork(self, worker: Worker, its: socket.socket, fresh: bool) -> None:
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        worker.pid = os.fork()
        if worker.pid:
            return
        self.events.close()
        connection = its.dup()  # the caller closes the other one
        # Whoever waits for this process's end must not wait for its children's.
        for other in [*self.alive, worker]:
            other.connection.close()
        signal.signal(signal.SIGCHLD, self._previous)
        raise BecomeWorker(connection, worker.role, fresh)

    def _have_forked(
        self, worker: Worker, template: Worker, its: socket.socket
    ) -> None:
        token = next(self._tokens)
        self._ordered[token] = worker
        template.tell(f'fork {token} {json.dumps(worker.role)}', its.fileno())

    def composed(self) -> list[Worker]:
        """The processes that can fork workers."""
        return [
            child
            for child in self.of_kind(PRELOAD)
            if child.is_ready and not (child.leaving or child.silent)
        ]

    # -- what they say, and their ends

    def _hear(self, worker: Worker) -> None:
        if worker.ended:
            return  # its end was noticed first, and all it said was read
        try:
            messages = worker.inbox.read()
        except OSError:
            messages = None
        if messages is not None:
            for message in messages:
                self._understand(worker, message)
            return
        worker.silent = True
        self._unregister(worker)
        if worker.template is None:
            return  # SIGCHLD tells of its death
        if worker.template.ended:
            self._has_ended(worker, None)

    def _unregister(self, worker: Worker) -> None:
        with contextlib.suppress(KeyError, ValueError):
            self.events.selector.unregister(worker.connection)

    def _understand(self, worker: Worker, message: dict[str, Any]) -> None:
        for key, listener in self._heard.items():
            if key in message:
                listener(worker, message)

    def _has_forked(self, template: Worker, message: dict[str, Any]) -> None:
        worker = self._ordered.get(message['forked'])
        if worker is not None:
            worker.pid = message['process']
            if worker.leaving:
                self.press(worker)

    def _is_about_to_end(self, worker: Worker, message: dict[str, Any]) -> None:
        worker.code = message['exits']

    def _knows_an_end(self, template: Worker, message: dict[str, Any]) -> None:
        worker = self._ordered.pop(message['ended'], None)
        if worker is not None and not worker.ended:
            self._has_ended(worker, message['code'])

    def _reap(self) -> None:
        """Take note of children that ended; as process 1, also of orphans."""
        with contextlib.suppress(ChildProcessError):
            while True:
                pid, status = os.waitpid(-1, os.WNOHANG)
                if not pid:
                    return
                for child in self.alive:
                    if child.pid == pid and child.template is None:
                        self._has_ended(child, os.waitstatus_to_exitcode(status))
                        break

    def forget_timers(self, worker: Worker) -> None:
        """Calls that were for a process that has ended, or has begun anew."""
        for timer in worker.timers:
            self.events.cancel(timer)
        worker.timers.clear()

    def _has_ended(self, worker: Worker, code: int | None) -> None:
        """:param code: None: nobody knows, but the process itself perhaps."""
        self._unregister(worker)
        worker.connection.setblocking(False)
        with contextlib.suppress(OSError):  # its last words, or none
            while (messages := worker.inbox.read()) is not None:
                for message in messages:
                    self._understand(worker, message)
        worker.connection.close()
        worker.ended = True
        self.forget_timers(worker)
        worker.code = worker.code if code is None else code
        self.alive.remove(worker)
        for child in [one for one in self.alive if one.template is worker]:
            if child.silent:  # nobody is left to tell how it ended
                self._has_ended(child, None)
        self._ended(worker)


def _not_to_be_had(role: Role, error: OSError) -> WorkerFailed:
    reason = error.strerror or str(error)
    return WorkerFailed(1, f'{role.title} cannot be started: {reason}')


def exit_code(code: int | None) -> int:
    """What a shell says of os.waitstatus_to_exitcode's number."""
    if code is None:
        return 1
    return code if code >= 0 else 128 - code


def how(code: int | None) -> str:
    """The end of a process, in words: os.waitstatus_to_exitcode's number."""
    if code is None:
        return 'nobody knows how'
    if code >= 0:
        return f'exit code {code}'
    try:
        return f'signal {signal.Signals(-code).name}'
    except ValueError:
        return f'signal {-code}'
