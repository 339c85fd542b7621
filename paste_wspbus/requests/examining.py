"""What a request in flight of this process waits for, and how it is given up."""

from __future__ import annotations

from typing import NamedTuple

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from paste_wspbus.bus import Bus

#: What `examine` may find.
CLIENT, STREAM, APPLICATION, GONE = 'client', 'stream', 'application', 'gone'
DEBUGGER = 'debugger'


class _Found(NamedTuple):
    waits: str
    server: Any = None
    request: Any = None


def examine(bus: Bus, number: int) -> str:
    """Return what a request waits for.

    :param number: that of its `scoreboard.Entry`.
    :returns: CLIENT if the server or the application waits until the client sends or
        reads; STREAM if a part of the response is on its way, and the server does not yet
        close the response; GONE if the request has ended; DEBUGGER if pdb waits for a
        command in it; else APPLICATION, also if the server does not say it.
    """
    return _find(bus, number).waits


def give_up(bus: Bus, number: int) -> bool:
    """End a request for its client: with a 503 where that can be, and close its connection.

    Its thread runs on. A request that has ended is left alone.

    :returns: whether a 503 was sent.
    """
    found = _find(bus, number)
    if found.request is None:
        return False
    return bool(found.server.give_up(found.request))


def _find(bus: Bus, number: int) -> _Found:
    from paste_wspbus.servers.cutting import WaitsFor

    requests: Any = bus.plugins.get('requests', {})
    found = next((one for one in list(requests.values()) if one[4] == number), None)
    if found is None:
        return _Found(GONE)
    _, _, ident, place, _ = found
    server: Any = bus.plugins.get('server')
    if not hasattr(server, 'request_of'):
        return _Found(APPLICATION)
    request = server.request_of(ident)
    if request is None:
        return _Found(APPLICATION)
    kinds = {
        WaitsFor.CLIENT_SENDS: CLIENT,
        WaitsFor.CLIENT_READS: CLIENT,
        WaitsFor.STREAM: STREAM,
        WaitsFor.DEBUGGER: DEBUGGER,
    }
    request = request.exactly()
    waits = kinds.get(request.waits_for, APPLICATION)
    if waits == STREAM and requests.board.is_closing(place):
        waits = APPLICATION
    return _Found(waits, server, request)
