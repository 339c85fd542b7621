"""The soak: the first worker of a new generation serves beside all old ones for a while."""

from __future__ import annotations

import time

from paste_wspbus.unix.processes import how
from paste_wspbus.workers.children import WorkerFailed
from paste_wspbus.workers.crashes import requests_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from paste_wspbus.workers.handle import WorkerHandle
    from paste_wspbus.workers.supervisor import Supervisor

#: Seconds between two questions to the new worker, which it must answer.
LOOK = 0.25

#: Seconds after which a worker that does not answer hangs. A request may compute for some
#: seconds, and hold the interpreter lock.
SILENCE = 5.0


class Soak:
    """Watches a new worker that has not taken the place of an old one yet."""

    def __init__(self, supervisor: Supervisor) -> None:
        self.supervisor = supervisor
        self._worker: WorkerHandle | None = None
        self._began = self._until = 0.0

    def covers(self, worker: WorkerHandle) -> bool:
        """Whether a worker is in its soak, or will be as soon as it is READY."""
        return worker is self._worker

    def fails(self, worker: WorkerHandle, why: str) -> bool:
        """Let the generation of a worker fail, if this is its soak; return whether it is.

        :param why: such as 'was asked to stop'.
        """
        if not self.covers(worker):
            return False
        worker.problem = worker.problem or (1, f'{worker.title} {why}')
        return True

    def run(self, worker: WorkerHandle, seconds: float) -> None:
        """Wait until a new worker is READY, and then has served for some seconds.

        Another request for a graceful restart ends this early. At the end, a roll that has
        asked for this restart must still go on. The caller lets the worker take its place.

        :raises WorkerFailed: if it does not become READY, ends, or hangs; or if the roll has
            ended.
        :raises StopRequested: if a stop of the site was requested.
        """
        waiting, self._worker = self.supervisor.waiting, worker
        self._until = 0.0
        try:
            waiting.until_ready([worker])
            self._began = time.monotonic()
            self._until = self._began + seconds
            self._ask()
            waiting.until(lambda: self._is_over(worker), lambda: self._check(worker))
            self.supervisor.renewals.enter(lambda: self._check(worker))
        except Exception:  # not BecomeWorker, in a process that was forked meanwhile
            self.supervisor.leaving.let_go(worker)
            raise
        finally:
            self._worker = None

    def _ask(self) -> None:
        worker = self._worker
        if worker is None or worker.ended:
            return
        worker.ask_for_status()
        self.supervisor.events.call_later(LOOK, self._ask)

    def _is_over(self, worker: WorkerHandle) -> bool:
        if worker.is_about_to_end or worker.leaving or worker.sends_nonsense:
            return False
        if self.supervisor.renewals.is_asked_for:
            return True
        return time.monotonic() >= self._until and worker.asked_since is None

    def _check(self, worker: WorkerHandle) -> None:
        """Raise the failure of a worker that has ended, or does not answer."""
        now = time.monotonic()
        within = f'{now - self._began:.1f} s after it was ready (soak)'
        if worker.ended:
            more = self.supervisor.crashes.note(worker, is_replaced=False)
            if had := requests_of(worker):
                self.supervisor.bus.log(had, 40)
            raise WorkerFailed(
                1, f'{worker.title} crashed, {how(worker.code)}{more}, {within}'
            )
        if worker.problem is not None:
            raise WorkerFailed(1, f'{worker.problem[1]}, {within}')
        if worker.asked_since is not None and now - worker.asked_since >= SILENCE:
            state = worker.why_stopped or 'it hangs'
            what = f'{worker.title} does not answer: {state}'
            raise WorkerFailed(1, f'{what}, {within}')

    def describe(self) -> dict[str, Any] | None:
        """Return what `status` shows of it; None if there is none now."""
        worker = self._worker
        if worker is None or not self._until:
            return None
        return {
            'worker': worker.name,
            'pid': worker.pid,
            'generation': worker.role.generation,
            'remaining': round(max(self._until - time.monotonic(), 0), 3),
        }
