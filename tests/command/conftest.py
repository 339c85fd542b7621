"""Fixtures of the tests of the command."""

import pytest

from tests.kit import write
from tests.kit.daemons import Terminal
from tests.kit.stand_in import StandIn


@pytest.fixture
def terminal():
    terminal = Terminal()
    yield terminal
    terminal.close()


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A working directory; its sites without a PID file meet in a folder of their own."""
    folder = tmp_path / 'site'
    folder.mkdir()
    runtime = tmp_path / 'runtime'
    runtime.mkdir(0o700)
    monkeypatch.setenv('RUNTIME_DIRECTORY', str(runtime))
    monkeypatch.setenv('TMPDIR', str(tmp_path))
    write(folder, {'site.ini': '[app:main]\n'})
    return folder


@pytest.fixture
def site(folder):
    """A `StandIn` for a site with a PID file."""
    with StandIn(folder) as site:
        yield site


@pytest.fixture
def unlisted(folder):
    """A site without a PID file."""
    with StandIn(folder, '--runtime') as site:
        yield site
