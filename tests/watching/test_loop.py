"""The loop of a process of one thread, where it has no other test."""

import selectors
import signal
import socket

import pytest

from paste_wspbus.watching.loop import Events, Repeat

pytestmark = pytest.mark.skipif(not hasattr(signal, 'SIGKILL'), reason='POSIX')


def test_a_closed_loop_no_longer_takes_signals():
    with Events() as events:
        events.close()  # as a forked child does
        assert signal.set_wakeup_fd(-1) == -1


def test_a_loop_that_took_no_signals_leaves_the_wake_up_descriptor_alone():
    mine, its = socket.socketpair()
    with mine, its:
        mine.setblocking(False)
        previous = signal.set_wakeup_fd(mine.fileno())
        Events().close()
        assert signal.set_wakeup_fd(previous) == mine.fileno()


def test_a_descriptor_that_was_closed_in_the_same_step_is_not_served():
    pairs = [socket.socketpair() for _ in range(2)]
    served = []

    def serve(mine, other):
        served.append(mine)
        events.selector.unregister(other)
        other.close()

    (one, its_one), (two, its_two) = pairs
    with Events() as events, one, two, its_one, its_two:
        for mine, other in ((one, two), (two, one)):
            register = events.selector.register
            register(mine, selectors.EVENT_READ, lambda m=mine, o=other: serve(m, o))
        its_one.send(b'.')
        its_two.send(b'.')
        events.step(1)
        events.close()
    assert len(served) == 1


def fail():
    raise KeyError('a function of the loop')


def test_what_a_function_raises_ends_the_loop_that_has_nobody_for_it():
    with Events() as events:
        events.call_later(0, fail)
        with pytest.raises(KeyError):
            events.step(1)
        events.close()


def test_what_any_function_raises_is_handed_over_and_the_loop_goes_on():
    failed, called = [], []
    mine, its = socket.socketpair()
    with mine, its, Events() as events:
        events.failed = lambda error, function: failed.append((type(error), function))
        events.before_sleep[:] = [fail, lambda: called.append('before sleep')]
        events.selector.register(mine, selectors.EVENT_READ, fail)
        its.send(b'.')
        events.call_later(0, fail)
        events.call_later(0, lambda: called.append('timer'))
        events.step(1)
        events.close()
    assert failed == [(KeyError, fail)] * 3
    assert called == ['before sleep', 'timer']


@pytest.mark.parametrize('error', [KeyboardInterrupt, SystemExit])
def test_an_interrupt_ends_the_loop_in_any_case(error):
    def interrupt():
        raise error

    with Events() as events:
        events.failed = lambda *_: None
        events.call_later(0, interrupt)
        with pytest.raises(error):
            events.step(1)
        events.close()


def test_what_is_repeated_is_repeated_also_if_it_fails_once():
    calls, failed = [], []

    def look():
        calls.append(None)
        if len(calls) == 1:
            raise KeyError
        return len(calls) < 3

    with Events() as events:
        events.failed = lambda error, function: failed.append(type(error))
        Repeat(events, 0, look)
        for _ in range(4):
            events.call_later(0, int)  # a step needs something to wait for
            events.step(1)
        events.close()
    assert (len(calls), failed) == (3, [KeyError])


def test_a_repetition_whose_timer_is_lost_is_had_again():
    events, calls = Events(), []
    repeat = Repeat(events, 0, lambda: calls.append(1))
    repeat.wait()
    assert len(events._timers) == 1  # it waits already
    events._timers.clear()
    repeat.wait()
    events.step(1)
    assert calls == [1]  # it returns nothing: that is the end
    repeat.wait()
    assert events._timers == events.repeats == []
    events.close()
