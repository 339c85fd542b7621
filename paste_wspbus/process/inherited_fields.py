"""What the environment variable of the inheritance may contain."""

from __future__ import annotations

import os
import stat

from paste_wspbus.listening.passed import what_is_wrong_with
from paste_wspbus.process.inheritance import descriptors_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any


def are_right(fields: dict[str, Any]) -> bool:
    """Whether each field has the type and the descriptors that this version writes.

    A person may have written the variable by hand: it must not cause an error later.
    """
    return all(name in _RIGHT and _RIGHT[name](fields[name]) for name in fields)


def _is_open(fd: object) -> bool:
    if type(fd) is not int or not 2 < fd < 2**31:
        return False
    try:
        os.fstat(fd)
    except OSError:
        return False
    return True


def _is_socket(fd: object) -> bool:
    return _is_open(fd) and stat.S_ISSOCK(os.fstat(fd).st_mode)  # type: ignore[arg-type]


def _can_listen(fd: object) -> bool:
    if not _is_open(fd):
        return False
    # The sockets of a supervisor may only be bound: its first worker listens.
    return not what_is_wrong_with(fd, listening=False)  # type: ignore[arg-type]


def is_role(value: object) -> bool:
    """Whether a value has the fields of a `Role`, or the first of them."""
    from paste_wspbus.role import Role  # it imports typing, which few processes need

    fields = Role()
    if not isinstance(value, list) or len(value) > len(fields):
        return False
    return all(
        isinstance(one, type(usual) if usual is not None else (int, float, type(None)))
        for one, usual in zip(value, fields, strict=False)
    )


def _is_worker(value: Any) -> bool:
    # Earlier versions had no scoreboard.
    if not (_are(value, int, list) or _are(value, int, list, int)):
        return False
    if not _is_socket(value[0]) or not is_role(value[1]):
        return False
    return all(_is_file(fd) for fd in descriptors_of(value)[1:] if fd != -1)


def _is_file(fd: object) -> bool:
    return _is_open(fd) and stat.S_ISREG(os.fstat(fd).st_mode)  # type: ignore[arg-type]


def _are(value: object, *types: type | tuple[type, ...]) -> bool:
    """Whether a value is a list with one value of each of these types, in this order."""
    return (
        isinstance(value, list)
        and len(value) == len(types)
        and all(map(isinstance, value, types))
    )


def _is_text_table(value: object) -> bool:
    return isinstance(value, dict) and all(
        isinstance(one, str) for pair in value.items() for one in pair
    )


def is_origin(value: Any) -> bool:
    """Whether a value is an element of ``origins``: see `Inheritance`."""
    if not _are(value, list, object):
        return False
    are_labels = all(isinstance(label, str) for label in value[0])
    return are_labels and (value[1] is None or _are(value[1], int, int))


def _is_ops_socket(value: Any) -> bool:
    if not _are(value, int, (list, type(None))) or not _can_listen(value[0]):
        return False
    return value[1] is None or _are(value[1], int, int)


_RIGHT: dict[str, Callable[[Any], bool]] = {
    'where': _is_text_table,
    'sockets': lambda value: isinstance(value, list) and all(map(_can_listen, value)),
    'origins': lambda value: isinstance(value, list) and all(map(is_origin, value)),
    'pid_file': lambda value: value is None or _is_file(value),
    'control': lambda value: value is None or _can_listen(value),
    'owned': lambda value: isinstance(value, bool),
    'daemon': lambda value: isinstance(value, bool),
    'report': lambda value: value is None or _is_open(value),
    'worker': lambda value: value is None or _is_worker(value),
    'problem': lambda value: value is None or _are(value, str, dict),
    'reload': lambda value: value is None or _are(value, float, bool),
    'entry': lambda value: value is None or _is_file(value),
    'drained': lambda value: isinstance(value, bool),
    'ops': lambda value: isinstance(value, list) and all(map(_is_ops_socket, value)),
    'files': lambda value: value is None or _are(value, str, str),
    'renewal': lambda value: (
        value is None or _are(value, str, float, float, (str, type(None)))
    ),
}
