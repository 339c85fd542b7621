"""Generations of worker processes under a parent that never lets go of the sockets."""

from __future__ import annotations

import contextlib
import functools
import os
import random
import signal
import time
from typing import NamedTuple

from paste_wspbus.bus import EX_SOFTWARE, Bus, ChannelFailures, State
from paste_wspbus.children import (
    AGAIN,
    Children,
    Worker,
    WorkerFailed,
    exit_code,
    how,
)
from paste_wspbus.errors import WSPBusError
from paste_wspbus.events import Events, Repeat
from paste_wspbus.settings import cpu_count
from paste_wspbus.worker import PACKAGES, PRELOAD, SITE, WORKER, Role

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from paste_wspbus.control import Connection
    from paste_wspbus.plugins.signals import SignalHandler
    from paste_wspbus.servers import Server

#: Seconds before the first, second, … replacement of a worker that crashes again
#: and again; each is drawn out or cut by up to JITTER of it.
BACKOFF = (0.0, 1.0, 2.0, 4.0, 8.0)
JITTER = 0.2

#: A worker that was ready for so many seconds is healthy: its next crash is a
#: first one. Supervisord's startsecs.
HEALTHY = 1.0

#: What of the signals' meanings is the supervisor's, not the worker's.
_OWN = frozenset(
    {'exit', 'stop', 'hangup', 'restart', 'graceful', 'add_worker', 'remove_worker'}
)

#: Signals that mean something to a supervisor of several workers alone.
SIGNALS = {'SIGTTIN': 'add_worker', 'SIGTTOU': 'remove_worker'}

#: Seconds beyond a worker's own deadline until it is killed.
MARGIN = 5.0

#: Seconds that workers have to tell of themselves.
STATUS = 0.5

#: Seconds until a worker that was told to stop by a signal is replaced: who
#: signals all of a group (systemd, a terminal) means the supervisor, too.
GROUP = 0.2


class Plan(NamedTuple):
    """What the .ini and the command line ask for. Seconds all.

    ``workers``: how many; 0: one, of which nobody asked for a number.
    ``restarts``: whether a crash is followed by a new worker; else the
    supervisor ends as the worker did. ``start_timeout``: from the fork to READY.
    ``stop_timeout``: a worker's own deadline, the drain delay included.
    """

    workers: int
    restarts: bool
    preload: bool
    site_plugins: bool
    start_timeout: float
    stop_timeout: float


class Configuration(NamedTuple):
    """The .ini, read anew: what it asks for, and the server with its settings, on the
    same sockets; ``undo`` takes that back, ``notes`` are for whoever asked.
    """

    plan: Plan
    server: Server | None
    undo: Callable[[], object]
    notes: list[str]


class ToldToLeave(Exception):
    """The site is told to stop while something was waited for."""


class SupervisorBus(Bus):
    """The supervisor's own bus: a process of one thread, which sleeps in select."""

    interrupts_class = staticmethod(lambda **_: contextlib.nullcontext())

    def __init__(self) -> None:
        super().__init__()
        self.events = Events()
        self._requests = self.events  # type: ignore[assignment]
        self.supervisor: Supervisor

    def repeat(self, name: str, seconds: float, function: Callable[[], bool]) -> Repeat:
        """What plugins have instead of a thread of their own."""
        return Repeat(self.events, seconds, function)

    @property
    def start_patience(self) -> float:
        """Seconds that the first start may take, on a machine of one CPU."""
        plan = self.supervisor.plan
        steps = plan.workers + plan.preload + plan.site_plugins
        return plan.start_timeout * max(steps, 1)

    @property
    def reload_patience(self) -> float:
        """Seconds that a graceful restart may take: a worker starts, an old one stops, …"""
        plan, processes = self.supervisor.plan, self.supervisor.count + 2
        return (plan.start_timeout + plan.stop_timeout + MARGIN) * processes

    def graceful(self) -> None:
        """Queue a graceful restart, also while one is under way: the code may have changed since."""
        if all(request.command != 'graceful' for request in self.events.requests):
            self._enqueue('graceful')
            self._run_if_nobody_will()

    def restart(self) -> None:
        """Restart the workers; this process stays."""
        self.graceful()

    def force_exit(self, why: str) -> None:
        """Have the workers leave at once, too."""
        self.supervisor.children.tell_all('force')
        super().force_exit(why)


class Supervisor:
    """Forks the workers, waits until they are ready, replaces them.

    ``current`` has the process that stands for each name ('worker 1', 'site
    plugins', …), ``children.alive`` all there are: those that drain, too.

    :param server: holds the listening sockets, and never serves.
    :param configure: reads the configuration anew.
    :param fresh: whether each process is a fresh interpreter.
    """

    backoff = BACKOFF
    healthy = HEALTHY

    def __init__(
        self,
        bus: SupervisorBus,
        plan: Plan,
        server: Server | None,
        configure: Callable[[], Configuration],
        fresh: bool = False,
    ) -> None:
        self.bus, self.configure, self.fresh = bus, configure, fresh
        self.events = bus.events
        self.count = max(plan.workers, 1)
        self.generation = self._latest = 1
        #: What to tell of a configuration that was read anew.
        self.notes: list[str] = []
        #: Why the last graceful restart failed.
        self.failure: str | None = None
        self.current: dict[str, Worker] = {}
        heard = {
            'pid': self._tells_pid,
            'ready': self._is_ready,
            'composed': self._is_composed,
            'failed': self._has_failed,
            'renew': lambda *_: self.bus.graceful(),
            'leave': self._wants_to_leave,
            'succeed': self._wants_a_successor,
            'status': self._tells_status,
        }
        self.children = Children(bus.events, heard, self._has_ended)
        self.server: Server | None = None
        self.code = 0
        self._use(plan, server)
        self._crashes: dict[str, int] = {}
        #: Those that are replaced as soon as the site has started: they died before.
        self._late: list[Worker] = []
        self._stopping = False
        #: Who waits for the next graceful restart, for this one; for a status.
        self._asking: list[Connection] = []
        self._waiting: list[Connection] = []
        self._inquiries: list[Inquiry] = []
        self._at_a_time = max(cpu_count(), 2)
        bus.supervisor = self

    def _use(self, plan: Plan, server: Server | None) -> None:
        self.plan, self.server = plan, server
        # The workers have deadlines of their own; this one is for when they ignore them.
        self.bus.stop_timeout = plan.stop_timeout + 2 * MARGIN
        if server is not None:
            server.shared = True

    def subscribe(self, signals: SignalHandler) -> None:
        """Ride the bus; signals that mean something to the site go to the workers."""
        self.bus.subscribe('start', self.start)
        self.bus.subscribe('stop', self.stop)
        self.bus.subscribe('graceful', self.renew)
        self.bus.subscribe('add_worker', self.add_worker)
        self.bus.subscribe('remove_worker', self.remove_worker)
        for name, target in signals.handlers.items():
            if target not in _OWN:
                forward = functools.partial(self.forward, name, target)
                self.bus.subscribe(name, forward)

    def close_in_child(self) -> None:
        """In a forked child: what else it holds is the parent's."""

    def run(self, ready: Callable[[list[str]], None]) -> int:
        """Run the supervisor's bus to its end.

        :param ready: called with the first worker's lines for the terminal when
            all are STARTED.
        :returns: the exit code.
        :raises WorkerFailed: if the first generation does not get ready.
        :raises BecomeWorker: in each child.
        """
        try:
            return self._run(ready)
        finally:
            if self.bus._pid == os.getpid():  # a child has closed it already
                self.events.close()

    def _run(self, ready: Callable[[list[str]], None]) -> int:
        bus = self.bus
        with bus.events:
            try:
                bus.start()
            except ChannelFailures as failures:
                bus.exit()
                raise failures.get_instances()[0] from None
            # This thread may be printing when a signal comes: it is for block(),
            # as if that were another thread's.
            bus.home = 0
            if bus.state is State.STARTED:
                first = self.current.get('worker 1') or self.current.get('site')
                ready(first.lines if first else [])
                for worker in self._late:
                    self._after_the_end(worker)
            bus.block(states=State.STOPPED)
            bus.home = None
            bus.exit()
        return bus.exit_code

    # -- what the bus says ----------------------------------------------------

    def start(self) -> None:
        """Start the first generation, all at once, and wait until it is ready.

        :raises WorkerFailed: if one of them does not get ready; none is left then.
        """
        self.children.watch()
        try:
            self._start_first()
        except ToldToLeave:
            pass
        except WorkerFailed:
            self.stop()
            raise

    def _start_first(self) -> None:
        for kind in self._singles():
            self.current[kind] = self._spawn(Role(kind))
            self._await_ready(kind)
        roles = self._roles(1)
        while roles:  # so many at a time that they do not keep each other from it
            batch, roles = roles[: self._at_a_time], roles[self._at_a_time :]
            for role in batch:
                self.current[role.name] = self._spawn(role)
            workers = [self.current[role.name] for role in batch]
            self._await_all(workers, self._was_killed)
            if not any(worker.was_ready for worker in workers):
                raise self._failure_of(workers[0])

    def _singles(self) -> list[str]:
        """The kinds of processes of which there is one."""
        wanted = {PRELOAD: self.plan.preload, SITE: self.plan.site_plugins}
        return [kind for kind, is_wanted in wanted.items() if is_wanted]

    def _roles(self, generation: int) -> list[Role]:
        if not self.plan.workers:
            return [Role(generation=generation)]
        numbers = range(1, self.count + 1)
        return [Role(WORKER, number, generation) for number in numbers]

    def stop(self) -> None:
        """Have all stop, and wait for their end: the workers first, as they started last."""
        until = time.monotonic() + self.plan.stop_timeout + MARGIN
        self._stopping = True
        for kind in (WORKER, SITE, PRELOAD, PACKAGES):
            group = self.children.of_kind(kind)
            for child in group:
                self._order_stop(child)
            self._wait_for_the_end(group, until)
        self.bus.exit_code = self.bus.exit_code or self.code

    def _wait_for_the_end(self, group: list[Worker], until: float) -> None:
        hurried = False
        while not all(child.ended for child in group):
            if self.bus.hurried and not hurried:
                hurried = True
                self.children.tell_all('hurry')
            left = until - time.monotonic()
            if left <= 0:
                for child in group:
                    self._kill(child)
                until, left = float('inf'), AGAIN
            self.events.step(None if left == float('inf') else left)

    def _order_stop(self, child: Worker) -> None:
        child.leaving = True
        if child.role.spare:
            child.tell('stop')  # which is not the word that it waits for
            return
        if not child.was_ready:
            self.children.press(child)  # it does not listen to messages yet
            return
        # Nobody accepts from the sockets afterwards: they are to be emptied first.
        sockets = self.server.sockets if self.server is not None else []
        owned = any(one.owned for one in sockets)
        child.tell('stop' if owned else 'release')

    def _order_end(self, child: Worker) -> None:
        if self._stopping:
            self._order_stop(child)
        else:
            child.tell('make_way')

    def forward(self, name: str, target: object) -> None:
        """Pass a signal on, to who is ready: before, it would die of it."""
        for child in self.children.alive:
            if child.role.kind in (PRELOAD, PACKAGES):
                if target == 'reopen_logs':  # those whom it forks write there
                    child.tell('reopen_logs')
            elif child.is_ready:
                child.signal(signal.Signals[name])
            else:
                child.waiting.append(name)

    def add_worker(self) -> None:
        """Start one worker more (SIGTTIN)."""
        if not self.plan.workers:
            return
        self.count += 1
        role = Role(WORKER, self.count, self.generation)
        self.bus.log(f'One worker more: {self.count}', 30)
        self._respawn(role)

    def remove_worker(self) -> None:
        """Have the last worker make way (SIGTTOU); one stays."""
        if self.count == 1:
            self.bus.log('There is one worker only: it stays', 30)
            return
        self._shrink_to(self.count - 1)
        self.bus.log(f'One worker less: {self.count}', 30)

    def _shrink_to(self, count: int) -> None:
        self.count = count
        for name, worker in list(self.current.items()):
            if worker.role.number > count:
                del self.current[name]
                self._let_go(worker)

    # -- a graceful restart ---------------------------------------------------

    def ask_for_renewal(self, connection: Connection) -> dict[str, Any] | None:
        """The control socket's 'graceful': the answer comes when it is done."""
        wait = connection.request.get('wait', True)
        if wait:
            self._asking.append(connection)
        self.bus.graceful()
        return None if wait else {'accepted': True}

    def renew(self) -> None:
        """A new generation in the place of the old one, or word of why not."""
        if self.bus.state is not State.STARTED:
            return
        self._waiting, self._asking = self._asking, []
        told: dict[str, Any]
        self.failure = None
        try:
            self._renew()
            told = {'generation': self.generation, 'notes': self.notes}
            if self.failure is not None:  # which is served now
                told |= {'failed': 1, 'line': self.failure, 'is_new': True}
            self.bus.publish('generation_serves', self.generation, self.pids)
        except ToldToLeave:
            told = {'failed': 1, 'line': 'The site was told to stop meanwhile'}
        except Exception as failed:
            self.failure = str(failed)
            goes_on, is_mixed = self._what_goes_on()
            unexpected = not isinstance(failed, WSPBusError)
            line = f'Generation {self._latest} failed: {failed}; {goes_on}'
            self.bus.log(line, 40, traceback=unexpected)
            told = {
                'failed': getattr(failed, 'exit_code', 1),
                'line': str(failed),
                'generation': self.generation if self._somebody_serves() else None,
                'notes': self.notes,
                'is_new': self.generation == self._latest,
                'mixed': goes_on if is_mixed else None,
            }
        for connection in self._waiting:
            connection.answer(told)
        self._waiting = []

    def _what_goes_on(self) -> tuple[str, bool]:
        """After a generation that failed: who serves; whether that is two generations."""
        new = len(self._serving(self._latest))
        if not self._serving():
            return 'nobody serves', False
        if self.generation == self._latest:
            return 'its workers serve', False
        if not new:
            return f'generation {self.generation} goes on', False
        mixed = f'{new} of {self.count} workers serve it, the others generation'
        return f'{mixed} {self.generation}', True

    def _renew(self) -> None:
        self._latest, self.notes = self._latest + 1, []
        generation, before = self._latest, (self.plan, self.server, self.count)
        plan, server, undo, self.notes = self.configure()
        self._use(plan, server)
        if plan.workers != before[0].workers:
            self.count = max(plan.workers, 1)
        singles: dict[str, Worker] = {}
        try:
            for kind in self._singles():
                role = Role(kind, generation=generation, hold=kind == SITE)
                singles[kind] = self._spawn(role)
                self._await(singles[kind], lambda one: one.composed or one.is_ready)
            for role in self._roles(generation):
                self._renew_one(role)
        except Exception:
            for single in singles.values():
                self._let_go(single)
            undo()
            self._use(*before[:2])
            self._shrink_to(before[2])
            self._restore(generation)
            raise
        self.generation = generation
        self._shrink_to(self.count)
        for kind in (PRELOAD, SITE):
            self._exchange(kind, singles.get(kind))

    def _renew_one(self, role: Role) -> None:
        """A worker of the new generation; when it is READY, the old one drains."""
        old = self.current.get(role.name)
        if self.server is not None or old is None:
            worker = self._spawn(role)
            self._await(worker, lambda one: one.is_ready)  # and has taken its place
            if old is not None:
                self._await_end(old)
            return
        # Its server binds by itself: it cannot before the old one has let go.
        worker = self._spawn(role._replace(hold=not self.plan.preload))
        if worker.role.hold:
            self._await(worker, lambda one: one.composed)
        self.current[role.name] = worker
        self._let_go(old)
        self._await_end(old)
        self._go(worker)
        self._await_ready(role.name)

    def _exchange(self, kind: str, new: Worker | None) -> None:
        """Of what there is one, the old one ends before the new one starts."""
        old = self.current.pop(kind, None)
        if new is not None:
            self.current[kind] = new
        if old is not None:
            self._let_go(old)
            if kind == SITE:
                self._await_end(old)
        if new is not None and new.role.hold:
            self._go(new)
            self._await_ready(kind)

    def _go(self, worker: Worker) -> None:
        worker.until = time.monotonic() + self.plan.start_timeout
        worker.role = worker.role._replace(hold=False)
        self._watch(worker)
        worker.tell('go')

    def _restore(self, failed: int) -> None:
        """Where the old code is still composed, those of a generation that failed go, too."""
        if self._template(self.generation) is None:
            if self._serving() and not self._serving(self.generation):
                self.generation = failed  # nobody of the old one is left
            return
        for name, worker in list(self.current.items()):
            if worker.role.generation == failed:
                role = worker.role._replace(generation=self.generation)
                with contextlib.suppress(WorkerFailed):
                    self._await(self._spawn(role), lambda one: one.is_ready)
                    self.bus.log(
                        f'{role.title} is of generation {self.generation} again'
                    )
                if self.current[name] is not worker:
                    self._await_end(worker)

    # -- waiting ------------------------------------------------------------------

    def _await(self, worker: Worker, so: Callable[[Worker], bool]) -> None:
        """Wait until it is ``so`` with a process.

        :raises WorkerFailed: if it ends before, or is too slow.
        :raises ToldToLeave: if the site is to stop.
        """
        self._await_all([worker], so)

    def _await_all(
        self, workers: list[Worker], so: Callable[[Worker], bool] = lambda _: False
    ) -> None:
        """The same for all of them: the first failure is that of all."""
        while waiting := [one for one in workers if not (one.was_ready or so(one))]:
            if self.bus.leaving:
                raise ToldToLeave
            for worker in waiting:
                self._raise_if_failed(worker)
            self.events.step()

    def _raise_if_failed(self, worker: Worker) -> None:
        is_too_slow = worker.problem and worker.leaving
        if is_too_slow or worker.ended:
            raise self._failure_of(worker)

    def _failure_of(self, worker: Worker) -> WorkerFailed:
        code = exit_code(worker.code) or 1
        return WorkerFailed(*(worker.problem or (code, self._how_it_failed(worker))))

    def _was_killed(self, worker: Worker) -> bool:
        """By somebody, or for want of memory, which is no word on the site."""
        if worker.code != -signal.SIGKILL or worker.problem or worker.leaving:
            return False
        if worker not in self._late:
            self._late.append(worker)
        return True

    def _await_ready(self, name: str) -> None:
        """The same for who stands for a name."""
        self._await(self.current[name], lambda one: one.is_ready)

    def _await_end(self, worker: Worker) -> None:
        while not worker.ended:
            if self.bus.leaving:
                raise ToldToLeave
            self.events.step()

    def _how_it_failed(self, worker: Worker) -> str:
        what = f'{worker.title} died while it started, {how(worker.code)}'
        if worker.code == 0:
            what += ': a site that becomes a daemon by itself cannot be supervised'
        return what

    # -- letting go ---------------------------------------------------------------

    def _let_go(self, worker: Worker) -> None:
        """Have a process end, as orderly as it can; its place is taken, or nobody's."""
        if worker.ended:
            return
        worker.leaving = True
        worker.tell('make_way')
        limit = self.plan.stop_timeout + MARGIN
        if not worker.was_ready:
            self.children.press(worker)
            limit = MARGIN
        self._call_later(worker, limit, lambda: self._kill(worker))

    def _call_later(
        self, worker: Worker, seconds: float, function: Callable[[], None]
    ) -> None:
        """Unless the worker has ended by then."""
        worker.timers.append(self.events.call_later(seconds, function))

    def _kill(self, worker: Worker) -> None:
        if worker.ended:
            return
        self.bus.log(f'{worker.title} does not stop: killed', 50)
        worker.killed = True
        worker.signal(signal.SIGKILL)
        if worker.template is not None and (worker.silent or not worker.pid):
            self._kill(
                worker.template
            )  # it hangs: it was to fork it, or to tell of its end

    def _watch(self, worker: Worker) -> None:
        """See to it that a process is ready in time."""
        left = worker.until - time.monotonic()
        self._call_later(worker, left + AGAIN, lambda: self._look_at(worker))

    def _look_at(self, worker: Worker) -> None:
        is_held = worker.composed and worker.role.hold
        if worker.ended or worker.leaving or worker.is_ready or is_held:
            return
        if time.monotonic() < worker.until:
            return  # it was told to go, and is watched anew
        worker.problem = worker.problem or (
            1,
            f'{worker.title} was not ready within {self.plan.start_timeout:g} s '
            '(start_timeout)',
        )
        self._let_go(worker)

    # -- starting -----------------------------------------------------------------

    def _spawn(self, role: Role) -> Worker:
        """Start a process.

        :raises WorkerFailed: if the system has none to give.
        :raises BecomeWorker: in the child.
        """
        role = role._replace(later=self._was_started, several=self.count > 1)
        template = None
        if role.kind == WORKER:
            template = self._template(role.generation)
            if template is None and self.plan.preload:
                what = f'The process that composed generation {role.generation}'
                raise WorkerFailed(1, f'{what} has died')
        limit = self.plan.start_timeout
        worker = self.children.spawn(role, template, limit, self.fresh)
        self._watch(worker)
        self.bus.publish('worker_started', worker.name, worker.pid)
        return worker

    def _template(self, generation: int) -> Worker | None:
        """The process that has composed a generation's site, or else the current one's."""
        composed = self.children.composed()
        own = [one for one in composed if one.role.generation == generation]
        if not own and generation == self.generation and self.plan.preload:
            own = composed  # composed again, after the first has died
        return next(iter(own), None)

    def _respawn(self, role: Role) -> None:
        """Start a process in the place of one that is gone, if it is wanted still."""
        old = self.current.get(role.name)
        wanted = role.kind == WORKER or role.kind in self._singles()
        if self.bus.state is not State.STARTED or self.bus.leaving or not wanted:
            return
        if role.number > self.count or (old and not old.ended):
            return
        needs_template = role.kind == WORKER and self.plan.preload
        if needs_template and self._template(role.generation) is None:
            self._respawn(Role(PRELOAD, generation=self.generation))
            return  # it comes when that is ready
        try:
            self.current[role.name] = self._spawn(role._replace(hold=False))
        except WorkerFailed as failed:
            self._try_again(role, str(failed), is_healthy=False)

    # -- what the children say ----------------------------------------------------

    def _tells_pid(self, worker: Worker, message: dict[str, Any]) -> None:
        worker.pid = message['pid']  # its preloading process's word may come later

    def _is_ready(self, worker: Worker, message: dict[str, Any]) -> None:
        worker.ready_since, worker.lines = time.monotonic(), message['ready']
        self.bus.log(f'{worker.title} is ready')
        self.bus.publish('worker_ready', worker.name, worker.pid)
        while worker.waiting:
            worker.signal(signal.Signals[worker.waiting.pop(0)])
        if worker.leaving:  # SIGTERM may have come too late
            self._order_end(worker)
        elif worker.role.kind == WORKER:
            self._take_place(worker)
        elif self.current.get(worker.name) is worker:
            for role in self._roles(self.generation):  # those who waited for it
                self._respawn(role)

    def _take_place(self, worker: Worker) -> None:
        old = self.current.get(worker.name)
        self.current[worker.name] = worker
        if old is not None and old is not worker:
            self._let_go(old)

    def _is_composed(self, worker: Worker, message: dict[str, Any]) -> None:
        worker.composed = True
        if not worker.role.hold:
            worker.tell('go')

    def _has_failed(self, worker: Worker, message: dict[str, Any]) -> None:
        if message['line']:
            worker.problem = worker.problem or (message['failed'], message['line'])

    def _wants_to_leave(self, worker: Worker, message: dict[str, Any]) -> None:
        if worker.leaving:
            self._order_end(worker)
        else:
            self.bus.exit()

    def _wants_a_successor(self, worker: Worker, message: dict[str, Any]) -> None:
        self.events.call_later(GROUP, lambda: self._succeed(worker))

    def _succeed(self, worker: Worker) -> None:
        """A worker was told to stop by somebody else: when another one is ready."""
        is_current = self.current.get(worker.name) is worker and not worker.ended
        if is_current and self.bus.state is State.STARTED and not self.bus.leaving:
            self.bus.log(
                f'{worker.title} was told to stop: another takes its place', 30
            )
            if worker.role.kind != WORKER:
                self._let_go(worker)  # of these there are never two
                return
            try:
                self._spawn(worker.role._replace(generation=self.generation))
            except WorkerFailed as failed:
                self.bus.log(f'{failed}; {worker.title} goes on', 40)

    def _tells_status(self, worker: Worker, message: dict[str, Any]) -> None:
        worker.status = message['status']
        self._no_need_to_wait_for(worker)

    # -- what becomes of them -----------------------------------------------------

    def _has_ended(self, worker: Worker) -> None:
        self._no_need_to_wait_for(worker)
        counts = worker.role.kind != PACKAGES and (
            worker.role.kind != PRELOAD or not self._was_started
        )
        if self._stopping and counts and (worker.ready_since or not self._was_started):
            # One that was killed, because it did not stop, was forced out.
            forced = worker.code is None or worker.code == -signal.SIGKILL
            if (worker.code or 0) < 0 and not worker.killed:
                end = f'{worker.title} ended while it stopped, {how(worker.code)}'
                self.bus.log(end, 40)
            self.code = self.code or (EX_SOFTWARE if forced else exit_code(worker.code))
        self.bus.publish('worker_died', worker.name, worker.pid, worker.code)
        if worker.leaving and worker.code in (EX_SOFTWARE, -signal.SIGKILL):
            self.notes.append(f'{worker.title} did not stop in time: see the log')
        if self.bus.state is State.STARTED:
            self._after_the_end(worker)
        elif self.bus.state is State.STARTING and worker.was_ready:
            self._late.append(worker)  # it was faster than our reading of it

    def _after_the_end(self, worker: Worker) -> None:
        """After a process's end: the next one, or the end of all."""
        if self.bus.state is not State.STARTED or self.bus.leaving:
            return
        if self.current.get(worker.name) is not worker:
            self._forget_candidate(worker)
        elif worker.leaving:
            self.events.call_later(0, lambda: self._respawn(worker.role))
        elif not self.plan.restarts or (worker.code == 0 and not self.plan.workers):
            self.bus.exit_code = self.code = exit_code(worker.code)
            self.bus.exit()
        elif worker.role.kind == PRELOAD and worker.was_ready:
            del self.current[PRELOAD]  # composed anew when there is need of it
            self.bus.log(f'{worker.title} has ended, {how(worker.code)}', 40)
        else:
            self._has_crashed(worker)

    def _forget_candidate(self, worker: Worker) -> None:
        """It was to take another's place, or to make way."""
        is_alone = self.bus._current != 'graceful'  # else that tells of it
        if not worker.was_ready and not worker.leaving and is_alone:
            why = worker.problem[1] if worker.problem else self._how_it_failed(worker)
            self.bus.log(f'{why}; {worker.name} goes on', 40)

    def _has_crashed(self, worker: Worker) -> None:
        what = f'{worker.title} crashed, {how(worker.code)}'
        if not worker.was_ready:
            why = worker.problem[1] if worker.problem else how(worker.code)
            what = f'{worker.title} failed to start: {why}'
        role = worker.role
        if self._template(role.generation) is None:
            role = role._replace(generation=self.generation)
        # No site kills itself so: the system was out of memory, or somebody did it.
        was_killed = worker.was_ready and worker.code == -signal.SIGKILL
        is_healthy = was_killed or worker.was_ready_for(self.healthy)
        self._try_again(role, what, is_healthy)

    def _try_again(self, role: Role, what: str, is_healthy: bool) -> None:
        crashes = 1 if is_healthy else self._crashes.get(role.name, 0) + 1
        self._crashes[role.name] = crashes
        if crashes > len(self.backoff) and not self._somebody_serves():
            self.bus.log(f'{what}, {crashes} times in a row: given up', 50)
            self.bus.exit_code = 1
            self.bus.exit()
            return
        wait = self.backoff[min(crashes, len(self.backoff)) - 1]
        self.bus.log(f'{what}; restarting{f" in {wait:g} s" if wait else ""}', 40)
        wait *= random.uniform(1 - JITTER, 1 + JITTER)  # not all at the same instant
        self.events.call_later(wait, lambda: self._respawn(role))

    def _somebody_serves(self) -> bool:
        return bool(self._serving())

    def _serving(self, generation: int | None = None) -> list[Worker]:
        """The workers that serve: of a generation, or of any."""
        return [
            one
            for one in self.current.values()
            if one.is_ready
            and one.role.kind == WORKER
            and generation in (None, one.role.generation)
        ]

    # -- status -------------------------------------------------------------------

    @property
    def pids(self) -> list[int]:
        """The workers' process numbers."""
        return [self.current[role.name].pid for role in self._roles(self.generation)]

    @property
    def _was_started(self) -> bool:
        return State.STARTED in self.bus._visited

    @property
    def is_crashed(self) -> bool:
        """Whether nobody serves, and nobody is about to."""
        return all(one.ended for one in self.current.values())

    def inquire(self, connection: Connection, answer: Callable[[], object]) -> None:
        """Have ``answer`` called when the workers have told their status, or do not."""
        asked = [
            child
            for child in self.children.alive
            if child.is_ready and child.role.kind not in (PRELOAD, PACKAGES)
        ]
        inquiry = Inquiry(connection, set(asked), answer)
        self._inquiries.append(inquiry)
        for child in asked:
            child.status = None
            child.tell('status')
        self.events.call_later(STATUS, lambda: self._end_inquiry(inquiry))
        if not asked:
            self._end_inquiry(inquiry)

    def _no_need_to_wait_for(self, worker: Worker) -> None:
        for inquiry in list(self._inquiries):
            inquiry.asked.discard(worker)
            if not inquiry.asked:
                self._end_inquiry(inquiry)

    def _end_inquiry(self, inquiry: Inquiry) -> None:
        if inquiry in self._inquiries:
            self._inquiries.remove(inquiry)
            inquiry.answer()

    def describe(self) -> dict[str, Any]:
        """What `status` tells of the generations; of requests, all that are in flight."""
        gone = [one for one in self.current.values() if one.ended]
        children = sorted(
            [*self.children.alive, *gone],
            key=lambda child: (child.role.kind != WORKER, child.role.number),
        )
        told = [child.status for child in children if child.status]
        calling = next((one['calling'] for one in told if one['calling']), None)
        return {
            'generation': self.generation,
            'workers': [child.describe() for child in children],
            'requests': [text for one in told for text in one['requests']],
            'calling': calling,
            'is_crashed': self.is_crashed,
            'failure': self.failure,
        }


class Inquiry:
    """Somebody's question for the status: those who have not answered yet."""

    def __init__(
        self, connection: Connection, asked: set[Worker], answer: Callable[[], object]
    ) -> None:
        self.connection, self.asked, self.answer = connection, asked, answer
