"""CherryPy's PerpetualTimer, BackgroundTask and Monitor ride our bus unmodified."""

import threading

import pytest

from paste_wspbus.bus import State
from tests.kit.cherrypys import plugins
from tests.kit.processes import TIMEOUT
from tests.kit.threads import ended


class Beat:
    """A callback whose calls can be waited for."""

    def __init__(self):
        self._calls = threading.Semaphore(0)

    def __call__(self):
        self._calls.release()

    def happens(self, times=1):
        return all(self._calls.acquire(timeout=TIMEOUT) for _ in range(times))


def boom():
    raise RuntimeError('boom')


# CherryPy 18.10 says isSet() where Python has is_set().
@pytest.mark.filterwarnings('ignore:isSet:DeprecationWarning')
def test_a_perpetual_timer_of_a_site_runs_between_start_and_stop(bus):
    beat = Beat()
    timer = plugins.PerpetualTimer(0.01, beat, bus=bus)
    bus.subscribe('start', timer.start)
    bus.subscribe('stop', timer.cancel)
    bus.start()
    assert beat.happens(times=3)
    bus.stop()
    assert ended(timer)


@pytest.mark.filterwarnings('ignore:isSet:DeprecationWarning')
@pytest.mark.filterwarnings('ignore::pytest.PytestUnhandledThreadExceptionWarning')
def test_a_perpetual_timer_logs_on_the_bus_why_it_ended(bus, log):
    timer = plugins.PerpetualTimer(0.01, boom, bus=bus)
    timer.start()
    assert ended(timer)
    assert log[0].startswith('Error in perpetual timer thread function')
    assert 'RuntimeError: boom' in log[0]


def test_a_background_task_runs_until_it_is_cancelled(bus):
    beat = Beat()
    task = plugins.BackgroundTask(0.01, beat, bus=bus)
    task.start()
    assert beat.happens(times=3)
    task.cancel()
    assert ended(task)


@pytest.mark.filterwarnings('ignore::pytest.PytestUnhandledThreadExceptionWarning')
def test_a_background_task_logs_on_the_bus_why_it_ended(bus, log):
    task = plugins.BackgroundTask(0.01, boom, bus=bus)
    task.start()
    assert ended(task)
    assert log[0].startswith('Error in background task thread function')
    assert 'RuntimeError: boom' in log[0]


def test_a_monitor_runs_between_start_and_stop_and_starts_again(bus, log):
    beat = Beat()
    monitor = plugins.Monitor(bus, beat, frequency=0.01, name='Heart')
    monitor.subscribe()
    for _ in range(2):
        bus.start()
        thread = monitor.thread
        assert thread.name == 'Heart'
        assert beat.happens(times=2)
        bus.stop()
        assert monitor.thread is None
        assert ended(thread)
    assert log.count("Started monitor thread 'Heart'.") == 2
    assert log.count("Stopped thread 'Heart'.") == 2


def test_graceful_restarts_a_monitor(bus):
    beat = Beat()
    monitor = plugins.Monitor(bus, beat, frequency=0.01)
    monitor.subscribe()
    bus.start()
    assert beat.happens()
    old = monitor.thread
    bus.graceful()
    assert ended(old)
    assert monitor.thread is not old
    assert beat.happens(times=2)


def test_a_monitor_stops_the_bus_from_its_own_thread(bus):
    stopping = threading.Event()

    def stop():
        stopping.set()
        bus.exit()

    monitor = plugins.Monitor(bus, stop, frequency=0.01)
    monitor.subscribe()
    bus.start()
    assert stopping.wait(TIMEOUT)
    bus.wait(State.EXITING)
    assert monitor.thread is None
