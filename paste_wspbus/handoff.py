"""How a component finds its bus, and the factories that .ini files name."""

from __future__ import annotations

from paste_wspbus.bus.host import host_of
from paste_wspbus.reference import ENVIRON_KEY, KEY, BusRef, composed_bus, composing

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Any

    from paste_wspbus.bus import Bus
    from paste_wspbus.requests.filter import WSGIApp

__all__ = [
    'ENVIRON_KEY',
    'KEY',
    'BusRef',
    'composing',
    'embedded_bus',
    'get_bus',
    'make_bus',
    'make_filter',
    'start_embedded',
]


def get_bus(global_conf: Mapping[str, Any] | None = None) -> Bus:
    """Return the bus of the site that a PasteDeploy factory belongs to.

    :param global_conf: the ``global_conf`` of the factory. Code that has none finds the
        bus without it while the site is composed.
    :returns: the bus of the site. If the server has made no bus, that is the embedded
        bus of this process, which the first request starts and the end of the process
        stops.
    :raises ConfigError, FactoryError: as `embedded_bus` does.
    """
    ref = (global_conf or {}).get(KEY)
    if isinstance(ref, BusRef):
        return ref.bus
    composed = composed_bus()
    return embedded_bus(global_conf) if composed is None else composed


def embedded_bus(global_conf: Mapping[str, Any] | None = None) -> Bus:
    """Return the embedded bus of this process: the last resort if no command made a bus.

    :param global_conf: the ``global_conf`` of a factory. It names the .ini, whose
        [wspbus:main] may name plugins for this bus.
    :raises ConfigError: if [wspbus:main] is wrong.
    :raises FactoryError: if the factory of a plugin fails.
    """
    # This import is inside the function because it loads the reader of .ini files and
    # the hosts: a component that finds its bus in global_conf needs neither. It is not
    # circular: the rooms below take BusRef from paste_wspbus.reference, and none of them
    # imports this module.
    from paste_wspbus.hosts.embedded import bus_for

    return bus_for(global_conf or {})


def make_filter(
    global_conf: dict[str, Any], **local_conf: str
) -> Callable[[WSGIApp], WSGIApp]:
    """Make the filter of ``use = egg:paste_wspbus#bus``, which takes no settings.

    Its entry point is in the group paste.filter_factory.

    :returns: a function that wraps an application in the filter.
    :raises TypeError: if the section has other keys.
    """
    from paste_wspbus.frameworks import introduce  # imported here, as above
    from paste_wspbus.requests.filter import BusFilter
    from paste_wspbus.requests.wrapping import wrapped_by

    if local_conf:
        raise TypeError(f'the bus filter takes no settings: {", ".join(local_conf)}')
    bus = get_bus(global_conf)

    is_alone = composed_bus() is None  # nobody wraps the application as a whole

    def wrap(app: WSGIApp) -> WSGIApp:
        host = host_of(bus)
        if host.exits_with_process:  # otherwise the command introduces the bus
            introduce(app, bus)
        wrapped: WSGIApp = BusFilter.around(app, bus)
        if is_alone:
            wrapped = wrapped_by(bus.plugins.values(), wrapped)
        host.composed(bus)  # the host may start the bus now
        return wrapped

    return wrap


def make_bus(global_conf: Mapping[str, Any]) -> Bus:
    """Make the bus of ``use = egg:paste_wspbus#bus`` in [wspbus:main].

    Its entry point is in the group paste_wspbus.bus_factory.
    """
    from paste_wspbus.bus import Bus  # imported here, as above

    return Bus()


def start_embedded(bus: Bus) -> None:
    """Let the host of a bus start the bus, if it is not started.

    :raises StartFailed: if a 'start' listener fails.
    """
    host_of(bus).start(bus)
