"""The supervisor's part in a cluster: its agent, and the process of the cluster plugins."""

from __future__ import annotations

import contextlib
import functools
import json
import os
import secrets
import selectors
import signal
import socket
import traceback

from paste_wspbus.bus import State
from paste_wspbus.cluster.agent import run_agent
from paste_wspbus.cluster.claim import Held
from paste_wspbus.cluster.engine import Member
from paste_wspbus.cluster.lines import Lines
from paste_wspbus.forks import close_in_child
from paste_wspbus.role import CLUSTER, Role
from paste_wspbus.unix.holding import hold
from paste_wspbus.unix.kernel_timer import boot_clock
from paste_wspbus.unix.titles import set_title
from paste_wspbus.workers.children import BecomeWorker, WorkerFailed
from paste_wspbus.workers.cluster_mail import ClusterMail
from paste_wspbus.workers.cluster_rest import Rest
from paste_wspbus.workers.cluster_shown import Shown
from paste_wspbus.workers.cluster_status import ClusterStatus
from paste_wspbus.workers.guard import ASKS, close_others, end_of, stand_guard
from paste_wspbus.workers.rolls import Operators, Turn
from paste_wspbus.workers.waiting import StopRequested, how_it_crashed

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from paste_wspbus.cluster.engine import Engine
    from paste_wspbus.cluster.settings import Settings
    from paste_wspbus.workers.handle import WorkerHandle
    from paste_wspbus.workers.supervisor import Supervisor

#: The priorities of this part: it starts before all processes, and stops after them.
FIRST, LAST = 40, 60

#: Seconds that the agent has to release the lease when the site stops; and the part of
#: ``stop_timeout`` that this is at most.
PATIENCE, PATIENCE_SHARE = 2.0, 1 / 10


#: Seconds before another agent follows one that has ended: the first time, and at most.
PAUSE, LONGEST = 1.0, 60.0

#: Seconds that a start with ``require`` waits for the engine.
REQUIRED = 10.0


class Clustered:
    """Holds the lease of the cluster plugins for this site, and runs them meanwhile.

    The agent, a process of its own, talks to the engine: this process never waits for it.
    The supervisor runs no code of the site, so nothing delays what it sends to the guard.

    :param settings: what [cluster:main] says.
    :param make: makes the engine, in the agent.
    :param ini: the .ini, for the titles of the agent and the guards.
    :param began: when this process began (time.time()).
    """

    def __init__(
        self,
        supervisor: Supervisor,
        settings: Settings,
        make: Callable[[], Engine],
        ini: str = '',
        began: float = 0.0,
    ) -> None:
        self.supervisor, self.settings, self._make = supervisor, settings, make
        self._ini = ini
        self.bus, self.events = supervisor.bus, supervisor.events
        machine = settings.machine
        self.member = Member(f'{machine}-{secrets.token_hex(4)}', machine)
        #: The lease that this site holds; None if it holds none.
        self.held: Held | None = None
        #: The agent's last report on the engine; {} before the first one.
        self.engine: dict[str, Any] = {}
        #: The number of its reports on the engine.
        self.words = 0
        #: What the other members see of this one.
        self.shown = Shown(self, began)
        self.status = ClusterStatus(self)
        #: The messages to and from the other machines.
        self.mail = ClusterMail(supervisor)
        self.mail.rolled = self.status.has_seen_roll
        self.turn = Turn(supervisor, self.mail, settings.ttl)
        self.operators = Operators(supervisor, self.mail)
        self._connection: socket.socket | None = None
        self._agent, self._pause = 0, PAUSE
        self._lines: Lines | None = None
        #: The next guard's end of its connection, until it is forked; our ends of all.
        self._its: socket.socket | None = None
        self._guards: dict[WorkerHandle, socket.socket] = {}
        self._wants = False
        #: The agent's log lines, while the start waits for the engine; else None.
        self._held_back: list[tuple[int, str]] | None = None
        #: Whether the process of the plugins starts at the next renewal.
        self._waits = False
        self.rest = Rest(supervisor, self.adjust)
        self._heard: dict[str, Callable[..., object]] = {
            'held': self._is_held,
            'lost': self._is_lost,
            'engine': self._learns_of_engine,
            'looked': self.status.has_looked,
            'note': self._notes,
        }
        self.bus.subscribe('start', self.start, priority=FIRST)
        self.bus.subscribe('start', self._starts_soon, priority=float('inf'))
        self.bus.subscribe('stop', self.stop, priority=LAST)
        close_in_child(self, Clustered.close)

    # -- the agent ----------------------------------------------------------------------

    def start(self) -> None:
        """Start the agent; with ``require``, wait until the engine has answered.

        :raises WorkerFailed: if it does not answer.
        """
        self._held_back = [] if self.settings.require else None
        self._start_agent()
        if self._held_back is None:
            return
        until = boot_clock() + REQUIRED
        timer = self.events.call_later(REQUIRED, lambda: None)
        waits = self.supervisor.waiting
        try:
            waits.until(lambda: bool(self.engine) or boot_clock() >= until)
        except StopRequested:
            return
        finally:
            self.events.cancel(timer)
        if self.engine.get('away', True):
            why = self.engine.get('away') or f'no answer within {REQUIRED:g} s'
            what = f'[cluster:main] require = true: {self.settings.shown}: {why}'
            raise WorkerFailed(1, what)
        notes, self._held_back = self._held_back, None
        for level, text in notes:
            self._notes(level, text)

    def _notes(self, level: int, text: str) -> None:
        if self._held_back is None:
            self.bus.log(text, level)
        else:  # if the start fails, its one line has the reason
            self._held_back.append((level, text))

    def _starts_soon(self) -> None:
        self.events.call_later(0, self.adjust)  # the bus is STARTED then

    def _start_agent(self) -> None:
        mine, its = socket.socketpair()
        letters = self.mail.connect()
        hold(True)
        pid = -1
        try:
            pid = os.fork()
        finally:
            if pid:
                hold(False)
        if not pid:
            self._become_agent(its, letters)
        its.close()
        letters.close()
        mine.setblocking(False)
        self._agent, self._connection, self._lines = pid, mine, Lines(mine)
        self.events.selector.register(mine, selectors.EVENT_READ, self._read)
        self._say('wants', self._wants)
        self.shown.forget()

    def _become_agent(self, connection: socket.socket, letters: socket.socket) -> None:
        """Be the agent, and end."""
        try:
            signal.set_wakeup_fd(-1)
            # A signal to the whole process group is meant for the supervisor.
            for number in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}:
                if number != signal.SIGCONT:
                    signal.pthread_sigmask(signal.SIG_BLOCK, [number])
            close_others({0, 1, 2, connection.fileno(), letters.fileno()})
            set_title('cluster agent', self._ini)
            ends = connection, letters
            run_agent(self.settings, self.member, self._make, *ends, self.held)
        except BaseException:
            with contextlib.suppress(Exception):
                os.write(2, traceback.format_exc().encode())
        finally:
            os._exit(1)

    def _say(self, *words: object) -> None:
        """Send a line to the agent; if the agent does not read, it is lost, and the lease ends."""
        if self._connection is not None:
            with contextlib.suppress(OSError):
                self._connection.send(json.dumps(words).encode() + b'\n')

    def _read(self) -> None:
        lines = self._lines
        assert lines is not None
        for word, *carried in lines.read():
            self._heard[word](*carried)
        if lines.has_ended:
            self._close()
            if not self.supervisor.is_stopping:
                self.bus.log('The process that talks to the cluster has ended', 40)
                self.events.call_later(self._pause, self._start_again)
                self._pause = min(self._pause * 2, LONGEST)
                self.words += 1
            self.status.has_ended()

    def _start_again(self) -> None:
        if self._connection is None and not self.supervisor.is_stopping:
            self._start_agent()

    def _close(self) -> None:
        if self._connection is not None:
            self.events.selector.unregister(self._connection)
            self._connection.close()
            self._connection = None
            self.mail.close()

    def record(self, facts: dict[str, Any]) -> None:
        """Let the other members know something of this site.

        :param facts: what JSON can hold; it replaces what was recorded before.
        """
        self._say('record', facts)

    @property
    def is_connected(self) -> bool:
        """Whether there is an agent."""
        return self._connection is not None

    def look(self, machines: bool) -> None:
        """Let the agent look at the engine: `ClusterStatus.has_looked` gets the answer.

        :param machines: whether it looks at all machines.
        """
        self._say('look', machines)

    def adjust(self) -> None:
        """Ask for the lease if the site serves and has cluster plugins; otherwise release it."""
        serves = self.bus.state is State.STARTED and not self.bus.leaving
        wants = serves and bool(self.supervisor.plan.cluster_plugins)
        wants = wants and self.rest.until is None
        if wants != self._wants:
            self._wants = wants
            self._say('wants', wants)
            if wants and not self.rest.is_told:
                self.bus.log(
                    'The cluster plugins start here if this site gets their lease'
                )
        if not wants:
            self._free()

    def stop(self) -> None:
        """Release the lease, and end the agent: all other processes have ended."""
        self.adjust()
        self._say('bye')
        limit = self.supervisor.plan.stop_timeout * PATIENCE_SHARE
        until = boot_clock() + min(PATIENCE, limit)
        while self._connection is not None and (remaining := until - boot_clock()) > 0:
            self.events.step(remaining)
        if self._connection is not None:
            os.kill(self._agent, signal.SIGKILL)
            self._close()

    def close(self) -> None:
        """Close all connections, in a forked child of the supervisor."""
        for connection in (self._connection, *self._guards.values()):
            if connection is not None:
                connection.close()
        self.mail.disown()

    # -- the lease ------------------------------------------------------------------------

    @property
    def holds(self) -> bool:
        """Whether this site may start the cluster plugins: the lease does not end soon."""
        held, ttl = self.held, self.settings.ttl
        return held is not None and boot_clock() < end_of(held, ttl) - ttl * ASKS

    def starts_later(self) -> None:
        """Start the process of the plugins at the next renewal: the lease ends too soon now."""
        self._waits = True

    def has_lost(self, worker: WorkerHandle | None) -> bool:
        """Whether a new process has failed because it lacked a lease: its code is not at fault."""
        return worker is None or not self.holds or worker.code == -signal.SIGKILL

    def _is_held(self, fence: int, until: float) -> None:
        is_new = self.held is None or self.held.fence != fence
        self.held = Held(fence, until)
        line = f'{end_of(self.held, self.settings.ttl)!r}\n'.encode()
        for worker, words in self._guards.items():
            if worker.role.fence == fence:
                with contextlib.suppress(OSError):
                    words.send(line)
        self._say('heard', fence, until)
        if not self._wants:
            self._free()
        elif is_new or self._waits:
            self._waits = False
            if is_new and not self.rest.is_told:
                self.bus.log(f'The cluster plugins run here now (fence {fence})')
            self.supervisor.replacing.respawn(self._role())

    def _is_lost(self, fence: int) -> None:
        if self.held is None or self.held.fence != fence:
            return
        self.held, self._waits = None, False
        running = self._processes()
        for worker in running:
            worker.killed = True
            worker.signal(signal.SIGKILL)
        if running:
            self.bus.log(
                f'The lease of the cluster plugins is lost (fence {fence}): their process '
                'is killed',
                40,
            )

    def _free(self) -> None:
        """Release the lease as soon as no process needs it any more."""
        if self.held is not None and not self._processes():
            self._say('free', self.held.fence)
            self.held = None

    def rests(self, wait: float) -> None:
        """Release the lease for a wait of a crash loop: another machine may have more luck.

        :param wait: seconds.
        """
        if self.rest.begin(wait):
            self.supervisor.current.pop(CLUSTER, None)

    def _learns_of_engine(self, facts: dict[str, Any]) -> None:
        self.engine, self.words, self._pause = facts, self.words + 1, PAUSE

    def _role(self) -> Role:
        return Role(CLUSTER, generation=self.supervisor.generation)

    def _processes(self) -> list[WorkerHandle]:
        return self.supervisor.children.of_kind(CLUSTER)

    # -- the process of the cluster plugins -------------------------------------------------

    def spawn(
        self, role: Role, template: object, limit: float, fresh: bool = False
    ) -> WorkerHandle:
        """Start a process with a guard, which the supervisor itself must fork.

        The arguments are those of `Children.spawn`; so are the errors.
        """
        held = self.held
        if held is None or not self.holds:
            raise WorkerFailed(1, f'{role.title} has no lease')
        try:
            mine, self._its = socket.socketpair()
        except OSError as error:
            raise WorkerFailed(1, f'{role.title} cannot be started: {error}') from None
        try:
            role = role._replace(fence=held.fence)
            worker = self.supervisor.children.spawn(role, None, limit, fresh)
        except BecomeWorker:
            mine.close()
            raise
        except BaseException:
            mine.close()
            self._its.close()
            raise
        self._its.close()
        mine.setblocking(False)
        worker.is_guarded()
        self._guards[worker] = mine
        return worker

    def stand_guard(self) -> int:
        """In a process that `spawn` has forked: fork the job, and return in it alone.

        :returns: the descriptor of the lease.
        """
        assert self._its is not None and self.held is not None
        set_title('guard of the cluster plugins', self._ini)
        return stand_guard(self._its, self.held, self.settings.ttl)

    def has_ended(self, worker: WorkerHandle) -> None:
        """React to the end of a process of the cluster plugins."""
        supervisor, bus = self.supervisor, self.bus
        if (words := self._guards.pop(worker, None)) is not None:
            words.close()
        worker.kill_group()
        self.adjust()
        if not self._wants:
            return
        if supervisor.current.get(worker.name) is not worker:
            # A new process that was not needed, or has failed: its starter logs why.
            return
        if not self.holds:
            self.starts_later()
            del supervisor.current[worker.name]  # it has not crashed
            bus.log(
                f'{worker.title} has ended: the lease could not be renewed in time', 30
            )
        elif supervisor.is_renewing and worker.leaving:
            return  # the graceful restart starts the next one
        elif not worker.too_slow and (worker.leaving or worker.code == 0):
            respawn = functools.partial(supervisor.replacing.respawn, self._role())
            self.events.call_later(0, respawn)
        else:
            self._has_crashed(worker)

    def _has_crashed(self, worker: WorkerHandle) -> None:
        supervisor = self.supervisor
        what = how_it_crashed(worker, supervisor.crashes.note(worker))
        if not supervisor.strategy.replaces:  # under --reload, the next edit starts it
            self.bus.log(what, 40)
            return
        was_killed = worker.was_ready and worker.code == -signal.SIGKILL
        supervisor.replacing.try_again(
            self._role(), what, worker.ready_for, excused=was_killed
        )

    def exchange(self, new: WorkerHandle | None) -> None:
        """After a graceful restart: replace the process, the old one first.

        :param new: one that has composed the new code, and waits; None if there is none.
        """
        supervisor = self.supervisor
        self.rest.end()  # the new code may not crash
        old = supervisor.current.pop(CLUSTER, None)
        if old is not None and not old.ended:
            supervisor.leaving.let_go(old)
            supervisor.waiting.until_ended(old)
        if new is None or new.ended or not self.holds:
            if new is not None:
                supervisor.leaving.let_go(new)
            supervisor.replacing.respawn(self._role())
            return
        supervisor.current[CLUSTER] = new
        supervisor.go(new)
        with contextlib.suppress(WorkerFailed):  # `has_ended` logs it, and tries again
            supervisor.waiting.until_ready([new])
