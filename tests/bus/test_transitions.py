"""Transitions: who runs them, in which order, and what becomes of failures."""

import asyncio
import contextlib
import os
import signal
import threading
import time
from concurrent.futures import Future
from unittest import mock

import pytest

from paste_wspbus.bus import TRANSITIONS, Bus, ChannelFailures, State
from paste_wspbus.errors import IllegalTransition, WouldDeadlock, WSPBusError
from tests.kit.processes import python

STARTED_LOG = ['Bus STARTING', 'Bus STARTED']
STOPPED_LOG = ['Bus STOPPING', 'Bus STOPPED']
EXITED_LOG = ['Bus EXITING', 'Bus EXITED']
JOIN_LOG = ['Waiting for child threads to terminate...']

TIMEOUT = 30

interrupts = pytest.mark.parametrize(
    'interrupt', [KeyboardInterrupt, SystemExit(3)], ids=['ctrl-c', 'sys.exit']
)


@pytest.fixture
def record(bus, calls):
    """Have a call of each of these channels recorded."""

    def record(*channels, **kwargs):
        for channel in channels:
            bus.subscribe(
                channel, lambda channel=channel: calls.append(channel), **kwargs
            )

    return record


def spawn(function, *args, **kwargs):
    """Call it in a thread; the Future has what it returned or raised."""
    future = Future()

    def run():
        try:
            future.set_result(function(*args, **kwargs))
        except BaseException as error:
            future.set_exception(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    future.ident = thread.ident
    return future


def spawn_block(bus, **kwargs):
    """Have a thread in block(); return when it is there."""
    blocking = threading.Event()
    bus.subscribe('main', blocking.set)
    future = spawn(bus.block, interval=0.001, **kwargs)
    assert blocking.wait(TIMEOUT)
    bus.unsubscribe('main', blocking.set)
    return future


def raiser(error, **attributes):
    return mock.Mock(
        side_effect=error, **{'priority': 50, '__qualname__': 'raiser', **attributes}
    )


def read_until(process, line):
    lines = []
    for got in process.stdout:
        lines.append(got.rstrip('\n'))
        if lines[-1] == line:
            return lines
    raise AssertionError(f'{line!r} never came: {lines[-20:]}')


# -- the table ----------------------------------------------------------------


def test_the_table_has_a_way_out_of_every_state():
    assert set(TRANSITIONS) == set(State)
    assert all(TRANSITIONS.values())


@pytest.mark.parametrize(
    'old, new',
    [
        ('STOPPED', 'STARTED'),
        ('STARTING', 'STOPPED'),
        ('STARTING', 'EXITING'),
        ('STARTED', 'STARTING'),
        ('STARTED', 'EXITING'),
        ('DRAINING', 'STARTED'),
        ('STOPPING', 'EXITING'),
        ('EXITING', 'STOPPING'),
    ],
)
def test_the_table_has_no_shortcut(old, new):
    assert State[new] not in TRANSITIONS[State[old]]


def test_each_channel_is_published_in_its_state(bus, calls):
    for channel in ('start', 'graceful', 'drain', 'stop', 'exit'):
        bus.subscribe(
            channel, lambda channel=channel: calls.append((channel, bus.state.name))
        )
    bus.start()
    bus.graceful()
    bus.exit()
    assert calls == [
        ('start', 'STARTING'),
        ('graceful', 'STARTED'),
        ('drain', 'DRAINING'),
        ('stop', 'STOPPING'),
        ('exit', 'EXITING'),
    ]


def test_a_new_bus_is_stopped():
    bus = Bus()
    assert bus.state is bus.states.STOPPED
    assert repr(bus.state) == 'states.STOPPED'


def test_start_calls_the_start_listeners_and_logs_its_states(bus, calls, record, log):
    record('start', 'start', 'stop', 'exit')
    bus.start()
    assert calls == ['start', 'start']
    assert bus.state is State.STARTED
    assert log == STARTED_LOG


def test_stop_calls_the_stop_listeners_and_logs_its_states(bus, calls, record, log):
    bus.start()
    log.clear()
    record('start', 'stop', 'stop', 'exit')
    bus.stop()
    assert calls == ['stop', 'stop']
    assert bus.state is State.STOPPED
    assert log == STOPPED_LOG


def test_exit_stops_first(bus, calls, record, log):
    bus.start()
    record('exit', 'stop', 'start')
    bus.exit()
    assert calls == ['stop', 'exit']
    assert bus.state is State.EXITING
    assert log == STARTED_LOG + STOPPED_LOG + EXITED_LOG


def test_exit_after_stop_stops_nothing_twice(bus, calls, record, log):
    record('stop', 'exit')
    bus.start()
    bus.stop()
    bus.exit()
    assert calls == ['stop', 'exit']
    assert log == STARTED_LOG + STOPPED_LOG + EXITED_LOG


def test_graceful_publishes_and_logs_and_keeps_the_state(bus, calls, record, log):
    record('graceful', 'stop')
    bus.start()
    bus.graceful()
    assert calls == ['graceful']
    assert bus.state is State.STARTED
    assert log == [*STARTED_LOG, 'Bus graceful']


def test_stop_on_a_fresh_bus_publishes_and_logs(bus, calls, record, log):
    record('stop')
    bus.stop()
    assert calls == ['stop']
    assert log == STOPPED_LOG


def test_exit_on_a_fresh_bus_publishes_and_logs(bus, calls, record, log):
    record('stop', 'exit')
    bus.exit()
    assert calls == ['stop', 'exit']
    assert log == STOPPED_LOG + EXITED_LOG


def test_graceful_on_a_fresh_bus_publishes_and_logs(bus, calls, record, log):
    record('graceful')
    bus.graceful()
    assert calls == ['graceful']
    assert log == ['Bus graceful']


def test_start_works_again_after_stop_and_after_exit(bus, calls, record):
    record('start', 'stop', 'exit')
    bus.start()
    bus.stop()
    bus.start()
    bus.exit()
    bus.start()
    assert bus.state is State.STARTED
    assert calls == ['start', 'stop', 'start', 'stop', 'exit', 'start']


def test_start_on_a_started_bus_names_both_states(bus, calls, record):
    bus.start()
    record('start')
    with pytest.raises(IllegalTransition, match=r'STARTED.*STARTING') as caught:
        bus.start()
    assert isinstance(caught.value, WSPBusError)
    assert (caught.value.old, caught.value.new) == (State.STARTED, State.STARTING)
    assert bus.state is State.STARTED
    assert calls == []


@pytest.mark.parametrize('method', ['stop', 'exit'])
def test_doing_again_what_was_done_is_a_no_op(bus, calls, record, log, method):
    bus.start()
    getattr(bus, method)()
    log.clear()
    record('stop', 'exit')
    getattr(bus, method)()
    assert calls == log == []


# -- drain --------------------------------------------------------------------


def test_a_stop_passes_draining_where_somebody_listens(bus, calls, record, log):
    record('drain', 'stop')
    bus.start()
    bus.stop()
    assert calls == ['drain', 'stop']
    assert log == STARTED_LOG + STOPPED_LOG


def test_a_stop_passes_draining_where_a_drain_delay_is_set(bus):
    bus.drain_delay = 0.001
    bus.start()
    waiter = spawn(bus.wait, State.DRAINING, interval=0.001, channel='waiting')
    wait_for_waiter(bus)
    bus.stop()
    assert waiter.result(TIMEOUT) is State.DRAINING


def test_a_stop_passes_no_draining_otherwise(bus):
    bus.start()
    waiter = spawn(
        bus.wait, (State.DRAINING, State.STOPPING), interval=0.001, channel='waiting'
    )
    wait_for_waiter(bus)
    bus.stop()
    assert waiter.result(TIMEOUT) is State.STOPPING


def test_what_was_not_started_is_not_drained(bus, calls, record):
    record('drain', 'stop')
    bus.stop()
    assert calls == ['stop']


def test_a_failing_drain_listener_does_not_keep_the_site_from_stopping(
    bus, calls, record, log
):
    bus.subscribe('drain', raiser(ValueError))
    record('stop')
    bus.start()
    with pytest.raises(ChannelFailures):
        bus.stop()
    assert calls == ['stop']
    assert bus.state is State.STOPPED
    assert any("Error in 'drain' listener" in line for line in log)


@pytest.mark.parametrize('method', ['stop', 'exit'])
def test_an_interrupt_while_draining_still_stops(bus, calls, record, method):
    bus.subscribe('drain', raiser(KeyboardInterrupt))
    record('stop', 'exit')
    bus.start()
    with pytest.raises(KeyboardInterrupt):
        getattr(bus, method)()
    assert calls == (['stop'] if method == 'stop' else ['stop', 'exit'])


def test_a_second_ctrl_c_in_the_drain_delay_ends_block():
    script = """
import signal
from paste_wspbus.bus import Bus
bus = Bus()
bus.drain_delay = 600
bus.subscribe('log', lambda message, level: print(message))
bus.subscribe('drain', print, 'draining')
bus.subscribe('stop', print, 'stop listener')
bus.subscribe('main', print, 'blocking')
bus.start()
bus.block()
"""
    with python('-c', script) as process:
        read_until(process, 'blocking')
        process.send_signal(signal.SIGINT)
        read_until(process, 'draining')
        process.send_signal(signal.SIGINT)
        assert 'stop listener' in read_until(process, 'Bus EXITED')
        assert process.wait(TIMEOUT) == 0


# -- failure and rollback -----------------------------------------------------


def test_a_failed_start_raises_with_the_first_error_as_its_cause(bus):
    error = ValueError('no database')
    bus.subscribe('start', raiser(error))
    with pytest.raises(ChannelFailures) as caught:
        bus.start()
    assert caught.value.__cause__ is error
    assert caught.value.get_instances() == [error]


def test_a_failed_start_skips_the_rest_tells_stop_and_ends_stopped(
    bus, calls, record, log
):
    record('start', priority=10)
    bus.subscribe('start', raiser(ValueError('no database'), priority=20))
    bus.subscribe('start', lambda: calls.append('later'), priority=30)
    record('stop', 'exit')
    with pytest.raises(ChannelFailures):
        bus.start()
    assert calls == ['start', 'stop']
    assert bus.state is State.STOPPED
    assert 'Bus STARTED' not in log
    assert [line for line in log if line.startswith('Bus ')] == [
        'Bus STARTING',
        *STOPPED_LOG,
    ]


def test_a_failed_start_names_the_listener_in_the_log(bus, log):
    def connect():
        raise ValueError('no database')

    bus.subscribe('start', connect)
    with pytest.raises(ChannelFailures):
        bus.start()
    (line,) = (line for line in log if 'Traceback' in line)
    assert 'connect' in line.splitlines()[0]
    assert 'ValueError: no database' in line


class Plugin:
    def __init__(self, bus, name, calls, error=None):
        self.name, self.calls, self.error = name, calls, error
        bus.subscribe('start', self.start)
        bus.subscribe('stop', self.stop)

    def start(self):
        if self.error:
            raise self.error
        self.calls.append(f'+{self.name}')

    def stop(self):
        self.calls.append(f'-{self.name}')


@pytest.mark.parametrize(
    'error, raised',
    [
        (ValueError(), ChannelFailures),
        (KeyboardInterrupt(), KeyboardInterrupt),
        (SystemExit(3), SystemExit),
    ],
    ids=['error', 'ctrl-c', 'sys.exit'],
)
def test_only_plugins_whose_start_ran_are_told_stop(bus, calls, error, raised):
    for name in ('db', 'cache', 'web'):
        Plugin(bus, name, calls, error if name == 'cache' else None)
    with pytest.raises(raised):
        bus.start()
    assert calls == ['+db', '-db']
    assert bus.state is State.STOPPED


@pytest.mark.parametrize('method', ['stop', 'exit'])
def test_a_start_cut_short_tells_stop_only_to_what_ran(bus, calls, method):
    Plugin(bus, 'db', calls)
    bus.subscribe('start', getattr(bus, method))
    Plugin(bus, 'web', calls)
    bus.start()
    assert calls == ['+db', '-db']


def test_a_plugin_without_a_start_is_told_stop_after_a_failed_start(bus, calls):
    class StopOnly:
        def stop(self):
            calls.append('-stop only')

    bus.subscribe('stop', StopOnly().stop)
    bus.subscribe('start', raiser(ValueError))
    with pytest.raises(ChannelFailures):
        bus.start()
    assert calls == ['-stop only']


def test_after_a_failed_start_exit_does_not_stop_again(bus, calls, record, log):
    bus.subscribe('start', raiser(ValueError))
    record('stop', 'exit')
    with pytest.raises(ChannelFailures):
        bus.start()
    log.clear()
    bus.exit()
    assert calls == ['stop', 'exit']
    assert log == EXITED_LOG


def test_a_failed_start_can_be_tried_again(bus, calls):
    Plugin(bus, 'db', calls)
    plugin = Plugin(bus, 'cache', calls, ValueError())
    with pytest.raises(ChannelFailures):
        bus.start()
    plugin.error = None
    bus.start()
    assert calls == ['+db', '-db', '+db', '+cache']
    assert bus.state is State.STARTED


def test_a_failure_in_the_rollback_does_not_hide_why_the_start_failed(bus, log):
    error = ValueError('no database')
    bus.subscribe('start', raiser(error))
    bus.subscribe('stop', raiser(OSError('cannot stop')))
    with pytest.raises(ChannelFailures) as caught:
        bus.start()
    assert caught.value.get_instances() == [error]
    assert any('cannot stop' in line for line in log)


@pytest.mark.parametrize('method', ['stop', 'exit'])
def test_every_stop_listener_runs_and_the_failures_are_raised_at_the_end(
    bus, calls, record, log, method
):
    bus.subscribe('stop', raiser(ValueError('flush'), priority=10))
    record('stop', 'exit')
    bus.start()
    with pytest.raises(ChannelFailures, match='flush'):
        getattr(bus, method)()
    assert calls == (['stop'] if method == 'stop' else ['stop', 'exit'])
    assert any("Error in 'stop' listener" in line for line in log)
    assert bus.state is (State.STOPPED if method == 'stop' else State.EXITING)


def test_exit_collects_the_failures_of_stop_and_of_exit(bus):
    bus.subscribe('stop', raiser(ValueError('one')))
    bus.subscribe('exit', raiser(OSError('two')))
    with pytest.raises(ChannelFailures) as caught:
        bus.exit()
    assert list(map(str, caught.value.get_instances())) == ['one', 'two']


def test_a_failing_graceful_listener_leaves_the_site_started(bus, calls, record):
    bus.subscribe('graceful', raiser(ValueError, priority=10))
    record('graceful')
    bus.start()
    with pytest.raises(ChannelFailures):
        bus.graceful()
    assert calls == ['graceful']
    assert bus.state is State.STARTED


# -- SystemExit and KeyboardInterrupt -----------------------------------------


@interrupts
def test_an_interrupt_in_start_skips_the_rest_rolls_back_and_is_raised(
    bus, calls, record, log, interrupt
):
    bus.subscribe('start', raiser(interrupt, priority=10))
    record('start', 'stop')
    with pytest.raises((KeyboardInterrupt, SystemExit)) as caught:
        bus.start()
    assert getattr(caught.value, 'code', 3) == 3
    assert calls == ['stop']
    assert bus.state is State.STOPPED
    assert log == ['Bus STARTING', *STOPPED_LOG]


@interrupts
def test_an_interrupt_in_stop_is_raised_when_the_rest_has_run(
    bus, calls, record, interrupt
):
    bus.subscribe('stop', raiser(interrupt, priority=10))
    record('stop')
    bus.start()
    with pytest.raises((KeyboardInterrupt, SystemExit)):
        bus.stop()
    assert calls == ['stop']
    assert bus.state is State.STOPPED


@interrupts
@pytest.mark.parametrize('channel', ['stop', 'exit'])
def test_an_interrupt_in_exit_is_raised_when_the_rest_has_run(
    bus, calls, record, log, channel, interrupt
):
    bus.subscribe(channel, raiser(interrupt, priority=10))
    record('stop', 'exit')
    bus.start()
    with pytest.raises((KeyboardInterrupt, SystemExit)):
        bus.exit()
    assert calls == ['stop', 'exit']
    assert bus.state is State.EXITING
    assert log == STARTED_LOG + STOPPED_LOG + EXITED_LOG


@interrupts
def test_an_interrupt_in_graceful_is_raised_at_once(bus, calls, record, interrupt):
    bus.subscribe('graceful', raiser(interrupt, priority=10))
    record('graceful')
    bus.start()
    with pytest.raises((KeyboardInterrupt, SystemExit)):
        bus.graceful()
    assert calls == []
    assert bus.state is State.STARTED


@interrupts
def test_an_interrupt_in_the_rollback_does_not_skip_the_rest(
    bus, calls, record, interrupt
):
    bus.subscribe('start', raiser(ValueError))
    bus.subscribe('stop', raiser(interrupt, priority=10))
    record('stop')
    with pytest.raises((KeyboardInterrupt, SystemExit)):
        bus.start()
    assert calls == ['stop']
    assert bus.state is State.STOPPED


def interrupt_log_at(bus, text):
    """Press Ctrl-C while this line is written."""

    def write(message, level):
        if text in message:
            bus.unsubscribe('log', write)
            raise KeyboardInterrupt

    bus.subscribe('log', write)


@pytest.mark.parametrize('line', ['Bus STOPPING', 'Bus STOPPED', 'Bus EXITING'])
def test_a_ctrl_c_while_the_log_is_written_skips_no_listener(bus, calls, record, line):
    bus.start()
    record('stop', 'exit')
    interrupt_log_at(bus, line)
    with contextlib.suppress(KeyboardInterrupt):
        bus.exit()
    assert calls == ['stop', 'exit']


def test_a_ctrl_c_while_a_failure_is_logged_skips_no_listener(bus, calls, record):
    bus.subscribe('stop', raiser(ValueError, priority=10))
    record('stop')
    bus.start()
    interrupt_log_at(bus, "Error in 'stop'")
    with contextlib.suppress(KeyboardInterrupt, ChannelFailures):
        bus.stop()
    assert calls == ['stop']


def test_a_sys_exit_of_an_exit_listener_does_not_hide_that_the_stop_failed(bus):
    bus.subscribe('stop', raiser(ValueError))
    bus.subscribe('exit', raiser(SystemExit(0)))
    with pytest.raises(SystemExit) as caught:
        bus.exit()
    assert caught.value.code == 1


# -- one transition at a time -------------------------------------------------


@pytest.mark.parametrize('method', ['start', 'stop', 'exit'])
def test_a_duplicate_of_the_transition_under_way_is_a_no_op(bus, calls, method):
    def listener():
        calls.append(method)
        getattr(bus, method)()
        spawn(getattr(bus, method)).result(TIMEOUT)

    if method != 'start':
        bus.start()
    bus.subscribe(method, listener)
    getattr(bus, method)()
    assert calls == [method]


def test_a_graceful_listener_that_asks_for_graceful_does_not_go_on_for_ever(bus, calls):
    def listener():
        calls.append('graceful')
        if len(calls) < 10:
            bus.graceful()

    bus.subscribe('graceful', listener)
    bus.graceful()
    assert calls == ['graceful']


def test_exit_from_an_exit_listener_runs_nobody_twice(bus, calls, record, log):
    bus.start()
    record('stop', 'exit')
    bus.subscribe('exit', bus.exit, priority=10)
    bus.subscribe('stop', bus.exit, priority=10)
    bus.exit()
    assert calls == ['stop', 'exit']
    assert log == STARTED_LOG + STOPPED_LOG + EXITED_LOG


def test_four_threads_that_call_exit_run_one(bus, calls, record, log):
    together, returned = threading.Barrier(4, timeout=TIMEOUT), threading.Semaphore(0)

    @bus.subscribe('stop', priority=10)
    def until_the_others_have_returned():
        assert all(returned.acquire(timeout=TIMEOUT) for _ in range(3))

    def leave():
        together.wait()
        bus.exit()
        returned.release()

    record('stop', 'exit')
    bus.start()
    for future in [spawn(leave) for _ in range(4)]:
        future.result(TIMEOUT)
    assert calls == ['stop', 'exit']
    assert log == STARTED_LOG + STOPPED_LOG + EXITED_LOG


def test_what_is_asked_for_meanwhile_is_run_by_the_caller_before_it_returns(bus, calls):
    inside, go = threading.Event(), threading.Event()

    @bus.subscribe('start')
    def start():
        inside.set()
        assert go.wait(TIMEOUT)

    bus.subscribe('graceful', lambda: calls.append(threading.current_thread()))
    starter = spawn(lambda: (bus.start(), calls.append('start returned')))
    assert inside.wait(TIMEOUT)
    bus.graceful()
    assert calls == []
    go.set()
    starter.result(TIMEOUT)
    thread, last = calls
    assert thread is not threading.current_thread()
    assert last == 'start returned'


def test_a_transition_asked_for_by_a_listener_follows_the_one_under_way(
    bus, calls, record
):
    bus.subscribe('start', bus.graceful, priority=10)
    record('start', 'graceful')
    bus.start()
    assert calls == ['start', 'graceful']


def test_a_start_asked_for_while_stopping_starts_again(bus, calls, record):
    bus.start()
    record('start', 'stop')
    bus.subscribe('stop', bus.start, priority=10)
    bus.stop()
    assert calls == ['stop', 'start']
    assert bus.state is State.STARTED


def test_two_listeners_that_ask_for_a_start_while_stopping_get_one(bus, calls, record):
    bus.start()
    record('start')
    bus.subscribe('stop', lambda: bus.start())
    bus.subscribe('stop', lambda: bus.start())
    bus.stop()
    assert calls == ['start']
    assert bus.state is State.STARTED
    assert bus.exit_code == 0


@pytest.mark.parametrize('method', ['stop', 'exit'])
@pytest.mark.parametrize('who', ['listener', 'thread'])
def test_stop_or_exit_during_start_takes_effect_before_the_next_listener(
    bus, calls, record, log, method, who
):
    @bus.subscribe('start', priority=10)
    def first():
        if who == 'listener':
            getattr(bus, method)()
        else:
            spawn(getattr(bus, method)).result(TIMEOUT)
        calls.append('first goes on')

    record('start', 'stop', 'exit')
    bus.start()
    ended = method == 'exit'
    assert calls == ['first goes on', 'stop', *(['exit'] if ended else [])]
    assert bus.state is (State.EXITING if ended else State.STOPPED)
    assert log == ['Bus STARTING', *STOPPED_LOG, *(EXITED_LOG if ended else [])]


def test_exit_from_the_last_start_listener_takes_effect(bus, calls, record):
    record('start', 'stop', 'exit')
    bus.subscribe('start', bus.exit, priority=90)
    bus.start()
    assert calls == ['start', 'stop', 'exit']


def test_a_transition_runs_in_the_thread_that_asks_where_nobody_blocks(bus, calls):
    bus.subscribe('start', lambda: calls.append(threading.current_thread()))
    bus.start()
    assert calls == [threading.current_thread()]


# -- wait ---------------------------------------------------------------------


def wait_for_waiter(bus):
    """Return when another thread is in ``wait(…, channel='waiting')``."""
    waiting = threading.Event()
    bus.subscribe('waiting', waiting.set)
    assert waiting.wait(TIMEOUT)
    bus.unsubscribe('waiting', waiting.set)


@pytest.mark.parametrize(
    'setup, method, wanted',
    [
        ((), 'start', [State.STARTED]),
        ((), 'start', [State.STARTING, State.STARTED]),
        (('start',), 'stop', [State.STOPPED]),
        (('start', 'stop'), 'exit', [State.EXITING]),
    ],
)
def test_wait_returns_the_state_that_it_waits_for(bus, setup, method, wanted):
    for earlier in setup:
        getattr(bus, earlier)()
    waiter = spawn(bus.wait, wanted, interval=0.001, channel='waiting')
    wait_for_waiter(bus)
    getattr(bus, method)()
    assert waiter.result(TIMEOUT) in wanted


def test_wait_takes_a_single_state_and_returns_at_once_if_it_is_there(bus):
    assert bus.wait(State.STOPPED) is State.STOPPED


@pytest.mark.parametrize('state', [State.STARTING, State.STARTED, State.STOPPING])
def test_wait_misses_no_state_however_short(bus, state):
    waiter = spawn(bus.wait, state, interval=0.001, channel='waiting')
    wait_for_waiter(bus)
    bus.start()
    bus.stop()
    assert waiter.result(TIMEOUT) is state


def test_wait_publishes_its_channel_at_its_interval(bus):
    three = threading.Semaphore(0)
    bus.subscribe('huey', three.release)
    waiter = spawn(bus.wait, State.STARTED, interval=0.001, channel='huey')
    assert all(three.acquire(timeout=TIMEOUT) for _ in range(3))
    bus.start()
    waiter.result(TIMEOUT)


def test_waiting_for_itself_in_a_listener_is_refused(bus):
    bus.subscribe('start', bus.wait, State.STARTED, 1)
    with pytest.raises(ChannelFailures) as caught:
        bus.start()
    assert isinstance(caught.value.__cause__, WouldDeadlock)


def test_blocking_in_a_listener_is_refused(bus):
    bus.subscribe('start', bus.block)
    with pytest.raises(ChannelFailures) as caught:
        bus.start()
    assert isinstance(caught.value.__cause__, WouldDeadlock)


# -- block --------------------------------------------------------------------


def test_block_waits_for_exiting_and_then_for_threads(bus, log):
    go = threading.Event()
    thread = threading.Thread(target=go.wait, args=(TIMEOUT,), name='worker 7')
    thread.start()
    blocked = spawn_block(bus)
    bus.subscribe('log', lambda message, level: 'Waiting' in message and go.set())
    bus.exit()
    blocked.result(TIMEOUT)
    assert bus.state is State.EXITING
    assert not thread.is_alive()
    lines = STOPPED_LOG + EXITED_LOG + JOIN_LOG
    assert log[: len(lines)] == lines
    assert 'Waiting for thread worker 7.' in log


def test_exit_wakes_block_up_whatever_its_interval(bus, record):
    record('main')
    blocked = spawn(bus.block, interval=3600)
    bus.start()
    bus.wait(State.STARTED)
    bus.exit()
    blocked.result(TIMEOUT)


def test_block_waits_through_the_bus_own_wait(calls):
    class Windows(Bus):
        def wait(self, state, interval=0.1, channel=None):
            calls.append((set(state), interval, channel))
            return super().wait(state, interval=interval, channel=channel)

    bus = Windows()
    bus.exit()
    bus.block(interval=7)
    assert calls == [({State.EXITING}, 7, 'main')]


def test_the_thread_in_block_runs_what_others_ask_for(bus, calls):
    for channel in ('start', 'graceful', 'stop', 'exit'):
        bus.subscribe(
            channel,
            lambda channel=channel: calls.append((channel, threading.get_ident())),
        )
    blocked = spawn_block(bus)
    bus.start()
    bus.wait(State.STARTED)
    for method in ('graceful', 'stop', 'exit'):
        getattr(bus, method)()
    blocked.result(TIMEOUT)
    assert [channel for channel, _ in calls] == ['start', 'graceful', 'stop', 'exit']
    (blocker,) = {ident for _, ident in calls}
    assert blocker == blocked.ident != threading.get_ident()


def test_who_asks_the_thread_in_block_does_not_wait(bus):
    go = threading.Event()
    bus.subscribe('stop', lambda: go.wait(TIMEOUT))
    bus.start()
    blocked = spawn_block(bus)
    bus.exit()
    assert not blocked.done()
    go.set()
    blocked.result(TIMEOUT)


def test_two_threads_may_block(bus):
    bus.start()
    blocked = [spawn_block(bus), spawn(bus.block)]
    bus.exit()
    for future in blocked:
        future.result(TIMEOUT)


def test_main_is_published_for_who_subscribes_while_block_waits(bus):
    bus.start()
    blocked = spawn_block(bus)
    twice = threading.Semaphore(0)
    bus.subscribe('main', twice.release)
    assert twice.acquire(timeout=TIMEOUT) and twice.acquire(timeout=TIMEOUT)
    bus.exit()
    blocked.result(TIMEOUT)


def test_main_is_not_published_where_nobody_listens(bus):
    published = []

    class Listening(Bus):
        def publish(self, channel, *args, **kwargs):
            published.append(channel)
            return super().publish(channel, *args, **kwargs)

    bus = Listening()
    blocked = spawn(bus.block, interval=0)
    woken = threading.Semaphore(0)
    bus.subscribe('graceful', woken.release)
    for _ in range(100):
        bus.graceful()
        assert woken.acquire(timeout=TIMEOUT)
    bus.exit()
    blocked.result(TIMEOUT)
    assert 'main' not in published


def test_a_failing_main_listener_is_logged_and_the_site_goes_on(bus, log):
    twice = threading.Semaphore(0)
    bus.subscribe('main', raiser(ValueError('tick'), priority=10))
    bus.subscribe('main', twice.release)
    blocked = spawn(bus.block, interval=0.001)
    assert twice.acquire(timeout=TIMEOUT) and twice.acquire(timeout=TIMEOUT)
    bus.exit()
    blocked.result(TIMEOUT)
    assert any('tick' in line for line in log)


def test_block_traps_a_keyboard_interrupt_with_exit(bus, calls, record, log):
    bus.start()
    record('stop', 'exit')
    bus.subscribe('main', raiser(KeyboardInterrupt))
    bus.block()
    assert calls == ['stop', 'exit']
    assert bus.state is State.EXITING
    assert log[2] == 'Keyboard Interrupt: shutting down bus'
    assert bus.exit_code == 0


def test_block_traps_a_system_exit_with_exit_and_raises_it_again(
    bus, calls, record, log
):
    bus.start()
    record('stop', 'exit')
    bus.subscribe('main', raiser(SystemExit(3)))
    with pytest.raises(SystemExit) as caught:
        bus.block()
    assert caught.value.code == 3
    assert calls == ['stop', 'exit']
    assert log[2] == 'SystemExit raised: shutting down bus'


@interrupts
def test_an_interrupt_in_a_start_that_block_runs_leaves_block(
    bus, calls, record, interrupt
):
    bus.subscribe('start', raiser(interrupt))
    record('stop', 'exit')
    blocked = spawn_block(bus)
    bus.start()
    if isinstance(interrupt, SystemExit):
        with pytest.raises(SystemExit):
            blocked.result(TIMEOUT)
    else:
        blocked.result(TIMEOUT)
    assert calls == ['stop', 'exit']


def test_block_for_stopped_traps_a_keyboard_interrupt_with_stop_and_returns(
    bus, calls, record
):
    bus.start()
    record('stop', 'exit')
    bus.subscribe('main', raiser(KeyboardInterrupt))
    bus.block(states=State.STOPPED)
    assert calls == ['stop']
    assert bus.state is State.STOPPED
    bus.exit()
    assert calls == ['stop', 'exit']


@pytest.mark.parametrize('code, kept', [(None, 0), (0, 0), (4, 4), ('broken', 1)])
def test_block_for_stopped_traps_a_system_exit_and_keeps_its_code(
    bus, calls, record, code, kept
):
    bus.start()
    record('stop', 'exit')
    bus.subscribe('main', raiser(SystemExit(code)))
    bus.block(states=State.STOPPED)
    assert calls == ['stop']
    assert bus.exit_code == kept


@pytest.mark.parametrize('states', [State.STOPPED, [State.STOPPED]])
def test_block_for_stopped_returns_at_once_if_it_was_stopped_already(bus, states):
    bus.start()
    bus.stop()
    bus.block(states=states)


def test_block_for_stopped_returns_on_exiting(bus):
    bus.start()
    blocked = spawn_block(bus, states=State.STOPPED)
    bus.exit()
    blocked.result(TIMEOUT)
    assert bus.wait(State.EXITING) is State.EXITING


def test_a_component_that_traps_ctrl_c_itself_and_calls_stop_unblocks(bus, calls):
    @bus.subscribe('main')
    def component():
        try:
            raise KeyboardInterrupt
        except KeyboardInterrupt:
            bus.stop()

    bus.start()
    bus.block(states=State.STOPPED)
    assert bus.state is State.STOPPED


def test_block_for_stopped_remembers_nothing_from_before_the_last_start(bus):
    bus.start()
    bus.stop()
    bus.start()
    blocked = spawn_block(bus, states=State.STOPPED)
    assert not blocked.done()
    bus.stop()
    blocked.result(TIMEOUT)


def test_block_for_stopped_publishes_restart_from_exit_if_it_was_asked_for(
    bus, calls, record
):
    record('stop', 'exit', 'restart')
    bus.start()
    blocked = spawn_block(bus, states=State.STOPPED)
    bus.restart()
    blocked.result(TIMEOUT)
    assert calls == ['stop', 'exit']
    bus.exit()
    assert calls == ['stop', 'exit', 'restart']


def test_block_carries_out_a_restart_that_somebody_subscribed_to(bus, calls, record):
    record('restart', 'exit')
    bus.start()
    blocked = spawn_block(bus)
    bus.restart()
    blocked.result(TIMEOUT)
    assert calls == ['exit', 'restart']


def test_a_second_ctrl_c_during_the_stop_skips_nothing(bus, calls, record):
    bus.start()
    record('stop', 'exit')
    bus.subscribe('stop', raiser(KeyboardInterrupt, priority=10))
    bus.subscribe('main', raiser(KeyboardInterrupt))
    bus.block()
    assert calls == ['stop', 'exit']
    assert bus.state is State.EXITING


def test_a_second_ctrl_c_while_threads_are_joined_does_not_skip_the_restart():
    script = """
import threading
from paste_wspbus.bus import Bus
bus = Bus()
bus.join_timeout = 600
go = threading.Event()
bus.subscribe('log', lambda message, level: print(message))
bus.subscribe('restart', print, 'restart')
bus.subscribe('restart', go.set)
bus.subscribe('main', print, 'blocking')
threading.Thread(target=go.wait, name='slow').start()
bus.start()
threading.Thread(target=bus.restart).start()
bus.block()
print('end')
"""
    with python('-c', script) as process:
        read_until(process, 'Waiting for thread slow.')
        process.send_signal(signal.SIGINT)
        assert 'restart' in read_until(process, 'end')
        assert process.wait(TIMEOUT) == 0


def test_a_ctrl_c_while_the_wait_for_threads_is_logged_does_not_skip_the_restart(
    bus, calls, record
):
    record('restart')
    bus.start()
    bus.restart()
    interrupt_log_at(bus, 'Waiting for child threads')
    with contextlib.suppress(KeyboardInterrupt):
        bus.block()
    assert calls == ['restart']


def test_two_real_ctrl_cs_stop_a_site_in_order():
    script = """
import sys
from paste_wspbus.bus import Bus
bus = Bus()
bus.subscribe('log', lambda message, level: print(message))
@bus.subscribe('stop', priority=10)
def slow():
    print('slow')
    sys.stdin.read()
bus.subscribe('stop', print, 'pidfile removed')
bus.subscribe('exit', print, 'exit listener')
bus.subscribe('main', print, 'blocking')
bus.start()
bus.block()
print('end')
"""
    with python('-c', script) as process:
        read_until(process, 'blocking')
        process.send_signal(signal.SIGINT)
        read_until(process, 'slow')
        process.send_signal(signal.SIGINT)
        lines = read_until(process, 'end')
        assert lines.index('pidfile removed') < lines.index('exit listener')
        assert process.wait(TIMEOUT) == 0


def test_a_signal_handler_may_ask_the_thread_in_block_to_exit():
    script = """
import signal
from paste_wspbus.bus import Bus
bus = Bus()
signal.signal(signal.SIGTERM, lambda number, frame: bus.exit())
bus.subscribe('log', lambda message, level: print(message))
bus.subscribe('main', print, 'blocking')
bus.start()
bus.block()
print('end')
"""
    with python('-c', script) as process:
        read_until(process, 'blocking')
        process.send_signal(signal.SIGTERM)
        assert 'Bus EXITED' in read_until(process, 'end')
        assert process.wait(TIMEOUT) == 0


# -- exit_code ----------------------------------------------------------------


def test_the_exit_code_of_a_clean_stop_is_0(bus):
    bus.start()
    bus.exit()
    assert bus.exit_code == 0


@pytest.mark.parametrize('channel', ['start', 'stop', 'exit'])
@pytest.mark.parametrize(
    'error, code', [(ValueError(), 1), (SystemExit(3), 3), (SystemExit('why'), 1)]
)
def test_the_exit_code_tells_of_failures(bus, channel, error, code):
    bus.subscribe(channel, raiser(error))
    with contextlib.suppress(ChannelFailures, SystemExit):
        bus.start()
        bus.exit()
    assert bus.exit_code == code


def test_a_start_forgets_the_exit_code_of_the_last_one(bus):
    failing = raiser(ValueError)
    bus.subscribe('start', failing)
    with pytest.raises(ChannelFailures):
        bus.start()
    bus.unsubscribe('start', failing)
    bus.start()
    assert bus.exit_code == 0


def test_a_failed_graceful_does_not_spoil_the_exit_code_of_a_clean_stop(bus):
    bus.subscribe('graceful', raiser(ValueError))
    bus.start()
    with pytest.raises(ChannelFailures):
        bus.graceful()
    bus.exit()
    assert bus.exit_code == 0


# -- start_with_callback ------------------------------------------------------


def test_start_with_callback_calls_it_in_a_thread_once_the_bus_is_started(bus, calls):
    def callback(*args, **kwargs):
        calls.append((args, kwargs, bus.state, threading.current_thread()))

    bus.subscribe('start', lambda: calls.append('start'))
    thread = bus.start_with_callback(callback, (1, 3, 5), {'foo': 'bar'})
    thread.join(TIMEOUT)
    assert calls == ['start', ((1, 3, 5), {'foo': 'bar'}, State.STARTED, thread)]
    assert thread.name.startswith('Bus Callback ')


def test_start_with_callback_takes_a_lone_function(bus, calls):
    bus.start_with_callback(lambda: calls.append('called')).join(TIMEOUT)
    assert calls == ['called']


def bus_callbacks():
    return [t for t in threading.enumerate() if t.name.startswith('Bus Callback ')]


def test_start_with_callback_calls_nothing_if_the_start_fails(bus, calls):
    bus.subscribe('start', raiser(ValueError))
    with pytest.raises(ChannelFailures):
        bus.start_with_callback(calls.append, (1,))
    for thread in bus_callbacks():
        thread.join(TIMEOUT)
    assert calls == bus_callbacks() == []


def test_start_with_callback_on_a_started_bus_leaves_no_thread_behind(bus, calls):
    bus.start()
    try:
        with pytest.raises(IllegalTransition):
            bus.start_with_callback(calls.append, (1,))
        for thread in bus_callbacks():
            thread.join(2)
        assert bus_callbacks() == []
    finally:
        bus.stop()
        for thread in bus_callbacks():
            thread.join(TIMEOUT)


# -- a blocking 'start' subscriber --------------------------------------------


class Server:
    """A server that runs in the main thread until it is interrupted."""

    patience = TIMEOUT
    nap = 0.05

    def __init__(self, bus):
        self.bus, self.serving, self.state = bus, threading.Event(), None

    def __call__(self, app):
        self.app, self.state = app, self.bus.state
        until = time.monotonic() + self.patience
        self.serving.set()
        try:
            while time.monotonic() < until:
                threading.Event().wait(self.nap)
        finally:
            self.interrupted = time.monotonic() < until


def when_serving(server, function):
    def run():
        assert server.serving.wait(TIMEOUT)
        return function()

    return spawn(run)


@pytest.fixture
def server(bus):
    server = Server(bus)
    bus.subscribe('start', server, 'app', blocking=True)
    return server


@pytest.mark.parametrize('method', ['stop', 'exit'])
def test_a_server_that_blocks_is_ended_by_stop_or_exit_elsewhere(
    bus, calls, record, log, server, method
):
    record('stop', 'exit')
    asked = when_serving(server, getattr(bus, method))
    bus.start()
    asked.result(TIMEOUT)
    assert (server.app, server.state) == ('app', State.STARTED)
    assert server.interrupted
    ended = method == 'exit'
    assert calls == (['stop', 'exit'] if ended else ['stop'])
    assert log == STARTED_LOG + STOPPED_LOG + (EXITED_LOG if ended else [])


def test_an_exit_that_comes_just_as_the_server_falls_asleep_is_not_lost(bus, server):
    server.nap = server.patience = 5
    for _ in range(1000):
        server.serving.clear()
        asked = when_serving(server, bus.exit)
        bus.start()
        asked.result(TIMEOUT)
        assert server.interrupted


def test_a_server_that_blocks_runs_last_whatever_its_priority(bus, calls):
    bus.subscribe('start', lambda: calls.append('server'), priority=1, blocking=True)
    bus.subscribe('start', lambda: calls.append('plugin'), priority=99)
    bus.start()
    assert calls == ['plugin', 'server']


def test_the_return_of_a_server_that_blocks_means_stop(bus, calls, record, log):
    record('stop', 'exit')
    bus.subscribe('start', lambda: None, blocking=True)
    bus.start()
    assert bus.state is State.STOPPED
    assert calls == ['stop']
    bus.block(states=State.STOPPED)
    bus.exit()
    assert log == STARTED_LOG + STOPPED_LOG + EXITED_LOG


def test_block_exits_at_once_when_the_server_that_blocks_has_returned(bus):
    bus.subscribe('start', lambda: None, blocking=True)
    bus.start()
    bus.block()
    assert bus.state is State.EXITING


def test_ctrl_c_ends_a_server_that_blocks_and_the_site(bus, calls, record):
    record('stop')
    bus.subscribe('start', raiser(KeyboardInterrupt), blocking=True)
    bus.start()
    assert bus.state is State.STOPPED
    assert calls == ['stop']
    assert bus.exit_code == 0


def test_a_sys_exit_of_a_server_that_blocks_is_the_exit_code(bus, calls, record):
    record('stop')
    bus.subscribe('start', raiser(SystemExit(5)), blocking=True)
    with contextlib.suppress(SystemExit):
        bus.start()
    assert bus.state is State.STOPPED
    assert calls == ['stop']
    assert bus.exit_code == 5


def test_a_server_that_blocks_and_fails_fails_the_start(bus, calls, record):
    record('stop')
    error = OSError('port taken')
    bus.subscribe('start', raiser(error), blocking=True)
    with pytest.raises(ChannelFailures) as caught:
        bus.start()
    assert caught.value.__cause__ is error
    assert calls == ['stop']
    assert bus.state is State.STOPPED
    assert bus.exit_code == 1


def test_a_server_that_blocks_is_not_called_when_the_start_failed(bus, calls):
    bus.subscribe('start', lambda: calls.append('server'), blocking=True)
    bus.subscribe('start', raiser(ValueError))
    with pytest.raises(ChannelFailures):
        bus.start()
    assert calls == []


def test_a_server_that_blocks_is_not_called_when_exit_came_before_it(bus, calls):
    bus.subscribe('start', lambda: calls.append('server'), blocking=True)
    bus.subscribe('start', bus.exit)
    bus.start()
    assert calls == []
    assert bus.state is State.EXITING


def test_the_transition_is_free_while_a_server_blocks(bus, calls, server):
    def reload():
        bus.graceful()
        calls.append('returned')
        bus.exit()

    bus.subscribe('graceful', lambda: calls.append('graceful'))
    asked = when_serving(server, reload)
    bus.start()
    asked.result(TIMEOUT)
    assert calls == ['graceful', 'returned']


def test_wait_works_while_a_server_blocks(bus, server):
    asked = when_serving(server, lambda: (bus.wait(State.STARTED), bus.exit()))
    bus.start()
    assert asked.result(TIMEOUT)[0] is State.STARTED


def test_a_server_that_blocks_has_no_deadline(bus, calls):
    @bus.subscribe('start', blocking=True, timeout=0.001)
    def server():
        calls.append(signal.getitimer(signal.ITIMER_REAL))
        new = set(threading.enumerate()) - before
        calls.extend(t for t in new if isinstance(t, threading.Timer))

    before = set(threading.enumerate())
    bus.start_timeout = 600
    bus.start()
    assert calls == [(0.0, 0.0)]


def test_a_callback_may_say_itself_that_it_blocks(bus, calls):
    def server():
        calls.append(bus.state)

    server.blocking = True
    bus.subscribe('start', server)
    bus.start()
    assert calls == [State.STARTED]


def test_stop_listeners_run_in_the_thread_of_the_server(bus, calls, server):
    bus.subscribe('stop', lambda: calls.append(threading.current_thread()))
    asked = when_serving(server, bus.exit)
    bus.start()
    asked.result(TIMEOUT)
    assert calls == [threading.main_thread()]


def test_the_handler_of_sigint_is_as_it_was_when_the_server_has_ended(bus, server):
    before = signal.getsignal(signal.SIGINT)
    asked = when_serving(server, bus.exit)
    bus.start()
    asked.result(TIMEOUT)
    assert signal.getsignal(signal.SIGINT) is before


def test_a_server_that_blocks_is_ended_where_the_shell_ignores_sigint(
    bus, calls, record, server
):
    record('stop')
    server.patience = 5
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)  # as for a shell's job with &
    try:
        asked = when_serving(server, bus.exit)
        bus.start()
        asked.result(TIMEOUT)
    finally:
        signal.signal(signal.SIGINT, before)
    assert server.interrupted
    assert calls == ['stop']


def test_a_server_that_ends_is_not_interrupted_once_more_at_once(bus, calls):
    def server():
        try:
            while True:
                threading.Event().wait(0.05)
        except KeyboardInterrupt:
            calls.append('ending')
            threading.Event().wait(0.5)  # what it has to do before it returns
            calls.append('ended')

    bus.subscribe('start', server, blocking=True)
    before = signal.signal(signal.SIGUSR1, lambda *_: bus.exit())
    timer = threading.Timer(0.1, os.kill, [os.getpid(), signal.SIGUSR1])
    timer.start()
    try:
        bus.start()
    finally:
        signal.signal(signal.SIGUSR1, before)
        timer.join()
    assert calls == ['ending', 'ended']


def test_of_two_servers_that_block_the_second_does_not_run_when_the_site_stopped(
    bus, calls
):
    for name in ('one', 'two'):
        bus.subscribe(
            'start', lambda name=name: calls.append((name, bus.state)), blocking=True
        )
    bus.start()
    assert calls == [('one', State.STARTED)]


# -- timeline -----------------------------------------------------------------


def test_the_timeline_records_each_call_of_a_state_channel(bus):
    def connect():
        pass

    bus.subscribe('start', connect)
    bus.subscribe('graceful', connect)
    bus.subscribe('log', lambda *args: None)
    bus.subscribe('huey', connect)
    bus.start()
    bus.graceful()
    bus.publish('huey')
    assert [call.channel for call in bus.timeline] == ['start', 'graceful']
    call = bus.timeline[0]
    assert 'connect' in call.name
    assert call.outcome == 'ok'
    assert call.duration >= 0
    assert call.thread == threading.current_thread().name
    assert call.start <= bus.timeline[1].start


def test_the_timeline_tells_of_failures(bus):
    bus.subscribe('start', raiser(ValueError))
    bus.subscribe('stop', lambda: None)
    with pytest.raises(ChannelFailures):
        bus.start()
    assert [(call.channel, call.outcome) for call in bus.timeline] == [
        ('start', 'failed'),
        ('stop', 'ok'),
    ]


def test_the_timeline_is_bounded(bus):
    bus.subscribe('graceful', lambda: None)
    for _ in range(1500):
        bus.graceful()
    length = len(bus.timeline)
    bus.graceful()
    assert len(bus.timeline) == length < 1500


# -- what a log listener raises -------------------------------------------------


@pytest.mark.parametrize(
    'error', [GeneratorExit, asyncio.CancelledError, type('Odd', (BaseException,), {})]
)
def test_a_log_that_raises_anything_does_not_keep_the_site_from_stopping(
    bus, record, calls, error
):
    record('stop', 'exit')
    bus.start()
    bus.subscribe('log', raiser(error))
    bus.exit()
    assert calls == ['stop', 'exit']
    assert bus.state is State.EXITING
    bus.listeners['log'].clear()
