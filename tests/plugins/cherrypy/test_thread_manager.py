"""CherryPy's ThreadManager rides our bus unmodified."""

import threading

import pytest

from tests.kit.cherrypys import plugins
from tests.kit.processes import TIMEOUT
from tests.kit.threads import ended, in_a_thread


@pytest.fixture
def threads(bus):
    """What a ThreadManager on the bus tells, as a list that grows."""
    told = []
    plugins.ThreadManager(bus).subscribe()
    bus.subscribe('start_thread', lambda index: told.append(('start', index)))
    bus.subscribe('stop_thread', lambda index: told.append(('stop', index)))
    return told


def test_a_thread_is_started_once_and_stopped_when_it_is_released(bus, threads):
    def acquire():
        bus.publish('acquire_thread')

    def release():
        bus.publish('release_thread')

    bus.start()
    in_a_thread(acquire, acquire, release, release)
    assert threads == [('start', 1), ('stop', 1)]


@pytest.mark.parametrize('command', ['stop', 'graceful'])
def test_stop_and_graceful_release_all_threads(bus, threads, command):
    bus.start()
    here, done = threading.Semaphore(0), threading.Event()

    def request():
        bus.publish('acquire_thread')
        here.release()
        done.wait(TIMEOUT)

    workers = [threading.Thread(target=request) for _ in range(3)]
    for worker in workers:
        worker.start()
        assert here.acquire(timeout=TIMEOUT)
    getattr(bus, command)()
    done.set()
    assert all(ended(worker) for worker in workers)
    assert threads[:3] == [('start', 1), ('start', 2), ('start', 3)]
    assert sorted(threads[3:]) == [('stop', 1), ('stop', 2), ('stop', 3)]
