"""The servers that an .ini names in this package; each other module adapts one server."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Any

    from paste_wspbus.servers.blocking import BlockingServer
    from paste_wspbus.servers.server import Server

__all__ = [
    'BlockingServer',
    'Server',
    'cheroot_server',
    'cherrypy_server',
    'wsgiref_server',
]

if not TYPE_CHECKING:  # otherwise type checkers would accept any name

    def __getattr__(name):
        """Import the class of the servers when it is first used (PEP 562)."""
        module = {'Server': 'server', 'BlockingServer': 'blocking'}.get(name)
        if module is None:
            raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
        from importlib import import_module

        return getattr(import_module(f'{__name__}.{module}'), name)


def cheroot_server(
    global_conf: Mapping[str, Any], **conf: str
) -> Callable[[Any], None]:
    """``use = egg:paste_wspbus#cheroot`` (paste.server_factory).

    Settings: host, port, unix_socket, numthreads, max, request_queue_size,
    timeout, server_name, accepted_queue_size, accepted_queue_timeout,
    max_request_body_size, max_request_header_size (bytes; 0: no limit),
    ssl_certificate, ssl_private_key, ssl_certificate_chain.
    """
    from paste_wspbus.servers.standalone import standalone

    return standalone('paste_wspbus.servers:cheroot_server', global_conf, conf)


def cherrypy_server(
    global_conf: Mapping[str, Any], **conf: str
) -> Callable[[Any], None]:
    """``use = egg:paste_wspbus#cherrypy`` (paste.server_factory).

    Settings: host, port, unix_socket, and those of CherryPy's ``server.…``:
    thread_pool, socket_timeout, max_request_body_size, ssl_certificate, …
    ``cherrypy.config`` supplies what is not set here.
    """
    from paste_wspbus.servers.standalone import standalone

    return standalone('paste_wspbus.servers:cherrypy_server', global_conf, conf)


def wsgiref_server(
    global_conf: Mapping[str, Any], **conf: str
) -> Callable[[Any], None]:
    """``use = egg:paste_wspbus#wsgiref`` (paste.server_factory).

    Settings: host, port.
    """
    from paste_wspbus.servers.standalone import standalone

    return standalone('paste_wspbus.servers:wsgiref_server', global_conf, conf)
