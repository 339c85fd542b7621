import pytest

from paste_wspbus.bus import Bus


@pytest.fixture
def bus():
    """A bus whose listeners are not asked when the test is over: they may fail."""
    bus = Bus()
    yield bus
    bus.listeners.clear()
    bus.exit()


@pytest.fixture
def calls():
    """What the test's listeners write down."""
    return []


@pytest.fixture
def record(bus, calls):
    """Have a call of each of these channels recorded."""

    def record(*channels, **kwargs):
        for channel in channels:
            bus.subscribe(
                channel, lambda channel=channel: calls.append(channel), **kwargs
            )

    return record
