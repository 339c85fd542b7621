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

    if not issubclass(type(app), TGApp):
        return False
    dispatch = app.wrapped_dispatch

    def noting(controller: Any, environ: dict[str, Any], context: Any) -> Any:
        if controller:
            controller = _Noting(controller)
        return dispatch(controller, environ, context)

    app.wrapped_dispatch = noting
    return None


class _Noting:
    """A root controller that notes which method has got a request.

    It is inside TurboGears' layer for error pages, which asks another controller.
    """

    def __init__(self, controller: Any) -> None:
        self._controller = controller

    def __call__(self, environ: dict[str, Any], context: Any) -> Any:
        from paste_wspbus.frameworks.routes import name_of, note

        request = context.request
        try:
            return self._controller(environ, context)
        finally:
            state = getattr(request, '_dispatch_state', None)
            if name := name_of(getattr(state, 'action', None)):
                note(environ, name)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._controller, name)
