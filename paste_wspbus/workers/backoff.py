"""The waits before a process that has crashed is replaced."""

from __future__ import annotations

from typing import NamedTuple

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

#: Seconds before the first, second, … replacement of a process that crashes again and
#: again; the last number is for all later replacements.
WAITS = (0.0, 1.0, 2.0, 4.0, 8.0)

#: Seconds of being READY after which a process is healthy: its next crash counts as the
#: first one. Supervisord calls this startsecs.
HEALTHY = 1.0


class Crash(NamedTuple):
    """One crash: its number among the crashes in a row, and the seconds to wait.

    ``is_too_much`` says whether there were more crashes in a row than there are waits.
    """

    number: int
    wait: float
    is_too_much: bool


class Backoff:
    """Counts the crashes in a row of each name; it has no clock.

    :param waits: seconds before the first replacement, the second, …
    :param healthy: seconds; if a process was READY for so long, its crash counts as the
        first one.
    """

    def __init__(self, waits: Sequence[float], healthy: float) -> None:
        self.waits, self.healthy = waits, healthy
        self._crashes: dict[str, int] = {}

    def crashed(
        self, name: str, ready_for: float | None, excused: bool = False
    ) -> Crash:
        """Count a crash.

        :param name: the name of the process, such as 'worker 2'.
        :param ready_for: seconds for which it was READY; None if it never was.
        :param excused: whether the crash is not the site's fault. Then it counts as the
            first one, even if the process was READY only for a moment.
        """
        is_healthy = ready_for is not None and ready_for >= self.healthy
        before = 0 if is_healthy or excused else self._crashes.get(name, 0)
        number = self._crashes[name] = before + 1
        wait = self.waits[min(number, len(self.waits)) - 1] if self.waits else 0.0
        return Crash(number, wait, number > len(self.waits))
