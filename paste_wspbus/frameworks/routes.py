"""The routes of requests, as '/item/{id}': each framework knows those of its own."""

from __future__ import annotations

import sys
from contextlib import suppress
from importlib import import_module

from paste_wspbus.frameworks import FRAMEWORKS
from paste_wspbus.frameworks.inside import applications

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    #: It returns the route of a request that was answered; None if it does not know it.
    #: It is called with environ and the status line.
    Finder = Callable[[dict[str, Any], str], str | None]

#: The modules here that have a function ``show_routes``.
MODULES = ('pyramid', 'flask', 'django', 'cherrypy', 'pylons', 'turbogears')

#: The key in ``environ`` of a list. A framework that is asked while it handles a request
#: puts the route there.
ROUTE_KEY = 'wspbus.route'


def finders(app: Any) -> list[Finder]:
    """Let each framework of a site show its routes, and return how to find them.

    A framework that cannot do it in this version is left out.
    """
    modules = {
        one.title.lower(): sys.modules.get(one.module) is not None for one in FRAMEWORKS
    }
    present = [name for name in MODULES if modules.get(name)]
    found: dict[str, Finder | None] = {}
    for one in applications(app) if present else ():
        for name in present:
            with suppress(Exception):
                module = import_module(f'paste_wspbus.frameworks.{name}')
                finder = module.show_routes(one)
                if finder is not False:
                    found[name] = finder
    return [finder for finder in found.values() if finder is not None]


def note(environ: dict[str, Any], route: str) -> None:
    """Note the route of a request, if its site counts requests.

    The first one counts: a later one is that of a page that shows an error.
    """
    noted = environ.get(ROUTE_KEY)
    if noted is not None and not noted:
        noted.append(route)


def mounted(environ: dict[str, Any], route: str) -> str:
    """Return a route of an application as a route of the whole site."""
    return f'{environ.get("SCRIPT_NAME", "")}/{route.lstrip("/")}'


def name_of(handler: Any) -> str | None:
    """Return the name of a function or method, as 'shop.root:Root.item'; None if it has none."""
    function = getattr(handler, '__func__', handler)
    name = getattr(function, '__qualname__', None)
    return f'{function.__module__}:{name}' if isinstance(name, str) else None
