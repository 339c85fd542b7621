"""The timeline of a site's processes: as data, which the control socket sends."""

from __future__ import annotations

import time
from typing import NamedTuple

from paste_wspbus.control.status import number, text
from paste_wspbus.ini.import_times import IMPORTED
from paste_wspbus.wire.checks import MAX_CALLS, is_call

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any

    from paste_wspbus.bus import Bus
    from paste_wspbus.bus.calls import Call

#: The number of characters of a name.
MAX_NAME = 200

#: Seconds by which rounding may let a call end after the one that it is inside of.
ROUNDED = 2e-6

#: The channels of the load of a site, of its start, and of its end.
LOAD, START, END = ('import', 'factory'), ('start',), ('drain', 'stop', 'exit')


class Row(NamedTuple):
    """One call of a listener, or one step of the load.

    ``since`` is the time.monotonic() of its start, ``seconds`` its duration.
    """

    channel: str
    name: str
    since: float
    seconds: float
    outcome: str
    thread: str

    @property
    def until(self) -> float:
        """The time.monotonic() of its end."""
        return self.since + self.seconds


def rows_of(bus: Bus, *channels: str) -> list[Row]:
    """Return the rows of channels in the timeline of a bus of this process."""
    return [
        Row(c.channel, c.name, c.since, c.duration, c.outcome, c.thread)
        for c in getattr(bus, 'timeline', ())
        if c.channel in channels
    ]


def describe_calls(bus: Bus) -> dict[str, Any]:
    """Return the calls of a process for an answer.

    :returns: ``calls``, the fields of Rows in the order of their starts: if there are too
        many, the longest; and ``left_out``, how many others there were.
    """
    calls: list[Call] = getattr(bus, 'timeline', [])
    total = bus.calls.count if hasattr(bus, 'calls') else len(calls)
    kept = sorted(calls, key=lambda call: call.duration, reverse=True)[:MAX_CALLS]
    return {
        'calls': [
            [
                call.channel[:MAX_NAME],
                ascii(call.name[:MAX_NAME])[1:-1],
                round(call.since, 6),
                round(call.duration, 6),
                call.outcome,
                ascii(call.thread[:MAX_NAME])[1:-1],
            ]
            for call in sorted(kept, key=lambda call: call.since)
        ],
        'left_out': total - len(kept),
    }


def limited_calls(processes: list[dict[str, Any]], room: int) -> list[dict[str, Any]]:
    """Leave out the shortest calls of processes that have more than their share of ``room``."""
    share = max(room // max(len(processes), 1), 1)
    for process in processes:
        calls = process['calls']
        if len(calls) > share:
            longest = sorted(calls, key=lambda call: call[3], reverse=True)[:share]
            process['calls'] = sorted(longest, key=lambda call: call[2])
            process['left_out'] += len(calls) - share
    return processes


class Life:
    """What an answer says of one process, which another version may have made.

    The times are those of time.monotonic(), or None: ``began``, when it was forked or its
    program began; ``ready``; ``leaves``, when it was ordered to stop; ``ended``.
    ``imported`` has the seconds of packages, if they were recorded. ``how`` says how it has ended. ``problem`` says why its calls are not known.
    """

    def __init__(self, said: dict[str, Any]) -> None:
        self.name, self.pid = text(said.get('name', '?')), text(said.get('pid', '?'))
        generation = number(said, 'generation')
        self.generation = None if generation is None else int(generation)
        self.began, self.ready = number(said, 'began'), number(said, 'ready')
        self.leaves, self.ended = number(said, 'leaves'), number(said, 'ended')
        self.how = text(said['how']) if said.get('how') else ''
        self.problem = text(said['problem']) if said.get('problem') else ''
        calls = said.get('calls')
        rows = [
            Row(
                text(one[0]),
                text(one[1]),
                one[2],
                max(one[3], 0.0),
                *map(text, one[4:]),
            )
            for one in (calls if isinstance(calls, list) else ())
            if is_call(one)
        ]
        self.rows = [row for row in rows if row.channel != IMPORTED]
        self.imported = {
            row.name: row.seconds for row in rows if row.channel == IMPORTED
        }
        self.left_out = int(number(said, 'left_out') or 0)

    @property
    def title(self) -> str:
        """Its name, with its process ID and generation in brackets."""
        details = f'process {self.pid}'
        if self.generation is not None:
            details += f', generation {self.generation}'
        name = 'the site' if self.name == 'site' else self.name
        return f'{name[:1].upper()}{name[1:]} ({details})'


def lives(answer: dict[str, Any]) -> list[Life]:
    """Return the processes of an answer, in its order."""
    said = answer.get('processes')
    return [
        Life(one)
        for one in (said if isinstance(said, list) else ())
        if type(one) is dict
    ]


def own_seconds(rows: Iterable[Row]) -> list[tuple[Row, float]]:
    """Return rows in the order of their starts, each with its time without that of others.

    A row is inside another one if the same thread has begun and ended it meanwhile.
    """
    ordered = sorted(rows, key=lambda row: (row.since, -row.seconds))
    own = [row.seconds for row in ordered]
    stacks: dict[str, list[int]] = {}
    for index, row in enumerate(ordered):
        stack = stacks.setdefault(row.thread, [])
        while stack and not _has(ordered[stack[-1]], row):
            stack.pop()
        if stack:
            own[stack[-1]] -= row.seconds
        stack.append(index)
    return [(row, max(own[i], 0.0)) for i, row in enumerate(ordered)]


def _has(outer: Row, inner: Row) -> bool:
    return inner.since < outer.until and inner.until <= outer.until + ROUNDED


def now() -> dict[str, float]:
    """Return the present moment for an answer, by both clocks."""
    return {'now': time.monotonic(), 'time': time.time()}
