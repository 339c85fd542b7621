"""cheroot: its selector and thread pool, woken and emptied through its connection manager."""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import time
from queue import SimpleQueue

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
        self._server.wspbus_socket = listening.sock
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
        done.get(timeout=2)

    def _close_listener(self, done: SimpleQueue[None]) -> None:
        """In the loop's thread: it does not accept any more."""
        self._server._connections._selector.unregister(self._server.socket.fileno())
        self._server.socket.close()
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
        return not (
            any(workers)
            or self._server.requests.qsize
            or self._server._connections.has_idle()
        )

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

    def __init__(self, function: Callable[[], object]) -> None:
        self.function = function
        self.reader, self.writer = socket.socketpair()

    def close(self) -> None:
        self.reader.close()
        self.writer.close()


class _Connections(ConnectionManager):  # type: ignore[misc]
    _again = False
    _stop_requested: bool

    def wake(self, function: Callable[[], object]) -> None:
        """Run ``function`` in the loop's thread, and have the loop read its settings again."""
        wake = _Wake(function)
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

    def has_idle(self) -> bool:
        return any(
            conn is not self.server and not isinstance(conn, _Wake)
            for _, conn in list(self._selector.connections)
        )


class _Server(wsgi.Server):  # type: ignore[misc]
    ConnectionClass = _Connection
    wspbus_socket: socket.socket
    _connections: _Connections

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
        self._connections._selector.close()
        self._connections = _Connections(self)

    def process_conn(self, conn: Any) -> None:
        if isinstance(conn, _Wake):
            self._connections.woken(conn)
        else:
            super().process_conn(conn)
