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
