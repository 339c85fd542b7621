"""Adapts cheroot: a connection manager wakes and empties its selector and its thread pool."""

from __future__ import annotations

import contextlib
import logging
import os
import queue
import socket
import threading
import time
import weakref

from cheroot import wsgi
from cheroot.connections import ConnectionManager
from cheroot.server import HTTPConnection, HTTPRequest
from cheroot.workers.threadpool import _SHUTDOWNREQUEST

from paste_wspbus.bus import greenlets
from paste_wspbus.errors import SettingError
from paste_wspbus.listening.backlog import readable
from paste_wspbus.servers.accepting import GRACE, Stage
from paste_wspbus.servers.cheroot_doors import Door, Listener, Wake, bind_addr
from paste_wspbus.servers.cheroot_fast import OneSend, faster, take_faster_queue
from paste_wspbus.servers.cheroot_gateway import contained
from paste_wspbus.servers.cheroot_threads import Worker
from paste_wspbus.servers.refusing import AnswersOnce, refusal
from paste_wspbus.servers.server import ADDRESS, Load, Server
from paste_wspbus.servers.settings import convert
from paste_wspbus.values import MAX_INT, MAX_SIZE, MAX_THREADS, boolean, whole

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Generator
    from typing import Any

    from paste_wspbus.listening.sockets import ListeningSocket
    from paste_wspbus.servers.cutting import RequestInFlight, Stack

_KNOWN: dict[str, Callable[[str], Any]] = {
    **ADDRESS,
    'numthreads': whole('numthreads', 1, MAX_THREADS),
    'max': int,
    'request_queue_size': whole('request_queue_size', 0, MAX_INT),
    'timeout': whole('timeout', 0, MAX_INT),
    'accepted_queue_size': int,
    'accepted_queue_timeout': int,
    'max_request_body_size': whole('max_request_body_size', 0, MAX_SIZE),
    'max_request_header_size': whole('max_request_header_size', 0, MAX_SIZE),
    'server_name': str,
    'peercreds_enabled': boolean,
    'ssl_certificate': str,
    'ssl_private_key': str,
    'ssl_certificate_chain': str,
}

#: Attributes of cheroot's server; 0 is no limit, cheroot's default.
_LIMITS = ('max_request_body_size', 'max_request_header_size')

#: The settings that cheroot.wsgi.Server does not take.
_OURS = (
    *(*ADDRESS, *_LIMITS),
    *('ssl_certificate', 'ssl_private_key', 'ssl_certificate_chain'),
)


class CherootServer(Server):
    """The adapter for ``use = egg:paste_wspbus#cheroot``; cheroot has no factory of its own."""

    ipv6only, unix_mode = False, None  # cheroot's defaults
    known = _KNOWN

    def read_settings(self, conf: dict[str, str]) -> dict[str, Any]:
        """Convert the numbers, and check that a certificate has its key."""
        converted = convert(conf, self.known)
        if ('ssl_certificate' in converted) != ('ssl_private_key' in converted):
            raise SettingError(
                'ssl_certificate',
                'set ssl_certificate and ssl_private_key together, or neither',
            )
        for key in ('ssl_certificate', 'ssl_private_key', 'ssl_certificate_chain'):
            if not os.path.isfile(converted.get(key, __file__)):
                raise SettingError(key, f'there is no file {converted[key]}')
        if 'ssl_certificate' in converted:
            self.scheme = 'https'
        return converted

    def open(self, app: Any) -> None:
        """Make cheroot's server on our socket and start its threads."""
        conf = {key: value for key, value in self.conf.items() if key not in _OURS}
        # cheroot's default is 5: that is too few for a small burst.
        conf.setdefault('request_queue_size', 128)
        self._server = _Server(bind_addr(self.sockets[0]), app, **conf)
        for key in _LIMITS:
            if key in self.conf:
                setattr(self._server, key, self.conf[key])
        self._server.wspbus_sockets, self._server.adapter = self.sockets, self
        self._server.error_log = self._error_log
        self._server.requests._spawn_worker = self._spawn_worker
        self._server.requests.stop = self._stop_threads
        take_faster_queue(self._server.requests)
        if self.scheme == 'https':
            from cheroot.ssl.builtin import BuiltinSSLAdapter

            self._server.ssl_adapter = BuiltinSSLAdapter(
                self.conf['ssl_certificate'],
                self.conf['ssl_private_key'],
                self.conf.get('ssl_certificate_chain'),
            )
        self.prepare()

    def prepare(self) -> None:
        """Let cheroot start its threads; if it cannot start all, end the others."""
        self._spawned: list[Worker] = []
        if self.untouched is not None and self.scheme == 'http':
            from paste_wspbus.servers.cheroot_untouched import marking

            kind = marking(self._server.ConnectionClass, self.untouched)
            self._server.ConnectionClass = kind
        try:
            self._server.prepare()
        except RuntimeError:  # the system starts no more threads
            self._server.requests._threads[:] = self._spawned
            self._stop_threads(self.time_to_end)
            raise
        finally:
            self._spawned = []

    def _error_log(
        self, msg: str = '', level: int = 20, traceback: bool = False
    ) -> None:
        # The log has named the requests that fail now.
        if self.has_cut or self._has_given_up:
            level, traceback = 20, False
        self.bus.log(f'cheroot: {msg}', level, traceback)

    def _spawn_worker(self) -> Worker:
        worker = greenlets.thread_class(Worker)(self._server)
        worker.bus = self.bus
        worker.name = f'CP Server {worker.name}'  # cheroot's own pool names it so
        # A request that the stop has cut must not keep the process.
        worker.daemon = True
        worker.start()
        self._spawned.append(worker)
        return worker

    def _stop_threads(self, timeout: float = 5) -> None:
        """End cheroot's threads; wait ``timeout`` seconds for those that still compute.

        They are daemon threads. cheroot's own method would wait for them without end, and
        would measure the time by the wall clock.
        """
        pool, until = self._server.requests, time.monotonic() + timeout
        threads, pool._threads[:] = pool._threads[:], []
        with contextlib.suppress(queue.Empty):  # connections that no thread has taken
            while True:
                pool.get(block=False).close()
        for _ in threads:
            pool.put(_SHUTDOWNREQUEST)
        for thread in threads:
            if thread is not threading.current_thread():
                thread.join(max(until - time.monotonic(), 0))

    def accepts_on(self) -> list[socket.socket]:
        """Return the sockets in cheroot's selector."""
        return self._server._connections.listeners

    def run(self) -> None:
        """Run cheroot's loop."""
        self._server.serve()

    def stop_accepting(self) -> None:
        """Close the listening socket, and expire idle connections quickly."""
        self._server.timeout = GRACE[Stage.IDLE]
        self._server.expiration_interval = GRACE[Stage.IDLE] / 2
        done: queue.SimpleQueue[None] = queue.SimpleQueue()
        self._server._connections.wake(lambda: self._close_listener(done))
        with contextlib.suppress(queue.Empty):  # a TLS handshake may hold up the loop
            done.get(timeout=self.at_most(2))

    def _close_listener(self, done: queue.SimpleQueue[None]) -> None:
        """Stop accepting; the loop's thread calls this."""
        self._server._connections.close_listeners()
        done.put(None)

    def finish(self) -> bool:
        """End the connections that never sent anything; return whether no connection remains."""
        workers = [worker.conn for worker in self._server.requests._threads]
        for conn in workers:
            if (
                conn is not None
                and self.may_close(conn.stage, conn.since)
                and not readable(conn.socket)
            ):
                with contextlib.suppress(OSError):
                    conn.socket.shutdown(socket.SHUT_RD)
        return not self._server.open_connections

    def count(self) -> int:
        """Return how many connections were accepted and not closed."""
        return len(self._server.open_connections)

    def requests_in_flight(self) -> list[RequestInFlight]:
        """List the requests that threads answer, and those that wait for a thread."""
        from paste_wspbus.servers.cutting import stacks_by_owner

        stacks = stacks_by_owner()
        found = (
            _open_request(conn, stacks.get(id(conn)))
            for conn in list(self._server.open_connections)
        )
        return [request for request in found if request is not None]

    def load_now(self) -> Load:
        """Return how busy cheroot's threads are."""
        pool = self._server.requests
        threads = len(pool._threads)
        return Load(threads, threads - pool.idle, pool.qsize)

    def free_threads(self) -> int:
        """Return how many threads of the pool are free, besides those of connections that wait."""
        return len(self._server.requests._threads) - len(self._server.in_pool)

    def leaves_pool(self, conn: _Connection) -> None:
        """Note that the thread of a connection has answered, and is free, if it has one."""
        if conn in self._server.in_pool:
            self._server.in_pool.discard(conn)
            if self.sharing is not None:
                self.sharing.has_answered()

    def resume(self) -> None:
        """Let cheroot's selector watch the listening sockets again."""
        self._server._connections.come_back()

    def take(self, connection: socket.socket) -> None:
        """Serve a connection of another worker, if this is possible."""
        from paste_wspbus.servers.cheroot_untouched import take

        take(connection, self._server._connections, self.at_most(1))

    def give_up(self, request: RequestInFlight) -> bool:
        """Answer 503 where there is no TLS, and shut the connection down."""
        self._has_given_up, conn = True, request.connection
        answers = self.scheme == 'http' and conn.may_send_head()
        with contextlib.suppress(OSError, ValueError):
            if answers:
                conn.socket.send(refusal(request.method))
            conn.socket.shutdown(socket.SHUT_RDWR)
        self._server.open_connections.discard(conn)  # a stop does not wait for it
        return answers

    def cut(self) -> None:
        """Shut down all connections; the threads that answer them close them."""
        for conn in list(self._server.open_connections):
            with contextlib.suppress(OSError, ValueError):
                conn.socket.shutdown(socket.SHUT_RDWR)

    def end(self) -> None:
        """Stop cheroot; wait no longer than `time_to_end` for its threads."""
        # Without this, cheroot would connect to its socket to wake its loop, which is awake.
        self._server.socket = None  # type: ignore[assignment]
        self._server.shutdown_timeout = self.time_to_end
        self._server._connections.wake(lambda: None)
        try:
            self._server.stop()
        finally:
            # cheroot's figures stand there, and refer to the server: it would never be freed.
            statistics = getattr(logging, 'statistics', {})
            statistics.pop(f'Cheroot HTTPServer {id(self._server)}', None)


def _open_request(conn: _Connection, stack: Stack | None) -> RequestInFlight | None:
    """Describe the request of a connection; None if it is idle."""
    from paste_wspbus.servers.cutting import RequestInFlight, WaitsFor, text_of

    request: Any = stack.find(HTTPRequest) if stack is not None else None
    waits_for = stack.waits_for_client(conn.socket) if stack is not None else None
    if stack is None:
        if not _readable(conn.socket):
            return None
        waits_for = WaitsFor.THREAD
    elif waits_for is None and conn.stage is not Stage.BUSY:
        waits_for = WaitsFor.CLIENT_SENDS
    elif waits_for is None:
        begun = getattr(request, 'sent_headers', False)
        waits_for = WaitsFor.STREAM if begun else WaitsFor.APPLICATION
    method = text_of(getattr(request, 'method', ''))
    if conn.stage is Stage.IDLE and stack is not None and not method:
        return None  # it has sent nothing
    target = text_of(getattr(request, 'uri', ''))
    return RequestInFlight(method, target, conn.since, waits_for, stack, conn)


def _readable(sock: socket.socket) -> bool:
    try:
        return readable(sock)
    except (OSError, ValueError):  # its thread has closed it
        return False


class _Request(OneSend):
    def parse_usual(self) -> bool:
        found = super().parse_usual()
        if found:
            self.conn.is_at(Stage.BUSY)
            self.conn.begins_request()
        return found

    def read_request_line(self) -> Any:
        found = super().read_request_line()
        self.conn.is_at(Stage.HEAD)
        return found

    def read_request_headers(self) -> Any:
        found = super().read_request_headers()
        self.conn.is_at(Stage.BUSY)
        self.conn.begins_request()
        return found

    def send_headers(self) -> None:
        self.conn.check_head()
        super().send_headers()


class _Connection(AnswersOnce, HTTPConnection):  # type: ignore[misc]
    RequestHandlerClass = _Request

    def __init__(self, server: Any, sock: Any, makefile: Any) -> None:
        super().__init__(server, sock, faster(makefile))
        self.is_at(Stage.IDLE)
        self.server.open_connections.add(self)

    def close(self) -> None:
        self.server.adapter.leaves_pool(self)  # before the client knows
        try:
            super().close()
        finally:
            self.server.open_connections.discard(self)
            # The client did not read this. Python 3.14 would complain of it at its end.
            unsent = getattr(self.wfile, '_write_buf', None)
            if unsent is not None:
                unsent.clear()

    def is_at(self, stage: Stage) -> None:
        self.stage, self.since = stage, time.monotonic()

    def communicate(self) -> Any:
        try:
            return super().communicate()
        finally:
            self.is_at(Stage.IDLE)


class _Connections(ConnectionManager):  # type: ignore[misc]
    _stop_requested: bool

    def __init__(self, server: _Server) -> None:
        super().__init__(server)
        first, *others = server.wspbus_sockets
        #: From each listening socket to its data in the selector: of the first one, the
        #: server. Only the loop's thread uses this; a closed socket is not in it any more.
        self._doors: dict[socket.socket, Any] = {first.sock: server}
        for listening in others:
            self._doors[listening.sock] = door = Door(server, listening)
            self._selector.register(listening.sock.fileno(), 1, data=door)
        #: The listening sockets that the selector does not watch, because accept() failed.
        self._away: list[socket.socket] = []
        # It is made now, so that a stop needs no free descriptor.
        self._spare = [Wake()]

    @property
    def listeners(self) -> list[socket.socket]:
        """The listening sockets."""
        return list(self._doors)

    @property
    def _num_connections(self) -> int:
        watched = len(self._doors) - len(self._away)
        # len() of cheroot's selector waits for its lock: then another thread may take the
        # GIL between the application and its response.
        return len(self._selector._selector.get_map() or ()) - watched

    def wake(self, function: Callable[[], object]) -> None:
        """Run ``function`` in the loop's thread; the loop reads its settings again afterwards."""
        wake = self._spare.pop() if self._spare else Wake()
        wake.function = function
        try:
            self._selector.register(wake.reader.fileno(), 1, data=wake)
            wake.writer.send(b'.')
        except (KeyError, RuntimeError, ValueError):  # the loop has ended
            wake.close()

    def woken(self, wake: Wake) -> None:
        """Run the function of ``wake``; `_Server.process_conn` calls this in the loop's thread."""
        function = wake.function
        wake.reader.recv(1)
        self._spare.append(wake)
        function()

    def close(self) -> None:
        """Close the connections and the selector."""
        super().close()
        while self._spare:
            self._spare.pop().close()

    def _run(self, expiration_interval: float) -> None:
        """Run the loop; cheroot's own reads its settings only once, and uses the wall clock."""
        looked = time.monotonic()
        while not self._stop_requested:
            interval = self.server.expiration_interval
            # On Windows, select() does not return when a socket is readable (cheroot).
            within = min(interval, 0.05) if os.name == 'nt' else interval
            try:
                active = list(self._selector.select(timeout=within))
            except OSError:
                self._remove_invalid_sockets()
                continue
            for fd, conn in active:
                if conn is self.server:
                    conn = self._from_server_socket(self.server.socket)
                else:
                    self._selector.unregister(fd)
                if conn is not None:
                    self.server.process_conn(conn)
            if time.monotonic() - looked > self.server.expiration_interval:
                self._expire(0)
                looked = time.monotonic()

    def stop(self) -> None:
        """End the loop; wait at most `time_to_end`, because a TLS handshake may hold it up."""
        self._stop_requested = True
        until = time.monotonic() + self.server.adapter.time_to_end
        while self._serving and time.monotonic() < until:
            time.sleep(0.001)

    def _from_server_socket(self, server_socket: socket.socket) -> Any:
        first = next(iter(self._doors), None)
        if first is None:
            return None  # it was closed in the pass in which a client connected
        adapter = self.server.adapter
        found = super()._from_server_socket(Listener(adapter, first))
        if adapter.is_paused:
            self._selector.unregister(first.fileno())
            self._go_away(first)
        return found

    def _go_away(self, sock: socket.socket) -> None:
        self._away.append(sock)
        if not self.server.adapter.is_paused:  # a thread has become free meanwhile
            self.come_back()

    def come_back(self) -> None:
        """Watch the listening sockets again; any thread may call this."""
        # The stop closes them.
        with contextlib.suppress(IndexError, KeyError, ValueError):
            while True:
                sock = self._away.pop()
                self._selector.register(sock.fileno(), 1, data=self._doors[sock])

    def watch(self, listener: Any, listening: socket.socket | None) -> None:
        """Watch a connection of another worker: ``listener`` accepts it; see `Server.take`."""
        door = self._doors.get(listening) if listening else None
        if door is None or self.server.adapter.draining:
            return
        found = super()._from_server_socket(listener)
        if found is None:
            return
        if door is not self.server:
            found.server = door.server
            found.remote_addr, found.remote_port = listener.address[:2]
        self.put(found)

    def come_in(self, door: Door) -> None:
        """Accept at a second or further listening socket, which `_run` has unregistered."""
        if door.sock not in self._doors:
            return  # it was closed, as above
        adapter = self.server.adapter
        listener = Listener(adapter, door.sock)
        found = super()._from_server_socket(listener)
        if adapter.is_paused:
            self._go_away(door.sock)
        else:
            self._selector.register(door.sock.fileno(), 1, data=door)
        if found is not None:
            found.server = door.server
            found.remote_addr, found.remote_port = listener.address[:2]
            self.server.process_conn(found)

    def _expire(self, threshold: float) -> None:
        """Close idle connections; ignore ``threshold``, which is a time of the wall clock."""
        adapter, limit = self.server.adapter, self.server.timeout
        if adapter.draining and self._away:
            limit = GRACE[Stage.IDLE]  # accept() needs their descriptors
        now = time.monotonic()
        idle = [
            (fd, conn)
            for fd, conn in self._selector.connections
            if conn is not self.server and now - conn.since > limit
        ]
        for fd, conn in idle:
            self._selector.unregister(fd)
            conn.close()
        if not adapter.is_paused:
            self.come_back()

    def close_listeners(self) -> None:
        """Stop accepting; call this in the loop's thread only."""
        while self._doors:
            sock, _ = self._doors.popitem()
            if sock in self._away:
                self._away.remove(sock)
            else:
                self._selector.unregister(sock.fileno())
            sock.close()


class _Server(wsgi.Server):  # type: ignore[misc]
    ConnectionClass = _Connection
    wspbus_sockets: list[ListeningSocket]
    adapter: CherootServer
    _connections: _Connections

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.gateway: type[wsgi.Gateway] = contained(self.gateway)
        #: If several workers serve: the connections that have a thread, or wait for
        #: one.
        self.in_pool: set[_Connection] = set()
        #: Each connection from accept() to close(), wherever in cheroot it is.
        self.open_connections: weakref.WeakSet[_Connection] = weakref.WeakSet()

    def bind(self, family: int, type: int, proto: int = 0) -> socket.socket:
        return self._take_socket()

    def bind_unix_socket(self, bind_addr: str) -> socket.socket:
        return self._take_socket()

    def _take_socket(self) -> socket.socket:
        self.socket = self.wspbus_sockets[0].sock
        if self.ssl_adapter is not None:
            self.socket = self.ssl_adapter.bind(self.socket)
        return self.socket

    def prepare(self) -> None:
        # If LISTEN_PID is set, it names another process; but cheroot would use descriptor 3.
        with _without('LISTEN_PID'):
            super().prepare()
        for listening in self.wspbus_sockets[1:]:
            listening.sock.listen(self.request_queue_size)
        # cheroot's timeout of a second also applies to accept(): if another process was
        # faster, the loop would serve no connection during that second.
        self.socket.setblocking(False)
        self._connections._selector.close()
        self._connections = _Connections(self)

    @property
    def can_add_keepalive_connection(self) -> bool:
        return not self.adapter.draining and super().can_add_keepalive_connection

    def process_conn(self, conn: Any) -> None:
        if isinstance(conn, Wake):
            self._connections.woken(conn)
        elif isinstance(conn, Door):
            self._connections.come_in(conn)
        else:
            if self.adapter.sharing is not None:
                self.in_pool.add(conn)
            super().process_conn(conn)

    def put_conn(self, conn: Any) -> None:
        # Before the loop watches it: the next request may come at once.
        self.adapter.leaves_pool(conn)
        super().put_conn(conn)


@contextlib.contextmanager
def _without(variable: str) -> Generator[None]:
    """Hide a variable of the environment inside the ``with`` block."""
    value = os.environ.pop(variable, None)
    try:
        yield
    finally:
        if value is not None:
            os.environ[variable] = value
