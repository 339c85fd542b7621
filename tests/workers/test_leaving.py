"""A stop of several workers: requests in flight are answered, and nobody stays."""

import contextlib
import json
import os
import signal

import pytest

from tests.kit import eventually, is_free
from tests.kit.clients import Clients
from tests.kit.processes import asleep, children, freeze, pending
from tests.kit.supervised import has_cleaned_up, press_ctrl_c, press_ctrl_c_again
from tests.kit.workers import (
    AT_GATE,
    FILES,
    INI,
    ONE_ONLY,
    SERVERS,
    Workers,
    each_server,
    files_for,
    set_up,
)


@pytest.mark.parametrize(
    'server, how',
    [
        *((server, 'SIGTERM') for server in SERVERS),
        *(('waitress', x) for x in ('stop', 'ctrl-c')),
    ],
)
def test_a_stop_answers_what_is_in_flight_in_each_worker(tmp_path, server, how):
    with Workers(tmp_path, files=files_for(server)) as site:
        with contextlib.ExitStack() as stack:
            clients = site.wait_in_all(stack)
            stop = None
            if how == 'SIGTERM':
                site.send(signal.SIGTERM)
            elif how == 'ctrl-c':
                press_ctrl_c(site)
            else:
                stop = stack.enter_context(site.begin('stop'))
            site.expect('draining', 2)
            site.release()
            for pid, client in clients.items():
                assert json.loads(client.receive().body)['pid'] == pid
            assert site.wait() == 0, site.report()
            if stop is not None:
                assert stop.wait() == 0, stop.report()
                assert stop.out.text.endswith('The site has stopped.\n')
        assert len(site.says('closed')) == 2
        assert has_cleaned_up(site)


@each_server
def test_nobody_is_reset_by_a_stop(tmp_path, server):
    with Workers(tmp_path, files=files_for(server)) as site:
        with Clients(site) as clients:
            eventually(lambda: len(clients.answers) > 20)
            assert site.stop()[0] == 0
        refused = ConnectionRefusedError, FileNotFoundError
        assert [one for one in clients.failures if not isinstance(one, refused)] == []
        assert has_cleaned_up(site)


@each_server
def test_who_waits_in_the_backlog_when_the_site_stops_is_answered(tmp_path, server):
    with Workers(tmp_path, files=files_for(server)) as site:
        pids = site.pids()
        for pid in pids:
            freeze(pid)
        with contextlib.ExitStack() as stack:
            clients = [stack.enter_context(site.connect()) for _ in range(5)]
            for client in clients:
                client.send('/', connection='close')
            site.send(signal.SIGTERM)
            eventually(lambda: asleep(site.pid))
            for pid in pids:
                os.kill(pid, signal.SIGCONT)
            assert {client.receive().status for client in clients} == {200}
        assert site.wait() == 0, site.report()
        assert has_cleaned_up(site)


def wait_until_it_stops(site):
    site.expect('draining', 2)
    eventually(lambda: site.status()['state'] == 'STOPPING')


def test_a_second_signal_skips_the_wait_for_requests(tmp_path):
    with Workers(tmp_path) as site, contextlib.ExitStack() as stack:
        site.wait_in_all(stack)
        press_ctrl_c(site)
        wait_until_it_stops(site)
        press_ctrl_c_again(site)
        assert site.wait() == 0, site.report()  # though nothing was released
        assert len(site.says('closed')) == 2
        assert has_cleaned_up(site)


def test_a_third_signal_leaves_at_once(tmp_path):
    with Workers(tmp_path) as site:
        set_up(tmp_path, at_stop="say('closing'); threading.Event().wait()")
        site.send(signal.SIGTERM)
        site.expect('closing', 2)
        site.send_again(signal.SIGTERM)
        eventually(lambda: 'SIGTERM' not in pending(site.pid))
        site.send_again(signal.SIGTERM)
        assert site.wait() == 70
        eventually(site.has_left_nothing)
    assert 'Asked to stop three times' in site.err.text
    assert 'at_stop' in site.err.text  # where the workers were
    assert is_free(site.port)


def test_a_worker_that_hangs_at_its_stop_is_forced_out(tmp_path):
    ini = INI.replace('[wspbus:main]', '[wspbus:main]\nstop_timeout = 3')
    with Workers(tmp_path, files={**FILES, 'site.ini': ini}) as site:
        hangs = "say('hangs'); threading.Event().wait()"
        set_up(tmp_path, at_stop=ONE_ONLY % hangs)
        with site.begin('stop') as stop:
            site.expect('hangs')
            assert stop.err.wait_for("waiting for the 'stop' listener"), stop.report()
            assert stop.wait() == 1
        assert site.wait() == 70, site.report()
        assert has_cleaned_up(site)
    assert 'ended by force' in stop.out.text
    assert len(site.says('closed')) == 1


def test_a_stop_with_failures_in_one_worker_is_the_sites_exit_code(tmp_path):
    with Workers(tmp_path) as site:
        set_up(tmp_path, at_stop=ONE_ONLY % "raise RuntimeError('it does not stop')")
        assert site.stop()[0] == 1
        assert has_cleaned_up(site)
    assert site.err.text.count('RuntimeError: it does not stop') == 1
    assert 'crashed' not in site.err.text


def test_stop_names_the_requests_of_all_workers(tmp_path):
    with Workers(tmp_path) as site, contextlib.ExitStack() as stack:
        clients = site.wait_in_all(stack)
        with site.begin('stop') as stop:
            assert stop.err.wait_for('waiting for 2 requests in flight'), stop.report()
            assert '/wait' in stop.err.text
            site.release()
            assert stop.wait() == 0
        assert {client.receive().status for client in clients.values()} == {200}
        assert site.wait() == 0


@pytest.mark.parametrize('signum', [signal.SIGTERM, signal.SIGINT])
def test_a_signal_while_workers_compose_ends_the_start(tmp_path, signum):
    set_up(tmp_path, at_composition=AT_GATE)
    with Workers(tmp_path, wait=False) as site:
        site.expect('composing', 2)
        code, out, _ = site.stop(signum)
        assert code == 128 + signum, site.report()
        assert site.has_left_nothing()
    assert out == ''
    assert 'Traceback' not in site.err.text
    assert {'site.pid', 'site.pid.sock'}.isdisjoint(os.listdir(tmp_path))


def test_a_signal_when_one_worker_is_ready_and_the_other_composes(tmp_path):
    set_up(tmp_path, at_composition=ONE_ONLY % AT_GATE)
    with Workers(tmp_path, wait=False) as site:
        site.expect('composing')
        site.expect('opened')
        code, out, _ = site.stop()
        assert code in (0, 143), site.report()
        assert site.has_left_nothing()
    assert out == ''
    assert len(site.says('closed')) == 1


def test_a_stop_during_a_graceful_restart(tmp_path):
    with Workers(tmp_path) as site:
        set_up(tmp_path, at_composition=AT_GATE)
        with site.begin('graceful') as told:
            site.expect('composing')
            assert site.stop()[0] == 0, site.report()
            assert told.wait() == 1, told.report()
        assert 'asked to stop' in told.err.text
        assert len(site.says('closed')) == 2
        assert has_cleaned_up(site)


def test_a_stop_while_an_old_worker_drains(tmp_path):
    with Workers(tmp_path) as site, contextlib.ExitStack() as stack:
        old = site.pids()
        clients = site.wait_in_all(stack)
        site.send(signal.SIGHUP)
        site.expect(f'draining {old[0]}\n')
        site.send(signal.SIGTERM)
        site.expect('draining', 3)
        site.release()
        assert {client.receive().status for client in clients.values()} == {200}
        assert site.wait() == 0, site.report()
        assert has_cleaned_up(site)


def test_an_old_worker_that_does_not_end_is_forced_out(tmp_path):
    ini = INI.replace('[wspbus:main]', '[wspbus:main]\nstop_timeout = 1')
    with Workers(tmp_path, files={**FILES, 'site.ini': ini}) as site:
        with contextlib.ExitStack() as stack:
            site.wait_in(site.pids()[0], stack)
            old = site.pids()
            site.deploy(2)
            site.graceful()
            assert site.versions() == {'2'}
            assert not set(old) & set(children(site.pid))
        assert site.stop()[0] == 0, site.report()
    assert '/wait' in site.err.text  # what it had in flight
