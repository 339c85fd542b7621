"""The site's own signal handlers while the site stops: what they raise does not cut the stop."""

from __future__ import annotations

import os
import signal
from traceback import format_exc

from paste_wspbus.bus.interrupts import in_main_thread
from paste_wspbus.exits import exit_code_of
from paste_wspbus.plugins.signals import handled_in_c, is_of_this_package

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from types import FrameType
    from typing import Any

    from paste_wspbus.bus import Bus

#: The signals of timers: code sets a timer to interrupt itself.
_TIMERS = ('SIGALRM', 'SIGVTALRM', 'SIGPROF')


class Contained:
    """Calls a signal handler of the site. What it raises is logged, and the stop continues.

    Python raises the exception of a handler wherever the main thread is. During a stop
    this is often the server, which waits for the requests in flight. Only if a listener
    of the site runs, a timer's handler may raise there: the listener may have set the
    timer.

    :param bus: the bus that stops; its ``exit_code`` becomes 1, or that of a SystemExit.
    :param handler: the site's own handler.
    """

    def __init__(self, bus: Bus, handler: Callable[[int, Any], object]) -> None:
        self._bus, self._handler = bus, handler

    def __call__(self, signum: int, frame: FrameType | None) -> None:
        """Call the site's handler (this is a handler for `signal.signal`)."""
        bus, name = self._bus, signal.Signals(signum).name
        try:
            self._handler(signum, frame)
        except BaseException as error:
            if os.getpid() != bus.pid or (name in _TIMERS and self._is_in_the_site()):
                raise
            if isinstance(error, KeyboardInterrupt):
                return  # it asks for the stop, which runs already
            is_exit = isinstance(error, SystemExit)
            code = exit_code_of(error) if is_exit else 1  # type: ignore[arg-type]
            bus.exit_code = bus.exit_code or code
            if not is_exit:
                text = f"Error in the site's handler of {name}\n{format_exc()}"
                bus.post('log', text, 40)

    def _is_in_the_site(self) -> bool:
        calling = self._bus.calling
        return calling is not None and not calling[1].startswith('paste_wspbus.')


def contain(bus: Bus) -> None:
    """Contain all signal handlers of the site until the process ends, which is soon.

    The main thread calls this before each stop. Calls after the first one contain only the
    handlers that are new. In other threads this does nothing, because handlers do not run
    there.
    """
    if not in_main_thread() or os.getpid() != bus.pid:
        return
    known = signal.valid_signals()
    handlers = {number: signal.getsignal(number) for number in known}
    theirs = {
        number: handler
        for number, handler in handlers.items()
        if callable(handler) and not is_of_this_package(handler)
    }
    for number in theirs.keys() - (handled_in_c(known) if theirs else set()):
        signal.signal(number, Contained(bus, theirs[number]))
