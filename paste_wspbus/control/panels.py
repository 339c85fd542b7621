"""The parts of a timeline's picture: what happened in which time, and the scale of each."""

from __future__ import annotations

from paste_wspbus.control.status import number
from paste_wspbus.control.timeline import END, LOAD, START, Life, Row, lives

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any

#: The units of scales: seconds from which on one is used, its seconds, its name.
UNITS = ((120.0, 60.0, 'min'), (2.0, 1.0, 's'), (0.0, 0.001, 'ms'))


class Scale:
    """The time axis of a length: in ms, s or min; each of 5 to 10 lines is ``step`` units."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        _, self.factor, self.unit = next(u for u in UNITS if seconds >= u[0])
        length, power = seconds / self.factor, 1e-6
        while power * 100 <= length:
            power *= 10
        self.step = next(
            s * power for s in (1, 2, 5, 10, 20, 50, 100) if length / (s * power) <= 10
        )

    def text(self, seconds: float) -> str:
        """Return a time in this unit; one that is too short for it, in a smaller one."""
        value = seconds / self.factor
        if value < 0.1 and self.factor > UNITS[-1][1]:
            return Scale(seconds).text(seconds)
        return f'{value:.{0 if value >= 100 else 1 if value >= 10 else 2}f} {self.unit}'

    def ticks(self) -> list[tuple[float, str]]:
        """Return the seconds of each line, and its text."""
        count = int(self.seconds / self.factor / self.step + 1e-9)
        return [
            (n * self.step * self.factor, f'{n * self.step:g}')
            for n in range(count + 1)
        ]

    @property
    def announcement(self) -> str:
        """What the picture says of it."""
        return f'one line is {self.step:g} {self.unit}'


class Panel:
    """One part of a picture: what happened between two moments of time.monotonic().

    ``wall`` is the time.time() of its beginning.
    """

    def __init__(
        self, title: str, begin: float, end: float, wall: float, all_lives: list[Life]
    ) -> None:
        self.title, self.begin, self.end, self.wall = title, begin, end, wall
        ordered = sorted(all_lives[1:], key=lambda one: one.began or 0.0)
        self.lives = [one for one in [*all_lives[:1], *ordered] if self._concerns(one)]

    def _concerns(self, life: Life) -> bool:
        moments = (life.began, life.ready, life.leaves, life.ended)
        is_in = any(one is not None and self.has(one) for one in moments)
        return is_in or bool(self.rows(life))

    def has(self, moment: float) -> bool:
        """Whether it contains a moment."""
        return self.begin <= moment <= self.end

    def rows(self, life: Life) -> list[Row]:
        """Return the rows of a process that it contains, at least in part."""
        return [
            row
            for row in life.rows
            if row.since <= self.end and row.until >= self.begin
        ]

    @property
    def seconds(self) -> float:
        """Its length."""
        return self.end - self.begin

    @property
    def length(self) -> str:
        """Its length as a text, with the unit of its scale."""
        return Scale(self.seconds).text(self.seconds)


def panels(answer: dict[str, Any]) -> list[Panel]:
    """Return what can be drawn of an answer: the start, the last graceful restart, the stop."""
    known = lives(answer)
    if not known:
        return []
    first = known[0]  # the supervisor, or the only process
    now, wall = number(answer, 'now') or 0.0, number(answer, 'time') or 0.0
    found = []
    for title, window in (
        ('Start', _start(first, now)),
        ('Graceful restart', _graceful(known)),
        ('Stop', _span(row for row in first.rows if row.channel in END)),
    ):
        if window is not None:
            begin, end = window
            found.append(Panel(title, begin, end, wall - (now - begin), known))
    return [one for one in found if one.lives and one.seconds > 0]


def _start(first: Life, now: float) -> tuple[float, float] | None:
    """Return the time until the last call of 'start', or until now if there is none yet."""
    span = _span(row for row in first.rows if row.channel in START)
    if span is None and any(row.channel in END for row in first.rows):
        return None  # only the newest calls are kept: those of the start are gone
    begin, end = span or (now, now)
    loads = [row.since for row in first.rows if row.channel in LOAD]
    known = [first.began] if first.began is not None else loads
    return min([begin, *known]), end


def _graceful(known: list[Life]) -> tuple[float, float] | None:
    """Return the time of the last graceful restart, until the end of the old processes."""
    renewals = [row for row in known[0].rows if row.channel == 'graceful']
    if len(known) < 2 or not renewals:
        return None
    last = max(renewals, key=lambda row: row.since)
    ends = [
        life.ended
        for life in known
        if life.ended is not None
        and life.leaves is not None
        and last.since <= life.leaves <= last.until
    ]
    return last.since, max([last.until, *ends])


def _span(rows: Iterable[Row]) -> tuple[float, float] | None:
    times = [(row.since, row.until) for row in rows]
    if not times:
        return None
    return min(since for since, _ in times), max(until for _, until in times)
