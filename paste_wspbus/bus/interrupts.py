"""The wake-up of a sleeping main thread at a signal that the kernel delivers to any thread."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from types import BuiltinFunctionType

from paste_wspbus.streams import restore_deleted

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from types import FrameType
    from typing import ClassVar, TypeVar

    T = TypeVar('T')


#: Seconds after which the main thread counts as unable to run signal handlers; and the
#: seconds that it gets for later signals, as long as it does not run them.
UNHEARD, DEAF = 1.0, 0.005


def in_main_thread() -> bool:
    """Whether this is the main thread; in it Python runs signal handlers.

    This compares the name of its class: eventlet gives the thread a second object, whose
    class comes from a second copy of the module.
    """
    return type(threading.current_thread()).__name__ == '_MainThread'


def inside(
    context: contextlib.AbstractContextManager[object], work: Callable[[], T]
) -> T:
    """Enter a context, call ``work``, leave the context, and return the result of ``work``.

    At the end of a ``with`` block, a signal handler can raise before the first step of
    ``__exit__``. So this calls ``__exit__`` twice, as `Turn.hold` does. The second call must
    do nothing, also if ``__enter__`` has not begun.
    """
    try:
        try:
            context.__enter__()
            result = work()
        finally:
            context.__exit__(None, None, None)
    finally:
        context.__exit__(None, None, None)
    return result


def start_thread(thread: threading.Thread) -> None:
    """Start a thread; raise what a signal handler raises, and not Python's RuntimeError.

    `Thread.start` waits for the thread. If a signal handler raises while the lock of this
    wait is free, Python fails to release it.
    """
    try:
        thread.start()
    except RuntimeError as error:
        if isinstance(error.__context__, (KeyboardInterrupt, SystemExit)):
            raise error.__context__ from None
        raise


def threads_are_greenlets() -> bool:
    """Whether `threading` starts greenlets (gevent, eventlet) in this process."""
    return not isinstance(threading.get_ident, BuiltinFunctionType)


class Interrupts:
    """``inside(Interrupts(), sleep)`` stands around a sleep of the main thread.

    Why a signal is not lost. Python runs signal handlers in the main thread (the
    `signal` module), but the kernel may deliver a signal to any thread (signal(7)), and
    then nothing wakes a main thread that sleeps. In a process that makes threads all
    the time, a third of all signals was lost in this way (measured on Linux 6 with
    CPython 3.11, also in signal.pause()). But each signal writes a byte to the
    descriptor of `signal.set_wakeup_fd`, whichever thread gets it. A thread of this
    class reads that descriptor, and interrupts the system call of the main thread with
    SIGURG, which a process ignores by default. Then the main thread runs all handlers
    that are due. The thread repeats SIGURG until its handler has run, because a signal
    that comes just before a system call does not end that call. If the site has set a
    wake-up descriptor or a handler of SIGURG itself, the site keeps it, and this class
    interrupts nothing.

    On Windows nothing interrupts a main thread that waits for a lock: there this class
    calls ``wake`` at every signal, to end the wait. In a thread other than the main
    thread, the ``with`` block does nothing.

    :param urgent: is called in the main thread after each `poke`, on POSIX.
    :param wake: is called in another thread at each signal, on Windows.
    :param unheard: is called in another thread with the number of a signal whose handler
        the main thread has not run within `UNHEARD` seconds: it may be in code that
        never returns to Python. Without ``unheard``, `poke` waits without a limit.
    """

    #: All objects that are entered; the wake-up descriptor belongs to the whole process.
    _entered: ClassVar[list[Interrupts]] = []

    def __init__(
        self,
        urgent: Callable[[], None] | None = None,
        wake: Callable[[], None] | None = None,
        unheard: Callable[[int], object] | None = None,
    ) -> None:
        self._urgent, self._unheard = urgent, unheard
        self._wake = wake
        self._stack = contextlib.ExitStack()
        self._handled = True
        self._usual = False
        self._writer = -1
        self._main = 0
        self._is_deaf = False

    def __enter__(self) -> Interrupts:
        if not in_main_thread():
            return self
        try:
            if os.name == 'nt':
                from paste_wspbus.bus.windows import watch_signals

                watch_signals(self._wake, self._stack)
            else:
                self._watch_signals()
            return self
        except BaseException:
            self.__exit__()
            raise

    def _watch_signals(self) -> None:
        self._main = threading.get_ident()
        self._usual = signal.getsignal(signal.SIGURG) is signal.SIG_DFL
        if self._usual:
            signal.signal(signal.SIGURG, self._handle)
        try:
            reader, self._writer = os.pipe()
        except OSError:  # no descriptor is free: as without the thread, see below
            return
        os.set_blocking(self._writer, False)
        previous = signal.set_wakeup_fd(self._writer, warn_on_full_buffer=False)
        if previous != -1:
            signal.set_wakeup_fd(previous)
            os.close(reader)
            self._close_writer()
            return
        self._entered.append(self)
        restore_deleted()  # a request may have deleted them since the start
        thread = threading.Thread(
            target=self._watch, args=(reader,), name='wspbus signals', daemon=True
        )
        try:
            start_thread(thread)
        except RuntimeError:
            # The system starts no more threads. The site must not end for that: the kernel
            # gives most signals to the main thread, if that can take them.
            self._entered.remove(self)
            signal.set_wakeup_fd(-1)
            self._close_writer()
            os.close(reader)

    def __exit__(self, *_: object) -> None:
        try:
            self._leave()
        finally:
            self._leave()  # if an interrupt has come in the first call

    def _leave(self) -> None:
        self._main = 0
        self._stack.close()
        if self._writer != -1:
            signal.set_wakeup_fd(-1)
            self._close_writer()
        if self in self._entered:
            self._entered.remove(self)
        if self._usual:
            signal.signal(signal.SIGURG, signal.SIG_DFL)
            self._usual = False

    def _close_writer(self) -> None:
        writer, self._writer = self._writer, -1
        if writer != -1:
            os.close(writer)

    @classmethod
    def renew_all(cls) -> None:
        """Set the wake-up descriptor again if other code has removed it, as asyncio does.

        If that code has set another descriptor, this keeps it. The main thread calls this.
        """
        for one in cls._entered:
            one.renew()

    def renew(self) -> None:
        """Set the wake-up descriptor of this object again; see `renew_all`."""
        now = signal.set_wakeup_fd(self._writer, warn_on_full_buffer=False)
        if now not in (-1, self._writer):
            signal.set_wakeup_fd(now)

    def _watch(self, reader: int) -> None:
        while came := os.read(reader, 512):
            numbers = set(came) - {signal.SIGURG}
            if numbers and not self.poke() and self._unheard is not None:
                for number in numbers:
                    self._unheard(number)
        os.close(reader)

    def _handle(self, signum: int, frame: FrameType | None) -> None:
        self._handled = True
        if self._urgent is not None:
            self._urgent()

    def poke(self) -> bool:
        """Make the main thread run its signal handlers and ``urgent`` now.

        Another thread calls this. It returns when the handler of SIGURG has run in the
        main thread, or when the ``with`` block has ended.

        :returns: False if neither happened within `UNHEARD` seconds, and there is an
            ``unheard`` to call.
        """
        if not self._usual:
            return True
        self._handled = False
        pause, until = 0.01, float('inf')
        if self._unheard is not None:
            # Each signal ends a system call of the main thread: do not send many.
            until = time.monotonic() + (DEAF if self._is_deaf else UNHEARD)
        while not self._handled and (main := self._main):
            if time.monotonic() > until:
                self._is_deaf = True
                return False
            signal.pthread_kill(main, signal.SIGURG)
            time.sleep(pause)
            pause = min(pause * 2, 0.5)
        self._is_deaf = False
        return True
