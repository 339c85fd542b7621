"""Processes that are replaced while they run: they ask for it, or do not speak as they should."""

from __future__ import annotations

import signal

from paste_wspbus.bus import State
from paste_wspbus.role import WORKER
from paste_wspbus.workers.children import WorkerFailed

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from paste_wspbus.workers.handle import WorkerHandle
    from paste_wspbus.workers.supervisor import Supervisor

#: Seconds until a worker that a signal has stopped is replaced: whoever
#: signals all of a group (systemd, a terminal) means the supervisor, too.
GROUP = 0.2

#: Seconds for which a process has to be ready before it is replaced because it does
#: not speak as it should.
STEADY = 2.0


class Successors:
    """Starts another process in the place of one that runs, which stops afterwards."""

    def __init__(self, supervisor: Supervisor) -> None:
        self.supervisor = supervisor

    def is_asked_for(self, worker: WorkerHandle, message: dict[str, Any]) -> None:
        """React to a worker that somebody else has asked to stop."""
        self._plan(worker, GROUP, 'was asked to stop')

    def babbles(self, worker: WorkerHandle, error: Exception) -> None:
        """Replace a process that does not speak as it should: it cannot be looked after."""
        what = f'{worker.title} has sent something that is not a report ({error})'
        line = f'{what}: its later reports are ignored'
        self.supervisor.bus.log(line, 40)
        if worker.leaving or self.supervisor.is_stopping:
            return
        worker.problem = worker.problem or (1, what)
        if not worker.was_ready:
            worker.signal(signal.SIGKILL)
            return
        # If each one does it, they are not to follow each other at once.
        wait = max(GROUP, STEADY - (worker.ready_for or 0))
        self._plan(worker, wait, 'sends no valid reports')

    def _plan(self, worker: WorkerHandle, wait: float, why: str) -> None:
        """Have a process replaced soon; however often it asks, by one."""
        if not worker.is_succeeded:
            worker.is_succeeded = True
            self.supervisor.events.call_later(wait, lambda: self._start(worker, why))

    def _start(self, worker: WorkerHandle, why: str) -> None:
        """Start the successor: the process stops when that is ready."""
        supervisor, bus = self.supervisor, self.supervisor.bus
        worker.is_succeeded = False
        is_current = supervisor.current.get(worker.name) is worker
        if worker.ended or not is_current or self._has_begun(worker):
            return
        if bus.state is not State.STARTED or bus.leaving:
            return
        bus.log(f'{worker.title} {why}: a new process takes its place', 30)
        if worker.role.kind != WORKER:
            supervisor.leaving.let_go(worker)  # there must never be two of them
            return
        try:
            supervisor.spawn(worker.role._replace(generation=supervisor.generation))
        except WorkerFailed as failed:
            bus.log(f'{failed}; {worker.title} keeps serving', 40)

    def _has_begun(self, worker: WorkerHandle) -> bool:
        """Whether another process is about to take its place."""
        return any(
            one.name == worker.name
            and one is not worker
            and not (one.leaving or one.role.spare)
            for one in self.supervisor.children.alive
        )
