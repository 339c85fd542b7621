"""Guests on the bus: where each web framework's people look for it.

A framework has one short function here and one line in FRAMEWORKS. It is asked
about applications only if the site has imported the framework already.
"""

from __future__ import annotations

import contextlib
import logging
import sys
import weakref
from collections import deque
from itertools import islice
from typing import NamedTuple

from paste_wspbus.bus import State
from paste_wspbus.handoff import KEY, get_bus, start_embedded

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
    '__self__',
)

#: So many objects are looked at in one site.
LIMIT = 500

_CONTAINERS = (dict, list, tuple, set, frozenset)

#: Buses that sit in frameworks' globals because they were put there from here.
_given: weakref.WeakSet[Any] = weakref.WeakSet()


class Taken(Exception):
    """The site has something of its own where the bus would be put."""

    def __init__(self, place: str) -> None:
        super().__init__(place)
        self.place = place


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
    introduced: dict[str, None] = {}
    warnings: dict[str, None] = {}
    for one in applications(app):
        for framework in tuple(present):
            try:
                if framework.give(one, bus):
                    introduced[framework.title] = None
            except Taken as error:
                warnings[_kept(framework, error)] = None
            except Exception as error:
                present.remove(framework)
                warnings[_moved(framework, error)] = None
    for warning in warnings:
        (_log if log is None else log)(warning, level=logging.WARNING)
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
    for part in _items(one) if issubclass(type(one), _CONTAINERS) else _attributes(one):
        if callable(part) or issubclass(type(part), _CONTAINERS):
            yield part


def _attributes(one: Any) -> Iterator[Any]:
    for name in INSIDE:
        try:
            yield getattr(one, name, None)
        except Exception:
            continue  # a proxy outside of a request, a property that fails


def _items(container: Any) -> Iterable[Any]:
    try:
        items = container.values() if hasattr(container, 'values') else container
        return list(islice(items, LIMIT))
    except Exception:
        return ()


def _log(message: str, level: int) -> None:
    logging.getLogger('paste_wspbus').log(level, '%s', message)


def _kept(framework: Framework, error: Taken) -> str:
    return (
        f'{framework.title} {_version(framework)}: '
        f"{error.place} is the site's own and stays as it is; the bus is not there"
    )


def _moved(framework: Framework, error: Exception) -> str:
    problem = ' '.join(f'{type(error).__name__}: {error}'.split())
    return (
        f'{framework.title} {_version(framework)}: '
        f'its applications are served without the bus in their globals ({problem})'
    )


def _version(framework: Framework) -> str:
    from importlib.metadata import version

    try:
        return version(framework.distribution) or '(unknown version)'
    except Exception:  # not installed, or its metadata is broken
        return '(unknown version)'


def _check_free(present: Any, bus: Bus, place: str) -> None:
    """Refuse to overwrite what is the site's own.

    None is a site's way to name a thing that will come. A bus that was put
    there from here may be replaced: the application was composed before.

    :raises Taken: if it is.
    """
    if present is None or present is bus or any(present is one for one in _given):
        with contextlib.suppress(TypeError):  # a bus that knows no weak references
            _given.add(bus)
        return
    raise Taken(place)


# -- Pyramid -------------------------------------------------------------------


def pyramid(app: Any, bus: Bus) -> bool:
    """``registry.wspbus`` and ``request.bus``."""
    from pyramid.config import Configurator
    from pyramid.interfaces import IRequestExtensions
    from pyramid.router import Router

    if not issubclass(type(app), Router):
        return False
    registry = app.registry
    _give_registry(registry, bus)
    own = getattr(app.request_factory, 'bus', None)
    if (extensions := app.request_extensions) is not None:
        own = {**extensions.descriptors, **extensions.methods}.get('bus', own)
    if own is None:
        config = Configurator(registry, autocommit=True, introspection=False)
        config.add_request_method(_request_bus, 'bus')
        app.request_extensions = registry.getUtility(IRequestExtensions)
    elif own is not _request_bus:
        raise Taken('request.bus')
    return True


def _give_registry(registry: Any, bus: Bus) -> None:
    _check_free(getattr(registry, 'wspbus', None), bus, 'registry.wspbus')
    registry.wspbus = bus


#: A request "method": Pyramid binds it by __get__ and keeps what that returns. To
#: a request with a property it would give a class of its own, which takes longer
#: than all that the bus does for a request.
_request_bus = property(lambda request: request.registry.wspbus)


def includeme(config: Any) -> None:
    """``config.include('paste_wspbus.frameworks')``, for Pyramid.

    Gives ``registry.wspbus``, ``request.bus``, and a directive
    ``config.add_lifespan(function, name=None, priority=None, timeout=None)``:
    `Bus.lifespan`, called when the configuration is committed.

    The bus is the one in the settings (``get wspbus = wspbus`` in the .ini, or
    ``settings['wspbus'] = global_config['wspbus']``), else that of the site that
    is being composed; under a server that made none, this process's embedded
    bus, started by the first request.
    """
    bus = get_bus(config.registry.settings)

    def add_lifespan(
        config: Any,
        function: Any,
        name: str | None = None,
        priority: float | None = None,
        timeout: float | None = None,
    ) -> None:
        generator = config.maybe_dotted(function)

        def register() -> None:
            bus.lifespan(generator, priority=priority, name=name, timeout=timeout)

        config.action(name and ('wspbus lifespan', name), register)

    def start(event: object) -> None:
        if bus.state is State.STOPPED:
            start_embedded(bus)

    config.add_directive('add_lifespan', add_lifespan)
    if getattr(bus, 'exits_with_process', False):
        config.add_subscriber(start, 'pyramid.interfaces.INewRequest')
    try:
        _give_registry(config.registry, bus)
    except Taken as error:
        _log(_kept(PYRAMID, error), level=logging.WARNING)
    else:
        config.add_request_method(_request_bus, 'bus')


# -- Flask ---------------------------------------------------------------------


def flask(app: Any, bus: Bus) -> bool:
    """``app.extensions['wspbus']``."""
    from flask import Flask

    if not issubclass(type(app), Flask):
        return False
    extensions = app.extensions
    _check_free(extensions.get(KEY), bus, f'app.extensions[{KEY!r}]')
    extensions[KEY] = bus
    return True


# -- Django --------------------------------------------------------------------


def django(app: Any, bus: Bus) -> bool:
    """``settings.WSPBUS``: Django has one for the whole process."""
    from django.conf import settings
    from django.core.handlers.wsgi import WSGIHandler

    if not issubclass(type(app), WSGIHandler):
        return False
    _check_free(getattr(settings, 'WSPBUS', None), bus, 'settings.WSPBUS')
    settings.WSPBUS = bus
    return True


PYRAMID = Framework('Pyramid', 'pyramid', 'pyramid.router', pyramid)

FRAMEWORKS = (
    PYRAMID,
    Framework('Flask', 'Flask', 'flask', flask),
    Framework('Django', 'Django', 'django.core.handlers.wsgi', django),
)
