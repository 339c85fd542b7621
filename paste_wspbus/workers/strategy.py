"""The interface of strategies, which decide how a site is started, renewed, and kept alive."""

from __future__ import annotations

from typing import NamedTuple, Protocol

TYPE_CHECKING = False
if TYPE_CHECKING:
    from paste_wspbus.role import Role
    from paste_wspbus.workers.handle import WorkerHandle


class Source(NamedTuple):
    """How a process is started.

    ``template`` is the process that forks it; None stands for the supervisor. ``fresh``
    says whether it becomes a fresh interpreter after the fork.
    """

    template: WorkerHandle | None
    fresh: bool


class Strategy(Protocol):
    """How the site is started and renewed: `Rolling`, `Reloading`."""

    #: Whether a worker is replaced because one of its requests is overdue.
    replaces: bool

    def start(self) -> None:
        """Start the first generation, and wait until it is ready.

        :raises WorkerFailed: if it does not become READY.
        :raises StopRequested: if a stop of the site was requested.
        """

    def renew(self) -> None:
        """Replace the old generation with a new one.

        :raises WSPBusError: if that fails.
        :raises StopRequested: if a stop of the site was requested.
        """

    def source(self, role: Role) -> Source:
        """Return how to start a process with this role.

        :raises WorkerFailed: if it cannot be started.
        """

    def is_prepared(self, role: Role) -> bool:
        """Whether a process can be replaced now; if not, start the process that it needs."""

    def has_ended(self, worker: WorkerHandle) -> None:
        """React to the end of a process while the site is STARTED."""

    def close_in_child(self) -> None:
        """Close, in a forked child, what belongs to the supervisor."""
