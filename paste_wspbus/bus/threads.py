"""The stacks of all threads in the log, with the request that each thread has."""

from __future__ import annotations

import os
import time

# The original, before a site patches Python.
from _thread import get_ident

from paste_wspbus.bus.deadlines import stacks

TYPE_CHECKING = False
if TYPE_CHECKING:
    from paste_wspbus.bus.bus import Bus


def log_stacks(bus: Bus) -> None:
    """Log the stacks of all threads but this one."""
    text = stacks(_requests(bus), get_ident())
    bus.log(f'Stacks of process {os.getpid()}:\n{text}', 30)


def _requests(bus: Bus) -> dict[int, str]:
    """Return the request of each thread by its ident, as in ', GET /report for 3.2 s'."""
    now, requests = time.monotonic(), list(bus.plugins.get('requests', {}).values())
    texts = {}
    for environ, since, ident, *_ in sorted(requests, key=lambda request: request[1]):
        path = f'{environ.get("SCRIPT_NAME", "")}{environ.get("PATH_INFO", "")}'
        words = f'{environ.get("REQUEST_METHOD")} {path[:200]}'
        texts[ident] = f', {ascii(words)[1:-1]} for {now - since:.1f} s'
    return texts
