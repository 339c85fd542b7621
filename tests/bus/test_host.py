"""The host of a bus acts in its place: it ends the process, restarts it, starts the bus."""

from types import SimpleNamespace

import pytest

from paste_wspbus.bus import Bus, State
from paste_wspbus.bus.host import OWN, WSPSERVE, Host, host_of
from paste_wspbus.bus.promises import require
from paste_wspbus.bus.supervised import supervised
from paste_wspbus.handoff import start_embedded
from paste_wspbus.hosts.site import HostedSite, Program
from paste_wspbus.ini.config import Site


@pytest.fixture
def bus():
    bus = Bus()
    yield bus
    bus.host = OWN
    bus.exit()


class Acting(Host):
    """It does what the bus was asked for, and notes it."""

    def __init__(self):
        super().__init__('acting', '', ())
        self.asked = []

    def leave(self, bus, command):
        self.asked.append(command)
        return True

    def restart(self, bus):
        self.asked.append('restart')
        return True


@pytest.mark.parametrize('command', ['stop', 'exit', 'restart'])
def test_a_host_does_in_its_way_what_the_bus_is_asked_for(bus, command):
    bus.host = Acting()
    bus.start()
    getattr(bus, command)()
    assert bus.host.asked == [command]
    assert bus.state is State.STARTED
    assert not bus.execv


def test_who_listens_to_restart_is_asked_before_the_host(bus):
    bus.host = Acting()
    bus.subscribe('restart', lambda: None)
    bus.restart()
    assert bus.host.asked == []
    # The thread in block() publishes 'restart'.
    assert bus.execv and bus.state is State.EXITING


def test_the_bus_does_what_a_host_leaves_to_it(bus):
    bus.host = Host('idle', '', ())
    bus.start()
    start_embedded(bus)
    bus.stop()
    assert bus.state is State.STOPPED


def test_a_bus_that_knows_no_hosts_has_its_own_programs():
    assert host_of(object()) is OWN
    assert host_of(SimpleNamespace(host='www.example.com')) is OWN


def test_what_another_server_has_put_there_is_a_host_that_does_nothing():
    theirs = SimpleNamespace(name='granian', version='2', capabilities={'stop', 'new'})
    bus = SimpleNamespace(host=theirs)
    assert str(host_of(bus)) == 'granian 2'
    assert host_of(bus).capabilities == {'stop'}
    require(bus, 'stop')
    assert not host_of(bus).leave(bus, 'exit')


def test_a_supervised_process_has_a_host_of_its_own(bus):
    bus.host = WSPSERVE
    ours = supervised(bus)
    assert supervised(bus) is ours is bus.host is not WSPSERVE
    assert (str(ours), ours.capabilities) == ('wspserve', WSPSERVE.capabilities)
    assert not ours.is_supervised and not ours.restarts and not ours.restart(bus)
    styles, renewals = [], []
    ours.tell_style, ours.renew = styles.append, lambda: renewals.append(True)
    ours.succeed(bus, 'fork')
    assert ours.is_supervised and ours.restarts and ours.restart(bus)
    assert (styles, renewals) == (['fork'], [True])


def test_a_program_ends_its_process_from_the_start_of_the_site_to_its_stop(bus):
    bus.host = Program('mine', '', {'start', 'stop'})
    site = HostedSite(Site(None, bus, None))
    ended = []
    site.leave = lambda: ended.append(True)
    start_embedded(bus)  # the first request
    assert site.is_started
    bus.stop()
    assert (ended, bus.state) == ([True], State.STARTED)
    assert site.stop('why') == 0
    assert (bus.stop_reason, bus.state) == ('why', State.EXITING)
    assert ended == [True]


def test_a_host_that_was_given_to_two_sites_is_a_program_of_each():
    mine = Host('mine', '', {'stop'})
    first, second = Program.like(mine), Program.like(mine)
    assert first is not second
    assert Program.like(first) is first
    assert not first.owns_signals and not first.owns_alarm and first.exits_with_process


def test_a_host_that_only_has_capabilities_is_asked_for_them():
    from paste_wspbus.bus.host import host_of
    from paste_wspbus.hosts import require

    class Odd:
        capabilities = ('start',)

    bus = Bus()
    bus.host = Odd()
    require(bus, 'start')
    assert 'Odd' in host_of(bus).name
