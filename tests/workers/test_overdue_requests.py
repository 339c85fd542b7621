"""Requests past their deadline: the worker is replaced, and nobody else notices it."""

import json
import os
import re

import pytest

from paste_wspbus.control.client import ask as ask_control
from tests.kit import eventually
from tests.kit.clients import Clients
from tests.workers.test_slow_requests import counts, kill, line_of, site

DEADLINE = 'slow_request = off\nrequest_deadline = 0.5\n    /logs 60'
SERVERS = {
    'waitress': ('egg:waitress', 503),
    'cheroot': ('egg:paste_wspbus#cheroot', 503),
    'paste': ('egg:Paste#http', 503),
    'wsgiref': ('egg:paste_wspbus#wsgiref', None),
}


def overdue(folder, **kwargs):
    return site(folder, limits=DEADLINE, **kwargs)


def pid_of(site):
    """Return the process that the last overdue request was in."""
    return int(re.findall(r'\(process (\d+)\): GET ', site.err.text)[-1])


@pytest.mark.parametrize('server', SERVERS)
def test_the_clients_get_503_when_the_successor_is_ready(tmp_path, server):
    use, status = SERVERS[server]
    with (
        overdue(tmp_path, server=use) as running,
        running.connect() as client,
        running.connect() as other,
    ):
        client.send('/sleeps', x_request_id='its-id')
        other.send('/sleeps')
        for one in (client, other):
            if status is not None:
                response = one.receive()
                assert response.status == status
                assert response.text == 'The request took too long.\n'
            assert one.is_ended()
        running.expect('(request its-id), at ')
        assert f'slow.py line {line_of("sleeps")} in sleeps' in running.err.text
        assert ', past its deadline' in running.err.text
        old = pid_of(running)
        eventually(lambda: not os.path.exists(f'/proc/{old}'))
        assert running.get('/').status == 200
        assert counts(running) == (0, 2)
        told = ask_control(str(tmp_path / 'site.pid.sock'), 'status')
        (last,) = (one['last_replacement'] for one in told['workers'])
        assert (last['why'], last['pid']) == ('deadline', old)
        assert last['request'] == 'GET /sleeps' and last['report'] is None
        assert running.stop()[0] == 0
    assert 'is killed' not in running.err.text
    assert 'The stop cuts' not in running.err.text
    assert 'less than a minute ago' not in running.err.text  # one goes with the other
    assert running.err.text.count('a new process takes its place') == 1


def test_a_worker_that_holds_the_gil_is_killed(tmp_path):
    with overdue(tmp_path) as running, running.connect() as client:
        client.send('/holds')
        running.expect('did not stop in time: it is killed')
        assert f'line {line_of("holds")} in holds' in running.err.text
        assert client.is_ended()
        eventually(lambda: not os.path.exists(f'/proc/{pid_of(running)}'))
        assert running.get('/').status == 200
        assert running.stop()[0] == 0


def test_what_has_begun_to_answer_is_not_overdue(tmp_path):
    with overdue(tmp_path) as running, running.connect() as client:
        client.send('/streams')
        assert client.receive().text == '01234'
        assert counts(running) == (0, 0)
        assert running.stop()[0] == 0
    assert 'past its deadline' not in running.err.text


def test_a_client_that_keeps_its_request_waiting_loses_only_its_connection(tmp_path):
    server = 'egg:paste_wspbus#cheroot'
    with overdue(tmp_path, server=server) as running, running.connect() as client:
        client.send('/upload', content_length='100')
        running.expect('its client keeps it waiting: its connection is closed')
        client.file.read()  # to the end
        assert counts(running) == (0, 0)
        assert running.stop()[0] == 0
    assert 'takes its place' not in running.err.text


def test_the_application_knows_its_deadline(tmp_path):
    with overdue(tmp_path) as running:
        assert json.loads(running.get('/logs').text)['left'] == 60
        assert json.loads(running.get('/').text)['left'] in (0, 1)
        assert running.stop()[0] == 0


def test_without_workers_it_is_only_logged_and_counted_and_told_to_health(tmp_path):
    with overdue(tmp_path, workers=0) as running, running.connect() as client:
        client.send('/sleeps')
        running.expect('past its deadline; without workers, nothing ends it')
        assert counts(running) == (0, 1)
        assert running.get('/').status == 200
        told = ask_control(str(tmp_path / 'site.pid.sock'), 'status')
        (check,) = told['health']
        assert (check['name'], check['group'], check['ok']) == (
            'overdue',
            'health',
            False,
        )
        assert '1 request is past the deadline, and the oldest has run' in check['text']
        kill(running)


def test_a_place_is_renewed_once_a_minute(tmp_path):
    with overdue(tmp_path) as running, running.connect() as client:
        client.send('/sleeps')
        assert client.receive().status == 503
        running.expect('past its deadline')
        eventually(lambda: not os.path.exists(f'/proc/{pid_of(running)}'))
        with running.connect() as other:
            other.send('/sleeps')
            running.expect('less than a minute ago: it is replaced in ')
            running.expect(' s if the request still runs then')
        assert running.err.text.count('a new process takes its place') == 1
        assert running.get('/').status == 200
        kill(running)


def test_no_other_request_is_lost(tmp_path):
    with overdue(tmp_path, workers=2) as running, Clients(running, count=15) as clients:
        with running.connect() as client:
            client.send('/sleeps')
            assert client.receive().status == 503
        running.expect('past its deadline')
        eventually(lambda: not os.path.exists(f'/proc/{pid_of(running)}'))
        clients.stop()
        assert clients.failures == []
        assert len(clients.answers) > 100
        assert running.stop()[0] == 0
