"""Adapts CherryPy's own HTTP server, which is cheroot with the settings of ``cherrypy.config``."""

from __future__ import annotations

import os
from typing import Any

import cherrypy
from cherrypy._cpwsgi_server import CPWSGIHTTPRequest, CPWSGIServer

from paste_wspbus.bus.host import host_of
from paste_wspbus.errors import BindError, SettingError
from paste_wspbus.servers.cheroot import (
    CherootServer,
    _Connection,
    _Request,
    _Server,
)
from paste_wspbus.servers.cheroot_doors import bind_addr
from paste_wspbus.servers.server import ADDRESS
from paste_wspbus.servers.settings import convert
from paste_wspbus.values import MAX_INT, MAX_THREADS, boolean, whole

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from paste_wspbus.listening.sockets import ListeningSocket

#: From CherryPy's names for the settings of where to listen to those of this package.
SYNONYMS = {'socket_host': 'host', 'socket_port': 'port', 'socket_file': 'unix_socket'}

_CONVERTERS: dict[type, Callable[[str], Any]] = {
    bool: boolean,
    int: int,
    str: str,
    type(None): str,
}

#: These attributes are objects, which no .ini can give.
_OBJECTS = ('instance', 'ssl_context')

#: cheroot's default is 5: that is too few for a small burst.
BACKLOG = 128


def known_settings() -> dict[str, Callable[[str], Any]]:
    """Return the settings of ``[server:main]``: where to listen, and the ``server.…`` of cherrypy.config."""
    defaults = vars(type(cherrypy.server)).items()
    settings = {
        name: _CONVERTERS[type(value)]
        for name, value in defaults
        if type(value) in _CONVERTERS and name[0] != '_' and name not in _OBJECTS
    }
    return {
        **settings,
        'thread_pool': whole('thread_pool', 1, MAX_THREADS),
        'socket_queue_size': whole('socket_queue_size', 0, MAX_INT),
        'socket_timeout': whole('socket_timeout', 0, MAX_INT),
        **ADDRESS,
    }


class CherryPyServer(CherootServer):
    """The adapter for ``use = egg:paste_wspbus#cherrypy``: it uses CherryPy's configuration.

    Settings of ``[server:main]`` override those of ``cherrypy.config``. If
    ``[server:main]`` does not say where to listen, ``cherrypy.config`` does: then the
    port is bound when the site starts, not before.
    """

    def __init__(self, conf: Mapping[str, str], global_conf: Mapping[str, Any]) -> None:
        conf = {SYNONYMS.get(key, key): value for key, value in conf.items()}
        super().__init__(conf, global_conf)

    def read_settings(self, conf: dict[str, str]) -> dict[str, Any]:
        """Convert each setting to the type of the attribute of ``cherrypy.server``; check that files exist."""
        converted = convert(conf, known_settings())
        for key in ('ssl_certificate', 'ssl_private_key', 'ssl_certificate_chain'):
            if not os.path.isfile(converted.get(key, __file__)):
                raise SettingError(key, f'there is no file {converted[key]}')
        return converted

    def bind(self, offered: Iterable[ListeningSocket] = ()) -> None:
        """Bind now, or when the site starts if ``cherrypy.config`` says where to listen.

        :raises BindError: if the server cannot bind an address.
        """
        if self.says_where:
            super().bind(offered)
        elif not self.sockets:
            self.sockets = list(offered)  # they may have the address of cherrypy.config

    def __call__(self, app: Any) -> None:
        """Serve ``app``: the bus calls this as a 'start' listener.

        :raises BindError: if the server cannot listen on an address.
        """
        if not self.says_where and not any(one.is_passed for one in self.sockets):
            offered, self.sockets = self.sockets, []
            try:
                self._bind_as_configured(offered)
            finally:
                for listening in offered:
                    if listening not in self.sockets:
                        listening.close()
        super().__call__(app)

    def _bind_as_configured(self, offered: list[ListeningSocket]) -> None:
        address = cherrypy.server.bind_addr
        if host_of(self.bus).restarts:
            raise BindError(
                cherrypy.server.base(),
                'the socket is opened before the site is loaded: '
                'set host and port in [server:main]',
            )
        keys = ('unix_socket',) if isinstance(address, str) else ('host', 'port')
        values = (address,) if isinstance(address, str) else address
        self.conf = {**self.conf, **dict(zip(keys, values, strict=True))}
        super().bind(offered)
        for listening in self.sockets:
            listening.claim()

    def open(self, app: Any) -> None:
        """Make CherryPy's server on our socket and start its threads."""
        listening = self.sockets[0]
        settings = cherrypy.server
        for key, value in self.conf.items():
            if key not in ADDRESS:
                setattr(settings, key, value)
        self._server = server = _CherryPyServer(settings)
        server.bind_addr = bind_addr(listening)
        server.wsgi_app = app
        server.wspbus_sockets, server.adapter = self.sockets, self
        server.error_log = self._error_log
        server.requests._spawn_worker = self._spawn_worker
        server.requests.stop = self._stop_threads
        if server.ssl_adapter is not None:
            self.scheme = 'https'
        if settings.socket_queue_size == type(settings).socket_queue_size:
            server.request_queue_size = BACKLOG
        self.prepare()
        # The site's code may ask these attributes where the site is served.
        settings.httpserver, settings.running = server, True
        if self.says_where:
            settings.bind_addr = server.bind_addr

    def end(self) -> None:
        """Stop cheroot; wait no longer than `time_to_end` for its threads."""
        try:
            super().end()
        finally:
            cherrypy.server.httpserver, cherrypy.server.running = None, False


class _CherryPyRequest(_Request, CPWSGIHTTPRequest):  # type: ignore[misc]
    pass


class _CherryPyConnection(_Connection):
    pass


class _CherryPyServer(_Server, CPWSGIServer):  # type: ignore[misc]
    ConnectionClass = _CherryPyConnection

    def __init__(self, settings: Any) -> None:
        super().__init__(settings)
        # CherryPy sets its own class, which does not know of stages.
        self.ConnectionClass.RequestHandlerClass = _CherryPyRequest
