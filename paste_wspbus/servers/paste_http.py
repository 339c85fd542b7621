"""Adapts Paste#http: `paste.httpserver`, with or without its thread pool."""

from __future__ import annotations

import contextlib
import io
import queue
import threading

from paste import httpserver
from paste.httpserver import ThreadPool, WSGIHandler, serve

from paste_wspbus.bus.interrupts import threads_are_greenlets
from paste_wspbus.errors import SettingError
from paste_wspbus.plugins.threads import acquired
from paste_wspbus.servers.containing import RaisedInRequest
from paste_wspbus.servers.faster_queue import Queue
from paste_wspbus.servers.refusing import AnswersOnce, refusal
from paste_wspbus.servers.server import ADDRESS, Load
from paste_wspbus.servers.settings import convert
from paste_wspbus.servers.socketserver import SocketServer
from paste_wspbus.values import MAX_INT, MAX_THREADS, boolean, whole

TYPE_CHECKING = False
if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Generator, Mapping
    from typing import Any

    from paste_wspbus.servers.cutting import Stack

_POOL = (
    'hung_thread_limit',
    'kill_thread_limit',
    'dying_limit',
    'spawn_if_under',
    'max_zombie_threads_before_die',
    'hung_check_period',
    'max_requests',
)

#: Bytes. A longer first chunk is not copied to join it to the head of its response.
LONGEST_JOINED = 32768


def _protocol(text: str) -> str:
    if text not in ('HTTP/0.9', 'HTTP/1.0', 'HTTP/1.1'):
        raise SettingError('protocol_version', f'{text!r} is not HTTP/1.0 or HTTP/1.1')
    return text


class _Handler(AnswersOnce, WSGIHandler):  # type: ignore[misc]
    wfile: Any
    wsgi_headers_sent: bool

    def wsgi_write_chunk(self, chunk: bytes) -> None:
        """Send a chunk; the first one leaves with the head, in one send(2)."""
        if self.wsgi_headers_sent or len(chunk) > LONGEST_JOINED:
            if self.wsgi_curr_headers and not self.wsgi_headers_sent:
                self.check_head()
            super().wsgi_write_chunk(chunk)
            return
        file, self.wfile = self.wfile, io.BytesIO()
        try:
            super().wsgi_write_chunk(chunk)
        except BaseException:  # nothing has left: Paste answers 500
            self.wsgi_headers_sent = False
            raise
        finally:
            written, self.wfile = self.wfile, file
        self.check_head()
        file.write(written.getvalue())

    def wsgi_execute(self, environ: dict[str, Any] | None = None) -> None:
        self.begins_request()
        try:
            super().wsgi_execute(environ)
        except Exception:
            raise
        except BaseException as error:
            if not self.wsgi_headers_sent:  # Paste does the same after an Exception
                body = b'Internal Server Error\n'
                length = str(len(body))
                self.wsgi_curr_headers = (
                    '500 Internal Server Error',
                    [('Content-Type', 'text/plain'), ('Content-Length', length)],
                )
                with contextlib.suppress(OSError):
                    self.wsgi_write_chunk(body)
            raise RaisedInRequest(self.wsgi_environ, error) from error


#: Paste's defaults: the number of threads; the seconds after which one counts as hung, and is
#: killed.
WORKERS, HUNG, KILLED = 10, 30, 1800

#: What other servers call the number of threads.
ELSEWHERE = ('threads', 'numthreads', 'thread_pool')


def _check_pool(conf: dict[str, Any]) -> None:
    """Refuse limits of the pool that contradict each other, as Paste's `ThreadPool` does."""
    workers = conf.get('threadpool_workers', WORKERS)
    spawned = conf.get('threadpool_spawn_if_under', 0)
    if spawned > workers:
        problem = f'{spawned} is more than threadpool_workers, {workers}'
        raise SettingError('threadpool_spawn_if_under', problem)
    hung = conf.get('threadpool_hung_thread_limit', HUNG)
    killed = conf.get('threadpool_kill_thread_limit', KILLED)
    if killed and hung > killed:  # 0 kills no thread
        problem = f'{hung} s is more than threadpool_kill_thread_limit, {killed} s'
        raise SettingError('threadpool_hung_thread_limit', problem)


class PasteServer(SocketServer):
    """The adapter for ``use = egg:Paste#http``, with all of its settings."""

    known: dict[str, Callable[[str], Any]] = {
        **ADDRESS,
        'ssl_pem': str,
        'server_version': str,
        'protocol_version': _protocol,
        'socket_timeout': int,
        'threadpool_workers': whole('threadpool_workers', 1, MAX_THREADS),
        'request_queue_size': whole('request_queue_size', 0, MAX_INT),
        'use_threadpool': boolean,
        'daemon_threads': boolean,
        'threadpool_error_email': str,
        **{f'threadpool_{name}': int for name in _POOL},
    }

    def read_settings(self, conf: dict[str, str]) -> dict[str, Any]:
        """Convert the settings as Paste does; ``host`` may contain the port."""
        for key in ELSEWHERE:
            if key in conf:
                meant = "unknown setting; did you mean 'threadpool_workers'?"
                raise SettingError(key, meant)
        host = conf.get('host', '')
        if 'port' not in conf and host.count(':') == 1:
            conf['host'], conf['port'] = host.split(':')
        if not conf.get('host'):  # for Paste, that is its default
            conf.pop('host', None)
        converted = convert(conf, self.known)
        if converted.get('use_threadpool', True):
            _check_pool(converted)
        return converted

    def handler_class(self) -> type[Any]:
        """Return Paste's request handler class."""
        return _Handler

    def make(self, app: Any, handler: type[Any]) -> Any:
        """Let Paste make the server; the port does not matter."""
        if self.untouched is not None:
            from paste_wspbus.servers.paste_untouched import marking

            handler = marking(handler, self.untouched)
        conf = {key: value for key, value in self.conf.items() if key not in ADDRESS}
        conf.pop('request_queue_size', None)
        # A request that the stop has cut must not keep the process alive.
        conf['daemon_threads'] = True
        pool = {
            key.removeprefix('threadpool_'): conf.pop(key)
            for key in list(conf)
            if key.startswith('threadpool_') and key != 'threadpool_workers'
        }
        if 'error_email' in self.global_conf:
            pool.setdefault('error_email', self.global_conf['error_email'])
        # Paste's default, and it refuses more than there are workers.
        pool.setdefault(
            'spawn_if_under', min(5, conf.get('threadpool_workers', WORKERS))
        )
        with _pool_class(_acquiring_pool(self)):
            server = serve(
                app,
                host='127.0.0.1',
                port=0,
                handler=handler,
                start_loop=False,
                threadpool_options=pool,
                **conf,
            )
        if not hasattr(server, 'thread_pool'):
            self._acquire_for_each_request(server)
        return server

    def _acquire_for_each_request(self, server: Any) -> None:
        answer = server.process_request_thread

        def process_request_thread(*args: Any) -> None:
            with acquired(self.bus):
                answer(*args)

        server.process_request_thread = process_request_thread

    def has_begun(self, handler: Any, stack: Stack) -> bool:
        """Whether the head of a response was sent."""
        return bool(getattr(handler, 'wsgi_headers_sent', False))

    def refuse(self, handler: Any, method: str) -> bool:
        """Answer 503 to the request of a handler; return whether that was possible."""
        if not handler.may_send_head():
            return False
        with contextlib.suppress(OSError, ValueError):
            handler.connection.send(refusal(method))
        return True

    def has_accepted(self, connection: Any, listening: socket.socket) -> None:
        """Note a new connection, and mark it."""
        super().has_accepted(connection, listening)
        if self.untouched is not None:
            self.untouched.add(connection.fileno())

    def take(self, connection: socket.socket) -> None:
        """Queue a connection of another worker for a thread, if this is possible."""
        from paste_wspbus.servers.untouched import came_in_at, own

        listening = came_in_at(connection, self.accepts_on())
        address = connection.getpeername() or ('127.0.0.1', 0)
        if listening is None or self.draining or not self._runs():
            return
        taken = own(connection)
        self.has_accepted(taken, listening)
        try:
            self._server.process_request(taken, address)
        except Exception:  # the loop of socketserver does the same
            self._server.handle_error(taken, address)
            self._server.shutdown_request(taken)

    def load_now(self) -> Load:
        """Return how busy the threads of Paste's pool are, if it has one."""
        pool = getattr(self._server, 'thread_pool', None)
        if pool is None:
            return super().load_now()
        return Load(len(pool.workers), len(pool.worker_tracker), pool.queue.qsize())

    def free_threads(self) -> int | None:
        """Return how many threads have no connection: each connection has one to its end."""
        pool = getattr(self._server, 'thread_pool', None)
        return None if pool is None else len(pool.workers) - len(self._served)

    def end(self) -> None:
        """Also end the pool's threads; those that still compute are daemon threads."""
        super().end()
        pool = getattr(self._server, 'thread_pool', None)
        if pool is not None:
            pool.shutdown()

    @classmethod
    def knows(cls, conf: Mapping[str, str]) -> bool:
        """Whether this adapter can do what the settings ask for; it has no pyOpenSSL."""
        return 'ssl_pem' not in conf and 'ssl_context' not in conf


@contextlib.contextmanager
def _pool_class(kind: type[ThreadPool]) -> Generator[None]:
    """Make Paste use this class for its thread pool: serve() has no argument for it."""
    usual, httpserver.ThreadPool = httpserver.ThreadPool, kind
    try:
        yield
    finally:
        httpserver.ThreadPool = usual


def _acquiring_pool(adapter: PasteServer) -> type[ThreadPool]:
    class AcquiringPool(ThreadPool):  # type: ignore[misc]
        """Acquires its threads before their first request and releases them at their end."""

        queue: Any

        def __init__(self, *args: Any, **kwargs: Any) -> None:
            # Paste's own list lacks the threads that are beginning or ending.
            self._alive, self._changed = 0, threading.Condition()
            try:
                super().__init__(*args, **kwargs)
            except RuntimeError:  # the system starts no more threads
                self.shutdown()
                raise

        def _count(self, change: int) -> None:
            with self._changed:
                self._alive += change
                self._changed.notify_all()

        def add_worker_thread(self, *args: Any, **kwargs: Any) -> None:
            # The first thread has not begun yet: none waits at Paste's own queue.
            if isinstance(self.queue, queue.Queue) and not threads_are_greenlets():
                self.queue = Queue()
            self._count(1)
            try:
                super().add_worker_thread(*args, **kwargs)
            except BaseException:
                self._count(-1)
                raise

        def worker_thread_callback(self, message: str | None = None) -> None:
            try:
                with acquired(adapter.bus):
                    super().worker_thread_callback(message)
            finally:
                self._count(-1)

        def shutdown(self, force_quit_timeout: float = 0) -> None:
            # Paste's own method waits half a second for each thread, and raises
            # SystemExit in those that compute.
            with self._changed:
                for _ in range(self._alive):
                    self.queue.put(self.SHUTDOWN)
                seconds = adapter.time_to_end
                self._changed.wait_for(lambda: not self._alive, seconds)

    return AcquiringPool
