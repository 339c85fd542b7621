"""Settings of a section: texts become values, and a wrong one is told with what is right."""

from __future__ import annotations

from paste_wspbus.errors import SettingError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Any


def convert(
    conf: dict[str, str], known: Mapping[str, Callable[[str], Any]]
) -> dict[str, Any]:
    """Convert each setting by its function in ``known``.

    :raises SettingError: for one that is unknown (names the nearest), or that
        its function refuses.
    """
    converted = {}
    for key, value in conf.items():
        if key not in known:
            raise SettingError(key, f'unknown setting{nearest(key, known)}')
        try:
            converted[key] = known[key](value)
        except ValueError:
            what = {int: 'a whole number', float: 'a number'}.get(known[key], 'valid')  # type: ignore[call-overload]
            raise SettingError(key, f'{value!r} is not {what}') from None
    return converted


def nearest(word: str, known: Any) -> str:
    """A hint to append to a message: the known word that comes nearest."""
    from difflib import get_close_matches  # for an error alone

    found = get_close_matches(word, list(known), 1, 0.5)
    return f'; did you mean {found[0]!r}?' if found else ''


def boolean(text: str) -> bool:
    """PasteDeploy's idea of true and false.

    :raises ValueError: if it is neither.
    """
    word = str(text).strip().lower()
    if word in ('true', 'yes', 'on', 'y', 't', '1'):
        return True
    if word in ('false', 'no', 'off', 'n', 'f', '0'):
        return False
    raise ValueError(text)
