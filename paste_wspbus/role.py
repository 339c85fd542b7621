"""The role of a supervised process: what it is for."""

from __future__ import annotations

from typing import NamedTuple

#: The kinds of processes. A worker serves. 'site plugins' runs the plugins that run only
#: once for a site. 'preload' composes the site and forks workers. 'packages' imports the
#: installed packages that the site uses, and forks workers that compose the site. 'loading
#: page' shows browsers where the load of the site is, if that takes long. 'ops' answers the
#: requests of the ops listener.
WORKER, SITE, PRELOAD, PACKAGES = 'worker', 'site plugins', 'preload', 'packages'
LOADING, OPS = 'loading page', 'ops'

#: The process of the cluster plugins, which run only once for all machines of a site.
CLUSTER = 'cluster plugins'

#: The kinds of processes that do not start the site: they have no bus, and no requests.
WITHOUT_BUS = frozenset({PRELOAD, PACKAGES, LOADING, OPS})

#: Those that do not belong to the site: it is complete without them.
BESIDE_SITE = frozenset({PACKAGES, LOADING, OPS})


class Role(NamedTuple):
    """What a supervised process is for.

    ``number`` is that of a worker, from 1; it is 0 for a single worker without a number.
    ``generation`` is the generation that it belongs to. ``hold`` says whether it waits
    after composing the site until it may start. ``later`` says whether the site was
    started before, so that errors belong in its log. ``several`` says whether other
    processes accept from the same sockets. ``spare`` says whether it waits before it
    composes the site. ``problem`` is a traceback that it shows in the place of the site.
    ``insists`` says whether, under ``--reload``, it begins to serve although its files have
    changed since it read them.
    ``time_to_stop`` is the number of seconds that its own stop may take; None stands for
    that of the .ini. ``drained`` is `Bus.drained`. ``smokes`` says whether
    it makes the requests of ``smoke`` for its generation. ``place`` is its number on the board
    of `servers.free_threads`, and that of its page in the ledger; 0 stands for none.
    ``ledger`` is the descriptor of the ledger, which is the same in each process of the
    site; -1 stands for none. ``fence`` is that of the lease that it needs, and ``lease``
    the descriptor of that (see `cluster.lease`); -1 stands for none.
    """

    kind: str = WORKER
    number: int = 0
    generation: int = 1
    hold: bool = False
    later: bool = False
    several: bool = False
    spare: bool = False
    problem: str = ''
    time_to_stop: float | None = None
    insists: bool = False
    drained: bool = False
    smokes: bool = False
    place: int = 0
    ledger: int = -1
    fence: int = 0
    lease: int = -1

    @property
    def name(self) -> str:
        """Its name: 'worker 2', 'site plugins', 'preload', …; 'site' for the only process."""
        if self.kind != WORKER:
            return self.kind
        return f'worker {self.number}' if self.number else 'site'

    @property
    def title(self) -> str:
        """Its name at the beginning of a message."""
        return TITLES.get(self.name) or self.name.capitalize()


TITLES = {
    'site': 'The site',
    SITE: 'The process of the site plugins',
    CLUSTER: 'The process of the cluster plugins',
    PRELOAD: 'The process that loads the site',
    PACKAGES: 'The process that imports packages',
    LOADING: 'The process that shows that the site is loading',
    OPS: 'The process of the ops listener',
}
