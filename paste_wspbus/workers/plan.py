"""What the .ini and the command line ask of a supervisor."""

from __future__ import annotations

from typing import NamedTuple

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from paste_wspbus.servers.server import Server

#: Seconds between a worker's own deadline, its end by SIGKILL, and the end of the site;
#: and the part of ``stop_timeout`` that they are at most.
MARGIN, MARGIN_SHARE = 1.0, 1 / 5

#: The least seconds for the supervisor's own stop.
LEAST = 1.0

#: Seconds that the site plugins have, which stop after the workers, and their part.
SITE_PLUGINS, SITE_PLUGINS_SHARE = 5.0, 1 / 5

#: Seconds for a worker that must leave before it is READY.
TO_GIVE_UP = 5.0


def _margin(limit: float) -> float:
    return min(MARGIN, limit * MARGIN_SHARE)


class Plan(NamedTuple):
    """What the .ini and the command line ask for. All times are in seconds.

    ``workers``: how many; 0: one process, without a number.
    ``restarts``: whether a new worker follows a crash; else the supervisor ends as
    the worker did. ``start_timeout``: from the fork to READY. ``stop_timeout``: for
    the whole site, the drain delay included.
    """

    workers: int
    restarts: bool
    preload: bool
    site_plugins: bool
    start_timeout: float
    stop_timeout: float

    def time_to_stop(self, *, is_last: bool) -> float:
        """Return a process's own deadline: it must end before the supervisor kills it.

        :param is_last: whether no site plugins stop after it.
        """
        limit, share = self.stop_timeout, 0.0
        if self.site_plugins and not is_last:
            share = min(SITE_PLUGINS, limit * SITE_PLUGINS_SHARE)
        return limit - 2 * _margin(limit) - share

    def time_to_leave(self, *, is_last: bool) -> float:
        """Return the seconds after which a process that leaves is killed."""
        return self.time_to_stop(is_last=is_last) + _margin(self.stop_timeout)

    @property
    def time_to_give_up(self) -> float:
        """Seconds after which a worker that must leave before it is READY is killed."""
        return min(TO_GIVE_UP, self.time_to_leave(is_last=True))

    @property
    def deadline(self) -> float:
        """Seconds for the supervisor's own stop: for workers that cannot be killed.

        Those that are killed at once must still be reaped, and the files be removed.
        """
        return max(self.stop_timeout, LEAST)


class Configuration(NamedTuple):
    """The .ini, read anew: what it asks for, and the server with its settings.

    The server has the same sockets. ``undo`` takes all of it back, ``notes`` are for
    whoever asked.
    """

    plan: Plan
    server: Server | None
    undo: Callable[[], object]
    notes: list[str]
