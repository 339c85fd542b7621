"""The interface of a worker that the process and its runner use.

`workers.worker.Worker` implements it. This room may not import from workers/, which
stands above it, and which knows how a worker is forked and how a supervisor works.
"""

from __future__ import annotations

from typing import Protocol

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from paste_wspbus.bus import Bus
    from paste_wspbus.listening.sockets import ListeningSocket
    from paste_wspbus.process.supervised_report import SupervisedReport
    from paste_wspbus.requests.watched import WatchedRequests
    from paste_wspbus.role import Role


class SupervisedEnd(Protocol):
    """The end of the connection to the supervisor in the worker itself."""

    role: Role
    #: Those of the supervisor's listening sockets that belong to this site alone.
    shared: list[ListeningSocket]
    #: The descriptor of its scoreboard; -1 stands for none.
    board: int
    #: Its requests in flight, which the scoreboard shows.
    requests: WatchedRequests

    @property
    def name(self) -> str:
        """Its name in log lines: 'worker 2'; '' if the site has one process."""

    @property
    def runs_plugins(self) -> str:
        """The key of [wspbus:main] whose plugins it runs, and nothing else; '' for the site."""

    @property
    def report(self) -> SupervisedReport:
        """The reports to the supervisor."""

    @property
    def time_to_start(self) -> float:
        """The remaining seconds of ``start_timeout``."""

    def limit_stop(self, bus: Bus) -> None:
        """Let the bus stop within the time that the supervisor gives to this process."""

    def plug_in(self, bus: Bus) -> None:
        """Show the requests of the site to the supervisor."""

    def ride(self, bus: Bus) -> None:
        """Let the bus carry out the supervisor's orders."""

    def crashes(self) -> None:
        """Let the supervisor take the coming end of this process for a crash."""

    def waits_to_go(self) -> bool:
        """Wait for an order of the supervisor; return whether it is 'go'."""

    def fork_workers(self, bus: Bus) -> bool:
        """Fork a worker for each order; return True in each worker, False at the end."""

    def fork_from_packages(self, import_all: Callable[[list[str]], object]) -> bool:
        """Import the modules that are ordered, and fork a worker for each order to fork."""

    def show_loading(self) -> None:
        """Answer browsers in the place of the site while another process loads it."""

    def answer_requests(self) -> None:
        """Answer the requests of the ops listener, until the supervisor orders an end."""

    def bequeath(self) -> tuple[int, list[Any], int]:
        """Report that this process replaces itself; return what the next program needs."""

    def close(self) -> None:
        """Close the connection."""
