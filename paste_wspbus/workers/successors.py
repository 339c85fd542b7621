"""Processes that are replaced while they run: they ask for it, or send no valid reports."""

from __future__ import annotations

import signal
import time
from collections import Counter

from paste_wspbus.bus import State
from paste_wspbus.control.status import followed
from paste_wspbus.role import WORKER
from paste_wspbus.workers.children import WorkerFailed

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from paste_wspbus.workers.handle import WorkerHandle
    from paste_wspbus.workers.supervisor import Supervisor

#: Seconds before a worker that got a signal to stop is replaced. If systemd or a terminal
#: has signalled the whole process group, the supervisor gets the signal meanwhile.
GROUP = 0.2

#: Seconds for which a process has to be READY before it is replaced because it sends no
#: valid reports.
STEADY = 2.0


class Successors:
    """Starts another process in the place of a running one, which stops afterwards."""

    def __init__(self, supervisor: Supervisor) -> None:
        self.supervisor = supervisor
        #: From the name of a worker to the last replacement that was begun, and to the last
        #: one that served: when that was, and what `status` shows.
        self._begun: dict[str, tuple[WorkerHandle, dict[str, Any]]] = {}
        self._last: dict[str, tuple[float, dict[str, Any]]] = {}
        #: How many processes were started in the place of others, by the reason.
        self.counts: Counter[str] = Counter(graceful=0)

    def is_asked_for(self, worker: WorkerHandle, message: dict[str, Any]) -> None:
        """React to a worker that got a signal to stop, but not from the supervisor."""
        self._plan(worker, GROUP, 'was asked to stop', 'signal')

    def replace(self, worker: WorkerHandle, error: Exception) -> None:
        """Replace a process that sends no valid reports: the supervisor cannot watch it."""
        what, then = _what_is_wrong(worker, error)
        self.supervisor.bus.log(f'{what}: {then}', 40)
        if worker.leaving or self.supervisor.is_stopping:
            return
        worker.problem = worker.problem or (1, what)
        if not worker.was_ready:
            worker.signal(signal.SIGKILL)
            return
        # If each successor does it, too, they must not follow each other at once.
        wait = max(GROUP, STEADY - (worker.ready_for or 0))
        self._plan(worker, wait, 'sends no valid reports', 'nonsense')

    def _plan(self, worker: WorkerHandle, wait: float, why: str, reason: str) -> None:
        """Replace a process soon; if it asks several times, replace it only once."""
        if not worker.is_succeeded:

            def begin() -> None:
                self.start(worker, why, reason)

            self.supervisor.events.call_later(wait, begin)
            worker.is_succeeded = True

    def start(self, worker: WorkerHandle, why: str, reason: str) -> WorkerHandle | None:
        """Start the successor: the old process stops when the successor is READY.

        :param why: the reason for the log, such as 'was asked to stop'.
        :param reason: the same in one word, under which it is counted.
        :returns: the successor; None if there is none, or not yet.
        """
        supervisor, bus = self.supervisor, self.supervisor.bus
        worker.is_succeeded = False
        if supervisor.soak.fails(worker, why):  # it has no place yet
            return None
        is_current = supervisor.current.get(worker.name) is worker
        if worker.ended or not is_current or self.has_begun(worker):
            return None
        if bus.state is not State.STARTED or bus.leaving:
            return None
        bus.log(f'{worker.title} {why}: a new process takes its place', 30)
        if worker.role.kind != WORKER:
            supervisor.leaving.let_go(worker)  # two such processes must never run
            return None
        try:
            role = worker.role._replace(generation=supervisor.generation, smokes=False)
            new = supervisor.spawn(role)
            self.counts[reason] += 1
            return new
        except WorkerFailed as failed:
            bus.log(followed(str(failed), f'{worker.title} keeps serving'), 40)
            return None

    def note(
        self,
        worker: WorkerHandle,
        new: WorkerHandle | None,
        why: str,
        request: str | None,
    ) -> None:
        """Keep for `status` why a worker that is ill is replaced.

        :param new: its successor; None if that can only start when the worker has ended.
        :param why: 'hang' or 'deadline'.
        :param request: the method and path of the request that may be the cause.
        """
        self._look(worker.name)
        told = {'pid': worker.pid, 'why': why, 'request': request}
        if new is None:
            self._last[worker.name] = time.monotonic(), told
        else:
            self._begun[worker.name] = new, told

    def _look(self, name: str) -> None:
        """Note whether the replacement that was begun last has succeeded."""
        if name in self._begun:
            new, told = self._begun[name]
            if new.ready_since is not None:
                self._last[name] = new.ready_since, told
                del self._begun[name]

    def describe(self, name: str) -> dict[str, Any]:
        """Return what `status` shows of a name, such as 'worker 2'."""
        self._look(name)
        if name not in self._last:
            return {'last_replacement': None}
        at, told = self._last[name]
        age = round(time.monotonic() - at, 3)
        report = self.supervisor.reports.paths.get(told['pid'])
        times = {'time': time.time() - age, 'age': age}
        return {'last_replacement': {**times, **told, 'report': report}}

    def give_up(self) -> None:
        """Stop the successors that are not READY: a new generation replaces all workers."""
        supervisor = self.supervisor
        for one in list(supervisor.children.of_kind(WORKER)):
            is_current = supervisor.current.get(one.name) is one
            if not (is_current or one.was_ready or one.leaving or one.role.spare):
                supervisor.leaving.let_go(one)

    def has_begun(self, worker: WorkerHandle) -> bool:
        """Whether another process is already starting in its place."""
        return any(
            one.name == worker.name
            and one is not worker
            and not (one.leaving or one.role.spare)
            for one in self.supervisor.children.alive
        )


def _what_is_wrong(worker: WorkerHandle, error: Exception) -> tuple[str, str]:
    """Return why nothing can be learnt any more from a process that runs, and what that means."""
    if isinstance(error, EOFError):
        cause = 'code of the site may have closed descriptors that are not its own'
        return f'{worker.title} has closed its connection to the supervisor', cause
    what = f'{worker.title} has sent something that is not a report ({error})'
    if isinstance(error, MemoryError):
        what = f'A report of {worker.name} was lost for want of memory'
    return what, 'its later reports are ignored'
