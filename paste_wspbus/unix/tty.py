"""What a debugger leaves: a terminal without echo, and callbacks."""

from __future__ import annotations

import contextlib
import os
import signal
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


class Terminal:
    """Remembers the mode of a terminal, and restores it.

    :param fd: a descriptor; if it is no terminal, nothing is done.
    """

    def __init__(self, fd: int = 0) -> None:
        self._fd = fd
        self._mode: Any = None
        with contextlib.suppress(OSError, ImportError):
            if os.isatty(fd):
                import termios

                self._mode = termios.tcgetattr(fd)

    def restore(self) -> None:
        """Restore the mode, if it is another one now: echo and lines, as it was at first.

        A process in the background leaves the terminal to those in the foreground.
        """
        if self._mode is None:
            return
        import termios

        with contextlib.suppress(OSError, termios.error):
            if os.tcgetpgrp(self._fd) != os.getpgrp():
                return
            if termios.tcgetattr(self._fd) == self._mode:
                return
            # The group may go to the background meanwhile: then SIGTTOU would stop it.
            before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTTOU})
            try:
                termios.tcsetattr(self._fd, termios.TCSANOW, self._mode)
            finally:
                signal.pthread_sigmask(signal.SIG_SETMASK, before)


def end_debugging() -> None:
    """Take the callbacks of pdb back, if a stop has ended the site at its prompt.

    From Python 3.14 on they are called for all threads, also while Python itself ends, and
    fail there.
    """
    monitoring = getattr(sys, 'monitoring', None)  # Python 3.12 and newer
    if (
        monitoring is not None
        and monitoring.get_tool(monitoring.DEBUGGER_ID) == 'bdbtracer'
    ):
        monitoring.free_tool_id(monitoring.DEBUGGER_ID)
