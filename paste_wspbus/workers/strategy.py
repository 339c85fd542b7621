"""What a strategy decides: how a site is started, renewed, and kept alive."""

from __future__ import annotations

from typing import NamedTuple, Protocol

TYPE_CHECKING = False
if TYPE_CHECKING:
    from paste_wspbus.role import Role
    from paste_wspbus.workers.handle import WorkerHandle


class Source(NamedTuple):
    """How a process is started.

    ``template``: the process that forks it, None: the supervisor. ``fresh``: whether it
    becomes a fresh interpreter then.
    """

    template: WorkerHandle | None
    fresh: bool


class Strategy(Protocol):
    """How the site is started and renewed: `Rolling`, `Reloading`."""

    def start(self) -> None:
        """Start the first generation, and wait until it is ready.

        :raises WorkerFailed: if it does not get ready.
        :raises StopRequested: if the site is to stop.
        """

    def renew(self) -> None:
        """Replace the old generation by a new one.

        :raises WSPBusError: if that fails.
        :raises StopRequested: if the site is to stop.
        """

    def source(self, role: Role) -> Source:
        """Say how to start a process of that role.

        :raises WorkerFailed: if it cannot be started.
        """

    def is_prepared(self, role: Role) -> bool:
        """Whether a process can be replaced now; else start first what that needs."""

    def has_ended(self, worker: WorkerHandle) -> None:
        """React to the end of a process while the site is STARTED."""

    def close_in_child(self) -> None:
        """Close, in a forked child, what belongs to the supervisor."""
