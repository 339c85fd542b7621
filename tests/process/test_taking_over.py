"""How a new process takes over what the running site holds."""

import subprocess
import types

import pytest

from paste_wspbus.process import taking_over
from paste_wspbus.process.inheritance import Inheritance


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
