"""The interface of a worker that the process and its runner use.

`workers.worker.Worker` implements it.

The room of the workers stands above this one: it knows how a worker is forked and
what its supervisor says.
"""

from __future__ import annotations

from typing import Protocol

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from paste_wspbus.bus import Bus
    from paste_wspbus.listening.sockets import ListeningSocket
    from paste_wspbus.role import Role


class SupervisedEnd(Protocol):
    """A process's end of the connection to its supervisor."""

    role: Role
    #: The supervisor's listening sockets, from which nobody else accepts.
    shared: list[ListeningSocket]

    @property
    def name(self) -> str:
        """Its name in log lines: 'worker 2'; '' if the site has one process."""

    @property
    def runs_site_plugins(self) -> bool:
        """Whether it runs the site plugins, and nothing else."""

    @property
    def time_to_start(self) -> float:
        """Seconds that remain of ``start_timeout``."""

    def limit_stop(self, bus: Bus) -> None:
        """Let the bus stop within the time that the supervisor gives to this process."""

    def ride(self, bus: Bus) -> None:
        """Have the bus carry out the supervisor's orders."""

    def waits_to_go(self) -> bool:
        """Wait until the supervisor says go; False if it says something else."""

    def fork_workers(self, bus: Bus) -> bool:
        """Fork a worker for each order; True in each of them, False at the end."""

    def fork_from_packages(self, import_all: Callable[[list[str]], object]) -> bool:
        """Import what is ordered, and fork a worker for each order."""

    def bequeath(self) -> tuple[int, list[Any]]:
        """Report that this process replaces itself; return what the next program needs."""

    def close(self) -> None:
        """Close the connection."""
