"""The table of adapters: which adapter belongs to which factory of [server:main]."""

from __future__ import annotations

import importlib

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from paste_wspbus.servers.blocking import BlockingServer
    from paste_wspbus.servers.server import Server

#: From the factory that ``[server:main]`` names to its adapter.
ADAPTERS = {
    'waitress:serve_paste': 'waitress:WaitressServer',
    'paste.httpserver:server_runner': 'paste_http:PasteServer',
    'paste_wspbus.servers:cheroot_server': 'cheroot:CherootServer',
    'paste_wspbus.servers:cherrypy_server': 'cherrypy:CherryPyServer',
    'paste_wspbus.servers:wsgiref_server': 'wsgiref:WsgirefServer',
    'pyramid.scripts.pserve:wsgiref_server_runner': 'wsgiref:WsgirefServer',
    'dataflake.wsgi.cheroot:serve_paste': 'dataflake_cheroot:DataflakeCheroot',
    'dataflake.wsgi.werkzeug:serve_paste': 'werkzeug:DataflakeWerkzeug',
    'plone.recipe.zope2instance.ctl:server_factory': 'fast_listen:FastListening',
    'waitress_fastlisten:server_factory': 'fast_listen:FastListening',
}


#: The same for servers that open their sockets themselves.
RUNNERS = {'pyruvate:serve_paste': 'pyruvate:PyruvateServer'}


def adapter_for(factory: object) -> type[Server] | None:
    """Return the adapter of the server that ``factory`` makes, or None if there is none."""
    return find_adapter(_name_of(factory))


def find_adapter(name: str) -> type[Server] | None:
    """Return the adapter of the factory ``module:function``, or None if there is none."""
    return _load(ADAPTERS[name]) if name in ADAPTERS else None


def runner_for(factory: object) -> Callable[..., BlockingServer] | None:
    """Return the class for a server that opens its sockets itself, or None if it needs none."""
    name = _name_of(factory)
    return _load(RUNNERS[name]) if name in RUNNERS else None


def _name_of(factory: object) -> str:
    return (
        f'{getattr(factory, "__module__", "")}:{getattr(factory, "__qualname__", "")}'
    )


def _load(place: str) -> Any:
    module, _, attribute = place.partition(':')
    return getattr(importlib.import_module(f'paste_wspbus.servers.{module}'), attribute)
