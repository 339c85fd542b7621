"""The end of the process: it prints a failure, and nothing can keep the process for long."""

from __future__ import annotations

import atexit
import contextlib
import os
import sys
import threading
import time

from paste_wspbus.bus import ending
from paste_wspbus.bus.bus import Bus
from paste_wspbus.bus.deadlines import LEAST, Cut, TimeLimit, call_after
from paste_wspbus.bus.held_gil import MARGIN, end_process_after
from paste_wspbus.bus.interrupts import inside
from paste_wspbus.bus.joining import end_threads
from paste_wspbus.bus.places import place_in_site
from paste_wspbus.command.terminal import (
    flush,
    one_line,
    print_line,
    without_folder,
)
from paste_wspbus.exits import EX_SOFTWARE

TYPE_CHECKING = False
if TYPE_CHECKING:
    from threading import Thread
    from typing import NoReturn

    from paste_wspbus.errors import WSPBusError
    from paste_wspbus.process.launch import Launch

#: Seconds that atexit handlers have at most, after the site has stopped.
LINGER = 10.0

#: Seconds for the other atexit handlers, after one has used all the time and was cut.
REST = 1.0

#: The time.monotonic() at which atexit handlers must have ended, by the site's deadline.
_until = float('inf')


def complain(error: WSPBusError, launch: Launch | None) -> int:
    """Print why the site does not run, and report it to the process that waits for the start.

    :param launch: None if the command line is wrong.
    :returns: the exit code.
    """
    line, hint = one_line(error), ''
    has_more = error.__cause__ is not None or bool(error.trace)
    if launch is None:
        hint = ' (-v shows the traceback)' if has_more else ''
        print_line(f'{without_folder(line)}{hint}', 'stderr')
        return error.exit_code
    if launch.options.reload and launch.report.outcome_sent:
        return error.exit_code  # the supervisor shows it
    if launch.took_over and not launch.report.lasting:
        from paste_wspbus.control.status import followed

        line = followed(line, 'the old site has stopped')
    if has_more or (launch.options.verbosity > 1 and error.has_frames):
        from paste_wspbus.command.failure import show_traceback

        hint = show_traceback(error, launch)
    elif launch.log and error.is_logged:
        hint = f' (the traceback is in {launch.log})'
    shown = f'{without_folder(line)}{hint}'
    if not launch.is_printed_elsewhere:
        if launch.log:
            from paste_wspbus.command.failure import print_to_log

            print_to_log(line)
        else:
            print_line(shown, 'stderr', level=40)
        if launch.terminal is not None:
            with contextlib.suppress(OSError):
                os.write(launch.terminal, f'{shown}\n'.encode())
    told = f'{line}{hint}' if launch.is_supervised else shown
    return launch.fail(error.exit_code, told, error.trace)


def limit_handlers(seconds: float) -> None:
    """Limit the time of the atexit handlers; it counts from now."""
    global _until
    _until = time.monotonic() + seconds


def finish(code: int) -> int:
    """End the threads and run the atexit handlers, before Python does it at its end.

    Both have a time limit here. Python itself has no limit, neither for threads nor for
    the child processes of multiprocessing, for which an atexit handler waits. If
    something does not end, the process ends without waiting for it.

    :returns: the exit code.
    """
    ending.exit_all()
    if 'bdb' in sys.modules:
        from paste_wspbus.unix.tty import end_debugging

        end_debugging()
    running = end_threads(Bus.join_timeout, _say, lambda: False)
    if run_exit_handlers() and not running:
        return code
    if running:
        print_line(without(running), 'stderr')
    flush()
    os._exit(code or EX_SOFTWARE)


def without(running: list[Thread]) -> str:
    """Return the line that names the threads that do not end."""
    names = ', '.join(thread.name for thread in running)
    return f'Threads that do not end: {names}; the process ends without them'


def _say(text: str, level: int = 20, traceback: bool = False) -> None:
    if level > 20:
        print_line(text, 'stderr')


def run_exit_handlers() -> bool:
    """Call the handlers of atexit now: neither execv(2) nor os._exit calls them.

    If a handler hangs, it is cut, and the others are called. If it cannot be cut, the
    process ends with EX_SOFTWARE.

    :returns: whether no handler had to be cut.
    """
    seconds = max(min(LINGER, _until - time.monotonic()), LEAST)
    main = threading.main_thread()

    def leave() -> None:
        place = place_in_site(sys._current_frames().get(main.ident or 0))
        _complain_of_handlers(f'; now at {place}')
        os._exit(EX_SOFTWARE)

    ending.claim_exit_handlers()
    call_after(seconds + REST, leave)
    end_process_after(seconds + REST + MARGIN)
    limit = TimeLimit(seconds, lambda stack: None)
    with contextlib.suppress(Cut):
        inside(limit, _run_handlers)
    if limit.stack:
        _complain_of_handlers(f':\n{limit.stack}')
    return not limit.expired


def _run_handlers() -> None:
    flush()  # logging's handler flushes the streams, too
    atexit._run_exitfuncs()


def _complain_of_handlers(where: str) -> None:
    multiprocessing = sys.modules.get('multiprocessing')
    children = multiprocessing.active_children() if multiprocessing else []
    names = ', '.join(f'{child.name} (process {child.pid})' for child in children)
    what = (
        f'child processes do not end: {names}' if names else 'an atexit handler hangs'
    )
    line = f'The site has stopped, but {what}; the process ends without that{where}'
    print_line(line, 'stderr')


def end_at_once(code: int) -> NoReturn:
    """End the process: run the atexit handlers, but do not wait for threads of the site.

    Python would also destroy all modules at its end, which takes as long as a reload.
    """
    is_clean = run_exit_handlers()
    flush()
    os._exit(code if is_clean else code or EX_SOFTWARE)
