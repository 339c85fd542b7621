"""Timers: threads that call functions at intervals."""

from __future__ import annotations

import sys
import threading
from time import monotonic

from paste_wspbus.bus import State
from paste_wspbus.bus.channels import name_of
from paste_wspbus.bus.deadlines import stack_of
from paste_wspbus.plugins import Plugin, on

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from typing import Any

    from paste_wspbus.bus import Bus


class PerpetualTimer(threading.Timer):
    """A `threading.Timer` that calls its function again and again, until `cancel`.

    It calls the function every ``interval`` seconds, even if a call takes long. If a call
    takes longer than the interval, the calls that were due meanwhile are skipped. A
    failure is logged on the bus (without a bus, by `threading.excepthook`), and counted
    in ``failures``.

    :param interval: seconds between two calls.
    :param args: together with ``kwargs``, the arguments of each call.
    :param stop_on_error: whether the first failure ends the thread.
    """

    def __init__(
        self,
        interval: float,
        function: Callable[..., object],
        args: Iterable[Any] | None = None,
        kwargs: Mapping[str, Any] | None = None,
        bus: Bus | None = None,
        *,
        stop_on_error: bool = False,
    ) -> None:
        super().__init__(interval, function, args, kwargs)
        self.name = name_of(function)
        self.bus, self.stop_on_error = bus, stop_on_error
        self.failures = 0

    @property
    def running(self) -> bool:
        """Whether there will be another call."""
        return self.is_alive() and not self.finished.is_set()

    def run(self) -> None:
        """Call the function at intervals until `cancel` is called, or was called before."""
        due = monotonic()
        try:
            while True:
                due = next_turn(due, self.interval, monotonic())
                if self.finished.wait(due - monotonic()):
                    return
                self._take_turn()
        finally:
            self.finished.set()

    def _take_turn(self) -> None:
        try:
            self.function(*self.args, **self.kwargs)
        except SystemExit:
            self.finished.set()  # SystemExit ends a thread
        except Exception:
            self.failures += 1
            if self.stop_on_error:
                self.finished.set()
            self._report()

    def _report(self) -> None:
        if self.bus is None:
            threading.excepthook(threading.ExceptHookArgs((*sys.exc_info(), self)))
            return
        outcome = 'it ends' if self.stop_on_error else 'it continues'
        self.bus.log(f'Error in thread {self.name!r}: {outcome}', 40, traceback=True)


class BackgroundTask(PerpetualTimer):
    """A `PerpetualTimer` that does not keep the process alive."""

    def __init__(
        self,
        interval: float,
        function: Callable[..., object],
        args: Iterable[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
        bus: Bus | None = None,
        *,
        stop_on_error: bool = False,
    ) -> None:
        super().__init__(
            interval, function, args, kwargs, bus, stop_on_error=stop_on_error
        )
        self.daemon = True


def next_turn(due: float, interval: float, now: float) -> float:
    """Return the time of the call that follows the call at ``due``.

    If that time has passed already, it is the next one in the same rhythm.

    :param due: seconds of the same clock as ``now`` and the result.
    :param interval: seconds between two calls.
    """
    due += interval
    if due < now and interval > 0:
        due += ((now - due) // interval + 1) * interval
    return due


class Monitor(Plugin):
    """Calls ``callback`` every ``frequency`` seconds, in its own thread.

    ``failures`` is the number of calls that have failed; each failure is logged.
    ``thread`` is a `BackgroundTask`, or None. A new ``callback`` takes effect at once, a
    new ``frequency`` at the next start or graceful.

    :param frequency: seconds between two calls; if 0 or less, there is no thread.
    :param name: the name of the thread; that of the callback if None.
    :param stop_on_error: whether the first failure ends the thread.
    """

    #: Seconds that `stop` waits for a call that has begun.
    join_timeout: float = 5

    def __init__(
        self,
        bus: Bus,
        callback: Callable[[], object],
        frequency: float = 60,
        name: str | None = None,
        *,
        stop_on_error: bool = False,
    ) -> None:
        super().__init__(bus)
        self.callback, self.frequency, self.name = callback, frequency, name
        self.stop_on_error = stop_on_error
        self.failures = 0
        self.thread: BackgroundTask | None = None
        self._lock = threading.RLock()

    @on('start', priority=70)
    def start(self) -> None:
        """Start the thread, if it does not run.

        :raises RuntimeError: if the system cannot start a thread.
        """
        if self.frequency <= 0:
            return
        name = self.name or name_of(self.callback)
        with self._lock:
            # A thread that failed does not run; nor does, in a forked child, the thread of
            # its parent.
            if self.thread is not None and self.thread.is_alive():
                self.bus.log(f'Monitor thread {name!r} already started.')
                return
            self.thread = self._begin(name)

    def _begin(self, name: str) -> BackgroundTask | None:
        task = BackgroundTask(
            self.frequency, self._call, bus=self.bus, stop_on_error=self.stop_on_error
        )
        task.name = name
        try:
            task.start()
        except RuntimeError as error:
            # When the process ends, Python 3.12 and later start no more threads.
            if 'shutdown' not in str(error):
                raise
            self.bus.log(f'Monitor thread {name!r} not started: {error}.')
            return None
        self.bus.log(f'Started monitor thread {name!r}.')
        return task

    def _call(self) -> None:
        try:
            self.callback()
        except Exception:
            self.failures += 1
            raise

    @on('stop')
    def stop(self) -> None:
        """Stop the thread, and wait for its end, unless the thread itself calls this.

        If it has not ended after ``join_timeout`` seconds, its stack is logged.
        """
        with self._lock:
            task, self.thread = self.thread, None
        if task is None:
            return
        task.cancel()
        if task is not threading.current_thread():
            task.join(0 if self.bus.hurried else self.join_timeout)
            if task.is_alive():
                self.bus.log(
                    f'Thread {task.name!r} does not end; it still runs here:\n'
                    f'{stack_of(task)}',
                    level=40,
                )
                return
        self.bus.log(f'Stopped thread {task.name!r}.')

    @on('graceful')
    def graceful(self) -> None:
        """Stop the thread and start a new one."""
        with self._lock:  # the callback may call this while start() still runs
            wanted = self.thread is not None or self.bus.state is State.STARTED
        self.stop()
        if wanted:
            self.start()
