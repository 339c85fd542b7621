"""The watch over the requests of one process: what it needs beside the plain filter."""

from __future__ import annotations

from paste_wspbus.forks import close_in_child
from paste_wspbus.ini.limits import limits_of
from paste_wspbus.requests.request_watch import RequestWatch
from paste_wspbus.requests.scoreboard import Scoreboard
from paste_wspbus.requests.watched import WatchedRequests

TYPE_CHECKING = False
if TYPE_CHECKING:
    from paste_wspbus.bus import Bus
    from paste_wspbus.ini.config import Config


def watch_requests(bus: Bus, config: Config) -> None:
    """Give each request an id, and watch those for which [wspbus:main] has limits."""
    limits, requests = limits_of(config.settings, has_workers=False), WatchedRequests()
    close_in_child(requests.board, Scoreboard.detach)
    use(bus, requests, config)
    if limits.shortest is not None:
        RequestWatch(bus, requests, limits).subscribe()


def use(bus: Bus, requests: WatchedRequests, config: Config) -> None:
    """Let the filter of this bus note its requests there."""
    bus.plugins['requests'] = requests
    bus.subscribe('status', requests.report)
    requests.deadline = config.settings['request_deadline']
