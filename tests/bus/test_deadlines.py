"""Deadlines: of a listener, of a whole start or stop, of the threads at the end."""

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import Future

import pytest

from paste_wspbus.bus import Bus, ChannelFailures, State
from paste_wspbus.bus.deadlines import reserve_of
from paste_wspbus.errors import BadPriority, TimedOut
from paste_wspbus.hosts.site import Program
from tests.kit import TIMEOUT
from tests.kit.places import ROOT
from tests.kit.threads import spawn

posix = pytest.mark.skipif(not hasattr(signal, 'setitimer'), reason='needs SIGALRM')


@pytest.fixture
def own_alarm():
    """Give the site a SIGALRM handler of its own, for as long as the test lasts."""

    def handler(signum, frame):
        raise AssertionError('the alarm of the site went off')

    before = signal.signal(signal.SIGALRM, handler)
    yield handler
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, before)


def hang():
    threading.Event().wait(TIMEOUT)


def run(script):
    """Run a script to its end; a deadline of the test's own ends it by force."""
    return subprocess.run(
        [sys.executable, '-c', script],
        env={**os.environ, 'PYTHONPATH': str(ROOT)},
        capture_output=True,
        text=True,
        timeout=TIMEOUT,
    )


def timed_out(caught):
    return [type(error) for error in caught.value.get_instances()] == [TimedOut]


def alarm_is_free():
    return signal.getsignal(signal.SIGALRM) is signal.SIG_DFL and signal.getitimer(
        signal.ITIMER_REAL
    ) == (0.0, 0.0)


# -- a listener, in the main thread --------------------------------------------


@posix
def test_a_listener_over_its_time_is_cut_and_the_next_one_runs(bus, calls, log):
    bus.subscribe('stop', hang, timeout=0.05, priority=10)
    bus.subscribe('stop', lambda: calls.append('next'))
    bus.start()
    with pytest.raises(ChannelFailures) as caught:
        bus.stop()
    assert timed_out(caught)
    (error,) = caught.value.get_instances()
    assert error.channel == 'stop' and error.seconds == 0.05
    assert 'hang' in error.name
    assert calls == ['next']
    assert bus.state is State.STOPPED


@posix
def test_the_log_shows_where_a_listener_was_cut(bus, log):
    bus.subscribe('stop', hang, timeout=0.05)
    with pytest.raises(ChannelFailures):
        bus.stop()
    (line,) = (line for line in log if 'cut here' in line)
    assert 'hang' in line.splitlines()[0]
    assert 'threading.Event().wait(TIMEOUT)' in line


@posix
@pytest.mark.parametrize('timeout', [0.05, 600])
def test_sigalrm_is_as_it_was_afterwards(bus, timeout):
    bus.subscribe('stop', hang if timeout < 1 else lambda: None, timeout=timeout)
    with contextlib.suppress(ChannelFailures):
        bus.stop()
    assert alarm_is_free()


@posix
@pytest.mark.parametrize('error', [ValueError, KeyboardInterrupt, SystemExit])
def test_sigalrm_is_as_it_was_after_a_failure(bus, error):
    @bus.subscribe('stop', timeout=600)
    def fail():
        raise error

    with pytest.raises((ChannelFailures, error)):
        bus.stop()
    assert alarm_is_free()


@posix
def test_a_listeners_own_except_exception_does_not_hold_it(bus, calls):
    @bus.subscribe('stop', timeout=0.05)
    def stubborn():
        try:
            hang()
        except Exception:
            calls.append('caught')
        calls.append('went on')

    with pytest.raises(ChannelFailures) as caught:
        bus.stop()
    assert timed_out(caught)
    assert calls == []


@posix
def test_a_listener_that_catches_everything_counts_as_failed_too(bus):
    @bus.subscribe('stop', timeout=0.05)
    def stubborn():
        with contextlib.suppress(BaseException):
            hang()

    with pytest.raises(ChannelFailures) as caught:
        bus.stop()
    assert timed_out(caught)


@posix
def test_a_listener_that_is_cut_cleans_up_behind_itself(bus, calls):
    @bus.subscribe('stop', timeout=0.05)
    def careful():
        try:
            hang()
        finally:
            calls.append('cleaned up')

    with pytest.raises(ChannelFailures):
        bus.stop()
    assert calls == ['cleaned up']


def test_a_listener_within_its_time_is_left_alone(bus, calls, log):
    bus.subscribe('start', lambda: calls.append('start'), timeout=600)
    bus.start()
    assert calls == ['start']
    assert log == ['Bus STARTING', 'Bus STARTED']


@posix
def test_a_start_listener_over_its_time_fails_the_start(bus, calls):
    bus.subscribe('start', hang, timeout=0.05)
    bus.subscribe('start', lambda: calls.append('later'))
    bus.subscribe('stop', lambda: calls.append('stop'))
    with pytest.raises(ChannelFailures) as caught:
        bus.start()
    assert isinstance(caught.value.__cause__, TimedOut)
    assert calls == ['stop']
    assert bus.state is State.STOPPED


@posix
def test_a_timeout_may_come_from_the_callback_itself(bus):
    def listener():
        hang()

    listener.timeout = 0.05
    bus.subscribe('stop', listener)
    with pytest.raises(ChannelFailures) as caught:
        bus.stop()
    assert timed_out(caught)


def test_the_timeout_of_a_server_object_is_its_own(bus, calls):
    class Server:
        timeout = 0.001

        def __call__(self):
            calls.extend(set(threading.enumerate()) - before)
            calls.append(signal.getitimer(signal.ITIMER_REAL)[0])

    before = set(threading.enumerate())
    bus.subscribe('start', Server())
    bus.start()
    assert calls == [0.0]


def test_a_timeout_that_is_no_number_is_refused(bus):
    with pytest.raises(BadPriority, match='timeout'):
        bus.subscribe('start', hang, timeout='soon')


@posix
def test_the_timeline_tells_who_timed_out(bus):
    bus.subscribe('stop', hang, timeout=0.05)
    with pytest.raises(ChannelFailures):
        bus.stop()
    assert [call.outcome for call in bus.timeline] == ['timed out']


@posix
def test_a_start_has_a_deadline_for_all_its_listeners_together(bus, calls):
    bus.start_timeout = 1
    bus.subscribe('start', lambda: calls.append('first'))
    bus.subscribe('start', hang)
    bus.subscribe('start', lambda: calls.append('later'))
    with pytest.raises(ChannelFailures) as caught:
        bus.start()
    assert isinstance(caught.value.__cause__, TimedOut)
    assert calls == ['first']


def test_the_deadline_of_the_start_does_not_bind_the_stop(bus, calls):
    bus.start_timeout = 600
    bus.subscribe('stop', lambda: calls.append(signal.getitimer(signal.ITIMER_REAL)[0]))
    bus.start()
    bus.stop()
    assert calls == [0.0]


# -- where Python cannot cut ----------------------------------------------------


def hang_until_logged(bus, text):
    """A listener that returns when the log said that it is late; and that line."""
    logged = Future()

    @bus.subscribe('log')
    def look(message, level):
        if text in message and not logged.done():
            logged.set_result(message)

    def listener():
        logged.result(TIMEOUT)

    return listener, logged


def test_in_another_thread_a_listener_is_not_cut_and_the_log_says_so(bus, calls):
    listener, logged = hang_until_logged(bus, 'cannot be cut')

    @bus.subscribe('stop', timeout=0.05, priority=10)
    def late():
        listener()
        calls.append('went on to its end')

    bus.subscribe('stop', lambda: calls.append('next'))
    with pytest.raises(ChannelFailures) as caught:
        spawn(bus.stop).result(TIMEOUT)
    assert timed_out(caught)
    assert calls == ['went on to its end', 'next']
    first, *stack = logged.result().splitlines()
    assert 'late' in first
    assert 'listener()' in '\n'.join(stack)


@posix
def test_a_site_with_a_handler_of_sigalrm_keeps_it(bus, own_alarm):
    listener, logged = hang_until_logged(bus, 'cannot be cut')
    bus.subscribe('stop', listener, timeout=0.05)
    with pytest.raises(ChannelFailures) as caught:
        bus.stop()
    assert timed_out(caught)
    assert logged.done()
    assert signal.getsignal(signal.SIGALRM) is own_alarm


@posix
def test_a_site_with_a_pending_timer_keeps_it(bus, own_alarm):
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.setitimer(signal.ITIMER_REAL, 3000)
    listener, logged = hang_until_logged(bus, 'cannot be cut')
    bus.subscribe('stop', listener, timeout=0.05)
    with pytest.raises(ChannelFailures):
        bus.stop()
    assert logged.done()
    assert signal.getitimer(signal.ITIMER_REAL)[0] > 1000


@posix
def test_a_listener_that_takes_sigalrm_for_the_site_is_not_sent_our_alarm(
    bus, own_alarm
):
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    bus.subscribe('start', signal.signal, signal.SIGALRM, own_alarm, timeout=600)
    bus.start()
    assert signal.getsignal(signal.SIGALRM) is own_alarm
    assert signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)


@posix
def test_a_listener_that_sets_a_timer_for_the_site_keeps_it(bus, own_alarm):
    signal.signal(signal.SIGALRM, signal.SIG_DFL)

    @bus.subscribe('start', timeout=600)
    def use_alarm():
        signal.signal(signal.SIGALRM, own_alarm)
        signal.setitimer(signal.ITIMER_REAL, 3000)

    bus.start()
    assert signal.getitimer(signal.ITIMER_REAL)[0] > 1000


# -- lifespans --------------------------------------------------------------------


@posix
def test_the_timeout_of_a_lifespan_bounds_its_start(bus, calls):
    @bus.lifespan(timeout=0.05)
    def db():
        hang()
        yield
        calls.append('-db')

    with pytest.raises(ChannelFailures) as caught:
        bus.start()
    assert isinstance(caught.value.__cause__, TimedOut)
    assert calls == []
    assert bus.resources == {}


@posix
def test_the_timeout_of_a_lifespan_bounds_its_stop(bus):
    @bus.lifespan(timeout=1)
    def db():
        yield
        hang()

    bus.start()
    with pytest.raises(ChannelFailures) as caught:
        bus.stop()
    assert timed_out(caught)


def test_a_lifespan_that_was_entered_too_late_is_left(bus, calls):
    listener, _ = hang_until_logged(bus, 'cannot be cut')

    @bus.lifespan(timeout=0.05)
    def db():
        listener()
        calls.append('+db')
        yield
        calls.append('-db')

    with pytest.raises(ChannelFailures) as caught:
        spawn(bus.start).result(TIMEOUT)
    assert isinstance(caught.value.__cause__, TimedOut)
    assert calls == ['+db', '-db']


# -- the whole stop -----------------------------------------------------------------

HANGING = """
import sys, threading
from paste_wspbus.bus import Bus
bus = Bus()
bus.stop_timeout = 0.2
bus.subscribe('log', lambda message, level: print(message))
def hang_in_here():
    threading.Event().wait(60)
"""


@pytest.mark.parametrize(
    'channel, method', [('stop', 'stop'), ('stop', 'exit'), ('exit', 'exit')]
)
def test_a_stop_over_its_deadline_leaves_with_70_and_shows_the_stacks(channel, method):
    process = run(
        HANGING
        + f"""
bus.subscribe('{channel}', hang_in_here)
bus.subscribe('status', lambda: '3 requests in flight')
threading.Thread(target=hang_in_here, name='worker 7').start()
bus.start()
bus.{method}()
"""
    )
    assert process.returncode == 70
    assert 'did not stop within 0.2 s' in process.stdout
    assert 'Thread worker 7:' in process.stdout
    assert 'Thread MainThread:' in process.stdout
    assert process.stdout.count('in hang_in_here') >= 2
    assert '3 requests in flight' in process.stdout


def test_the_deadline_covers_the_drain():
    process = run(
        HANGING
        + """
bus.subscribe('drain', hang_in_here)
bus.start()
bus.exit()
"""
    )
    assert process.returncode == 70


def test_a_drain_delay_leaves_the_reserve_to_what_stops(bus, calls):
    bus.subscribe('stop', lambda: calls.append('stopped'))
    bus.stop_timeout, bus.stop_reserve, bus.drain_delay = 60, 59.9, 600
    bus.start()
    bus.exit()
    assert calls == ['stopped']


RESERVES = {
    'a fifth': (25, None, 5),
    'at least a second': (3, None, 1),
    'at most half': (1, None, 0.5),
    'as the site says': (25, 20, 20),
    'never more than all': (3, 20, 3),
    'never nothing': (25, 0, 1),
    'never nothing of little': (3, 0, 0.3),
}


@pytest.mark.parametrize('limit, reserve, seconds', RESERVES.values(), ids=RESERVES)
def test_the_reserve_of_a_stop(limit, reserve, seconds):
    assert reserve_of(limit, reserve) == seconds


def test_the_server_learns_when_it_must_cut(bus):
    seen = []

    @bus.subscribe('stop')
    def look():
        now = time.monotonic()
        seen.append((bus.deadline.cut_at - now, bus.deadline.until - now))

    bus.start()
    bus.stop()
    bus.stop_timeout = 50
    bus.start()
    bus.stop()
    assert seen[0] == (float('inf'), float('inf'))
    assert seen[1] == pytest.approx((40, 50), abs=5)


def test_draining_is_set_from_the_beginning_of_a_stop_to_the_next_start(bus):
    seen = []
    bus.subscribe('drain', lambda: seen.append(bus.draining.is_set()))
    bus.start()
    assert not bus.draining.is_set()
    bus.stop()
    assert bus.draining.is_set() and seen == [True]
    bus.start()
    assert not bus.draining.is_set()


def test_draining_is_set_when_a_failed_start_is_undone(bus):
    seen = []
    bus.subscribe('stop', lambda: seen.append(bus.draining.is_set()))
    bus.subscribe('start', lambda: 1 / 0)
    with pytest.raises(ChannelFailures):
        bus.start()
    assert seen == [True]


def test_the_deadline_covers_the_stop_after_a_failed_start():
    process = run(
        HANGING.replace('wait(60)', 'wait(5)')
        + """
bus.subscribe('stop', hang_in_here)
@bus.subscribe('start')
def fail():
    raise ValueError
bus.start()
"""
    )
    assert process.returncode == 70


def test_the_deadline_holds_for_a_stop_that_the_end_of_the_main_thread_asks_for():
    process = run(
        HANGING
        + """
bus.subscribe('stop', hang_in_here)
bus.start()
"""
    )
    assert process.returncode == 70


def test_buffered_output_is_not_lost_at_the_deadline():
    process = run(
        HANGING
        + """
bus.subscribe('stop', hang_in_here)
sys.stdout.write('written before')
bus.exit()
"""
    )
    assert process.returncode == 70
    assert process.stdout.startswith('written before')


def test_a_failing_status_listener_does_not_hide_the_others():
    process = run(
        HANGING
        + """
bus.subscribe('stop', hang_in_here)
@bus.subscribe('status', priority=10)
def fail():
    raise ValueError
bus.subscribe('status', lambda: '3 requests in flight')
bus.exit()
"""
    )
    assert process.returncode == 70
    assert '3 requests in flight' in process.stdout


def test_a_log_that_hangs_does_not_hold_the_deadline_up():
    process = run(
        HANGING
        + """
bus.subscribe('log', lambda message, level: 'leaving' in message and hang_in_here())
bus.subscribe('stop', hang_in_here)
bus.exit()
"""
    )
    assert process.returncode == 70


def test_a_stop_in_time_leaves_no_timer_behind(bus):
    bus.stop_timeout = 600
    before = set(threading.enumerate())
    seen = []
    bus.subscribe('stop', lambda: seen.extend(set(threading.enumerate()) - before))
    bus.start()
    bus.exit()
    assert seen
    for thread in seen:
        thread.join(TIMEOUT)
        assert not thread.is_alive()


def test_no_limit_is_set_where_none_was_asked_for(bus, calls):
    before = set(threading.enumerate())
    for channel in ('start', 'stop'):
        bus.subscribe(
            channel, lambda: calls.extend(set(threading.enumerate()) - before)
        )
    bus.start()
    bus.stop()
    assert calls == []
    assert bus.stop_timeout is None


# -- hurry ------------------------------------------------------------------------


def test_hurry_skips_the_drain_delay(bus, calls):
    bus.drain_delay = 600
    draining = threading.Event()
    bus.subscribe('drain', draining.set)
    bus.subscribe('stop', lambda: calls.append('stop'))
    bus.start()
    stopped = spawn(bus.stop)
    assert draining.wait(TIMEOUT)
    bus.hurry()
    stopped.result(TIMEOUT)
    assert calls == ['stop']
    assert bus.hurried


def test_who_hurried_before_the_stop_waits_for_nothing(bus):
    bus.drain_delay = 600
    bus.start()
    bus.hurry()
    bus.stop()
    assert bus.state is State.STOPPED


def test_a_start_forgets_the_hurry_of_the_last_stop(bus):
    bus.start()
    bus.hurry()
    bus.hurry()
    bus.stop()
    assert bus.hurried
    bus.start()
    assert not bus.hurried


def test_hurry_interrupts_a_start_in_the_main_thread(bus, calls):
    bus.subscribe('start', bus.hurry)
    bus.subscribe('start', lambda: calls.append('later'))
    bus.subscribe('stop', lambda: calls.append('stop'))
    with pytest.raises(KeyboardInterrupt):
        bus.start()
    assert calls == ['stop']
    assert bus.state is State.STOPPED


def test_hurry_ends_the_wait_for_threads(bus, log):
    bus.join_timeout = 600
    go = threading.Event()
    thread = threading.Thread(target=go.wait, args=(TIMEOUT,), name='lingerer')
    thread.start()
    try:
        bus.subscribe(
            'log', lambda message, level: 'lingerer' in message and bus.hurry()
        )
        bus.exit()
        bus.block()
        assert thread.is_alive()
    finally:
        go.set()
        thread.join(TIMEOUT)


# -- threads at the end ---------------------------------------------------------


def test_the_wait_for_threads_ends_at_its_deadline_and_names_who_holds_it_up(bus, log):
    bus.join_timeout = 0.1
    go = threading.Event()

    def linger_in_here():
        go.wait(TIMEOUT)

    thread = threading.Thread(target=linger_in_here, name='lingerer')
    thread.start()
    try:
        bus.exit()
        bus.block()
        assert thread.is_alive()
    finally:
        go.set()
        thread.join(TIMEOUT)
    assert 'Waiting for thread lingerer.' in log
    (line,) = (line for line in log if 'lingerer did not end' in line)
    assert 'in linger_in_here' in line


def test_daemon_threads_are_not_waited_for(bus, log):
    go = threading.Event()
    thread = threading.Thread(
        target=go.wait, args=(TIMEOUT,), name='lingerer', daemon=True
    )
    thread.start()
    try:
        bus.exit()
        bus.block()
        assert thread.is_alive()
    finally:
        go.set()
        thread.join(TIMEOUT)
    assert not any('lingerer' in line for line in log)


def test_where_sigalrm_is_somebody_elses_a_time_limit_leaves_it_alone():
    bus = Bus()
    bus.host = Program('mine', '', ())
    timers = []
    bus.subscribe('start', lambda: timers.append(signal.getitimer(signal.ITIMER_REAL)))
    bus.start_timeout = 60
    bus.start()
    bus.exit()
    assert timers == [(0.0, 0.0)]


# -- handlers of atexit ---------------------------------------------------------


def test_at_the_deadline_the_handlers_of_atexit_run_once():
    process = run(
        HANGING
        + """
import atexit
atexit.register(print, 'handler ran')
bus.subscribe('stop', hang_in_here)
bus.start()
bus.exit()
"""
    )
    assert process.returncode == 70
    assert process.stdout.count('handler ran') == 1
    assert process.stdout.index('did not stop') < process.stdout.index('handler ran')


@pytest.mark.parametrize('hangs', ['hang_in_here', 'os.read, pipe, 1'])
def test_at_the_deadline_a_handler_that_hangs_holds_nothing_up(hangs):
    process = run(
        HANGING
        + f"""
import atexit, os
pipe, _ = os.pipe()
atexit.register({hangs})
bus.subscribe('stop', hang_in_here)
bus.start()
bus.exit()
"""
    )
    assert process.returncode == 70


def test_the_handlers_run_also_if_the_log_hangs():
    process = run(
        HANGING
        + """
import atexit
atexit.register(print, 'handler ran')
bus.start()
bus.subscribe('stop', bus.subscribe, 'log', lambda text, level: hang_in_here())
bus.subscribe('stop', hang_in_here, priority=60)
bus.exit()
"""
    )
    assert process.returncode == 70
    assert process.stdout.count('handler ran') == 1


def test_what_is_asked_for_at_once_does_not_run_the_handlers():
    process = run(
        HANGING
        + """
import atexit
atexit.register(print, 'handler ran')
bus.force_exit('Asked to stop three times')
"""
    )
    assert process.returncode == 70
    assert 'Asked to stop three times; leaving now.' in process.stdout
    assert 'handler ran' not in process.stdout
