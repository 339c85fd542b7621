"""The threads at the end of the process: which are waited for, how long, and which are late."""

from __future__ import annotations

import contextlib
import sys
import threading
import time

from paste_wspbus.bus.deadlines import stack_of
from paste_wspbus.bus.interrupts import in_main_thread

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Generator

#: Seconds that threads have to end before the log names them: most end at once.
SOON = 0.05

#: Seconds between two checks whether to skip the wait.
LOOK = 0.1

#: The time.monotonic() since which this process waits for threads; None if it does not.
waits_since: float | None = None


def join_threads(
    seconds: float, log: Callable[..., object], is_hurried: Callable[[], bool]
) -> list[threading.Thread]:
    """Wait until all threads that are not daemons have ended.

    A thread of `concurrent.futures` without work counts as ended: it only waits until
    Python ends. The log names each other thread. A KeyboardInterrupt ends the wait.

    :param seconds: the time for all of them together.
    :param log: is called as `Bus.log`.
    :param is_hurried: returns whether to skip the wait.
    :returns: the threads that still run.
    """
    began = time.monotonic()
    until = began + seconds
    waited = [thread for thread in threads_that_count() if not _is_idle(thread)]
    with _waiting(), contextlib.suppress(KeyboardInterrupt):
        for thread in waited:
            log(f'Waiting for thread {thread.name}.')
            while _works(thread) and time.monotonic() < until and not is_hurried():
                thread.join(min(LOOK, max(0, until - time.monotonic())))
    running = [thread for thread in waited if _works(thread)]
    _name(running, began, log)
    return running


def end_threads(
    seconds: float, log: Callable[..., object], is_hurried: Callable[[], bool]
) -> list[threading.Thread]:
    """End all threads that are not daemons, as Python does at its end, within a time limit.

    The main thread of a process that is about to end calls this. The steps are those
    of `threading._shutdown`: call the functions of `threading._register_atexit` (they
    end the threads of `concurrent.futures`); make the main thread count as ended
    (other threads wait for that); join. Then Python has nothing to wait for at its end.

    The arguments and the result are those of `join_threads`. The log names only
    threads that do not end at once.
    """
    began = time.monotonic()
    soon, until, named = began + SOON, began + max(seconds, SOON), set()
    caller = _call_registered(log)
    with _waiting(), contextlib.suppress(KeyboardInterrupt):
        while (now := time.monotonic()) < until and (now < soon or not is_hurried()):
            if not caller.is_alive():
                _end_main_thread()
            waited = [
                thread
                for thread in (caller, *threads_that_count())
                if thread.is_alive()
            ]
            if not waited:
                return []
            if now >= soon:
                for thread in waited:
                    if thread is not caller and thread not in named:
                        named.add(thread)
                        log(f'Waiting for thread {thread.name}.')
            pause = soon - now if now < soon else min(LOOK, until - now)
            waited[0].join(pause)
    _end_main_thread()
    running = threads_that_count() or [caller] * caller.is_alive()
    _name(running, began, log)
    return running


def threads_that_count() -> list[threading.Thread]:
    """Return the threads that keep a process from ending: no daemon threads, not this one."""
    return [
        thread
        for thread in threading.enumerate()
        if thread is not threading.current_thread()
        and type(thread).__name__ != '_MainThread'  # eventlet makes a second one
        and not thread.daemon
    ]


def _works(thread: threading.Thread) -> bool:
    return thread.is_alive() and not _is_idle(thread)


def _is_idle(thread: threading.Thread) -> bool:
    """Whether it is a thread of `concurrent.futures` that has no work."""
    module = sys.modules.get('concurrent.futures.thread')
    queue = getattr(module, '_threads_queues', {}).get(thread)
    if queue is not None:
        frame = sys._current_frames().get(thread.ident or 0)
        loop = getattr(getattr(module, '_worker', None), '__code__', None)
        return frame is not None and frame.f_code is loop and queue.empty()
    module = sys.modules.get('concurrent.futures.process')
    if thread in getattr(module, '_threads_wakeups', ()):
        return not getattr(thread, 'pending_work_items', True)
    return False


def _call_registered(log: Callable[..., object]) -> threading.Thread:
    """Call the functions of `threading._register_atexit` in a thread, because one may hang.

    This calls each of them once, the last registered first. No more functions can be
    registered from now on.
    """
    functions = getattr(threading, '_threading_atexits', [])
    threading._SHUTTING_DOWN = True  # type: ignore[attr-defined]

    def call_all() -> None:
        while functions:
            try:
                functions.pop()()
            except BaseException:
                log('Error at the end of the threads', level=40, traceback=True)

    caller = threading.Thread(target=call_all, name='threading._register_atexit')
    caller.daemon = True
    if functions:
        try:
            caller.start()
        except RuntimeError:  # the system starts no more threads
            call_all()
    return caller


def _end_main_thread() -> None:
    """Make the main thread count as ended, as the `threading._shutdown` of each Python does.

    If a later Python has none of these attributes, it does this itself when it ends.
    """
    main = threading.main_thread()
    if not in_main_thread() or not main.is_alive():
        return
    # Greenlets have objects of their own there (gevent, eventlet).
    with contextlib.suppress(AttributeError, AssertionError, RuntimeError):
        if hasattr(main, '_tstate_lock'):  # until Python 3.12
            main._tstate_lock.release()
            main._stop()  # type: ignore[attr-defined]
        elif hasattr(main, '_handle'):  # Python 3.13
            main._handle._set_done()
        else:
            main._os_thread_handle._set_done()  # type: ignore[attr-defined]


@contextlib.contextmanager
def _waiting() -> Generator[None]:
    global waits_since
    waits_since = time.monotonic()
    try:
        yield
    finally:
        waits_since = None


def _name(
    running: list[threading.Thread], began: float, log: Callable[..., object]
) -> None:
    seconds = time.monotonic() - began
    for thread in running:
        log(
            f'Thread {thread.name} did not end within {seconds:.1f} s:\n'
            f'{stack_of(thread)}',
            level=30,
        )
