"""How a bus travels to the components of a site: BusRef, get_bus."""

from __future__ import annotations

import contextlib
import threading
from contextvars import ContextVar

from paste_wspbus.bus import Bus, State

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Generator, Mapping
    from typing import Any

#: The key of a BusRef in ``global_conf``, and of the bus in ``environ``.
KEY = 'wspbus'

#: The bus of the site that is being composed.
_composing: ContextVar[Bus | None] = ContextVar('composing', default=None)

_embedded: Bus | None = None
_embedding = threading.Lock()


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
    return embedded_bus() if composed is None else composed


@contextlib.contextmanager
def composing(bus: Bus) -> Generator[None]:
    """While a site is composed, `get_bus` finds its bus without ``global_conf``."""
    token = _composing.set(bus)
    try:
        yield
    finally:
        _composing.reset(token)


def embedded_bus() -> Bus:
    """This process's last resort: a bus that no command made."""
    global _embedded
    with _embedding:
        if _embedded is None:
            _embedded = Bus()
            _embedded.exits_with_process = True
        return _embedded


def start_embedded(bus: Bus) -> None:
    """Start the embedded bus, once; any other bus is its owner's to start.

    :raises ChannelFailures: if a listener failed to start.
    """
    if bus is not _embedded:
        return
    with _embedding:
        if bus.state is State.STOPPED:
            bus.start()
