"""The texts that lines of an access log have in common; they are kept for later lines."""

from __future__ import annotations

import time
from functools import cache

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

#: So many texts of a field are kept at most, and none that is longer.
_MOST, _LONGEST_KEPT = 1000, 300

_MONTHS = 'Jan Feb Mar Apr May Jun Jul Aug Sep Oct Nov Dec'.split()  # noqa: SIM905


class Clock:
    """The present second, with the texts around it; JSON has milliseconds after it.

    ``text`` is that from the time.monotonic() ``since`` to ``until``.
    """

    def __init__(self, before: str, after: str, has_milliseconds: bool) -> None:
        self._before, self._after = before, after
        self._shown = utc_time if has_milliseconds else local_time
        self.text, self.since, self.until = '', 0.0, 0.0

    def renew(self, now: float) -> str:
        """Return the present time, and keep it.

        :param now: the time.monotonic().
        """
        second, rest = divmod(time.time_ns(), 1_000_000_000)
        text = self.text = f'{self._before}{self._shown(second)}{self._after}'
        self.since = now - rest / 1e9
        self.until = self.since + 1
        return text


#: The texts after the second in JSON. The last one is for a difference that was rounded
#: up.
MILLISECONDS = [f'.{number:03}Z' for number in (*range(1000), 999)]


class Cached(dict):  # type: ignore[type-arg]
    """From values to their texts in lines, with the texts around them."""

    def __init__(self, before: str, after: str, shown: Callable[[Any], str]) -> None:
        super().__init__()
        self._before, self._after, self._shown = before, after, shown

    def __missing__(self, value: Any) -> str:
        """Return the text of a value in lines, and keep it."""
        text = f'{self._before}{self._shown(value)}{self._after}'
        if type(value) is str and len(text) <= _LONGEST_KEPT:
            if len(self) >= _MOST:
                self.clear()
            self[value] = text
        return text


class OfHead:
    """The text of a head in lines: of fields that stand beside each other.

    The head itself keeps it.
    """

    def __init__(self) -> None:
        #: Pairs of the key of a header, and of what lines show of its values.
        self.fields: list[tuple[str, Cached]] = []
        #: The expression in the source of the function.
        self.source = ''

    def find(self, head: Any) -> str:
        """Return the text of a head in lines, and keep it."""
        get = head.get
        text = ''.join([kept[get(key)] for key, kept in self.fields])
        head.shown, head.shown_by = text, self
        return text


@cache
def small_numbers(after: str) -> list[str]:
    """Return the texts of small numbers, which are the most frequent ones.

    :param after: what follows each of them.
    """
    return [f'{number}{after}' for number in range(1000)]


def local_time(second: int) -> str:
    """Return a time.time() as Apache's logs have it: ``29/Nov/2026:22:20:57 +0100``."""
    t = time.localtime(second)
    sign, minutes = '-' if t.tm_gmtoff < 0 else '+', abs(t.tm_gmtoff) // 60
    day = f'{t.tm_mday:02}/{_MONTHS[t.tm_mon - 1]}/{t.tm_year}'
    zone = f'{sign}{minutes // 60:02}{minutes % 60:02}'
    return f'{day}:{t.tm_hour:02}:{t.tm_min:02}:{t.tm_sec:02} {zone}'


def utc_time(second: int) -> str:
    """Return a time.time() as ``2026-11-29T21:20:57``, in UTC."""
    return time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(second))
