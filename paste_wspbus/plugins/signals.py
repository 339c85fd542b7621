"""OS signals: each names a channel or method of the bus."""

from __future__ import annotations

import os
import signal
import threading

from paste_wspbus.channels import ChannelFailures
from paste_wspbus.errors import SettingError, WSPBusError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from types import FrameType
    from typing import Any

    from paste_wspbus.bus import Bus

    Target = str | Callable[..., object] | None

#: What signals do where nobody says otherwise; Windows has not all of them.
DEFAULTS = {
    'SIGINT': 'exit',
    'SIGTERM': 'exit',
    'SIGBREAK': 'exit',  # Windows': Ctrl-Break
    'SIGHUP': 'hangup',
    'SIGUSR1': 'reopen_logs',
    'SIGUSR2': 'reopen_logs',
}

#: Methods of the bus that a signal can name; anything else is a channel.
_METHODS = frozenset({'exit', 'stop', 'restart', 'graceful', 'start'})


class SignalHandler:
    """A table of signals, each with the channel or bus method it stands for.

    ``handlers`` may be changed before `subscribe`: {'SIGUSR1': 'reopen_logs'}.
    'exit' and 'stop' escalate: the first signal stops gracefully, the second
    skips every wait, the third leaves at once (exit code 70). 'hangup' is exit
    on a terminal and restart elsewhere. None or 'ignore': the signal is
    ignored, in programs that the site starts, too (as by nohup). A function is
    a listener, as in `set_handler`. Whoever subscribes to a channel named like
    a signal ('SIGUSR1') is told of every one that is handled.

    :raises BadSignal: if a signal does not exist, or cannot be caught.
    """

    def __init__(self, bus: Bus, handlers: dict[str, Any] | None = None) -> None:
        self.bus = bus
        self.handlers: dict[str, Target] = {
            name: target for name, target in DEFAULTS.items() if hasattr(signal, name)
        }
        for name, target in (handlers or {}).items():
            self.handlers[signal_name(name)] = target
        self._previous: dict[int, Any] = {}
        #: How many signals have asked for an end.
        self.asked_to_leave = 0
        self._terminal = False

    def subscribe(self) -> None:
        """Take the signals over; outside the main thread, say so and do nothing.

        :raises BadSignal: if ``handlers`` names one that does not exist, or
            cannot be caught; none is taken over then.
        """
        for given in list(self.handlers):
            name = signal_name(given)
            self.handlers[name] = self.handlers.pop(given)
        if not getattr(self.bus, 'owns_signals', True):
            self.bus.log(
                'Signals are not handled: they are for the host of this process.'
            )
        elif self._is_main_thread():
            self.asked_to_leave = 0
            self._terminal = os.isatty(0) if _is_open(0) else False
            for name in self.handlers:
                self._install(name)

    def unsubscribe(self) -> None:
        """Give them back to whom they belonged."""
        for name, target in self.handlers.items():
            if callable(target):
                self.bus.unsubscribe(name, target)
        if not self._previous or not self._is_main_thread('given back'):
            return
        for number, previous in self._previous.items():
            # None: a handler that was not installed from Python cannot be put back.
            signal.signal(number, signal.SIG_DFL if previous is None else previous)
        self._previous.clear()

    def set_handler(
        self, signal: str | int, listener: Callable[[], object] | None = None
    ) -> None:
        """Handle a signal from now on; ``listener`` subscribes to the channel of its name.

        What ``handlers`` says of the signal stays, but for 'ignore'.

        :param signal: its name or number.
        :raises BadSignal: (a ValueError) if it does not exist, or cannot be caught.
        """
        name = signal_name(signal)
        if _is_ignored(self.handlers.get(name)):
            self.handlers[name] = name
        if self._is_main_thread():
            self._install(name)
        if listener is not None:
            self.bus.subscribe(name, listener)

    def _is_main_thread(self, wish: str = 'handled') -> bool:
        if threading.current_thread() is threading.main_thread():
            return True
        self.bus.log(f'Signals are not {wish}: this is not the main thread.')
        return False

    def _install(self, name: str) -> None:
        number, target = getattr(signal, name), self.handlers[name]
        handler = signal.SIG_IGN if _is_ignored(target) else self._handle
        try:
            previous = signal.signal(number, handler)
        except OSError:
            raise BadSignal(name, f'{name} cannot be caught') from None
        self._previous.setdefault(number, previous)
        if callable(target):
            self.bus.subscribe(name, target)

    def _handle(self, signum: int, frame: FrameType | None) -> None:
        if os.getpid() != self.bus._pid:
            _die_of(signum)
            return
        name = signal.Signals(signum).name
        self.bus.post('log', f'Caught signal {name}.', 20)
        if self.bus.listeners.get(name):
            self.bus.post(name)
        target = self.handlers.get(name)
        if isinstance(target, str) and target != name:  # the others have been told
            self._carry_out(target)

    def _carry_out(self, target: str) -> None:
        if target == 'hangup':
            # Without a terminal it is an operator's wish, not the terminal's end.
            target = 'exit' if self._terminal else 'restart'
        try:
            if target in ('exit', 'stop'):
                self._leave(target)
            elif target == 'restart' and self._is_leaving():
                self.bus.post('log', 'Not restarted: the site is told to stop.', 30)
            elif target in _METHODS:
                if target == 'restart':  # whoever listens is told before all goes
                    self.bus.restarting = True
                    self.bus.graceful()
                getattr(self.bus, target)()
            else:
                self.bus.post(target)
        except ChannelFailures:
            pass  # nobody is in block(), so it was done here; each is in the log
        except WSPBusError as error:
            self.bus.restarting = False
            self.bus.post('log', str(error), 40)

    def _is_leaving(self) -> bool:
        return self.bus.is_told_to_leave and not self.bus.execv

    def _leave(self, command: str) -> None:
        self.asked_to_leave += 1
        self.bus.execv = False  # who is told to leave does not come back
        if self.asked_to_leave == 1:
            getattr(self.bus, command)()
        elif self.asked_to_leave == 2:
            self.bus.hurry()
        else:
            self.bus.force_exit('Told to stop three times')


class BadSignal(SettingError, ValueError):
    """A signal does not exist, or cannot be caught; ``name`` as it was given."""

    def __init__(self, name: str | int, problem: str) -> None:
        super().__init__(f'signal.{name}', problem)
        self.name = name


def signal_name(signum: str | int) -> str:
    """The name of a signal that a program may catch, such as 'SIGUSR1'.

    :param signum: its number, or its name, in capitals or not, with 'SIG' or without.
    :raises BadSignal: if there is no such signal, or it cannot be caught.
    """
    name = str(signum).upper()
    name = name if name.startswith('SIG') else f'SIG{name}'
    try:
        known = (
            signal.Signals(signum) if isinstance(signum, int) else signal.Signals[name]
        )
    except (KeyError, ValueError):
        raise BadSignal(signum, 'there is no such signal') from None
    if known.name in ('SIGKILL', 'SIGSTOP'):
        raise BadSignal(signum, f'{known.name} cannot be caught')
    return known.name  # SIGCLD's is SIGCHLD


def _is_ignored(target: Target) -> bool:
    return target in (None, '', 'ignore')


def _is_open(fd: int) -> bool:
    try:
        os.fstat(fd)
    except OSError:
        return False
    return True


def _die_of(signum: int) -> None:
    """In a forked child, whose bus is its parent's: do what no handler would do."""
    signal.signal(signum, signal.SIG_DFL)
    os.kill(os.getpid(), signum)
