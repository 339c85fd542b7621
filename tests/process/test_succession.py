"""When a process keeps its sockets open, and for whom."""

from types import SimpleNamespace

import pytest

from paste_wspbus.bus import Bus
from paste_wspbus.process.succession import Succession


class Server:
    """A server whose sockets can be taken once."""

    sockets = ()

    def __init__(self):
        self.taken = 0

    def bequeath(self):
        self.taken += 1
        return [object()]


@pytest.fixture
def process():
    return SimpleNamespace(
        server=Server(),
        lock=SimpleNamespace(stays=False),
        answers=SimpleNamespace(successor=None),
        options=SimpleNamespace(reload=False),
        renewal=None,
    )


@pytest.fixture
def bus(process):
    """A bus that has started, and that the process rides."""
    bus = Bus()
    process.succession = Succession(process)
    process.succession.ride(bus)
    bus.start()
    return bus


def test_a_site_that_just_stops_closes_its_sockets(process, bus):
    bus.exit()
    assert (process.server.taken, process.lock.stays) == (0, False)


def test_a_successor_gets_the_sockets_before_the_server_stops(process, bus):
    taken = []
    bus.subscribe('stop', lambda: taken.append(process.server.taken), priority=0)
    process.answers.successor = object()
    bus.exit()
    assert (taken, process.lock.stays) == ([1], True)


def test_the_next_program_gets_them_too(process, bus):
    bus.execv = True
    bus.exit()
    assert (process.server.taken, process.lock.stays) == (1, True)


def test_without_a_control_socket_nobody_can_ask_for_them(process, bus):
    process.answers = None
    bus.exit()
    assert process.server.taken == 0


def test_they_are_taken_once(process, bus):
    process.succession.keep_open()
    process.succession.keep_open()
    assert process.server.taken == 1
    bus.exit()


@pytest.mark.parametrize(('reload', 'taken'), [(True, 1), (False, 0)])
def test_under_reload_the_traceback_of_a_failed_start_is_served(process, reload, taken):
    process.options.reload = reload
    bus = Bus()
    process.succession = Succession(process)
    process.succession.ride(bus)
    bus.exit()  # it has never started
    bus.publish('stop')
    assert process.server.taken == taken
