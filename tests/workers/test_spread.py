"""Requests at once: each gets a thread at once, as long as one is free in any worker."""

import contextlib
import fcntl
import os
import signal
import time

import pytest

from tests.kit.processes import eventually, freeze
from tests.kit.workers import FILES, INI, Workers

PAGE = """

def wait_here(environ):
    say('inside')
    wait_at_gate()


PAGES['/gate'] = wait_here
"""

#: Two threads in each worker.
SERVERS = {
    'waitress': 'egg:waitress\nthreads = 2',
    'waitress-poll': 'egg:waitress\nthreads = 2\nasyncore_use_poll = true',
    'cheroot': 'egg:paste_wspbus#cheroot\nnumthreads = 2',
    'paste': 'egg:Paste#http\nthreadpool_workers = 2\nthreadpool_spawn_if_under = 1',
}


@contextlib.contextmanager
def serving(folder, server, more=''):
    ini = INI.replace('egg:waitress', SERVERS[server]).replace('\nthreads = 4', '')
    ini = ini.replace('[wspbus:main]', f'[wspbus:main]\n{more}')
    files = {'webapp.py': FILES['webapp.py'] + PAGE, 'site.ini': ini}
    with Workers(folder, files=files) as site, open(folder / 'gate', 'w') as gate:
        site.gate = gate
        yield site


def count(site):
    return len(site.says('inside'))


def check_that_none_waits(site):
    """Eight times, four requests are in the application at once."""
    for number in range(1, 9):
        fcntl.flock(site.gate, fcntl.LOCK_EX)
        with contextlib.ExitStack() as stack:
            waiting = [stack.enter_context(site.connect()) for _ in range(4)]
            for connection in waiting:
                connection.send('/gate', connection='close')
            eventually(lambda number=number: count(site) == 4 * number)
            fcntl.flock(site.gate, fcntl.LOCK_UN)
            for connection in waiting:
                assert connection.receive().status == 200


@pytest.mark.parametrize('server', SERVERS)
def test_no_request_waits_while_a_thread_is_free(tmp_path, server):
    with serving(tmp_path, server) as site:
        check_that_none_waits(site)
        assert site.stop()[0] == 0


@pytest.mark.parametrize('server', ['waitress', 'waitress-poll'])
def test_connections_that_send_nothing_hold_up_no_request(tmp_path, server):
    with serving(tmp_path, server) as site, contextlib.ExitStack() as stack:
        for _ in range(60):
            stack.enter_context(site.connect())
        connection = stack.enter_context(site.connect())
        began = time.monotonic()
        assert connection.get('/').status == 200
        # Two workers that take two of them each in half a second would need 7 s.
        assert time.monotonic() - began < 3
        assert site.stop()[0] == 0


@pytest.mark.parametrize('server', ['waitress', 'waitress-poll', 'cheroot'])
def test_a_connection_that_waits_for_its_next_request_takes_no_thread(tmp_path, server):
    with serving(tmp_path, server) as site, contextlib.ExitStack() as stack:
        kept = []
        for _ in range(8):
            kept.append(stack.enter_context(site.connect()))
            for _ in range(2):
                assert kept[-1].get('/').status == 200
        check_that_none_waits(site)
        assert [one.get('/').status for one in kept] == [200] * 8


def test_nor_with_preload_and_after_a_graceful_restart(tmp_path):
    with serving(tmp_path, 'waitress', more='preload = true') as site:
        site.graceful()
        check_that_none_waits(site)


@pytest.mark.parametrize('server', SERVERS)
def test_a_worker_that_has_left_connections_to_others_accepts_again(tmp_path, server):
    with serving(tmp_path, server) as site, contextlib.ExitStack() as stack:
        fcntl.flock(site.gate, fcntl.LOCK_EX)
        all_of_them = [stack.enter_context(site.connect()) for _ in range(9)]
        for connection in all_of_them:
            connection.send('/gate', connection='close')
        eventually(lambda: count(site) == 4)
        eventually(lambda: site.status()['queued'] == 5)
        fcntl.flock(site.gate, fcntl.LOCK_UN)
        for connection in all_of_them:
            assert connection.receive().status == 200
        # All are free again: each of them must accept.
        assert set(site.says('inside')) == set(site.pids())


def test_a_busy_worker_leaves_a_connection_to_one_that_has_no_time_yet(tmp_path):
    with serving(tmp_path, 'waitress') as site, contextlib.ExitStack() as stack:
        first, second = site.pids()
        freeze(second)
        fcntl.flock(site.gate, fcntl.LOCK_EX)
        connections = [stack.enter_context(site.connect()) for _ in range(3)]
        for connection in connections:
            connection.send('/gate', connection='close')
        eventually(lambda: count(site) == 2)
        assert site.says('inside') == [first, first]
        os.kill(second, signal.SIGCONT)
        eventually(lambda: count(site) == 3)
        fcntl.flock(site.gate, fcntl.LOCK_UN)
        for connection in connections:
            assert connection.receive().status == 200


def test_the_backlog_is_counted(tmp_path):
    with serving(tmp_path, 'waitress') as site, contextlib.ExitStack() as stack:
        for pid in site.pids():
            freeze(pid)
        for _ in range(3):
            stack.enter_context(site.connect())
        assert site.status()['queued'] == 3
        for pid in site.pids():
            os.kill(pid, signal.SIGCONT)
