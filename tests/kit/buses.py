"""A bus for a test, and what it logs."""

import pytest

from paste_wspbus.bus import Bus


@pytest.fixture
def bus():
    """A bus that is EXITING in the end, whatever the test did."""
    bus = Bus()
    yield bus
    bus.exit()


@pytest.fixture
def log(bus):
    """What the bus logs: a list that grows."""
    lines = []
    bus.subscribe('log', lambda message, level: lines.append(message))
    return lines
