"""The timer of the kernel that kills a process, and the death of a child with its parent."""

import os
import signal
import subprocess
import sys
import time

import pytest

from tests.kit import TIMEOUT

STOPPED = """
import os, signal, sys, time
from paste_wspbus.unix.kernel_timer import KillTimer, boot_clock
timer = KillTimer()
timer.set(boot_clock() + float(sys.argv[1]))
%s
os.kill(os.getpid(), signal.SIGSTOP)
time.sleep(1000)
"""


def ran(code, *args):
    began = time.monotonic()
    words = [sys.executable, '-c', code, *args]
    done = subprocess.run(words, timeout=TIMEOUT, capture_output=True, text=True)
    return done, time.monotonic() - began


def test_it_kills_a_process_that_is_stopped():
    done, took = ran(STOPPED % '', '0.3')
    assert done.returncode == -signal.SIGKILL
    assert took >= 0.3


def test_it_can_be_moved_and_a_time_that_is_over_kills_at_once():
    done, took = ran(STOPPED % 'timer.set(boot_clock() + 0.6)', '0.1')
    assert done.returncode == -signal.SIGKILL
    assert took >= 0.6
    done, _ = ran(STOPPED % '', '-5')
    assert done.returncode == -signal.SIGKILL


def test_a_child_does_not_inherit_it():
    done, _ = ran(
        STOPPED % 'if not os.fork(): time.sleep(0.6); print("lives"); sys.exit()', '0.1'
    )
    assert done.stdout == 'lives\n'


ORPHAN = """
import os, signal, sys, time
from paste_wspbus.unix.kernel_timer import die_with_parent
reader, writer = os.pipe()
parent = os.getpid()
if not os.fork():
    die_with_parent(parent %s)
    os.write(writer, b'.')
    os.kill(os.getpid(), signal.SIGSTOP)
    time.sleep(1000)
os.close(writer)
os.read(reader, 1)
os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.parametrize('more', ['', '+ 1'], ids=['later', 'before'])
def test_a_child_ends_with_its_parent_though_it_is_stopped(more):
    """It has the pipe of standard output: `run` returns when it has ended, too."""
    done, _ = ran(ORPHAN % more)
    assert done.returncode == -signal.SIGKILL
    assert os.path.exists('/proc')
