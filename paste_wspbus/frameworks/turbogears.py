"""TurboGears: ``tg.app_globals.bus``."""

from __future__ import annotations

from paste_wspbus.frameworks.pylons import give_globals

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from paste_wspbus.bus import Bus


def give(app: Any, bus: Bus) -> bool:
    """``tg.app_globals.bus``, full-stack or minimal: a TGApp is inside of both."""
    from tg.wsgiapp import TGApp

    return issubclass(type(app), TGApp) and give_globals(app.globals, bus)
