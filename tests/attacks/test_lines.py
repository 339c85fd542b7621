"""The quick form of `tests.attacks.lines`: an exception before each thirteenth line of the bus."""

import re
import subprocess
import sys

import pytest

from tests.attacks.lines import FRESH, STARTED
from tests.kit import TIMEOUT
from tests.kit.places import ROOT

#: An odd number that is no divisor of what loops have: each line has its turn.
EVERY = 13


@pytest.mark.parametrize('command', [*FRESH, *STARTED])
def test_an_exception_at_any_line_leaves_a_bus_that_can_be_left(command):
    # In a process of its own: Python 3.11 goes on to handle an exception from whose handler a
    # trace function has raised another one.
    words = ['-m', 'tests.attacks.lines', f'--every={EVERY}']
    done = subprocess.run(
        [sys.executable, *words, f'--only={command.__name__}'],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=5 * TIMEOUT,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    (tries,) = re.findall(r'^(\d+) exceptions, none', done.stdout, re.M)
    assert int(tries) > 15
