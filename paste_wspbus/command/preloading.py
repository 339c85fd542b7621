"""The preload process: it loads the site and what workers share, and forks them."""

from __future__ import annotations

import contextlib
import gc
import importlib
import threading

from paste_wspbus.command.leaving import end_at_once
from paste_wspbus.exits import DONE

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from paste_wspbus.bus import Bus
    from paste_wspbus.ini.config import Site
    from paste_wspbus.process.supervised_end import SupervisedEnd

#: What each worker imports when it starts, or just before it is READY. For the last one:
#: socket.getaddrinfo() imports it for the name of a host.
_FOR_ALL = (
    'paste_wspbus.bus.culprits',
    'paste_wspbus.bus.lifespan',
    'paste_wspbus.bus.replacing',
    'paste_wspbus.ops.status',
    'paste_wspbus.plugins.log_files',
    'paste_wspbus.process.bequeathing',
    'paste_wspbus.process.renewal',
    'paste_wspbus.servers.cutting',
    'encodings.idna',
)

#: What the workers of one server import, too, by the module of its adapter.
_FOR_SERVERS = {
    'paste_wspbus.servers.cheroot': ('paste_wspbus.servers.cheroot_untouched',),
    'paste_wspbus.servers.paste_http': ('paste_wspbus.servers.paste_untouched',),
    'paste_wspbus.servers.waitress': (
        'paste_wspbus.servers.waitress_requests',
        'paste_wspbus.servers.waitress_sharing',
        'paste_wspbus.servers.waitress_untouched',
    ),
}


def preload(compose: Callable[[], Site], worker: SupervisedEnd) -> Site:
    """Compose the site, and fork the workers; this returns in each of them."""
    gc.disable()  # a collection would write to the memory that the workers share
    site = compose()
    import_for_workers(site.server)
    warn_of_threads(site.bus)
    if not worker.fork_workers(site.bus):
        end_at_once(DONE)
    gc.enable()
    return site


def import_for_workers(server: object) -> None:
    """Import what the workers need: they share it, instead of having a copy each."""
    from paste_wspbus.requests.written_stacks import import_faulthandler

    with contextlib.suppress(OSError):  # no descriptor is free: each worker tries again
        for name in _FOR_ALL:
            importlib.import_module(name)
        for adapter in type(server).__mro__:
            for name in _FOR_SERVERS.get(adapter.__module__, ()):
                importlib.import_module(name)
        import_faulthandler()


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
