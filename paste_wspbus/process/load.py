"""What a process does at this moment: its requests, and how busy its server is."""

from __future__ import annotations

import contextlib
import os
from _thread import start_new_thread  # the original, before a site patches Python

from paste_wspbus.bus.deadlines import stacks

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from paste_wspbus.bus import Bus

#: The number of requests that a status lists; ``in_flight`` counts all.
MAX_REQUESTS = 1000


def load_of(bus: Bus) -> dict[str, Any]:
    """Return what `status` shows of the work of one process.

    A server or a filter that is not of this package may stand in ``bus.plugins``: what it
    does not say is None.

    :returns: ``requests``, the oldest first; ``in_flight`` and ``served``, numbers of
        requests; ``server_threads``, ``busy`` and ``queued``, as `servers.server.Load`.
    """
    requests: Any = bus.plugins.get('requests')
    server: Any = bus.plugins.get('server')
    described = requests.describe() if hasattr(requests, 'describe') else []
    threads = busy = queued = None
    if hasattr(server, 'load'):
        load = server.load()
        threads, busy, queued = load.threads, load.busy, load.queued
    if busy is None:  # the threads of the requests are known, whichever server it is
        busy = len({request['thread'] for request in described})
    return {
        'requests': described[:MAX_REQUESTS],
        'in_flight': len(described),
        'served': getattr(requests, 'served', None),
        'server_threads': threads,
        'busy': busy,
        'queued': queued,
    }


def log_stacks(bus: Bus) -> None:
    """Log the stacks of all threads, in a thread of its own.

    The caller answers requests for the status: it must not wait for a lock of the log.
    """
    text = f'Stacks of process {os.getpid()}:\n{stacks()}'
    with contextlib.suppress(RuntimeError):  # the system starts no more threads
        start_new_thread(bus.log, (text, 30))
