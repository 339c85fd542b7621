"""How each WSGI server starts and stops: one adapter per known server, one for all others."""

from __future__ import annotations

import contextlib
import enum
import errno
import importlib
import os
import socket
import threading
import time
import weakref

from paste_wspbus.bus import Bus, State
from paste_wspbus.errors import BindError
from paste_wspbus.sockets import (
    ListeningSocket,
    bind_tcp,
    bind_unix,
    inherited,
    parse_address,
    parse_port,
    resolve,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from typing import Any


class Stage(enum.Enum):
    """Where a connection is: before its first request, between two, in a head, or behind that."""

    NEW = 'new'
    IDLE = 'idle'
    HEAD = 'head'
    BUSY = 'busy'


#: Seconds of silence, after draining began, until a connection is closed: the
#: first byte of a request may be on its way (who has just connected means to send
#: one, though a busy machine may let it wait); half a head may never be a whole one.
GRACE = {Stage.NEW: 0.2, Stage.IDLE: 0.03, Stage.HEAD: 1.0}

#: Seconds between two looks at what a stopping server still has to do.
LOOK = 0.005

#: Seconds that a stop waits in silence.
PATIENCE = 2

#: Seconds that a process waits before it accepts, for each connection that it has, and
#: at most; and what part of all its time, which it may save up for a burst.
COURTESY, MOST_COURTESY, COURTESY_SHARE, COURTESY_SAVED = 0.00005, 0.0005, 0.05, 0.05

#: Seconds without a look at the listening socket after accept() failed: it is
#: readable all the time.
PAUSE = 0.5

#: Seconds between two lines in the log about that.
REPEAT = 10.0

#: Settings that say where to listen, of all servers.
WHERE = (
    'host',
    'port',
    'listen',
    'unix_socket',
    'unix_socket_perms',
    'ipv4',
    'ipv6',
    'listen_on',
)

#: From the factory that ``[server:main]`` names to the adapter that knows it.
ADAPTERS = {
    'waitress:serve_paste': 'waitress:WaitressServer',
    'paste.httpserver:server_runner': 'paste_http:PasteServer',
    'paste_wspbus.servers:cheroot_server': 'cheroot:CherootServer',
    'paste_wspbus.servers:cherrypy_server': 'cherrypy:CherryPyServer',
    'paste_wspbus.servers:wsgiref_server': 'wsgiref:WsgirefServer',
    'pyramid.scripts.pserve:wsgiref_server_runner': 'wsgiref:WsgirefServer',
}


class Server:
    """A known HTTP server: it serves in threads of its own and stops without losing requests.

    It binds before there is a bus, and rides one by `plug_in`; then it is
    subscribed as the founding post has it, ``bus.subscribe('start', server, app)``.

    :param conf: the settings of ``[server:main]``, all strings.
    :raises SettingError: if one of them is wrong.
    """

    bus: Bus

    priority = 75  # CherryPy's: the server starts after what its requests need
    scheme = 'http'
    default_host = '127.0.0.1'
    default_port = 8080
    takes_several = False

    def __init__(self, conf: Mapping[str, str], global_conf: Mapping[str, Any]) -> None:
        self.global_conf = global_conf
        self.conf = self.read_settings(dict(conf))
        #: What of the settings says where to listen.
        self.where = {key: conf[key] for key in WHERE if key in conf}
        self.sockets: list[ListeningSocket] = []
        #: Whether a forked child is to have the sockets, too: a supervisor's worker.
        self.shared = False
        #: Whether other processes accept from the same sockets at the same time.
        self.competes = False
        _close_in_children(self)
        self.draining = False
        self.drain_since = 0.0
        self._thread: threading.Thread | None = None
        self._accepts_again = self._complained = float('-inf')
        self._courtesy = _Courtesy()

    def plug_in(self, bus: Bus) -> None:
        """Ride ``bus``: drain, stop and close when it says so."""
        self.bus = bus
        bus.subscribe('drain', self.drain)
        bus.subscribe('stop', self.stop, priority=25)
        bus.subscribe('exit', self.close)
        bus.plugins['server'] = self

    # What each server does in its own way.

    def read_settings(self, conf: dict[str, str]) -> dict[str, Any]:
        """Convert the settings; raise SettingError for what is wrong."""
        raise NotImplementedError

    def open(self, app: Any) -> None:
        """Make the server and listen on ``self.sockets``."""
        raise NotImplementedError

    def run(self) -> None:
        """Serve until `end`."""
        raise NotImplementedError

    def stop_accepting(self) -> None:
        """Close the listening sockets; nobody waits there any more."""
        raise NotImplementedError

    def finish(self) -> bool:
        """Close connections that are idle; return whether none is left."""
        raise NotImplementedError

    def count(self) -> int:
        """How many connections are open."""
        raise NotImplementedError

    def end(self) -> None:
        """Have `run` return; drop what is left."""
        raise NotImplementedError

    @classmethod
    def knows(cls, conf: Mapping[str, str]) -> bool:
        """Whether this adapter can do what the settings ask for."""
        return True

    # What all do alike.

    @property
    def urls(self) -> list[str]:
        """Where it is reached, such as ['http://127.0.0.1:8080']."""
        return [listening.url(self.scheme) for listening in self.sockets]

    def bind(self, left: Iterable[ListeningSocket] = ()) -> None:
        """Bind, not listen: so that a port that is taken is known first.

        :param left: a predecessor's sockets: those that are wanted are used,
            the others closed.
        :raises BindError: if an address cannot be had.
        """
        self._left = list(left)
        try:
            if not self.sockets:
                self.sockets = self.make_sockets()
        finally:
            while self._left:
                self._left.pop().close()

    def bind_tcp(self, family: int, address: tuple[str, int]) -> ListeningSocket:
        """A socket at an address, the predecessor's if there is one."""
        return self._take_left(family, address) or bind_tcp(family, address)

    def bind_unix(
        self, path: str, mode: int = 0o600, key: str = 'unix_socket'
    ) -> ListeningSocket:
        """The same for a Unix socket."""
        return self._take_left(socket.AF_UNIX, path) or bind_unix(path, mode, key)

    def _take_left(
        self, family: int, address: tuple[str, int] | str
    ) -> ListeningSocket | None:
        for listening in self._left:
            if listening.is_reachable and listening.is_at(family, address):
                self._left.remove(listening)
                return listening
        return None

    def sockets_for(self, address: str) -> list[ListeningSocket]:
        """The sockets for a value of ``--listen``.

        :raises SettingError: if it is not an address.
        :raises BindError: if it cannot be had.
        """
        kind, host, port = parse_address(address)
        if kind == 'unix':
            return [self.bind_unix(str(host), key='--listen')]
        if kind == 'fd':
            return [inherited(int(host))]
        family, resolved = resolve(str(host), port)[0]
        return [self.bind_tcp(family, resolved)]

    def adopt(self, sockets: list[ListeningSocket]) -> None:
        """Listen on these, which somebody else bound.

        :raises BindError: if it takes one socket alone, and there are several.
        """
        if len(sockets) > 1 and not self.takes_several:
            raise BindError(
                ', '.join(one.url(self.scheme) for one in sockets),
                f'this server takes one socket, not {len(sockets)}; '
                'name it: --listen fd://NAME',
            )
        self.sockets = sockets

    def bequeath(self) -> list[ListeningSocket]:
        """Copies of the listening sockets, for whoever serves after this process.

        From now on a stop leaves what waits in their backlogs to the successor.
        """
        for listening in self.sockets:
            listening.owned = False
        return [listening.copy() for listening in self.sockets]

    def make_sockets(self) -> list[ListeningSocket]:
        """The sockets for the settings ``host`` and ``port``, ``unix_socket`` or ``listen_on``."""
        if 'listen_on' in self.conf:
            return self.sockets_for(self.conf['listen_on'])
        if self.conf.get('unix_socket'):
            return [self.bind_unix(self.conf['unix_socket'])]
        host, port = self.conf.get('host'), self.conf.get('port')
        host = (host or self.default_host).strip('[]')
        family, address = resolve(host, self.default_port if port is None else port)[0]
        return [self.bind_tcp(family, address)]

    def __call__(self, app: Any) -> None:
        """Serve ``app``; the 'start' listener.

        :raises BindError: if an address cannot be had.
        """
        self.bind()
        self.draining = False
        try:
            self.open(app)
        except OSError as error:
            urls = ', '.join(self.urls)
            self.close()
            raise BindError(urls, error.strerror or str(error)) from error
        except BaseException:
            self.close()
            raise
        self._thread = threading.Thread(
            target=self._run, name='HTTP server', daemon=True
        )
        self._thread.start()

    def _run(self) -> None:
        try:
            self.run()
        except BaseException:
            self.bus.log('The HTTP server failed: the site stops', 40, traceback=True)
            self.bus.exit_code = 1
            self.bus.exit()

    def accept(self, sock: socket.socket) -> tuple[socket.socket, Any]:
        """Accept a connection, as one of several processes that do.

        :raises BlockingIOError: if another one was faster.
        :raises ConnectionAbortedError: if the client has gone.
        :raises BlockingIOError: if that failed; from then on, the server `is_paused`.
        """
        if self.competes:
            self._courtesy.wait(self.count())
        try:
            return sock.accept()
        except (BlockingIOError, ConnectionAbortedError):
            raise
        except OSError as error:
            self._pause(error)
            raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN)) from error

    def _pause(self, error: OSError) -> None:
        now = time.monotonic()
        self._accepts_again = now + PAUSE
        if error.errno == errno.EINVAL:
            return  # the socket was shut down: the site stops, another process is done
        if now - self._complained > REPEAT:
            self._complained = now
            self.bus.log(
                f'No connection can be accepted: {error.strerror}; '
                'those that are open are served',
                level=40,
            )

    @property
    def is_paused(self) -> bool:
        """Whether accept() failed a moment ago, for want of descriptors perhaps."""
        return time.monotonic() < self._accepts_again

    def drain(self) -> None:
        """Close connections after their response; go on accepting."""
        if not self.draining:
            self.drain_since = time.time()
            self.draining = True

    def stop(self) -> None:
        """Stop accepting, answer all that came, close, in this order.

        Takes as long as the requests take; ``bus.hurry()`` skips that.
        """
        thread = self._thread
        if thread is None:
            return
        self.drain()
        owned = [listening for listening in self.sockets if listening.owned]
        for listening in owned:
            listening.refuse_new()
        copies = _copies(owned)
        try:
            if thread.is_alive():  # else its loop has failed
                if owned:
                    self._wait_until(lambda: self._is_emptied(owned, copies), looks=2)
                self.stop_accepting()
                self._end_those(copies)  # who connects from now on is refused at once
                self._wait_until(self.finish)
        finally:
            self._end_those(copies)
            self.end()
            thread.join(1)
            self._thread = None
            self.close()

    def _end_those(self, copies: list[ListeningSocket]) -> None:
        while copies:
            copy = copies.pop()
            # What waits may be another process's to answer, unless nobody is to.
            if self.bus.hurried or copy.is_empty():
                copy.end()
            else:
                copy.close()

    def _is_emptied(
        self, sockets: list[ListeningSocket], copies: list[ListeningSocket]
    ) -> bool:
        if all(one.is_empty() for one in sockets):
            return True
        if self.is_paused:  # these, and the idle connections, have the descriptors
            while copies:
                copies.pop().close()
            self.finish()
        return False

    def _wait_until(self, done: Callable[[], bool], looks: int = 1) -> None:
        clean, patience = 0, time.monotonic() + PATIENCE
        while not self.bus.hurried:
            clean = clean + 1 if done() else 0
            if clean == looks:
                return
            if time.monotonic() > patience:
                patience = float('inf')
                waiting = len(self.bus.plugins.get('requests', ()))
                how = '; a second signal skips the wait'
                if self.bus.succession is not None:
                    how = ''  # that is for the supervisor to say
                self.bus.log(f'Stopping: requests in flight: {waiting}{how}', level=30)
            time.sleep(LOOK)

    def _runs(self) -> bool:
        return self._thread is not None and self._thread.is_alive()

    def close(self) -> None:
        """Close the sockets."""
        while self.sockets:
            self.sockets.pop().close()

    def may_close(self, stage: Stage, last_used: float) -> bool:
        """Whether a connection last used then (seconds since the epoch) may be closed."""
        idle = time.time() - max(last_used, self.drain_since)
        return stage in GRACE and idle > GRACE[stage]


def _copies(sockets: list[ListeningSocket]) -> list[ListeningSocket]:
    """To end them after they are closed; none if no descriptor is free."""
    copies: list[ListeningSocket] = []
    with contextlib.suppress(OSError):
        for listening in sockets:
            copies.append(listening.copy())
    return copies


class _Courtesy:
    """Of processes that share a socket, the one with the fewest connections is first.

    All wake up for a newcomer, and without this a single one may get a whole burst
    of connections, which it keeps for as long as they are kept alive.
    """

    def __init__(self) -> None:
        self._saved, self._since = COURTESY_SAVED, time.monotonic()

    def wait(self, connections: int) -> None:
        """Wait before accept(), the longer the more connections there are."""
        began = time.monotonic()
        earned = (began - self._since) * COURTESY_SHARE
        self._saved, self._since = min(self._saved + earned, COURTESY_SAVED), began
        if connections and self._saved > 0:
            time.sleep(min(connections * COURTESY, MOST_COURTESY))
            self._saved -= time.monotonic() - began


_servers: weakref.WeakSet[Server] = weakref.WeakSet()
_forks_watched = False


def _close_in_children(server: Server) -> None:
    """A child that the site forks must not keep the port: whoever connects would wait."""
    global _forks_watched
    _servers.add(server)
    if not _forks_watched and hasattr(os, 'register_at_fork'):
        _forks_watched = True
        os.register_at_fork(after_in_child=_after_fork)


def _after_fork() -> None:
    for server in list(_servers):
        if server.shared or _is_starting(server):
            continue
        while server.sockets:
            server.sockets.pop().sock.close()


def _is_starting(server: Server) -> bool:
    """Whether this may be a Daemonizer, whose child is the site from now on."""
    bus: Bus | None = getattr(server, 'bus', None)
    return (
        bus is not None
        and bus.state is State.STARTING
        and bus._owner == threading.get_ident()
    )


class BlockingServer:
    """Any other ``server(app)``: it runs in the main thread, last, until the site stops."""

    blocking = True
    priority = 100
    urls: tuple[str, ...] = ()

    def __init__(self, server: Callable[[Any], object], name: str) -> None:
        self.server = server
        # What the log calls it: as it is known to whoever wrote the .ini.
        self.__qualname__, self.__module__ = name, '__main__'

    def __call__(self, app: Any) -> None:
        """Serve ``app`` until the server returns."""
        self.server(app)

    def plug_in(self, bus: Bus) -> None:
        """The bus ends it by raising KeyboardInterrupt in its thread."""


def adapter_for(factory: object) -> type[Server] | None:
    """The adapter of the server that ``factory`` makes, or None if it is not known."""
    name = (
        f'{getattr(factory, "__module__", "")}:{getattr(factory, "__qualname__", "")}'
    )
    return find_adapter(name)


def find_adapter(name: str) -> type[Server] | None:
    """The adapter of a factory by its name, ``module:function``."""
    if name not in ADAPTERS:
        return None
    module, _, attribute = ADAPTERS[name].partition(':')
    return getattr(importlib.import_module(f'{__name__}.{module}'), attribute)  # type: ignore[no-any-return]


ADDRESS: dict[str, Callable[[str], Any]] = {
    'host': str,
    'port': parse_port,
    'unix_socket': str,
    'listen_on': str,
}


def _standalone(
    name: str, global_conf: Mapping[str, Any], conf: dict[str, str]
) -> Callable[[Any], None]:
    """The same servers for commands that call ``server(app)`` and know of no bus."""

    def serve(app: Any) -> None:
        adapter = find_adapter(name)
        assert adapter is not None
        bus = Bus()
        server = adapter(conf, global_conf)
        server.plug_in(bus)
        bus.subscribe('start', server, app)
        bus.start()
        bus.block()

    return serve


def cheroot_server(
    global_conf: Mapping[str, Any], **conf: str
) -> Callable[[Any], None]:
    """``use = egg:paste_wspbus#cheroot`` (paste.server_factory).

    Settings: host, port, unix_socket, numthreads, max, request_queue_size,
    timeout, server_name, accepted_queue_size, accepted_queue_timeout,
    ssl_certificate, ssl_private_key, ssl_certificate_chain.
    """
    return _standalone('paste_wspbus.servers:cheroot_server', global_conf, conf)


def cherrypy_server(
    global_conf: Mapping[str, Any], **conf: str
) -> Callable[[Any], None]:
    """``use = egg:paste_wspbus#cherrypy`` (paste.server_factory).

    Settings: host, port, unix_socket, and those of CherryPy's ``server.…``:
    thread_pool, socket_timeout, max_request_body_size, ssl_certificate, …
    What is not there, ``cherrypy.config`` says.
    """
    return _standalone('paste_wspbus.servers:cherrypy_server', global_conf, conf)


def wsgiref_server(
    global_conf: Mapping[str, Any], **conf: str
) -> Callable[[Any], None]:
    """``use = egg:paste_wspbus#wsgiref`` (paste.server_factory).

    Settings: host, port.
    """
    return _standalone('paste_wspbus.servers:wsgiref_server', global_conf, conf)
