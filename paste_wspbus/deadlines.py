"""Time limits of listeners and of whole transitions, and the stacks that a late one is shown with."""

from __future__ import annotations

import signal
import sys
import threading

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from types import FrameType, TracebackType


class Cut(BaseException):
    """Raised inside a listener that is over its time.

    A BaseException, so that a listener's own ``except Exception`` lets it out.
    """


def stack_of(thread: threading.Thread) -> str:
    """The stack of one thread, as a traceback prints it; '' when it has none."""
    frame = sys._current_frames().get(thread.ident or 0)
    return _format(frame) if frame else ''


def stacks() -> str:
    """The stacks of all threads, each under its thread's name."""
    frames = sys._current_frames()
    named = {thread.ident: thread.name for thread in threading.enumerate()}
    return '\n'.join(
        f'Thread {named.get(ident, ident)}:\n{_format(frame)}'
        for ident, frame in frames.items()
    )


def _format(frame: FrameType) -> str:
    import traceback

    return ''.join(traceback.format_stack(frame)).rstrip()


def can_cut() -> bool:
    """Whether this thread can be interrupted by SIGALRM without taking it from the app.

    Only the main thread runs signal handlers (``signal`` module), Windows has
    no SIGALRM, and an app that set a handler or a timer of its own keeps it.
    """
    return (
        hasattr(signal, 'setitimer')
        and threading.current_thread() is threading.main_thread()
        and signal.getsignal(signal.SIGALRM) is signal.SIG_DFL
        and signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)
    )


#: Seconds between one SIGALRM and the next: the kernel may give one to a thread
#: other than the main one, which then sleeps on.
AGAIN = 0.05


class TimeLimit:
    """``with TimeLimit(seconds, late) as limit:`` bounds what stands inside it.

    Where this thread can be cut, `Cut` is raised inside the block and
    ``limit.stack`` says where it was; elsewhere ``late(stack)`` is called by
    another thread while the block goes on. ``limit.expired`` is true in both.

    :param may_cut: False where signals are somebody else's.
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
        # == because each look at a bound method makes a new one.
        mine = signal.getsignal(signal.SIGALRM) == self._alarm
        if mine or abs(signal.getitimer(signal.ITIMER_REAL)[1] - AGAIN) < 1e-6:
            signal.setitimer(signal.ITIMER_REAL, 0)  # it is ours, not the listener's
        if mine:
            signal.signal(signal.SIGALRM, signal.SIG_DFL)

    def _alarm(self, signum: int, frame: FrameType | None) -> None:
        # Nothing is logged in here: the interrupted code may hold a lock of the log's.
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
    """Have ``function`` called by a thread that does not keep the process alive.

    At the end of the process no thread can be had any more (Python 3.12): then
    by SIGALRM, where that is free.

    :param may_alarm: False where signals are somebody else's.
    :returns: what cancels it.
    """
    timer = threading.Timer(seconds, function)
    timer.name, timer.daemon = 'wspbus time limit', True
    try:
        timer.start()
    except RuntimeError:
        may_alarm = may_alarm and can_cut()
        return _alarm_after(seconds, function) if may_alarm else lambda: None
    return timer.cancel


def _alarm_after(seconds: float, function: Callable[[], None]) -> Callable[[], None]:
    def cancel() -> None:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, signal.SIG_DFL)

    signal.signal(signal.SIGALRM, lambda *_: function())
    signal.setitimer(signal.ITIMER_REAL, seconds, AGAIN)
    return cancel
