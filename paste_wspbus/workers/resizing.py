"""The number of workers: signals and the console change it by one, within its limits."""

from __future__ import annotations

from paste_wspbus.ini.settings import MAX_WORKERS
from paste_wspbus.role import WORKER, Role

TYPE_CHECKING = False
if TYPE_CHECKING:
    from paste_wspbus.workers.supervisor import Supervisor


class Resizing:
    """Adds and removes workers: one by one, or all above a number."""

    def __init__(self, supervisor: Supervisor) -> None:
        self.supervisor, self.bus = supervisor, supervisor.bus
        #: The last refusal: who holds a key down sends a hundred signals.
        self._refused: str | None = None

    def why_not(self, change: int) -> str | None:
        """Return why the number must not change by ``change``; None if it may."""
        count = self.supervisor.count + change
        if count < 1:
            return 'there is only one worker: it is not removed'
        if count > MAX_WORKERS:
            return f'there are {MAX_WORKERS} workers: no more are allowed'
        return None

    def add_worker(self) -> None:
        """Start one more worker (SIGTTIN)."""
        supervisor = self.supervisor
        if not supervisor.plan.workers or self._is_refused(1):
            return
        supervisor.count += 1
        role = Role(WORKER, supervisor.count, supervisor.generation)
        self.bus.log(f'One more worker starts: the site has {role.number} now', 30)
        supervisor.replacing.respawn(role)

    def remove_worker(self) -> None:
        """Stop the last worker (SIGTTOU), but never the only worker."""
        if self._is_refused(-1):
            return
        self.shrink_to(self.supervisor.count - 1)
        self.bus.log(f'One worker stops: the site has {self.supervisor.count} now', 30)

    def shrink_to(self, count: int) -> None:
        """Stop the workers whose numbers are above ``count``."""
        supervisor = self.supervisor
        supervisor.count = count
        for name, worker in list(supervisor.current.items()):
            if worker.role.number > count:
                del supervisor.current[name]
                supervisor.leaving.let_go(worker)
        for one in supervisor.children.of_kind(WORKER):  # a successor that is starting
            if one.role.number > count and not (one.leaving or one.role.spare):
                supervisor.leaving.let_go(one)

    def _is_refused(self, change: int) -> bool:
        """Whether the number must not change; log why, but the same reason only once."""
        why, before = self.why_not(change), self._refused
        self._refused = why
        if why is not None and why != before:
            self.bus.log(f'{why[0].upper()}{why[1:]}', 30)
        return why is not None
