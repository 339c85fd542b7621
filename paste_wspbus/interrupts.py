"""Signals reach a main thread that sleeps, whichever thread the kernel gives them to."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    import socket
    from collections.abc import Callable
    from types import FrameType


class Interrupts:
    """``with Interrupts():`` in the main thread, around what sleeps.

    Python runs signal handlers in the main thread, but the kernel hands a
    signal to any thread, and then nothing wakes a main thread that sleeps. In a
    process that makes threads all the time, a third of all signals is lost so
    (Linux 6, CPython 3.11, also in signal.pause()). `signal.set_wakeup_fd` tells
    of every signal: a thread reads that, and interrupts the main thread's system
    call with SIGURG, which is ignored otherwise. What the site has set itself,
    wake-up descriptor or SIGURG's handler, stays.

    On Windows nothing interrupts a main thread that waits for a lock: there
    ``wake`` is called at every signal, to end the wait. Elsewhere than in a main
    thread it does nothing.

    :param urgent: called in the main thread by `poke`, on POSIX.
    :param wake: called in another thread, on Windows.
    """

    def __init__(
        self,
        urgent: Callable[[], None] | None = None,
        wake: Callable[[], None] | None = None,
    ) -> None:
        self._urgent = urgent
        self._wake = wake
        self._stack = contextlib.ExitStack()
        self._handled = True
        self._usual = False
        self._watching = False
        self._writer = -1
        self._main = 0

    def __enter__(self) -> Interrupts:
        if threading.current_thread() is not threading.main_thread():
            return self
        if os.name == 'nt':
            self._watch_on_windows()
            return self
        self._main = threading.get_ident()
        self._usual = signal.getsignal(signal.SIGURG) is signal.SIG_DFL
        if self._usual:
            signal.signal(signal.SIGURG, self._handle)
        reader, writer = os.pipe()
        os.set_blocking(writer, False)
        previous = signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
        if previous != -1:
            signal.set_wakeup_fd(previous)
            os.close(writer)
            os.close(reader)
            return self
        self._writer, self._watching = writer, True
        threading.Thread(
            target=self._watch, args=(reader,), name='wspbus signals', daemon=True
        ).start()
        return self

    def _watch_on_windows(self) -> None:
        import socket

        # Windows' select() and Python's set_wakeup_fd() take no pipes there.
        reader, writer = socket.socketpair()
        writer.setblocking(False)
        previous = signal.set_wakeup_fd(writer.fileno(), warn_on_full_buffer=False)
        if previous != -1 or self._wake is None:
            signal.set_wakeup_fd(previous)
            reader.close()
            writer.close()
            return
        self._stack.callback(writer.close)
        self._stack.callback(signal.set_wakeup_fd, -1)
        threading.Thread(
            target=self._watch_socket,
            args=(reader, self._wake),
            name='wspbus signals',
            daemon=True,
        ).start()

    def _watch_socket(self, reader: socket.socket, wake: Callable[[], None]) -> None:
        with reader:
            while reader.recv(512):
                wake()

    def __exit__(self, *_: object) -> None:
        self._main = 0
        self._stack.close()
        if self._watching:
            signal.set_wakeup_fd(-1)
            os.close(self._writer)
        if self._usual:
            signal.signal(signal.SIGURG, signal.SIG_DFL)

    def _watch(self, reader: int) -> None:
        while came := os.read(reader, 512):
            if set(came) != {signal.SIGURG}:
                self.poke()
        os.close(reader)

    def _handle(self, signum: int, frame: FrameType | None) -> None:
        self._handled = True
        if self._urgent is not None:
            self._urgent()

    def poke(self) -> None:
        """Have the main thread run its signal handlers now, and ``urgent``.

        From another thread. A signal that comes just before a system call does
        not end that: again, until the handler has run.
        """
        if not self._usual:
            return
        self._handled = False
        pause = 0.01
        while not self._handled and (main := self._main):
            signal.pthread_kill(main, signal.SIGURG)
            time.sleep(pause)
            pause = min(pause * 2, 0.5)
