"""The restart in place: a process replaces its program with a new one (execve(2))."""

from __future__ import annotations

import contextlib
import os
import sys

from paste_wspbus.errors import RestartImpossible
from paste_wspbus.streams import flush_streams

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import NoReturn


def check_replaceable(folder: str, before: str) -> None:
    """Check that this process can replace itself.

    :param folder: the folder in which the next program starts.
    :param before: the folder in which this process was started, without links.
    :raises RestartImpossible: if its program, the interpreter or the folder is missing.
    """
    main = getattr(sys.modules.get('__main__'), '__file__', None)
    if main == '<stdin>':
        raise RestartImpossible('its program was read from standard input')
    if not os.path.isdir(folder):
        raise RestartImpossible('the directory it was started in is gone')
    interpreter = _followed(sys.executable, folder, before)
    if not interpreter or not os.access(interpreter, os.X_OK):
        raise RestartImpossible(f'cannot execute {sys.executable!r}')
    if main and not _is_there(os.path.join(folder, _followed(main, folder, before))):
        raise RestartImpossible(f'{main} is gone')


def command_line(folder: str, before: str) -> list[str]:
    """Return the command line that started this process, as `sys.orig_argv` has it.

    The parameters are those of `check_replaceable`.
    """
    words = [sys.executable, *sys.orig_argv[1:]]
    return [_followed(word, folder, before) for word in words]


def _followed(path: str, folder: str, before: str) -> str:
    """Return where a file is now: the link to its folder may lead to another folder.

    A deployment may have changed that link. A virtual environment in the folder of the
    release has moved with it.
    """
    inside = path.removeprefix(f'{before}{os.sep}')
    moved = os.path.join(folder, inside)
    has_moved = inside != path and os.path.realpath(folder) != before
    return moved if has_moved and os.path.exists(moved) else path


def replace(
    folder: str, words: list[str], kept: Iterable[int], close_others: bool
) -> NoReturn:
    """Replace this process with another program; this does not return.

    :param folder: the folder in which it starts. It becomes $PWD unchanged: links in it
        are not resolved.
    :param words: its command line, see `command_line`.
    :param kept: the file descriptors that stay open.
    :param close_others: whether to close all other descriptors, except 0, 1 and 2.
    :raises OSError: if the folder is missing, or execve(2) fails.
    """
    os.chdir(folder)
    if os.name == 'posix':
        os.environ['PWD'] = folder
    if close_others:
        _close_at_execv()
    for fd in kept:
        os.set_inheritable(fd, True)
    flush_streams()
    os.execv(words[0], words)


def _close_at_execv() -> None:
    """Mark all files except stdin, stdout and stderr, so that execve(2) closes them."""
    try:
        open_files = os.listdir('/dev/fd')
    except OSError:
        return  # this is not POSIX: a new program inherits none of Python's files (PEP 446)
    for fd in map(int, open_files):
        if fd > 2:
            with contextlib.suppress(OSError):
                os.set_inheritable(fd, False)


def _is_there(path: str) -> bool:
    """Whether the program at ``path`` exists; the path may lead into a zip file."""
    while path and not os.path.exists(path):
        path = os.path.dirname(path)
    return bool(getattr(sys, 'frozen', False)) or os.path.isfile(path)
