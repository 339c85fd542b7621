"""The site's own signal handlers: what they raise does not cut the stop, or the announcement."""

from __future__ import annotations

import contextlib
import os
import signal
from traceback import format_exc

from paste_wspbus.bus.interrupts import in_main_thread
from paste_wspbus.bus.places import is_of_this_package
from paste_wspbus.exits import exit_code_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Generator
    from types import FrameType
    from typing import Any

    from paste_wspbus.bus import Bus

#: The signals of timers: code sets a timer to interrupt itself.
_TIMERS = ('SIGALRM', 'SIGVTALRM', 'SIGPROF')


class ContainedHandler:
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
    for number, handler in _those_of_the_site().items():
        signal.signal(number, ContainedHandler(bus, handler))


@contextlib.contextmanager
def postponed() -> Generator[None]:
    """Raise what the site's signal handlers raise only at the end of the ``with`` block.

    Other code could swallow it: it may take an OSError for that of a file. In threads
    other than the main thread this does nothing, because handlers do not run there.
    """
    raised: list[BaseException] = []
    theirs = _those_of_the_site() if in_main_thread() else {}
    ours = {number: _Postponed(one, raised) for number, one in theirs.items()}
    try:
        for number, handler in ours.items():
            signal.signal(number, handler)
        yield
    finally:
        for number, handler in ours.items():
            while signal.getsignal(number) is handler:
                try:
                    signal.signal(number, theirs[number])
                except BaseException as error:
                    # A handler that is set again already has raised it.
                    raised.append(error)
    if raised:
        raise raised[0]


class _Postponed:
    def __init__(
        self, handler: Callable[[int, Any], object], raised: list[BaseException]
    ) -> None:
        self._handler, self._raised = handler, raised

    def __call__(self, signum: int, frame: FrameType | None) -> None:
        try:
            self._handler(signum, frame)
        except BaseException as error:
            self._raised.append(error)


def _those_of_the_site() -> dict[int, Callable[[int, Any], object]]:
    known = signal.valid_signals()
    handlers = {number: signal.getsignal(number) for number in known}
    theirs: dict[int, Callable[[int, Any], object]] = {
        number: handler
        for number, handler in handlers.items()
        if callable(handler) and not is_of_this_package(handler)
    }
    in_c: set[int] = set()
    if theirs:
        from paste_wspbus.plugins.handlers_in_c import handled_in_c

        in_c = handled_in_c(known)
    return {number: one for number, one in theirs.items() if number not in in_c}
