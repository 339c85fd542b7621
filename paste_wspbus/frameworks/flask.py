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
