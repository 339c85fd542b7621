"""Requests past their deadline: their worker is replaced, and their clients get a 503."""

from __future__ import annotations

import time

from paste_wspbus.bus import State
from paste_wspbus.requests.examining import CLIENT, DEBUGGER, GONE, STREAM
from paste_wspbus.requests.reporting import named

TYPE_CHECKING = False
if TYPE_CHECKING:
    from paste_wspbus.requests.marks import Marks
    from paste_wspbus.requests.scoreboard import Entry
    from paste_wspbus.requests.stacks import Frame
    from paste_wspbus.workers.handle import WorkerHandle
    from paste_wspbus.workers.scoreboard_watch import ScoreboardWatch
    from paste_wspbus.workers.supervisor import Supervisor

#: The shortest time in seconds between two replacements in the place of one worker: if each
#: request were overdue, workers would do nothing but start.
APART = 60.0

#: Seconds until the next look at a request that became overdue during another
#: replacement.
AGAIN = 5.0


class Overdue:
    """Ends the requests that are past their deadline, without losing any other.

    A successor starts first. When it is READY, the old worker gets the order to give these
    requests up, and the order to make way (`Leaving.let_go`).
    """

    def __init__(self, supervisor: Supervisor, watch: ScoreboardWatch) -> None:
        self.supervisor, self.request_watch = supervisor, watch
        #: From the name of a worker to the time.monotonic() of its last replacement.
        self._replaced: dict[str, float] = {}

    def reach(self, worker: WorkerHandle, entry: Entry, marks: Marks) -> None:
        """React to a request that has reached its deadline, or its next look after that."""

        def decide(waits: str) -> None:
            if waits in (STREAM, GONE):
                return
            if waits == DEBUGGER:  # the developer may let it compute for ever
                marks.again(entry.number, time.monotonic() - entry.since + APART)
                return
            if waits == CLIENT:
                what = named(entry, time.monotonic())
                line = 'its client keeps it waiting: its connection is closed'
                self.supervisor.bus.log(f'{worker.title}: {what}; {line}', 30)
                worker.tell('give_up', entry.number)
                # It may compute then, although nobody waits for its answer.
                marks.again(entry.number, time.monotonic() - entry.since + APART)
                return
            if entry.number in worker.board.overdue:
                self._replace(worker, entry, marks)
                return
            worker.board.overdue.add(entry.number)
            self.request_watch.counts.overdue += 1
            self.request_watch.ask_for_stack(worker, entry, log_and_replace)

        def log_and_replace(stack: list[Frame] | None) -> None:
            self.request_watch.log(
                worker, entry, stack, ', past its deadline', level=40
            )
            what = named(entry, time.monotonic())
            self.supervisor.reports.is_overdue(worker, f'{what}, past its deadline')
            self._replace(worker, entry, marks)

        self.request_watch.examine(worker, entry, decide)

    def _replace(self, worker: WorkerHandle, entry: Entry, marks: Marks) -> None:
        """Start a successor, now or later."""
        supervisor, bus, now = self.supervisor, self.supervisor.bus, time.monotonic()
        age = now - entry.since
        if worker.leaving:  # a successor has taken its place already
            worker.tell('give_up', entry.number)
            return
        if not supervisor.strategy.replaces or worker.ended:
            return
        if supervisor.is_renewing or bus.state is not State.STARTED or bus.leaving:
            marks.again(entry.number, age + AGAIN)
            return
        marks.again(entry.number, age + APART)  # if the successor fails to start
        if supervisor.successors.has_begun(worker):
            return
        wait = self._replaced.get(worker.name, -APART) + APART - now
        if wait > 0:
            marks.again(entry.number, age + wait)
            line = (
                f'{worker.title} was started in the place of another one less than a '
            )
            line += f'minute ago: it is replaced in {wait:.0f} s if the request still '
            line += 'runs then'
            bus.log(line, 30)
        elif new := supervisor.successors.start(
            worker, 'has an overdue request', 'deadline'
        ):
            self._replaced[worker.name] = now
            request = ascii(f'{entry.method} {entry.path}')[1:-1]
            supervisor.successors.note(worker, new, 'deadline', request)
