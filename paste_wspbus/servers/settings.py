"""The settings of a section become values, each by a function of its own."""

from __future__ import annotations

from paste_wspbus.errors import SettingError
from paste_wspbus.values import nearest, value_hint

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Any


def convert(
    conf: dict[str, str], known: Mapping[str, Callable[[str], Any]]
) -> dict[str, Any]:
    """Convert each setting by its function in ``known``.

    :raises SettingError: if a setting is unknown (the error names the nearest one), or if
        its function refuses it.
    """
    converted = {}
    for key, value in conf.items():
        if key not in known:
            raise SettingError(key, f'unknown setting{nearest(key, known)}')
        try:
            converted[key] = known[key](value)
        except ValueError:
            raise refusal(key, value, known[key]) from None
    return converted


def refusal(key: str, value: str, converter: Callable[[str], Any]) -> SettingError:
    """Return the error for a value that the function of its setting has refused."""
    what = {int: 'a whole number', float: 'a number'}.get(converter, 'valid')  # type: ignore[call-overload]
    return SettingError(key, f'{value!r} is not {what}{value_hint(value)}')
