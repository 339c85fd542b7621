"""Recycling: workers are replaced after so many requests, at a size, or at an age."""

from __future__ import annotations

import time
from collections import Counter
from typing import NamedTuple

from paste_wspbus.bus import State
from paste_wspbus.unix.processes import proportional_memory_of
from paste_wspbus.watching.loop import Repeat

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from paste_wspbus.workers.handle import WorkerHandle
    from paste_wspbus.workers.plan import Plan
    from paste_wspbus.workers.supervisor import Supervisor

#: Seconds between two looks at the workers.
EVERY = 1.0

#: The largest part by which the limits of a worker are lower than in the .ini: workers
#: that were started together must not be replaced together.
JITTER = 0.1

#: Seconds without a try after a new process did not become READY.
PAUSE = 60.0


class Seen(NamedTuple):
    """What is known of a worker at a look; None stands for what is not known.

    ``served`` is the number of its requests, ``memory`` bytes, ``age`` the seconds since
    it is READY.
    """

    served: int | None
    memory: int | None
    age: float


def reason(plan: Plan, share: float, seen: Seen) -> str | None:
    """Return why a worker should be replaced, for the log; None if it should not.

    :param share: the part of the limits that holds for this worker, from 1 - `JITTER` to
        1. The limit of memory holds as it is: workers do not grow together.
    """
    most, served = plan.max_requests * share, seen.served
    if most and served is not None and served >= most:
        limit = f'max_requests = {plan.max_requests}'
        return f'has served {served} requests ({limit}, for this worker {most:.0f})'
    if seen.memory is not None and is_too_large(plan, seen.memory):
        limit = f'max_memory = {_megabytes(plan.max_memory)}'
        return f'uses {_megabytes(seen.memory)} of memory ({limit})'
    if plan.max_age and seen.age >= (most := plan.max_age * share):
        limit = f'max_age = {plan.max_age:g} s'
        return (
            f'has served for {seen.age:.0f} s ({limit}, for this worker {most:.0f} s)'
        )
    return None


def is_too_large(plan: Plan, memory: int) -> bool:
    """Whether a number of bytes is more than a worker may use."""
    return 0 < plan.max_memory < memory


def _megabytes(size: int) -> str:
    return f'{size / (1 << 20):.0f}M'


class Recycling:
    """Replaces one worker of the site at a time; never during a graceful restart."""

    def __init__(self, supervisor: Supervisor) -> None:
        self.supervisor, self.bus = supervisor, supervisor.bus
        self._repeat: Repeat | None = None
        #: The worker that is being replaced, why, and the process that takes its place.
        self._under_way: tuple[WorkerHandle, str, WorkerHandle] | None = None
        self._not_before = float('-inf')
        #: The process IDs of workers that were too large as soon as they were READY.
        self._large: set[int] = set()
        self._counts: Counter[str] = Counter()
        self._last: dict[str, tuple[float, dict[str, Any]]] = {}

    @property
    def is_on(self) -> bool:
        """Whether the plan has a limit."""
        plan = self.supervisor.plan
        return bool(plan.max_requests or plan.max_memory or plan.max_age)

    def adjust(self) -> None:
        """Begin to look at the workers if the plan, which may be new, has a limit."""
        if self.is_on and self._repeat is None:
            self._repeat = Repeat(self.supervisor.events, EVERY, self._look)

    def _look(self) -> bool:
        if not self.is_on or self.supervisor.server is None:
            self._repeat = None
            if self.is_on:
                self.bus.log(
                    'max_requests, max_memory and max_age need a server that wspserve '
                    'knows: two processes cannot bind its address. No worker is recycled',
                    30,
                )
            return False
        if self._may_begin():
            workers = self.supervisor.serving()
            for worker in workers:
                worker.ask_for_status()
            oldest = sorted(workers, key=lambda one: one.ready_since or 0.0)
            any(self._recycle(worker) for worker in oldest)
        return True

    def _may_begin(self) -> bool:
        supervisor = self.supervisor
        if self._under_way is not None and not self._is_over(*self._under_way):
            return False
        if supervisor.is_renewing or supervisor.renewals.is_asked_for:
            return False
        is_started = self.bus.state is State.STARTED and not self.bus.leaving
        return is_started and time.monotonic() >= self._not_before

    def _is_over(self, old: WorkerHandle, why: str, new: WorkerHandle) -> bool:
        """Note how a replacement has ended; return False if it has not."""
        if not new.ended and not (new.was_ready and old.ended):
            return False
        self._under_way = None
        if new.was_ready:
            self._counts[old.name] += 1
            told = {'time': time.time(), 'pid': old.pid, 'why': why}
            self._last[old.name] = time.monotonic(), told
        else:  # the log says why, and that the old one keeps serving
            self._not_before = time.monotonic() + PAUSE
        return True

    def _recycle(self, worker: WorkerHandle) -> bool:
        """Replace a worker if it is over a limit; return whether a new process starts."""
        plan = self.supervisor.plan
        seen = self._see(worker, plan)
        if (why := reason(plan, 1 - JITTER * worker.jitter, seen)) is None:
            return False
        if not self.supervisor.strategy.is_prepared(worker.role):
            return False  # the process that forks it starts first
        limit = why.partition('(')[2].partition(' =')[0]  # such as max_age
        new = self.supervisor.successors.start(worker, why, limit)
        if new is not None:
            self._under_way = worker, why, new
        return new is not None

    def is_ready(self, worker: WorkerHandle) -> None:
        """Look at the memory of a worker that has just become READY."""
        plan = self.supervisor.plan
        memory = self._memory_of(worker, plan)
        if memory is None or not is_too_large(plan, memory):
            return
        # Its successor would be as large: replacing it would never end.
        alive = {one.pid for one in self.supervisor.children.alive}
        self._large = (self._large & alive) | {worker.pid}
        self.bus.log(
            f'{worker.title} uses {_megabytes(memory)} of memory right after its start: '
            f'max_memory = {_megabytes(plan.max_memory)} is too little, and does not '
            'count for it',
            30,
        )

    def _memory_of(self, worker: WorkerHandle, plan: Plan) -> int | None:
        if not plan.max_memory:
            return None
        memory = worker.look_at_memory()
        if memory is not None and is_too_large(plan, memory):
            if worker.is_late:
                return None  # it hangs, and so might the next look
            # What workers share counts for each of them: look again, which takes longer.
            memory = proportional_memory_of(worker.pid) or memory
        return memory

    def _see(self, worker: WorkerHandle, plan: Plan) -> Seen:
        memory = None
        if worker.pid not in self._large:
            memory = self._memory_of(worker, plan)
        served = None if worker.status is None else worker.status.get('served')
        return Seen(served, memory, worker.ready_for or 0.0)

    def describe(self, name: str) -> dict[str, Any]:
        """Return what `status` shows of a name, such as 'worker 2'."""
        at, last = self._last.get(name, (0.0, None))
        if last is not None:
            last = {'age': round(time.monotonic() - at, 3), **last}
        return {'recycled': self._counts[name], 'last_recycling': last}
