"""The flag of a drained site: each worker has it, also one that starts later."""

from __future__ import annotations

from paste_wspbus.role import WITHOUT_BUS

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from paste_wspbus.bus import Bus
    from paste_wspbus.workers.children import Children
    from paste_wspbus.workers.handle import WorkerHandle


class Draining:
    """Passes ``bus.drained`` of the supervisor on to the workers.

    A worker gets it with its role. It may have changed since then, so the worker gets it
    again when it is READY.
    """

    def __init__(self, bus: Bus, children: Children) -> None:
        self._bus, self._children = bus, children
        children.hear('ready', self._is_ready)

    def set(self, drained: bool) -> None:
        """Set the flag on the bus of the supervisor, and of each worker."""
        self._bus.drained = drained
        for child in self._children.alive:
            if child.is_ready:
                self._tell(child)

    def _is_ready(self, worker: WorkerHandle, message: dict[str, Any]) -> None:
        if worker.role.drained != self._bus.drained:
            self._tell(worker)

    def _tell(self, worker: WorkerHandle) -> None:
        drained = self._bus.drained
        if worker.role.kind not in WITHOUT_BUS:  # the others do not run the site
            worker.tell('drain' if drained else 'undrain')
