"""The end of the process: exit codes, threads that still run, a bus that was not stopped."""

from __future__ import annotations

import atexit
import contextlib
import os
import sys
import threading
import time
from _queue import Empty
from _thread import allocate_lock, start_new_thread

# A stop must not import: no descriptor may be free, and the files may be a newer release's.
from paste_wspbus.bus import held_gil, joining
from paste_wspbus.bus.channels import ChannelFailures
from paste_wspbus.bus.deadlines import call_after
from paste_wspbus.bus.host import host_of
from paste_wspbus.bus.states import State
from paste_wspbus.errors import WSPBusError
from paste_wspbus.exits import EX_SOFTWARE
from paste_wspbus.streams import flush_streams

TYPE_CHECKING = False
if TYPE_CHECKING:
    from _thread import LockType

    from paste_wspbus.bus.bus import Bus

#: Seconds that a forced end takes at most, with its log and the handlers of atexit.
GIVE_UP = 2.0

#: Seconds beyond the time for its threads until a process ends whose threads hold the GIL.
THREADS_MARGIN = 1.0

_running: set[Bus] = set()
_handlers_claimed = threading.RLock()
_at_exit_registered = False


def join_threads(bus: Bus) -> list[threading.Thread]:
    """See `Bus.join_threads`."""
    return joining.join_threads(bus.join_timeout, bus.log, lambda: bus.hurried)


def end_threads(bus: Bus) -> list[threading.Thread]:
    """End the threads of a process that ends now: see `joining.end_threads`.

    They have ``bus.join_timeout`` seconds, or fewer if the deadline of the stop is nearer.

    :returns: the threads that still run.
    """
    exit_all()
    seconds = bus.deadline.time_for(bus.join_timeout)
    if not host_of(bus).is_alone:
        return joining.end_threads(seconds, bus.log, lambda: bus.hurried)
    # One of them may hold the GIL, and this thread would wait for it for ever.
    cancel = held_gil.end_process_after(seconds + THREADS_MARGIN)
    try:
        return joining.end_threads(seconds, bus.log, lambda: bus.hurried)
    finally:
        cancel()


def claim_exit_handlers() -> None:
    """Make this thread the only one that runs the handlers of atexit: the process ends.

    If another thread has claimed them, that thread ends the process, and this one waits.
    """
    if not _handlers_claimed.acquire(blocking=False):
        time.sleep(GIVE_UP)


def force_exit(bus: Bus, why: str, runs_handlers: bool) -> None:
    """Log ``why``, what does not end, all stacks and the status; then exit with EX_SOFTWARE.

    This ends the process (`os._exit`) within GIVE_UP seconds. If the log hangs, ``why`` goes
    straight to standard error, with the stacks.

    :param why: a sentence without a full stop.
    :param runs_handlers: whether to run the handlers of atexit in this thread.
    """
    # What hangs may hold any lock: of the log, of `threading`, of a module's import.
    try:
        start_new_thread(_end_later, ())
    except RuntimeError:  # Python starts no more threads
        call_after(GIVE_UP, lambda: os._exit(EX_SOFTWARE))
    told, ended = [f'{why}; leaving now.'], allocate_lock()
    ended.acquire()
    try:
        try:
            start_new_thread(_tell, (bus, why, told, ended))
        except RuntimeError:
            _tell(bus, why, told, ended)
        else:
            ended.acquire(timeout=GIVE_UP / 2)
        if told:
            os.write(2, f'{told[-1]}\n'.encode(errors='backslashreplace'))
            if len(told) == 1 and 'faulthandler' in sys.modules:
                sys.modules['faulthandler'].dump_traceback(2)
        if runs_handlers:
            claim_exit_handlers()
            atexit._run_exitfuncs()
        flush_streams()
    finally:
        os._exit(EX_SOFTWARE)


def import_rest() -> None:
    """Import what a restart, a forced end and a late lifespan need.

    The bus calls this before it sleeps: later, no descriptor may be free, and the file may
    be that of a newer release.
    """
    with contextlib.suppress(OSError):
        from paste_wspbus.bus import culprits, lifespan, replacing  # noqa: F401


def _report(bus: Bus, why: str) -> str:
    try:
        from paste_wspbus.bus.culprits import report
    except Exception:  # no descriptor is free: see `import_rest`
        return f'{why}; leaving now.'
    return report(bus, why)


def _end_later() -> None:
    time.sleep(GIVE_UP)
    os._exit(EX_SOFTWARE)


def _tell(bus: Bus, why: str, told: list[str], ended: LockType) -> None:
    """Log it all; ``told`` is what is not logged yet; ``ended`` is released at last."""
    held_gil.end_process_after(GIVE_UP + held_gil.MARGIN)
    told.append(_report(bus, why))
    bus.log(told[-1], 50)
    told.clear()
    for listener in bus.channel('status').ordered:
        with contextlib.suppress(Exception):
            bus.log(f'Status: {listener.call()}', 50)
    flush_streams()
    ended.release()


def stop_at_exit(bus: Bus) -> None:
    """Stop the bus if the main thread ends while the bus is started."""
    global _at_exit_registered
    _running.add(bus)
    if _at_exit_registered:
        return
    _at_exit_registered = True
    try:
        # The handlers of atexit run when all threads that are not daemons have ended. If
        # a server's thread ends only when the bus stops it, they would never run.
        threading._register_atexit(exit_all)  # type: ignore[attr-defined]
    except (AttributeError, RuntimeError):
        atexit.register(exit_all)


def forget(bus: Bus) -> None:
    """Do not stop this bus at the end of the process, because it has exited."""
    _running.discard(bus)


def exit_all() -> None:
    """Stop each bus that is still started, because the process ends."""
    for bus in list(_running):
        _running.discard(bus)
        if bus.pid != os.getpid() or bus.state is State.EXITING:
            continue  # this is a forked child, and the bus belongs to its parent
        _exit_late(bus)


def _exit_late(bus: Bus) -> None:
    import warnings

    try:
        if not host_of(bus).exits_with_process and bus.state is not State.STOPPED:
            warnings.warn(
                f'The main thread is exiting, but the Bus is in the {bus.state!r} '
                'state; shutting it down automatically now. You must either call '
                'bus.block() after start(), or call bus.exit() before the main '
                'thread exits.',
                RuntimeWarning,
                stacklevel=1,
            )
    finally:
        bus.execv = False
        bus.turn.keep_for(None)  # the main thread is not in block() any more
        watcher = bus.waiting.watch(frozenset({State.EXITING}))
        with contextlib.suppress(ChannelFailures, WSPBusError):  # they are in the log
            bus.exit()
        with contextlib.suppress(Empty):  # a thread in block() may run the exit
            watcher.reached.get(timeout=bus.stop_timeout or 30)
