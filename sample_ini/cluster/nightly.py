"""What runs once for all machines: the plugin of site.ini."""

import threading
from collections.abc import Iterator
from typing import Any

from paste_wspbus import Bus

Seconds = float


def nightly(bus: Bus, global_conf: Any, every: Seconds = 60.0) -> Iterator[None]:
    """Do something every so many seconds, while this machine holds the lease."""
    ended = threading.Event()

    def run() -> None:
        while not ended.wait(every):
            # A store that checks the fence refuses what an earlier holder still writes.
            bus.log(f'nightly, with the fence {bus.lease.fence}')

    thread = threading.Thread(target=run, name='nightly')
    thread.start()
    yield
    ended.set()
    thread.join()
