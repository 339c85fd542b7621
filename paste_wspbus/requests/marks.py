"""The marks of a request: when it is slow, when it is overdue, and when to look again."""

from __future__ import annotations

from typing import NamedTuple, Protocol

from paste_wspbus.requests.scoreboard import TIMED, Entry

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    from paste_wspbus.requests.stacks import Frame

#: The shortest time in seconds between two looks at all requests.
SHORTEST = 0.05


class Seconds(Protocol):
    """Seconds by path (`ini.units.ByPath`); 0 and None stand for no limit."""

    def of(self, path: str) -> float | None:
        """Return the seconds for a decoded path."""

    def values(self) -> list[float | None]:
        """Return every value that a path can have."""


class Limits(NamedTuple):
    """After how many seconds a request is slow, and when it is overdue."""

    slow: Seconds
    deadline: Seconds

    @property
    def shortest(self) -> float | None:
        """The shortest of all limits, in seconds; None if there is none."""
        limits = [one for one in (*self.slow.values(), *self.deadline.values()) if one]
        return max(min(limits), SHORTEST) if limits else None


class Due(NamedTuple):
    """A request that has reached a mark, and which one: 'slow' or 'deadline'."""

    entry: Entry
    mark: str


class _Known:
    """What is remembered of a request in flight: at which ages something is due."""

    def __init__(self, slow: float | None, deadline: float | None) -> None:
        self.slow, self.deadline = slow, deadline
        self.is_logged = False
        self.place: Frame | None = None


class Marks:
    """Finds the requests of one process that have reached a mark.

    Only requests in which the application computes, or closes its response, are looked at.
    One that began after a look cannot reach a mark before the next one: the next look is
    due after the shortest limit, or as soon as a known request reaches a mark.
    """

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self._known: dict[int, _Known] = {}

    def look(self, entries: Iterable[Entry], now: float) -> list[Due]:
        """Return the requests that are due; each mark of a request is due once.

        The slow mark is due again at twice its age, four times its age, and so on.

        :param now: the time.monotonic().
        """
        before, self._known, due = self._known, {}, []
        for entry in entries:
            if entry.phase not in TIMED:
                continue
            known = before.get(entry.number) or self._meet(entry)
            self._known[entry.number] = known
            age = now - entry.since
            if known.slow and age >= known.slow:
                while known.slow <= age:
                    known.slow *= 2
                due.append(Due(entry, 'slow'))
            if known.deadline and age >= known.deadline:
                known.deadline = None
                due.append(Due(entry, 'deadline'))
        return due

    def next_look(self, entries: Iterable[Entry], now: float) -> float | None:
        """Return the seconds until the next look is due; None if there are no limits."""
        wait = self.limits.shortest
        if wait is None:
            return None
        for entry in entries:
            known = self._known.get(entry.number)
            for mark in (known.slow, known.deadline) if known else ():
                if mark:
                    wait = min(wait, max(entry.since + mark - now, 0.0))
        return wait

    def again(self, number: int, age: float) -> None:
        """Make the deadline of a request due again, when it has this age in seconds."""
        if number in self._known:
            self._known[number].deadline = age

    def knows(self, number: int) -> bool:
        """Whether a request was logged as slow."""
        known = self._known.get(number)
        return known is not None and known.is_logged

    def is_news(self, number: int, place: Frame | None) -> bool:
        """Whether to log where a slow request is: it was not logged, or is elsewhere now."""
        known = self._known.get(number)
        if known is None:
            return False  # it has ended meanwhile
        is_news = not known.is_logged or known.place != place
        known.is_logged, known.place = True, place
        return is_news

    def _meet(self, entry: Entry) -> _Known:
        path = decoded(entry.path)
        return _Known(self.limits.slow.of(path), self.limits.deadline.of(path))


def decoded(path: str) -> str:
    """Decode a path of environ, whose bytes are UTF-8 nearly always."""
    return path.encode('latin-1', 'replace').decode('utf-8', 'replace')
