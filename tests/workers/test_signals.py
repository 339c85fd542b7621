"""What signals do to a supervisor and its child: TERM, Ctrl-C, HUP, USR1 and others."""

import json
import os
import re
import signal

import pytest

from paste_wspbus.control.client import ask as ask_control
from tests.kit import Connection, Site, eventually, is_free
from tests.kit.clients import Clients
from tests.kit.monitored import (
    FILES,
    INI,
    Daemon,
    close_gate,
    each_socket,
    impatient,
    open_gate,
    supervised,
)
from tests.kit.processes import processes_of_session
from tests.kit.sites import APP, SERVED, ask
from tests.kit.supervised import (
    LOGGING,
    crash,
    has_cleaned_up,
    imported,
    press_ctrl_c,
    press_ctrl_c_again,
    said,
)

# -- TERM --------------------------------------------------------------------------------


def test_sigterm_lets_the_request_in_flight_end(tmp_path):
    with supervised(tmp_path) as site, site.connect() as client:
        assert (tmp_path / 'site.pid.sock').is_socket()
        client.send('/wait')
        site.expect('waiting')
        site.send(signal.SIGTERM)
        site.expect('stopping')
        site.release()
        assert client.receive().status == 200
        assert site.wait() == 0
        assert has_cleaned_up(site)
    assert 'closed' in site.err.text


@each_socket
def test_newcomers_are_answered_during_the_drain_delay(tmp_path, ini):
    ini = ini.replace(
        '[wspbus:main]', '[wspbus:main]\ndrain_delay = 600\nstop_timeout = 900'
    )
    with supervised(tmp_path, files={**FILES, 'site.ini': ini}) as site:
        site.send(signal.SIGTERM)
        site.expect('draining')
        with site.connect(timeout=20) as client:
            assert client.get(connection='close').status == 200
        site.send_again(signal.SIGTERM)  # skips the rest of it
        assert site.wait() == 0
        assert has_cleaned_up(site)


@each_socket
def test_nobody_is_reset_by_a_stop(tmp_path, ini):
    with supervised(tmp_path, files={**FILES, 'site.ini': ini}) as site:
        with Clients(site) as clients:
            eventually(lambda: len(clients.answers) > 20)
            assert site.stop()[0] == 0
        refused = ConnectionRefusedError, FileNotFoundError
        assert [one for one in clients.failures if not isinstance(one, refused)] == []


def test_sigterm_to_a_daemon_lets_the_request_in_flight_end(tmp_path):
    with Daemon(tmp_path) as daemon, Connection(daemon.address) as client:
        client.send('/double_fork')  # whatever it answers: it is in flight
        daemon.send(signal.SIGTERM)
        assert client.receive().status == 200
        daemon.wait_until_gone()
    assert is_free(daemon.port)
    assert not (tmp_path / 'paster.pid').exists()
    assert not (tmp_path / 'paster.pid.sock').exists()


def test_sigterm_while_the_child_composes(tmp_path):
    close_gate(tmp_path)
    with supervised(tmp_path, wait=False) as site:
        site.expect('composing')
        code, out, err = site.stop()
        assert site.has_left_nothing()
    assert code == 143
    assert out == ''
    assert said(err) == 'composing\ncomposition given up\ncleaned up\n'
    assert not (tmp_path / 'site.pid').exists()
    assert not (tmp_path / 'site.pid.sock').exists()


def test_sigterm_while_a_later_child_composes(tmp_path):
    with supervised(tmp_path) as site:
        close_gate(tmp_path)
        crash(site)
        site.expect('composing')
        code = site.stop()[0]
        assert has_cleaned_up(site)
    assert code == 0  # the site had been started before
    assert 'composition given up' in site.err.text
    assert site.err.text.count('crashed') == 1


def test_sigterm_while_it_waits_before_a_restart(tmp_path):
    with impatient(tmp_path, backoff=(600,)) as site:
        crash(site)
        site.expect('restarting in 600 s')
        assert site.stop()[0] == 0
        assert has_cleaned_up(site)
    assert len(imported(tmp_path)) == 1


def test_a_stop_with_failures_is_the_parents_exit_code(tmp_path):
    ini = INI.replace('call:webapp:lifespan', 'call:webapp:failing_at_its_end')
    with supervised(tmp_path, files={**FILES, 'site.ini': ini}) as site:
        assert site.stop()[0] == 1
        assert has_cleaned_up(site)
    assert 'crashed' not in site.err.text


def test_a_child_that_does_not_stop_in_time_is_forced_out(tmp_path):
    ini = INI.replace('[wspbus:main]', '[wspbus:main]\nstop_timeout = 1')
    hang = FILES['webapp.py'].replace("say('closed')", "say('closing'); hold()")
    files = {**FILES, 'site.ini': ini, 'webapp.py': hang}
    with supervised(tmp_path, files=files) as site:
        assert site.stop()[0] == 70
        assert has_cleaned_up(site)
    assert 'closing' in site.err.text


def test_a_request_that_computes_too_long_is_cut_and_the_child_stops(tmp_path):
    ini = INI.replace('[wspbus:main]', '[wspbus:main]\nstop_timeout = 1')
    files = {**FILES, 'site.ini': ini}
    with supervised(tmp_path, files=files) as site, site.connect() as client:
        client.send('/wait')
        site.expect('waiting')
        assert site.stop()[0] == 1
        assert has_cleaned_up(site)
    assert 'GET /wait, in flight for' in site.err.text
    assert 'closed' in site.err.text


# -- Ctrl-C, which reaches both processes ---------------------------------------------------


def wait_until_it_stops(site):
    """Until the parent and the child know of the first one: two in a row may be one."""
    site.expect('stopping')
    control = str(site.folder / 'site.pid.sock')
    eventually(lambda: ask_control(control, 'status')['state'] == 'STOPPING')


def test_ctrl_c_counts_once(tmp_path):
    with supervised(tmp_path) as site, site.connect() as client:
        client.send('/wait')
        site.expect('waiting')
        press_ctrl_c(site)
        wait_until_it_stops(site)
        site.release()
        assert client.receive().status == 200
        assert site.wait() == 0
        assert has_cleaned_up(site)
    assert 'closed' in site.err.text


def test_a_second_ctrl_c_skips_the_wait_for_requests(tmp_path):
    with supervised(tmp_path) as site, site.connect() as client:
        client.send('/wait')
        site.expect('waiting')
        press_ctrl_c(site)
        wait_until_it_stops(site)
        press_ctrl_c_again(site)
        assert site.wait() == 0  # though the request was not released
        assert has_cleaned_up(site)
    assert 'closed' in site.err.text


def test_a_third_ctrl_c_leaves_at_once(tmp_path):
    hang = FILES['webapp.py'].replace("say('closed')", "say('closing'); hold()")
    with supervised(tmp_path, files={**FILES, 'webapp.py': hang}) as site:
        press_ctrl_c(site)
        wait_until_it_stops(site)
        site.expect('closing')
        press_ctrl_c_again(site)
        site.send_again(signal.SIGTERM)
        assert site.wait() == 70
        eventually(site.has_left_nothing)
    assert 'Asked to stop three times' in site.err.text
    assert 'os.read(0, 1)' in site.err.text  # where the child was
    assert is_free(site.port)


@pytest.mark.parametrize('preload', ['false', 'true'])
def test_a_third_ctrl_c_leaves_no_process_that_cannot_hear_it(tmp_path, preload):
    ini = f'{SERVED}[wspbus:main]\nworkers = 2\npreload = {preload}\n'
    with Site(
        tmp_path, ini, '--pid-file', 'site.pid', files={'webapp.py': APP}
    ) as site:
        found = processes_of_session(site.pid)
        stopped = [pid for pid in found if pid != site.pid]
        for pid in stopped:
            os.kill(pid, signal.SIGSTOP)
        site.send(signal.SIGTERM)
        control = str(tmp_path / 'site.pid.sock')
        eventually(lambda: ask_control(control, 'status')['state'] == 'STOPPING')
        for _ in range(2):
            site.send_again(signal.SIGTERM)
        assert site.wait() == 70, site.report()
        eventually(site.has_left_nothing)
    for pid in stopped:
        assert f'(process {pid})' in re.search('times; killed (.*)', site.err.text)[1]


def test_ctrl_c_while_the_child_composes(tmp_path):
    close_gate(tmp_path)
    with supervised(tmp_path, wait=False) as site:
        site.expect('composing')
        press_ctrl_c(site)
        assert site.wait() == 130, site.report()
        assert site.has_left_nothing()
    assert said(site.err.text) == 'composing\ncomposition given up\ncleaned up\n'
    assert not (tmp_path / 'site.pid').exists()


# -- HUP ------------------------------------------------------------------------------------


@each_socket
def test_sighup_replaces_the_child_when_the_next_one_is_ready(tmp_path, ini):
    with (
        supervised(tmp_path, files={**FILES, 'site.ini': ini}) as site,
        site.connect() as client,
    ):
        first = ask(site)
        client.send('/wait')
        site.expect('waiting')
        close_gate(tmp_path)
        site.send(signal.SIGHUP)
        site.expect('composing')
        assert ask(site)['pid'] == first['pid']
        assert 'stopping' not in site.err.text
        open_gate(tmp_path)
        site.wait_until_served(2)
        assert site.urls[0] == site.urls[1]
        site.expect('stopping')
        eventually(lambda: ask(site)['pid'] == imported(tmp_path)[1])
        site.release()
        assert json.loads(client.receive().body)['pid'] == first['pid']
        site.expect('closed')
        assert site.stop()[0] == 0
    assert 'crashed' not in site.err.text
    assert site.err.text.count('opened') == site.err.text.count('closed') == 2


@pytest.mark.parametrize('how', ['HUP', 'bus'])
@each_socket
def test_nobody_is_refused_while_the_child_is_replaced(tmp_path, ini, how):
    with supervised(tmp_path, files={**FILES, 'site.ini': ini}) as site:
        with Clients(site) as clients:
            for count in range(2, 6):
                if how == 'HUP':
                    site.send(signal.SIGHUP)
                else:
                    ask(site, '/bus_restart')
                site.wait_until_served(count)
                seen = imported(tmp_path)[-1]
                eventually(lambda seen=seen: seen in clients.answers)
        assert clients.failures == []
        assert site.stop()[0] == 0


def test_sighup_to_a_daemon_replaces_its_child(tmp_path):
    with Daemon(tmp_path) as daemon:
        first = ask(daemon)
        daemon.send(signal.SIGHUP)
        eventually(lambda: ask(daemon)['pid'] != first['pid'])
        assert ask(daemon)['ppid'] == daemon.pid
        assert int((tmp_path / 'paster.pid').read_text()) == daemon.pid
        daemon.send(signal.SIGTERM)
        daemon.wait_until_gone()


def test_sighup_to_both_processes_replaces_the_child_once(tmp_path):
    with supervised(tmp_path) as site:
        os.killpg(site.pid, signal.SIGHUP)
        site.wait_until_served(2)
        eventually(lambda: ask(site)['pid'] == imported(tmp_path)[1])
        assert site.stop()[0] == 0
    assert len(imported(tmp_path)) == 2
    assert 'crashed' not in site.err.text


def test_a_sighup_while_a_child_composes_is_not_lost(tmp_path):
    with supervised(tmp_path) as site:
        close_gate(tmp_path)
        site.send(signal.SIGHUP)
        site.expect('composing')
        site.send(signal.SIGHUP)  # what it is about may have been read already
        open_gate(tmp_path)
        eventually(lambda: len(imported(tmp_path)) == 3)
        eventually(lambda: ask(site)['pid'] == imported(tmp_path)[2])
        assert site.stop()[0] == 0
    assert 'crashed' not in site.err.text


# -- other signals -----------------------------------------------------------------------------


@pytest.mark.parametrize('signum', [signal.SIGUSR1, signal.SIGUSR2])
def test_the_logs_of_both_processes_are_reopened(tmp_path, signum):
    files = {**FILES, 'site.ini': INI + LOGGING}
    args = ['--log-file', 'out.log']
    with supervised(tmp_path, *args, files=files, wait=False) as site:
        out, log = tmp_path / 'out.log', tmp_path / 'site.log'
        eventually(lambda: out.exists() and 'Serving on' in out.read_text())
        site.url = out.read_text().split('Serving on ')[1].split()[0]
        child = ask(site, '/log')['pid']
        out.rename(tmp_path / 'out.log.1')
        log.rename(tmp_path / 'site.log.1')
        site.send(signum)
        eventually(lambda: out.exists() and log.exists())
        for pid in (site.pid, child):
            for fd in (1, 2):
                link = f'/proc/{pid}/fd/{fd}'
                eventually(lambda link=link: os.readlink(link) == str(out))
        ask(site, '/log')
        crash(site)
        eventually(lambda: 'Serving on' in out.read_text())
        assert site.stop()[0] == 0
    assert 'a line of the site' in log.read_text()
    assert 'a line on standard error' in out.read_text()
    assert 'crashed, signal SIGKILL' in log.read_text()
    assert (tmp_path / 'site.log.1').read_text().count('a line of the site') == 1
    assert 'crashed' not in (tmp_path / 'out.log.1').read_text()


def test_a_log_that_a_child_opened_before_it_composes_is_reopened(tmp_path):
    files = {**FILES, 'site.ini': INI + LOGGING}
    with supervised(tmp_path, files=files) as site:
        close_gate(tmp_path)
        site.send(signal.SIGHUP)
        site.expect('composing')
        log = tmp_path / 'site.log'
        log.rename(tmp_path / 'site.log.1')
        site.send(signal.SIGUSR1)
        open_gate(tmp_path)
        site.wait_until_served(2)
        # The supervisor may have made the file; the child opens it a moment later.
        eventually(
            lambda: (
                ask(site, '/log')
                and log.exists()
                and 'a line of the site' in log.read_text()
            )
        )
        assert site.stop()[0] == 0


def test_sigusr1_while_the_first_child_composes_is_no_start(tmp_path):
    close_gate(tmp_path)
    (tmp_path / 'broken').write_text("raise RuntimeError('it is broken')")
    with supervised(tmp_path, wait=False) as site:
        site.expect('composing')
        site.send(signal.SIGUSR1)
        open_gate(tmp_path)
        assert site.wait() == 1
    assert site.err.text.count('it is broken') == 1
    assert 'crashed' not in site.err.text
    assert len(imported(tmp_path)) == 1


def test_sigusr1_while_the_first_child_composes_does_not_end_it(tmp_path):
    close_gate(tmp_path)
    with supervised(tmp_path, wait=False) as site:
        site.expect('composing')
        site.send(signal.SIGUSR1)
        open_gate(tmp_path)
        site.wait_until_served()
        assert site.stop()[0] == 0
    assert len(imported(tmp_path)) == 1


def test_sighup_while_the_first_child_composes_is_no_start(tmp_path):
    close_gate(tmp_path)
    (tmp_path / 'broken').write_text("raise RuntimeError('it is broken')")
    with supervised(tmp_path, wait=False) as site:
        site.expect('composing')
        site.send(signal.SIGHUP)
        open_gate(tmp_path)
        assert site.wait() == 1
    assert 'crashed' not in site.err.text


def test_sigusr1_while_a_later_child_composes_does_not_end_it(tmp_path):
    with supervised(tmp_path) as site:
        close_gate(tmp_path)
        crash(site)
        site.expect('composing')
        site.send(signal.SIGUSR1)
        open_gate(tmp_path)
        site.wait_until_served(2)
        assert ask(site)['pid'] == imported(tmp_path)[1]
        assert site.stop()[0] == 0
    assert site.err.text.count('crashed') == 1


def test_a_signal_of_the_inis_reaches_the_site(tmp_path):
    with supervised(tmp_path) as site:
        site.send(signal.SIGWINCH)
        site.expect(f'resized {ask(site)["pid"]}\n')
        crash(site)
        site.wait_until_served(2)
        site.send(signal.SIGWINCH)
        site.expect(f'resized {ask(site)["pid"]}\n')
        assert site.stop()[0] == 0
    assert site.err.text.count('resized') == 2
