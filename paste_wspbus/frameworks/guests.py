"""The functions that all modules of frameworks use: the check of a place, and warnings."""

from __future__ import annotations

import contextlib
import logging
import weakref

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from paste_wspbus.bus import Bus

#: The buses that this package has put into the globals of frameworks.
_given: weakref.WeakSet[Any] = weakref.WeakSet()


class Taken(Exception):
    """The site has an object of its own in the place of the bus.

    ``place`` is the name of the place, such as 'registry.wspbus'.
    """

    def __init__(self, place: str) -> None:
        super().__init__(place)
        self.place = place


def check_free(present: Any, bus: Bus, place: str) -> None:
    """Check that the bus does not overwrite an object of the site.

    None may be overwritten: a site may write it to declare the name. So may a bus that
    this package has put there, when an application is composed a second time.

    :param present: the object that is there now.
    :param place: the name of the place in the message.
    :raises Taken: if it is an object of the site.
    """
    if present is None or present is bus or any(present is one for one in _given):
        with contextlib.suppress(TypeError):  # a bus that takes no weak references
            _given.add(bus)
        return
    raise Taken(place)


def log(message: str, level: int) -> None:
    """Log a message while the bus may have no listeners."""
    logging.getLogger('paste_wspbus').log(level, '%s', message)


def kept(title: str, distribution: str, error: Taken) -> str:
    """Return the warning that the site has its own object in the place of the bus."""
    return (
        f'{title} {version_of(distribution)}: '
        f"{error.place} is the site's own and stays as it is; the bus is not there"
    )


def version_of(distribution: str) -> str:
    """Return the version of an installed distribution as text."""
    from importlib.metadata import version

    try:
        return version(distribution) or '(unknown version)'
    except Exception:  # it is not installed, or its metadata is broken
        return '(unknown version)'
