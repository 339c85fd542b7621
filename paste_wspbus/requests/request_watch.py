"""The watch over the requests of one process without a supervisor: a thread of its own."""

from __future__ import annotations

import sys
import time
from _thread import allocate_lock, start_new_thread  # the originals: see `RequestWatch`

from paste_wspbus.requests.examining import APPLICATION, examine
from paste_wspbus.requests.marks import Marks
from paste_wspbus.requests.reporting import described, named
from paste_wspbus.requests.stacks import frames_of, innermost

TYPE_CHECKING = False
if TYPE_CHECKING:
    from _thread import LockType

    from paste_wspbus.bus import Bus
    from paste_wspbus.requests.marks import Limits
    from paste_wspbus.requests.scoreboard import Entry
    from paste_wspbus.requests.stacks import Frame
    from paste_wspbus.requests.watched import WatchedRequests


class RequestWatch:
    """Logs the requests that are slow or overdue, while the bus is started.

    Its thread is one of the system's, also if gevent or eventlet has patched Python: it
    must run while greenlets do not. It ends no request.

    :param requests: the requests of the filter.
    """

    def __init__(self, bus: Bus, requests: WatchedRequests, limits: Limits) -> None:
        self.bus, self.requests, self.limits = bus, requests, limits
        self._wake = allocate_lock()

    def subscribe(self) -> None:
        """Watch from the start of the bus to its stop."""
        self.bus.subscribe('start', self.start)
        self.bus.subscribe('stop', self.stop)

    def start(self) -> None:
        """Start the thread."""
        self._wake = allocate_lock()
        self._wake.acquire()
        start_new_thread(self._run, (self._wake,))

    def stop(self) -> None:
        """Let the thread end."""
        if self._wake.locked():
            self._wake.release()

    def _run(self, wake: LockType) -> None:
        marks = Marks(self.limits)
        wait = self.limits.shortest
        while wait is not None and not wake.acquire(timeout=wait):
            entries, now = self.requests.board.read(), time.monotonic()
            self.requests.overdue &= {entry.number for entry in entries}
            for due in marks.look(entries, now):
                if examine(self.bus, due.entry.number) != APPLICATION:
                    if due.mark == 'deadline':  # it may compute later, for ever
                        marks.again(due.entry.number, 2 * (now - due.entry.since))
                    continue
                stack = frames_of(sys._current_frames().get(due.entry.ident))
                if due.mark == 'slow':
                    self._slow(marks, due.entry, stack)
                else:
                    self._overdue(due.entry, stack)
            wait = marks.next_look(entries, now)

    def _slow(self, marks: Marks, entry: Entry, stack: list[Frame]) -> None:
        is_known = marks.knows(entry.number)
        if marks.is_news(entry.number, innermost(stack)):
            self.requests.counts.slow += not is_known
            self.bus.log(described(entry, time.monotonic(), stack), 30)

    def _overdue(self, entry: Entry, stack: list[Frame]) -> None:
        self.requests.counts.overdue += 1
        self.requests.overdue.add(entry.number)
        more = ', past its deadline; without workers, nothing ends it'
        self.bus.log(described(entry, time.monotonic(), stack, more), 40)
        reports = self.bus.plugins.get('wspbus.reports')
        if reports is not None:
            reports.is_overdue(named(entry, time.monotonic()))
