"""Pyramid: the bus at ``registry.wspbus`` and ``request.bus``, and ``config.add_lifespan``."""

from __future__ import annotations

import logging

from paste_wspbus.bus import State
from paste_wspbus.bus.host import host_of
from paste_wspbus.frameworks.guests import Taken, check_free, kept, log
from paste_wspbus.handoff import get_bus, start_embedded

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

    from paste_wspbus.bus import Bus


def give(app: Any, bus: Bus) -> bool:
    """Put the bus at ``registry.wspbus`` and ``request.bus``.

    :returns: False if ``app`` is not an application of Pyramid.
    :raises Taken: if the site has something else at one of them.
    """
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
    check_free(getattr(registry, 'wspbus', None), bus, 'registry.wspbus')
    registry.wspbus = bus


#: Pyramid treats it as a request method: it calls __get__, and keeps the result. For a
#: request property, Pyramid would make a new class for each request, and that takes
#: longer than everything that the bus does for a request.
_request_bus = property(lambda request: request.registry.wspbus)


def add_bus_resource(config: Any, name: str, key: str | None = None) -> None:
    """Put ``bus.resources[name]`` at ``registry[key]`` while the site is started.

    :param config: the `pyramid.config.Configurator`.
    :param key: ``name`` if None.
    """
    registry, where = config.registry, key or name
    bus = get_bus(registry.settings)

    def shared() -> Iterator[Any]:
        registry[where] = bus.resources[name]
        yield registry[where]
        registry.pop(where, None)

    def register() -> None:
        bus.lifespan(shared, name=f'registry {where}', needs=name)

    config.action(('wspbus resource', where), register)


def includeme(config: Any) -> None:
    """Give the bus to a Pyramid site: ``config.include('paste_wspbus.frameworks.pyramid')``.

    It sets ``registry.wspbus`` and ``request.bus``, and adds a directive
    ``config.add_lifespan(function, name=None, priority=None, timeout=None)``, which
    calls `Bus.lifespan` when the configuration is committed. A second directive is
    `add_bus_resource`.

    The bus comes from the settings (``get wspbus = wspbus`` in the .ini, or
    ``settings['wspbus'] = global_config['wspbus']``); without that, it is the bus of the
    site that is being composed. If the server has made no bus, it is the embedded bus of
    this process, which the first request starts.

    :param config: the `pyramid.config.Configurator`.
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
    config.add_directive('add_bus_resource', add_bus_resource)
    if host_of(bus).exits_with_process:
        config.add_subscriber(start, 'pyramid.interfaces.INewRequest')
    try:
        _give_registry(config.registry, bus)
    except Taken as error:
        log(kept('Pyramid', 'pyramid', error), level=logging.WARNING)
    else:
        config.add_request_method(_request_bus, 'bus')


def show_routes(app: Any) -> Any:
    """Let an application note the pattern of the route that matches, as '/item/{id}'.

    :returns: False if ``app`` is not an application of Pyramid.
    """
    from pyramid.router import Router

    if not issubclass(type(app), Router):
        return False
    if app.routes_mapper is not None:
        app.routes_mapper = _Noting(app.routes_mapper)
    return None


class _Noting:
    """A routes mapper that notes which route has matched."""

    def __init__(self, mapper: Any) -> None:
        from paste_wspbus.frameworks.routes import mounted, note

        self._mapper, self._note, self._mounted = mapper, note, mounted

    def __call__(self, request: Any) -> Any:
        found = self._mapper(request)
        if (route := found['route']) is not None:
            environ = request.environ
            self._note(environ, self._mounted(environ, route.pattern))
        return found

    def __getattr__(self, name: str) -> Any:
        return getattr(self._mapper, name)
