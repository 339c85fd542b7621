"""--monitor-restart: what ends a child, and whether another one follows."""

import contextlib
import json
import os
import signal
import socket

import pytest

from paste_wspbus.control.client import ask as ask_control
from tests.kit import Site, eventually, is_free
from tests.kit.monitored import (
    FILES,
    INI,
    LIFE,
    Daemon,
    close_gate,
    each_socket,
    impatient,
    open_gate,
    supervised,
)
from tests.kit.processes import processes_of_session
from tests.kit.sites import ask
from tests.kit.supervised import UNKNOWN_SERVER, crash, has_cleaned_up, imported, said

each_crash = pytest.mark.parametrize(
    'page, how',
    [
        ('/kill', 'signal SIGKILL'),
        ('/segv', 'signal SIGSEGV'),
        ('/exit3', 'exit code 3'),
    ],
)


# -- a crash ---------------------------------------------------------------------------


@each_crash
def test_a_crash_is_followed_by_a_new_child(tmp_path, page, how):
    with supervised(tmp_path) as site:
        first = ask(site)
        crash(site, page)
        site.wait_until_served(2)
        second = ask(site)
        code, _, err = site.stop()
    assert code == 0, site.report()
    assert first['ppid'] == second['ppid'] == site.pid
    assert len({first['pid'], second['pid'], site.pid}) == 3
    assert site.urls[0] == site.urls[1]
    assert f'The site (process {first["pid"]}) crashed, {how}; restarting\n' in err
    assert err.count('crashed') == 1
    assert has_cleaned_up(site)


@each_crash
def test_a_crash_of_a_daemon_is_followed_by_a_new_child(tmp_path, page, how):
    with Daemon(tmp_path) as daemon:
        first = ask(daemon)
        crash(daemon, page)
        second = ask(daemon)
        assert first['ppid'] == second['ppid'] == daemon.pid
        assert first['pid'] != second['pid']
        assert f'{how}; restarting\n' in daemon.log
        daemon.send(signal.SIGTERM)
        daemon.wait_until_gone()
    assert is_free(daemon.port)
    assert not (tmp_path / 'paster.pid').exists()


def test_the_child_is_no_daemon_of_its_own(tmp_path):
    with Daemon(tmp_path) as daemon:
        for _ in range(2):
            told = ask(daemon)
            assert told['ppid'] == daemon.pid
            assert os.getsid(told['pid']) == daemon.session
            assert sorted(processes_of_session(daemon.session)) == sorted(
                [daemon.pid, told['pid']]
            )
            assert int((tmp_path / 'paster.pid').read_text()) == daemon.pid
            crash(daemon)


def test_a_second_crash_is_followed_by_a_wait(tmp_path):
    with supervised(tmp_path) as site:
        crash(site, '/segv')
        site.expect('crashed, signal SIGSEGV; restarting\n')
        site.wait_until_served(2)
        crash(site, '/segv')
        site.expect('crashed, signal SIGSEGV; restarting in 1 s\n')
        site.wait_until_served(3)
        assert site.stop()[0] == 0


def test_it_gives_up_a_site_that_crashes_again_and_again(tmp_path):
    with impatient(tmp_path) as site:
        crash(site, '/segv')
        site.wait_until_served(2)
        crash(site, '/segv')
        site.wait_until_served(3)
        crash(site, '/exit3')
        assert site.wait() == 1
    assert 'crashed, signal SIGSEGV; restarting in 0.1 s\n' in site.err.text
    last = site.err.text.splitlines()[-1]
    assert last.endswith(
        'crashed, exit code 3; 3 crashes in a row, and no worker serves: wspserve gives '
        'up and stops'
    )
    assert has_cleaned_up(site)


def test_it_gives_up_a_site_that_does_not_start_any_more(tmp_path):
    with impatient(tmp_path) as site:
        (tmp_path / 'broken').write_text("raise RuntimeError('broken meanwhile')")
        crash(site)
        assert site.wait() == 1
    assert site.err.text.count(f'failed to start: {tmp_path}/site.ini [app:main]') == 2
    assert 'Traceback' in site.err.text
    assert (
        '3 crashes in a row, and no worker serves: wspserve gives up' in site.err.text
    )
    assert site.out.text.count('Serving on') == 1
    assert has_cleaned_up(site)


def test_a_site_that_was_healthy_for_a_while_may_crash_again(tmp_path):
    with impatient(tmp_path, backoff=(0,), healthy=0) as site:
        for count in range(2, 5):
            crash(site, '/segv')
            site.wait_until_served(count)
        assert site.stop()[0] == 0
    assert site.err.text.count('crashed, signal SIGSEGV; restarting') == 3


def test_a_site_that_somebody_kills_is_not_given_up(tmp_path):
    with impatient(tmp_path, backoff=(0,)) as site:
        for count in range(2, 6):
            crash(site, '/kill')
            site.wait_until_served(count)
        assert site.stop()[0] == 0
    assert site.err.text.count('crashed, signal SIGKILL; restarting') == 3
    assert site.err.text.count('Crash loop: ') == 1


def test_a_crash_before_the_parent_has_heard_of_the_start_is_a_crash(tmp_path):
    close_gate(tmp_path)
    with supervised(tmp_path, wait=False) as site:
        site.expect('composing')
        site.send(signal.SIGSTOP)
        open_gate(tmp_path)
        site.wait_until_served()
        crash(site)
        site.send(signal.SIGCONT)
        site.expect('crashed, signal SIGKILL; restarting\n')
        site.wait_until_served(2)
        assert ask(site)['pid'] == imported(tmp_path)[1]
        assert site.stop()[0] == 0


def test_an_exit_before_the_parent_has_heard_of_the_start_is_an_exit(tmp_path):
    close_gate(tmp_path)
    with supervised(tmp_path, wait=False) as site:
        site.expect('composing')
        site.send(signal.SIGSTOP)
        open_gate(tmp_path)
        site.wait_until_served()
        ask(site, '/bus_exit')
        site.expect('draining')
        site.send(signal.SIGCONT)
        assert site.wait() == 0
        assert has_cleaned_up(site)
    assert len(imported(tmp_path)) == 1


@each_socket
def test_connections_made_while_there_is_no_child_wait_for_the_next(tmp_path, ini):
    with supervised(tmp_path, files={**FILES, 'site.ini': ini}) as site:
        close_gate(tmp_path)
        crash(site)
        site.expect('composing')
        with contextlib.ExitStack() as stack:
            clients = [stack.enter_context(site.connect()) for _ in range(5)]
            for client in clients:
                client.send('/', connection='close')
            open_gate(tmp_path)
            answers = {json.loads(client.receive().body)['pid'] for client in clients}
        assert answers == {imported(tmp_path)[1]}
        assert site.stop()[0] == 0


def test_requests_during_a_wait_for_the_restart_are_answered_after_it(tmp_path):
    with impatient(tmp_path, backoff=(0.5,)) as site:
        crash(site)
        site.expect('restarting in 0.5 s')
        assert ask(site)['pid'] == imported(tmp_path)[1]
        assert site.stop()[0] == 0


@each_socket
def test_a_child_that_cannot_start_leaves_the_socket_to_the_next(tmp_path, ini):
    files = {**FILES, 'site.ini': ini}
    with impatient(tmp_path, backoff=(0, 0.1, 0.1), files=files) as site:
        once = "os.unlink('broken'); raise RuntimeError('broken once')"
        (tmp_path / 'broken').write_text(once)
        crash(site)
        site.wait_until_served(2)
        assert 'broken once' in site.err.text
        with site.connect(timeout=20) as client:
            assert client.get().status == 200
        assert site.stop()[0] == 0


# -- other ends of the child ----------------------------------------------------------


def test_a_clean_exit_of_the_site_ends_the_parent(tmp_path):
    with supervised(tmp_path) as site:
        ask(site, '/bus_exit')
        assert site.wait() == 0
    assert said(site.err.text) == LIFE
    assert site.out.text.count('Serving on') == 1
    assert has_cleaned_up(site)


def test_a_clean_exit_of_a_daemon_ends_it(tmp_path):
    with Daemon(tmp_path) as daemon:
        ask(daemon, '/bus_exit')
        daemon.wait_until_gone()
    assert is_free(daemon.port)
    assert not (tmp_path / 'paster.pid').exists()
    assert len(imported(tmp_path)) == 1


def test_an_exit_of_the_site_with_failures_ends_the_parent_with_failures(tmp_path):
    ini = INI.replace('call:webapp:lifespan', 'call:webapp:failing_at_its_end')
    with supervised(tmp_path, files={**FILES, 'site.ini': ini}) as site:
        ask(site, '/bus_exit')
        assert site.wait() == 1
        assert has_cleaned_up(site)
    assert 'it does not stop' in site.err.text
    assert len(imported(tmp_path)) == 1


@each_socket
def test_a_restart_with_failures_leaves_the_socket_to_the_next(tmp_path, ini):
    ini = ini.replace('call:webapp:lifespan', 'call:webapp:failing_at_its_end')
    with supervised(tmp_path, files={**FILES, 'site.ini': ini}) as site:
        ask(site, '/bus_restart')
        site.wait_until_served(2)
        with site.connect(timeout=20) as client:
            assert client.get().status == 200


def test_a_child_that_is_told_to_stop_by_somebody_else_ends_the_parent(tmp_path):
    with supervised(tmp_path) as site:
        os.kill(ask(site)['pid'], signal.SIGTERM)
        assert site.wait() == 0
        assert has_cleaned_up(site)
    assert said(site.err.text) == LIFE


@each_socket
def test_a_restart_that_the_site_asks_for_is_a_new_child(tmp_path, ini):
    with supervised(tmp_path, files={**FILES, 'site.ini': ini}) as site:
        first = ask(site, '/bus_restart')
        site.wait_until_served(2)
        eventually(lambda: ask(site)['pid'] != first['pid'])
        assert first['ppid'] == ask(site)['ppid'] == site.pid
        assert site.urls[0] == site.urls[1]
        assert site.stop()[0] == 0
    assert sorted(said(site.err.text).split()) == sorted((LIFE * 2).split())


def test_a_restart_that_the_site_asks_for_leaves_it_as_it_is_if_it_is_broken(tmp_path):
    with supervised(tmp_path) as site:
        (tmp_path / 'broken').write_text("raise RuntimeError('broken meanwhile')")
        first = ask(site, '/bus_restart')
        site.expect('in make; generation 1 keeps serving')
        assert ask(site)['pid'] == first['pid']
        assert site.stop()[0] == 0


def test_a_restart_that_is_asked_for_before_the_start_is_over_fails_aloud(tmp_path):
    once = """
def ask(bus=global_conf['wspbus'].bus):
    with open('broken', 'w') as file:
        file.write("raise RuntimeError('broken meanwhile')")
    bus.restart()
global_conf['wspbus'].bus.subscribe('start', ask)
"""
    with supervised(tmp_path, files={**FILES, 'broken': once}) as site:
        site.expect('in make; generation 1 keeps serving')
        assert ask(site)['ppid'] == site.pid
        assert site.stop()[0] == 0


def test_restarts_that_the_site_asks_for_are_no_crashes(tmp_path):
    with impatient(tmp_path, backoff=()) as site:
        for count in range(2, 5):
            ask(site, '/bus_restart')
            site.wait_until_served(count)
        assert site.stop()[0] == 0


def test_the_parents_signal_dispositions_are_not_the_sites(tmp_path):
    with supervised(tmp_path) as site:
        assert ask(site, '/subprocess')['code'] == 4
        assert ask(site, '/subprocess')['sigchld'] is True
        assert site.stop()[0] == 0


UNKNOWN = INI.replace('egg:waitress', 'call:server:make').replace('threads = 4\n', '')


def test_a_server_that_is_not_known_is_kept_alive_too(tmp_path):
    files = {**FILES, 'server.py': UNKNOWN_SERVER, 'site.ini': UNKNOWN}
    with supervised(tmp_path, files=files) as site:
        first = ask(site)
        # What such a server does at first may be its failure to bind.
        eventually(lambda: state_of(site) == 'STARTED')
        crash(site)
        site.wait_until_served(2)
        second = ask(site)
        assert first['ppid'] == second['ppid'] == site.pid
        assert first['pid'] != second['pid']
        assert site.stop()[0] == 0
    assert site.err.text.endswith('closed\n')
    assert has_cleaned_up(site)


def state_of(site):
    path = str(site.folder / 'site.pid.sock')
    return ask_control(path, 'status')['state']


def test_a_server_that_is_not_known_and_cannot_bind_is_not_repeated(tmp_path):
    with socket.create_server(('127.0.0.1', 0)) as taken:
        ini = UNKNOWN.replace('port = 0', f'port = {taken.getsockname()[1]}')
        files = {**FILES, 'server.py': UNKNOWN_SERVER, 'site.ini': ini}
        with supervised(tmp_path, files=files, wait=False) as site:
            assert site.wait() == 1
    assert 'Address already in use' in site.err.text.splitlines()[-1]
    assert 'crashed' not in site.err.text
    assert not (tmp_path / 'site.pid').exists()


@pytest.mark.parametrize(
    'way', [[], ['--monitor-restart']], ids=['alone', 'supervised']
)
def test_a_server_that_swallows_an_interrupt_is_interrupted_again(tmp_path, way):
    ini = UNKNOWN.replace('port = 0\n', 'port = 0\ninterrupts = 2\n')
    files = {**FILES, 'server.py': UNKNOWN_SERVER, 'site.ini': ini}
    with Site(tmp_path, None, 'site.ini', *way, files=files) as site:
        ask(site)  # so it accepts
        assert site.stop()[0] == 0
    assert site.err.text.count('interrupted') == 2
