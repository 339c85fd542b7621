"""The subcommand ``timeline``: a picture of a start, a graceful restart and a stop."""

from __future__ import annotations

import json
import os
import sys
import tempfile

from paste_wspbus.command.finding import NotDone
from paste_wspbus.command.recorded import ask_for_timeline
from paste_wspbus.command.terminal import print_answer, print_line
from paste_wspbus.command.timeline_svg import MARK, draw, page
from paste_wspbus.control.status import number
from paste_wspbus.control.timeline import END, LOAD, START, Life, Row, lives
from paste_wspbus.errors import UsageError
from paste_wspbus.exits import DONE, FAILED

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any

    from paste_wspbus.process.options import Options

#: The endings of files that can be written.
ENDINGS = ('.svg', '.html')

#: The number of characters at the beginning of a file in which `MARK` stands.
HEAD = 200


class NotWritten(NotDone):
    """A picture cannot be written to the file ``path``."""

    def __init__(self, path: str, problem: str) -> None:
        super().__init__(f'{path}: {problem}', FAILED)
        self.path = path


def timeline(options: Options) -> int:
    """Draw the timeline of a running site.

    :returns: 0.
    :raises NotDone: with 3 if the site does not run; with 1 if it does not answer, or if
        the file cannot be written.
    :raises UsageError: if no file is named, and standard output is a terminal.
    """
    path = options.timeline
    if path is not None:
        check(path)
    elif sys.stdout.isatty() and not options.json:
        raise UsageError('timeline draws a picture: name a FILE.svg or a FILE.html')
    answer = ask_for_timeline(options)
    if options.json:
        print_answer(json.dumps(answer, indent=2), absolute=True)
    elif path is None:
        print_answer(draw(panels(answer)), absolute=True)
    else:
        save(path, answer)
    return DONE


def check(path: str) -> None:
    """Check that a picture can be written to a file.

    :raises UsageError: if its name does not end with .svg or .html.
    :raises NotWritten: if another file is there, or its folder is missing.
    """
    if not path.endswith(ENDINGS):
        problem = (
            f'a timeline is a picture: the name must end with {" or ".join(ENDINGS)}'
        )
        raise UsageError(f'{path}: {problem}')
    folder = os.path.dirname(os.path.abspath(path))
    if not os.path.isdir(folder):
        raise NotWritten(path, f'there is no folder {folder}')
    if os.path.isdir(path):
        raise NotWritten(path, 'it is a folder')
    if os.path.lexists(path) and not _is_picture(path):
        raise NotWritten(path, 'it exists, and is no timeline: name another file')
    if not os.access(folder, os.W_OK):
        raise NotWritten(path, f'you may not write to the folder {folder}')


def _is_picture(path: str) -> bool:
    try:
        with open(path, encoding='utf-8', errors='replace') as file:
            return MARK in file.read(HEAD)
    except OSError:
        return False


def save(path: str, answer: dict[str, Any]) -> None:
    """Write the picture of an answer, and say so; an older picture is replaced as a whole.

    :raises NotWritten: if that fails.
    """
    shown = panels(answer)
    if not shown:
        raise NotWritten(path, 'the site has recorded nothing that could be drawn')
    text = page(shown) if path.endswith('.html') else draw(shown)
    folder = os.path.dirname(os.path.abspath(path))
    made = None
    try:
        fd, made = tempfile.mkstemp(dir=folder, prefix='.timeline-')
        with open(fd, 'w', encoding='utf-8', errors='backslashreplace') as file:
            file.write(text)
        mask = os.umask(0)
        os.umask(mask)
        os.chmod(made, 0o666 & ~mask)
        os.replace(made, path)
    except OSError as error:
        if made is not None and os.path.exists(made):
            os.remove(made)
        raise NotWritten(path, error.strerror or str(error)) from None
    said = ', '.join(f'{one.title.lower()} ({one.length})' for one in shown)
    print_line(f'{path}: {said}')


class Panel:
    """One part of a picture: what happened between two moments of time.monotonic().

    ``wall`` is the time.time() of its beginning.
    """

    def __init__(
        self, title: str, begin: float, end: float, wall: float, all_lives: list[Life]
    ) -> None:
        self.title, self.begin, self.end, self.wall = title, begin, end, wall
        self.lives = [one for one in all_lives if self._concerns(one)]

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
        from paste_wspbus.command.timeline_svg import Scale

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
        return None  # later calls have taken the place of those of the start
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
