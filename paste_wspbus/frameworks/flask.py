"""Flask: ``app.extensions['wspbus']``."""

from __future__ import annotations

from paste_wspbus.frameworks.guests import check_free
from paste_wspbus.handoff import KEY

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from paste_wspbus.bus import Bus


def give(app: Any, bus: Bus) -> bool:
    """``app.extensions['wspbus']``."""
    from flask import Flask

    if not issubclass(type(app), Flask):
        return False
    extensions = app.extensions
    check_free(extensions.get(KEY), bus, f'app.extensions[{KEY!r}]')
    extensions[KEY] = bus
    return True
