"""Values that few sites have: units, paths, other buses, values for the path of a request."""

from __future__ import annotations

import contextlib
import os
import threading

from paste_wspbus.errors import SettingError
from paste_wspbus.values import value_hint

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

#: The units of durations, in seconds, and of sizes, in bytes: ms comes before s.
DURATIONS = {'ms': 0.001, 's': 1.0, 'm': 60.0, 'h': 3600.0, 'd': 86400.0}
SIZES = {'K': 2**10, 'M': 2**20, 'G': 2**30}

SIZE_TAKES = 'a size in bytes, as 300M (K, M and G are powers of 1,024)'


def duration(text: str) -> float:
    """Read a duration: a number of seconds, or a number with the unit ms, s, m, h or d.

    :returns: seconds, from 0 to the longest time that Python can wait.
    :raises ValueError: if the text is anything else.
    """
    seconds = _number(text, DURATIONS)
    if seconds > threading.TIMEOUT_MAX:
        raise ValueError(text)
    return seconds


def time_limit(text: str) -> float:
    """Read a time limit, which is a `duration`: with 0, all that it limits would fail at once.

    :raises SettingError, ValueError: if it is 0; if it is no duration.
    """
    if not (number := duration(text)):
        raise SettingError(None, f'it must be more than 0 seconds, not {text!r}')
    return number


def path(text: str) -> str:
    """Read a path.

    :raises ValueError: if a comment stands behind it, or it has a character that no path has.
    """
    stripped = text.strip()
    # %(here)s may look like a comment: "shop #2".
    folder, name = os.path.split(stripped)
    own = name if os.path.isdir(folder) else stripped
    if not stripped or min(text) < ' ' or value_hint(own):
        raise ValueError(text)
    return stripped


def use_of_bus(use: str) -> str:
    """Return the ``use`` of [wspbus:main].

    :raises SettingError: if it is ``config:…``. PasteDeploy would take the class of that
        section, and none of its keys and plugins.
    """
    if use.lower().startswith('config:'):
        raise SettingError(
            None,
            f'this section takes no keys from another file, as {use!r} would in other '
            'sections: write them here',
        )
    return use


def size(text: str) -> int:
    """Read a size: a number of bytes, or a number with the unit K, M or G.

    :returns: bytes, 0 or more.
    :raises ValueError: if the text is anything else.
    """
    return int(_number(text, SIZES))


def count(text: str) -> int:
    """Read a whole number, 0 or more.

    :raises ValueError: if the text is anything else.
    """
    word = text.strip()
    if not (word.isascii() and word.isdigit() and len(word) <= 15):
        raise ValueError(text)
    return int(word)


def _number(text: str, units: dict[str, Any]) -> float:
    digits, factor = text.strip(), 1
    for unit, value in units.items():
        if digits.endswith(unit):
            digits, factor = digits.removesuffix(unit).rstrip(), value
            break
    # float() would also accept '1e3', 'inf', '1_0', signs, and digits of other scripts.
    if not digits.replace('.', '', 1).isdigit() or not digits.isascii():
        raise ValueError(text)
    if len(digits) > 20:
        raise ValueError(text)
    return float(digits) * factor


class ByPath:
    """A value for all requests, and others for requests whose path begins in some way.

    ::

        request_deadline = 60
            /export 600
            /admin/reports 5m

    A prefix counts in whole segments: ``/export`` is for ``/export`` and ``/export/all``,
    not for ``/exports``. The longest prefix counts.

    :param default: the value of all other paths; None if there is none.
    :param paths: {prefix without a slash at its end: value}.
    """

    __slots__ = ('default', 'paths')

    def __init__(self, default: Any, paths: dict[str, Any]) -> None:
        self.default, self.paths = default, paths

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ByPath) and (self.default, self.paths) == (
            other.default,
            other.paths,
        )

    __hash__ = None  # type: ignore[assignment]

    def __str__(self) -> str:
        """Return durations as a report shows them: '10 s, /export 120 s'."""
        pairs = [('', self.default), *self.paths.items()]
        return ', '.join(
            f'{path} {f"{value:g} s" if value else "off"}'.strip()
            for path, value in pairs
        )

    def of(self, path: str) -> Any:
        """Return the value for a path: SCRIPT_NAME and PATH_INFO, decoded."""
        if not self.paths:
            return self.default
        prefix = path.rstrip('/')
        while prefix:
            if prefix in self.paths:
                return self.paths[prefix]
            prefix = prefix.rpartition('/')[0]
        return self.paths.get('', self.default)

    def values(self) -> list[Any]:
        """Return every value that a request can have."""
        return [self.default, *self.paths.values()]


def by_path(read: Callable[[str], Any], takes: str) -> Callable[[str], ByPath]:
    """Return a function that reads a `ByPath`.

    :param read: converts the text of one value; it raises ValueError if it is wrong.
    :param takes: the text for an error message that says what ``read`` accepts.
    """

    def value(text: str) -> Any:
        try:
            return read(text)
        except SettingError:
            raise
        except ValueError:
            raise SettingError(None, f'{text!r} is not {takes}') from None

    def converter(text: str) -> ByPath:
        lines = [line.strip() for line in text.strip().splitlines()]
        default: Any = None
        paths: dict[str, Any] = {}
        for number, line in enumerate(filter(None, lines)):
            if number == 0 and not line.startswith('/'):
                default = value(line)
                continue
            words = line.rsplit(None, 1)
            if not line.startswith('/') or len(words) != 2:
                problem = f'{line!r} is not a path that begins with / and its value'
                raise SettingError(None, f'{problem}, as "/export 600"')
            path = words[0].rstrip('/')
            if mistake := _problem_of(path, read):
                raise SettingError(None, f'{line!r} {mistake}')
            if path in paths:
                raise SettingError(None, f'the path {words[0]} is listed twice')
            paths[path] = value(words[1])
        return ByPath(default, paths)

    return converter


def _problem_of(path: str, read: Callable[[str], Any]) -> str | None:
    """Return why a path would never be that of a request, as it was meant; or None."""
    _, *words = path.split() or ['']
    if any(word.startswith('/') for word in words):
        return 'has several paths: each has a line of its own'
    with contextlib.suppress(ValueError):
        read(words[-1].rstrip(',') if words else '')
        return 'has two values'
    if path.endswith('/*'):
        return (
            'ends with /*: a path is also for all that is below it, so leave that out'
        )
    return 'has a query: only the path counts' if '?' in path else None
