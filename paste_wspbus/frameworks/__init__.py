"""Guests on the bus: where each web framework's people look for it.

Each framework has a module here, whose `give` is asked about the site's
applications, and a line in FRAMEWORKS. Both the module and the framework are
imported only if the site has imported the framework already.
"""

from __future__ import annotations

import logging
import sys
from collections import deque
from contextlib import suppress
from importlib import import_module
from itertools import islice
from types import FunctionType
from typing import NamedTuple

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from typing import Any

    from paste_wspbus.bus import Bus

#: Where WSGI applications keep those that they wrap, or choose from.
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

#: So many objects are looked at in one site.
LIMIT = 500

_CONTAINERS = (dict, list, tuple, set, frozenset)


class Framework(NamedTuple):
    """What is known of a framework."""

    title: str
    distribution: str
    #: Without it, no application of the framework's is in the process.
    module: str
    #: Gives an application the bus; False if it is not one of the framework's.
    give: Callable[[Any, Bus], bool]


# -- the search ----------------------------------------------------------------


def introduce(
    app: Any, bus: Bus, log: Callable[..., object] | None = None
) -> list[str]:
    """Put the bus where each framework in a composed application keeps its globals.

    :param log: gets warnings, as ``log(message, level=30)``, which `Bus.log` takes;
        if None, the logger ``paste_wspbus``: while a site is composed nobody may
        listen to the bus yet.
    :returns: the names of the frameworks that have it now.
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
    """``app`` and those inside it, each once, from the outside in; at most LIMIT."""
    # Objects, not ids alone: the id of one that is gone may be another's.
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
    # type(part), for an object may lie about its __class__, or raise.
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
            continue  # a proxy outside of a request, a property that fails


def _closure(function: FunctionType) -> Iterator[Any]:
    """What a middleware that is a function in a function has of the outer one."""
    yield getattr(function, '__wrapped__', None)
    for cell in function.__closure__ or ():
        with suppress(ValueError):  # nothing is in it yet
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
    """The ``give`` of one of the modules here."""

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
