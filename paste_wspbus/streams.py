"""The standard streams: the site may have deleted or replaced them."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


def standard(name: str) -> Any:
    """Return `sys.stdout` or another stream by its name; None if it is deleted."""
    return getattr(sys, name, None)


def restore_deleted() -> None:
    """Put back the streams that were deleted: Python starts no thread without them."""
    for name in ('stdout', 'stderr'):
        if not hasattr(sys, name):
            setattr(sys, name, standard(f'__{name}__'))


def fill_numbers() -> None:
    """Open 0, 1 and 2 if they are closed: output must not go into a socket with that number."""
    with contextlib.suppress(OSError):
        while (fd := os.open(os.devnull, os.O_RDWR)) < 3:
            os.set_inheritable(fd, True)  # it got the lowest free number
        os.close(fd)


def attempt(stream: Any, method: str, *args: Any) -> bool:
    """Call a method of a stream, and return whether that succeeded.

    What the stream raises is ignored, even SystemExit. What a signal, a deadline or the
    bus raises meanwhile is not.
    """
    try:
        getattr(stream, method)(*args)
    except BaseException as error:
        if not is_foreign(error):
            raise
        return False
    return True


def is_terminal(stream: Any) -> bool:
    """Whether a stream is a terminal; False if it does not say so."""
    try:
        return bool(stream.isatty())
    except BaseException as error:
        if not is_foreign(error):
            raise
        return False


def is_foreign(error: BaseException) -> bool:
    """Whether called code has raised an error, and no signal or bus.

    Those have a frame of this package, but Python's handler of SIGINT has none.
    """
    if isinstance(error, KeyboardInterrupt):
        is_main = threading.current_thread() is threading.main_thread()
        if is_main and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
            return False
    # The first frame is that of the function itself.
    trace, module = error.__traceback__ and error.__traceback__.tb_next, ''
    while trace is not None:
        module = str(trace.tb_frame.f_globals.get('__name__'))
        if module.endswith(('bus.plugins.signals', '.early_signals')):
            return False
        trace = trace.tb_next
    return isinstance(error, Exception) or not module.startswith('paste_wspbus.')


def flush_streams() -> None:
    """Write what the standard streams have buffered, before a fork, execv(2) or os._exit."""
    for name in ('stdout', 'stderr'):
        attempt(standard(name), 'flush')
