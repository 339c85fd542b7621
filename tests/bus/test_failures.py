"""Failures and interrupts in a transition: what still runs, what is raised, the exit code."""

import asyncio
import contextlib
import sys

import pytest

from paste_wspbus.bus import ChannelFailures, State
from tests.kit.buses import (
    EXITED_LOG,
    STARTED_LOG,
    STOPPED_LOG,
    interrupt_log_at,
    interrupts,
    raiser,
)
from tests.kit.places import ROOT

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


@pytest.mark.parametrize('channel', ['stop', 'exit', 'graceful'])
def test_the_text_of_an_exit_is_in_the_log(bus, log, channel):
    def leave():
        sys.exit('no licence')

    bus.subscribe(channel, leave)
    bus.start()
    with pytest.raises(SystemExit):
        bus.graceful() if channel == 'graceful' else bus.exit()
    (line,) = (line for line in log if 'no licence' in line)
    assert f"called sys.exit('no licence'), at {__file__}:" in line
    bus.unsubscribe(channel, leave)
    bus.exit()


def test_a_traceback_has_only_the_frames_of_the_site(bus, log):
    def fail():
        raise LookupError('dsn')

    bus.subscribe('stop', fail)
    bus.start()
    with pytest.raises(ChannelFailures):
        bus.exit()
    (text,) = (line for line in log if 'dsn' in line)
    line, _, trace = text.partition('\n')
    assert f', at {__file__}:' in line
    assert 'paste_wspbus' not in trace.replace(str(ROOT), '')
    assert trace.startswith('Traceback (most recent call last):')


def test_a_traceback_of_the_package_alone_stays_whole(bus, log):
    try:
        bus.subscribe('start', 'not callable')
    except Exception as error:
        error.__traceback__ = error.__traceback__.tb_next
        bus.log('It failed', 40, traceback=True)
    assert 'in subscribe' in log[-1]


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
