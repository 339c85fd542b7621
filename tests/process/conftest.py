import os

import pytest

from tests.kit.users import python_for_all


@pytest.fixture(scope='module')
def interpreter():
    """A Python for every user: (the program, where it finds its libraries)."""
    assert os.geteuid() == 0, 'these tests change users: run them as root'
    return python_for_all()
