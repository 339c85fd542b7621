"""The supervisor: it holds the listening sockets, and starts and replaces the workers."""

from __future__ import annotations

import contextlib
import functools
import os
import signal

from paste_wspbus.bus import EX_SOFTWARE, Bus, ChannelFailures, State
from paste_wspbus.bus.deadlines import stacks
from paste_wspbus.bus.host import note_reason
from paste_wspbus.exits import INTERRUPTED, TERMINATED
from paste_wspbus.plugins.log_files import path_of_log
from paste_wspbus.plugins.signals import SignalHandler
from paste_wspbus.role import (
    BESIDE_SITE,
    CLUSTER,
    OPS,
    PRELOAD,
    SITE,
    WITHOUT_BUS,
    WORKER,
    Role,
)
from paste_wspbus.unix.processes import how, out_of_memory_kills
from paste_wspbus.watching.loop import Events, Repeat
from paste_wspbus.workers.children import (
    Children,
    WorkerFailed,
    exit_code,
    site_code,
)
from paste_wspbus.workers.crashes import Crashes
from paste_wspbus.workers.describing import describe, in_brief
from paste_wspbus.workers.draining import Draining
from paste_wspbus.workers.exchange import Exchange
from paste_wspbus.workers.failures import Failures
from paste_wspbus.workers.faults import Faults
from paste_wspbus.workers.handing_on import HandingOn
from paste_wspbus.workers.handle import Stage, WorkerHandle
from paste_wspbus.workers.history import History
from paste_wspbus.workers.inquiries import Inquiries
from paste_wspbus.workers.leaving import Leaving
from paste_wspbus.workers.liveness import Liveness
from paste_wspbus.workers.recycling import Recycling
from paste_wspbus.workers.renewals import Renewals
from paste_wspbus.workers.replacing import Replacing
from paste_wspbus.workers.reports import Reports
from paste_wspbus.workers.resizing import Resizing
from paste_wspbus.workers.scoreboard_watch import ScoreboardWatch
from paste_wspbus.workers.slow_starts import SlowStarts
from paste_wspbus.workers.soaking import Soak
from paste_wspbus.workers.stacks import Stacks
from paste_wspbus.workers.successors import Successors
from paste_wspbus.workers.threads import describe_all, log_all
from paste_wspbus.workers.waiting import StopRequested, Waiting

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from paste_wspbus.control.server import Connection
    from paste_wspbus.servers.server import Server
    from paste_wspbus.workers.clustered import Clustered
    from paste_wspbus.workers.ops_feed import OpsFeed
    from paste_wspbus.workers.plan import Configuration, Plan
    from paste_wspbus.workers.strategy import Source, Strategy
    from paste_wspbus.workers.threads import Answer

#: The meanings of signals that the supervisor handles itself; others go to the workers.
_OWN = frozenset(
    {
        *('exit', 'stop', 'hangup', 'restart', 'graceful', 'stacks'),
        *('add_worker', 'remove_worker'),
    }
)

#: Signals that have a meaning only for a supervisor of several workers.
SIGNALS = {'SIGTTIN': 'add_worker', 'SIGTTOU': 'remove_worker'}


class SupervisorBus(Bus):
    """The supervisor's own bus: a process of one thread, which sleeps in select."""

    interrupts_class = staticmethod(lambda **_: contextlib.nullcontext())

    def __init__(self) -> None:
        super().__init__()
        self.events = Events()
        self.faults = Faults(self)
        self.events.failed = self.faults.note
        self.turn.commands = self.events  # type: ignore[assignment]
        self.supervisor: Supervisor

    def repeat(self, name: str, seconds: float, function: Callable[[], bool]) -> Repeat:
        """Call a function again and again in the loop: plugins need no thread for this."""
        return Repeat(self.events, seconds, function)

    @property
    def start_patience(self) -> float:
        """Seconds that the first start may take on a machine with one CPU."""
        plan = self.supervisor.plan
        steps = plan.workers + plan.preload + plan.site_plugins
        return plan.start_timeout * max(steps, 1)

    @property
    def reload_patience(self) -> float:
        """Seconds that a graceful restart may take: a worker starts, an old one stops, …"""
        plan, processes = self.supervisor.plan, self.supervisor.count + 2
        return (plan.start_timeout + plan.stop_timeout) * processes + plan.soak

    def graceful(self) -> None:
        """Queue a graceful restart, even during another one: the code may have changed."""
        if not self.supervisor.renewals.is_asked_for:
            self.turn.put('graceful')
            self.turn.run_if_nobody_will()

    def restart(self) -> None:
        """Restart the workers, but not this process."""
        self.graceful()

    def force_exit(self, why: str) -> None:
        """Order all processes to end at once, kill the others, and exit with code 70."""
        killed = self.supervisor.children.force()
        names = ', '.join(f'{child.name} (process {child.pid})' for child in killed)
        super().force_exit(f'{why}; killed {names}' if killed else why)


class SupervisorSignals(SignalHandler):
    """Handles the signals of a supervisor, whose workers run the code of the site."""

    wishes = dict.fromkeys(SignalHandler.wishes, 'a graceful restart')

    #: The first signal that has asked for a stop.
    first: int | None = None

    def _count(self, signum: int) -> int:
        self.first = self.first or signum
        return super()._count(signum)

    def _install_or_leave(self, name: str) -> bool:
        self._install(name)  # also signals for the site: the workers get them
        return True

    def ask_for_graceful(self) -> None:
        """Queue a graceful restart; during a graceful restart, exactly one more."""
        self.bus.graceful()

    def look(self) -> None:
        """Do nothing: no code of the site runs here."""

    def show_stacks(self, name: str) -> None:
        """Log the stacks of this process, and order the workers to show theirs.

        The loop does both, also during a start or a graceful restart: a process that
        forks must not have threads.
        """
        bus = self.bus
        assert isinstance(bus, SupervisorBus)
        text = f'Stacks of process {os.getpid()}:\n{stacks()}'
        bus.events.call_later(0, lambda: bus.log(text, 30))
        bus.events.call_later(0, lambda: bus.supervisor.forward(name, 'stacks'))


class Supervisor:
    """Forks the workers, replaces those that end, and stops them.

    ``current`` has one process for each name ('worker 1', 'site plugins', …).
    ``children.alive`` has all processes, also those that drain.

    :param server: holds the listening sockets, and never serves.
    :param configure: reads the configuration anew.
    :param make_strategy: makes the strategy for starts and graceful restarts.
    :param make_children: makes what forks the processes and reads their reports.
    """

    #: What keeps the process of the ops listener running; None if there is none.
    ops: OpsFeed | None = None

    def __init__(
        self,
        bus: SupervisorBus,
        plan: Plan,
        server: Server | None,
        configure: Callable[[], Configuration],
        make_strategy: Callable[[Supervisor], Strategy],
        make_children: Callable[..., Children] = Children,
    ) -> None:
        self.bus, self.events, self.configure = bus, bus.events, configure
        self.count = max(plan.workers, 1)
        self._code, self._had_processes = 0, False
        #: The generation that serves, and the one that was tried last.
        self.generation = self.latest = 1
        self.current: dict[str, WorkerHandle] = {}
        self.successors = Successors(self)
        self.children = make_children(
            bus.events, self._listeners(), self._has_ended, self.successors.replace
        )
        self.waiting, self.failures = Waiting(bus), Failures(self)
        self.leaving = Leaving(bus, self.children, plan, server)
        self.inquiries = Inquiries(bus.events, self.children)
        self.history = History(bus.events, self.children)
        self.draining = Draining(bus, self.children)
        self.stacks, self.reports = Stacks(bus.events), Reports(self)
        self.handing_on = HandingOn(self)
        self.exchange = Exchange(bus.events, self.children, bus.log)
        self.renewals, self.crashes = Renewals(self), Crashes(self.reports.crashed)
        self.replacing, self.soak = Replacing(self), Soak(self)
        self.resizing = Resizing(self)
        self.recycling, self.liveness = Recycling(self), Liveness(self)
        self.request_watch, self.slow_starts = ScoreboardWatch(self), SlowStarts(self)
        self.strategy = make_strategy(self)
        #: What this site does in its cluster; None if it belongs to none.
        self.cluster: Clustered | None = None
        #: The processes that died during the start: they are replaced after it.
        self.late: list[WorkerHandle] = []
        self.use(plan, server)
        bus.supervisor = self

    def use(self, plan: Plan, server: Server | None) -> None:
        """Use a configuration from now on: a new one, or the old one again."""
        self.plan = self.leaving.plan = plan
        self.server = self.leaving.server = server
        # The workers have deadlines of their own; this one counts if they ignore theirs.
        self.bus.stop_timeout = plan.deadline
        self.request_watch.use(plan.limits)
        if server is not None:
            server.share(self.children.board)
        self.recycling.adjust()
        self.liveness.adjust()

    def subscribe(self, signals: SignalHandler) -> None:
        """Subscribe to the bus; signals that have a meaning for the site go to the workers."""
        self.bus.subscribe('start', self.start)
        self.bus.subscribe('stop', self.stop)
        self.bus.subscribe('graceful', self.renewals.renew)
        self.bus.subscribe('add_worker', self.resizing.add_worker)
        self.bus.subscribe('remove_worker', self.resizing.remove_worker)
        for name, target in signals.handlers.items():
            if target not in _OWN:
                forward = functools.partial(self.forward, name, target)
                self.bus.subscribe(name, forward)

    def run(self, ready: Callable[[list[str]], None]) -> int:
        """Run the supervisor's bus to its end.

        :param ready: is called with the first worker's lines for the terminal when
            all workers are READY.
        :returns: the exit code.
        :raises WorkerFailed: if the first generation does not become READY.
        :raises BecomeWorker: in each child.
        """
        try:
            return self._run(ready)
        finally:
            if self.bus.pid == os.getpid():  # a child has closed it already
                self.events.close()

    def _run(self, ready: Callable[[list[str]], None]) -> int:
        bus = self.bus
        with bus.events:
            try:
                bus.start()
            except ChannelFailures as failures:
                bus.exit()
                raise failures.get_instances()[0] from None
            # A signal may come while this thread is printing. With 0, its handler only
            # queues the command, and block() carries it out.
            bus.turn.keep_for(0)
            if bus.state is State.STARTED:
                bus.events.about_to_sleep()  # who reads these lines may ask at once
                first = self.current.get('worker 1') or self.current.get('site')
                ready(first.lines if first else [])
                self.replacing.catch_up()
            bus.faults.block()
            bus.turn.keep_for(None)
            bus.exit()
        return bus.exit_code or (0 if self._had_processes else _code_of_signal(bus))

    def close_in_child(self) -> None:
        """Close, in a forked child, what belongs to the parent."""
        self.strategy.close_in_child()

    # -- what the bus says ----------------------------------------------------

    def start(self) -> None:
        """Start the first generation, and wait until it is ready.

        :raises WorkerFailed: if a process does not become READY; then all are stopped.
        """
        self.children.watch()
        if self.ops is not None:
            self.ops.start()
        try:
            self.strategy.start()
        except StopRequested:
            pass
        except WorkerFailed:
            self.stop()
            raise

    def stop(self) -> None:
        """Order all processes to stop, and wait for their end."""
        self.leaving.stop_all()
        self.bus.exit_code = self.bus.exit_code or self._code

    def forward(self, name: str, target: object) -> None:
        """Pass a signal on to the workers that are READY, and SIGQUIT to all processes."""
        for child in self.children.alive:
            if target == 'stacks':
                child.signal(signal.Signals[name])
            elif child.role.kind in WITHOUT_BUS:
                if target == 'reopen_logs':  # the workers that it forks write there
                    child.tell('reopen_logs')
            elif child.is_ready:
                child.signal(signal.Signals[name])
            else:
                child.waiting.append(name)

    # -- starting -----------------------------------------------------------------

    def roles(self, generation: int) -> list[Role]:
        """List the roles of the workers of a generation."""
        if not self.plan.workers:
            return [Role(generation=generation)]
        numbers = range(1, self.count + 1)
        return [Role(WORKER, number, generation) for number in numbers]

    def singles(self) -> list[str]:
        """List the kinds of single processes that the site needs now: preload, site plugins, …"""
        wanted = {PRELOAD: self.plan.preload, SITE: self.plan.site_plugins}
        if self.cluster is not None:
            wanted[CLUSTER] = bool(self.plan.cluster_plugins) and self.cluster.holds
        return [kind for kind, is_wanted in wanted.items() if is_wanted]

    def spawn(self, role: Role, source: Source | None = None) -> WorkerHandle:
        """Start a process.

        :param source: how to start it; with None, the strategy decides.
        :raises WorkerFailed: if the system has no more processes or descriptors.
        :raises BecomeWorker: in the child.
        """
        template, fresh = source or self.strategy.source(role)
        role = role._replace(
            later=self.was_started,
            several=self.count > 1,
            time_to_stop=self.plan.time_to_stop(is_last=role.kind != WORKER),
            drained=self.bus.drained,
        )
        spawn = self.children.spawn
        if role.kind == CLUSTER and self.cluster is not None:
            spawn = self.cluster.spawn
        worker = spawn(role, template, self.plan.start_timeout, fresh)
        worker.kills_before = out_of_memory_kills()
        self.slow_starts.watch(worker)
        self.bus.publish('worker_started', worker.name, worker.pid)
        return worker

    def go(self, worker: WorkerHandle) -> None:
        """Order a waiting process to continue; its time to become READY begins again."""
        waits = worker.stage in (Stage.SPARE, Stage.COMPOSED)
        worker.goes(self.plan.start_timeout)
        self.slow_starts.watch(worker)
        # If it does not wait yet, it gets the order when it does. A second order would
        # stay unread, and hide the end of the supervisor from the process.
        if waits:
            worker.tell('go')

    # -- what the children say ----------------------------------------------------

    def _listeners(self) -> dict[str, Callable[[WorkerHandle, dict[str, Any]], object]]:
        return {
            # Its preload process may report it later.
            'pid': lambda worker, said: worker.is_process(said['pid']),
            'ready': self._is_ready,
            'composed': self._is_composed,
            'failed': self._has_failed,
            'cut': lambda _, said: self.renewals.add_cut(said['cut'], said['others']),
            'health': lambda worker, said: worker.reports_health(said['health']),
            'renew': self._asks_for_renewal,
            'leave': self._asks_to_leave,
            'succeed': self.successors.is_asked_for,
        }

    def _is_ready(self, worker: WorkerHandle, message: dict[str, Any]) -> None:
        if worker.stage is Stage.READY:
            return
        worker.is_now_ready(message['ready'])
        if worker.role.kind in BESIDE_SITE:
            return
        self.bus.log(f'{worker.title} is ready')
        self.bus.publish('worker_ready', worker.name, worker.pid)
        while worker.waiting:
            worker.signal(signal.Signals[worker.waiting.pop(0)])
        if worker.leaving:
            self.leaving.ask_again(worker)
        elif worker.role.kind == WORKER:
            self.recycling.is_ready(worker)
            if not self.soak.covers(worker):
                self.take_place(worker)
        elif self.current.get(worker.name) is worker:
            for role in self.roles(self.generation):  # some may have waited for it
                self.replacing.respawn(role)

    def take_place(self, worker: WorkerHandle) -> None:
        """Let a worker take the place of the old one, which drains and stops."""
        old = self.current.get(worker.name)
        self.current[worker.name] = worker
        if old is not None and old is not worker:
            self.leaving.let_go(old)

    def _is_composed(self, worker: WorkerHandle, message: dict[str, Any]) -> None:
        if worker.was_ready:
            return
        worker.waits()
        if not worker.role.hold:
            worker.tell('go')

    def _has_failed(self, worker: WorkerHandle, message: dict[str, Any]) -> None:
        if message['line']:
            worker.problem = worker.problem or (message['failed'], message['line'])

    def _asks_for_renewal(self, worker: WorkerHandle, message: dict[str, Any]) -> None:
        self.bus.asked_by = f'code of the site, in {worker.name}'
        self.bus.graceful()

    def _asks_to_leave(self, worker: WorkerHandle, message: dict[str, Any]) -> None:
        if worker.leaving:
            self.leaving.ask_again(worker)
        elif not self.soak.fails(worker, 'has asked for a stop of the site'):
            note_reason(self.bus, f'{worker.title} has asked for it')
            self.bus.exit()

    def _has_ended(self, worker: WorkerHandle) -> None:
        run, self._had_processes = self.events.run, True
        run(self.inquiries.no_need_to_wait_for, worker)
        run(self.history.has_ended, worker)
        run(self.exchange.forget, worker)
        if worker.role.kind == OPS:
            if self.ops is not None:
                self.ops.has_ended(worker)
            return
        self._note_code(worker)
        run(self.bus.publish, 'worker_died', worker.name, worker.pid, worker.code)
        if worker.leaving and worker.code in (EX_SOFTWARE, -signal.SIGKILL):
            note = f'{worker.title} did not stop in time: see {self.log_name}'
            self.renewals.notes.append(note)
        if worker.role.kind == CLUSTER and self.cluster is not None:
            self.cluster.has_ended(worker)
        elif self.bus.state is State.STARTED:
            self.strategy.has_ended(worker)
        elif self.bus.state is State.STARTING and worker.was_ready:
            self.late.append(worker)  # its last reports, also READY, are not read yet
        elif self.bus.state is State.STARTING:
            self.crashes.note_early(worker)

    def _note_code(self, worker: WorkerHandle) -> None:
        """Keep the exit code of a process that ends while the site stops."""
        counts = worker.role.kind not in BESIDE_SITE and (
            worker.role.kind != PRELOAD or not self.was_started
        )
        if not (self.is_stopping and counts):
            return
        if self.was_started and not worker.was_ready:
            return
        if (worker.code or 0) < 0 and not worker.killed:
            end = f'{worker.title} crashed while it stopped, {how(worker.code)}'
            self.bus.log(end, 40)
            self.reports.crashed(worker)
        # The supervisor or `force_exit` has ended this process by force.
        forced = worker.code is None or worker.code == -signal.SIGKILL
        code = EX_SOFTWARE if forced else _code_at_stop(self.bus, worker)
        self._code = self._code or code

    def leave_with(self, code: int) -> None:
        """Stop the site with an exit code, without replacing the process that ended."""
        self.bus.exit_code = self._code = code
        self.bus.exit()

    # -- status -------------------------------------------------------------------

    def serving(self, generation: int | None = None) -> list[WorkerHandle]:
        """List the workers that serve, of one generation or of all."""
        return [
            worker
            for worker in self.current.values()
            if worker.is_ready
            and worker.role.kind == WORKER
            and generation in (None, worker.role.generation)
        ]

    @property
    def pids(self) -> list[int]:
        """The workers' process IDs."""
        names = (role.name for role in self.roles(self.generation))
        return [self.current[name].pid for name in names if name in self.current]

    @property
    def was_started(self) -> bool:
        """Whether the site has been STARTED."""
        return self.bus.was_started

    @property
    def log_name(self) -> str:
        """How a message names the log: by the path of its file, if that is known."""
        path = path_of_log(self.bus)
        return f'the log in {path}' if path else 'the log'

    @property
    def is_renewing(self) -> bool:
        """Whether a graceful restart is in progress."""
        return self.bus.command == 'graceful'

    @property
    def is_stopping(self) -> bool:
        """Whether all processes must stop."""
        return self.leaving.is_stopping

    def ask_for_renewal(self, connection: Connection) -> dict[str, Any] | None:
        """Queue a graceful restart for the control socket's 'graceful'."""
        return self.renewals.ask(connection)

    def inquire(
        self, connection: Connection | None, answer: Callable[[], object]
    ) -> None:
        """Call ``answer`` when all workers have reported their status, or are late."""
        self.inquiries.inquire(connection, answer)

    def describe(self) -> dict[str, Any]:
        """Return what `status` shows of the generations, and all requests in flight."""
        return describe(self)

    def log_stacks(self) -> None:
        """Log the stacks of all processes, also of those that hold the GIL."""
        self.bus.log(f'Stacks of process {os.getpid()}:\n{stacks()}', 30)
        log_all(self)

    def describe_stacks(self, answer: Answer) -> None:
        """Call ``answer`` with what returns the stacks of all processes, as `stacks` shows them."""
        describe_all(self, answer)

    def in_brief(self) -> list[str]:
        """Return what systemd shows of the workers: only what is unusual."""
        return in_brief(self)


def _code_at_stop(bus: SupervisorBus, worker: WorkerHandle) -> int:
    """Return the exit code that the ordered stop of a process gives to the site.

    A process that is not READY gets SIGTERM, even if Ctrl-C has asked for the stop.
    """
    if worker.leaving and not worker.was_ready and exit_code(worker.code) == TERMINATED:
        return _code_of_signal(bus) or TERMINATED
    return site_code(worker)


def _code_of_signal(bus: SupervisorBus) -> int:
    """Return the exit code of a site that a signal stops before its start; 0 without one.

    The signal may come before there is a process whose own code says it.
    """
    first = getattr(bus.plugins.get('signals'), 'first', None)
    if first == signal.SIGTERM:
        return TERMINATED
    return INTERRUPTED if first == signal.SIGINT else 0
