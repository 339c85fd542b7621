"""The cluster plugins in a worker of another program: a thread holds their lease, and runs them."""

from __future__ import annotations

import random
import secrets
import threading

from paste_wspbus.bus.interrupts import threads_are_greenlets
from paste_wspbus.cluster.agent import (
    FIRST,
    FREED,
    JOINS,
    LAST,
    MINUTE,
    PLUGINS,
    RENEWS,
)
from paste_wspbus.cluster.claim import Claim
from paste_wspbus.cluster.engine import EngineAway, Member, Message, Wish
from paste_wspbus.cluster.lease import Lease
from paste_wspbus.cluster.settings import LOCAL, find_maker, read
from paste_wspbus.errors import WSPBusError
from paste_wspbus.hosts import Host, host_of
from paste_wspbus.hosts.site import end_bus, plug_in, stand_down, start_bus
from paste_wspbus.unix.kernel_timer import boot_clock as clock
from paste_wspbus.unix.paths import runtime_folder

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Protocol

    from paste_wspbus.bus import Bus
    from paste_wspbus.cluster.claim import Held
    from paste_wspbus.cluster.engine import Engine
    from paste_wspbus.cluster.settings import Settings
    from paste_wspbus.ini.config import Config, Site

    class Runs(Protocol):
        """The methods of a `Job` that `Holder` needs."""

        is_over: bool
        failed: bool
        lease: HeldLease

        def ask(self) -> None:
            """Ask the plugins to stop."""


#: The part of the ttl before the end of a lease at which the plugins are stopped.
ASKS = 1 / 4

#: Seconds that the end of a worker waits for the engine, after the plugins have stopped.
PATIENCE = 2.0

#: Seconds that a start with ``require`` waits for the engine.
REQUIRED = 10.0

#: Seconds until this worker wants the lease again after its plugins failed; doubled each time.
PAUSE, LONGEST = 1.0, 60.0

#: The capabilities of the bus of the plugins, if the host has them: the plugins run in
#: a thread.
PROMISES = {'start', 'stop', 'cluster'}

INFO, WARNING, ERROR = 20, 30, 40


class HeldLease(Lease):
    """The lease of plugins whose process nobody kills when the lease ends.

    ``remaining`` is the number of seconds until another process may get the lease.
    ``held`` is the result of the last renewal.

    :param ttl: seconds for which a renewal counts.
    """

    def __init__(self, held: Held, ttl: float) -> None:
        self.held, self._ttl = held, ttl

    def read(self) -> tuple[int, float, float]:
        """Return the fence, and the times of `boot_clock` at which it ends and is in danger."""
        fence, until = self.held
        return fence, until, until - self._ttl * ASKS


class Job:
    """The cluster plugins, from one lease to its end, in a thread and on a bus of their own.

    ``is_over`` says whether they have stopped, ``failed`` whether nobody had asked them to.

    :param make: composes the plugins on a new bus.
    :param log: logs a text with a level.
    :param ends: is called at the end.
    """

    def __init__(
        self,
        lease: HeldLease,
        make: Callable[[HeldLease], Site],
        log: Callable[[str, int], object],
        ends: Callable[[], object],
    ) -> None:
        self.lease, self._make, self._log, self._ends = lease, make, log, ends
        self.is_over = self.failed = False
        self._asked, self._over = threading.Event(), threading.Event()
        self._left = False
        thread = threading.Thread(target=self._run, name='cluster plugins', daemon=True)
        thread.start()

    def ask(self) -> None:
        """Ask the plugins to stop, and return at once."""
        self._asked.set()

    def wait(self) -> None:
        """Wait until the plugins have stopped."""
        self._over.wait()

    def _run(self) -> None:
        try:
            self._work()
        except WSPBusError as error:
            self.failed = True
            self._log(f'The cluster plugins have failed: {error}', ERROR)
        except BaseException as error:
            self.failed = True
            what = f'{type(error).__name__}: {error}'
            self._log(f'The cluster plugins have failed: {what}', ERROR)
        finally:
            self.is_over = True
            self._over.set()
            self._ends()

    def _work(self) -> None:
        site = self._make(self.lease)
        bus = site.bus
        try:
            bus.subscribe('stop', self._leaves)  # one of them may stop the bus
            start_bus(site)
            if not self._wait():
                seconds = self.lease.remaining
                text = 'The lease was not renewed: the cluster plugins stop'
                self._log(f'{text}, and it ends in {seconds:.1f} s', ERROR)
            self.failed = self._left
        finally:
            end_bus(bus)
        if self.failed:
            raise WSPBusError('one of them has stopped their bus')
        if not self.lease.remaining:
            text = 'The cluster plugins have stopped only after the end of their lease'
            self._log(f'{text}: another process may have run them meanwhile', ERROR)

    def _leaves(self) -> None:
        self._left = not self._asked.is_set()
        self._asked.set()

    def _wait(self) -> bool:
        """Wait until the plugins are to stop; return False if their lease is in danger."""
        while (remaining := self.lease.read()[2] - clock()) > 0:
            if self._asked.wait(remaining):
                return True
        return self._asked.is_set()


class Holder:
    """Decides in one thread: asks the engine, starts the plugins, has them stop.

    :param start: starts the plugins under a lease.
    :param log: logs a text with a level.
    """

    def __init__(
        self,
        settings: Settings,
        member: Member,
        engine: Engine,
        start: Callable[[HeldLease], Runs],
        log: Callable[[str, int], object],
    ) -> None:
        self.settings, self.member, self.engine = settings, member, engine
        self._start, self._log = start, log
        self.claim = Claim(member.id, settings.ttl)
        #: The plugins that run; None if none do.
        self.job: Runs | None = None
        #: Whether this worker stops, and takes no lease any more.
        self.leaves = False
        #: The reason why the engine does not answer; '' if it does; None before it was
        #: asked.
        self.away: str | None = None
        self._told_at, self._has_told = -MINUTE, False
        self._pause, self._again = PAUSE, 0.0

    @property
    def is_done(self) -> bool:
        """Whether a worker that stops has nothing to stop and nothing to release."""
        return self.job is None and self.claim.held is None

    def beat(self) -> float:
        """Ask the engine once, and act on its answer; return the seconds until the next time."""
        now = clock()
        if self.job is not None and self.job.is_over:
            self._has_ended(self.job, now)
        if self.job is not None and self.leaves:
            self.job.ask()
        try:
            asked = self._ask(now)
        except EngineAway as away:
            return self._is_away(away, clock())
        if asked:
            self._is_back()
        every = self.settings.ttl * (RENEWS if self.claim.held else JOINS)
        every *= random.uniform(0.9, 1.0)
        now, wants = clock(), self._wants(clock())
        due = self.claim.next_look(now, every, wants)
        if self._again > now:
            due = min(due, self._again)
        return due - now

    def _wants(self, now: float) -> bool:
        return not self.leaves and self.job is None and now >= self._again

    def _ask(self, now: float) -> bool:
        """Take, renew or release the lease; return whether there was anything to ask for."""
        claim = self.claim
        had = claim.held
        wish = claim.wish(now, self._wants(now))
        if claim.held is not None and self.job is None:
            wish = Wish('free', '', claim.held.fence)
        if self.leaves and wish.act == 'look':
            return False
        answer = self.engine.lease(PLUGINS, self.member, wish)
        claim.heard(wish, answer, now, clock())
        if wish.act == 'free':
            claim.held = None
            if answer.granted:
                self.engine.send(Message(self.member.id, FREED, PLUGINS))
        elif had is not None and claim.held is None:
            self._loses(had)
        elif claim.held is not None and self.job is None:
            self._takes(claim.held)
        elif claim.held is not None and self.job is not None:
            self.job.lease.held = claim.held
        return True

    def _takes(self, held: Held) -> None:
        for warning in self.engine.warnings():
            self._log(f'cluster: {self.settings.shown}: {warning}', WARNING)
        self._log(f'The cluster plugins run here now (fence {held.fence})', INFO)
        self.job = self._start(HeldLease(held, self.settings.ttl))

    def _loses(self, had: Held) -> None:
        if self.job is not None and not self.job.is_over:
            text = f'The lease of the cluster plugins is lost (fence {had.fence})'
            self._log(f'{text}: they stop', ERROR)
            self.job.ask()

    def _has_ended(self, job: Runs, now: float) -> None:
        self.job = None
        if job.failed:
            self._again = now + self._pause
            self._pause = min(self._pause * 2, LONGEST)
        else:
            self._pause = PAUSE

    def _is_away(self, away: EngineAway, now: float) -> float:
        self.away = away.reason
        if self.leaves and self.job is None:
            self.claim.held = None  # the lease ends by itself
        if now >= self._told_at + MINUTE:
            self._told_at, self._has_told = now, True
            what = f'cluster: no word from {self.settings.shown}: {away.reason}'
            self._log(f'{what}. The site keeps serving', ERROR)
        return max(FIRST, min(self.settings.ttl / 10, LAST) * random.uniform(0.5, 1.0))

    def _is_back(self) -> None:
        self.away = ''
        if self._has_told:
            self._has_told = False
            self._log(f'cluster: {self.settings.shown} is back', WARNING)


class LeasedPlugins:
    """The cluster plugins of a site under a foreign host; the bus of the site starts it.

    The engine is made, and asked, in a thread of the process that the site starts in: a
    worker that was forked has a connection of its own.

    :param bus: the bus of the site.
    :raises ConfigError: if [cluster:main] is wrong, or a library is missing.
    """

    def __init__(self, bus: Bus, config: Config) -> None:
        self.bus, self.config = bus, config
        self.settings = read(config.loader, str(config.file))
        self._stopping, self._wake = threading.Event(), threading.Event()
        self._answered = threading.Event()
        self._holder: Holder | None = None
        self._thread: threading.Thread | None = None
        bus.subscribe('start', self.start, priority=float('inf'))
        bus.subscribe('stop', self.stop, priority=float('-inf'))

    def start(self) -> None:
        """Start the thread; with ``require``, wait until the engine has answered.

        :raises WSPBusError: if it does not answer.
        :raises UnsafeFolder: if no folder can have the files of a cluster on this machine.
        """
        # A plugin could keep its own lease from being renewed.
        if threads_are_greenlets():
            refuse(self.bus, self.config)
            return
        settings = self.settings
        folder = runtime_folder() if settings.scheme == LOCAL else None
        maker = find_maker(settings, lambda _, problem: WSPBusError(problem))
        for event in (self._stopping, self._wake, self._answered):
            event.clear()
        self._holder = None
        self._thread = threading.Thread(
            target=self._run,
            args=[lambda: maker(settings, folder or '')],
            name='cluster lease',
            daemon=True,
        )
        self._thread.start()
        if settings.require:
            self._answered.wait(REQUIRED)
            away = self._holder.away if self._holder else None
            if away != '':
                self._stopping.set()
                self._wake.set()
                why = away or f'no answer within {REQUIRED:g} s'
                raise WSPBusError(f'require = true: {settings.shown}: {why}')

    def stop(self) -> None:
        """Stop the plugins, release the lease, and end the thread."""
        thread, self._thread = self._thread, None
        if thread is None:
            return
        self._stopping.set()
        self._wake.set()
        self._end_job()  # the thread may be waiting for the engine
        thread.join(PATIENCE)
        self._end_job()  # it may have started one meanwhile

    def _end_job(self) -> None:
        job = self._holder.job if self._holder is not None else None
        if isinstance(job, Job):
            job.ask()
            job.wait()

    def _run(self, make: Callable[[], Engine]) -> None:
        settings = self.settings
        member = Member(f'{settings.machine}-{secrets.token_hex(4)}', settings.machine)
        engine = make()
        log = self.bus.log
        holder = Holder(settings, member, engine, self._start_job, log)
        self._holder = holder
        try:
            while True:
                self._wake.clear()
                holder.leaves = self._stopping.is_set()
                seconds = holder.beat()
                self._answered.set()
                if holder.leaves and holder.is_done:
                    break
                self._wake.wait(seconds)
        finally:
            engine.close()

    def _start_job(self, lease: HeldLease) -> Job:
        return Job(lease, self._compose, self.bus.log, self._wake.set)

    def _compose(self, lease: HeldLease) -> Site:
        """Make the plugins, on a bus of their own."""
        bus, host = self.config.make_bus(), host_of(self.bus)
        promises = PROMISES & host.capabilities
        stand_down(bus, Host(host.name, host.version, promises))
        # A limit here would end the process; the bus of the site has one.
        bus.stop_timeout = None
        plug_in(bus, self.config, self.bus.plugins['sitelog'].logger.name)
        bus.lease = lease
        return self.config.compose_plugins(bus, 'cluster_plugins')


def take(site: Site, config: Config) -> None:
    """Let the workers of a site run its cluster plugins, if the host promises that.

    :raises ConfigError: if [cluster:main] is wrong, or a library is missing.
    """
    bus = site.bus
    if 'cluster' not in host_of(bus).capabilities:
        refuse(bus, config)
        return
    plugins = LeasedPlugins(bus, config)
    for listener in bus.channel('start').ordered:
        if listener.owner is plugins:
            site.origins[listener.name] = 'cluster:main'
    bus.log(
        f'{_named(config)}: these plugins run in a process of {host_of(bus)}, while it '
        'holds their lease. No timer kills it at the end of the lease: if it is stopped '
        'for so long, only bus.lease.fence keeps two apart'
    )


def refuse(bus: Bus, config: Config) -> None:
    """Log that the cluster plugins do not run."""
    text = f"{host_of(bus)} cannot hold their lease here: it lacks 'cluster'"
    bus.log(f'{_named(config)}: these plugins do not run, because {text}', WARNING)


def _named(config: Config) -> str:
    return f'cluster_plugins = {" ".join(config.settings["cluster_plugins"])}'
