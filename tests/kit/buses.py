"""Fixtures: a bus for a test, and its log."""

import pytest

from paste_wspbus.bus import Bus


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
