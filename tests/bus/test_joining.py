"""The threads at the end of a process that goes on, and of one that ends."""

import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.kit import TIMEOUT
from tests.kit.places import ROOT


def script(text):
    done = subprocess.run(
        [sys.executable, '-W', 'error', '-c', text],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=TIMEOUT,
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ''
    return done.stdout.splitlines()


END = """
import atexit, threading, time
from concurrent.futures import ThreadPoolExecutor
from paste_wspbus.bus import Bus, ending

bus = Bus()
bus.join_timeout = 60
bus.subscribe('log', lambda text, level: print(text))
atexit.register(print, 'handler')
"""


def test_block_does_not_wait_for_a_pool_without_work(bus, log):
    bus.join_timeout = 600
    with ThreadPoolExecutor(2) as pool:
        pool.submit(int).result()
        bus.exit()
        bus.block()
        assert pool.submit(int).result() == 0  # the program can go on with it
    assert not any('ThreadPoolExecutor' in line for line in log)


@pytest.mark.parametrize('job', [time.sleep, lambda seconds: time.sleep(seconds)])
def test_block_waits_for_a_pool_that_works(bus, log, job):
    bus.join_timeout = 600
    with ThreadPoolExecutor(2) as pool:
        future = pool.submit(job, 0.3)
        bus.exit()
        bus.block()
        assert future.done()
    assert 'Waiting for thread ThreadPoolExecutor' in '\n'.join(log)


def test_what_is_registered_for_the_end_of_threads_is_called_once_and_last_first():
    lines = script(
        f"""{END}
for name in 'ab':
    threading._register_atexit(print, name)
assert ending.end_threads(bus) == []
print('ended')
"""
    )
    assert lines == ['b', 'a', 'ended', 'handler']


def test_one_that_fails_is_logged_and_does_not_silence_the_others():
    lines = script(
        f"""{END}
threading._register_atexit(print, 'other')
threading._register_atexit(int, 'no number')
assert ending.end_threads(bus) == []
"""
    )
    assert lines[0] == 'Error at the end of the threads'
    assert lines[-2:] == ['other', 'handler']


def test_the_main_thread_counts_as_ended_only_when_the_pools_have_ended():
    lines = script(
        f"""{END}
pool = ThreadPoolExecutor(1)
main = threading.main_thread()
pool.submit(lambda: (time.sleep(0.1), print('main is alive:', main.is_alive())))
threading.Thread(target=lambda: (main.join(), print('joined'))).start()
assert ending.end_threads(bus) == []
print('main is alive:', main.is_alive())
"""
    )
    lines = [line for line in lines if not line.startswith('Waiting for thread')]
    assert lines == ['main is alive: True', 'joined', 'main is alive: False', 'handler']


def test_what_ends_at_once_is_not_named():
    lines = script(
        f"""{END}
pool = ThreadPoolExecutor(8)
for _ in range(8):
    pool.submit(threading.Barrier(1).wait)
assert ending.end_threads(bus) == []
"""
    )
    assert lines == ['handler']


def test_a_bus_that_was_not_stopped_is_stopped_in_the_main_thread():
    lines = script(
        f"""{END}
import warnings
warnings.simplefilter('ignore')
other = Bus()
other.start()
other.subscribe('stop', lambda: print(threading.current_thread().name))
assert ending.end_threads(bus) == []
"""
    )
    assert lines == ['MainThread', 'handler']


def test_a_thread_that_starts_others_at_the_end_is_waited_for():
    lines = script(
        f"""{END}
def again(count):
    time.sleep(0.01)
    print(count)
    if count:
        threading.Thread(target=again, args=(count - 1,)).start()
threading.Thread(target=again, args=(2,)).start()
assert ending.end_threads(bus) == []
print('ended')
"""
    )
    lines = [line for line in lines if not line.startswith('Waiting for thread')]
    assert lines == ['2', '1', '0', 'ended', 'handler']


def test_daemons_do_not_count():
    lines = script(
        f"""{END}
threading.Thread(target=threading.Event().wait, daemon=True).start()
assert ending.end_threads(bus) == []
"""
    )
    assert lines == ['handler']
    assert threading.main_thread().is_alive()
