"""The bus of a Windows process: it sleeps on win32 events and answers the console.

What `cherrypy.process.win32` does for CherryPy's bus. Needs pywin32.
"""

from __future__ import annotations

import contextlib
import math
import os
import signal
import threading
import time
from collections import deque
from queue import Empty

from paste_wspbus.bus import Bus, State
from paste_wspbus.channels import ChannelFailures
from paste_wspbus.errors import WSPBusError
from paste_wspbus.plugins import Plugin, on
from paste_wspbus.plugins.signals import SignalHandler

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Any

#: What `signal_child` can ask for: methods of the bus.
COMMANDS = ('stop', 'exit', 'restart', 'graceful')

#: Milliseconds; WaitForMultipleObjects takes 32 bits, the last value is INFINITE.
_LONGEST = 0x7FFFFFFF

#: <wincon.h>: the events that leave it to the process when to end, and the signal
#: that Python makes of each.
_CTRL_EVENTS = {0: 'SIGINT', 1: 'SIGBREAK'}

#: <wincon.h>: the events after which Windows ends the process by itself.
_CLOSING_EVENTS = {2: 'CTRL_CLOSE', 5: 'CTRL_LOGOFF', 6: 'CTRL_SHUTDOWN'}


class NeedsPywin32(WSPBusError):
    """The win32 bus was asked for where pywin32 is not installed.

    ``module``: the one of pywin32 that is missing.
    """

    exit_code = 2

    def __init__(self, module: str) -> None:
        super().__init__(
            f'The win32 bus runs on Windows with pywin32, and there is no {module} '
            "here: pip install 'paste_wspbus[win32]'"
        )
        self.module = module


class NoSuchBus(WSPBusError):
    """No process of that number has a started win32 bus that this user may command."""

    def __init__(self, pid: int, reason: str) -> None:
        super().__init__(f'Process {pid} takes no commands: {reason}')
        self.pid, self.reason = pid, reason


def _win32(module: str) -> Any:
    """A module of pywin32.

    :raises NeedsPywin32: if it cannot be imported.
    """
    from importlib import import_module

    try:
        return import_module(module)
    except ImportError as error:
        raise NeedsPywin32(module) from error


def _sigint_event() -> int | None:
    """The event (its handle) that CPython sets at Ctrl-C, which ends its own sleeps.

    The C function's name is private; None where an interpreter has it no more.
    """
    import ctypes

    try:
        ask = ctypes.pythonapi._PyOS_SigintEvent
    except AttributeError:
        return None
    ask.restype = ctypes.c_void_p
    handle: int | None = ask()
    return handle


def _in_main_thread() -> bool:
    return threading.current_thread() is threading.main_thread()


class EventQueue:
    """put, get and empty of a `queue.SimpleQueue`, on a win32 event.

    Nothing wakes a thread of Windows that waits for a lock; a main thread that
    waits for an item in here answers Ctrl-C.

    :raises NeedsPywin32: if there is no pywin32.
    """

    def __init__(self) -> None:
        self._items: deque[Any] = deque()
        self._api = _win32('win32event')
        self._arrived = self._api.CreateEvent(None, False, False, None)
        self._sigint = _sigint_event()

    def put(self, item: Any) -> None:
        """Add an item; from any thread or handler, never waits."""
        self._items.append(item)
        self._api.SetEvent(self._arrived)

    def get(self, timeout: float | None = None) -> Any:
        """Take the first item, and wait for it if there is none.

        :param timeout: seconds; None: for ever.
        :raises queue.Empty: if none came in that time.
        """
        until = None if timeout is None else time.perf_counter() + timeout
        while True:
            try:
                item = self._items.popleft()
            except IndexError:
                self._sleep(until)
                continue
            if self._items:  # the event woke one thread, and another may sleep
                self._api.SetEvent(self._arrived)
            return item

    def empty(self) -> bool:
        """Whether there is no item."""
        return not self._items

    def _sleep(self, until: float | None) -> None:
        milliseconds = self._api.INFINITE
        if until is not None:
            # Not time.monotonic(), whose steps were 16 ms before Python 3.13.
            left = until - time.perf_counter()
            if left <= 0:
                raise Empty
            milliseconds = min(math.ceil(left * 1000), _LONGEST)
        events = [self._arrived]
        if self._sigint is not None and _in_main_thread():
            # A Ctrl-C before this line is raised by it, and one after it ends the wait.
            self._api.ResetEvent(self._sigint)
            events.append(self._sigint)
        self._api.WaitForMultipleObjects(events, False, milliseconds)


def event_name(what: str, pid: int) -> str:
    """The name of a bus's event, as CherryPy names its: 'WSPBus STARTED Event (pid=7)'.

    :param what: the name of a state, or one of ``COMMANDS``.
    :param pid: the process that the bus is of.
    """
    return f'WSPBus {what} Event (pid={pid})'


class Win32Bus(Bus):
    """A Bus whose threads sleep on win32 events.

    While it is in a state, the event that `event_name` names is set: another
    process can open it and wait for it. ``plugins['console']`` answers the
    console, ``plugins['commands']`` answers `signal_child`.

    :raises NeedsPywin32: if there is no pywin32.
    """

    queue_class = EventQueue  # type: ignore[assignment]

    @staticmethod
    def interrupts_class(**_: object) -> contextlib.AbstractContextManager[None]:
        """Nothing: its waits end at a signal by themselves."""
        return contextlib.nullcontext()

    def __init__(self) -> None:
        super().__init__()
        self._api = _win32('win32event')
        self._state_events = {
            state: self._api.CreateEvent(
                None, True, state is self.state, event_name(state.name, os.getpid())
            )
            for state in State
        }
        self.plugins['console'] = ConsoleCtrlHandler(self)
        self.plugins['commands'] = CommandEvents(self)
        for plugin in self.plugins.values():
            plugin.subscribe()

    def _move(self, new: State) -> None:
        old = self.state
        super()._move(new)
        self._api.SetEvent(self._state_events[new])
        if new is not old:
            self._api.ResetEvent(self._state_events[old])

    def _poke_server(self) -> None:
        console = self.plugins.get('console')
        getattr(console, 'interrupt_main', _interrupt_main)()


def _interrupt_main() -> None:
    """Have the main thread run Python's handler of SIGINT, also if it sleeps."""
    import _thread

    _thread.interrupt_main()
    sigint = _sigint_event()
    if sigint is not None:
        _win32('win32event').SetEvent(sigint)


class ConsoleCtrlHandler(Plugin):
    """Ctrl-C, Ctrl-Break, and the end of the console, the session and the machine.

    The first two do what ``bus.plugins['signals']`` has for SIGINT and
    SIGBREAK (for SIGINT if it has none for SIGBREAK): by default exit the bus,
    the second time skip every wait, the third time leave. They are answered
    from the bus's start on, in a thread of Windows' own, also while the main
    thread hangs. While the bus rests, STOPPED or EXITING, they are Python's.

    ``close_timeout``: seconds that the end of the console waits for the end of
    the process, before Windows ends it; that is after 5 (HandlerRoutine
    callback function, Windows console documentation).
    """

    def __init__(self, bus: Bus) -> None:
        super().__init__(bus)
        self.close_timeout = 4.5
        self.is_set = False
        self._handler = self.handle  # each look at a bound method makes a new one
        self._own_signals = SignalHandler(bus)
        self._previous: Any = None
        self._asked = False
        self._given_back = threading.Event()

    @on('start', priority=0)
    def start(self) -> None:
        """Take the console's events over, and SIGINT if this is the main thread."""
        if self.is_set:
            return
        api = _win32('win32api')
        try:
            api.SetConsoleCtrlHandler(self._handler, True)
        except api.error as error:
            self.bus.log(f'Console events are not handled: {error}', level=40)
            return
        self.is_set = True
        self._given_back.clear()
        if _in_main_thread():
            self._previous = signal.signal(signal.SIGINT, self._interrupted)

    def unsubscribe(self) -> None:
        """Unplug, and give both back."""
        super().unsubscribe()
        if not self.is_set:
            return
        self.is_set = False
        self._given_back.set()
        _win32('win32api').SetConsoleCtrlHandler(self._handler, False)
        if signal.getsignal(signal.SIGINT) == self._interrupted:
            signal.signal(signal.SIGINT, self._previous)

    def handle(self, event: int) -> bool:
        """Answer one event; Windows calls it in a thread of its own.

        :returns: whether that was all: if not, Python's handler is next.
        """
        if event in _CLOSING_EVENTS:
            self._close(_CLOSING_EVENTS[event])
            return True
        if event not in _CTRL_EVENTS or not self._is_running():
            return False
        self._signal(_CTRL_EVENTS[event])
        return True

    def _is_running(self) -> bool:
        resting = self.bus.state in (State.STOPPED, State.EXITING)
        return not resting or self.bus._current is not None

    def _signal(self, name: str) -> None:
        bus = self.bus
        signals = bus.plugins.get('signals')
        if not isinstance(signals, SignalHandler):
            signals = self._own_signals
        if name not in signals.handlers:
            name = 'SIGINT'
        signals._handle(getattr(signal, name), None)
        starts_here = bus._owner == threading.main_thread().ident
        if bus.hurried and bus.state is State.STARTING and starts_here:
            self.interrupt_main()

    def interrupt_main(self) -> None:
        """Have the main thread see whether its start, or its server, is to end."""
        self._asked = self.is_set
        _interrupt_main()

    def _interrupted(self, signum: int, frame: object) -> None:
        """Python's handler of SIGINT, in the main thread."""
        if not self._asked:  # a Ctrl-C that was left to Python, or not from the console
            if callable(self._previous):
                self._previous(signum, frame)
            return
        self._asked = False
        if self.bus._serving == threading.get_ident():
            self.bus._urgent()
        if self.bus.hurried:
            self.bus.hurry()

    def _close(self, name: str) -> None:
        self.bus.post('log', f'Console event {name}: shutting down bus', 20)
        # With nobody in block(), whoever asks for the exit runs it.
        threading.Thread(
            target=_carry_out, args=(self.bus, 'exit'), name='wspbus exit', daemon=True
        ).start()
        # At this thread's return Windows ends the process, whatever it is at: the
        # exit, the log's last lines. What ends by itself takes this thread along.
        self._given_back.wait(self.close_timeout)


class CommandEvents(Plugin):
    """Other processes of the same user ask for a stop, exit, restart or graceful.

    One event per command, named by `event_name`; a thread waits for them from
    the bus's start to its exit.
    """

    def __init__(self, bus: Bus) -> None:
        super().__init__(bus)
        self._ending: Any = None

    @on('start', priority=0)
    def start(self) -> None:
        """Make the events, and wait for them in a thread."""
        if self._ending is not None:
            return
        api = _win32('win32event')
        self._ending = api.CreateEvent(None, True, False, None)
        events = [
            api.CreateEvent(None, False, False, event_name(command, os.getpid()))
            for command in COMMANDS
        ]
        threading.Thread(
            target=self._answer,
            args=(api, [self._ending, *events]),
            name='wspbus commands',
            daemon=True,
        ).start()

    @on('exit')
    def exit(self) -> None:
        """Take no commands any more."""
        if self._ending is not None:
            _win32('win32event').SetEvent(self._ending)
            self._ending = None

    def unsubscribe(self) -> None:
        """Unplug."""
        super().unsubscribe()
        self.exit()

    def _answer(self, api: Any, events: list[Any]) -> None:
        while True:
            came = api.WaitForMultipleObjects(events, False, api.INFINITE)
            if came == api.WAIT_OBJECT_0:
                return
            command = COMMANDS[came - api.WAIT_OBJECT_0 - 1]
            self.bus.post('log', f'Told to {command} by another process.', 20)
            _carry_out(self.bus, command)


def _carry_out(bus: Bus, command: str) -> None:
    """Call a method of the bus, for somebody who is not there to hear of an error."""
    try:
        method: Callable[[], None] = getattr(bus, command)
        method()
    except ChannelFailures:
        pass  # nobody is in block(), so it was done here; each is in the log
    except WSPBusError as error:
        bus.post('log', str(error), 40)


def signal_child(pid: int, command: str) -> None:
    """Ask the started win32 bus of another process for one of ``COMMANDS``.

    :raises ValueError: if it is none of them.
    :raises NoSuchBus: if there is no such bus, or this user must not.
    :raises NeedsPywin32: if there is no pywin32.
    """
    if command not in COMMANDS:
        raise ValueError(f'{command!r} is none of {", ".join(COMMANDS)}')
    api = _win32('win32event')
    try:
        event = api.OpenEvent(api.EVENT_MODIFY_STATE, False, event_name(command, pid))
    except api.error as error:
        raise NoSuchBus(pid, error.strerror) from error
    api.SetEvent(event)


def make_bus(global_conf: Mapping[str, Any]) -> Win32Bus:
    """``use = egg:paste_wspbus#win32`` (paste_wspbus.bus_factory).

    :raises NeedsPywin32: if there is no pywin32.
    """
    return Win32Bus()
