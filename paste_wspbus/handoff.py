"""How a bus travels to the components of a site: BusRef, get_bus."""

from __future__ import annotations

import contextlib
from contextvars import ContextVar
from importlib import import_module

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Generator, Mapping
    from typing import Any

    from paste_wspbus.bus import Bus

#: The key of a BusRef in ``global_conf``, and of the bus in ``environ``.
KEY = 'wspbus'

#: The bus of the site that is being composed.
_composing: ContextVar[Bus | None] = ContextVar('composing', default=None)


class BusRef(str):
    """The text 'wspbus' with a bus tied to it.

    PasteDeploy hands the values of ``global_conf`` on by identity, but
    interpolates them: they must be strings. Copied or pickled, it is the plain
    string, for a bus belongs to one process.
    """

    bus: Bus

    def __new__(cls, bus: Bus) -> BusRef:
        """Tie ``bus`` to the text."""
        self = super().__new__(cls, KEY)
        self.bus = bus
        return self

    def __reduce__(self) -> tuple[type[str], tuple[str]]:
        return str, (str(self),)

    def __copy__(self) -> str:
        return str(self)

    def __deepcopy__(self, memo: object) -> str:
        return str(self)

    def __str__(self) -> str:
        return KEY


def get_bus(global_conf: Mapping[str, Any] | None = None) -> Bus:
    """The bus that a PasteDeploy factory is to ride on.

    :param global_conf: what the factory was given.
    :returns: the bus of `wspserve`, which code that is given no ``global_conf``
        finds as long as the site is composed; under a server that made none,
        this process's embedded bus, which the filter starts with the first
        request and the end of the process stops.
    """
    ref = (global_conf or {}).get(KEY)
    if isinstance(ref, BusRef):
        return ref.bus
    composed = _composing.get()
    return embedded_bus(global_conf) if composed is None else composed


@contextlib.contextmanager
def composing(bus: Bus) -> Generator[None]:
    """While a site is composed, `get_bus` finds its bus without ``global_conf``."""
    token = _composing.set(bus)
    try:
        yield
    finally:
        _composing.reset(token)


def embedded_bus(global_conf: Mapping[str, Any] | None = None) -> Bus:
    """This process's last resort: a bus that no command made.

    :param global_conf: what a factory was given: the .ini that it names may have a
        [wspbus:main], whose plugins ride on it, too.
    :raises ConfigError: if that is wrong.
    """
    # By name: what makes it knows .ini files and hosts, and stands far above.
    module = import_module('paste_wspbus.hosts.embedded')
    bus: Bus = module.bus_for(global_conf or {})
    return bus


def start_embedded(bus: Bus) -> None:
    """Start a bus that its host has not started, once; wspserve's are its own to start.

    :raises StartFailed: if a listener failed to start.
    """
    starter = getattr(bus, 'starter', None)
    if starter is not None:
        starter()
