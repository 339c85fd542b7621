"""wait() and block(): for which states, in which thread, and what ends them."""

import contextlib
import signal
import threading

import pytest

from paste_wspbus.bus import Bus, ChannelFailures, State
from paste_wspbus.errors import WouldDeadlock
from tests.kit import TIMEOUT
from tests.kit.buses import (
    EXITED_LOG,
    JOIN_LOG,
    STOPPED_LOG,
    interrupt_log_at,
    interrupts,
    raiser,
    spawn_block,
    wait_for_waiter,
)
from tests.kit.processes import python, read_until
from tests.kit.threads import spawn

# -- wait ---------------------------------------------------------------------


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


def test_a_listener_of_the_log_that_exits_each_time_does_not_keep_the_bus(bus):
    bus.start()
    bus.subscribe('log', raiser(SystemExit(3)))
    bus.subscribe('main', raiser(KeyboardInterrupt))
    with pytest.raises(SystemExit):
        bus.block()
    assert bus.state is State.EXITING


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
