"""A resource that is a connection to another server: asked once at the start, closed at the stop."""

from __future__ import annotations

import threading
import time

from paste_wspbus.errors import WSPBusError
from paste_wspbus.ini.factories import one_line
from paste_wspbus.ini.masking import MASK, masked_text
from paste_wspbus.ready.part import Part

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

    from paste_wspbus.bus import Bus


class NoAnswer(WSPBusError):
    """Another server cannot be reached at the start of the site."""


class Resource(Part):
    """The base class of plugins whose resource is a client of another server.

    A subclass defines `ask` and `close`.

    :param resource: what ``bus.resources`` has while the site is started.
    :param secrets: texts that no message may have, such as a password.
    :param required: whether the site starts only if the server answers.
    :param timeout: seconds that the server has to answer.
    """

    def __init__(
        self,
        bus: Bus,
        default_name: str,
        resource: Any,
        secrets: list[str | None],
        required: bool,
        timeout: float,
    ) -> None:
        super().__init__(bus, default_name)
        self.resource, self._secrets = resource, [one for one in secrets if one]
        self.required, self.timeout = required, timeout
        #: The addition in `status` if it did not answer at the start of the site; or
        #: ''.
        self.note = ''

    def ask(self) -> object:
        """Ask the server for anything.

        :raises Exception: if it does not answer.
        """
        raise NotImplementedError

    def close(self) -> None:
        """Close all connections. The resource may be used again after that."""
        raise NotImplementedError

    def subscribe(self) -> None:
        """Open it at the start, and close it at the stop."""
        super().subscribe()
        self.bus.lifespan(self._live, name=self.name)

    def unsubscribe(self) -> None:
        """Do not open it at later starts."""
        super().unsubscribe()
        if self.name in self.bus.lifespans:
            self.bus.lifespans[self.name].unsubscribe()

    def _live(self) -> Iterator[Any]:
        problem = self._problem()
        if problem and self.required:
            self.close()
            raise NoAnswer(f'{problem} (with required = false, the site starts)')
        self.note = ' (it did not answer at the start)' if problem else ''
        if problem:
            self.say(f'{problem}: the site starts all the same', 30)
        yield self.resource
        self.close()

    def _problem(self) -> str:
        """Ask the server, within the timeout; return what is wrong, or ''."""
        failed: list[str] = []

        def ask() -> None:
            try:
                self.ask()
            except BaseException as error:
                failed.append(self.safe(error))

        asking = threading.Thread(target=ask, name=f'ask {self.name}', daemon=True)
        began = time.monotonic()
        asking.start()
        asking.join(self.timeout)
        if asking.is_alive():
            return f'no answer within {time.monotonic() - began:.1f} s'
        return failed[0] if failed else ''

    def safe(self, error: BaseException) -> str:
        """Return an error as one line, without passwords."""
        return without(self._secrets, one_line(error)).rstrip('.')


def without(secrets: list[str], text: str) -> str:
    """Return a text without the secrets, and without what looks like one."""
    for secret in secrets:
        text = text.replace(secret, MASK)
    return masked_text(text)
