"""Signals that come before the site has handlers for them, or after the end of the site."""

from __future__ import annotations

import _thread
import contextlib
import os
import signal
import sys
import threading
import time

from paste_wspbus.bus.deadlines import stacks
from paste_wspbus.bus.interrupts import in_main_thread
from paste_wspbus.bus.places import is_at_prompt
from paste_wspbus.exits import EX_SOFTWARE, of_signal
from paste_wspbus.ini.config import Terminated
from paste_wspbus.plugins.signals import Escalation, SignalHandler, write_to_stderr
from paste_wspbus.unix.holding import SIGNALS, hold

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Generator
    from typing import Any

#: The signals that ask for a stop, by name.
_STOPS = ('SIGTERM', 'SIGINT', 'SIGBREAK')

#: Seconds until an exception that Python dropped is raised again.
_AGAIN = 0.01


def _write_stacks() -> None:
    write_to_stderr(f'Stacks of process {os.getpid()}:\n{stacks()}\n')


class EarlySignals:
    """The signals of a process whose site has no handlers yet.

    A signal to stop is always noted: it is the ``wish``. It is also raised, as an
    exception, but only inside a `raising` block. Outside, the process may be opening a
    file or a socket, and an exception could come between the step that opens it and the
    step that remembers it. There, the code that runs the process calls `check` at the
    next point where an exception does no harm.

    ``later`` has the numbers of the other signals, which `repeat` sends again.
    """

    def __init__(self) -> None:
        self.later: list[int] = []
        #: The first signal that has asked for a stop.
        self.wish: int | None = None
        #: It is called before a signal to stop is raised.
        self.before: Callable[[], object] = lambda: None
        self._may_raise = False
        self._raised: BaseException | None = None
        self._was_dropped = False
        self._wishes = Escalation()

    def handle(self, signum: int, frame: object) -> None:
        """Note a signal; raise it if that is safe (a handler for `signal.signal`)."""
        if signum == getattr(signal, 'SIGQUIT', None):
            self._finish(_write_stacks)
            if self.wish is not None:
                self._raise()  # it came while the stacks were written
            return
        is_stop = signal.Signals(signum).name in _STOPS or (
            signum == getattr(signal, 'SIGHUP', None) and _has_terminal()
        )
        if not is_stop:
            self.later.append(signum)
            return
        if self._was_dropped:
            self._was_dropped = False
            self._raise()
            return
        counts = self._wishes.counts(signum)
        if self.wish is None:
            self._finish(lambda: self._note(signum))
        elif counts and signum == signal.SIGINT:
            self._raised = None  # Ctrl-C again: do not wait for the clean-up
        self._raise()

    def _note(self, signum: int) -> None:
        self.wish = signum
        self.before()

    def _finish(self, function: Callable[[], object]) -> None:
        """Call a function that a further signal does not interrupt with an exception."""
        may_raise, self._may_raise = self._may_raise, False
        try:
            function()
        finally:
            self._may_raise = may_raise

    def ask(self, signum: int) -> None:
        """Act as if this signal had come; the main thread calls this."""
        self.handle(signum, None)

    def _raise(self) -> None:
        # A second SIGTERM must not interrupt the clean-up.
        if self._may_raise and self._raised is None:
            self.check()

    def check(self) -> None:
        """Raise an exception if a signal has asked for a stop.

        :raises Terminated, KeyboardInterrupt: if one has; KeyboardInterrupt for Ctrl-C,
            but not at the prompt of a debugger.
        """
        if self.wish is None:
            return
        # A debugger's prompt swallows a KeyboardInterrupt.
        is_interrupt = self.wish in _INTERRUPTS and not is_at_prompt(sys._getframe())
        self._raised = error = (
            KeyboardInterrupt() if is_interrupt else Terminated(of_signal(self.wish))
        )
        raise error

    @contextlib.contextmanager
    def raising(self) -> Generator[None]:
        """Raise a signal to stop at once inside the ``with`` block, wherever the code is.

        Python drops an exception in a finalizer (``__del__``), in the callback of a weak
        reference, and in some C code. It reports that to `sys.unraisablehook`: then the
        exception is raised again a moment later, at another place.
        """
        hook = sys.unraisablehook

        def unraisable(args: Any) -> None:
            if args.exc_value is None or args.exc_value is not self._raised:
                hook(args)
                return
            self._may_raise = False  # another signal would raise here, in the hook
            self._raised = None
            # This is not a threading.Thread: its start() takes locks, which the
            # interrupted code may hold.
            _thread.start_new_thread(self._raise_again, ())
            self._may_raise = True

        sys.unraisablehook = unraisable
        try:
            self._may_raise = True
            self.check()
            yield
        finally:
            self._may_raise = False
            if sys.unraisablehook is unraisable:
                sys.unraisablehook = hook

    def _raise_again(self) -> None:
        time.sleep(_AGAIN)
        if not self._may_raise or self.wish is None:
            return  # the code that runs the process will call `check`
        self._was_dropped = True
        if hasattr(signal, 'pthread_kill'):
            main = threading.main_thread().ident
            assert main is not None
            signal.pthread_kill(main, self.wish)
        else:
            _thread.interrupt_main(signal.Signals(self.wish))

    def give_to(self, signals: Any) -> None:
        """Let a plugin handle all signals from now on, also the one that was noted.

        :param signals: a `SignalHandler`, or the site's plugin in its place. A signal
            that this plugin does not handle does what it does in any Python program.
        :raises Terminated, KeyboardInterrupt: if a signal was noted that the site's plugin
            cannot get.
        """
        if not isinstance(signals, SignalHandler):
            signals.subscribe()
            from paste_wspbus.ini.defaults import leave_to_python

            leave_to_python(self.handle)
            self.check()
            return
        signals.expect_start()
        signals.subscribe()
        if self.wish is not None:
            signals.handle(self.wish, None)

    def repeat(self) -> None:
        """Send the signals again for which this process had no handlers before."""
        while self.later:
            signum = self.later.pop(0)
            if signal.getsignal(signum) is not signal.SIG_DFL:  # SIG_DFL would kill it
                os.kill(os.getpid(), signum)

    def begin_anew(self) -> None:
        """Forget all signals, in a forked child: they were meant for its parent."""
        self.later, self.wish, self._raised = [], None, None
        self._was_dropped, self._wishes = False, Escalation()


_is_replaced = False
_INTERRUPTS = (signal.SIGINT, getattr(signal, 'SIGBREAK', signal.SIGINT))


@contextlib.contextmanager
def handled(owns_process: bool = False) -> Generator[EarlySignals]:
    """Handle signals until the site has its own handlers; yield the object that notes them.

    :param owns_process: whether the process ends after the block; then signals do not
        change its exit code any more. If not, the previous handlers are set again.
    """
    early = EarlySignals()
    if not in_main_thread():
        yield early
        return
    previous: dict[int, Any] = {}
    for number in _early():
        previous[number] = signal.signal(number, early.handle)
    hold(False)  # the program before this one has blocked them before execv
    try:
        yield early
    finally:
        late = _late() if owns_process else None
        for number, handler in previous.items():
            signal.signal(number, handler if late is None else late)


def _early() -> list[int]:
    """Return the signals to handle, but not those that this process inherited as ignored."""
    stops = [
        getattr(signal, name)
        for name in _STOPS
        if name == 'SIGTERM'
        or (
            hasattr(signal, name)
            and signal.getsignal(getattr(signal, name)) is not signal.SIG_IGN
        )
    ]
    return stops + [
        number
        for number in SIGNALS
        if number not in stops and signal.getsignal(number) is signal.SIG_DFL
    ]


def _late() -> Callable[[int, object], None]:
    """Return a handler for the time after the site's end; it reacts to the second signal."""
    wishes = Escalation()

    def late(signum: int, frame: object) -> None:
        is_stop = signal.Signals(signum).name in _STOPS
        if is_stop and wishes.counts() and wishes.count > 1:
            os._exit(EX_SOFTWARE)  # an atexit handler hangs

    return late


def ignore() -> None:
    """Ignore signals while the interpreter ends: the exit code is certain now.

    Python gives signals back to the system before it ends, and then they would kill the
    process, or stop it for ever (SIGTTIN). A forced stop ends in another thread, which
    cannot do this.
    """
    if not _is_replaced and in_main_thread():
        for number in signal.valid_signals():
            if number in SIGNALS or callable(signal.getsignal(number)):
                signal.signal(number, signal.SIG_IGN)


def replaces_itself() -> None:
    """Turn `ignore` off, because the next program would inherit its effect (execve(2))."""
    global _is_replaced
    _is_replaced = True


def _has_terminal() -> bool:
    try:
        return os.isatty(0)
    except OSError:
        return False


def hold_those_of_other_threads() -> None:
    """Send signals of other threads to this thread, which blocks them for the next program."""
    if not in_main_thread() or not hasattr(signal, 'pthread_kill'):
        return
    here = threading.get_ident()
    for number in SIGNALS:
        if callable(signal.getsignal(number)):
            signal.signal(number, lambda number, _: signal.pthread_kill(here, number))
