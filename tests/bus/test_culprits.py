"""The text of a forced end: first who did not end, then the stacks of all threads."""

import re
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from paste_wspbus.bus import culprits, ending, joining, places
from tests.kit import TIMEOUT


@pytest.fixture
def held():
    """An Event for which threads wait until the test is over."""
    event = threading.Event()
    yield event
    event.set()


def hang_in_here(event, reached):
    reached.set()
    event.wait(TIMEOUT)


def first_line(text):
    return text.partition('\n')[0]


def test_the_listener_that_runs_is_named_with_its_age_and_its_line(bus):
    reports = []

    @bus.subscribe('stop')
    def close_the_database():
        reports.append(culprits.report(bus, 'Too late'))

    bus.start()
    bus.stop()
    line = first_line(reports[0])
    assert line.startswith("Too late: 'stop' listener ")
    assert 'close_the_database has run for 0.0 s, at ' in line
    assert f'{__file__}:' in line
    assert line.endswith('close_the_database; leaving now. Stacks:')


def test_the_age_of_a_listener_does_not_depend_on_the_clock_of_the_wall(
    bus, monkeypatch
):
    reports = []

    @bus.subscribe('stop')
    def close():
        monkeypatch.setattr(time, 'time', lambda: 0.0)
        reports.append(culprits.report(bus, 'Too late'))

    bus.stop()
    assert 'has run for 0.0 s' in first_line(reports[0])


def test_while_the_server_stops_the_requests_are_the_culprits(bus, held):
    class Server:
        def stop(self):
            reports.append(culprits.report(bus, 'Too late'))

    def answer(environ):
        hang_in_here(held, reached)

    server, reports, reached = Server(), [], threading.Event()
    environ = {
        'REQUEST_METHOD': 'GET',
        'SCRIPT_NAME': '/shop',
        'PATH_INFO': '/a\x1b[2J',
        'QUERY_STRING': 'secret',
    }
    bus.plugins |= {'server': server, 'requests': {1: (environ, time.monotonic() - 9)}}
    bus.subscribe('stop', server.stop)
    bus.start()
    thread = threading.Thread(target=answer, args=(environ,), name='worker 7')
    thread.start()
    assert reached.wait(TIMEOUT)
    bus.stop()
    line = first_line(reports[0])
    assert re.match(
        r'Too late: request GET /shop/a\\x1b\[2J has run for 9\.\d s, at ', line
    )
    assert line.endswith('in hang_in_here; leaving now. Stacks:')
    assert 'secret' not in line
    assert reports[0].split('\n')[1] == 'Thread worker 7:'
    held.set()
    thread.join(TIMEOUT)


def test_more_requests_than_a_line_can_hold_are_counted(bus):
    class Server:
        def stop(self):
            reports.append(culprits.report(bus, 'Too late'))

    server, reports = Server(), []
    requests = {number: ({'PATH_INFO': f'/{number}'}, 0.0) for number in range(20)}
    bus.plugins |= {'server': server, 'requests': requests}
    bus.subscribe('stop', server.stop)
    bus.stop()
    line = first_line(reports[0])
    assert line.count('request ') == culprits.NAMED
    assert 'and 15 more; leaving now' in line


def test_the_thread_that_is_waited_for_is_the_culprit(bus, held):
    reached, reports = threading.Event(), []
    thread = threading.Thread(
        target=hang_in_here, args=(held, reached), name='everlasting'
    )
    thread.start()
    assert reached.wait(TIMEOUT)

    def look():
        reports.append(culprits.report(bus, 'Too late'))
        return True

    joining.join_threads(TIMEOUT, lambda *_, **__: None, is_hurried=look)
    line = first_line(reports[0])
    assert 'thread everlasting has not ended, at ' in line
    assert 'in hang_in_here' in line
    held.set()
    thread.join(TIMEOUT)


def test_idle_threads_are_one_line_at_the_end(bus):
    with ThreadPoolExecutor(8) as pool:
        together = threading.Barrier(8)
        for _ in pool.map(lambda _: together.wait(TIMEOUT), range(8)):
            pass
        wait_until_idle(pool)
        text = culprits.report(bus, 'Too late')
    assert text.endswith('8 idle threads of concurrent.futures.thread')
    assert 'ThreadPoolExecutor' not in text


def test_a_thread_of_a_pool_that_works_is_shown(bus):
    with ThreadPoolExecutor(1) as pool:
        reached = threading.Event()

        def work():
            reached.set()
            return places.is_of_site(__file__) and seen.wait(TIMEOUT)

        seen = threading.Event()
        pool.submit(work)
        assert reached.wait(TIMEOUT)
        text = culprits.report(bus, 'Too late')
        seen.set()
    assert 'Thread ThreadPoolExecutor' in text
    assert 'in work' in text


def wait_until_idle(pool):
    for thread in pool._threads:
        while not joining._is_idle(thread):
            thread.join(0.001)


def test_block_imports_the_report_before_it_sleeps(bus, monkeypatch):
    monkeypatch.delitem(sys.modules, culprits.__name__)
    monkeypatch.delattr(sys.modules['paste_wspbus.bus'], 'culprits')
    seen = []
    bus.subscribe('main', lambda: (seen.append(set(sys.modules)), bus.exit()))
    bus.start()
    bus.block()
    assert culprits.__name__ in seen[0]


def test_a_report_that_cannot_be_imported_is_one_line(bus, monkeypatch):
    # No descriptor is free, for example.
    monkeypatch.setitem(sys.modules, culprits.__name__, None)
    assert ending._report(bus, 'Too late') == 'Too late; leaving now.'


def test_an_error_is_told_of_where_its_traceback_cannot_be_made(monkeypatch):
    def lack(*args, **kwargs):
        raise OSError(24, 'Too many open files')  # of the import of tokenize

    monkeypatch.setattr('traceback.TracebackException.from_exception', lack)
    assert places.trace_of(ValueError('it is bad')) == 'ValueError: it is bad\n'
