"""OS signals: each names a channel or method of the bus."""

from __future__ import annotations

import os
import signal
import threading

from paste_wspbus.channels import ChannelFailures
from paste_wspbus.errors import SettingError, WSPBusError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import FrameType
    from typing import Any

    from paste_wspbus.bus import Bus

#: Methods of the bus that a signal can name; anything else is a channel.
_METHODS = frozenset({'exit', 'stop', 'restart', 'graceful', 'start'})


class SignalHandler:
    """A table of signals, each with the channel or bus method it stands for.

    ``handlers`` may be changed before `subscribe`: {'SIGUSR1': 'reopen_logs'}.
    'exit' and 'stop' escalate: the first signal stops gracefully, the second
    skips every wait, the third leaves at once (exit code 70). Whoever
    subscribes to a channel named like a signal ('SIGUSR1') is told, too.
    """

    def __init__(self, bus: Bus, handlers: dict[str, str] | None = None) -> None:
        self.bus = bus
        self.handlers = {
            'SIGINT': 'exit',
            'SIGTERM': 'exit',
            'SIGHUP': 'hangup',
            'SIGUSR1': 'reopen_logs',
            'SIGUSR2': 'reopen_logs',
            **(handlers or {}),
        }
        self._previous: dict[int, Any] = {}
        self._asked_to_leave = 0
        self._pid = os.getpid()
        self._terminal = False

    def subscribe(self) -> None:
        """Take the signals over; outside the main thread, say so and do nothing."""
        if threading.current_thread() is not threading.main_thread():
            self.bus.log('Signals are not handled: this is not the main thread.')
            return
        self._terminal = os.isatty(0) if _is_open(0) else False
        for name in self.handlers:
            number = getattr(signal, name, None)
            if number is not None and number not in self._previous:  # not on Windows
                self._previous[number] = signal.signal(number, self._handle)

    def unsubscribe(self) -> None:
        """Give them back to whom they belonged."""
        for number, previous in self._previous.items():
            # None: a handler that was not installed from Python cannot be put back.
            signal.signal(number, signal.SIG_DFL if previous is None else previous)
        self._previous.clear()

    def _handle(self, signum: int, frame: FrameType | None) -> None:
        if os.getpid() != self._pid:
            _die_of(signum)
            return
        name = signal.Signals(signum).name
        target = self.handlers[name]
        self.bus.post('log', f'Caught signal {name}.', 20)
        if self.bus.listeners.get(name):
            self.bus.post(name)
        if target == 'hangup':
            # Without a terminal it is an operator's wish, not the terminal's end.
            target = 'exit' if self._terminal else 'restart'
        try:
            if target in ('exit', 'stop'):
                self._leave(target)
            elif target in _METHODS:
                getattr(self.bus, target)()
            else:
                self.bus.post(target)
        except ChannelFailures:
            pass  # nobody is in block(), so it was done here; each is in the log
        except WSPBusError as error:
            self.bus.post('log', str(error), 40)

    def _leave(self, command: str) -> None:
        self._asked_to_leave += 1
        if self._asked_to_leave == 1:
            getattr(self.bus, command)()
        elif self._asked_to_leave == 2:
            self.bus.hurry()
        else:
            self.bus.force_exit('Told to stop three times')


def signal_name(text: str) -> str:
    """The name of a signal that a program may catch, such as 'SIGUSR1'.

    :raises SettingError: if there is no such signal, or it cannot be caught.
    """
    name = text.upper()
    name = name if name.startswith('SIG') else f'SIG{name}'
    if name in ('SIGKILL', 'SIGSTOP') or name.startswith('SIG_'):
        raise SettingError(f'signal.{text}', f'{name} cannot be caught')
    if not isinstance(getattr(signal, name, None), signal.Signals):
        raise SettingError(f'signal.{text}', 'there is no such signal')
    return name


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
