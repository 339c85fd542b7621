"""The reference that carries a bus through PasteDeploy, and the keys of the bus in dicts."""

from __future__ import annotations

import contextlib
from contextvars import ContextVar

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Generator

    from paste_wspbus.bus import Bus

#: The key of a BusRef in ``global_conf``.
KEY = 'wspbus'

#: The key of the bus in ``environ``. It has a dot: by PEP 3333, a value under a name
#: without a dot must be a str, and wsgiref.validate and egg:Paste#lint check that.
ENVIRON_KEY = 'wspbus.bus'

#: The key of the `threading.Event` in ``environ`` that is set when the site stops.
DRAINING_KEY = 'wspbus.draining'

#: The key of the id of a request in ``environ``, if the request is watched.
REQUEST_ID_KEY = 'wspbus.request_id'

#: The bus of the site that is being composed.
_composing: ContextVar[Bus | None] = ContextVar('composing', default=None)


class BusRef(str):
    """The text 'wspbus', with a bus as an attribute.

    PasteDeploy passes the same objects on in ``global_conf``, but interpolates them, so
    they must be strings. A copy or a pickle is the plain string, because a bus belongs
    to one process.
    """

    bus: Bus

    def __new__(cls, bus: Bus) -> BusRef:
        """Make the text, and set its attribute ``bus``."""
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


@contextlib.contextmanager
def composing(bus: Bus) -> Generator[None]:
    """Make ``bus`` the `composed_bus` while its site is composed."""
    token = _composing.set(bus)
    try:
        yield
    finally:
        _composing.reset(token)


def composed_bus() -> Bus | None:
    """Return the bus of the site that is being composed here, or None."""
    return _composing.get()
