"""The error of a site that does not start, as data that one process sends to another."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import traceback
from typing import NamedTuple

from paste_wspbus.bus.places import shorten
from paste_wspbus.errors import WSPBusError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from traceback import TracebackException
    from typing import Any

    #: Plain data for JSON. ``type`` and ``message`` are those of an exception. ``notes``
    #: has the other lines that Python prints. ``link`` says how the next exception came
    #: from it, or is ''. Each of ``frames`` is a `Frame`, or the number of frames that
    #: are omitted there. ``parts`` has the exceptions of a group, each a list of these.
    Told = dict[str, Any]

#: The number of characters of a traceback that are kept: one half from its beginning, one
#: half from its end.
MOST = 40_000

#: The number of bytes that a problem may have. A variable of the environment holds 128 KiB
#: (MAX_ARG_STRLEN, execve(2)), and a process inherits other data in the same variable.
ROOM = 100_000

#: The numbers that are kept at most: characters of a message; exceptions of a chain, and
#: of a group; levels of groups in groups; first frames and last frames of an exception.
MESSAGE, CHAIN, GROUP, DEPTH, FIRST, LAST = 2_000, 8, 8, 3, 6, 20

CAUSE = 'which was the direct cause of'
CONTEXT = 'and while that was handled'


class Frame(NamedTuple):
    """A place in a source. ``start`` and ``end`` are columns (in bytes), if they are known.

    ``times`` is the number of times that it comes in a row.
    """

    file: str
    line: int
    name: str
    start: int | None = None
    end: int | None = None
    times: int = 1


def trace_of(error: BaseException) -> tuple[str, str | None]:
    """Return the traceback of a site that could not be served, and the file in which it ends.

    The traceback does not have the frames before the site's code. It is '' if there are
    no other frames: then the message is enough.
    """
    told, text = _tell(error)
    if _says_it_all(error, told):
        return '', getattr(error, 'file', None)
    file = getattr(told, 'filename', None)  # a SyntaxError has it
    for frame in [] if file else told.stack:
        if not frame.filename.startswith('<frozen'):
            file = frame.filename
    return cut(text, MOST), file


def problem_of(error: BaseException, line: str) -> str:
    """Return the data of an error for `make_app`, as a text for another process.

    ``line`` is the last line on the terminal. The text contains neither sources nor
    values of variables, and has at most 100,000 bytes.
    """
    told, text = _tell(error)
    errors = _chain(told)
    if _says_it_all(error, told):
        errors, text = [], ''
    line = cut(line, MESSAGE)
    for most, shown in ((MOST, errors), (MOST // 10, errors), (MOST // 10, [])):
        kept = {'line': line, 'text': cut(text, most), 'errors': shown}
        problem = json.dumps(kept, ensure_ascii=False)
        if len(json.dumps(problem)) < ROOM:  # a message contains it as JSON
            break
    return problem


def _tell(error: BaseException) -> tuple[TracebackException, str]:
    """Return what Python knows about an error, as an object and as a text."""
    if isinstance(error, WSPBusError) and error.__cause__ is not None:
        error = error.__cause__
    try:
        told = traceback.TracebackException.from_exception(error, compact=True)
        shorten(told)
        return told, ''.join(told.format())
    except Exception as why:  # the methods of a site's exception may fail
        name = f'{type(error).__name__} (cannot be shown: {type(why).__name__})'
        kind = type(name, (Exception,), {'__module__': 'builtins'})
        told = traceback.TracebackException(kind, kind(), error.__traceback__)
        shorten(told)
        return told, ''.join(told.format())


def _says_it_all(error: BaseException, told: TracebackException) -> bool:
    return isinstance(error, WSPBusError) and error.__cause__ is None and not told.stack


def cut(text: str, most: int) -> str:
    """Return a text without its middle if it is too long."""
    if len(text) <= most:
        return text
    half = most // 2
    left_out = f'\n… {len(text) - 2 * half:,} characters are left out …\n'
    return text[:half] + left_out + text[-half:]


def _chain(told: TracebackException, depth: int = 0) -> list[Told]:
    """Return an exception and its causes, the first one first."""
    chain: list[Told] = []
    one: TracebackException | None = told
    link = ''
    while one is not None and len(chain) < CHAIN:
        chain.insert(0, {**_entry(one, depth), 'link': link})
        if one.__cause__ is not None:
            link, one = CAUSE, one.__cause__
        else:
            link, one = CONTEXT, None if one.__suppress_context__ else one.__context__
    return chain


def _entry(one: TracebackException, depth: int) -> Told:
    said = list(one.format_exception_only())
    # The text of a SyntaxError begins with its place, and with the source there.
    at = next((i for i, part in enumerate(said) if part[:1] != ' '), 0)
    kind, _, message = said[at].strip().partition(': ')
    shows_source = not os.path.isfile(str(getattr(one, 'filename', None) or ''))
    frames: list[Frame | int] = list(_frames(one))
    if len(frames) > FIRST + LAST + 1:
        frames[FIRST:-LAST] = [len(frames) - FIRST - LAST]
    parts = (one.exceptions or [])[:GROUP] if depth < DEPTH else []
    return {
        'type': kind.removesuffix(':'),
        'message': cut(message, MESSAGE),
        'notes': cut(''.join(said[:at] * shows_source + said[at + 1 :]), MESSAGE),
        'frames': frames,
        'parts': [_chain(part, depth + 1) for part in parts],
    }


def _frames(one: TracebackException) -> Iterator[Frame]:
    for frame, same in itertools.groupby(map(_frame, one.stack)):
        yield frame._replace(times=len(list(same)))
    if hasattr(one, 'filename'):
        yield from _place_of_syntax(one)


def _place_of_syntax(one: TracebackException) -> Iterator[Frame]:
    """Yield the place of a SyntaxError; a site may have set its attributes to anything."""
    if not one.filename or not str(one.lineno).isdecimal():
        return
    first, last = (
        at if isinstance(at, int) else 0 for at in (one.offset, one.end_offset)
    )
    text = str(one.text or '')
    start, end = (
        len(text[: max(at - 1, 0)].encode('utf-8', 'replace'))
        for at in (first, max(last, first + 1))
    )
    columns = (start, end) if first > 0 else ()
    yield Frame(str(one.filename), int(str(one.lineno)), '', *columns)


def _frame(frame: traceback.FrameSummary) -> Frame:
    start, end = frame.colno, frame.end_colno
    if frame.lineno != frame.end_lineno:
        start = end = None
    return Frame(frame.filename, frame.lineno or 0, frame.name, start, end)


def read(problem: str) -> Told:
    """Read the text of `problem_of`; any other text is a problem without exceptions."""
    with contextlib.suppress(ValueError):
        told = json.loads(problem)
        if isinstance(told, dict) and told.keys() == {'line', 'text', 'errors'}:
            return told
    lines = problem.strip().splitlines() or ['The site cannot be served']
    return {
        'line': cut(lines[-1], MESSAGE),
        'text': '\n'.join(lines[:-1]),
        'errors': [],
    }
