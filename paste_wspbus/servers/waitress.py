"""waitress: its loop in a thread, stopped from inside that loop."""

from __future__ import annotations

import contextlib
import functools
import socket
import threading
import time
from queue import Empty, SimpleQueue

from waitress import wasyncore
from waitress.adjustments import Adjustments
from waitress.channel import HTTPChannel
from waitress.server import BaseWSGIServer, create_server
from waitress.task import ThreadedTaskDispatcher, WSGITask

from paste_wspbus.errors import BindError, SettingError
from paste_wspbus.plugins.threads import acquired
from paste_wspbus.servers import WHERE, Server, Stage
from paste_wspbus.settings import boolean, nearest
from paste_wspbus.sockets import (
    ListeningSocket,
    parse_port,
    readable,
    resolve,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from paste_wspbus.bus import Bus

#: As waitress itself has it.
_NOT_TOGETHER = {
    'listen': ('host', 'port'),
    'unix_socket': ('host', 'port', 'listen'),
}


class WaitressServer(Server):
    """``use = egg:waitress``, with all of waitress's settings."""

    default_host = '0.0.0.0'  # waitress's
    takes_several = True

    def read_settings(self, conf: dict[str, str]) -> dict[str, Any]:
        """Have waitress convert each setting, so that a wrong one can be named."""
        known = dict(Adjustments._params)
        for key, value in conf.items():
            if key == 'listen_on':
                continue
            if key not in known:
                raise SettingError(
                    key, f'waitress has no such setting{nearest(key, known)}'
                )
            if key == 'port':
                parse_port(value)
            try:
                known[key](value)
            except (ValueError, TypeError):
                raise SettingError(key, f'{value!r} is not valid') from None
        for key, others in _NOT_TOGETHER.items():
            for other in others:
                if key in conf and other in conf:
                    raise SettingError(key, f'{other} may not be set beside it')
        for where in conf.get('listen', '').split():
            parse_port(_split(where)[1], 'listen')
        if any('trusted' in key for key in conf):  # those that belong together
            self._check_together({k: v for k, v in conf.items() if k not in WHERE})
        return conf

    def _check_together(self, conf: dict[str, str]) -> None:
        try:
            Adjustments(**conf)
        except ValueError as error:
            raise SettingError(None, str(error)) from None

    def make_sockets(self) -> list[ListeningSocket]:
        """Where waitress itself would listen."""
        conf = self.conf
        if 'listen_on' in conf:
            return self.sockets_for(conf['listen_on'])
        if conf.get('unix_socket'):
            return [
                self.bind_unix(
                    conf['unix_socket'], int(conf.get('unix_socket_perms', '600'), 8)
                )
            ]
        listen = conf.get('listen') or '{}:{}'.format(
            conf.get('host', self.default_host), conf.get('port', self.default_port)
        )
        bound: list[ListeningSocket] = []
        try:
            for where in listen.split():
                self._bind(where, bound)
        except BaseException:
            for listening in bound:
                listening.close()
            raise
        return bound

    def adopt(self, sockets: list[ListeningSocket]) -> None:
        """Several may be passed, but of one kind: waitress's own limit."""
        if len({listening.is_unix for listening in sockets}) > 1:
            raise BindError(
                ', '.join(listening.url() for listening in sockets),
                'waitress takes TCP or Unix sockets, not both; '
                'name one of them: --listen fd://NAME',
            )
        super().adopt(sockets)

    def _bind(self, where: str, bound: list[ListeningSocket]) -> None:
        host, port = _split(where)
        number = parse_port(port)
        for family, (address, _) in resolve(host, number, self._family()):
            bound.append(self.bind_tcp(family, (address, number)))
            number = bound[-1].sock.getsockname()[1]  # of 0, the same for all families

    def _family(self) -> int:
        ipv4, ipv6 = (boolean(self.conf.get(key, 'true')) for key in ('ipv4', 'ipv6'))
        if ipv4 and ipv6:
            return socket.AF_UNSPEC
        return socket.AF_INET if ipv4 else socket.AF_INET6

    def open(self, app: Any) -> None:
        """Make waitress's server on our sockets; it listens from here on."""
        self._map: dict[int, Any] = {}
        conf = {key: value for key, value in self.conf.items() if key not in WHERE}
        self._dispatcher = _Dispatcher(self.bus)
        made = create_server(
            app,
            map=self._map,
            sockets=[one.sock for one in self.sockets],
            _dispatcher=self._dispatcher,
            **conf,
        )
        self._adjustments = made.adj
        self._dispatcher.set_thread_count(made.adj.threads)
        self._servers = [s for s in self._map.values() if isinstance(s, BaseWSGIServer)]
        channel_class = _channel_class(self)
        for server in self._servers:
            server.channel_class = channel_class
            server.accept = functools.partial(self._accept_for, server)

    def _accept_for(self, server: BaseWSGIServer) -> Any:
        """`wasyncore.dispatcher.accept`: None if there is no connection."""
        try:
            return self.accept(server.socket)
        except (BlockingIOError, ConnectionAbortedError):
            if self.is_paused:
                self._look_away(server)
            return None

    def _look_away(self, server: BaseWSGIServer) -> None:
        """Have the loop leave out the listener while the server `is_paused`."""

        def readable() -> bool:
            if self.is_paused:
                return False
            del server.readable  # its class's own again
            return bool(server.readable())

        server.readable = readable

    def run(self) -> None:
        """Run waitress's loop until its map is empty."""
        wasyncore.loop(
            timeout=self._adjustments.asyncore_loop_timeout,
            map=self._map,
            use_poll=self._adjustments.asyncore_use_poll,
        )

    def _in_loop(self, function: Callable[[], bool | None]) -> bool:
        """Run ``function`` in the loop's thread; its result, or False if that takes long."""
        if not self._runs():
            return bool(function())
        result: SimpleQueue[bool | None] = SimpleQueue()
        self._servers[0].trigger.pull_trigger(lambda: result.put(function()))
        with contextlib.suppress(Empty):
            return bool(result.get(timeout=1))
        return False

    def stop_accepting(self) -> None:
        """Close the listeners alone; their triggers stay."""
        self._in_loop(self._close_listeners)

    def _close_listeners(self) -> None:
        for server in self._servers:
            wasyncore.dispatcher.close(server)

    def finish(self) -> bool:
        """Close idle channels; whether no channel is left."""
        return self._in_loop(self._close_idle)

    def _close_idle(self) -> bool:
        channels = [c for s in self._servers for c in list(s.active_channels.values())]
        for channel in channels:
            if self.may_close(_stage(channel), channel.last_activity) and not readable(
                channel.socket
            ):
                channel.handle_close()
        return not channels

    def count(self) -> int:
        """waitress's channels."""
        return sum(len(server.active_channels) for server in self._servers)

    def end(self) -> None:
        """Stop its threads; close what is left; the loop ends with an empty map."""
        self._dispatcher.shutdown(timeout=0.2 if self.bus.hurried else 5)
        self._in_loop(self._close_all)

    def _close_all(self) -> None:
        for server in self._servers:
            for channel in list(server.active_channels.values()):
                channel.handle_close()
            server.close()


class _Dispatcher(ThreadedTaskDispatcher):  # type: ignore[misc]
    """waitress's threads, each acquired before its first request and released at its end."""

    def __init__(self, bus: Bus) -> None:
        super().__init__()
        self.bus = bus
        self._begun: list[threading.Thread] = []

    def handler_thread(self, thread_no: int) -> None:
        self._begun.append(threading.current_thread())
        with acquired(self.bus):
            super().handler_thread(thread_no)

    def shutdown(self, cancel_pending: bool = True, timeout: float = 5) -> Any:
        """Also wait, in this time, until the threads are released."""
        until = time.monotonic() + timeout
        done = super().shutdown(cancel_pending, timeout)
        for thread in self._begun:
            if thread is not threading.current_thread():
                thread.join(max(until - time.monotonic(), 0))
        return done


def _split(where: str) -> tuple[str, str]:
    host, colon, port = where.rpartition(':')
    return (host.strip('[]'), port) if colon else (where, '8080')


def _stage(channel: Any) -> Stage:
    if channel.requests or channel.total_outbufs_len:
        return Stage.BUSY
    if channel.request is None:
        is_new = channel.last_activity == channel.creation_time
        return Stage.NEW if is_new else Stage.IDLE
    return Stage.BUSY if channel.request.headers_finished else Stage.HEAD


def _channel_class(adapter: WaitressServer) -> type[HTTPChannel]:
    class DrainingTask(WSGITask):  # type: ignore[misc]
        def build_response_header(self) -> Any:
            if adapter.draining:
                # As if the client had asked for it: waitress does the rest.
                self.request.headers['CONNECTION'] = 'close'
            return super().build_response_header()

    class DrainingChannel(HTTPChannel):  # type: ignore[misc]
        task_class = DrainingTask

    return DrainingChannel
