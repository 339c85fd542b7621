"""The bus of a Windows process: it sleeps on win32 events, and handles console events.

It does what `cherrypy.process.win32` does for CherryPy's bus, and needs pywin32.
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
from paste_wspbus.bus.channels import ChannelFailures
from paste_wspbus.bus.server_run import ServerRun
from paste_wspbus.errors import WSPBusError
from paste_wspbus.plugins import Plugin, on
from paste_wspbus.plugins.signals import SignalHandler

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Any

#: The methods of the bus that `signal_child` can ask for.
COMMANDS = ('stop', 'exit', 'restart', 'graceful')

#: The largest number of milliseconds for WaitForMultipleObjects, which takes 32 bits: the
#: largest 32-bit value means INFINITE.
_LONGEST = 0x7FFFFFFF

#: The console events (<wincon.h>) after which the process itself decides when to end,
#: and the signal that Python makes of each.
_CTRL_EVENTS = {0: 'SIGINT', 1: 'SIGBREAK'}

#: The console events (<wincon.h>) after which Windows ends the process.
_CLOSING_EVENTS = {2: 'CTRL_CLOSE', 5: 'CTRL_LOGOFF', 6: 'CTRL_SHUTDOWN'}


class NeedsPywin32(WSPBusError):
    """The site asks for the win32 bus, but pywin32 is not installed.

    ``module`` is the module of pywin32 that is missing.
    """

    exit_code = 2

    def __init__(self, module: str) -> None:
        super().__init__(
            f'The win32 bus runs on Windows with pywin32, and there is no {module} '
            "here: pip install 'paste_wspbus[win32]'"
        )
        self.module = module


class NoSuchBus(WSPBusError):
    """No process with this ID has a started win32 bus that this user may command."""

    def __init__(self, pid: int, reason: str) -> None:
        super().__init__(f'Process {pid} takes no commands: {reason}')
        self.pid, self.reason = pid, reason


def _win32(module: str) -> Any:
    """Import a module of pywin32.

    :raises NeedsPywin32: if it cannot be imported.
    """
    from importlib import import_module

    try:
        return import_module(module)
    except ImportError as error:
        raise NeedsPywin32(module) from error


def _sigint_event() -> int | None:
    """Return the handle of the event that CPython sets at Ctrl-C to end its own sleeps.

    The C function has a private name. This is None if an interpreter does not have it.
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
    """A queue that sleeps on a win32 event: put, get and empty of `queue.SimpleQueue`.

    On Windows, a signal does not wake a thread that waits for a lock. But a main thread
    that waits for an item of this queue answers Ctrl-C.

    :raises NeedsPywin32: if there is no pywin32.
    """

    def __init__(self) -> None:
        self._items: deque[Any] = deque()
        self._api = _win32('win32event')
        self._arrived = self._api.CreateEvent(None, False, False, None)
        self._sigint = _sigint_event()

    def put(self, item: Any) -> None:
        """Add an item without waiting; any thread and any handler may call this."""
        self._items.append(item)
        self._api.SetEvent(self._arrived)

    def get(self, timeout: float | None = None) -> Any:
        """Take the first item; if there is none, wait for it.

        :param timeout: seconds; None stands for no limit.
        :raises queue.Empty: if no item came in that time.
        """
        until = None if timeout is None else time.perf_counter() + timeout
        while True:
            try:
                item = self._items.popleft()
            except IndexError:
                self._sleep(until)
                continue
            if self._items:  # the event has woken one thread, and another may sleep
                self._api.SetEvent(self._arrived)
            return item

    def empty(self) -> bool:
        """Whether there is no item."""
        return not self._items

    def _sleep(self, until: float | None) -> None:
        milliseconds = self._api.INFINITE
        if until is not None:
            # Before Python 3.13, time.monotonic() has steps of 16 ms on Windows.
            remaining = until - time.perf_counter()
            if remaining <= 0:
                raise Empty
            milliseconds = min(math.ceil(remaining * 1000), _LONGEST)
        events = [self._arrived]
        if self._sigint is not None and _in_main_thread():
            # A Ctrl-C before this line is raised in it. A later Ctrl-C ends the wait.
            self._api.ResetEvent(self._sigint)
            events.append(self._sigint)
        self._api.WaitForMultipleObjects(events, False, milliseconds)


def event_name(what: str, pid: int) -> str:
    """Return the name of an event of a bus, which is the name that CherryPy uses.

    For example: 'WSPBus STARTED Event (pid=7)'.

    :param what: the name of a state, or one of ``COMMANDS``.
    :param pid: the ID of the process that the bus belongs to.
    """
    return f'WSPBus {what} Event (pid={pid})'


class Win32Bus(Bus):
    """A Bus whose threads sleep on win32 events.

    The event of its present state (`event_name`) is set: another process can open it,
    and wait for it. ``plugins['console']`` answers console events, and
    ``plugins['commands']`` answers `signal_child`.

    :raises NeedsPywin32: if there is no pywin32.
    """

    queue_class = EventQueue  # type: ignore[assignment]

    @staticmethod
    def interrupts_class(**_: object) -> contextlib.AbstractContextManager[None]:
        """Return a context that does nothing: a signal ends the waits of this bus anyway."""
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

    def has_moved(self, old: State, new: State) -> None:
        """Set the event of the new state, and reset the event of the old one."""
        self._api.SetEvent(self._state_events[new])
        if new is not old:
            self._api.ResetEvent(self._state_events[old])

    def make_server_run(self, must_end: Callable[[], bool]) -> ServerRun:
        """Return the ServerRun that ends a blocking server by an interrupt of the main thread."""
        console = self.plugins.get('console')
        return _Run(must_end, getattr(console, 'interrupt_main', _interrupt_main))


class _Run(ServerRun):
    """A server in the main thread, which only the event of Ctrl-C wakes."""

    def __init__(
        self, must_end: Callable[[], bool], interrupt_main: Callable[[], None]
    ) -> None:
        super().__init__(must_end)
        self._interrupt_main = interrupt_main

    def poke(self) -> None:
        """Make the main thread run Python's handler of SIGINT, which calls `look`."""
        self._interrupt_main()


def _interrupt_main() -> None:
    """Make the main thread run Python's handler of SIGINT, even if it sleeps."""
    import _thread

    _thread.interrupt_main()
    sigint = _sigint_event()
    if sigint is not None:
        _win32('win32event').SetEvent(sigint)


class ConsoleCtrlHandler(Plugin):
    """Handles console events: Ctrl-C, Ctrl-Break, and the end of the console.

    The end of the session and the shutdown of the machine are such events, too. Ctrl-C
    and Ctrl-Break do what ``bus.plugins['signals']`` has for SIGINT and SIGBREAK (for
    SIGINT, if it has nothing for SIGBREAK). By default the first one exits the bus, the
    second one skips every wait, and the third one ends the process. The plugin handles
    them from the start of the bus on, in a thread that Windows makes, even while the
    main thread hangs. While the bus is STOPPED or EXITING, Python handles them.

    ``close_timeout`` is the number of seconds that the plugin waits for the end of the
    process after the end of the console. Windows ends the process after 5 seconds
    (HandlerRoutine callback function, Windows console documentation).
    """

    def __init__(self, bus: Bus) -> None:
        super().__init__(bus)
        self.close_timeout = 4.5
        self.is_set = False
        self._handler = self.handle  # each access would make a new bound method
        self._own_signals = SignalHandler(bus)
        self._previous: Any = None
        self._asked = False
        self._given_back = threading.Event()

    @on('start', priority=0)
    def start(self) -> None:
        """Handle console events from now on, and SIGINT if this is the main thread."""
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
        """Unplug, and set the previous handlers again."""
        super().unsubscribe()
        if not self.is_set:
            return
        self.is_set = False
        self._given_back.set()
        _win32('win32api').SetConsoleCtrlHandler(self._handler, False)
        if signal.getsignal(signal.SIGINT) == self._interrupted:
            signal.signal(signal.SIGINT, self._previous)

    def handle(self, event: int) -> bool:
        """Handle one event; Windows calls this in a new thread.

        :param event: its number in <wincon.h>.
        :returns: True if it was handled; if False, Windows calls Python's handler next.
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
        return not resting or self.bus.command is not None

    def _signal(self, name: str) -> None:
        bus = self.bus
        signals = bus.plugins.get('signals')
        if not isinstance(signals, SignalHandler):
            signals = self._own_signals
        if name not in signals.handlers:
            name = 'SIGINT'
        signals.handle(getattr(signal, name), None)
        starts_here = bus.turn.owner == threading.main_thread().ident
        if bus.hurried and bus.state is State.STARTING and starts_here:
            self.interrupt_main()

    def interrupt_main(self) -> None:
        """Make the main thread check whether its start or its server must end."""
        self._asked = self.is_set
        _interrupt_main()

    def _interrupted(self, signum: int, frame: object) -> None:
        """Handle SIGINT in the main thread, in the place of Python's handler."""
        if not self._asked:  # it is for Python's handler, or not from the console
            if callable(self._previous):
                self._previous(signum, frame)
            return
        self._asked = False
        server = self.bus.serving
        if server is not None and server.thread == threading.get_ident():
            server.look()
        if self.bus.hurried:
            self.bus.hurry()

    def _close(self, name: str) -> None:
        self.bus.post('log', f'Console event {name}: shutting down bus', 20)
        # If no thread is in block(), the thread that asks for the exit runs it.
        threading.Thread(
            target=_carry_out, args=(self.bus, 'exit'), name='wspbus exit', daemon=True
        ).start()
        # When this thread returns, Windows ends the process, even in the middle of the
        # exit or of its last log lines. The wait ends early if the process itself ends.
        self._given_back.wait(self.close_timeout)


class CommandEvents(Plugin):
    """Lets other processes of the same user stop, exit, restart or reload the bus.

    There is one event for each command; `event_name` returns its name. A thread waits for
    the events from the start of the bus to its exit.
    """

    def __init__(self, bus: Bus) -> None:
        super().__init__(bus)
        self._ending: Any = None

    @on('start', priority=0)
    def start(self) -> None:
        """Make the events, and start the thread that waits for them."""
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
        """Accept no more commands."""
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
            self.bus.post('log', f'Another process has asked for {command}.', 20)
            _carry_out(self.bus, command)


def _carry_out(bus: Bus, command: str) -> None:
    """Call a method of the bus. Log its errors, because the sender does not get them."""
    try:
        method: Callable[[], None] = getattr(bus, command)
        method()
    except ChannelFailures:
        pass  # no thread is in block(), so this one ran it; the log has each error
    except WSPBusError as error:
        bus.post('log', str(error), 40)


def signal_child(pid: int, command: str) -> None:
    """Ask the started win32 bus of another process for one of ``COMMANDS``.

    :param pid: the ID of the process.
    :raises ValueError: if ``command`` is not one of them.
    :raises NoSuchBus: if there is no such bus, or this user may not command it.
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
    """Make the bus of ``use = egg:paste_wspbus#win32`` in [wspbus:main].

    Its entry point is in the group paste_wspbus.bus_factory.

    :raises NeedsPywin32: if there is no pywin32.
    """
    return Win32Bus()
