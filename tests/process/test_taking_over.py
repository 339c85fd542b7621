"""How a new process takes over what the running site holds."""

import functools
import subprocess
import sys
import types

import pytest

from paste_wspbus.process import taking_over
from paste_wspbus.process.inheritance import Inheritance
from tests.kit import TIMEOUT


@pytest.fixture
def old():
    """The process of a site that ends a moment after it has handed over."""
    command = ['sh', '-c', 'read line; sleep 0.3']
    with subprocess.Popen(command, stdin=subprocess.PIPE) as process:
        yield process


def test_a_site_that_hands_over_no_sockets_holds_its_addresses_until_it_ends(
    old, monkeypatch
):
    def hand_over(*args):
        old.stdin.close()
        return Inheritance()

    monkeypatch.setattr(taking_over, '_status_of', lambda lock: {'state': 'STARTED'})
    monkeypatch.setattr(taking_over, '_ask_for_all', hand_over)
    lock = types.SimpleNamespace(read=lambda: old.pid)
    assert taking_over.take_over(lock, None).sockets == []
    assert old.poll() is not None


#: Runs wspserve. Its child notes the modules that it imports while nobody serves.
PROGRAM = """
import pathlib, sys
from paste_wspbus.__main__ import main
from paste_wspbus.command.announcing import Announcement
from paste_wspbus.process import taking_over

before = None

def ask_and_note(*args, ask=taking_over._ask_for_all):
    global before
    came = ask(*args)
    before = set(sys.modules)
    return came

def make_and_note(*args, make=Announcement.make):
    names = sorted(name for name in set(sys.modules) - before if 'wspbus' in name)
    pathlib.Path('imported').write_text(repr(names))
    make(*args)

taking_over._ask_for_all = ask_and_note
Announcement.make = make_and_note
main()
"""

SITE = """
[app:main]
use = egg:paste_wspbus#hello

[server:main]
use = egg:waitress
listen = 127.0.0.1:0

[wspbus:main]
pid_file = site.pid
log_file = site.log
"""


def test_while_nobody_serves_nothing_is_imported(tmp_path):
    (tmp_path / 'site.ini').write_text(SITE)
    run = functools.partial(subprocess.run, cwd=tmp_path, check=True, timeout=TIMEOUT)
    wspserve = [sys.executable, '-m', 'paste_wspbus']
    run([*wspserve, 'site.ini', 'start'])
    try:
        run([sys.executable, '-c', PROGRAM, 'site.ini', 'restart'])
        assert (tmp_path / 'imported').read_text() == '[]'
    finally:
        run([*wspserve, 'site.ini', 'stop'])
