"""Errors in the functions of the supervisor's loop: they are logged, and the loop continues."""

from __future__ import annotations

import contextlib
import os
import time

from paste_wspbus.bus import State
from paste_wspbus.exits import FAILED

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from paste_wspbus.workers.supervisor import SupervisorBus

#: Seconds for which a failure of the same function, of the same kind, is not logged again.
MINUTE = 60.0

#: Seconds to sleep after each failure: a descriptor whose function fails again and again is
#: ready all the time, and must not cost a whole CPU.
REST = 0.01

#: The number of attempts to plan the look that follows a failure: without it, nothing
#: would replace a process that has ended. And the number of failures after which the
#: loop gives up.
TRIES = 100

#: Seconds after a failure until a look whether all workers are there.
SOON = 1.0


class Faults:
    """Logs the errors of functions of the loop, and later looks whether a worker is missing."""

    def __init__(self, bus: SupervisorBus) -> None:
        self._bus, self._looks = bus, False
        #: The time.monotonic() of the last log entry of each kind.
        self._logged: dict[tuple[str, str], float] = {}

    def note(self, error: BaseException, function: Callable[..., object]) -> None:
        """Log a failure, at most once a minute of each kind; never raise one.

        :raises BaseException: ``error`` itself in a forked child, which must not run the loop
            of its parent.
        """
        if self._bus.pid != os.getpid():
            raise error
        name = getattr(function, '__qualname__', type(function).__qualname__)
        kind, now = (name, type(error).__name__), time.monotonic()
        if now - self._logged.get(kind, float('-inf')) >= MINUTE:
            self._logged[kind] = now
            line = f'The supervisor continues, although {name} has failed'
            with contextlib.suppress(Exception):  # such as no memory for the traceback
                self._bus.log(line, 40, traceback=True)
        for _ in range(TRIES):
            time.sleep(REST)
            with contextlib.suppress(Exception):  # such as no memory for the timer
                if not self._looks:
                    self._bus.events.call_later(SOON, self._look)
                    self._looks = True
                return

    def block(self) -> None:
        """Call `Bus.block` until the site has stopped; call it again after an error.

        Such an error comes between two functions of the loop, if memory is short, for
        example. If errors come again and again, the site stops, and the log has the
        reason.
        """
        for _ in range(TRIES):
            try:
                return self._bus.block(states=State.STOPPED)
            except Exception as error:
                self.note(error, self._bus.block)
        self._bus.exit_code = self._bus.exit_code or FAILED
        self._bus.log('The supervisor stops: its loop has failed too often', 50)

    def _look(self) -> None:
        """Catch up: the function that failed may not have done its work."""
        self._looks = False
        supervisor = self._bus.supervisor
        events = self._bus.events
        for repeat in [*events.repeats]:
            events.run(repeat.wait)
        events.run(supervisor.children.note_lost)
        events.run(supervisor.replacing.fill_up)
