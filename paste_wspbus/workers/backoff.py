"""The waits before a process that has crashed is replaced."""

from __future__ import annotations

import time
from collections import deque
from typing import NamedTuple

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

#: Seconds before the replacement that follows the first crash within a minute, the second
#: one, …; the last number is for all later crashes. With four workers or fewer, a site
#: whose workers crash again and again starts at most twelve processes in its first minute.
WAITS = (0.0, 1.0, 2.0, 4.0, 8.0, 16.0)

#: Seconds of being READY after which a process is healthy: its next crash counts as the
#: first one in a row. Supervisord calls this startsecs.
HEALTHY = 1.0

#: Seconds for which a crash counts.
MINUTE = 60.0

#: Seconds of being READY after which a process is replaced at once, and does not count: a
#: site whose workers die so rarely serves better if all of them are there.
SETTLED = 20.0


class Crash(NamedTuple):
    """One crash: its number among the crashes in a row, and the seconds to wait.

    ``is_too_much`` says whether there were more crashes in a row than there are waits.
    """

    number: int
    wait: float
    is_too_much: bool


class Backoff:
    """Spaces the starts of a site's processes by the crashes in the last minute.

    All processes of a site have their waits one after the other: with many workers, there
    are no more starts in a minute than with one.

    :param waits: seconds before the first replacement, the second, …
    :param healthy: seconds; if a process was READY for so long, its crash counts as the
        first one in a row.
    :param clock: returns seconds, as time.monotonic().
    """

    def __init__(
        self,
        waits: Sequence[float],
        healthy: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.waits, self.healthy, self.clock = waits, healthy, clock
        #: The crashes in a row of each name.
        self._row: dict[str, int] = {}
        self._recent: deque[float] = deque(maxlen=1000)
        #: When the last replacement starts, or has started.
        self._last_start = float('-inf')

    def crashed(
        self, name: str, ready_for: float | None, excused: bool = False
    ) -> Crash:
        """Count a crash.

        :param name: the name of the process, such as 'worker 2'.
        :param ready_for: seconds for which it was READY; None if it never was.
        :param excused: whether the crash is not the site's fault. Then it counts as the
            first one in a row; the wait is the same.
        """
        if excused or (ready_for is not None and ready_for >= self.healthy):
            self._row.clear()
        number = self._row[name] = self._row.get(name, 0) + 1
        # Each process that has crashed once may be the first one of its name: what is
        # counted here are the replacements that have crashed.
        again = sum(self._row.values()) - len(self._row)
        is_too_much = again >= len(self.waits)
        return Crash(number, self._wait(ready_for), is_too_much)

    def _wait(self, ready_for: float | None) -> float:
        if ready_for is not None and ready_for >= SETTLED:
            return 0.0
        now = self.clock()
        self._recent.append(now)
        while self._recent[0] <= now - MINUTE:
            self._recent.popleft()
        wait = 0.0
        if self.waits:
            wait = self.waits[min(len(self._recent), len(self.waits)) - 1]
        self._last_start = max(now, self._last_start) + wait
        return self._last_start - now

    def forget(self) -> None:
        """Forget all crashes: the site has new code."""
        self._row.clear()
        self._recent.clear()
        self._last_start = float('-inf')
