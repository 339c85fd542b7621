"""A graceful restart: one worker after another is replaced, without a request lost."""

import contextlib
import json
import os
import signal

from tests.kit import eventually, free_port, is_free
from tests.kit.clients import Clients
from tests.kit.processes import children
from tests.kit.sites import ask
from tests.kit.supervised import crash, has_cleaned_up, imported
from tests.kit.workers import (
    AT_GATE,
    FILES,
    INI,
    Workers,
    clients_of,
    each_server,
    files_for,
    open_gate,
    set_up,
)


def test_graceful_says_what_serves_now(tmp_path):
    with Workers(tmp_path) as site:
        old = site.pids()
        site.deploy(2)
        told = site.graceful()
        assert told.out.text == f'Generation 2 serves (process {site.pid}).\n'
        assert site.versions() == {'2'}
        assert not set(old) & set(site.pids())
        assert sorted(children(site.pid)) == sorted(site.pids())
        assert sorted(site.says('closed')) == sorted(old)
        assert site.status()['generation'] == 2
        assert site.stop()[0] == 0
    assert site.out.text.count('Serving on') == 1


def test_sighup_is_a_graceful_restart(tmp_path):
    with Workers(tmp_path) as site:
        site.deploy(2)
        site.send(signal.SIGHUP)
        eventually(lambda: site.status()['generation'] == 2)
        assert site.versions() == {'2'}
        assert site.stop()[0] == 0


def test_sighup_to_all_processes_is_one_graceful_restart(tmp_path):
    with Workers(tmp_path) as site:
        os.killpg(site.pid, signal.SIGHUP)
        eventually(lambda: site.status()['generation'] == 2)
        assert site.stop()[0] == 0
    assert len(imported(tmp_path)) == 4
    assert 'crashed' not in site.err.text


def test_graceful_without_waiting_returns_at_once(tmp_path):
    with Workers(tmp_path) as site:
        set_up(tmp_path, at_composition=AT_GATE)
        told = site.run('graceful', '--no-wait')
        assert told.code == 0
        assert f'Process {site.pid} was asked for a graceful restart.' in told.out.text
        site.expect('composing')
        assert site.status()['generation'] == 1
        open_gate(tmp_path)
        eventually(lambda: site.status()['generation'] == 2)
        assert site.stop()[0] == 0


def test_one_after_another_is_replaced_when_the_new_one_is_ready(tmp_path):
    with Workers(tmp_path) as site:
        first, second = site.pids()
        set_up(tmp_path, at_start='wait_at_gate()')
        with site.begin('graceful') as told:
            for old in (first, second):
                site.expect('composing', 1 if old == first else 2)
                assert len(children(site.pid)) == 3
                assert old not in site.says('draining')
                serving = [w['pid'] for w in site.workers() if w['state'] == 'ready']
                assert len(serving) == 2
                assert site.answerers() <= set(serving)
                hooks = (tmp_path / 'at_start').read_text()
                open_gate(tmp_path)
                if old == first:
                    set_up(tmp_path, at_start=hooks)
                site.expect(f'closed {old}\n')
            assert told.wait() == 0, told.report()
        lines = site.err.text.splitlines()
        news = site.says('opened')[2:]
        assert lines.index(f'closed {first}') < lines.index(f'opened {news[1]}')
        assert sorted(children(site.pid)) == sorted(news)
        assert site.stop()[0] == 0


@each_server
def test_an_old_worker_answers_what_it_has_in_flight(tmp_path, server):
    with Workers(tmp_path, files=files_for(server)) as site:
        with contextlib.ExitStack() as stack:
            old = site.pids()
            clients = site.wait_in_all(stack)
            site.deploy(2)
            with site.begin('graceful') as told:
                site.expect(f'draining {old[0]}\n')
                # The next one waits for this one's end.
                assert len(imported(tmp_path)) == 3
                eventually(lambda: ask(site)['pid'] in (imported(tmp_path)[2], old[1]))
                site.release()
                for pid, client in clients.items():
                    answer = json.loads(client.receive().body)
                    assert (answer['pid'], answer['version']) == (pid, '1')
                assert told.wait() == 0, told.report()
        assert site.versions() == {'2'}
        assert site.stop()[0] == 0


@each_server
def test_nobody_is_refused_or_reset_by_gracefuls_in_a_row(tmp_path, server):
    with Workers(tmp_path, files=files_for(server)) as site:
        with Clients(site, count=2) as clients:
            for version in ('2', '3'):
                site.deploy(version)
                site.graceful()
                assert site.versions() == {version}
        assert clients.failures == []
        assert len(set(clients.answers)) >= 2
        assert site.stop()[0] == 0
    assert len(imported(tmp_path)) == 6


def test_connections_kept_alive_are_closed_between_requests(tmp_path):
    with Workers(tmp_path) as site, site.connect() as client:
        before = json.loads(client.get().body)['pid']
        site.graceful()
        assert before not in site.pids()
        assert client.is_ended()
        assert site.stop()[0] == 0


def test_graceful_takes_the_servers_settings_as_they_are_now(tmp_path):
    with Workers(tmp_path) as site:
        assert ask(site)['threads'] == 4
        site.change(('threads = 4', 'threads = 3'))
        site.graceful()
        assert ask(site)['threads'] == 3
        assert site.stop()[0] == 0


def test_graceful_takes_a_plugin_that_was_added(tmp_path):
    with Workers(tmp_path) as site:
        more = 'plugins = resource more\n[plugin:more]\nuse = call:webapp:lifespan\n'
        site.change(('plugins = resource\n', more))
        site.graceful()
        assert len(site.says('opened')) == 6
        assert site.stop()[0] == 0
    assert len(site.says('closed')) == 6


def test_graceful_takes_the_number_of_workers_as_it_is_now(tmp_path):
    ini = INI.replace('[wspbus:main]', '[wspbus:main]\nworkers = 2')
    with Workers(tmp_path, count=None, files={**FILES, 'site.ini': ini}) as site:
        for old, new in ((2, 3), (3, 1), (1, 2)):
            site.change((f'workers = {old}', f'workers = {new}'))
            site.graceful()
            eventually(lambda new=new: len(children(site.pid)) == new)
            assert [one['number'] for one in site.workers()] == [*range(1, new + 1)]
            assert {one['state'] for one in site.workers()} == {'ready'}
            ask(site)
        assert site.stop()[0] == 0
        assert has_cleaned_up(site)
    assert 'crashed' not in site.err.text


def test_no_workers_in_the_ini_any_more_leaves_one_worker(tmp_path):
    ini = INI.replace('[wspbus:main]', '[wspbus:main]\nworkers = 2')
    with Workers(tmp_path, count=None, files={**FILES, 'site.ini': ini}) as site:
        site.change(('workers = 2', 'workers = 0'))
        told = site.run('graceful')
        ask(site)
        # Either it says that this takes a restart, or somebody serves on.
        assert told.code == 0 or 'restart' in told.err.text
        eventually(lambda: {w['state'] for w in site.workers()} == {'ready'})
        assert ask(site)['ppid'] == site.pid
        site.deploy(2)
        assert site.run('graceful').code == told.code
        assert site.stop()[0] == 0
        assert has_cleaned_up(site)


def test_what_no_workers_in_the_ini_does_is_true_also_if_the_generation_fails(tmp_path):
    ini = INI.replace('[wspbus:main]', '[wspbus:main]\nworkers = 2')
    with Workers(tmp_path, count=None, files={**FILES, 'site.ini': ini}) as site:
        old = site.pids()
        set_up(tmp_path, at_import="raise RuntimeError('it is broken')")
        site.change(('workers = 2', 'workers = 0'))
        assert site.run('graceful').code == 1
        site.expect('start it again; a restart makes one worker of it')
        assert site.pids() == old
        assert site.stop()[0] == 0


def test_another_port_in_the_ini_takes_a_restart(tmp_path):
    port = free_port()
    with Workers(tmp_path) as site:
        site.change(('port = 0', f'port = {port}'), ('version = 1', 'version = 2'))
        site.graceful()
        site.expect('The address in the .ini has changed: to use it, stop wspserve')
        assert site.url in site.err.text
        assert site.versions() == {'2'}
        assert is_free(port)
        assert site.stop()[0] == 0


def test_another_server_in_the_ini_serves_from_the_same_socket(tmp_path):
    with Workers(tmp_path) as site, Clients(site) as clients:
        site.change(('egg:waitress', 'egg:paste_wspbus#cheroot'), ('threads = 4\n', ''))
        site.graceful()
        assert site.get().headers['server'].startswith('Cheroot')
        clients.stop()
        assert clients.failures == []
        assert site.stop()[0] == 0
        assert has_cleaned_up(site)


def test_two_gracefuls_at_once_are_both_answered(tmp_path):
    with Workers(tmp_path) as site:
        set_up(tmp_path, at_composition=AT_GATE)
        with site.begin('graceful') as first:
            site.expect('composing')  # what it composes has been read
            site.deploy(2)
            with site.begin('graceful') as second:
                eventually(lambda: clients_of(site) >= 2)
                open_gate(tmp_path)
                assert (first.wait(), second.wait()) == (0, 0), site.report()
        assert site.versions() == {'2'}
        assert first.out.text == f'Generation 2 serves (process {site.pid}).\n'
        assert second.out.text == f'Generation 3 serves (process {site.pid}).\n'
        assert site.stop()[0] == 0


def test_a_sighup_while_a_graceful_restart_is_under_way_is_not_lost(tmp_path):
    with Workers(tmp_path) as site:
        set_up(tmp_path, at_composition=AT_GATE)
        site.send(signal.SIGHUP)
        site.expect('composing')
        site.deploy(2)
        site.send(signal.SIGHUP)
        open_gate(tmp_path)
        eventually(lambda: site.status()['generation'] == 3)
        assert site.versions() == {'2'}
        assert site.stop()[0] == 0


def test_a_graceful_while_the_site_starts_is_not_lost(tmp_path):
    tmp_path.mkdir(exist_ok=True)
    set_up(tmp_path, at_composition=AT_GATE)
    with Workers(tmp_path, wait=False) as site:
        site.expect('composing', 2)
        with site.begin('graceful') as told:
            open_gate(tmp_path)
            assert told.wait() == 0, told.report()
        site.wait_until_served()
        assert site.status()['generation'] == 2
        assert site.stop()[0] == 0


def test_the_supervisors_descriptors_do_not_grow(tmp_path):
    with Workers(tmp_path) as site:
        site.graceful()
        before = len(os.listdir(f'/proc/{site.pid}/fd'))
        for _ in range(3):
            site.graceful()
            set_up(tmp_path, at_composition="raise RuntimeError('broken')")
            assert site.run('graceful').code == 1
            (tmp_path / 'at_composition').unlink()
        crash(site)
        eventually(lambda: len(children(site.pid)) == 2)
        eventually(lambda: {w['state'] for w in site.workers()} == {'ready'})
        eventually(lambda: len(os.listdir(f'/proc/{site.pid}/fd')) == before)
        assert site.stop()[0] == 0
