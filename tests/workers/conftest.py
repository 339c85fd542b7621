"""Fixtures of the tests of workers."""

import os
import shutil
import tempfile
from pathlib import Path

import pytest

from paste_wspbus.watching.loop import Events
from tests.kit.workers import Public, unlock_gates


@pytest.fixture(autouse=True)
def gates():
    """Nobody waits any more when the test is over."""
    yield
    unlock_gates()


@pytest.fixture
def public():
    """A folder that each user may enter: `Public`."""
    assert os.geteuid() == 0, 'these tests change users: run them as root'
    path = Path(tempfile.mkdtemp(prefix='wspbus-'))
    yield Public(path)
    shutil.rmtree(path)


@pytest.fixture
def events():
    """An event loop of a process with one thread."""
    events = Events()
    yield events
    events.close()
