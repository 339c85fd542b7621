"""The supervisor of one child: its start, its own process, its subcommands, its death."""

import os
import signal
import socket
from pathlib import Path

import pytest

from tests.kit import Site, eventually, is_free, run
from tests.kit.clients import Clients
from tests.kit.monitored import (
    FILES,
    FIRST_STARTS,
    INI,
    LIFE,
    UNIX,
    Daemon,
    close_gate,
    each_socket,
    first_start,
    impatient,
    messages,
    supervised,
)
from tests.kit.processes import asleep, children, processes_of_session
from tests.kit.sites import ask
from tests.kit.supervised import crash, has_cleaned_up, imported

# -- a first start that fails ------------------------------------------------------------


@pytest.mark.parametrize('case', FIRST_STARTS)
def test_a_first_start_that_fails_is_not_repeated(tmp_path, case):
    files, code, line = first_start(tmp_path, case)
    with supervised(tmp_path, files=files, wait=False) as site:
        assert site.wait() == code
        assert site.has_left_nothing()
    said = messages(site.err.text)
    assert len(said) == 1, site.report()
    assert line in said[0]
    assert site.out.text == ''
    assert len(imported(tmp_path)) == 1
    assert not (tmp_path / 'site.pid').exists()


@pytest.mark.parametrize('case', FIRST_STARTS)
def test_a_daemons_first_start_that_fails_is_told_to_the_shell(tmp_path, case):
    files, code, line = first_start(tmp_path, case)
    site = run(tmp_path, 'site.ini', 'start', '--monitor-restart', files=files)
    assert site.code == code
    assert len(site.err.text.splitlines()) == 1, site.report()
    assert line in site.err.text
    assert site.out.text == ''
    assert len(imported(tmp_path)) == 1
    assert not (tmp_path / 'paster.pid').exists()
    log = (tmp_path / 'paster.log').read_text()
    told = site.err.text.partition(' (the traceback is in ')[0].strip()
    assert log.count(told.replace(', at ', f', at {tmp_path}/')) == 1


def test_a_port_that_is_taken_is_told_once(tmp_path):
    with socket.create_server(('127.0.0.1', 0)) as taken:
        port = taken.getsockname()[1]
        ini = INI.replace('port = 0', f'port = {port}')
        files = {**FILES, 'site.ini': ini}
        with supervised(tmp_path, files=files, wait=False) as site:
            assert site.wait() == 1
    (line,) = site.err.text.splitlines()
    assert f'127.0.0.1:{port}' in line
    assert not (tmp_path / 'life').exists()


def test_a_start_is_logged_as_a_start(tmp_path):
    with supervised(tmp_path, '-v') as site:
        ask(site)
        eventually(lambda: site.err.text.count('Bus STARTED') == 2)  # two processes
        log = site.err.text
        assert log.count('Bus STARTING') == 2
        assert 'Bus STOPPING' not in log
        assert 'Traceback' not in log
        assert site.stop()[0] == 0
    assert site.err.text.count('Bus EXITED') == 2


# -- without a parent ------------------------------------------------------------------------


def test_the_child_of_a_parent_that_was_killed_stops(tmp_path):
    with supervised(tmp_path) as site:
        ask(site)
        site.send(signal.SIGKILL)
        assert site.wait() == -signal.SIGKILL
        eventually(site.has_left_nothing)
        site.expect('closed')
        site.expect('The supervisor is gone: the site stops')
        assert is_free(site.port)


def test_the_child_of_a_parent_that_was_killed_answers_what_is_in_flight(tmp_path):
    with supervised(tmp_path) as site, site.connect() as client:
        client.send('/wait')
        site.expect('waiting')
        site.send(signal.SIGKILL)
        site.expect('The supervisor is gone: the site stops')
        site.release()
        assert client.receive().status == 200
        site.wait()
        eventually(site.has_left_nothing)
        assert is_free(site.port)


def test_a_child_that_composes_while_its_parent_is_killed_does_not_serve(tmp_path):
    with supervised(tmp_path) as site:
        close_gate(tmp_path)
        crash(site)
        site.expect('composing')
        site.send(signal.SIGKILL)
        site.process.wait()
        eventually(site.has_left_nothing)  # though the gate is closed still
        assert is_free(site.port)
        site.wait()
    assert site.out.text.count('Serving on') == 1


def test_after_a_parent_that_was_killed_the_site_can_be_started_again(tmp_path):
    ini = INI.replace('port = 0', 'port = %(http_port)s') + '[DEFAULT]\nhttp_port = 0\n'
    files = {**FILES, 'site.ini': ini}
    with supervised(tmp_path, files=files) as site:
        site.send(signal.SIGKILL)
        site.wait()
        eventually(site.has_left_nothing)
    with supervised(tmp_path, f'http_port={site.port}', files=files) as again:
        assert again.port == site.port
        assert again.stop()[0] == 0
    assert (
        f'process {site.pid}, which wrote it, is gone; this site uses the file now'
        in again.err.text
    )


# -- the parent -----------------------------------------------------------------------------


def test_the_parent_imports_nothing_of_the_site_and_has_one_thread(tmp_path):
    with supervised(tmp_path) as site:
        first = ask(site)['pid']
        assert len(os.listdir(f'/proc/{site.pid}/task')) == 1
        crash(site)
        site.wait_until_served(2)
        site.send(signal.SIGHUP)
        site.wait_until_served(3)
        last = imported(tmp_path)[-1]
        eventually(lambda: children(site.pid) == [last])
        assert ask(site)['pid'] == last
        assert len(os.listdir(f'/proc/{site.pid}/task')) == 1
        assert site.stop()[0] == 0
    pids = imported(tmp_path)
    assert len(set(pids)) == len(pids) == 3
    assert (pids[0], pids[2]) == (first, last)
    assert site.pid not in pids


def test_the_parent_sleeps(tmp_path):
    def switches():
        status = Path(f'/proc/{site.pid}/status').read_text()
        return int(status.split('\nvoluntary_ctxt_switches:')[1].split()[0])

    with supervised(tmp_path, '-v') as site:
        site.expect('Bus STARTED', 2)
        eventually(lambda: asleep(site.pid))
        before = switches()
        for _ in range(20):
            ask(site)
        assert switches() == before
        assert site.stop()[0] == 0


def test_the_pid_file_has_the_parents_number(tmp_path):
    with supervised(tmp_path) as site:
        assert (tmp_path / 'site.pid').read_text() == f'{site.pid}\n'
        crash(site)
        site.wait_until_served(2)
        assert (tmp_path / 'site.pid').read_text() == f'{site.pid}\n'
        assert site.stop()[0] == 0
    assert not (tmp_path / 'site.pid').exists()


def test_the_parents_descriptors_do_not_grow(tmp_path):
    with impatient(tmp_path, backoff=(0,) * 9) as site:
        crash(site)
        site.wait_until_served(2)
        before = sorted(os.listdir(f'/proc/{site.pid}/fd'))
        for count in range(3, 6):
            crash(site)
            site.wait_until_served(count)
        assert sorted(os.listdir(f'/proc/{site.pid}/fd')) == before
        assert site.stop()[0] == 0


# -- subcommands -----------------------------------------------------------------------------


def test_status_tells_of_the_parent(tmp_path):
    with Daemon(tmp_path) as daemon:
        status = run(tmp_path, 'site.ini', 'status')
        assert status.code == 0
        assert f'The site is running (process {daemon.pid})' in status.out.text
        assert f'Serving on {daemon.url}\n' in status.out.text
        crash(daemon)
        assert run(tmp_path, 'site.ini', 'status').code == 0


def test_stop_ends_both_processes(tmp_path):
    with Daemon(tmp_path) as daemon:
        stop = run(tmp_path, 'site.ini', 'stop')
        assert (stop.code, stop.out.text) == (0, 'The site has stopped.\n')
        assert processes_of_session(daemon.session) == []
        assert is_free(daemon.port)
        assert not (tmp_path / 'paster.pid').exists()
        assert not (tmp_path / 'paster.pid.sock').exists()
        assert run(tmp_path, 'site.ini', 'status').code == 3
    assert [daemon.log.count(line) for line in LIFE.split()] == [1, 1, 1, 1]


def test_stop_tells_of_a_site_that_stopped_with_failures(tmp_path):
    ini = INI.replace('call:webapp:lifespan', 'call:webapp:failing_at_its_end')
    with Daemon(tmp_path, files={**FILES, 'site.ini': ini}):
        stop = run(tmp_path, 'site.ini', 'stop')
    assert stop.code == 1
    assert 'exit code 1' in stop.out.text


def test_stop_while_it_waits_before_a_restart(tmp_path):
    with impatient(tmp_path, backoff=(600,)) as site:
        crash(site)
        site.expect('restarting in 600 s')
        stop = run(tmp_path, 'site.ini', 'stop', '--pid-file', 'site.pid')
        assert (stop.code, stop.out.text) == (0, 'The site has stopped.\n')
        assert site.wait() == 0
        assert has_cleaned_up(site)


def test_a_second_start_says_that_it_runs(tmp_path):
    with Daemon(tmp_path) as daemon:
        again = run(tmp_path, 'site.ini', 'start', '--monitor-restart')
        assert again.code == 0
        assert f'running already (process {daemon.pid})' in again.out.text
        assert len(imported(tmp_path)) == 1


@each_socket
def test_restart_replaces_parent_and_child_and_refuses_nobody(tmp_path, ini):
    files = {**FILES, 'site.ini': ini}
    with supervised(tmp_path, files=files) as site, Clients(site) as clients:
        eventually(lambda: clients.answers)
        with Daemon(
            tmp_path, files=files, pid_file='site.pid', verb='restart'
        ) as daemon:
            assert site.wait() == 0
            assert site.has_left_nothing()
            assert daemon.pid != site.pid
            (child,) = children(daemon.pid)
            eventually(lambda: child in clients.answers or clients.failures)
            clients.stop()
            assert clients.failures == []
            stop = run(tmp_path, 'site.ini', 'stop', '--pid-file', 'site.pid')
            assert stop.code == 0, stop.report()


def test_a_restart_after_the_socket_file_was_removed(tmp_path):
    files = {**FILES, 'site.ini': UNIX}
    with supervised(tmp_path, files=files) as site:
        (tmp_path / 'site.sock').unlink()
        with Daemon(tmp_path, files=files, pid_file='site.pid', verb='restart'):
            assert site.wait() == 0
            assert ask(site)['pid'] == imported(tmp_path)[-1]
            stop = run(tmp_path, 'site.ini', 'stop', '--pid-file', 'site.pid')
            assert stop.code == 0, stop.report()


def test_sighup_after_the_socket_file_was_removed(tmp_path):
    files = {**FILES, 'site.ini': UNIX}
    with Site(tmp_path, None, 'site.ini', files=files) as site:
        (tmp_path / 'site.sock').unlink()
        site.send(signal.SIGHUP)
        site.wait_until_served(2)
        assert ask(site)['pid'] == site.pid
        assert site.stop()[0] == 0
