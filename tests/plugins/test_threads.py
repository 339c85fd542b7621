"""Timers, monitors and the manager of the threads that answer requests."""

import _thread
import contextlib
import inspect
import os
import re
import signal
import subprocess
import sys
import threading
from collections import Counter
from types import SimpleNamespace

import pytest

from paste_wspbus.bus import ChannelFailures, State
from paste_wspbus.plugins import threads, timers
from paste_wspbus.plugins.threads import (
    BackgroundTask,
    Monitor,
    PerpetualTimer,
    ThreadManager,
    acquired,
)
from paste_wspbus.plugins.timers import next_turn
from tests.kit import TIMEOUT, Site
from tests.kit.places import ROOT
from tests.kit.sites import APP
from tests.kit.threads import ended, in_a_thread

SOON = 0.001  # seconds between turns, where a test waits for them
NEVER = 3600

each_kind = pytest.mark.parametrize('kind', [PerpetualTimer, BackgroundTask])


class Beat:
    """A callback whose calls can be waited for; the first ``failures`` of them fail."""

    __qualname__ = 'Beat'

    def __init__(self, failures=0):
        self.failures = failures
        self._calls = threading.Semaphore(0)

    def __call__(self):
        self._calls.release()
        if self.failures:
            self.failures -= 1
            raise RuntimeError('boom')

    def happens(self, times=1):
        return all(self._calls.acquire(timeout=TIMEOUT) for _ in range(times))


class Hanging:
    """A callback that hangs until it is released."""

    __qualname__ = 'Hanging'

    def __init__(self):
        self.entered, self.released = threading.Event(), threading.Event()

    def __call__(self):
        self.entered.set()
        self.released.wait(TIMEOUT)


def run_script(script, *options):
    """A child's exit code, standard output and standard error."""
    done = subprocess.run(
        [sys.executable, *options, '-c', script],
        env={**os.environ, 'PYTHONPATH': str(ROOT)},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=TIMEOUT,
    )
    return done.returncode, done.stdout, done.stderr


# -- PerpetualTimer and BackgroundTask ------------------------------------------


@each_kind
def test_a_timer_calls_its_function_again_and_again(kind, bus):
    beat = Beat()
    timer = kind(SOON, beat, bus=bus)
    assert not timer.running
    timer.start()
    assert beat.happens(times=3)
    assert timer.running
    timer.cancel()
    assert not timer.running
    assert ended(timer)


@each_kind
def test_a_cancel_before_the_run_is_not_lost(kind):
    beat = Beat()
    timer = kind(0, beat)
    timer.cancel()
    timer.start()
    assert ended(timer)
    timer.run()  # as CherryPy's did: its run() forgot the cancel
    assert not beat._calls.acquire(blocking=False)


@each_kind
def test_a_cancel_wakes_a_timer_that_waits(kind):
    timer = kind(NEVER, Beat())
    timer.start()
    timer.cancel()
    assert ended(timer)


@each_kind
def test_a_failure_is_logged_with_its_traceback_and_does_not_end_a_timer(
    kind, bus, log
):
    beat = Beat(failures=2)
    timer = kind(SOON, beat, bus=bus)
    timer.start()
    assert beat.happens(times=4)
    timer.cancel()
    assert ended(timer)
    assert timer.failures == 2
    assert len(log) == 2
    for line in log:
        assert line.startswith(f"Error in thread '{timer.name}': it continues\n")
        assert 'RuntimeError: boom' in line


@each_kind
def test_a_timer_ends_with_its_first_failure_if_it_was_asked_to(kind, bus, log):
    timer = kind(SOON, Beat(failures=9), bus=bus, stop_on_error=True)
    timer.start()
    assert ended(timer)
    assert (timer.failures, timer.running) == (1, False)
    [line] = log
    assert 'it ends' in line
    assert 'RuntimeError: boom' in line


@each_kind
def test_without_a_bus_a_failure_is_told_as_python_tells_it(kind, monkeypatch):
    told = []
    monkeypatch.setattr(threading, 'excepthook', told.append)
    beat = Beat(failures=1)
    timer = kind(SOON, beat)
    timer.start()
    assert beat.happens(times=2)
    timer.cancel()
    assert ended(timer)
    assert [(str(args.exc_value), args.thread) for args in told] == [('boom', timer)]


@each_kind
def test_sys_exit_in_its_function_ends_a_timer(kind):
    timer = kind(SOON, sys.exit)
    timer.start()
    assert ended(timer)
    assert not timer.running


def test_the_constructors_take_what_cherrypys_take(bus):
    calls = []

    def function(*args, **kwargs):
        calls.append((args, kwargs))
        raise SystemExit

    task = BackgroundTask(SOON, function, [1], {'two': 2}, bus)
    timer = PerpetualTimer(SOON, function, [1], {'two': 2}, bus=bus)
    for thread in (task, timer):
        assert isinstance(thread, threading.Thread)
        thread.start()
        assert ended(thread)
    assert calls == [((1,), {'two': 2})] * 2
    names = list(inspect.signature(Monitor).parameters)
    assert names[:4] == ['bus', 'callback', 'frequency', 'name']
    assert inspect.signature(Monitor).parameters['frequency'].default == 60


def test_a_background_task_does_not_keep_the_process_alive():
    assert BackgroundTask(NEVER, Beat()).daemon
    assert not PerpetualTimer(NEVER, Beat()).daemon


class Clock:
    """Time that passes when somebody waits: in the place of a timer's Event."""

    def __init__(self, turns):
        self.now, self.turns, self.over = 0.0, turns, False

    def wait(self, seconds):
        self.now += max(seconds, 0)
        self.turns -= 1
        return self.over or self.turns < 0

    def set(self):
        self.over = True

    def is_set(self):
        return self.over


@pytest.mark.parametrize(
    ('takes', 'times'),
    [
        (0.0, [1, 2, 3, 4]),
        (0.7, [1, 2, 3, 4]),  # slept in between, it would be 1, 2.7, 4.4, 6.1
        (1.0, [1, 2, 3, 4]),
        (1.5, [1, 3, 5, 7]),  # late for 2: that turn is left out
    ],
)
def test_turns_keep_their_rhythm_however_long_they_take(monkeypatch, takes, times):
    clock, called = Clock(turns=4), []

    def function():
        called.append(round(clock.now, 6))
        clock.now += takes

    task = BackgroundTask(1, function)
    task.finished = clock
    monkeypatch.setattr(timers, 'monotonic', lambda: clock.now)
    task.run()
    assert called == times


@pytest.mark.parametrize(
    ('due', 'interval', 'now', 'then'),
    [
        (0, 10, 0, 10),
        (0, 10, 10, 10),
        (0, 10, 10.5, 20),
        (0, 10, 1000, 1010),  # the machine slept: one turn, not a hundred
        (5, 0, 7, 5),  # no rhythm to keep
    ],
)
def test_a_turn_that_was_missed_is_not_made_up_for(due, interval, now, then):
    assert next_turn(due, interval, now) == then


# -- Monitor ----------------------------------------------------------------------


def test_a_monitor_runs_between_start_and_stop_and_starts_again(bus, log):
    beat = Beat()
    monitor = Monitor(bus, beat, SOON, 'Heart')
    monitor.subscribe()
    for _ in range(2):
        bus.start()
        thread = monitor.thread
        assert (thread.name, thread.daemon) == ('Heart', True)
        assert beat.happens(times=2)
        bus.stop()
        assert monitor.thread is None
        assert not thread.is_alive()
    assert log.count("Started monitor thread 'Heart'.") == 2
    assert log.count("Stopped thread 'Heart'.") == 2


def test_a_monitor_starts_at_cherrypys_priority(bus):
    monitor = Monitor(bus, Beat(), NEVER)
    monitor.subscribe()
    running = []
    for priority in (69, 71):
        bus.subscribe(
            'start', lambda: running.append(monitor.thread), priority=priority
        )
    bus.start()
    assert running == [None, monitor.thread]
    assert monitor.thread is not None


def test_a_monitors_thread_is_named_after_its_callback(bus):
    def count_sessions():
        pass

    monitor = Monitor(bus, count_sessions, NEVER)
    monitor.start()
    assert monitor.thread.name.endswith('count_sessions')
    monitor.stop()


@pytest.mark.parametrize('frequency', [0, -1])
def test_a_monitor_without_a_frequency_does_not_run(bus, log, frequency):
    monitor = Monitor(bus, Beat(), frequency)
    monitor.subscribe()
    bus.start()
    bus.graceful()
    assert monitor.thread is None
    bus.stop()
    assert not any('thread' in line for line in log)


def test_a_monitor_that_is_started_twice_has_one_thread(bus, log):
    monitor = Monitor(bus, Beat(), NEVER, 'Heart')
    monitor.start()
    thread = monitor.thread
    monitor.start()
    assert monitor.thread is thread
    assert log[-1] == "Monitor thread 'Heart' already started."
    monitor.stop()
    assert [t for t in threading.enumerate() if t.name == 'Heart'] == []


def test_many_may_start_and_stop_a_monitor_at_the_same_time(bus):
    monitor = Monitor(bus, Beat(), NEVER, 'Contended')
    together, failed = threading.Barrier(8), []

    def work():
        together.wait(TIMEOUT)
        try:
            for _ in range(50):
                monitor.start()
                monitor.graceful()
                monitor.stop()
        except Exception as error:
            failed.append(error)

    workers = [threading.Thread(target=work) for _ in range(8)]
    for worker in workers:
        worker.start()
    assert all([ended(worker) for worker in workers])
    monitor.stop()
    assert failed == []
    assert all(ended(t) for t in threading.enumerate() if t.name == 'Contended')


def test_a_failure_is_logged_and_counted_and_the_monitor_goes_on(bus, log):
    beat = Beat(failures=3)
    monitor = Monitor(bus, beat, SOON, 'Heart')
    monitor.start()
    assert beat.happens(times=5)
    monitor.stop()
    assert monitor.failures == 3
    failures = [line for line in log if 'RuntimeError: boom' in line]
    assert len(failures) == 3
    assert all(line.startswith("Error in thread 'Heart': ") for line in failures)


def test_a_monitor_that_ended_with_a_failure_is_started_again_by_graceful(bus, log):
    beat = Beat(failures=1)
    monitor = Monitor(bus, beat, SOON, stop_on_error=True)
    monitor.subscribe()
    bus.start()
    assert ended(monitor.thread)
    assert (monitor.failures, len([m for m in log if 'it ends' in m])) == (1, 1)
    assert beat.happens()
    bus.graceful()
    assert beat.happens(times=2)


def test_graceful_restarts_a_monitor_with_its_new_frequency(bus):
    beat = Beat()
    monitor = Monitor(bus, beat, NEVER)
    monitor.subscribe()
    bus.start()
    old = monitor.thread
    monitor.frequency = SOON
    bus.graceful()
    assert not old.is_alive()
    assert beat.happens(times=2)
    bus.exit()
    bus.graceful()  # somebody asks for it too late
    assert monitor.thread is None


@pytest.mark.parametrize('command', ['stop', 'graceful'])
def test_a_monitor_is_stopped_and_restarted_by_its_own_callback(bus, log, command):
    done, first = threading.Event(), []

    def callback():
        if not first:
            first.append(threading.current_thread())
            getattr(monitor, command)()
            done.set()

    monitor = Monitor(bus, callback, SOON)
    monitor.start()
    assert done.wait(TIMEOUT)
    assert ended(first[0])
    assert (monitor.thread is not None) == (command == 'graceful')
    monitor.stop()
    assert not any('does not end' in line for line in log)


def test_a_monitors_callback_ends_the_site(bus):
    monitor = Monitor(bus, bus.exit, SOON)
    monitor.subscribe()
    bus.start()
    assert bus.wait(State.EXITING) is State.EXITING
    assert monitor.thread is None


def test_stop_waits_for_a_call_that_is_under_way(bus):
    finished, callback = [], Hanging()

    def work():
        callback()
        finished.append(True)

    monitor = Monitor(bus, work, SOON)
    monitor.start()
    assert callback.entered.wait(TIMEOUT)
    # It is let go only when somebody waits for it.
    monitor.thread.join = lambda timeout, join=monitor.thread.join: (
        callback.released.set(),
        join(TIMEOUT),
    )
    monitor.stop()
    assert finished == [True]


def test_a_callback_that_hangs_is_named_in_the_log_after_a_bounded_wait(bus, log):
    hanging = Hanging()
    monitor = Monitor(bus, hanging, SOON, 'Backup')
    monitor.join_timeout = 0.05
    monitor.start()
    thread = monitor.thread
    assert hanging.entered.wait(TIMEOUT)
    monitor.stop()
    assert log[-1].startswith("Thread 'Backup' does not end; it still runs here:")
    assert 'self.released.wait(TIMEOUT)' in log[-1]
    assert thread.is_alive()
    hanging.released.set()
    assert ended(thread)  # its next turn does not come


def test_who_is_in_a_hurry_does_not_wait_for_a_callback(bus, log):
    hanging = Hanging()
    monitor = Monitor(bus, hanging, SOON)
    monitor.join_timeout = 2 * TIMEOUT
    monitor.start()
    thread = monitor.thread
    assert hanging.entered.wait(TIMEOUT)
    bus.hurry()
    monitor.stop()
    assert thread.is_alive()
    hanging.released.set()
    assert ended(thread)


def test_a_process_that_ends_and_gives_no_thread_is_no_failure(bus, log, monkeypatch):
    def start(self):
        raise RuntimeError("can't create new thread at interpreter shutdown")

    monkeypatch.setattr(BackgroundTask, 'start', start)
    monitor = Monitor(bus, Beat(), NEVER, 'Late')
    monitor.start()
    assert monitor.thread is None
    assert log == [
        "Monitor thread 'Late' not started: "
        "can't create new thread at interpreter shutdown."
    ]


def test_a_system_that_gives_no_thread_fails_the_start(bus, monkeypatch):
    def start(self):
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(BackgroundTask, 'start', start)
    monitor = Monitor(bus, Beat(), NEVER)
    monitor.subscribe()
    with pytest.raises(ChannelFailures, match="can't start new thread"):
        bus.start()
    assert monitor.thread is None


SITE = """
import atexit, os, threading
from paste_wspbus.bus import Bus
from paste_wspbus.hosts.site import Program
from paste_wspbus.plugins.threads import Monitor
bus = Bus()
bus.host = Program('mine', '', ())
beat = threading.Event()
monitor = Monitor(bus, beat.set, 0.001)
monitor.subscribe()
"""


@pytest.mark.parametrize(
    'end',
    ['', 'atexit.register(monitor.start)', "bus.subscribe('exit', monitor.start)"],
)
def test_a_monitor_does_not_disturb_the_end_of_the_process(end):
    script = f'{SITE}\n{end}\nbus.start()\nassert beat.wait({TIMEOUT})'
    assert run_script(script) == (0, '', '')


def test_a_forked_child_starts_a_monitor_of_its_own():
    script = f"""{SITE}
monitor.start()
assert beat.wait({TIMEOUT})
child = os.fork()
if not child:
    beat.clear()
    monitor.start()
    os._exit(0 if beat.wait({TIMEOUT}) else 1)
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
monitor.stop()
"""
    # Python 3.12 warns of a fork with threads: that is what is tested.
    assert run_script(script, '-W', 'ignore')[:2] == (0, '0\n')


# -- ThreadManager -------------------------------------------------------------------


@pytest.fixture
def manager(bus):
    manager = ThreadManager(bus)
    manager.subscribe()
    return manager


@pytest.fixture
def told(bus, manager):
    """What the manager tells, as a list that grows."""
    told = []
    bus.subscribe('start_thread', lambda index: told.append(('start', index)))
    bus.subscribe('stop_thread', lambda index: told.append(('stop', index)))
    return told


class Worker:
    """A thread that does what it is told, one after the other."""

    def __init__(self):
        self._orders, self._done = threading.Semaphore(0), threading.Semaphore(0)
        self._order = None
        self.thread = threading.Thread(target=self._run)
        self.thread.start()

    def _run(self):
        while self._orders.acquire(timeout=TIMEOUT) and self._order:
            self._order()
            self._done.release()

    def __call__(self, order):
        self._order = order
        self._orders.release()
        assert self._done.acquire(timeout=TIMEOUT)

    def end(self):
        self._order = None
        self._orders.release()
        assert ended(self.thread)


@contextlib.contextmanager
def workers(number):
    made = [Worker() for _ in range(number)]
    try:
        yield made
    finally:
        for worker in made:
            worker.end()


@pytest.fixture
def acquire(bus):
    return lambda: bus.publish('acquire_thread')


@pytest.fixture
def release(bus):
    return lambda: bus.publish('release_thread')


def test_a_thread_is_started_once_and_stopped_when_it_is_released(
    told, acquire, release
):
    in_a_thread(acquire, acquire, release, release)
    assert told == [('start', 1), ('stop', 1)]


def test_the_index_is_the_lowest_that_is_free(told, manager, acquire, release):
    with workers(3) as [first, second, third]:
        first(acquire)
        second(acquire)
        first(release)
        third(acquire)
        first(acquire)
        idents = [worker.thread.ident for worker in (third, second, first)]
        assert manager.threads == dict(zip(idents, [1, 2, 3], strict=True))
    assert told == [
        *[('start', 1), ('start', 2), ('stop', 1)],
        *[('start', 1), ('start', 3)],
    ]


@pytest.mark.parametrize('command', ['stop', 'exit'])
def test_at_the_end_all_that_are_left_are_told_once(
    bus, told, acquire, release, command
):
    bus.start()
    with workers(3) as [first, second, third]:
        for worker in (first, second, third):
            worker(acquire)
        second(release)
        getattr(bus, command)()
        assert told[3:] == [('stop', 2), ('stop', 1), ('stop', 3)]
        first(release)
        bus.exit()
    assert len(told) == 6


def test_a_thread_that_comes_after_stop_is_told_at_exit(bus, told, acquire):
    bus.start()
    bus.stop()
    in_a_thread(acquire)
    bus.exit()
    assert told == [('start', 1), ('stop', 1)]


def test_after_stop_and_start_threads_are_acquired_again(bus, told, acquire):
    with workers(1) as [worker]:
        for _ in range(2):
            bus.start()
            worker(acquire)
            bus.stop()
    assert told == [('start', 1), ('stop', 1)] * 2


def test_a_thread_that_ended_unreleased_does_not_hide_the_one_with_its_ident(
    told, manager, acquire, release, monkeypatch
):
    always = SimpleNamespace(get_ident=lambda: 7)  # as the system may give it again
    monkeypatch.setattr(threads, 'threading', always)
    in_a_thread(acquire)
    assert manager.threads == {7: 1}
    in_a_thread(release)  # another's: nothing of its own to release
    in_a_thread(acquire, acquire)
    assert told == [('start', 1), ('stop', 1), ('start', 1)]


def test_threads_that_ended_unreleased_are_told_with_the_next_new_one(
    told, manager, acquire
):
    with workers(3) as made:
        for worker in made:
            worker(acquire)
    in_a_thread(acquire)
    assert sorted(told[3:6]) == [('stop', 1), ('stop', 2), ('stop', 3)]
    assert told[6:] == [('start', 1)]
    assert len(manager.threads) == 1


def test_threads_that_python_did_not_make_are_told_apart(told, acquire):
    def foreign():
        acquire()
        done.release()

    done = threading.Lock()
    for _ in range(2):
        done.acquire()
        _thread.start_new_thread(foreign, ())
        assert done.acquire(timeout=TIMEOUT)
        done.release()
    assert told[0] == ('start', 1)
    # The first is told with the second, if it has ended by then.
    assert told[1:] in ([('start', 2)], [('stop', 1), ('start', 1)])


def test_after_graceful_a_thread_is_acquired_with_its_next_request(bus, told, acquire):
    bus.start()
    with workers(2) as [first, second]:
        first(acquire)
        second(acquire)
        bus.graceful()
        assert told[2:] == [('stop', 1), ('stop', 2)]
        del told[:]
        for worker in (second, second, first, first):
            worker(lambda: bus.publish('before_request', {}))
        assert told == [('start', 1), ('start', 2)]
        # From now on, a request costs nothing.
        assert not bus.listeners['before_request']
        bus.stop()
        assert sorted(told[2:]) == [('stop', 1), ('stop', 2)]


def test_a_thread_that_is_released_after_graceful_is_not_told_again(
    bus, told, acquire, release
):
    bus.start()
    with workers(2) as [worker, other]:
        worker(acquire)
        bus.graceful()
        worker(release)
        for one in (worker, other):
            one(lambda: bus.publish('before_request', {}))
    assert told == [('start', 1), ('stop', 1)]


def test_unplugged_it_tells_nothing(bus, manager, told, acquire):
    with workers(1) as [worker]:
        worker(acquire)
        bus.start()
        bus.graceful()
        manager.unsubscribe()
        worker(lambda: bus.publish('before_request', {}))
        worker(acquire)
        bus.stop()
    assert told == [('start', 1), ('stop', 1)]


def test_a_failing_listener_does_not_keep_other_threads_from_being_told(
    bus, told, acquire, log
):
    @bus.subscribe('stop_thread', priority=1)
    def fail(index):
        raise RuntimeError(f'boom {index}')

    bus.start()
    with workers(2) as made:
        for worker in made:
            worker(acquire)
        with pytest.raises(ChannelFailures) as failed:
            bus.stop()
    assert told[2:] == [('stop', 1), ('stop', 2)]
    [failures] = failed.value.get_instances()
    assert [str(one) for one in failures.get_instances()] == ['boom 1', 'boom 2']


def test_cherrypys_plugins_find_the_channels(bus):
    ThreadManager(bus)
    channels = {'acquire_thread', 'release_thread', 'start_thread', 'stop_thread'}
    assert channels <= set(bus.listeners)


def test_with_threads_and_stops_in_any_order_each_start_has_one_stop(
    bus, manager, told, acquire, release
):
    together = threading.Barrier(9)

    def serve(releases):
        together.wait(TIMEOUT)
        for number in range(200):
            acquire()
            if releases or number % 3:
                release()

    def stop():
        together.wait(TIMEOUT)
        for _ in range(200):
            manager.stop()

    made = [threading.Thread(target=serve, args=(n % 2,)) for n in range(8)]
    made.append(threading.Thread(target=stop))
    for thread in made:
        thread.start()
    assert all([ended(thread) for thread in made])
    manager.stop()
    assert manager.threads == {}
    for index in {index for _, index in told}:
        mine = [what for what, one in told if one == index]
        assert mine == ['start', 'stop'] * (len(mine) // 2)


# -- the servers' threads -----------------------------------------------------------------


def test_a_servers_thread_is_acquired_and_released(bus, told):
    def thread():
        with acquired(bus):
            assert told == [('start', 1)]

    in_a_thread(thread)
    assert told == [('start', 1), ('stop', 1)]


@pytest.mark.parametrize('error', [RuntimeError, SystemExit])
def test_what_a_listener_raises_does_not_end_a_servers_thread(bus, log, error):
    @bus.subscribe('acquire_thread')
    @bus.subscribe('release_thread')
    def fail():
        raise error('boom')

    with acquired(bus):
        log.append('working')
    assert [('boom' in line) for line in log] == [True, False, True]


def test_where_nobody_listens_a_servers_thread_leaves_no_trace(bus):
    before = dict(bus.listeners)
    with acquired(bus):
        pass
    assert bus.listeners == before


PARTS = """
def say(*words):
    os.write(2, (' '.join(map(str, words)) + '\\n').encode())


def teller(what):
    return lambda index='': say(what, index, 'in', threading.get_ident())


def manager(bus, global_conf):
    for channel in ('start_thread', 'stop_thread', 'acquire_thread', 'release_thread'):
        bus.subscribe(channel, teller(channel))


def failing(bus, global_conf):
    @bus.subscribe('acquire_thread')
    @bus.subscribe('release_thread')
    def fail():
        raise RuntimeError('boom')


def slow(bus, global_conf):
    manager(bus, global_conf)

    @bus.subscribe('start_thread')
    def wait(index):
        say('slow')
        hold()


def lingering(bus, global_conf):
    bus.subscribe('stop', lambda: say('server stopped'))

    @bus.subscribe('release_thread')
    def linger():
        say('releasing')
        hold()
        say('released')


def app(environ, start_response):
    say('request', environ['PATH_INFO'], 'in', threading.get_ident())
    if environ['PATH_INFO'] == '/wait':
        hold()
    start_response('200 OK', [('Content-Type', 'text/plain'), ('Content-Length', '2')])
    return [b'ok']
"""

INI = """
[app:main]
use = call:webapp:make

[wspbus:main]
plugins = threads

[plugin:threads]
use = call:webapp:manager

[server:main]
host = 127.0.0.1
port = 0
"""

PASTE = 'use = egg:Paste#http\n'
POOLS = {
    'waitress': 'use = egg:waitress\nthreads = 3\n',
    'cheroot': 'use = egg:paste_wspbus#cheroot\nnumthreads = 3\nmax = 3\n',
    'paste': PASTE + 'threadpool_workers = 3\nthreadpool_spawn_if_under = 1\n',
    'paste-1.1': PASTE
    + 'threadpool_workers = 3\nthreadpool_spawn_if_under = 1\nprotocol_version = HTTP/1.1\n',
}
SERVERS = {
    **POOLS,
    'paste-short-lived': POOLS['paste'] + 'threadpool_max_requests = 2\n',
    'paste-threads': PASTE + 'use_threadpool = false\n',
    'wsgiref': 'use = egg:paste_wspbus#wsgiref\n',
}


def site_of(tmp_path, server, factory='manager', **kwargs):
    ini = INI.replace(':manager', f':{factory}') + server
    return Site(tmp_path, ini, '-v', files={'webapp.py': APP + PARTS}, **kwargs)


def said(site, what):
    """What was said of it: pairs of a word or number, and a thread."""
    return re.findall(rf'^{what} (\S*) in (\d+)$', site.err.text, re.M)


def is_told_in_order(site):
    """Whether each start_thread has one stop_thread, and it came later."""
    events = re.findall(r'^(start|stop)_thread (\d+) in ', site.err.text, re.M)
    for index in {index for _, index in events}:
        mine = [what for what, one in events if one == index]
        assert mine == ['start', 'stop'] * (len(mine) // 2), site.report()
    return True


@pytest.mark.parametrize('server', SERVERS)
def test_a_servers_threads_are_acquired_before_their_requests_and_released(
    tmp_path, server
):
    with site_of(tmp_path, SERVERS[server]) as site:
        for number in range(20):
            assert site.get(f'/{number}').body == b'ok'
        assert site.stop()[0] == 0, site.report()
    assert is_told_in_order(site)
    requests = said(site, 'request')
    assert len(requests) == 20
    lines = site.err.text.splitlines()
    for path, thread in requests:
        before = lines[: lines.index(f'request {path} in {thread}')]
        assert f'acquire_thread  in {thread}' in before, site.report()
    # Each told in the thread itself, unless that was still ending.
    starts, stops = said(site, 'start_thread'), said(site, 'stop_thread')
    if server not in ('paste-threads', 'wsgiref'):
        assert Counter(stops) == Counter(starts), site.report()
        acquired, released = said(site, 'acquire_thread'), said(site, 'release_thread')
        assert Counter(acquired) == Counter(released), site.report()


@pytest.mark.parametrize('server', POOLS)
def test_a_thread_that_lives_long_is_acquired_once(tmp_path, server):
    with site_of(tmp_path, POOLS[server]) as site:
        for number in range(20):
            assert site.get(f'/{number}').body == b'ok'
        assert site.stop()[0] == 0, site.report()
    assert len(re.findall('^acquire_thread', site.err.text, re.M)) == 3
    assert len(re.findall('^start_thread', site.err.text, re.M)) == 3


@pytest.mark.parametrize('server', POOLS)
def test_a_thread_that_is_not_waited_for_is_told_by_the_manager(tmp_path, server):
    with site_of(tmp_path, POOLS[server]) as site, site.connect() as client:
        client.send('/wait')
        site.expect('request /wait')
        site.send(signal.SIGTERM)
        site.expect('Bus STOPPING')
        site.send(signal.SIGTERM)
        if server == 'cheroot':
            site.release()  # its pool joins its threads, whatever they do
        site.expect('Bus EXITED')
        site.release()
        site.wait()
    assert is_told_in_order(site)
    assert len(said(site, 'start_thread')) == 3


@pytest.mark.parametrize('server', SERVERS)
def test_listeners_that_fail_do_not_keep_a_server_from_serving(tmp_path, server):
    with site_of(tmp_path, SERVERS[server], 'failing') as site:
        for number in range(5):
            assert site.get(f'/{number}').body == b'ok'
        assert site.stop()[0] == 0, site.report()


@pytest.mark.parametrize('server', ['waitress', 'paste'])
def test_a_stop_while_threads_are_being_acquired_ends_them_all(tmp_path, server):
    with site_of(tmp_path, POOLS[server], 'slow') as site:
        site.expect('slow', count=3)
        site.send(signal.SIGTERM)
        site.expect('Bus STOPPING')
        site.release()
        assert site.wait() == 0, site.report()
    assert is_told_in_order(site)
    assert len(said(site, 'stop_thread')) == 3


@pytest.mark.parametrize('server', ['waitress', 'cheroot', 'paste'])
def test_a_server_has_stopped_when_its_threads_are_released(tmp_path, server):
    with site_of(tmp_path, POOLS[server], 'lingering') as site:
        site.send(signal.SIGTERM)
        site.expect('releasing', count=3)
        site.release()
        assert site.wait() == 0, site.report()
    said = [line for line in site.err.text.splitlines() if 'INFO' not in line]
    assert said.count('released') == 3
    assert said[-1] == 'server stopped', site.report()
