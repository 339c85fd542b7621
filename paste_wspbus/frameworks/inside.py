"""The applications that WSGI applications keep inside: middleware, URL maps, closures."""

from __future__ import annotations

from collections import deque
from contextlib import suppress
from itertools import islice
from types import FunctionType

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from typing import Any

#: The attributes in which WSGI applications keep the applications that they call.
INSIDE = (
    'app',
    'application',
    'apps',
    'applications',
    'wrap_app',
    'wsgi_app',
    'mounts',
    '_app',
    '_application',
    'wrapped',
    'inner',
    'next_app',
    'middleware_wraps',  # webob.dec.wsgify
    'func',  # functools.partial
    '__self__',
)

#: The number of objects that the search visits at most.
LIMIT = 500

_CONTAINERS = (dict, list, tuple, set, frozenset)


def applications(app: Any) -> Iterator[Any]:
    """Yield ``app`` and the applications inside it, from the outside in, each once."""
    # This keeps the objects, because the id of a deleted object may be used again.
    found, waiting = {id(app): app}, deque([app])
    while waiting:
        one = waiting.popleft()
        if not issubclass(type(one), _CONTAINERS):
            yield one
        for part in _parts(one):
            if id(part) not in found and len(found) < LIMIT:
                found[id(part)] = part
                waiting.append(part)


def _parts(one: Any) -> Iterator[Any]:
    # type(part), because the __class__ of a proxy may be another class, or raise an error.
    if issubclass(type(one), _CONTAINERS):
        parts = _items(one)
    elif type(one) is FunctionType:
        parts = _closure(one)
    else:
        parts = _attributes(one)
    for part in parts:
        if callable(part) or issubclass(type(part), _CONTAINERS):
            yield part


def _attributes(one: Any) -> Iterator[Any]:
    for name in INSIDE:
        try:
            yield getattr(one, name, None)
        except Exception:
            continue  # it is a proxy that works only in a request, or a property that fails


def _closure(function: FunctionType) -> Iterator[Any]:
    """Yield the objects that an inner function (a middleware) has from its outer function."""
    yield getattr(function, '__wrapped__', None)
    for cell in function.__closure__ or ():
        with suppress(ValueError):  # the cell is empty
            yield cell.cell_contents


def _items(container: Any) -> Iterable[Any]:
    try:
        items = container.values() if hasattr(container, 'values') else container
        return list(islice(items, LIMIT))
    except Exception:
        return ()
