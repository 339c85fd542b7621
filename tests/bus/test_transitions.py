"""Transitions: who runs them, in which order, and what is recorded."""

import signal
import threading

import pytest

from paste_wspbus.bus import TRANSITIONS, Bus, ChannelFailures, State
from paste_wspbus.errors import IllegalTransition, WSPBusError
from tests.kit import TIMEOUT
from tests.kit.buses import (
    EXITED_LOG,
    STARTED_LOG,
    STOPPED_LOG,
    raiser,
    wait_for_waiter,
)
from tests.kit.processes import python, read_until
from tests.kit.threads import spawn

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


def test_an_interrupt_that_leaves_the_event_of_draining_locked_does_not_hold_up_a_stop(
    bus,
):
    bus.start()
    bus.draining._cond.acquire()
    bus.exit()
    assert bus.state is State.EXITING and bus.draining.is_set()
