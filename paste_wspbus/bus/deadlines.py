"""Time limits of listeners and of whole transitions, and the stacks that show what is late."""

from __future__ import annotations

import functools
import signal
import sys
import threading
import time

from paste_wspbus.bus.held_gil import MARGIN, end_process_after
from paste_wspbus.bus.interrupts import in_main_thread, start_thread

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from types import FrameType, TracebackType
    from typing import Any

    from paste_wspbus.bus.host import Host


class Cut(BaseException):
    """This is raised inside a listener that takes longer than its timeout.

    It is a BaseException, so that an ``except Exception`` in the listener does not catch it.
    """


def stack_of(thread: threading.Thread) -> str:
    """Return the stack of one thread, as a traceback prints it; '' if the thread has ended."""
    frame = sys._current_frames().get(thread.ident or 0)
    return _format(frame) if frame else ''


def stacks(requests: dict[int, str] | None = None, without: int = 0) -> str:
    """Return the stacks of all threads, each under the name of its thread.

    :param requests: what to show with the name, by the ident of the thread.
    :param without: the ident of a thread that is left out.
    """
    frames = sys._current_frames()
    names = {thread.ident: thread.name for thread in threading.enumerate()}
    return '\n'.join(
        f'Thread {names.get(ident, ident)}{(requests or {}).get(ident, "")}:\n{_format(frame)}'
        for ident, frame in frames.items()
        if ident != without
    )


def _format(frame: FrameType) -> str:
    import traceback

    return ''.join(traceback.format_stack(frame)).rstrip()


def can_cut() -> bool:
    """Whether SIGALRM can interrupt this thread, and the site does not use it itself.

    Only the main thread runs signal handlers (the `signal` module), and Windows has no
    SIGALRM. If the site has set a handler of SIGALRM or a timer, the bus does not touch it.
    """
    return (
        hasattr(signal, 'setitimer')
        and in_main_thread()
        and signal.getsignal(signal.SIGALRM) is signal.SIG_DFL
        and signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)
    )


#: Seconds between one SIGALRM and the next. SIGALRM is repeated because the kernel may
#: deliver it to another thread; then the main thread would continue to sleep.
AGAIN = 0.05


class TimeLimit:
    """``inside(TimeLimit(seconds, late), work)`` limits the time of ``work``.

    If this thread can be cut (`can_cut`), `Cut` is raised inside ``work``, and
    ``limit.stack`` is the stack at that moment. Otherwise another thread calls
    ``late(stack)``, and ``work`` continues. In both cases ``limit.expired`` becomes True.

    :param seconds: the time limit; at least 0.001.
    :param late: is called with the stack as a text.
    :param may_cut: False if the signals of the process do not belong to the bus.
    """

    def __init__(
        self, seconds: float, late: Callable[[str], None], may_cut: bool = True
    ) -> None:
        self.expired = False
        self._may_cut = may_cut
        self.stack = ''
        self._seconds = max(seconds, 0.001)
        self._late = late
        self._done = False
        self._thread = threading.current_thread()
        self._cancel: Callable[[], None] | None = None

    def __enter__(self) -> TimeLimit:
        if self._may_cut and can_cut():
            signal.signal(signal.SIGALRM, self._alarm)
            signal.setitimer(signal.ITIMER_REAL, self._seconds, AGAIN)
        else:
            self._cancel = call_after(self._seconds, self._watch)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._done = True
        if self._cancel is not None:
            self._cancel()
            return
        # == because each access to a method makes a new bound method.
        mine = signal.getsignal(signal.SIGALRM) == self._alarm
        if mine or abs(signal.getitimer(signal.ITIMER_REAL)[1] - AGAIN) < 1e-6:
            signal.setitimer(signal.ITIMER_REAL, 0)  # it is ours, not the listener's
        if mine:
            signal.signal(signal.SIGALRM, signal.SIG_DFL)

    def _alarm(self, signum: int, frame: FrameType | None) -> None:
        # Nothing is logged here: the interrupted code may hold a lock of the log.
        if not self._done:
            self._done = self.expired = True
            self.stack = _format(frame) if frame else ''
            raise Cut

    def _watch(self) -> None:
        if not self._done:
            self.expired = True
            self._late(stack_of(self._thread))


def call_after(
    seconds: float, function: Callable[[], None], may_alarm: bool = True
) -> Callable[[], None]:
    """Call ``function`` later, in a thread that does not keep the process alive.

    When the process ends, Python 3.12 and later start no more threads. Then the handler
    of SIGALRM calls it, if `can_cut` allows that.

    :param seconds: the time until the call.
    :param may_alarm: False if the signals of the process do not belong to the bus.
    :returns: a function that cancels the call.
    """
    timer = threading.Timer(seconds, function)
    timer.name, timer.daemon = 'wspbus time limit', True
    with_rlock(timer.finished)  # for cancel()
    try:
        start_thread(timer)
    except RuntimeError:
        may_alarm = may_alarm and can_cut()
        return _alarm_after(seconds, function) if may_alarm else lambda: None
    return timer.cancel


def with_rlock(event: threading.Event) -> threading.Event:
    """Give an Event a lock that the thread that holds it can take again; return the Event.

    If an interrupt comes in `set` or `clear`, the thread gives the lock back; otherwise all
    others would wait for it. gevent's Events, which take the place of Python's in a patched
    site, have no lock.
    """
    if hasattr(event, '_cond'):
        event._cond = threading.Condition()
        event.set = functools.partial(_change, event._cond._lock, event.set)  # type: ignore[method-assign]
        event.clear = functools.partial(_change, event._cond._lock, event.clear)  # type: ignore[method-assign]
    return event


def _change(lock: Any, change: Callable[[], None]) -> None:
    # A signal handler may run this in the middle of a change.
    is_outer = lock._is_owned()
    try:
        change()
    finally:
        if lock._is_owned() and not is_outer:
            lock.release()


def reserve_of(limit: float, reserve: float | None) -> float:
    """Return the seconds of a stop that are reserved for the parts that stop after the server.

    :param limit: the seconds of the whole stop.
    :param reserve: the seconds that the site asks for. The result is at least a second,
        or a tenth of a limit below ten seconds. None stands for a fifth of the limit, but
        at least a second, and at most half of the limit.
    """
    if reserve is None:
        return min(max(limit / 5, 1.0), limit / 2)
    return min(max(reserve, min(limit / 10, 1.0)), limit)


#: Seconds that each step after the stop has at least, even if the stop used all its time.
LEAST = 0.5


class Deadline:
    """The time that a whole stop may take: drain, stop and exit together.

    ``until`` is the time.monotonic() at which it is over. ``cut_at`` is the
    time.monotonic() at which the server cuts the requests that are still open, so that
    the rest of the site has time to stop. Both are infinite if there is no limit.
    """

    def __init__(self) -> None:
        #: The functions that cancel the timers of the present stop; None if there is no
        #: limit.
        self._cancels: list[Callable[[], None]] | None = None
        self.until = self.cut_at = float('inf')
        #: The time.monotonic() at which the last deadline is over.
        self.over_at = float('inf')
        #: Whether the process ends by force, because the deadline is over.
        self.is_over = False

    def shorten(self, seconds: float) -> float:
        """Return ``seconds``, or fewer if fewer remain until ``cut_at``."""
        return max(min(seconds, self.cut_at - time.monotonic()), 0)

    def begin(self, seconds: float | None, reserve: float | None) -> None:
        """Count the time from now, unless it is counted already.

        :param seconds: the time limit; None stands for no limit.
        :param reserve: see `reserve_of`.
        """
        if seconds is not None and self.until == float('inf'):
            self.until = time.monotonic() + seconds
            self.cut_at = self.until - reserve_of(seconds, reserve)

    def within(
        self,
        work: Callable[[], None],
        seconds: float | None,
        reserve: float | None,
        late: Callable[[str], None],
        host: Host,
    ) -> None:
        """Call ``work``, and call ``late`` with a text if it takes longer than ``seconds``.

        Inside the ``work`` of another call it limits nothing: the outer call limits both.

        :param seconds: the time limit; None stands for no limit.
        :param reserve: see `reserve_of`.
        :param host: says whether the bus may use SIGALRM. It also says whether no other
            process ends this one if the block holds the GIL, so that ``late`` cannot run.
        """
        if seconds is None or self._cancels is not None:
            work()
            return
        why = f'The site did not stop within {seconds:g} s'
        cancels: list[Callable[[], None]] = []

        def over() -> None:
            if self._cancels is cancels:
                self.is_over = True
                late(why)

        try:
            try:
                self._cancels, self.is_over = cancels, False
                self.begin(seconds, reserve)
                self.over_at = self.until
                remaining = max(self.until - time.monotonic(), 0)
                cancels.append(call_after(remaining, over, host.owns_alarm))
                if host.is_alone:
                    cancels.append(end_process_after(remaining + MARGIN))
                work()
            finally:
                self._end(cancels)
        finally:
            self._end(cancels)  # if an interrupt has come in the first call

    def _end(self, cancels: list[Callable[[], None]]) -> None:
        self._cancels = None
        self.until = self.cut_at = float('inf')
        for cancel in () if self.is_over else cancels:
            cancel()

    def time_for(self, seconds: float) -> float:
        """Return ``seconds``, or fewer if the last deadline is nearer, but at least LEAST."""
        return min(seconds, max(self.over_at - time.monotonic(), LEAST))


def _alarm_after(seconds: float, function: Callable[[], None]) -> Callable[[], None]:
    def cancel() -> None:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, signal.SIG_DFL)

    signal.signal(signal.SIGALRM, lambda *_: function())
    signal.setitimer(signal.ITIMER_REAL, seconds, AGAIN)
    return cancel
