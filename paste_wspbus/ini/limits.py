"""The keys of [wspbus:main] that limit the time of a request, by its path."""

from __future__ import annotations

from paste_wspbus.errors import SettingError
from paste_wspbus.ini.units import ByPath, by_path, duration
from paste_wspbus.requests.marks import Limits
from paste_wspbus.requests.scoreboard import PATH
from paste_wspbus.values import DURATION_TAKES

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

#: Seconds after which a request is slow if the .ini does not say it. Only with workers.
SLOW = 10.0


def read_limit(text: str) -> ByPath:
    """Read ``slow_request`` or ``request_deadline``: durations by path; 0 or off is none.

    :raises SettingError: if the text is wrong.
    """
    found = by_path(_duration_or_off, f'{DURATION_TAKES}, or off')(text)
    for path in found.paths:
        if len(path.encode()) > PATH:
            problem = f'the path {path[:20]}... is longer than {PATH} bytes'
            raise SettingError(None, problem)
    return found


def _duration_or_off(text: str) -> float:
    return 0.0 if text.strip().lower() == 'off' else duration(text)


def limits_of(settings: Mapping[str, Any], *, has_workers: bool) -> Limits:
    """Return the limits for requests that the settings of [wspbus:main] ask for."""
    slow, deadline = settings.get('slow_request'), settings.get('request_deadline')
    if slow is None or slow.default is None:
        slow = ByPath(SLOW if has_workers else None, {} if slow is None else slow.paths)
    return Limits(slow, deadline or ByPath(None, {}))
