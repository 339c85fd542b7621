"""The checks of the values that reports carry: a process may have sent anything."""

from __future__ import annotations

import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

#: What a status says of each request in flight.
REQUEST = ('method', 'path', 'age', 'thread', 'id')


def _is_number(value: object) -> bool:
    return type(value) is int and abs(value) < 1 << 31


def _is_count(value: object) -> bool:
    return type(value) is int and 0 <= value < 1 << 53


def _is_text(value: object) -> bool:
    return isinstance(value, str)


def _are_texts(value: object) -> bool:
    return isinstance(value, list) and all(map(_is_text, value))


#: The numbers in the status of a process; each may be None.
NUMBERS = ('in_flight', 'served', 'server_threads', 'busy', 'queued')


def _is_request(value: object) -> bool:
    if not isinstance(value, dict) or value.keys() != {*REQUEST}:
        return False
    age = value['age']
    is_age = type(age) in (int, float) and abs(age) < 1e12
    may_be_none = all(
        value[key] is None or _is_text(value[key]) for key in ('thread', 'id')
    )
    return (
        _is_text(value['method']) and _is_text(value['path']) and is_age and may_be_none
    )


def _is_status(value: object) -> bool:
    if not isinstance(value, dict) or not isinstance(value.get('requests'), list):
        return False
    if not all(map(_is_request, value['requests'])):
        return False
    numbers = (value.get(key) for key in NUMBERS)
    if not all(number is None or _is_count(number) for number in numbers):
        return False
    if not isinstance(value.get('debugger', ''), str):
        return False
    states = value.get('plugins', {})
    if not isinstance(states, dict) or not all(
        isinstance(state, dict) for state in states.values()
    ):
        return False
    calling = value.get('calling')
    if calling is None:
        return True
    if not isinstance(calling, list) or len(calling) != 3:
        return False
    channel, listener, since = calling
    is_time = isinstance(since, (int, float)) and abs(since) < 1e12
    return _is_text(channel) and _is_text(listener) and is_time


#: The fields of a call in a timeline: channel, name, start (time.monotonic), seconds,
#: outcome and thread. And the number of calls in a report at most.
CALL, MAX_CALLS = (str, str, float, float, str, str), 300


def is_call(value: object) -> bool:
    """Whether a value has the fields of `CALL`."""
    if not isinstance(value, list) or len(value) != len(CALL):
        return False
    for one, kind in zip(value, CALL, strict=True):
        if kind is str and not _is_text(one):
            return False
        if kind is float and (type(one) not in (int, float) or not abs(one) < 1e12):
            return False
    return True


def _are_calls(value: object) -> bool:
    return (
        isinstance(value, list) and len(value) <= MAX_CALLS and all(map(is_call, value))
    )


#: The types of what the health check of a process says.
_CHECK = {
    **{'name': str, 'group': str, 'text': str, 'ok': (bool, type(None))},
    **dict.fromkeys(('every', 'timeout'), (int, float)),
    **dict.fromkeys(('at', 'took'), (int, float, type(None))),
}


def _is_check(value: object) -> bool:
    return (
        isinstance(value, dict)
        and value.keys() == _CHECK.keys()
        and all(isinstance(value[key], _CHECK[key]) for key in _CHECK)  # type: ignore[arg-type]
        and len(value['name']) + len(value['group']) + len(value['text']) <= 1000
    )


def _are_news(value: object) -> bool:
    return isinstance(value, list) and all(map(_is_news, value))


def _is_news(value: object) -> bool:
    if not isinstance(value, list) or len(value) != 3:
        return False
    kind, path, more = value
    if kind == 'file':
        is_signature = isinstance(more, list) and all(
            isinstance(number, (int, float)) for number in more
        )
        return _is_path(path) and (more is None or is_signature)
    return kind in ('modules', 'glob') and _is_path(path) and _are_paths(more)


def _is_path(value: object) -> bool:
    try:
        return isinstance(value, str) and b'\0' not in os.fsencode(value)
    except UnicodeEncodeError:
        return False


def _are_paths(value: object) -> bool:
    return isinstance(value, list) and all(map(_is_path, value))


#: The number of characters that a message (as JSON), a channel and an error have at most;
#: and how many channels a process names at once. `bus.messages` has the same limits.
MAX_MESSAGE, MAX_CHANNEL, MAX_ERROR, MAX_CHANNELS = 1 << 16, 200, 1000, 1000


def _is_channel(value: object) -> bool:
    return isinstance(value, str) and 0 < len(value) <= MAX_CHANNEL


def _are_channels(value: object) -> bool:
    return (
        isinstance(value, list)
        and len(value) <= MAX_CHANNELS
        and all(map(_is_channel, value))
    )


def _is_message(value: object) -> bool:
    return isinstance(value, str) and len(value) <= MAX_MESSAGE


def _is_timeout(value: object) -> bool:
    return type(value) in (int, float) and 0 < value <= 3600  # type: ignore[operator]


#: From each key of a report to the check of its value.
VALUES: dict[str, Callable[[Any], bool]] = {
    'pid': lambda value: _is_number(value) and value > 1,
    'ready': _are_texts,
    'failed': _is_number,
    'line': _is_text,
    'traceback': _is_text,
    'file': lambda value: value is None or _is_text(value),
    'problem': _is_text,
    'composed': lambda value: value is True,
    'untried': _is_text,
    'leave': lambda value: value is True,
    'succeed': lambda value: value is True,
    'renew': lambda value: value is True,
    'restarts': lambda value: value in ('execv', 'child', 'fork'),
    'exits': _is_number,
    'examined': _is_count,
    'waits': _is_text,
    'cut': _is_number,
    'others': _is_number,
    'status': _is_status,
    'timeline': _are_calls,
    'left_out': _is_count,
    'ends': lambda value: isinstance(value, bool),
    'hears': _are_channels,
    'broadcast': _is_channel,
    'args': _is_message,
    'retain': lambda value: isinstance(value, bool),
    'cluster': lambda value: isinstance(value, bool),
    'ask': _is_count,
    'channel': _is_channel,
    'timeout': _is_timeout,
    'answer': _is_count,
    'value': lambda value: value is None or _is_message(value),
    'error': lambda value: (
        value is None or (_is_text(value) and len(value) <= MAX_ERROR)
    ),
    'learnt': _are_news,
    'modules': _are_texts,
    'loading': lambda value: _is_number(value) and value >= 0,
    'loads': _is_text,
    'wants': _is_text,
    'health': lambda value: (
        isinstance(value, list) and len(value) <= 200 and all(map(_is_check, value))
    ),
    'outdated': lambda value: _are_paths(value) and bool(value),
    'forked': _is_number,
    'process': lambda value: _is_number(value) and value > 1,
    'ended': _is_number,
    'code': lambda value: value is None or _is_number(value),
    'dumped': lambda value: isinstance(value, bool),
    'imported': _is_text,
    'why': _is_text,
}
