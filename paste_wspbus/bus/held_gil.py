"""The end of a process whose stop holds the GIL: a timer that needs no GIL ends the process."""

from __future__ import annotations

import os
import sys
import threading
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

#: Seconds from a deadline to this timer: a thread that gets the GIL ends the process better.
MARGIN = 0.5

#: The time.monotonic() at which this timer ends the process; None if it is not set.
_until: float | None = None
_watches_forks = False


def end_process_after(seconds: float) -> Callable[[], None]:
    """End the process later, with exit code 1 and all stacks, unless this is cancelled.

    `faulthandler.dump_traceback_later` does it in a thread of its own, which needs no
    GIL. A process has only one such timer. If the site has set it, this does nothing.

    :returns: a function that cancels it.
    """
    global _until, _watches_forks
    if _until is None and _is_taken():
        return lambda: None
    if not _watches_forks and hasattr(os, 'register_at_fork'):
        _watches_forks = True
        # When a child ends, it would wait for the timer's thread, which it does not have.
        os.register_at_fork(before=_stop, after_in_parent=_set, after_in_child=_forget)
    _until = time.monotonic() + seconds
    _set()
    return _cancel


def _set() -> None:
    import faulthandler

    if _until is None:
        return
    seconds = max(_until - time.monotonic(), 0.001)
    try:
        faulthandler.dump_traceback_later(seconds, exit=True, file=2)
    except (OSError, OverflowError, RuntimeError, ValueError):
        _forget()  # it cannot be set here


def _stop() -> None:
    if _until is not None:
        import faulthandler

        faulthandler.cancel_dump_traceback_later()


def _forget() -> None:
    global _until
    _until = None


def _cancel() -> None:
    _stop()
    _forget()


def _is_taken() -> bool:
    """Whether other code may have set the timer: Python has no function for this.

    It is not set if `faulthandler` was not imported. On Linux, its thread is not one of
    Python's, and it blocks all signals (faulthandler.c: faulthandler_thread).
    """
    if 'faulthandler' not in sys.modules:
        return False
    # The main thread of eventlet has no native_id; its number is that of the process.
    known = {str(getattr(thread, 'native_id', '')) for thread in threading.enumerate()}
    known.add(str(os.getpid()))
    try:
        tasks = set(os.listdir('/proc/self/task')) - known
        return any(_blocks_all_signals(task) for task in tasks)
    except OSError:
        return True  # nobody can know


def _blocks_all_signals(task: str) -> bool:
    try:
        with open(f'/proc/self/task/{task}/status') as file:
            blocked = next(line for line in file if line.startswith('SigBlk:'))
    except (OSError, StopIteration):
        return False  # the thread has ended
    # Nobody can block SIGKILL and SIGSTOP, nor a few signals of the C library.
    return int(blocked.split()[1], 16).bit_count() > 55
