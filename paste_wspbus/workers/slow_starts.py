"""The processes that are not READY in time: their stacks are logged, and they are stopped."""

from __future__ import annotations

import time

from paste_wspbus.requests.stacks import of_site
from paste_wspbus.workers.children import AGAIN
from paste_wspbus.workers.threads import stacks_text

TYPE_CHECKING = False
if TYPE_CHECKING:
    from paste_wspbus.requests.stacks import Frame
    from paste_wspbus.workers.handle import WorkerHandle
    from paste_wspbus.workers.supervisor import Supervisor


class SlowStarts:
    """Gives up each process that needs longer than ``start_timeout`` to become READY.

    It may load the site, start a part of it, or make the requests of ``warm_up``, and may
    hold the GIL meanwhile.
    """

    def __init__(self, supervisor: Supervisor) -> None:
        self.supervisor = supervisor

    def watch(self, worker: WorkerHandle) -> None:
        """Order a process to stop if it is not READY in time."""
        remaining = worker.until - time.monotonic()
        later = self.supervisor.leaving.call_later
        later(worker, remaining + AGAIN, lambda: self._look_at(worker))

    def _look_at(self, worker: WorkerHandle) -> None:
        if _is_late(worker):
            self.supervisor.stacks.ask(
                worker, lambda stacks: self._give_up(worker, stacks)
            )

    def _give_up(
        self, worker: WorkerHandle, stacks: dict[int, list[Frame]] | None
    ) -> None:
        if not _is_late(worker):
            return
        supervisor, plan = self.supervisor, self.supervisor.plan
        what = f'was not ready within {plan.start_timeout:g} s (start_timeout)'
        if (place := _place(worker, stacks or {})) is not None:
            what += f', at {place.file}:{place.line} in {place.name}'
        worker.too_slow, line = what, f'{worker.title} {what}'
        worker.problem = worker.problem or (1, line)
        is_current = supervisor.current.get(worker.name) is worker
        if not (is_current and supervisor.crashes.loop):  # else they were logged before
            others = 'the report has all' if plan.reports is not None else ''
            if is_current or supervisor.is_renewing or not supervisor.was_started:
                # The message of the failed start or restart has the rest.
                line = f'{worker.title} is too slow'
            supervisor.bus.log(f'{line}. {stacks_text(worker, stacks, others)}', 40)
        supervisor.reports.write('hang', worker, what, stacks)
        supervisor.leaving.let_go(worker)


def _is_late(worker: WorkerHandle) -> bool:
    if worker.ended or worker.leaving or worker.is_ready or worker.is_held:
        return False
    return time.monotonic() >= worker.until  # else another timer watches it


def _place(worker: WorkerHandle, stacks: dict[int, list[Frame]]) -> Frame | None:
    """Return where the code of the site is: in the main thread, or in a request of `warm_up`."""
    main = stacks.get(worker.pid, [])
    requests = [stacks.get(entry.native, []) for entry in worker.board.read()]
    own = [frame for frames in (main, *requests) for frame in of_site(frames)]
    return next(iter([*own, *main]), None)
