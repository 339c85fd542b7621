"""TurboGears: the bus at ``tg.app_globals.bus``."""

from __future__ import annotations

from paste_wspbus.frameworks.pylons import give_globals

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from paste_wspbus.bus import Bus


def give(app: Any, bus: Bus) -> bool:
    """Put the bus at ``tg.app_globals.bus``. Full-stack and minimal sites both have a TGApp.

    :returns: False if ``app`` is not an application of TurboGears, or has no globals.
    :raises Taken: if the site has something else there.
    """
    from tg.wsgiapp import TGApp

    return issubclass(type(app), TGApp) and give_globals(app.globals, bus)


def show_routes(app: Any) -> Any:
    """Let an application note the method of the controller that gets a request.

    :returns: False if ``app`` is not an application of TurboGears.
    """
    from tg.wsgiapp import TGApp

    from paste_wspbus.frameworks.routes import name_of, note

    if not issubclass(type(app), TGApp):
        return False
    dispatch = app.wrapped_dispatch

    def noting(controller: Any, environ: dict[str, Any], context: Any) -> Any:
        try:
            return dispatch(controller, environ, context)
        finally:
            state = getattr(context.request, '_dispatch_state', None)
            if name := name_of(getattr(state, 'action', None)):
                note(environ, name)

    app.wrapped_dispatch = noting
    return None
