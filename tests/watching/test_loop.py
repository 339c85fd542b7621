"""The loop of a process of one thread, where it has no other test."""

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
