"""The names that ``from paste_wspbus import …`` gives, and what they cost."""

import importlib
import subprocess
import sys

import pytest

import paste_wspbus
from paste_wspbus import bus, handoff, hosts, plugins
from tests.kit import TIMEOUT

ROOMS = {
    'Bus': bus,
    'ChannelFailures': bus,
    'Plugin': plugins,
    'State': bus,
    'get_bus': handoff,
    'on': plugins,
    'require': hosts,
}


def loaded_by(statement):
    """The modules that a statement loads in a fresh interpreter."""
    program = (
        'import sys\n'
        'before = set(sys.modules)\n'
        f'{statement}\n'
        'print(*sorted(set(sys.modules) - before))'
    )
    done = subprocess.run(
        [sys.executable, '-c', program],
        capture_output=True,
        text=True,
        check=True,
        timeout=TIMEOUT,
    )
    return done.stdout.split()


def test_the_public_names_are_all_there_is():
    assert set(paste_wspbus.__all__) == set(ROOMS)


@pytest.mark.parametrize('name', ROOMS)
def test_a_public_name_is_that_of_its_room(name):
    assert getattr(paste_wspbus, name) is getattr(ROOMS[name], name)


def test_a_star_and_dir_know_them():
    scope = {}
    exec('from paste_wspbus import *', scope)
    assert scope.keys() >= ROOMS.keys()
    assert set(dir(paste_wspbus)) >= ROOMS.keys()


def test_another_name_is_an_error_as_of_any_module():
    with pytest.raises(
        AttributeError, match=r"^module 'paste_wspbus' has no .*'Buss'$"
    ):
        paste_wspbus.Buss  # noqa: B018
    with pytest.raises(ImportError, match='Buss'):
        from paste_wspbus import Buss  # noqa: F401


def test_the_package_alone_loads_nothing():
    assert loaded_by('import paste_wspbus') == ['paste_wspbus']


def test_a_name_loads_no_more_than_its_room():
    with_plugins = loaded_by('from paste_wspbus import on')
    ours = {one for one in with_plugins if one.startswith('paste_wspbus')}
    assert ours == {'paste_wspbus', 'paste_wspbus.errors', 'paste_wspbus.plugins'}


@pytest.mark.parametrize(
    ('room', 'names'),
    [
        (
            'paste_wspbus.bus',
            'Bus Call Channel ChannelFailures IllegalTransition Lifespan LifespanRefused '
            'Listener NameTaken RestartImpossible State TimedOut TRANSITIONS '
            'WouldDeadlock WSPBusError states',
        ),
        ('paste_wspbus.servers', 'BlockingServer Server cheroot_server wsgiref_server'),
    ],
)
def test_a_room_offers_the_names_that_were_in_one_file(room, names):
    offered = vars(importlib.import_module(room)).get('__all__')
    for name in names.split():
        assert name in offered
        assert getattr(importlib.import_module(room), name)
