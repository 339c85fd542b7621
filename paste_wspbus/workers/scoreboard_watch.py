"""The supervisor's watch over requests: it times them from the scoreboards of the workers."""

from __future__ import annotations

import time

from paste_wspbus.requests.examining import CLIENT, DEBUGGER, GONE, STREAM
from paste_wspbus.requests.marks import Marks
from paste_wspbus.requests.reporting import Counts, described
from paste_wspbus.requests.stacks import innermost
from paste_wspbus.role import WORKER
from paste_wspbus.workers.overdue import Overdue

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from paste_wspbus.requests.marks import Limits
    from paste_wspbus.requests.scoreboard import Entry
    from paste_wspbus.requests.stacks import Frame
    from paste_wspbus.watching.loop import Timer
    from paste_wspbus.workers.handle import WorkerHandle
    from paste_wspbus.workers.supervisor import Supervisor

#: Seconds that a worker has to answer what a request waits for. If the request holds
#: the GIL, the worker cannot answer; but then none of its requests waits for a client.
EXAMINE = 0.25

#: Seconds by which a look may be late. If it is later, this process did not run, and the
#: workers perhaps neither (`docker pause`): they have CATCH_UP seconds to end the requests
#: that were nearly done. Not twice in a row: a machine that is too busy is always late.
LATE, CATCH_UP = 1.0, 1.0

#: The answer for a worker that does not answer.
UNKNOWN = 'unknown'


class ScoreboardWatch:
    """Logs the requests that are slow, and finds those that are overdue.

    It wakes up once in the shortest time that a request may take, and when a request that
    it knows reaches a mark.
    """

    def __init__(self, supervisor: Supervisor) -> None:
        self.supervisor, self.counts = supervisor, Counts()
        self._events, self._stacks = supervisor.events, supervisor.stacks
        self._limits: Limits | None = None
        self._marks: dict[WorkerHandle, Marks] = {}
        self._timer: Timer | None = None
        #: The time.monotonic() at which the next look is due.
        self._due, self._is_late = 0.0, False
        #: The open questions about requests: {(process, number): the function that gets
        #: the answer}.
        self._examined: dict[tuple[WorkerHandle, int], Callable[[str], object]] = {}
        self._overdue = Overdue(supervisor, self)
        supervisor.children.hear('examined', self._is_examined)

    def use(self, limits: Limits | None) -> None:
        """Use these limits from now on."""
        if limits != self._limits:
            self._limits = limits
            self._marks.clear()
        if self._timer is not None:
            self._events.cancel(self._timer)
        self._look_after(None if limits is None else limits.shortest)

    def _look_after(self, seconds: float | None) -> None:
        self._timer = None
        if seconds is not None:
            self._due = time.monotonic() + seconds
            self._timer = self._events.call_later(seconds, self._look)

    def _look(self) -> None:
        """Look at all requests, and plan the next look."""
        self._is_late = time.monotonic() - self._due > LATE and not self._is_late
        if self._is_late:
            self._look_after(CATCH_UP)
            return
        limits = self._limits
        assert limits is not None
        waits: list[float | None] = [limits.shortest]
        try:
            self._look_at_all(limits, waits)
        finally:  # also if that fails: the next look may not
            self._look_after(min(wait for wait in waits if wait is not None))

    def _look_at_all(self, limits: Limits, waits: list[float | None]) -> None:
        """Look at all requests, and add the seconds until each next look."""
        before, self._marks = self._marks, {}
        for worker in self.supervisor.children.of_kind(WORKER):
            if not worker.is_ready:
                continue
            marks = self._marks[worker] = before.get(worker) or Marks(limits)
            entries, now = worker.board.read(), time.monotonic()
            for due in marks.look(entries, now):
                self._reach(due.mark, worker, due.entry)
            waits.append(marks.next_look(entries, now))

    def _reach(self, mark: str, worker: WorkerHandle, entry: Entry) -> None:
        if mark == 'slow':
            self.examine(worker, entry, lambda waits: self._slow(worker, entry, waits))
        else:
            self._overdue.reach(worker, entry, self._marks[worker])

    # -- slow -----------------------------------------------------------------------

    def _slow(self, worker: WorkerHandle, entry: Entry, waits: str) -> None:
        if waits in (CLIENT, STREAM, GONE, DEBUGGER):
            return

        def log(stack: list[Frame] | None) -> None:
            marks = self._marks.get(worker)
            is_known = marks is not None and marks.knows(entry.number)
            place = innermost(stack or [])
            if marks is None or not marks.is_news(entry.number, place):
                return
            self.counts.slow += not is_known
            self.log(worker, entry, stack)

        self.ask_for_stack(worker, entry, log)

    # -- what all marks need ----------------------------------------------------------

    def log(
        self,
        worker: WorkerHandle,
        entry: Entry,
        stack: list[Frame] | None,
        more: str = '',
        level: int = 30,
    ) -> None:
        """Log a request, where it is, and ``more``."""
        what = described(entry, time.monotonic(), stack, more)
        self.supervisor.bus.log(f'{worker.title}: {what}', level)

    def ask_for_stack(
        self,
        worker: WorkerHandle,
        entry: Entry,
        then: Callable[[list[Frame] | None], object],
    ) -> None:
        """Call a function with the stack of a request's thread; with None if it is not known."""

        def answer(stacks: dict[int, list[Frame]] | None) -> None:
            then((stacks or {}).get(entry.native))

        self._stacks.ask(worker, answer, entry.native)

    def examine(
        self, worker: WorkerHandle, entry: Entry, then: Callable[[str], object]
    ) -> None:
        """Call a function with what a request waits for, as the worker says it, or UNKNOWN."""
        key = worker, entry.number
        earlier = self._examined.get(key)

        def both(waits: str) -> None:
            if earlier is not None:
                earlier(waits)
            then(waits)

        self._examined[key] = both if earlier is not None else then
        if earlier is None:
            worker.tell('examine', entry.number)
            self._events.call_later(EXAMINE, lambda: self._answer(key, UNKNOWN))

    def _is_examined(self, worker: WorkerHandle, message: dict[str, Any]) -> None:
        self._answer((worker, message['examined']), message['waits'])

    def _answer(self, key: tuple[WorkerHandle, int], waits: str) -> None:
        then = self._examined.pop(key, None)
        if then is not None:
            then(waits)
