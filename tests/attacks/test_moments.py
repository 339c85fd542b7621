"""The quick form of `tests.attacks.moments`: a signal at each 31st moment, and the pieces of it."""

import re
import subprocess
import sys

from tests.kit import TIMEOUT
from tests.kit.places import ROOT

#: A prime number: each moment of a loop has its turn.
EVERY = 31


def test_a_signal_at_any_moment_leaves_a_bus_that_can_be_left():
    words = ['-m', 'tests.attacks.moments', f'--every={EVERY}']
    done = subprocess.run(
        [sys.executable, *words],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=10 * TIMEOUT,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    (tries,) = re.findall(r'^(\d+) signals, none', done.stdout, re.M)
    assert int(tries) > 300
