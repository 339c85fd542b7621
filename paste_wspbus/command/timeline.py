"""The subcommand ``timeline``: a picture of a start, a graceful restart and a stop."""

from __future__ import annotations

import json
import os
import sys
import tempfile

from paste_wspbus.command.answer import print_answer
from paste_wspbus.command.asking import NO_TIMELINE, ask_running
from paste_wspbus.command.finding import NotDone
from paste_wspbus.command.terminal import print_line
from paste_wspbus.control.panels import panels
from paste_wspbus.control.picture import MARK, draw, page
from paste_wspbus.errors import UsageError
from paste_wspbus.exits import DONE, FAILED

TYPE_CHECKING = False
if TYPE_CHECKING:
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
    _, answer = ask_running(options, 'timeline', NO_TIMELINE)
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
    if not os.path.isfile(path):  # a FIFO would have this command wait
        return False
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
