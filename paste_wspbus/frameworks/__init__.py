"""Web frameworks on the bus: it finds their applications, and gives the bus to each of them.

Each framework has a module here, and a line in FRAMEWORKS. `introduce` calls the `give`
of that module with each application of the site. The module is imported only if the
site has imported the framework already.
"""

from __future__ import annotations

import logging
import sys
from collections import deque
from contextlib import suppress
from importlib import import_module
from itertools import islice
from types import FunctionType

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from typing import Any

    from paste_wspbus.bus import Bus

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


class Framework:
    """What this package knows about one framework.

    :param title: its name in messages.
    :param distribution: its name on PyPI.
    :param module: a module that is imported if the process has an application of the
        framework.
    :param give: gives the bus to an application; it returns False if the application is
        not one of this framework.
    """

    __slots__ = ('distribution', 'give', 'module', 'title')

    def __init__(
        self,
        title: str,
        distribution: str,
        module: str,
        give: Callable[[Any, Bus], bool],
    ) -> None:
        self.title, self.distribution = title, distribution
        self.module, self.give = module, give


# -- the search ----------------------------------------------------------------


def introduce(
    app: Any, bus: Bus, log: Callable[..., object] | None = None
) -> list[str]:
    """Put the bus where each framework in a composed application keeps its globals.

    Failures are warnings: the site is served even if a framework does not get the bus.

    :param app: the application of the site, with all that it wraps.
    :param log: is called with each warning, as ``log(message, level=30)``; `Bus.log`
        may be it. If None, the logger ``paste_wspbus`` gets the warnings, because the
        bus may have no listeners while the site is composed.
    :returns: the names of the frameworks that have the bus now.
    """
    present = [one for one in FRAMEWORKS if sys.modules.get(one.module) is not None]
    if not present:
        return []
    from paste_wspbus.frameworks.guests import Taken, kept
    from paste_wspbus.frameworks.guests import log as warn

    introduced: dict[str, None] = {}
    warnings: dict[str, None] = {}
    for one in applications(app):
        for framework in tuple(present):
            try:
                if framework.give(one, bus):
                    introduced[framework.title] = None
            except Taken as error:
                warnings[kept(framework.title, framework.distribution, error)] = None
            except Exception as error:
                present.remove(framework)
                warnings[_moved(framework, error)] = None
    for warning in warnings:
        (warn if log is None else log)(warning, level=logging.WARNING)
    return list(introduced)


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


def _moved(framework: Framework, error: Exception) -> str:
    from paste_wspbus.frameworks.guests import version_of

    problem = ' '.join(f'{type(error).__name__}: {error}'.split())
    return (
        f'{framework.title} {version_of(framework.distribution)}: '
        f'its applications are served without the bus in their globals ({problem})'
    )


def _by(module: str) -> Callable[[Any, Bus], bool]:
    """Return the ``give`` of one of the modules here."""

    def give(app: Any, bus: Bus) -> bool:
        found: bool = import_module(f'{__name__}.{module}').give(app, bus)
        return found

    return give


FRAMEWORKS = (
    Framework('Pyramid', 'pyramid', 'pyramid.router', _by('pyramid')),
    Framework('Flask', 'Flask', 'flask', _by('flask')),
    Framework('Django', 'Django', 'django.core.handlers.wsgi', _by('django')),
    Framework('CherryPy', 'CherryPy', 'cherrypy', _by('cherrypy')),
    Framework('Pylons', 'Pylons', 'pylons.wsgiapp', _by('pylons')),
    Framework('TurboGears', 'TurboGears2', 'tg.wsgiapp', _by('turbogears')),
    Framework('Zope', 'Zope', 'ZPublisher.WSGIPublisher', _by('zope')),
)
