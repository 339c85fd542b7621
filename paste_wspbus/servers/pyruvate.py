"""Adapts pyruvate, a server in Rust: it runs in a thread, so that Python can handle signals."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import threading
import time

from paste_wspbus.bus.interrupts import threads_are_greenlets
from paste_wspbus.errors import BindError, WSPBusError
from paste_wspbus.listening.sockets import ListeningSocket
from paste_wspbus.servers.blocking import LOOK, PATIENCE, Answering, BlockingServer

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Any


class PyruvateServer(BlockingServer):
    """The adapter for ``use = egg:pyruvate#main``, with all of its settings.

    pyruvate opens its socket itself, and only SIGINT ends it: then it accepts no more,
    answers the requests in flight, and returns. In the main thread, it would keep Python
    from running signal handlers.
    """

    blocking = False
    priority = 75

    def __init__(
        self, server: Callable[[Any], object], name: str, conf: Mapping[str, str]
    ) -> None:
        super().__init__(server, name)
        #: It is HOST:PORT or a path, or '' if systemd passes the socket.
        self.address = conf.get('socket') or ''
        self._error: BaseException | None = None
        self._thread: threading.Thread | None = None

    def __call__(self, app: Any) -> None:
        """Serve ``app`` in a thread.

        :raises BindError: if pyruvate cannot bind the address.
        :raises CannotServe: if the site has patched Python.
        """
        if threads_are_greenlets():
            raise CannotServe
        before = _listening_sockets()
        self._answering = Answering(app, self.bus)
        self._thread = threading.Thread(
            target=self._run, args=(self._answering,), name='HTTP server', daemon=True
        )
        self._thread.start()
        while self.address and self._thread.is_alive() and not self.urls:
            time.sleep(LOOK)
            self.urls = tuple(map(_url_of, _listening_sockets() - before))
        if self._error is not None:
            raise BindError(self.address, str(self._error)) from self._error

    def _run(self, app: Any) -> None:
        try:
            self.server(app)
        except BaseException as error:
            self._error = error
            if self.bus.was_started:
                self.bus.log('The HTTP server failed', 40, traceback=True)
                self.bus.exit_code = 1
        if self._error is None or self.bus.was_started:
            self.bus.exit()

    def stop(self) -> None:
        """Stop pyruvate, and wait until the requests in flight are answered."""
        thread, bus = self._thread, self.bus
        if thread is None or self._answering is None:
            return
        self._thread = None
        if thread.is_alive():
            signals = bus.plugins.get('signals')
            if signals is not None and hasattr(signals, 'expect'):
                signals.expect(signal.SIGINT)  # it is not the operator's second signal
            with contextlib.suppress(KeyboardInterrupt):  # Python's own handler
                # In a thread of pyruvate's, it would interrupt a system call.
                main = threading.main_thread().ident or 0
                signal.pthread_kill(main, signal.SIGINT)
                time.sleep(0)
        patience = time.monotonic() + PATIENCE
        while thread.is_alive() and not bus.hurried:
            now = time.monotonic()
            if now > bus.deadline.cut_at:
                break
            if now > patience:
                patience = float('inf')
                waiting = len(bus.plugins.get('requests', ()))
                bus.log(f'Stopping: requests in flight: {waiting}', level=30)
            thread.join(LOOK)
        if thread.is_alive():
            self._answering.name_open_requests()


class CannotServe(WSPBusError):
    """The site has patched Python, and pyruvate would stop all its greenlets."""

    def __init__(self) -> None:
        super().__init__(
            'pyruvate cannot serve a site that gevent or eventlet has patched; '
            'use egg:waitress in [server:main]'
        )


def _listening_sockets() -> set[int]:
    """Return the descriptors of the sockets on which this process listens."""
    found = set()
    for fd in map(int, os.listdir('/dev/fd')):
        with contextlib.suppress(OSError):  # it is no socket
            sock = socket.socket(fileno=fd)
            try:
                if sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
                    found.add(fd)
            finally:
                sock.detach()
    return found


def _url_of(fd: int) -> str:
    with socket.socket(fileno=os.dup(fd)) as copy:
        return ListeningSocket(copy, owned=False).url()
