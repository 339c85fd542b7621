"""Replaces processes that have ended, and slows crash loops down."""

from __future__ import annotations

from paste_wspbus.bus import State
from paste_wspbus.control.status import followed
from paste_wspbus.role import CLUSTER, WORKER
from paste_wspbus.workers import backoff, faults
from paste_wspbus.workers.children import WorkerFailed

TYPE_CHECKING = False
if TYPE_CHECKING:
    from paste_wspbus.role import Role
    from paste_wspbus.watching.loop import Timer
    from paste_wspbus.workers.supervisor import Supervisor


class Replacing:
    """Starts a process in the place of one that has ended, if the site still needs it."""

    def __init__(self, supervisor: Supervisor) -> None:
        self.supervisor, self.bus = supervisor, supervisor.bus
        self._backoff = backoff.Backoff(backoff.WAITS, backoff.HEALTHY)
        #: Whether the log says that there is a crash loop.
        self._is_loop = False
        #: The processes that wait for their turn: the role and the timer, by the name.
        self._waiting: dict[str, tuple[Role, Timer]] = {}
        self.bus.subscribe('worker_ready', self._is_ready)

    def respawn(self, role: Role) -> None:
        """Replace a process that has ended, if the site still needs it."""
        supervisor = self.supervisor
        old = supervisor.current.get(role.name)
        wanted = role.kind == WORKER or role.kind in supervisor.singles()
        if role.kind == CLUSTER and not wanted and supervisor.cluster is not None:
            supervisor.cluster.starts_later()
        if self.bus.state is not State.STARTED or self.bus.leaving or not wanted:
            return
        if role.number > supervisor.count or (old and not old.ended):
            return
        if not supervisor.strategy.is_prepared(role):
            return
        try:
            supervisor.current[role.name] = supervisor.spawn(role._replace(hold=False))
        except WorkerFailed as failed:
            self.try_again(role, str(failed), ready_for=None)

    def try_again(
        self, role: Role, what: str, ready_for: float | None, excused: bool = False
    ) -> None:
        """Replace a process that crashed, after a wait; or give up, and stop the site.

        :param what: the text for the log.
        :param ready_for: seconds for which it was READY; None if it never was.
        :param excused: whether the crash is not the site's fault: for such crashes, this
            does not give up.
        """
        count = self.supervisor.count
        crash = self._backoff.crashed(role.name, ready_for, excused, count)
        if crash.is_too_much and not self.supervisor.serving():
            times = (
                f'{crash.number} {"crash" if crash.number == 1 else "crashes"} in a row'
            )
            why = f'{times}, and no worker serves'
            self.bus.log(followed(what, f'{why}: wspserve gives up and stops'), 50)
            self.bus.exit_code = 1
            self.bus.exit()
            return
        self._log(what, crash.wait)
        self._respawn_after(crash.wait, role)
        if role.kind == CLUSTER and self.supervisor.cluster is not None:
            self.supervisor.cluster.rests(crash.wait)

    def catch_up(self) -> None:
        """Replace the processes that died during the start, and start those that it left out."""
        supervisor = self.supervisor
        for worker in supervisor.late:
            supervisor.strategy.has_ended(worker)
        roles = supervisor.roles(supervisor.generation)
        missing = [role for role in roles if role.name not in supervisor.current]
        for before, role in enumerate(missing):
            wait = self._backoff.turn(supervisor.count, before)
            self._respawn_after(wait, role)

    def fill_up(self) -> None:
        """Start the workers that are missing, and that nothing waits to start."""
        supervisor = self.supervisor
        if supervisor.is_renewing:
            supervisor.events.call_later(faults.SOON, self.fill_up)
            return
        for role in supervisor.roles(supervisor.generation):
            old = supervisor.current.get(role.name)
            _, timer = self._waiting.get(role.name, (role, None))
            # A timer whose function has failed is gone.
            waits = timer is not None and supervisor.events.awaits(timer)
            if not waits and (old is None or old.ended):
                self._waiting.pop(role.name, None)
                self.respawn(role)

    def _respawn_after(self, wait: float, role: Role) -> None:
        def respawn() -> None:
            self._waiting.pop(role.name, None)
            self.respawn(role)

        # The new wait takes the place of an earlier one.
        if role.name in self._waiting:
            self.supervisor.events.cancel(self._waiting[role.name][1])
        timer = self.supervisor.events.call_later(wait, respawn)
        self._waiting[role.name] = role, timer

    def _is_ready(self, name: str, pid: int) -> None:
        """Later, start what waits at once if nothing has crashed meanwhile."""
        worker = self.supervisor.current.get(name)

        def look() -> None:
            if worker is None or worker.ended or not self._backoff.is_calm():
                return
            self._backoff.release()
            for role, timer in self._waiting.values():
                self.supervisor.events.cancel(timer)
                self._respawn_after(0, role)

        if self._waiting:
            self.supervisor.events.call_later(backoff.SETTLED, look)

    def forget(self) -> None:
        """Forget the crashes of the code before: a new generation serves."""
        self._backoff.forget()
        self.supervisor.crashes.forget_early()

    def _log(self, what: str, wait: float) -> None:
        """Log a crash; of a crash loop, only its beginning and its end."""
        wait = round(wait, 1)
        soon = f' in {wait:g} s' if wait else ''
        crashes = self.supervisor.crashes
        if not crashes.loop:
            self.bus.log(followed(what, f'restarting{soon}'), 40)
        elif not self._is_loop:
            self._is_loop = True
            self.bus.log(
                f'{followed(what, "restarting")}{soon}. Crash loop: {crashes.early} crashes '
                'in the last minute. Further crashes are not logged one by one: `status` shows '
                'them',
                40,
            )
            self._look_later()

    def _look_later(self) -> None:
        self.supervisor.events.call_later(backoff.MINUTE / 4, self._look)

    def _look(self) -> None:
        crashes = self.supervisor.crashes
        if crashes.loop:
            self._look_later()
            return
        self._is_loop = False
        self.bus.log(f'The crash loop is over: {crashes.total} crashes until now', 30)
