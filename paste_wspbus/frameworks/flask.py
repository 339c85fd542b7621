"""Flask: the bus at ``app.extensions['wspbus']``."""

from __future__ import annotations

from paste_wspbus.frameworks.guests import check_free
from paste_wspbus.reference import KEY

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from paste_wspbus.bus import Bus


def give(app: Any, bus: Bus) -> bool:
    """Put the bus at ``app.extensions['wspbus']``.

    :returns: False if ``app`` is not an application of Flask.
    :raises Taken: if the site has something else there.
    """
    from flask import Flask

    if not issubclass(type(app), Flask):
        return False
    extensions = app.extensions
    check_free(extensions.get(KEY), bus, f'app.extensions[{KEY!r}]')
    extensions[KEY] = bus
    return True


def show_routes(app: Any) -> Any:
    """Let the requests of an application note the rule that matches, as '/item/<int:id>'.

    :returns: False if ``app`` is not an application of Flask.
    """
    from flask import Flask

    from paste_wspbus.frameworks.routes import mounted, note

    if not issubclass(type(app), Flask):
        return False

    class Request(app.request_class):  # type: ignore[misc]
        """A request that notes the rule of its match; at its end, Flask forgets it."""

        @property
        def url_rule(self) -> Any:
            return self.__dict__.get('url_rule')

        @url_rule.setter
        def url_rule(self, rule: Any) -> None:
            self.__dict__['url_rule'] = rule
            if rule is not None:
                note(self.environ, mounted(self.environ, rule.rule))

    app.request_class = Request
    return None
