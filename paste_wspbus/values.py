"""Texts: how settings become values, and how texts of others become safe to print."""

from __future__ import annotations

import os
import sys

from paste_wspbus.errors import SettingError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Any

#: The number of threads that a system can have at most, and so a process (Linux: proc(5),
#: pid_max).
MAX_THREADS = 2**22

#: The largest whole number that C and system calls take where they take an int.
MAX_INT = 2**31 - 1

#: The largest number of bytes that a file or a message can have.
MAX_SIZE = 2**63 - 1


def whole(key: str, least: int, most: int) -> Callable[[str], int]:
    """Return a function that converts the text of a setting to a whole number.

    :param key: the setting.
    :param least: the smallest number that it accepts; ``most`` is the largest.
    """

    def read(text: str) -> int:
        try:
            if least <= (number := int(text)) <= most:
                return number
        except ValueError:
            pass
        problem = f'{text!r} is not a whole number from {least} to {most}'
        raise SettingError(key, f'{problem}{value_hint(text)}')

    return read


def value_hint(value: str) -> str:
    """Return what is in a wrong value and does not belong there, as the end of a message, or ''."""
    if '=' in value.partition('\n')[2]:
        return '; a key must not be indented'
    if value.startswith('$'):  # as in a shell
        return '; a variable of the environment is written %(ENV_NAME)s'
    holds = any(f' {mark}' in value for mark in ';#')
    return '; a comment needs a line of its own' if holds else ''


#: How alike a word must be, from 0 to 1: any two of many names are a bit alike.
NEAR = 0.75


def nearest(word: str, known: Any) -> str:
    """Return a hint for the end of a message: the known word that is meant, or ''."""
    found = closest(word, known)
    return f'; did you mean {found!r}?' if found is not None else ''


def closest(word: str, known: Any) -> Any:
    """Return the known word that is meant: it is alike, or has the other as a part; or None."""
    from difflib import get_close_matches  # only an error needs it

    alike = {str(one).lower(): one for one in sorted(known, key=str)}
    word = word.lower()
    found = [one for one in alike if word in one.split('_')]
    # A wrong letter counts for more in a short word.
    found += get_close_matches(word, alike, 1, NEAR if len(word) > 3 else 0.6)
    return alike[found[0]] if found else None


def split_list(text: str) -> list[str]:
    """Split a list in an .ini at its spaces, lines and commas."""
    return text.replace(',', ' ').split()


def split_file(text: str) -> tuple[str, str]:
    """Split FILE#NAME; '' for what it does not have. A folder may have a # in its name."""
    folder, slash, rest = text.rpartition('/')
    file, _, name = rest.partition('#')
    return f'{folder}{slash}{file}', name


def named_path(path: str) -> str:
    """Return an absolute path with its links, also those of the working folder."""
    return os.path.normpath(os.path.join(working_folder(), path))


def real_path(path: str) -> str:
    """Return the path without links in its folders: a deployment may change them."""
    folder, name = os.path.split(os.path.abspath(path))
    return os.path.join(os.path.realpath(folder), name)


#: The name of the working folder that the program before this one has had; '' if there was
#: none.
_kept_name = ''


def keep_name_of_folder() -> None:
    """Keep the name of the working folder, $PWD, which the program before this one has set.

    A link in it may lead to another folder by now: a deployment may change it while this
    program begins.
    """
    global _kept_name
    named = os.environ.get('PWD', '')
    _kept_name = named if os.path.isabs(named) else ''


def working_folder() -> str:
    """Return the working folder with its symbolic links, as the shell's ``pwd`` shows it.

    A deployment changes such a link, and then files must be read from the new folder. The
    name is in $PWD. Without $PWD (systemd, supervisord, cron), this looks for a word of
    the command line that leads to the folder over a link, and then for a link with the
    name ``current``, which most deployment tools use.

    :raises FileNotFoundError: if the folder was removed.
    """
    if os.name != 'posix':
        return os.getcwd()
    if _kept_name:
        return _kept_name
    named = os.environ.get('PWD', '')
    if os.path.isabs(named) and _is_here(named):
        return named
    folder = os.getcwd()
    return next(filter(_is_here, _names_of(folder)), folder)


def _names_of(folder: str) -> Iterator[str]:
    """Yield paths that may lead to a folder over a link; the caller must check them."""
    for word in filter(os.path.isabs, sys.orig_argv):
        for path in _with_parents(os.path.normpath(word)):
            if path != folder and not folder.startswith(f'{path}/'):
                yield path
    for release in _with_parents(folder, 3):
        for place in _with_parents(os.path.dirname(release), 2):
            yield f'{place.rstrip("/")}/current{folder[len(release) :]}'


def _with_parents(path: str, count: int = 40) -> Iterator[str]:
    while count and path != '/':
        yield path
        path, count = os.path.dirname(path), count - 1


def _is_here(path: str) -> bool:
    try:
        return os.path.samefile(path, os.curdir)
    except OSError:
        return False


#: What is said of a duration that is wrong: see `ini.units.duration`.
DURATION_TAKES = 'a duration, as 500ms, 5, 5s, 10m, 12h or 7d'


def boolean(text: str) -> bool:
    """Convert a text to a bool, as PasteDeploy does.

    :raises ValueError: if the text means neither true nor false.
    """
    word = str(text).strip().lower()
    if word in ('true', 'yes', 'on', 'y', 't', '1'):
        return True
    if word in ('false', 'no', 'off', 'n', 'f', '0'):
        return False
    raise ValueError(text)


def printable(text: str, *, lines: bool = False) -> str:
    """Return a text that is safe on a terminal and in a log: it cannot change other text.

    Characters that are not printable are escaped, as Python writes them: control
    characters (also those of C1), characters that change the direction of writing, and
    line separators.

    :param text: may come from a request, an exception or another process.
    :param lines: whether line feeds and tabs stay as they are.
    """
    if text.isprintable():
        return text
    kept = '\n\t\xa0\u3000' if lines else '\xa0\u3000'
    return ''.join(
        one
        if one.isprintable() or one in kept
        else one.encode('unicode_escape').decode()
        for one in text
    )
