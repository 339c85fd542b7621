"""The timer that ends a process whose stop holds the GIL."""

import subprocess
import sys

import pytest

from tests.kit import TIMEOUT
from tests.kit.places import ROOT

SITE = """
import faulthandler, os, sys, threading
from paste_wspbus.bus import Bus, held_gil
from paste_wspbus.bus.host import WSPSERVE

bus = Bus()
bus.host = WSPSERVE
bus.stop_timeout = 0.5

def hold_the_gil():
    (1 << 40_000_000) ** 200
"""


def script(text, **env):
    return subprocess.run(
        [sys.executable, '-c', SITE + text],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=TIMEOUT,
        env={'PATH': '', **env},
    )


@pytest.mark.parametrize('env', [{}, {'PYTHONFAULTHANDLER': '1'}])
@pytest.mark.parametrize('channel', ['drain', 'stop', 'exit'])
def test_a_stop_that_holds_the_gil_ends_with_1_and_the_stacks(channel, env):
    done = script(
        f"bus.subscribe('{channel}', hold_the_gil)\nbus.start()\nbus.exit()", **env
    )
    assert done.returncode == 1
    assert 'in hold_the_gil' in done.stderr


def test_a_stop_in_time_leaves_no_timer_behind():
    done = script("""
bus.start()
bus.exit()
print(threading.Event().wait(1.5))
""")
    assert (done.returncode, done.stdout, done.stderr) == (0, 'False\n', '')


def test_a_thread_that_takes_the_gil_while_threads_are_joined_does_not_keep_the_process():
    done = script("""
from paste_wspbus.bus import ending

bus.start()
bus.stop_timeout = bus.join_timeout = 2
bus.exit()
is_set, end_process_after = threading.Event(), held_gil.end_process_after

def set_timer(seconds):
    cancel = end_process_after(seconds)
    is_set.set()
    return cancel

held_gil.end_process_after = set_timer
threading.Thread(target=lambda: [is_set.wait(), hold_the_gil()]).start()
ending.end_threads(bus)
""")
    assert done.returncode == 1
    assert 'in hold_the_gil' in done.stderr


def test_the_next_stop_of_the_same_process_has_a_timer_too():
    done = script("""
bus.start()
bus.stop()
bus.subscribe('stop', hold_the_gil)
bus.start()
bus.stop()
""")
    assert done.returncode == 1
    assert 'in hold_the_gil' in done.stderr


@pytest.mark.skipif(sys.platform != 'linux', reason='only Linux shows the timer')
def test_a_timer_of_the_sites_own_stays():
    done = script("""
reader, writer = os.pipe()
faulthandler.dump_traceback_later(0.5, file=writer)
bus.start()
bus.exit()
print(os.read(reader, 7))
""")
    assert done.stdout == "b'Timeout'\n"
    assert done.returncode == 0


@pytest.mark.skipif(not hasattr(sys, 'getdlopenflags'), reason='there is no fork')
def test_a_child_that_is_forked_during_the_stop_ends():
    done = script("""
@bus.subscribe('stop')
def fork():
    child = os.fork()
    if not child:
        sys.exit(0)
    print(os.waitpid(child, 0)[1], flush=True)
bus.subscribe('stop', hold_the_gil, priority=90)
bus.start()
bus.stop()
""")
    assert done.stdout == '0\n'
    assert done.returncode == 1  # the parent's timer is there again
    assert 'in hold_the_gil' in done.stderr


def test_the_process_of_another_host_has_no_timer():
    done = script("""
from paste_wspbus.bus.host import OWN
from paste_wspbus.bus.supervised import supervised
for host in OWN, supervised(bus):
    bus.host = host
    bus.start()
    bus.subscribe('stop', lambda: print(held_gil._until))
    bus.stop()
    bus.listeners['stop'].clear()
""")
    assert done.stdout == 'None\nNone\n', done.stderr
