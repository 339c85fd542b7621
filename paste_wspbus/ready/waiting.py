"""How a part of the site waits for its own thread at the stop: within the stop's deadline."""

from __future__ import annotations

import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    import threading

    from paste_wspbus.bus import Bus

#: Seconds between two looks whether an operator is in a hurry.
LOOK = 0.1

#: Seconds that a thread has to end even in a hurry.
LEAST = 0.2


def join_within_stop(bus: Bus, thread: threading.Thread) -> bool:
    """Wait for a thread at the stop; return whether it has ended.

    It may use the time of the requests in flight, until they are cut; after that half of
    the time that remains, for other parts of the site stop later. A second SIGTERM ends
    the wait.
    """
    now, deadline = time.monotonic(), bus.deadline
    until = deadline.cut_at
    if deadline.until != float('inf'):
        until = max(until, now + (deadline.until - now) / 2)
    thread.join(LEAST)
    while thread.is_alive() and not bus.hurried and time.monotonic() < until:
        thread.join(LOOK)
    return not thread.is_alive()
