"""cheroot: its selector and thread pool, woken and emptied through its connection manager."""

from __future__ import annotations

import contextlib
import functools
import logging
import os
import socket
import time
import weakref
from queue import Empty, SimpleQueue

from cheroot import wsgi
from cheroot.connections import ConnectionManager
from cheroot.server import HTTPConnection, HTTPRequest
from cheroot.workers.threadpool import WorkerThread

from paste_wspbus.errors import SettingError
from paste_wspbus.plugins.threads import acquired
from paste_wspbus.servers import ADDRESS, GRACE, Server, Stage
from paste_wspbus.settings import boolean, convert
from paste_wspbus.sockets import readable

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from paste_wspbus.bus import Bus

_KNOWN: dict[str, Callable[[str], Any]] = {
    **ADDRESS,
    'numthreads': int,
    'max': int,
    'request_queue_size': int,
    'timeout': int,
    'accepted_queue_size': int,
    'accepted_queue_timeout': int,
    'server_name': str,
    'peercreds_enabled': boolean,
    'ssl_certificate': str,
    'ssl_private_key': str,
    'ssl_certificate_chain': str,
}

#: Settings that are not cheroot.wsgi.Server's.
_OURS = (*ADDRESS, 'ssl_certificate', 'ssl_private_key', 'ssl_certificate_chain')


class CherootServer(Server):
    """``use = egg:paste_wspbus#cheroot``; cheroot ships no factory of its own."""

    def read_settings(self, conf: dict[str, str]) -> dict[str, Any]:
        """Numbers are numbers, and a certificate comes with its key."""
        converted = convert(conf, _KNOWN)
        if ('ssl_certificate' in converted) != ('ssl_private_key' in converted):
            raise SettingError(
                'ssl_certificate', 'ssl_certificate and ssl_private_key go together'
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
        conf.setdefault('request_queue_size', 128)  # cheroot's 5 refuse a small burst
        listening = self.sockets[0]
        self._server = _Server(
            listening.sock.getsockname()
            if listening.is_unix
            else listening.sock.getsockname()[:2],
            app,
            **conf,
        )
        self._server.wspbus_socket, self._server.adapter = listening.sock, self
        self._server.error_log = self._error_log
        self._server.requests._spawn_worker = self._spawn_worker
        if self.scheme == 'https':
            from cheroot.ssl.builtin import BuiltinSSLAdapter

            self._server.ssl_adapter = BuiltinSSLAdapter(
                self.conf['ssl_certificate'],
                self.conf['ssl_private_key'],
                self.conf.get('ssl_certificate_chain'),
            )
        self._server.prepare()

    def _error_log(
        self, msg: str = '', level: int = 20, traceback: bool = False
    ) -> None:
        self.bus.log(f'cheroot: {msg}', level, traceback)

    def _spawn_worker(self) -> _Worker:
        worker = _Worker(self._server)
        worker.bus = self.bus
        worker.name = f'CP Server {worker.name}'  # as cheroot's own pool calls it
        worker.start()
        return worker

    def run(self) -> None:
        """Run cheroot's loop."""
        self._server.serve()

    def drain(self) -> None:
        """Have responses close their connections."""
        super().drain()
        if self._thread is not None:
            self._server.keep_alive_conn_limit = -1

    def stop_accepting(self) -> None:
        """Close the listening socket, and expire idle connections quickly."""
        self._server.keep_alive_conn_limit = -1
        self._server.timeout = GRACE[Stage.IDLE]
        self._server.expiration_interval = GRACE[Stage.IDLE] / 2
        done: SimpleQueue[None] = SimpleQueue()
        self._server._connections.wake(lambda: self._close_listener(done))
        with contextlib.suppress(Empty):  # a TLS handshake may hold up the loop
            done.get(timeout=2)

    def _close_listener(self, done: SimpleQueue[None]) -> None:
        """In the loop's thread: it does not accept any more."""
        self._server._connections.close_listener()
        done.put(None)

    def finish(self) -> bool:
        """End connections that never sent anything; whether no connection is left."""
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
        """Those that were accepted and not closed."""
        return len(self._server.open_connections)

    def end(self) -> None:
        """Stop cheroot; after `bus.hurry()` without waiting for its workers."""
        # It would connect to its socket to wake its loop; the loop is awake.
        self._server.socket = None  # type: ignore[assignment]
        self._server.shutdown_timeout = 0.2 if self.bus.hurried else 5
        self._server._connections.wake(lambda: None)
        try:
            self._server.stop()
        finally:
            # cheroot puts its figures there, and with them itself.
            statistics = getattr(logging, 'statistics', {})
            statistics.pop(f'Cheroot HTTPServer {id(self._server)}', None)


class _Worker(WorkerThread):  # type: ignore[misc]
    """A thread of cheroot's pool, acquired before its first request and released at its end."""

    bus: Bus

    def run(self) -> None:
        with acquired(self.bus):
            super().run()


class _Request(HTTPRequest):  # type: ignore[misc]
    def read_request_line(self) -> Any:
        found = super().read_request_line()
        self.conn.is_at(Stage.HEAD)
        return found

    def read_request_headers(self) -> Any:
        found = super().read_request_headers()
        self.conn.is_at(Stage.BUSY)
        return found


class _Connection(HTTPConnection):  # type: ignore[misc]
    RequestHandlerClass = _Request

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.is_at(Stage.IDLE)
        self.server.open_connections.add(self)

    def close(self) -> None:
        try:
            super().close()
        finally:
            self.server.open_connections.discard(self)

    def is_at(self, stage: Stage) -> None:
        self.stage, self.since = stage, time.time()

    def communicate(self) -> Any:
        try:
            return super().communicate()
        finally:
            self.is_at(Stage.IDLE)


class _Wake:
    """What the selector takes for a connection that became readable: runs a function."""

    last_used = float('inf')

    function: Callable[[], object]

    def __init__(self) -> None:
        self.reader, self.writer = socket.socketpair()

    def close(self) -> None:
        self.reader.close()
        self.writer.close()


class _Listener:
    """What accepts in the place of cheroot's listening socket."""

    def __init__(self, adapter: Server, sock: socket.socket) -> None:
        self.accept = functools.partial(adapter.accept, sock)


class _Connections(ConnectionManager):  # type: ignore[misc]
    _again = False
    _stop_requested: bool
    _looks_away = False

    def __init__(self, server: _Server) -> None:
        super().__init__(server)
        #: The loop's thread alone uses it; None when it is closed.
        self._listener: socket.socket | None = server.socket
        # So that a stop needs no descriptors; once used, it is closed, and leaves two.
        self._spare = [_Wake()]

    def wake(self, function: Callable[[], object]) -> None:
        """Run ``function`` in the loop's thread, and have the loop read its settings again."""
        wake = self._spare.pop() if self._spare else _Wake()
        wake.function = function
        with contextlib.suppress(
            KeyError, RuntimeError, ValueError
        ):  # the loop has ended
            self._selector.register(wake.reader.fileno(), 1, data=wake)
            wake.writer.send(b'.')

    def woken(self, wake: _Wake) -> None:
        """The loop's thread, from `_Server.process_conn`."""
        wake.close()
        wake.function()
        self._again = self._stop_requested = True

    def _run(self, expiration_interval: float) -> None:
        while True:
            super()._run(self.server.expiration_interval)
            if not self._again or not self.server.ready:  # stop() asked, too
                return
            self._again = self._stop_requested = False

    def _from_server_socket(self, server_socket: socket.socket) -> Any:
        if self._listener is None:
            return None  # it was closed in the pass in which somebody came
        adapter = self.server.adapter
        found = super()._from_server_socket(_Listener(adapter, self._listener))
        if adapter.is_paused:
            self._selector.unregister(self._listener.fileno())
            self._looks_away = True
        return found

    def _expire(self, threshold: float) -> None:
        adapter = self.server.adapter
        if adapter.draining and self._looks_away:
            threshold = time.time() - GRACE[Stage.IDLE]  # for their descriptors
        super()._expire(threshold)
        if self._listener and self._looks_away and not adapter.is_paused:
            self._looks_away = False
            self._selector.register(self._listener.fileno(), 1, data=self.server)

    def close_listener(self) -> None:
        """Accept no more; call it in the loop's thread."""
        listener, self._listener = self._listener, None
        if listener is None:
            return
        if not self._looks_away:
            self._selector.unregister(listener.fileno())
        listener.close()


class _Server(wsgi.Server):  # type: ignore[misc]
    ConnectionClass = _Connection
    wspbus_socket: socket.socket
    adapter: Server
    _connections: _Connections

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        #: From accept() to close(), wherever in cheroot they are.
        self.open_connections: weakref.WeakSet[_Connection] = weakref.WeakSet()

    def bind(self, family: int, type: int, proto: int = 0) -> socket.socket:
        return self._take_socket()

    def bind_unix_socket(self, bind_addr: str) -> socket.socket:
        return self._take_socket()

    def _take_socket(self) -> socket.socket:
        self.socket = self.wspbus_socket
        if self.ssl_adapter is not None:
            self.socket = self.ssl_adapter.bind(self.socket)
        return self.socket

    def prepare(self) -> None:
        super().prepare()
        # cheroot's timeout of a second is one for accept(), too: if another process
        # is faster, the loop would serve nobody until then.
        self.socket.setblocking(False)
        self._connections._selector.close()
        self._connections = _Connections(self)

    def process_conn(self, conn: Any) -> None:
        if isinstance(conn, _Wake):
            self._connections.woken(conn)
        else:
            super().process_conn(conn)
