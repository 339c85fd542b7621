"""The Windows bus, on stand-ins for pywin32's modules; test_wine.py has it for real."""

import _thread
import contextlib
import os
import queue
import signal
import sys
import threading
import time
import types
import weakref

import pytest

from paste_wspbus.bus import Bus, State
from paste_wspbus.bus.channels import ChannelFailures
from paste_wspbus.errors import RestartImpossible
from paste_wspbus.plugins import signals as signal_plugin
from paste_wspbus.plugins import win32
from paste_wspbus.plugins.signals import SignalHandler
from paste_wspbus.plugins.win32 import (
    ConsoleCtrlHandler,
    EventQueue,
    NeedsPywin32,
    NoSuchBus,
    Win32Bus,
    event_name,
    make_bus,
    signal_child,
)
from tests.kit import TIMEOUT, eventually, run

CTRL_C, CTRL_BREAK, CTRL_CLOSE, CTRL_LOGOFF, CTRL_SHUTDOWN = 0, 1, 2, 5, 6


class Win32Error(Exception):
    """pywintypes.error: (winerror, function, strerror)."""

    def __init__(self, winerror, function, strerror):
        super().__init__(winerror, function, strerror)
        self.strerror = strerror


class Event:
    """What a handle of an event stands for."""

    def __init__(self, manual, is_set):
        self.manual, self.is_set = manual, is_set


class Win32Event(types.ModuleType):
    """win32event, as Microsoft's documentation of these functions has them."""

    INFINITE = 0xFFFFFFFF
    WAIT_OBJECT_0 = 0
    WAIT_TIMEOUT = 258
    EVENT_MODIFY_STATE = 2
    error = Win32Error

    def __init__(self):
        super().__init__('win32event')
        self.changed = threading.Condition()
        self.named = weakref.WeakValueDictionary()
        #: Of each wait that was begun: its milliseconds, and the ids of its events.
        self.waits, self.awaited = [], []

    def CreateEvent(self, security, manual, initial, name):
        event = self.named.get(name) if name else None
        if event is None:
            event = Event(manual, initial)
            if name:
                self.named[name] = event
        return event

    def OpenEvent(self, access, inherit, name):
        if name not in self.named:
            raise Win32Error(2, 'OpenEvent', 'File not found.')
        return self.named[name]

    def SetEvent(self, event):
        with self.changed:
            event.is_set = True
            self.changed.notify_all()

    def ResetEvent(self, event):
        with self.changed:
            event.is_set = False

    def WaitForMultipleObjects(self, events, wait_all, milliseconds):
        assert not wait_all
        assert 0 < milliseconds <= self.INFINITE
        self.awaited.append([id(event) for event in events])
        self.waits.append(milliseconds)
        timeout = None if milliseconds == self.INFINITE else milliseconds / 1000
        with self.changed:
            if not self.changed.wait_for(
                lambda: any(event.is_set for event in events),
                min(timeout or TIMEOUT, TIMEOUT),
            ):
                assert timeout is not None, 'The wait would never end'
                return self.WAIT_TIMEOUT
            came = next(i for i, event in enumerate(events) if event.is_set)
            if not events[came].manual:
                events[came].is_set = False
            return self.WAIT_OBJECT_0 + came


class Win32Api(types.ModuleType):
    """win32api's console, with a keyboard."""

    error = Win32Error

    def __init__(self):
        super().__init__('win32api')
        self.handlers = []

    def SetConsoleCtrlHandler(self, handler, add):
        if add:
            self.handlers.append(handler)
        else:
            self.handlers.remove(handler)

    def press(self, event):
        """Call the handlers, the last one first; whether one of them took the event."""
        taken = []
        thread = threading.Thread(
            target=lambda: taken.extend(
                handler for handler in reversed(self.handlers) if handler(event)
            ),
            daemon=True,
        )
        thread.start()
        thread.join(TIMEOUT)
        assert not thread.is_alive()
        return bool(taken)


@pytest.fixture(autouse=True)
def event(monkeypatch):
    module = Win32Event()
    monkeypatch.setitem(sys.modules, 'win32event', module)
    return module


@pytest.fixture(autouse=True)
def console(monkeypatch):
    module = Win32Api()
    monkeypatch.setitem(sys.modules, 'win32api', module)
    return module


@pytest.fixture
def bus():
    made = make_bus({})
    yield made
    if made.state is not State.EXITING:
        made.exit()
    for name in ('console', 'commands'):
        made.plugins[name].unsubscribe()


@contextlib.contextmanager
def blocked(bus):
    """The bus is started and in block(), in a thread; that ends inside."""
    bus.start()
    thread = threading.Thread(target=bus.block, daemon=True)
    bus.turn.keep_for(-1)  # nobody runs a transition in its place
    thread.start()
    eventually(lambda: bus.turn.blocker is not None)
    yield thread
    thread.join(TIMEOUT)
    assert not thread.is_alive()


def in_thread(function, *args):
    thread = threading.Thread(target=function, args=args, daemon=True)
    thread.start()
    return thread


# -- without pywin32


@pytest.mark.parametrize('module', ['win32event', 'win32api'])
def test_without_pywin32_one_error_names_the_extra(module, monkeypatch):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(NeedsPywin32, match=r'paste_wspbus\[win32\]') as raised:
        make_bus({}).plugins['console'].start()
    assert raised.value.module == module


def test_the_command_says_in_one_line_that_pywin32_is_missing(tmp_path):
    ini = """
    [wspbus:main]
    use = call:paste_wspbus.plugins.win32:make_bus
    [app:main]
    use = egg:paste_wspbus#hello
    [server:main]
    use = egg:waitress
    host = 127.0.0.1
    port = 0
    """
    process = run(tmp_path, 'site.ini', files={'site.ini': ini}, command='module')
    assert process.code == 2
    assert process.out.text == ''
    (line,) = process.err.text.splitlines()
    assert 'paste_wspbus[win32]' in line


# -- the queue


def test_a_queue_gives_what_came_first_first():
    items = EventQueue()
    assert items.empty()
    for item in range(3):
        items.put(item)
    assert not items.empty()
    assert [items.get() for _ in range(3)] == [0, 1, 2]
    assert items.empty()


def test_a_get_that_waits_is_woken_by_a_put_and_by_nothing_else(event):
    items, got = EventQueue(), []
    thread = in_thread(lambda: got.append(items.get()))
    eventually(lambda: event.waits)
    items.put('late')
    thread.join(TIMEOUT)
    assert got == ['late']
    assert event.waits == [event.INFINITE]


def test_two_that_wait_get_one_item_each(event):
    items, got = EventQueue(), []
    threads = [in_thread(lambda: got.append(items.get())) for _ in range(2)]
    eventually(lambda: len(event.waits) == 2)
    with event.changed:  # neither can look before both are there
        items.put(1)
        items.put(2)
    for thread in threads:
        thread.join(TIMEOUT)
    assert sorted(got) == [1, 2]


@pytest.mark.parametrize('seconds', [0, -1, 0.03])
def test_a_get_gives_up_after_its_time_and_not_before(seconds):
    before = time.perf_counter()
    with pytest.raises(queue.Empty):
        EventQueue().get(timeout=seconds)
    assert time.perf_counter() - before >= seconds


def test_an_item_that_is_there_is_given_without_time():
    items = EventQueue()
    items.put(1)
    assert items.get(timeout=0) == 1


def test_a_wait_that_ends_early_goes_on(event, monkeypatch):
    waits = event.WaitForMultipleObjects
    monkeypatch.setattr(
        event, 'WaitForMultipleObjects', lambda e, a, ms: waits(e, a, max(ms // 2, 1))
    )
    before = time.perf_counter()
    with pytest.raises(queue.Empty):
        EventQueue().get(timeout=0.05)
    assert time.perf_counter() - before >= 0.05


def test_a_time_of_years_fits_windows_32_bits(event):
    items = EventQueue()
    thread = in_thread(lambda: items.get(timeout=10**9))
    eventually(lambda: event.waits)
    assert event.waits[0] < event.INFINITE
    items.put(None)
    thread.join(TIMEOUT)


def test_a_main_thread_that_waits_answers_ctrl_c(event, monkeypatch):
    sigint = Event(True, True)  # from a Ctrl-C that was answered long ago
    monkeypatch.setattr(win32, '_sigint_event', lambda: sigint)

    def press():
        eventually(lambda: event.waits)
        _thread.interrupt_main()  # as Python's own console handler:
        event.SetEvent(sigint)  # the signal first, then the event

    thread = in_thread(press)
    with pytest.raises(KeyboardInterrupt):
        EventQueue().get()
    thread.join(TIMEOUT)
    assert len(event.waits) == 1
    assert id(sigint) in event.awaited[0]


def test_ctrl_c_wakes_no_other_thread(event, monkeypatch):
    sigint = Event(True, True)
    monkeypatch.setattr(win32, '_sigint_event', lambda: sigint)
    items = EventQueue()
    thread = in_thread(items.get)
    eventually(lambda: event.waits)
    items.put(None)
    thread.join(TIMEOUT)
    assert id(sigint) not in event.awaited[0]


# -- the bus


def test_the_event_of_the_state_that_the_bus_is_in_is_set(bus, event):
    def those_set():
        return {state for state in State if named(event, state.name).is_set}

    seen = []
    bus.subscribe('start', lambda: seen.append(those_set()))
    bus.subscribe('stop', lambda: seen.append(those_set()))
    bus.subscribe('exit', lambda: seen.append(those_set()))
    seen.append(those_set())
    bus.start()
    seen.append(those_set())
    bus.exit()
    assert seen == [
        {State.STOPPED},
        {State.STARTING},
        {State.STARTED},
        {State.STOPPING},
        {State.EXITING},
    ]


def named(event, what):
    return event.OpenEvent(0, False, event_name(what, os.getpid()))


def test_the_events_have_cherrypys_names():
    assert event_name('STARTED', 4711) == 'WSPBus STARTED Event (pid=4711)'


def test_an_exit_elsewhere_wakes_block_and_nothing_woke_it_before(bus, event):
    with blocked(bus):
        eventually(lambda: event.waits.count(event.INFINITE) >= 2)  # and the commands'
        quiet = len(event.waits)
        bus.exit()
    assert bus.state is State.EXITING
    assert set(event.waits[:quiet]) == {event.INFINITE}


def test_main_is_published_at_its_interval(bus):
    times = []

    def beat():
        times.append(time.perf_counter())
        if len(times) == 4:
            bus.exit()

    bus.subscribe('main', beat)
    bus.start()
    bus.block(interval=0.02)
    assert len(times) == 4
    assert times[-1] - times[0] >= 3 * 0.02 - 0.005


def test_the_drain_delay_is_slept_on_an_event_and_a_hurry_ends_it(bus):
    bus.drain_delay = TIMEOUT * 2
    with blocked(bus):
        bus.exit()
        eventually(lambda: bus.state is State.DRAINING)
        bus.hurry()
    assert bus.state is State.EXITING


def test_a_start_that_fails_is_rolled_back_and_the_states_told(bus, event):
    @bus.subscribe('start')
    def fail():
        raise OSError('no database')

    with pytest.raises(ChannelFailures):
        bus.start()
    assert named(event, 'STOPPED').is_set
    assert not named(event, 'STARTING').is_set


# -- the console


def test_ctrl_c_exits_the_bus_in_the_thread_that_blocks(bus, console):
    threads = []
    bus.subscribe('stop', lambda: threads.append(threading.current_thread()))
    with blocked(bus) as thread:
        assert console.press(CTRL_C)
    assert bus.state is State.EXITING
    assert threads == [thread]


@pytest.fixture
def each_counts(monkeypatch):
    """Two keys at once are two wishes."""
    monkeypatch.setattr(signal_plugin, 'WINDOW', 0)


@pytest.mark.usefixtures('each_counts')
def test_the_second_ctrl_c_hurries_and_the_third_leaves(bus, console, monkeypatch):
    forced = []
    monkeypatch.setattr(bus, 'force_exit', forced.append)
    hangs, goes_on = threading.Event(), threading.Event()

    @bus.subscribe('stop')
    def hang():
        hangs.set()
        assert goes_on.wait(TIMEOUT)

    with blocked(bus):
        console.press(CTRL_C)
        assert hangs.wait(TIMEOUT)
        assert not bus.hurried
        console.press(CTRL_C)
        assert bus.hurried
        assert not forced
        console.press(CTRL_C)
        assert forced == ['Asked to stop three times']
        goes_on.set()


@pytest.mark.usefixtures('each_counts')
def test_while_the_site_exits_the_keys_still_count(bus, console):
    taken = []
    bus.subscribe('exit', lambda: taken.append(console.press(CTRL_C)))
    with blocked(bus):
        console.press(CTRL_C)
    assert taken == [True]
    assert bus.hurried


@pytest.mark.usefixtures('each_counts')
def test_keys_and_signals_are_counted_together(bus, console):
    signals = bus.plugins['signals'] = SignalHandler(bus)
    hangs, goes_on = threading.Event(), threading.Event()

    @bus.subscribe('stop')
    def hang():
        hangs.set()
        assert goes_on.wait(TIMEOUT)

    with blocked(bus):
        signals.handle(signal.SIGTERM, None)
        assert hangs.wait(TIMEOUT)
        console.press(CTRL_BREAK)
        assert bus.hurried
        goes_on.set()


def test_the_site_s_table_of_signals_says_what_ctrl_c_does(bus, console):
    bus.plugins['signals'] = SignalHandler(bus, {'SIGINT': 'graceful'})
    told = threading.Event()
    bus.subscribe('graceful', told.set)
    with blocked(bus):
        console.press(CTRL_C)
        assert told.wait(TIMEOUT)
        assert bus.state is State.STARTED
        bus.exit()


def test_ctrl_break_is_what_the_table_has_for_sigbreak(bus, console, monkeypatch):
    signals = bus.plugins['signals'] = SignalHandler(bus, {'SIGUSR1': 'graceful'})
    # Where it does not exist, another one lends its number, and so its line in the table.
    monkeypatch.setattr(signal, 'SIGBREAK', signal.SIGUSR1, raising=False)
    signals.handlers['SIGBREAK'] = 'graceful'
    told = threading.Event()
    bus.subscribe('graceful', told.set)
    with blocked(bus):
        console.press(CTRL_BREAK)
        assert told.wait(TIMEOUT)
        bus.exit()


def test_a_foreign_plugin_in_the_place_of_signals_does_not_silence_the_keys(
    bus, console
):
    bus.plugins['signals'] = object()
    with blocked(bus):
        assert console.press(CTRL_C)
    assert bus.state is State.EXITING


def test_while_the_bus_rests_the_keys_are_python_s(bus, console):
    bus.start()
    bus.exit()
    assert console.handlers
    assert not console.press(CTRL_C)
    with pytest.raises(KeyboardInterrupt):
        signal.raise_signal(signal.SIGINT)


def test_before_the_start_the_console_is_not_touched(bus, console):
    assert console.handlers == []
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_an_unknown_event_is_left_to_others(bus, console):
    bus.start()
    assert not console.press(3)
    assert bus.state is State.STARTED


def test_ctrl_c_in_a_start_listener_takes_effect_before_the_next(bus, console):
    called = []
    bus.subscribe('start', lambda: called.append(console.press(CTRL_C)))
    bus.subscribe('start', lambda: called.append('next'))
    bus.start()
    assert called == [True]
    assert bus.state is State.EXITING


@pytest.mark.usefixtures('each_counts')
def test_the_second_ctrl_c_interrupts_a_start_listener_of_the_main_thread(bus, console):
    pressed = threading.Event()

    def press():
        console.press(CTRL_C)
        console.press(CTRL_C)
        pressed.set()

    @bus.subscribe('start')
    def slow():
        in_thread(press)
        while not pressed.is_set():  # so that Python comes to run its handler
            pressed.wait(0.01)
        pressed.wait(0.01)
        raise AssertionError('not interrupted')

    with pytest.raises(KeyboardInterrupt):
        bus.start()
    assert bus.state is State.EXITING


def test_a_start_in_another_thread_is_not_interrupted_in_the_main_thread(bus, console):
    slow, goes_on = threading.Event(), threading.Event()

    @bus.subscribe('start')
    def start():
        slow.set()
        assert goes_on.wait(TIMEOUT)

    thread = in_thread(bus.start)
    assert slow.wait(TIMEOUT)
    console.press(CTRL_C)
    console.press(CTRL_C)
    goes_on.set()
    thread.join(TIMEOUT)
    assert bus.state is State.EXITING


@pytest.mark.parametrize('ctrl_event', [CTRL_CLOSE, CTRL_LOGOFF, CTRL_SHUTDOWN])
def test_the_end_of_the_console_waits_for_the_site_s(bus, console, ctrl_event):
    plugin = bus.plugins['console']
    plugin.close_timeout = TIMEOUT
    plugin.start()
    plugin.unsubscribe()
    plugin.subscribe()  # as before
    was_waiting = []
    handler = threading.Thread(target=console.press, args=(ctrl_event,), daemon=True)
    bus.subscribe('exit', lambda: was_waiting.append(handler.is_alive()))
    with blocked(bus):
        handler.start()
    assert was_waiting == [True]
    handler.join(0.1)
    assert handler.is_alive()  # for the process is
    plugin.unsubscribe()
    handler.join(TIMEOUT)
    assert not handler.is_alive()


def test_the_end_of_the_console_waits_in_vain_for_so_long_only(bus, console):
    bus.plugins['console'].close_timeout = 0.01
    hangs, goes_on, exited = threading.Event(), threading.Event(), threading.Event()

    @bus.subscribe('stop')
    def hang():
        hangs.set()
        assert goes_on.wait(TIMEOUT)

    bus.subscribe('exit', exited.set)
    bus.start()
    assert console.press(CTRL_CLOSE)
    assert hangs.wait(TIMEOUT)
    assert bus.state is State.STOPPING
    goes_on.set()
    assert exited.wait(TIMEOUT)


def test_a_console_that_cannot_be_had_does_not_keep_the_site_from_starting(
    bus, console, monkeypatch
):
    def refuse(handler, add):
        raise Win32Error(6, 'SetConsoleCtrlHandler', 'Invalid handle.')

    monkeypatch.setattr(console, 'SetConsoleCtrlHandler', refuse)
    logged = []
    bus.subscribe('log', lambda msg, level: logged.append((level, msg)))
    bus.start()
    assert bus.state is State.STARTED
    assert any(level == 40 and 'Invalid handle' in msg for level, msg in logged)


def test_unplugged_it_gives_the_console_and_sigint_back(bus, console):
    bus.start()
    assert len(console.handlers) == 1
    assert signal.getsignal(signal.SIGINT) is not signal.default_int_handler
    bus.plugins['console'].unsubscribe()
    assert console.handlers == []
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    bus.plugins['console'].unsubscribe()  # does no harm


def test_a_second_start_takes_the_console_once(bus, console):
    bus.start()
    bus.stop()
    bus.start()
    assert len(console.handlers) == 1


def test_sigint_that_is_not_the_console_s_goes_where_it_went(bus):
    bus.start()
    with pytest.raises(KeyboardInterrupt):
        signal.raise_signal(signal.SIGINT)


def test_the_console_rides_the_default_bus_too(console):
    bus = Bus()
    plugin = ConsoleCtrlHandler(bus)
    plugin.subscribe()
    try:
        with blocked(bus):
            console.press(CTRL_C)
        assert bus.state is State.EXITING
    finally:
        plugin.unsubscribe()


@pytest.mark.parametrize('plugged', [True, False])
@pytest.mark.parametrize('swallowed', [0, 1])
def test_an_exit_elsewhere_ends_a_server_that_blocks(bus, plugged, swallowed):
    if not plugged:
        bus.plugins['console'].unsubscribe()
    serving, ended = threading.Event(), []

    def server():
        while len(ended) <= swallowed:
            try:
                serving.set()
                while True:
                    threading.Event().wait(0.01)
            except KeyboardInterrupt:
                ended.append(True)

    def leave():
        assert serving.wait(TIMEOUT)
        bus.exit()

    bus.subscribe('start', server, blocking=True)
    thread = in_thread(leave)
    bus.start()
    thread.join(TIMEOUT)
    assert len(ended) == swallowed + 1
    assert bus.state is State.EXITING


# -- commands of other processes


@pytest.mark.parametrize('command', ['exit', 'stop'])
def test_another_process_can_ask_for_an_end(bus, command):
    stopped = threading.Event()
    bus.subscribe('stop', stopped.set)
    with blocked(bus):
        signal_child(os.getpid(), command)
        assert stopped.wait(TIMEOUT)
        bus.exit()


def test_another_process_can_ask_for_more_than_one_thing(bus):
    told = threading.Semaphore(0)
    bus.subscribe('graceful', told.release)
    with blocked(bus):
        for _ in range(2):
            signal_child(os.getpid(), 'graceful')
            assert told.acquire(timeout=TIMEOUT)
        signal_child(os.getpid(), 'exit')


def test_a_command_that_fails_is_logged_and_the_next_is_heard(bus):
    logged, told = threading.Event(), threading.Event()

    def log(msg, level):
        if 'Restart refused' in msg:
            logged.set()

    def refuse():
        raise RestartImpossible('its program is gone')

    bus.subscribe('log', log)
    bus.subscribe('graceful', told.set)
    bus.check_restart = refuse
    bus.start()
    signal_child(os.getpid(), 'restart')
    assert logged.wait(TIMEOUT)
    signal_child(os.getpid(), 'graceful')
    assert told.wait(TIMEOUT)


@pytest.mark.parametrize('end', ['stop', 'exit'])
def test_a_bus_that_starts_again_takes_commands_once(bus, end):
    told = threading.Event()
    bus.subscribe('graceful', told.set)
    bus.start()
    getattr(bus, end)()
    answering = bus.plugins['commands']._ending
    bus.start()
    assert answering in (None, bus.plugins['commands']._ending)
    signal_child(os.getpid(), 'graceful')
    assert told.wait(TIMEOUT)


def test_a_process_without_a_started_bus_takes_no_commands(bus):
    with pytest.raises(NoSuchBus, match='File not found') as raised:
        signal_child(os.getpid(), 'exit')
    assert raised.value.pid == os.getpid()
    bus.start()
    signal_child(os.getpid(), 'graceful')
    bus.exit()

    def refused():
        with contextlib.suppress(NoSuchBus):
            signal_child(os.getpid(), 'exit')
            return False
        return True

    eventually(refused)


def test_what_is_no_command_is_refused():
    with pytest.raises(ValueError, match="'reboot' is none of stop, exit"):
        signal_child(1, 'reboot')


def test_the_bus_is_one_that_the_ini_can_name():
    assert isinstance(make_bus({}), Win32Bus)
