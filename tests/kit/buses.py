"""A bus for a test, its log, and threads that wait for it."""

import threading
from unittest import mock

import pytest

from paste_wspbus.bus import Bus
from tests.kit.processes import TIMEOUT
from tests.kit.threads import spawn


@pytest.fixture
def bus():
    """A bus, which exits at the end of the test."""
    bus = Bus()
    yield bus
    bus.exit()


@pytest.fixture
def log(bus):
    """The messages that the bus logs: a list that grows."""
    lines = []
    bus.subscribe('log', lambda message, level: lines.append(message))
    return lines


#: What a bus logs.
STARTED_LOG = ['Bus STARTING', 'Bus STARTED']
STOPPED_LOG = ['Bus STOPPING', 'Bus STOPPED']
EXITED_LOG = ['Bus EXITING', 'Bus EXITED']
JOIN_LOG = ['Waiting for child threads to terminate...']

interrupts = pytest.mark.parametrize(
    'interrupt', [KeyboardInterrupt, SystemExit(3)], ids=['ctrl-c', 'sys.exit']
)


def spawn_block(bus, **kwargs):
    """Have a thread in block(); return when it is there."""
    blocking = threading.Event()
    bus.subscribe('main', blocking.set)
    future = spawn(bus.block, interval=0.001, **kwargs)
    assert blocking.wait(TIMEOUT)
    bus.unsubscribe('main', blocking.set)
    return future


def raiser(error, **attributes):
    """A listener that raises it."""
    return mock.Mock(
        side_effect=error, **{'priority': 50, '__qualname__': 'raiser', **attributes}
    )


def interrupt_log_at(bus, text):
    """Press Ctrl-C while this line is written."""

    def write(message, level):
        if text in message:
            bus.unsubscribe('log', write)
            raise KeyboardInterrupt

    bus.subscribe('log', write)


def wait_for_waiter(bus):
    """Return when another thread is in ``wait(…, channel='waiting')``."""
    waiting = threading.Event()
    bus.subscribe('waiting', waiting.set)
    assert waiting.wait(TIMEOUT)
    bus.unsubscribe('waiting', waiting.set)
