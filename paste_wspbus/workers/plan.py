"""The plan of a supervisor: what the .ini and the command line ask for, and its deadlines."""

from __future__ import annotations

from typing import NamedTuple

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from paste_wspbus.cluster.facts import Release
    from paste_wspbus.requests.marks import Limits
    from paste_wspbus.servers.server import Server

#: Seconds from a worker's own deadline to its SIGKILL, and from that to the end of the
#: site; and the part of ``stop_timeout`` that each of them is at most.
MARGIN, MARGIN_SHARE = 1.0, 1 / 5

#: Seconds that the supervisor's own stop has at least.
LEAST = 1.0

#: Seconds that the site plugins have, which stop after the workers; and the part of
#: ``stop_timeout`` that this is at most.
SITE_PLUGINS, SITE_PLUGINS_SHARE = 5.0, 1 / 5

#: Seconds that a worker has to end if it must stop before it is READY.
TO_GIVE_UP = 5.0


def _margin(limit: float) -> float:
    return min(MARGIN, limit * MARGIN_SHARE)


class Plan(NamedTuple):
    """What the .ini and the command line ask for. All times are in seconds.

    ``workers`` is their number; 0 stands for one process without a number. ``restarts``
    says whether a new worker follows a crash; if not, the supervisor ends as the worker
    did. ``start_timeout`` counts from the fork to READY. ``stop_timeout`` is for the
    whole site, and includes the drain delay. ``soak`` is the time for which the first
    worker of a new generation serves beside the old ones. ``smoke`` says
    whether the first worker of a generation has requests to make. The limits of a worker
    (``max_memory`` in bytes) are 0 if there is none. ``hung_after`` is the time without
    an answer after which a worker hangs; 0 if nobody looks. ``reports`` is the folder of
    reports; None if none are written. ``limits`` are the limits of requests.
    ``cluster_plugins`` are the names of the site's cluster plugins. ``release`` is the code that the
    .ini serves; None if the site belongs to no cluster.
    """

    workers: int
    restarts: bool
    preload: bool
    site_plugins: bool
    start_timeout: float
    stop_timeout: float
    soak: float = 0.0
    smoke: bool = False
    max_requests: int = 0
    max_memory: int = 0
    max_age: float = 0.0
    hung_after: float = 0.0
    reports: str | None = None
    limits: Limits | None = None
    cluster_plugins: Sequence[str] = ()
    release: Release | None = None

    def time_to_stop(self, *, is_last: bool) -> float:
        """Return a process's own deadline: it must end before the supervisor kills it.

        :param is_last: whether no site plugins stop after it.
        """
        limit, share = self.stop_timeout, 0.0
        if (self.site_plugins or self.cluster_plugins) and not is_last:
            share = min(SITE_PLUGINS, limit * SITE_PLUGINS_SHARE)
        return limit - 2 * _margin(limit) - share

    def time_to_leave(self, *, is_last: bool) -> float:
        """Return the seconds after which a process that does not stop is killed."""
        return self.time_to_stop(is_last=is_last) + _margin(self.stop_timeout)

    @property
    def time_to_give_up(self) -> float:
        """Seconds after which a worker that must stop before it is READY is killed."""
        return min(TO_GIVE_UP, self.time_to_leave(is_last=True))

    @property
    def deadline(self) -> float:
        """Seconds for the supervisor's own stop; it counts if workers cannot be killed.

        It is not shorter than LEAST: after all workers were killed, the supervisor must
        still reap them and remove its files.
        """
        return max(self.stop_timeout, LEAST)


class Configuration(NamedTuple):
    """The .ini, read anew: what it asks for, and the server with its settings.

    The server has the same sockets. ``undo`` takes everything back. ``notes`` are part of
    the answer to the control request.
    """

    plan: Plan
    server: Server | None
    undo: Callable[[], object]
    notes: list[str]
