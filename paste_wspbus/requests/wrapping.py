"""What plugins put around an application, outside of the filter."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any

    from paste_wspbus.requests.filter import WSGIApp


def wrapped_by(plugins: Iterable[Any], app: WSGIApp) -> WSGIApp:
    """Return the application as plugins wrap it: the first one is outermost.

    :param plugins: those that have ``wrap_application(app)`` get the application, with the
        filter around it, and return what the server calls.
    """
    for plugin in [*plugins][::-1]:
        wrap = getattr(plugin, 'wrap_application', None)
        if wrap is not None:
            app = wrap(app)
    return app
