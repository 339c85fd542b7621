"""The quick form of `tests.attacks.supervising`: a supervisor on a simulated kernel."""

import signal

import pytest

if not hasattr(signal, 'SIGKILL'):
    pytest.skip('POSIX', allow_module_level=True)

from tests.attacks.supervising import attack


def test_no_order_of_events_breaks_a_promise_of_the_supervisor():
    attack(120, derandomize=True)
