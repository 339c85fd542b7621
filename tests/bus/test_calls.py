"""The calls of listeners of state channels: what is recorded, noted, raised, and when."""

import threading
from collections import deque

import pytest

from paste_wspbus.bus.calls import TIMELINE_LENGTH, Calls, Deferred, not_zero
from paste_wspbus.bus.channels import ChannelFailures, Listener
from paste_wspbus.errors import TimedOut


@pytest.fixture
def log():
    return []


@pytest.fixture
def calls(log):
    return Calls(
        lambda msg, level=20, traceback=False: log.append(msg), may_cut=lambda: True
    )


def call(calls, channel, listener):
    results = []
    calls.call(channel, deque([listener]), results)
    return results[0]


def raising(error):
    def listener():
        raise error

    return Listener(listener)


def test_a_call_is_recorded_with_its_outcome(calls):
    assert call(calls, 'start', Listener(lambda: 'result', name='mine')) == 'result'
    with pytest.raises(ZeroDivisionError):
        call(calls, 'stop', Listener(lambda: 1 / 0))
    first, second = calls.timeline
    assert (first.channel, first.name, first.outcome) == ('start', 'mine', 'ok')
    assert first.thread == threading.current_thread().name
    assert (second.channel, second.outcome) == ('stop', 'failed')


def test_the_listener_that_runs_is_named_also_in_a_nested_call(calls):
    seen = []

    def outer():
        call(
            calls,
            'graceful',
            Listener(lambda: seen.append(calls.calling[:2]), name='b'),
        )
        seen.append(calls.calling[:2])

    call(calls, 'start', Listener(outer, name='a'))
    assert seen == [('graceful', 'b'), ('start', 'a')]
    assert calls.calling is None


def test_the_timeline_has_an_end(calls):
    listener = Listener(lambda: None)
    for _ in range(TIMELINE_LENGTH + 1):
        call(calls, 'start', listener)
    assert len(calls.timeline) == TIMELINE_LENGTH
    assert calls.count == TIMELINE_LENGTH + 1


def test_no_number_of_calls_drops_the_load(bus):
    bus.calls.record('factory', '[app:main]', 1.0, 2.0)
    for _ in range(TIMELINE_LENGTH + 1):
        call(bus.calls, 'start', Listener(lambda: None))
    first = bus.timeline[0]
    assert (first.channel, first.name) == ('factory', '[app:main]')
    assert (first.since, first.duration, first.outcome) == (1.0, 2.0, 'ok')
    assert len(bus.timeline) == TIMELINE_LENGTH + 1


def test_one_that_fails_is_noted_and_the_others_are_called(calls, log):
    said = []
    listeners = [Listener(lambda: 1 / 0, name='bad'), Listener(lambda: said.append(1))]
    with pytest.raises(ChannelFailures) as caught:
        calls.call_all('graceful', deque(listeners))
    assert [type(error) for error in caught.value.get_instances()] == [
        ZeroDivisionError
    ]
    assert said == [1]
    (line,) = log
    assert line.startswith(f"Error in 'graceful' listener bad, at {__file__}:")
    assert calls.failed


def test_a_failure_elsewhere_than_on_a_state_channel_is_not_the_commands(calls, log):
    with pytest.raises(ChannelFailures):
        try:
            1 / 0  # noqa: B018
        except ZeroDivisionError:
            calls.call_rest('news', (lambda: None,), (), {})
    assert not calls.failed
    assert len(log) == 1


def test_a_failure_of_the_log_is_not_logged(calls, log):
    with pytest.raises(ChannelFailures):
        try:
            1 / 0  # noqa: B018
        except ZeroDivisionError:
            calls.call_rest('log', (lambda: None,), (), {})
    assert log == []


@pytest.mark.parametrize('error', [KeyboardInterrupt(), SystemExit(3)])
@pytest.mark.parametrize('channel, rest', [('start', []), ('stop', [1]), ('exit', [1])])
def test_an_interrupt_waits_for_the_others_on_stop_and_exit_alone(
    calls, channel, rest, error
):
    said = []
    with pytest.raises(type(error)):
        calls.call_all(
            channel, deque([raising(error), Listener(lambda: said.append(1))])
        )
    assert said == rest


def test_an_exit_with_0_after_a_failure_exits_with_1(calls):
    with pytest.raises(SystemExit) as caught:
        calls.call_all('stop', deque([Listener(lambda: 1 / 0), raising(SystemExit())]))
    assert caught.value.code == 1


def test_a_listener_has_what_is_left_of_the_time_of_the_start(calls, log):
    calls.start_until = 0.0  # long ago
    with pytest.raises(TimedOut):
        call(calls, 'start', Listener(lambda: threading.Event().wait(0.2)))
    assert calls.timeline[-1].outcome == 'timed out'
    assert 'cut here' in log[0]
    call(calls, 'stop', Listener(lambda: None))  # not bound by it


def test_a_listener_that_must_not_be_cut_goes_on_and_fails(log):
    calls = Calls(lambda msg, **_: log.append(msg), may_cut=lambda: False)
    ended = []

    def slow():
        threading.Event().wait(0.1)
        ended.append(True)

    with pytest.raises(TimedOut):
        call(calls, 'stop', Listener(slow, timeout=0.01))
    assert ended == [True]
    assert 'cannot be cut here' in log[0]


# -- steps that are all taken ---------------------------------------------------------------


def test_an_interrupt_of_a_step_is_raised_before_failures():
    failures = ChannelFailures()
    failures.add(ValueError())
    later = Deferred()
    for error in (failures, SystemExit(), KeyboardInterrupt()):
        later.run(raising(error).call)
    assert later.interrupted
    with pytest.raises(SystemExit) as caught:
        later.raise_it()
    assert caught.value.code == 1  # the first, which must not claim success


def test_failures_of_several_steps_are_raised_as_one():
    later = Deferred()
    for error in (ValueError(), KeyError()):
        failures = ChannelFailures()
        failures.add(error)
        later.run(raising(failures).call)
    later.raise_interrupt()
    with pytest.raises(ChannelFailures) as caught:
        later.raise_it()
    assert [type(one) for one in caught.value.get_instances()] == [ValueError, KeyError]


def test_steps_that_go_well_raise_nothing():
    later = Deferred()
    later.run(str, 1)
    later.raise_it()


@pytest.mark.parametrize('code, expected', [(None, 1), (0, 1), (5, 5), ('why', 'why')])
def test_an_exit_after_failures_has_no_code_0(code, expected):
    assert not_zero(SystemExit(code)).code == expected
