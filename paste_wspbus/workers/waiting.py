"""How a supervisor waits for its processes, and the texts for those that fail."""

from __future__ import annotations

from paste_wspbus.unix.processes import how
from paste_wspbus.workers.children import WorkerFailed, site_code

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from paste_wspbus.workers.handle import WorkerHandle
    from paste_wspbus.workers.supervisor import SupervisorBus


class StopRequested(Exception):
    """A stop of the site was requested while the supervisor was waiting."""


def _nothing() -> None:
    pass


class Waiting:
    """Waits, and lets the supervisor's loop run meanwhile.

    All methods call ``check`` before each step of the loop; it may raise an error.
    """

    def __init__(self, bus: SupervisorBus) -> None:
        self.bus = bus

    def until(
        self, condition: Callable[[], bool], check: Callable[[], object] = _nothing
    ) -> None:
        """Wait until a condition is true.

        :raises StopRequested: if a stop of the site was requested.
        """
        while not condition():
            if self.bus.leaving:
                raise StopRequested
            check()
            self.bus.events.step()

    def until_ready(
        self,
        workers: list[WorkerHandle],
        is_enough: Callable[[WorkerHandle], bool] = lambda _: False,
        check: Callable[[], object] = _nothing,
    ) -> None:
        """Wait until each process has been READY, or ``is_enough`` is true of it.

        :raises WorkerFailed: if a process ends before that, or is too slow.
        :raises StopRequested: if a stop of the site was requested.
        """

        def waited_for() -> list[WorkerHandle]:
            return [
                worker
                for worker in workers
                if not (worker.was_ready or is_enough(worker))
            ]

        def look() -> None:
            check()
            for worker in waited_for():
                if worker.ended or (worker.problem and worker.leaving):
                    raise failure_of(worker)

        self.until(lambda: not waited_for(), look)

    def until_ended(self, worker: WorkerHandle) -> None:
        """Wait until a process has ended.

        :raises StopRequested: if a stop of the site was requested.
        """
        self.until(lambda: worker.ended)


def failure_of(worker: WorkerHandle) -> WorkerFailed:
    """Make the exception for a process that did not become READY."""
    code = site_code(worker) or 1
    return WorkerFailed(*(worker.problem or (code, how_it_failed(worker))))


def how_it_crashed(worker: WorkerHandle, more: str = '') -> str:
    """Return how a process that is replaced has ended.

    :param more: what `Crashes.note` knows beyond that.
    """
    if worker.too_slow:
        return f'{worker.title} {worker.too_slow}'
    if worker.was_ready:
        return f'{worker.title} crashed, {how(worker.code)}{more}'
    why = worker.problem[1] if worker.problem else how(worker.code)
    return f'{worker.title} failed to start: {why}'


def how_it_failed(worker: WorkerHandle) -> str:
    """Return how a process that has not reported the reason has ended."""
    what = f'{worker.title} ended before it was ready, {how(worker.code)}'
    what += worker.end_note
    if worker.code == 0:
        what += ': a site that becomes a daemon by itself cannot be supervised'
    return what
