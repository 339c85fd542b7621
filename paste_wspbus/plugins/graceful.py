"""The restarter of a worker: its restart is a graceful one of the whole site."""

from __future__ import annotations

from paste_wspbus.bus.supervised import supervised
from paste_wspbus.plugins import Plugin

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from paste_wspbus.bus import Bus


class GracefulRestarter(Plugin):
    """The supervisor starts a new worker, and stops this one when the new one is READY.

    It does not listen to 'restart', because this worker serves requests until then.

    :param ask: asks the supervisor.
    """

    def __init__(self, bus: Bus, ask: Callable[[], object]) -> None:
        super().__init__(bus)
        self.ask = ask

    def subscribe(self) -> None:
        """Plug in."""
        super().subscribe()
        supervised(self.bus).renew = self.ask

    def unsubscribe(self) -> None:
        """Unplug."""
        super().unsubscribe()
        supervised(self.bus).renew = None
