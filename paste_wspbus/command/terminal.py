"""How the command prints, and the standard streams that it prints to."""

from __future__ import annotations

import contextlib
import io
import os
import re
import sys

from paste_wspbus.streams import (
    attempt,
    fill_numbers,
    is_foreign,
    is_terminal,
    standard,
)
from paste_wspbus.values import printable

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable


#: The number of characters of an error's line at most: `Output` drops a line that is
#: too long.
LONGEST = 4000


def open_standard_streams() -> None:
    """Open the standard streams that are closed: see `fill_numbers`."""
    fill_numbers()
    for name, fd in (('stdout', 1), ('stderr', 2)):
        if getattr(sys, name) is None:  # later, a log file may replace /dev/null
            file = io.FileIO(fd, 'w', closefd=False)
            stream = io.TextIOWrapper(io.BufferedWriter(file), line_buffering=True)
            setattr(sys, name, stream)


def flush() -> None:
    """Write the buffered output; drop it if nobody reads it.

    Python flushes the streams when it ends, too, and exits with 120 if that fails.
    """
    for name in ('stdout', 'stderr'):
        stream = standard(name)
        # A supervisor's `Output` never waits.
        if stream is None or attempt(stream, 'drain') or attempt(stream, 'flush'):
            continue
        if type(stream) is io.TextIOWrapper and attempt(_Dropped(stream), 'flush'):
            continue
        before = standard(f'__{name}__')
        setattr(sys, name, before if attempt(before, 'flush') else None)


class _Dropped:
    """A stream of Python whose file is full, or has no reader: its output is dropped."""

    def __init__(self, stream: io.TextIOWrapper) -> None:
        self._stream = stream

    def flush(self) -> None:
        """Write what is buffered to /dev/null."""
        null = os.open(os.devnull, os.O_WRONLY)
        try:
            os.dup2(null, self._stream.fileno())
        finally:
            os.close(null)
        self._stream.flush()


#: Makes JSON of a line and its level, where that is asked for and no terminal is.
as_json: Callable[[str, int], str] | None = None


def print_line(text: str, to: str = 'stdout', level: int = 20) -> None:
    """Print to standard output or standard error, for as long as a site runs.

    The site does not end because nobody reads the line, or because the disk is full. If
    the site has put something in the stream's place that cannot be written to, the
    line goes to the stream that was there before.

    :param text: a line or several; control characters in them are escaped.
    :param to: 'stdout' or 'stderr'.
    :param level: as in `logging`, for ``log_format = json``.
    """
    text = printable(text, lines=True)
    streams = [standard(to), standard(f'__{to}__')]
    if as_json is not None and not is_terminal(streams[0]):
        made = text.splitlines() if to == 'stdout' else [text]
        text = '\n'.join(as_json(one, level) for one in made)
    for stream in streams:
        if attempt(stream, 'write', f'{encodable(text, stream)}\n'):
            break
    for stream in streams:  # at once, for other processes write there, too
        attempt(stream, 'flush')


def _encoding_of(stream: object) -> str:
    try:
        return str(getattr(stream, 'encoding', None) or 'utf-8')
    except BaseException as error:
        if not is_foreign(error):
            raise
        return 'utf-8'


def encodable(text: str, stream: object) -> str:
    """Return a text that a stream can encode: a terminal may not have all letters."""
    encoding = _encoding_of(stream)
    try:
        text.encode(encoding)
    except LookupError:
        return text
    except UnicodeEncodeError:
        plain = text.replace('…', '...').replace('→', '->')
        return plain.encode(encoding, 'backslashreplace').decode(encoding)
    return text


def one_line(error: BaseException) -> str:
    """Return an error's message as one line."""
    line = printable(' '.join(str(error).split('\n')))
    half = LONGEST // 2
    return line if len(line) <= LONGEST else f'{line[:half]} … {line[-half:]}'


def without_folder(text: str) -> str:
    """Shorten paths, but not that of a log ("the traceback is in …"): others read it, too."""
    with contextlib.suppress(FileNotFoundError):
        folder = os.getcwd()
        if folder != os.sep:  # // is in each URL
            own = re.escape(folder + os.sep)
            return re.sub(rf'(?<![\w./-])(?<! in )(?<! see ){own}', '', text)
    return text
