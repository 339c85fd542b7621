"""The last quarter of an hour: how many requests the site has answered, and how fast."""

from __future__ import annotations

import time
from collections import deque
from typing import NamedTuple

from paste_wspbus.requests.ledger import BUCKETS, CELLS, START

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from paste_wspbus.metrics.families import Sums
    from paste_wspbus.ops.snapshot import Numbers

#: Seconds between two points, and the number of points: a quarter of an hour.
EVERY, POINTS = 5.0, 180

#: A reading that took longer than a hundredth of EVERY is followed by a longer pause: so
#: reading costs a hundredth of a CPU at most, however many workers and routes there are.
TIMES = 100


class Point(NamedTuple):
    """The requests that were answered in the seconds before ``time``, a time.time().

    ``seconds`` is the length of that time, ``rate`` and ``failed`` are requests a second:
    all, and those with a status of 5xx. ``half`` and ``most`` are the seconds within which
    half of them, and 95 of 100, were answered; None if there were none.
    """

    time: float
    seconds: float
    rate: float
    failed: float
    half: float | None
    most: float | None


class History:
    """Reads what the site has counted, again and again; this asks no other process.

    The memory that it needs has a limit: POINTS points, and the sums of one reading.
    """

    def __init__(self) -> None:
        self.points: deque[Point] = deque(maxlen=POINTS)
        #: How many points there have been.
        self.count = 0
        self._before: tuple[float, list[int], int] | None = None
        self.due = time.monotonic()

    def look(self, numbers_now: Callable[[], Numbers | None]) -> None:
        """Add a point if it is time. The first reading, and one after a gap, adds none."""
        now = time.monotonic()
        if now < self.due:
            return
        self.due = now + EVERY
        try:
            numbers = numbers_now()
            total, failed = (None, 0) if numbers is None else added(numbers.read())
        except Exception:  # the file of the site's numbers is broken, or has no site
            total, failed = None, 0
        self.due = max(self.due, now + TIMES * (time.monotonic() - now))
        before, self._before = self._before, None
        if total is None:
            return
        self._before = now, total, failed
        if before is not None and failed >= before[2]:
            then, old, old_failed = before
            new = [one - less for one, less in zip(total, old, strict=True)]
            if min(new) >= 0:  # else the site has begun to count anew
                self._add(now - then, new, failed - old_failed)

    def _add(self, seconds: float, buckets: Sequence[int], failed: int) -> None:
        rate = sum(buckets) / seconds
        half, most = within(buckets, 0.5), within(buckets, 0.95)
        point = Point(time.time(), seconds, rate, failed / seconds, half, most)
        self.points.append(point)
        self.count += 1


def added(sums: Sums) -> tuple[list[int], int]:
    """Return the requests in each bucket of all series together, and those with 5xx."""
    total, failed = [0] * (CELLS - 1), 0
    for series, cells in sums.items():
        if series.status == START:
            continue
        buckets = cells[:-1]
        total = [one + more for one, more in zip(total, buckets, strict=True)]
        if series.status == '5xx':
            failed += sum(buckets)
    return total, failed


def within(buckets: Sequence[int], share: float) -> float | None:
    """Return the seconds within which a share of requests was answered.

    As Prometheus estimates it: the requests of a bucket lie evenly between its limits, and
    those above the last limit count as that limit.

    :param buckets: the number of requests in each bucket.
    :param share: between 0 and 1.
    :returns: None if there is no request.
    """
    wanted, before, lower = sum(buckets) * share, 0, 0.0
    if not wanted:
        return None
    for number, limit in zip(buckets, BUCKETS, strict=False):
        if number and before + number >= wanted:
            return lower + (limit - lower) * (wanted - before) / number
        before, lower = before + number, limit
    return float(BUCKETS[-1])
