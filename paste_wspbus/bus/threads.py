"""The names of threads with the requests that they have, for the stacks in the log."""

from __future__ import annotations

import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from paste_wspbus.bus.bus import Bus


def add_requests(named: dict[int | None, str], bus: Bus) -> None:
    """Add to the name of each thread its request in flight: 'GET /report for 3.2 s'.

    :param named: {ident of a thread: its name}.
    """
    now, requests = time.monotonic(), list(bus.plugins.get('requests', {}).values())
    texts = {}
    for environ, since, ident, *_ in sorted(requests, key=lambda request: request[1]):
        path = f'{environ.get("SCRIPT_NAME", "")}{environ.get("PATH_INFO", "")}'
        words = f'{environ.get("REQUEST_METHOD")} {path[:200]}'
        texts[ident] = f'{ascii(words)[1:-1]} for {now - since:.1f} s'
    for ident, request in texts.items():
        named[ident] = f'{named.get(ident, ident)}, {request}'
