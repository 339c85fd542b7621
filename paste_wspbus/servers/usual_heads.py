"""How the heads of usual requests are parsed in one step, for `http.server` and for cheroot."""

from __future__ import annotations

import io
import re
import time
from email.utils import formatdate
from functools import lru_cache

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, TypeVar

    Made = TypeVar('Made')

#: A method, a path from the root with its query, the version. A first line with anything
#: else is for the server: a fragment, a host, a character that is no ASCII or not
#: visible, a quotation mark, a backslash, more than 2,000 characters.
first_line = re.compile(
    rb'([A-Z]{1,20}) ((/(?!/)[!$->@-\[\]-~]{0,999})(?:\?([!$-\[\]-~]{0,999}))?)'
    rb' (HTTP/1\.[01])\r\n'
).fullmatch

#: The characters of heads, without ends of lines.
_VISIBLE = bytes(range(0x20, 0x7F))

_is_name = re.compile(r"[!#$%&'*+\-.^`|~0-9A-Za-z]{1,64}").fullmatch

#: The most headers of a usual head: `http.server` refuses 100.
_MOST_HEADERS = 64

#: The most bytes of headers that are kept, and how many different ones.
_LONGEST_KEPT, _MOST_KEPT = 1000, 200

#: The last second for which a date was written, and that date.
_last_date: tuple[int, str] = 0, formatdate(0, usegmt=True)


def received(file: Any) -> bytes | None:
    """Return what a file of a connection has received, to the end of a head, and leave it there.

    If nothing was received, this waits, as reading a line does.

    :returns: None if there is no end of a head.
    """
    if not isinstance(file, io.BufferedReader):
        return None
    seen = file.peek(1)
    end = seen.find(b'\r\n\r\n')
    return seen[: end + 4] if end >= 0 else None


def headers_of(data: bytes) -> list[tuple[str, str]] | None:
    """Return the names and values of headers; None if one of them is not a usual one.

    :param data: a head without its first line.
    """
    lines = data[:-4].decode('latin-1').split('\r\n')
    ends = b'\r\n' * (len(lines) + 1)
    if len(lines) > _MOST_HEADERS or data.translate(None, _VISIBLE) != ends:
        return None
    headers, names = [], set()
    for line in lines:
        name, colon, value = line.partition(':')
        if not colon or not _is_name(name):
            return None
        headers.append((name, value.lstrip(' ')))
        names.add(name.lower())
    return headers if len(names) == len(headers) else None


def keeping(make: Callable[[bytes], Made]) -> Callable[[bytes], Made]:
    """Return a function that keeps what ``make`` makes of headers: clients send the same again."""
    kept = lru_cache(_MOST_KEPT)(make)

    def made(data: bytes) -> Made:
        return kept(data) if len(data) <= _LONGEST_KEPT else make(data)

    return made


def date() -> str:
    """Return the time for a header ``Date``."""
    global _last_date
    second = int(time.time())
    if _last_date[0] != second:
        _last_date = second, formatdate(second, usegmt=True)
    return _last_date[1]
