"""Web frameworks on the bus: it finds their applications, and gives the bus to each of them.

Each framework has a line in FRAMEWORKS, and a module here, which is imported only if the
site has imported the framework. `introduce` calls its `give` with each application.
"""

from __future__ import annotations

import sys
from importlib import import_module

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from paste_wspbus.bus import Bus


class Framework:
    """What this package knows about one framework.

    :param title: its name in messages.
    :param distribution: its name on PyPI.
    :param module: a module that is imported if the process has such an application.
    :param give: gives the bus to an application; it returns False if the application is
        not one of this framework.
    """

    __slots__ = ('distribution', 'give', 'module', 'title')

    def __init__(
        self,
        title: str,
        distribution: str,
        module: str,
        give: Callable[[Any, Bus], bool],
    ) -> None:
        self.title, self.distribution = title, distribution
        self.module, self.give = module, give


def introduce(
    app: Any, bus: Bus, log: Callable[..., object] | None = None
) -> list[str]:
    """Put the bus where each framework in a composed application keeps its globals.

    Failures are warnings: the site is served without it.

    :param app: the application of the site, with all that it wraps.
    :param log: is called with each warning, as `Bus.log`. If None, the logger
        ``paste_wspbus`` gets the warnings, because the bus may have no listeners yet.
    :returns: the frameworks that have the bus now.
    """
    present = [one for one in FRAMEWORKS if sys.modules.get(one.module) is not None]
    if not present:
        return []
    from paste_wspbus.frameworks.giving import give

    return give(app, bus, present, log)


def _by(module: str) -> Callable[[Any, Bus], bool]:
    """Return the ``give`` of one of the modules here."""

    def give(app: Any, bus: Bus) -> bool:
        found: bool = import_module(f'{__name__}.{module}').give(app, bus)
        return found

    return give


FRAMEWORKS = (
    Framework('Pyramid', 'pyramid', 'pyramid.router', _by('pyramid')),
    Framework('Flask', 'Flask', 'flask', _by('flask')),
    Framework('Django', 'Django', 'django.core.handlers.wsgi', _by('django')),
    Framework('CherryPy', 'CherryPy', 'cherrypy', _by('cherrypy')),
    Framework('Pylons', 'Pylons', 'pylons.wsgiapp', _by('pylons')),
    Framework('TurboGears', 'TurboGears2', 'tg.wsgiapp', _by('turbogears')),
    Framework('Zope', 'Zope', 'ZPublisher.WSGIPublisher', _by('zope')),
)
