"""The waits before a process that has crashed is replaced."""

from __future__ import annotations

import time
from collections import deque
from typing import NamedTuple

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

#: Seconds before the replacement that follows the first crash within a minute, the second
#: one, …; the last number is for all later crashes.
WAITS = (0.0, 1.0, 2.0, 4.0, 8.0, 16.0)

#: With more workers than FEW and one, the waits are longer: by the workers above FEW, but at
#: most MOST times. So a site of up to eight workers that crash again and again starts at
#: most twelve processes in its first minute, the first ones included. A larger site starts
#: each worker, and at most four more.
FEW, MOST = 4, 4

#: Seconds of being READY after which a process is healthy: its next crash counts as the
#: first one in a row. Supervisord calls this startsecs.
HEALTHY = 1.0

#: Seconds for which a crash counts.
MINUTE = 60.0

#: Seconds of being READY after which a process is replaced at once, and does not count: a
#: site whose workers die so rarely serves better if all of them are there. If a replacement
#: has been READY for so long, and nothing has crashed meanwhile, those that still wait
#: start at once.
SETTLED = 20.0


class Crash(NamedTuple):
    """One crash: the number of crashes in a row, of all processes, and the seconds to wait.

    ``is_too_much`` says whether more replacements have crashed in a row than there are waits.
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
        self,
        name: str,
        ready_for: float | None,
        excused: bool = False,
        workers: int = 1,
    ) -> Crash:
        """Count a crash.

        :param name: the name of the process, such as 'worker 2'.
        :param ready_for: seconds for which it was READY; None if it never was.
        :param excused: whether the crash is not the site's fault. Then it counts as the
            first one in a row; the wait is the same.
        :param workers: the number of workers of the site.
        """
        if excused or (ready_for is not None and ready_for >= self.healthy):
            self._row.clear()
        self._row[name] = self._row.get(name, 0) + 1
        # Each process that has crashed once may be the first one of its name: what is
        # counted here are the replacements that have crashed.
        number = sum(self._row.values())
        is_too_much = number - len(self._row) >= len(self.waits)
        wait = 0.0
        if ready_for is None or ready_for < SETTLED:
            self._forget_old()
            self._recent.append(self.clock())
            wait = self._wait(len(self._recent), workers)
        return Crash(number, wait, is_too_much)

    def turn(self, workers: int, before: int) -> float:
        """Return the seconds to wait before a first start, after all that wait already.

        Whether it crashes, too, is not known yet: it waits as if those before it did.

        :param workers: the number of workers of the site.
        :param before: the number of first starts that wait already.
        """
        self._forget_old()
        crashes = len(self._recent)
        return self._wait(crashes + 1 + before, workers) if crashes else 0.0

    def _forget_old(self) -> None:
        since = self.clock() - MINUTE
        while self._recent and self._recent[0] <= since:
            self._recent.popleft()

    def _wait(self, crashes: int, workers: int) -> float:
        wait = self.waits[min(crashes, len(self.waits)) - 1] if self.waits else 0.0
        wait *= min(max(workers - FEW, 1), MOST)
        now = self.clock()
        self._last_start = max(now, self._last_start) + wait
        return self._last_start - now

    def is_calm(self) -> bool:
        """Whether nothing has crashed for SETTLED seconds."""
        return not self._recent or self._recent[-1] <= self.clock() - SETTLED

    def release(self) -> None:
        """Note that the processes that wait start now."""
        self._last_start = float('-inf')

    def forget(self) -> None:
        """Forget all crashes: the site has new code."""
        self._row.clear()
        self._recent.clear()
        self._last_start = float('-inf')
