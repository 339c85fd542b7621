"""The loop of a process of one thread, where it has no other test."""

import selectors
import signal
import socket

import pytest

from paste_wspbus.watching.loop import Events

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
