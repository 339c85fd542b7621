"""Adapts waitress: its loop runs in a thread, and is stopped from inside that loop."""

from __future__ import annotations

import contextlib
import functools
import select
import socket
import threading
import time
from _queue import Empty
from collections import deque

from waitress import server as waitress_server
from waitress import wasyncore
from waitress.adjustments import Adjustments
from waitress.channel import HTTPChannel
from waitress.parser import HTTPRequestParser
from waitress.server import BaseWSGIServer
from waitress.task import ErrorTask, ThreadedTaskDispatcher, WSGITask

from paste_wspbus.bus.interrupts import threads_are_greenlets
from paste_wspbus.errors import SettingError
from paste_wspbus.listening.addresses import (
    parse_host,
    parse_port,
    resolve,
    split_listen,
)
from paste_wspbus.listening.backlog import readable
from paste_wspbus.listening.sockets import ListeningSocket
from paste_wspbus.plugins.threads import acquired
from paste_wspbus.servers import waitress_fast
from paste_wspbus.servers.accepting import Stage
from paste_wspbus.servers.server import WHERE, Load, Server
from paste_wspbus.servers.waitress_heads import FastHead, FastParser
from paste_wspbus.values import MAX_INT, MAX_THREADS, boolean, nearest, whole

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Any

    from paste_wspbus.bus import Bus
    from paste_wspbus.servers.cutting import RequestInFlight

#: Converters that refuse what waitress's own accept, but waitress or the system do not.
_STRICTER: dict[str, Callable[[str], Any]] = {
    'host': parse_host,
    'port': parse_port,
    'threads': whole('threads', 1, MAX_THREADS),
    'backlog': whole('backlog', 0, MAX_INT),
    'recv_bytes': whole('recv_bytes', 1, MAX_INT),
}

#: From each key to the keys that cannot be set beside it, as in waitress.
_NOT_TOGETHER = {
    'listen': ('host', 'port'),
    'unix_socket': ('host', 'port', 'listen'),
}


#: Seconds that waitress's threads have to come to its queue after they were started.
ARRIVING = 2.0


class _Adjustments(Adjustments):  # type: ignore[misc]
    """waitress's settings without its default address, 0.0.0.0:8080: the sockets are ours.

    waitress would look that address up, for which Python loads its IDNA tables.
    """

    listen: list[str] = []


#: waitress's `__del__` looks at the descriptor, also if there was none left to open.
if hasattr(wasyncore, 'file_wrapper'):  # not on Windows
    wasyncore.file_wrapper.fd = -1


class WaitressServer(Server):
    """``use = egg:waitress``, with all of waitress's settings."""

    default_host, unix_mode = '0.0.0.0', 0o600  # waitress's

    def read_settings(self, conf: dict[str, str]) -> dict[str, Any]:
        """Let waitress convert each setting, so that the error names the wrong one."""
        known = {**dict(Adjustments._params), **_STRICTER, 'ipv6only': boolean}
        for key, value in conf.items():
            if key == 'listen_on':
                continue
            if key not in known:
                raise SettingError(
                    key, f'waitress has no such setting{nearest(key, known)}'
                )
            try:
                known[key](value)
            except (ValueError, TypeError):
                from paste_wspbus.servers.settings import refusal

                raise refusal(key, value, known[key]) from None
        waitress_fast.switched_off()  # a wrong name in it is found at once
        if int(conf.get('connection_limit', 1)) < 1:
            raise SettingError('connection_limit', 'it must be 1 or more')
        for key, others in _NOT_TOGETHER.items():
            for other in others:
                if key in conf and other in conf:
                    raise SettingError(key, f'it cannot be set together with {other}')
        for where in split_listen(conf['listen']) if 'listen' in conf else ():
            if _is_ours(where):
                from paste_wspbus.listening.written import parse_address

                parse_address(where, 'listen')
            else:
                host, port = _split(where)
                parse_port(port, 'listen')
                if ':' in host:
                    from paste_wspbus.listening.interfaces import check_interface

                    check_interface(host, 'listen')
        # Waitress checks the keys that belong together.
        if any('trusted' in key for key in conf):
            self._check_together({k: v for k, v in conf.items() if k not in WHERE})
        return conf

    def _check_together(self, conf: dict[str, str]) -> None:
        try:
            _Adjustments(**conf)
        except ValueError as error:
            raise SettingError(None, str(error)) from None

    def make_sockets(self) -> list[ListeningSocket]:
        """Return sockets at the addresses where waitress itself would listen."""
        conf = self.conf
        if 'listen_on' in conf or conf.get('unix_socket'):
            return super().make_sockets()
        listen = conf.get('listen') or '{}:{}'.format(
            conf.get('host', self.default_host), conf.get('port', self.default_port)
        )
        return self._bind_all(split_listen(listen), 'listen')

    def sockets_for(self, address: str, key: str = '--listen') -> list[ListeningSocket]:
        """Return the sockets for an address: those of [server:main] get one for each family."""
        if key != 'listen' or _is_ours(address):
            return super().sockets_for(address, key)
        host, port = _split(address)
        number, bound = parse_port(port), []
        try:
            for family, (resolved, _, *scope) in resolve(host, number, self._family()):
                at: Any = (resolved, number, *scope)
                bound.append(self.bind_tcp(family, at))
                # If the port is 0, all families get the same number.
                number = bound[-1].name[1]
        except BaseException:
            self.close_new(bound)
            raise
        return bound

    def _family(self) -> int:
        ipv4, ipv6 = (boolean(self.conf.get(key, 'true')) for key in ('ipv4', 'ipv6'))
        if ipv4 and ipv6:
            return socket.AF_UNSPEC
        return socket.AF_INET if ipv4 else socket.AF_INET6

    passes_connections = False
    #: The access log that gets the requests; whether environ has the key of `arriving`.
    access_log, notes_arrival = None, False

    def open(self, app: Any) -> None:
        """Make waitress's server on our sockets; it listens from here on."""
        conf = {key: value for key, value in self.conf.items() if key not in WHERE}
        ways = waitress_fast.ways()
        self._loop = None
        if waitress_fast.EPOLL in ways and 'asyncore_use_poll' not in conf:
            self._loop = waitress_fast.EpollLoop()
        self._map: dict[int, Any] = {} if self._loop is None else self._loop.map
        self._dispatcher = _dispatcher_class(ways)(self.bus)
        if isinstance(self._dispatcher, waitress_fast.QueueDispatcher):
            self._dispatcher.sharing = self.sharing
        if self._loop is not None:
            self._loop.sharing = self.sharing
        self._adjustments = _Adjustments(**conf)
        try:
            self._dispatcher.set_thread_count(self._adjustments.threads)
        except RuntimeError:  # the system starts no more
            self._dispatcher.shutdown(timeout=self.time_to_end)
            raise
        for listening in self.sockets:
            self._make_server(app, listening)
        self._servers = [s for s in self._map.values() if isinstance(s, BaseWSGIServer)]
        self._jobs: deque[Callable[[], object]] = deque()
        trigger = self._servers[0].trigger
        trigger.handle_read = functools.partial(_run_jobs, trigger, self._jobs)
        # waitress counts what is in the map, and not the connections alone.
        self._adjustments.connection_limit += len(self._map)
        channel_class = _channel_class(self, ways)
        if self.board is not None:
            from paste_wspbus.servers.waitress_sharing import in_worker

            channel_class = in_worker(channel_class, self, self._servers)
        if self._loop is not None:
            bases = (waitress_fast.EpollChannel, channel_class)
            channel_class = type('EpollDrainingChannel', bases, {})
        for server in self._servers:
            server.channel_class = channel_class
            server.accept = functools.partial(self._accept_for, server)
            # poll(2) says that a socket is hung up which another process has shut down,
            # for all of them: the stop closes it.
            server.handle_close = lambda: None
            if self._loop is not None:
                self._loop.adopt(server)
            if threads_are_greenlets():
                from paste_wspbus.bus import greenlets

                trigger = server.trigger
                trigger._physical_pull = functools.partial(
                    greenlets.wake, trigger.trigger
                )

    def _make_server(self, app: Any, listening: ListeningSocket) -> None:
        """Make waitress's server on one socket, as its create_server does: it joins the map."""
        sock = listening.sock
        name = 'UnixWSGIServer' if listening.is_unix else 'TcpWSGIServer'
        make = getattr(waitress_server, name)  # Windows has no Unix sockets
        make(
            app,
            self._map,
            _sock=sock,
            dispatcher=self._dispatcher,
            adj=self._adjustments,
            bind_socket=False,
            sockinfo=(sock.family, sock.type, sock.proto, sock.getsockname()),
        )

    def _accept_for(self, server: BaseWSGIServer) -> Any:
        """Replace `wasyncore.dispatcher.accept`: return None if there is no connection."""
        try:
            return self.accept(server.socket)
        except (BlockingIOError, ConnectionAbortedError):
            if self.is_paused:
                self._look_away(server)
            return None

    def _look_away(self, server: BaseWSGIServer) -> None:
        """Make the loop ignore the listening socket while the server `is_paused`."""

        def readable() -> bool:
            if self.is_paused:
                return False
            del server.readable  # its class's own again
            return bool(server.readable())

        server.readable = readable
        if self._loop is not None and self.sharing is not None:
            self._loop.within = min(self.sharing.look, self._loop.longest)

    def free_threads(self) -> int | None:
        """Return how many threads are free, besides those for requests that wait."""
        if not isinstance(self._dispatcher, waitress_fast.QueueDispatcher):
            return None
        ready = 0 if self._loop is None else len(self._loop.ready)
        return self._dispatcher.free() - ready

    def resume(self) -> None:
        """Let the loop watch the listening sockets again."""
        if self._loop is not None:
            self._loop.within = self._loop.longest
            self._loop.listen_again(self._servers)
        else:
            self._servers[0].pull_trigger()

    def accepts_on(self) -> list[socket.socket]:
        """Return the sockets of waitress's servers."""
        return [server.socket for server in self._servers]

    def run(self) -> None:
        """Run waitress's loop, or ours in its place, until its map is empty.

        If the .ini does not say whether to use poll(2), it is used: select(2) takes no
        descriptor above 1023, and the site would end when it opens so many.
        """
        if self._loop is not None:
            self._loop.run(self._servers, self._adjustments.asyncore_loop_timeout)
            return
        use_poll = self._adjustments.asyncore_use_poll
        if 'asyncore_use_poll' not in self.conf:
            use_poll = hasattr(select, 'poll')  # eventlet takes it away
        wasyncore.loop(
            timeout=self._adjustments.asyncore_loop_timeout,
            map=self._map,
            use_poll=use_poll,
        )

    def in_loop(self, function: Callable[[], bool | None]) -> bool:
        """Run ``function`` in the loop's thread; return its result, or False if it takes too long."""
        if not self._runs():
            return bool(function())
        # In a site that gevent or eventlet patches, the loop is a greenlet of this thread.
        result = self.bus.queue_class()
        self._jobs.append(lambda: result.put(function()))
        self._servers[0].trigger.pull_trigger()
        with contextlib.suppress(Empty):
            return bool(result.get(timeout=self.at_most(1)))
        return False

    def stop_accepting(self) -> None:
        """Close the listening sockets only; their triggers stay open."""
        self.in_loop(self._close_listeners)

    def _close_listeners(self) -> None:
        for server in self._servers:
            wasyncore.dispatcher.close(server)

    def finish(self) -> bool:
        """Close idle channels; return whether no channel remains."""
        return self.in_loop(self._close_idle)

    @property
    def _channels(self) -> list[Any]:
        return [c for s in self._servers for c in list(s.active_channels.values())]

    def _close_idle(self) -> bool:
        channels = self._channels
        for channel in channels:
            stage = _stage(channel)
            # Of a head, its beginning counts: a client may send it byte by byte.
            since = channel.request.since if stage is Stage.HEAD else channel.used
            if self.may_close(stage, since) and not readable(channel.socket):
                channel.handle_close()
        return not channels

    def count(self) -> int:
        """Return how many channels waitress has."""
        return sum(len(server.active_channels) for server in self._servers)

    def requests_in_flight(self) -> list[RequestInFlight]:
        """List the requests of all channels."""
        from paste_wspbus.servers.waitress_requests import open_requests

        return open_requests(self._channels)

    def load_now(self) -> Load:
        """Return how busy waitress's threads are."""
        return Load(len(self._dispatcher.threads), *self._dispatcher.load())

    def give_up(self, request: RequestInFlight) -> bool:
        """Answer 503 in the loop's thread, and close the channel.

        waitress writes to a channel under its lock, and drops what a thread writes later.
        """
        from paste_wspbus.servers.refusing import refuse_channel

        self._has_given_up, channel = True, request.connection
        return self.in_loop(lambda: refuse_channel(channel, request.method))

    def cut(self) -> None:
        """Close all channels in the loop's thread; a thread that writes to one is woken."""
        self.in_loop(self._close_channels)

    def _close_channels(self) -> None:
        for channel in self._channels:
            channel.handle_close()

    def end(self) -> None:
        """Stop the threads and close the remaining channels; the loop ends with an empty map."""
        self._dispatcher.shutdown(timeout=self.time_to_end)
        self.in_loop(self._close_all)

    def _close_all(self) -> None:
        self._close_channels()
        for server in self._servers:
            server.close()


class _Dispatcher(ThreadedTaskDispatcher):  # type: ignore[misc]
    """waitress's threads, each acquired before its first request and released at its end."""

    def __init__(self, bus: Bus) -> None:
        super().__init__()
        self.bus = bus
        self._begun: list[threading.Thread] = []
        self._warns_from = time.monotonic() + ARRIVING

    def add_task(self, task: Any) -> None:
        """Queue a request; waitress warns if no thread is free for it.

        A thread that has just started is on its way to the queue, and waitress takes
        it for busy: no warning then.
        """
        if time.monotonic() >= self._warns_from:
            super().add_task(task)
            return
        with self.lock:
            self.queue.append(task)
            self.queue_cv.notify()

    def load(self) -> tuple[int, int]:
        """Return how many threads have a request, and how many requests wait for one."""
        return self.active_count, len(self.queue)

    def start_new_thread(self, target: Callable[[int], None], thread_no: int) -> None:
        def run(thread_no: int) -> None:
            self._begun.append(threading.current_thread())
            with acquired(self.bus):
                target(thread_no)

        super().start_new_thread(run, thread_no)

    def shutdown(self, cancel_pending: bool = True, timeout: float = 5) -> bool:
        """End the threads, and wait until they are released.

        waitress's own method waits by the wall clock, and not for the release.
        """
        until = time.monotonic() + timeout
        self.set_thread_count(0)
        for thread in self._begun:
            if thread is not threading.current_thread():
                thread.join(max(until - time.monotonic(), 0))
        pending = list(self.pending()) if cancel_pending else []
        for channel in pending:
            channel.cancel()
        return bool(pending)

    def pending(self) -> Iterator[Any]:
        """Take each request that waits for a thread; yield its channel."""
        with contextlib.suppress(IndexError):
            while True:
                yield self.queue.popleft()


def _run_jobs(trigger: Any, jobs: deque[Callable[[], object]]) -> None:
    """Run what `in_loop` was given.

    waitress's own trigger runs such functions under its lock. If one takes long, who pulls
    the trigger for the next one waits, and knows no limit.
    """
    type(trigger).handle_read(trigger)
    while jobs:
        try:
            jobs.popleft()()
        except Exception:
            trigger.logger.exception('Error in the loop of the server')


def _dispatcher_class(ways: frozenset[str]) -> type[_Dispatcher]:
    if waitress_fast.QUEUE in ways:
        return type('Dispatcher', (waitress_fast.QueueDispatcher, _Dispatcher), {})
    return _Dispatcher


def _is_ours(where: str) -> bool:
    """Whether an address is one that waitress itself does not have, or a mistake."""
    return where.startswith('unix:') or not {*'/?'}.isdisjoint(where)


def _split(where: str) -> tuple[str, str]:
    host, colon, port = where.rpartition(':')
    return (host.strip('[]'), port) if colon else (where, '8080')


def _stage(channel: Any) -> Stage:
    if channel.requests or channel.total_outbufs_len:
        return Stage.BUSY
    if channel.request is None:
        return Stage.IDLE if channel.has_received else Stage.NEW
    return Stage.BUSY if channel.request.headers_finished else Stage.HEAD


class _Request(HTTPRequestParser):  # type: ignore[misc]
    """A request that knows since when it comes in, by a clock that nobody sets."""

    def __init__(self, adj: Any) -> None:
        super().__init__(adj)
        self.since = time.monotonic()


class _Task(WSGITask):  # type: ignore[misc]
    def execute(self) -> None:
        try:
            super().execute()
        except Exception:
            raise
        except BaseException as error:
            from paste_wspbus.servers.containing import RaisedInRequest

            raise RaisedInRequest(self.environ, error) from error


class _Channel(HTTPChannel):  # type: ignore[misc]
    """A channel that is closed whatever is raised in its thread, or by a file of the application."""

    def service(self) -> None:
        try:
            super().service()
        except BaseException:
            # waitress would never close the connection, nor call it idle.
            self.logger.exception('Error after a response; its connection is closed')
            self.will_close = True
            with self.requests_lock:
                for request in self.requests:
                    request.close()
                self.requests: list[Any] = []
            self.server.pull_trigger()

    def _flush_some(self, do_close: bool = True) -> Any:
        # It reads the file of a wsgi.file_wrapper, also in the thread of the loop.
        try:
            return super()._flush_some(do_close)
        except Exception:
            raise
        except BaseException as error:
            from paste_wspbus.servers.containing import RaisedInRequest

            raise RaisedInRequest(None, error) from error

    def handle_close(self) -> None:
        try:
            super().handle_close()
        except BaseException:  # close() of such a file raised it
            self.logger.exception('Error while closing a file of the application')
            self.outbufs.clear()
            super().handle_close()


def _channel_class(adapter: WaitressServer, ways: frozenset[str]) -> type[HTTPChannel]:
    class DrainingTask(_Task):
        def build_response_header(self) -> Any:
            self.channel.answered = self.request
            if adapter.draining:
                # As if the client had asked for it: waitress does the rest.
                self.request.headers['CONNECTION'] = 'close'
            return super().build_response_header()

    task: type = DrainingTask
    parser: type = _Request
    if waitress_fast.HEADS in ways:
        task = type('FastHeadTask', (DrainingTask, FastHead), {})
        parser = type('FastRequest', (_Request, FastParser), {})
    if waitress_fast.ONE_SEND in ways:
        task = type('OneSendTask', (waitress_fast.OneSend, task), {})

    error_task: type = ErrorTask
    if adapter.access_log is not None or adapter.notes_arrival:
        from paste_wspbus.servers.waitress_log import noting

        task, error_task = noting(adapter, task)

    class DrainingChannel(_Channel):
        task_class, error_task_class = task, error_task
        parser_class = parser
        #: The request whose response is on its way to the client.
        answered = None
        has_received = False

        @property
        def last_activity(self) -> float:
            """When the channel was used last, by the wall clock as it is now.

            waitress notes the time of day, and closes channels whose time is long past.
            If the clock is set, they must not seem to be used in the future.
            """
            return time.time() - (time.monotonic() - self.used)

        @last_activity.setter
        def last_activity(self, _: float) -> None:
            self.used = time.monotonic()

        def received(self, data: Any) -> Any:
            self.has_received = True
            return super().received(data)

    return DrainingChannel
