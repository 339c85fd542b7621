"""The ops listener of real sites: one process, workers, restarts, the end."""

import json
import os
import signal
import socket
import time

import pytest

from paste_wspbus.role import Role
from paste_wspbus.workers.handle import WorkerHandle
from paste_wspbus.workers.ops_feed import SILENT, is_silent
from tests.kit import Site, free_port, ops, run
from tests.kit.processes import children, eventually, freeze, kill
from tests.kit.sites import APP, SERVED

FILES = {'webapp.py': APP}

each_mode = pytest.mark.parametrize('workers', [0, 1], ids=['alone', 'workers'])


def ini(port, workers, more=''):
    return f"""
[wspbus:main]
workers = {workers}
soak = 0
ops = 127.0.0.1:{port} unix:ops.sock
{more}
{SERVED}"""


@pytest.fixture
def address():
    return '127.0.0.1', free_port()


def served(folder, address, workers, *args, more=''):
    return Site(folder, ini(address[1], workers, more), *args, files=FILES)


@each_mode
def test_a_site_is_ready_until_it_is_drained(tmp_path, address, workers):
    with served(tmp_path, address, workers) as site:
        assert f'Ops listener on http://127.0.0.1:{address[1]}\n' in site.out.text
        assert ops.told(address, '/live') == (200, {'live': True})
        assert ops.told(address, '/startup') == (200, {'started': True})
        assert ops.told(address, '/ready') == (200, {'ready': True, 'state': 'STARTED'})
        assert ops.get(address, '/status').status == 403
        path = str(tmp_path / 'ops.sock')
        assert os.stat(path).st_mode & 0o777 == 0o600
        status, told = ops.told(path, '/status')
        assert (status, told['status']['pid']) == (200, site.pid)
        assert run(tmp_path, 'site.ini', 'drain').code == 0
        status, told = ops.told(address, '/ready')
        assert (status, told['ready'], told['state']) == (503, False, 'STARTED')
        assert run(tmp_path, 'site.ini', 'undrain').code == 0
        assert ops.get(address, '/ready').status == 200
        assert site.stop()[0] == 0
    assert not os.path.exists(path)


@each_mode
def test_a_graceful_restart_keeps_the_site_ready(tmp_path, address, workers):
    with served(tmp_path, address, workers) as site:
        before = ops.told(str(tmp_path / 'ops.sock'), '/status')[1]['status']
        site.send(signal.SIGHUP)

        def is_new():
            assert ops.get(address, '/ready').status == 200
            now = ops.told(str(tmp_path / 'ops.sock'), '/status')[1].get('status')
            return now is not None and (now['last_reload'] or {}).get('took')

        eventually(is_new)
        assert (
            ops.told(str(tmp_path / 'ops.sock'), '/status')[1]['status']['pid']
            == before['pid']
        )
        assert site.stop()[0] == 0


@each_mode
def test_a_port_that_is_taken_is_said_before_the_site_starts(tmp_path, workers):
    with socket.create_server(('127.0.0.1', 0)) as taken:
        port = taken.getsockname()[1]
        done = run(
            tmp_path, 'site.ini', files={**FILES, 'site.ini': ini(port, workers)}
        )
    assert done.code == 1
    assert f'cannot listen on 127.0.0.1:{port}: the port is taken' in done.err.text
    assert 'Serving' not in done.out.text


def test_the_process_is_started_again_and_ends_with_the_site(tmp_path, address):
    with served(tmp_path, address, 1) as site:
        rows = ops.told(str(tmp_path / 'ops.sock'), '/status')[1]['status']['workers']
        pid = next(row['pid'] for row in rows if row['name'] == 'ops')
        kill(pid)
        ops.becomes(address, '/ready', 200)
        left = children(site.pid)
        assert pid not in left
        # The signals of a terminal and of systemd reach it, too, and are not for it.
        for child in left:
            kill(child, signal.SIGHUP if child != left[0] else 0)
        assert site.stop()[0] == 0
        assert not any(os.path.exists(f'/proc/{child}') for child in left)


def test_a_process_that_hangs_holds_up_no_stop_and_no_supervisor(tmp_path, address):
    with served(tmp_path, address, 1, more='stop_timeout = 60') as site:
        rows = ops.told(str(tmp_path / 'ops.sock'), '/status')[1]['status']['workers']
        pid = next(row['pid'] for row in rows if row['name'] == 'ops')
        freeze(pid)
        assert run(tmp_path, 'site.ini', 'drain').code == 0
        assert run(tmp_path, 'site.ini', 'graceful').code == 0
        began = time.monotonic()
        assert site.stop()[0] == 0
        assert time.monotonic() - began < 30


def test_a_site_whose_worker_hangs_is_not_ready(tmp_path, address):
    with served(tmp_path, address, 1) as site:
        rows = ops.told(str(tmp_path / 'ops.sock'), '/status')[1]['status']['workers']
        pid = next(row['pid'] for row in rows if row['name'] == 'worker 1')
        freeze(pid)
        ops.becomes(address, '/ready', 503)
        assert ops.told(address, '/ready')[1]['why'] == 'no worker serves'
        assert ops.told(address, '/live') == (200, {'live': True})
        os.kill(pid, signal.SIGCONT)
        ops.becomes(address, '/ready', 200)
        assert site.stop()[0] == 0


def test_a_process_that_hangs_is_replaced(tmp_path, address):
    with served(tmp_path, address, 1, more='hung_after = 1') as site:
        rows = ops.told(str(tmp_path / 'ops.sock'), '/status')[1]['status']['workers']
        pid = next(row['pid'] for row in rows if row['name'] == 'ops')
        freeze(pid)
        assert site.err.wait_for('hangs: it has not answered for')
        ops.becomes(address, '/ready', 200)
        assert pid not in children(site.pid)
        assert site.stop()[0] == 0


def test_a_worker_that_does_not_answer_does_not_serve():
    with socket.socket() as connection:
        worker = WorkerHandle(Role(), connection, None, 60)
        assert not is_silent(worker)
        worker.asked_since = time.monotonic() - SILENT / 2
        assert not is_silent(worker)
        worker.asked_since = time.monotonic() - SILENT - 1
        assert is_silent(worker)


def test_it_answers_while_the_site_starts(tmp_path, address):
    slow = {'webapp.py': f'import time, os\nopen("gate").read()\n{APP}'}
    os.mkfifo(tmp_path / 'gate')
    with Site(tmp_path, ini(address[1], 1), files=slow, wait=False) as site:
        ops.becomes(address, '/live', 200)
        assert ops.get(address, '/startup').status == 503
        assert ops.told(address, '/ready')[1]['why'] == 'the site starts'
        (tmp_path / 'gate').write_text('')
        site.wait_until_served()
        ops.becomes(address, '/startup', 200)
        assert json.loads(ops.get(address, '/ready').body)['ready']


@each_mode
def test_stacks_and_timeline_are_for_those_who_see_all(tmp_path, address, workers):
    token = 'a-token-of-an-operator'
    more = f'ops_token = {token}'
    with served(tmp_path, address, workers, more=more) as site:
        for page in ('stacks', 'timeline', 'status'):
            assert ops.get(address, f'/{page}').status == 401
            answer = ops.get(address, f'/{page}', Authorization=f'Bearer {token}')
            assert answer.status == 200
            assert json.loads(answer.body)[page]
        assert site.stop()[0] == 0


def test_a_supervisor_that_hangs_is_not_live(tmp_path, address):
    with served(tmp_path, address, 1) as site:
        freeze(site.pid)
        assert ops.told(address, '/ready')[0] == 200
        waits = ops.told(str(tmp_path / 'ops.sock'), '/status')
        assert waits == (503, {'error': 'the site has not answered yet'})
        os.kill(site.pid, signal.SIGCONT)
        ops.becomes(str(tmp_path / 'ops.sock'), '/status', 200)
        assert ops.told(address, '/live') == (200, {'live': True})
        assert site.stop()[0] == 0
