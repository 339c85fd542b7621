"""The lines in which reports and orders travel: they are written and read here."""

from __future__ import annotations

from paste_wspbus.wire.words import ORDERS, REPORTS, UnknownWord

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

#: The number of bytes that a report has at most: for a large site, the report of its files
#: has some 2 MB.
MAX_REPORT = 1 << 24


class NoReport(ValueError):
    """A line is not a report of `REPORTS`; the message says why."""


def read_report(line: bytes) -> dict[str, Any]:
    """Read a line from a process, which may have sent anything.

    :returns: the message; {} if this version does not know the report.
    :raises NoReport: if the line does not match `REPORTS` and `VALUES`.
    """
    import json

    from paste_wspbus.wire.checks import VALUES

    try:
        message = json.loads(line, parse_constant=_refuse)
    except (ValueError, RecursionError) as error:
        raise NoReport(f'no JSON: {type(error).__name__}') from None
    if not isinstance(message, dict):
        raise NoReport('no JSON object')
    word = REPORTS.get(next(iter(message), ''))
    if word is None:
        return {}
    keys = word.carries or (word.name,)
    for key in keys:
        if key not in message or not VALUES[key](message[key]):
            raise NoReport(f'{key!r} of {word.name!r} is missing or wrong')
    return {key: message[key] for key in keys}


def _refuse(constant: str) -> None:
    raise ValueError(constant)  # Infinity and NaN are not JSON


def order(word: str, *carried: object) -> bytes:
    """Return the line of an order.

    :raises UnknownWord: if it is not in the table.
    :raises TypeError: if it carries another number of values.
    """
    known = ORDERS.get(word)
    if known is None:
        raise UnknownWord(word)
    if len(carried) != len(known.carries):
        raise TypeError(f'{word!r} carries {known.carries}, not {len(carried)} values')
    if not carried:
        return f'{word}\n'.encode()
    import json  # imported here: a plain start does not need it

    return f'{word} {" ".join(map(json.dumps, carried))}\n'.encode()


def read_order(line: bytes) -> tuple[str, list[Any]]:
    """Read a line.

    :returns: the name of the order and its values; ('', []) if it is not an order.
    """
    text = line.decode(errors='replace').strip()
    name, _, rest = text.partition(' ')
    known = ORDERS.get(name)
    if known is None:
        return '', []
    if not known.carries:
        return name, []
    import json

    texts = rest.split(' ', len(known.carries) - 1)
    try:
        carried = [json.loads(text) for text in texts]
    except (ValueError, RecursionError):
        return '', []
    return (name, carried) if len(carried) == len(known.carries) else ('', [])
