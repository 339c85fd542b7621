"""The role of a supervised process: what it is for."""

from __future__ import annotations

from typing import NamedTuple

#: The kinds of processes. A worker serves. 'site plugins' runs the plugins that run
#: once per site. 'preload' composes the site and forks workers. 'packages' imports the
#: installed packages that the site uses, and forks workers that compose the site.
WORKER, SITE, PRELOAD, PACKAGES = 'worker', 'site plugins', 'preload', 'packages'


class Role(NamedTuple):
    """What a supervised process is for.

    ``number``: of a worker, from 1; 0 if there is only one and no number was asked for.
    ``generation``: which deployment it belongs to. ``hold``: whether it waits, once
    composed, until it may start. ``later``: whether the site has been started before,
    so that errors belong in its log. ``several``: whether other processes accept from
    the same sockets. ``spare``: whether it waits before it composes. ``problem``: a
    traceback that it shows instead of the site. ``time_to_stop``: the seconds that its
    own stop may take; None: as many as the .ini says.
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

    @property
    def name(self) -> str:
        """A name such as 'worker 2', 'site plugins', 'preload'; 'site' if there is one process."""
        if self.kind != WORKER:
            return self.kind
        return f'worker {self.number}' if self.number else 'site'

    @property
    def title(self) -> str:
        """The name with which messages begin."""
        return TITLES.get(self.name) or self.name.capitalize()


TITLES = {
    'site': 'The site',
    SITE: 'The process of the site plugins',
    PRELOAD: 'The process that loads the site',
    PACKAGES: 'The process that imports packages',
}
