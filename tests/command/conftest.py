"""Fixtures of the tests of the command."""

import pytest

from tests.kit.daemons import Terminal


@pytest.fixture
def terminal():
    terminal = Terminal()
    yield terminal
    terminal.close()
