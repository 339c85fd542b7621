"""Pylons: ``app_globals.bus``."""

from __future__ import annotations

from paste_wspbus.frameworks.guests import Taken, check_free

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from paste_wspbus.bus import Bus


def give(app: Any, bus: Bus) -> bool:
    """``app_globals.bus``, of each application its own.

    They are found in the PylonsApp, and in the configuration that Pylons' project
    template sets on the outermost layer, whatever the layers between them are.
    """
    from pylons.configuration import PylonsConfig
    from pylons.wsgiapp import PylonsApp

    if issubclass(type(app), PylonsApp):
        return give_globals(app.globals, bus)
    config = _config(app)
    if issubclass(type(config), PylonsConfig):
        return give_globals(config.get('pylons.app_globals'), bus)
    return False


def _config(app: Any) -> Any:
    try:
        return getattr(app, 'config', None)
    except Exception:  # of somebody else's application
        return None


def give_globals(app_globals: Any, bus: Bus) -> bool:
    """``app_globals.bus``, in Pylons and in TurboGears.

    :returns: False if the site has none.
    :raises Taken: if it has a ``bus`` of its own, or takes no attribute.
    """
    if app_globals is None:
        return False
    place = 'app_globals.bus'
    try:
        present = getattr(app_globals, 'bus', None)
    except Exception:  # a property that works in a request alone
        raise Taken(place) from None
    check_free(present, bus, place)
    if present is not bus:
        try:
            app_globals.bus = bus
        except (AttributeError, TypeError):
            raise Taken('app_globals, which takes no attribute bus,') from None
    return True
