"""Pylons: the bus at ``app_globals.bus``."""

from __future__ import annotations

from paste_wspbus.frameworks.guests import Taken, check_free

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from paste_wspbus.bus import Bus


def give(app: Any, bus: Bus) -> bool:
    """Put the bus at ``app_globals.bus`` of each application.

    The globals are in the PylonsApp, and in the configuration that the project template
    of Pylons sets on the outermost layer. So it does not matter what is between them.

    :returns: False if ``app`` is not an application of Pylons, or has no globals.
    :raises Taken: if the site has something else there.
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
    except Exception:  # it may be a property of an application that is not of Pylons
        return None


def give_globals(app_globals: Any, bus: Bus) -> bool:
    """Put the bus at ``app_globals.bus``, for Pylons and for TurboGears.

    :returns: False if the site has no app_globals.
    :raises Taken: if it has a ``bus`` of its own, or does not take new attributes.
    """
    if app_globals is None:
        return False
    place = 'app_globals.bus'
    try:
        present = getattr(app_globals, 'bus', None)
    except Exception:  # it is a property that works only in a request
        raise Taken(place) from None
    check_free(present, bus, place)
    if present is not bus:
        try:
            app_globals.bus = bus
        except (AttributeError, TypeError):
            raise Taken('app_globals, which takes no attribute bus,') from None
    return True


def show_routes(app: Any) -> Any:
    """Return what finds the controller and the action of a request, as 'item.show'.

    :returns: False if ``app`` is not an application of Pylons.
    """
    from pylons.wsgiapp import PylonsApp

    return _action if issubclass(type(app), PylonsApp) else False


def _action(environ: dict[str, Any], status: str) -> str | None:
    found = environ.get('pylons.routes_dict')
    # Both names may come from the path: those of a 404 have no end.
    if not found or not found.get('controller') or status.startswith('404'):
        return None
    return f'{found["controller"]}.{found.get("action") or "index"}'
