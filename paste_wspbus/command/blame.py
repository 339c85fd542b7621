"""The subcommand ``blame``: what a start has waited for, the longest first."""

from __future__ import annotations

import json

from paste_wspbus.command.answer import print_answer
from paste_wspbus.command.asking import NO_TIMELINE, ask_running
from paste_wspbus.control.timeline import LOAD, START, Life, Row, lives, own_seconds
from paste_wspbus.exits import DONE
from paste_wspbus.ini.import_times import MODULE

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from paste_wspbus.process.options import Options

#: The sentence for a site that does not run: what `blame` can do then.
OTHERWISE = 'With --load, blame loads it in another process, and starts nothing.'

#: The last line of the output.
MORE = '(import_times = true, and blame --load, show imports by distribution)'

#: The number of rows of a process that are shown without -v, and the seconds of the shortest.
SHOWN, SHORTEST = 30, 0.001

REQUEST = 'request'


class Blame:
    """What one process has spent its start on; the seconds of a row are its own alone."""

    def __init__(self, life: Life) -> None:
        self.life = life
        rows = [row for row in life.rows if row.channel in (*LOAD, *START, MODULE)]
        found = [one for one in own_seconds(rows) if one[0].channel != MODULE]
        if life.imported:
            from paste_wspbus.command import import_times as by

            found += by.by_distribution(life.imported, by.distributions(), counts=False)
        self.rows = sorted(found, key=lambda one: one[1], reverse=True)
        self.total = sum(seconds for _, seconds in self.rows)
        self.requests = [row for row in life.rows if row.channel == REQUEST]

    def lines(self, full: bool) -> list[str]:
        """Return the lines on the process; if they are not ``full``, the shortest are left out."""
        life = self.life
        head = f'{life.title}'
        if life.began is not None and life.ready is not None:
            head += f' was ready after {in_ms(life.ready - life.began)}'
        shown = self.rows
        if not full:
            shown = [one for one in self.rows[:SHOWN] if one[1] >= SHORTEST]
        lines = [f'{head}:', *(blame_line(row, own) for row, own in shown)]
        rest = self.rows[len(shown) :]
        if rest:
            together = in_ms(sum(seconds for _, seconds in rest))
            lines.append(f'  {len(rest)} more took {together} together (-v shows them)')
        if life.left_out:
            lines.append(f'  {life.left_out} more calls are left out')
        if life.problem and not self.rows:
            lines.append(f'  {life.problem}')
        lines += [
            f'  First request: {row.name} took {in_ms(row.seconds)}'
            for row in self.requests[:1]
        ]
        return lines

    def as_json(self) -> dict[str, Any]:
        """Return the same as data."""
        life = self.life
        known = life.began is not None and life.ready is not None
        return {
            'name': life.name,
            'pid': life.pid,
            'generation': life.generation,
            'ready_after': round(life.ready - life.began, 6) if known else None,  # type: ignore[operator]
            'rows': [
                {
                    'channel': row.channel,
                    'name': row.name,
                    'seconds': round(own, 6),
                    'outcome': row.outcome,
                }
                for row, own in [
                    *self.rows,
                    *((one, one.seconds) for one in self.requests),
                ]
            ],
            'left_out': life.left_out,
            'problem': life.problem or None,
        }


def blame(options: Options) -> int:
    """Print what the start of a running site has waited for; with -v, of all processes.

    :returns: 0.
    :raises NotDone: with 3 if the site does not run; with 1 if it does not answer.
    """
    _, answer = ask_running(options, 'timeline', NO_TIMELINE, OTHERWISE)
    found = [Blame(life) for life in lives(answer) if life.ended is None]
    if options.json:
        said = json.dumps([one.as_json() for one in found], indent=2)
        print_answer(said, absolute=True)
        return DONE
    lines = text_of(found, options.verbosity > 1)
    if not any(one.life.imported for one in found):
        lines += ['', MORE]
    print_answer('\n'.join(lines), absolute=True)
    return DONE


def text_of(found: list[Blame], full: bool) -> list[str]:
    """Return the lines on all processes: without ``full``, on the slowest of each name."""
    if full:
        return [line for one in found for line in (*one.lines(full), '')][:-1]
    chosen = _chosen(found)
    lines = [line for one in chosen for line in (*one.lines(full), '')][:-1]
    others = [
        one for one in found if one.total and one not in chosen and one.life.generation
    ]
    if others:
        said = ', '.join(f'{one.life.name} {in_ms(one.total)}' for one in others)
        lines += ['', f'Others: {said} (-v shows them)']
    return lines


def _chosen(found: list[Blame]) -> list[Blame]:
    """Return the slowest worker of the newest generation, and what runs once."""
    workers = [
        one for one in found if one.life.name.startswith('worker ') and one.total
    ]
    newest = max((one.life.generation or 0 for one in workers), default=0)
    new = [one for one in workers if (one.life.generation or 0) == newest]
    slowest = max(new, key=lambda one: one.total, default=None)
    once = [
        one
        for one in found
        if one not in workers
        and one.life.name != 'supervisor'
        and (one.total or len(found) == 1)
    ]
    return [*([slowest] if slowest is not None else []), *once] or found


def blame_line(row: Row, seconds: float) -> str:
    """Return the line for one row: its time, its channel, its name."""
    outcome = '' if row.outcome == 'ok' else f' ({row.outcome})'
    return f'  {seconds * 1000:9.1f} ms  {row.channel:<8} {row.name}{outcome}'


def in_ms(seconds: float) -> str:
    """Return a time for people."""
    if seconds >= 10:
        return f'{seconds:.2f} s'
    return f'{seconds * 1000:.{0 if seconds >= 0.01 else 1}f} ms'
