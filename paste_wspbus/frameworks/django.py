"""Django: the bus at ``settings.WSPBUS``."""

from __future__ import annotations

from paste_wspbus.frameworks.guests import check_free

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from paste_wspbus.bus import Bus


def give(app: Any, bus: Bus) -> bool:
    """Put the bus at ``settings.WSPBUS``; Django has one settings object in a process.

    :returns: False if ``app`` is not an application of Django.
    :raises Taken: if the site has something else there.
    """
    from django.conf import settings
    from django.core.handlers.wsgi import WSGIHandler

    if not issubclass(type(app), WSGIHandler):
        return False
    check_free(getattr(settings, 'WSPBUS', None), bus, 'settings.WSPBUS')
    settings.WSPBUS = bus
    return True


def show_routes(app: Any) -> Any:
    """Let the requests of an application note the route that matches, as '/item/<int:id>'.

    :returns: False if ``app`` is not an application of Django.
    """
    from django.core.handlers.wsgi import WSGIHandler

    from paste_wspbus.frameworks.routes import mounted, note

    if not issubclass(type(app), WSGIHandler):
        return False

    class Request(app.request_class):  # type: ignore[misc]
        """A request that notes the route of its match."""

        @property
        def resolver_match(self) -> Any:
            return self.__dict__.get('resolver_match')

        @resolver_match.setter
        def resolver_match(self, match: Any) -> None:
            self.__dict__['resolver_match'] = match
            route = getattr(match, 'route', None)
            if route is not None:
                note(self.environ, mounted(self.environ, route))

    app.request_class = Request
    return None
