"""What a process that loads the site, and forks workers, says of it."""

from __future__ import annotations

import threading

TYPE_CHECKING = False
if TYPE_CHECKING:
    from paste_wspbus.bus import Bus


def warn_of_threads(bus: Bus) -> None:
    """Warn of threads that the site has started: the workers will not have them."""
    names = [
        thread.name
        for thread in threading.enumerate()
        if thread is not threading.main_thread()
    ]
    sitelog = bus.plugins['sitelog']
    quiet, sitelog.quiet = sitelog.quiet, False
    if names:
        bus.log(
            'preload: the site started threads while it was loaded, which its '
            f'workers will not have: {", ".join(names)}',
            30,
        )
    sitelog.quiet = quiet
