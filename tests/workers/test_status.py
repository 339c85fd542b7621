"""What `status` tells of several workers."""

import contextlib
import json
import os
import re
import signal

from tests.kit import eventually
from tests.kit.processes import children, freeze
from tests.kit.workers import AT_GATE, FILES, INI, Workers, open_gate, set_up


def test_status_shows_the_workers_and_their_requests(tmp_path):
    with Workers(tmp_path) as site, contextlib.ExitStack() as stack:
        pids = site.pids()
        client = site.wait_in(pids[1], stack)
        told = site.run('status')
        assert told.code == 0
        lines = told.out.text.splitlines()
        assert f'The site is running (process {site.pid})' in lines[0]
        assert lines[0].endswith(': generation 1, 2 workers.')
        assert f'Serving on {site.url}' in lines
        first, second = (re.split('  +', x) for x in lines if x.startswith('worker '))
        assert first[:3] == ['worker 1', str(pids[0]), 'ready']
        assert second[:3] == ['worker 2', str(pids[1]), 'ready']
        assert (first[5:7], second[5:7]) == (['0', '0/4'], ['1', '1/4'])
        assert lines[-2] == '1 request in flight:'
        assert re.search(r'worker 2  \S+  GET /wait  \w+-\d+$', lines[-1])
        site.release()
        assert client.receive().status == 200
        assert site.stop()[0] == 0


def test_status_as_json_has_each_request_of_each_worker(tmp_path):
    with Workers(tmp_path) as site, contextlib.ExitStack() as stack:
        client = site.wait_in(site.pids()[0], stack)
        answer = site.run('status', '--json')
        assert answer.code == 0
        told = json.loads(answer.out.text)
        assert told['pid'] == site.pid
        assert told['state'] == 'STARTED'
        assert told['generation'] == 1
        assert told['urls'] == [site.url]
        assert [one['number'] for one in told['workers']] == [1, 2]
        assert [one['state'] for one in told['workers']] == ['ready', 'ready']
        (request,) = told['workers'][0]['requests']
        assert (request['method'], request['path']) == ('GET', '/wait')
        assert request['thread'].startswith('waitress-')
        assert told['workers'][1]['requests'] == []
        (known,) = told['requests']
        assert known == {**request, 'worker': 'worker 1'}
        assert (told['in_flight'], told['server_threads']) == (1, 8)
        assert (told['serving'], told['wanted']) == (2, 2)
        assert all(one['rss'] > 1 << 20 for one in [told, *told['workers']])
        site.release()
        assert client.receive().status == 200
        assert site.stop()[0] == 0


def test_status_of_a_draining_and_a_starting_worker(tmp_path):
    with Workers(tmp_path) as site, contextlib.ExitStack() as stack:
        client = site.wait_in(site.pids()[0], stack)
        with site.begin('graceful') as told:
            site.expect('draining')
            states = [one['state'] for one in site.workers()]
            assert sorted(states) == ['draining', 'ready', 'ready']
            (drains,) = (one for one in site.workers() if one['state'] == 'draining')
            assert drains['requests'][0]['path'] == '/wait'
            assert drains['generation'] == 1
            set_up(tmp_path, at_composition=AT_GATE)
            site.release()
            assert client.receive().status == 200
            site.expect('composing')
            assert 'starting' in [one['state'] for one in site.workers()]
            open_gate(tmp_path)
            assert told.wait() == 0
        assert site.stop()[0] == 0


def test_a_worker_that_hangs_does_not_stall_status(tmp_path):
    with Workers(tmp_path) as site:
        pids = site.pids()
        freeze(pids[0])
        told = site.run('status')
        assert told.code == 0
        assert '1 of 2 workers serve.' in told.out.text
        assert 'Worker 1 does not answer: a signal has stopped it;' in told.out.text
        workers = site.workers()
        assert [one['requests'] for one in workers] == [None, []]
        assert [one['is_stopped'] for one in workers] == [True, False]
        os.kill(pids[0], signal.SIGCONT)
        eventually(lambda: [one['requests'] for one in site.workers()] == [[], []])
        assert site.stop()[0] == 0


def test_a_worker_that_hangs_does_not_stall_a_graceful_for_ever(tmp_path):
    ini = INI.replace('[wspbus:main]', '[wspbus:main]\nstop_timeout = 0.5')
    with Workers(tmp_path, files={**FILES, 'site.ini': ini}) as site:
        old = site.pids()
        freeze(old[0])
        site.graceful()
        assert not set(old) & set(children(site.pid))
        assert site.stop()[0] == 0
    assert (
        f'Worker 1 (process {old[0]}) did not stop in time: it is killed'
        in site.err.text
    )


def test_those_that_crash_do_not_count_as_workers_that_serve(tmp_path):
    with Workers(tmp_path) as site:
        set_up(tmp_path, at_composition=AT_GATE)
        for pid in site.pids():
            os.kill(pid, signal.SIGSEGV)
        site.expect('composing', 2)
        text = site.run('status').out.text
        assert '\n0 of 2 workers serve.\n' in text
        assert re.search(r'worker 2  1         .*: signal SIGSEGV', text)
        assert site.status()['recent_crashes'] == 2
        open_gate(tmp_path)
        eventually(lambda: site.status()['serving'] == 2)
        text = site.run('status').out.text
        assert text.splitlines()[0].endswith(': generation 1, 2 workers.')
        assert [one['restarts'] for one in site.workers()] == [1, 1]
        assert site.stop()[0] == 0
