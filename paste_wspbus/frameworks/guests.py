"""What the hooks of all frameworks share."""

from __future__ import annotations

import contextlib
import logging
import weakref

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from paste_wspbus.bus import Bus

#: Buses that sit in frameworks' globals because they were put there from here.
_given: weakref.WeakSet[Any] = weakref.WeakSet()


class Taken(Exception):
    """The site has something of its own where the bus would be put."""

    def __init__(self, place: str) -> None:
        super().__init__(place)
        self.place = place


def check_free(present: Any, bus: Bus, place: str) -> None:
    """Refuse to overwrite what is the site's own.

    None is a site's way to name a thing that will come. A bus that was put
    there from here may be replaced: the application was composed before.

    :raises Taken: if it is.
    """
    if present is None or present is bus or any(present is one for one in _given):
        with contextlib.suppress(TypeError):  # a bus that knows no weak references
            _given.add(bus)
        return
    raise Taken(place)


def log(message: str, level: int) -> None:
    """Warn, while nobody listens to the bus yet."""
    logging.getLogger('paste_wspbus').log(level, '%s', message)


def kept(title: str, distribution: str, error: Taken) -> str:
    """What is told of a place that is taken."""
    return (
        f'{title} {version_of(distribution)}: '
        f"{error.place} is the site's own and stays as it is; the bus is not there"
    )


def version_of(distribution: str) -> str:
    """Of an installed distribution."""
    from importlib.metadata import version

    try:
        return version(distribution) or '(unknown version)'
    except Exception:  # not installed, or its metadata is broken
        return '(unknown version)'
