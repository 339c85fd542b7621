"""The supervisor: a parent that keeps the site alive, and process 1 of a container."""

import contextlib
import json
import os
import re
import signal
import socket
from pathlib import Path

import pytest

from paste_wspbus.control.client import ask as ask_control
from paste_wspbus.control.paths import path_for
from tests.kit import BIN, Connection, Site, eventually, is_free, run
from tests.kit import supervised as supervised_site
from tests.kit.clients import Clients
from tests.kit.processes import asleep, children, processes_of_session
from tests.kit.sites import APP, SERVED, ask
from tests.kit.supervised import (
    LOGGING,
    UNKNOWN_SERVER,
    crash,
    has_cleaned_up,
    impatient_command,
    imported,
    press_ctrl_c,
    press_ctrl_c_again,
    said,
)

PARTS = """
import subprocess
import sys
import time

note('imported')


def double_fork(environ):
    '''The number of a process without a parent, which has ended or is about to.'''
    reader, writer = os.pipe()
    child = os.fork()
    if not child:
        orphan = os.fork()
        if orphan:
            os.write(writer, str(orphan).encode())
        os._exit(0)
    os.waitpid(child, 0)
    os.close(writer)
    with open(reader) as file:
        return {'orphan': int(file.read())}


def log_and_say(environ):
    log(environ)
    say('a line on standard error')


PAGES.update({
    '/log': log_and_say,
    '/double_fork': double_fork,
    '/is_there': lambda environ: {
        'is_there': os.path.exists(f"/proc/{environ['QUERY_STRING']}"),
    },
    '/subprocess': lambda environ: {
        'code': subprocess.run([sys.executable, '-c', 'raise SystemExit(4)']).returncode,
        'sigchld': signal.getsignal(signal.SIGCHLD) is signal.SIG_DFL,
    },
})


def make(global_conf):
    try:
        if os.path.exists('gate'):
            say('composing')
            with open('gate') as gate:
                gate.read()
            say('composed')
        if os.path.exists('broken'):
            with open('broken') as file:
                exec(file.read())
    except BaseException:
        say('composition given up')
        time.sleep(0.1)
        say('cleaned up')
        raise
    return app


def lifespan(bus, global_conf):
    bus.subscribe('resized', lambda: say(f'resized {os.getpid()}'))
    bus.subscribe('drain', lambda: say('draining'))
    bus.subscribe('stop', lambda: say('stopping'), priority=0)
    say('opened')
    yield
    say('closed')


def failing(bus, global_conf):
    raise RuntimeError('it does not start')
    yield


def failing_at_its_end(bus, global_conf):
    yield
    raise RuntimeError('it does not stop')
"""

INI = (
    SERVED
    + """threads = 4

[wspbus:main]
plugins = resource
signal.SIGWINCH = resized

[plugin:resource]
use = call:webapp:lifespan
"""
)
#: What a life without incidents says.
LIFE = 'opened\ndraining\nstopping\nclosed\n'

FILES = {'webapp.py': APP + PARTS, 'site.ini': INI}
UNIX = INI.replace('host = 127.0.0.1\nport = 0', 'unix_socket = site.sock')

each_crash = pytest.mark.parametrize(
    'page, how',
    [
        ('/kill', 'signal SIGKILL'),
        ('/segv', 'signal SIGSEGV'),
        ('/exit3', 'exit code 3'),
    ],
)


def supervised(folder, *args, files=FILES, **kwargs):
    """A site in the foreground that is kept alive."""
    args = ['site.ini', '--monitor-restart', '--pid-file', 'site.pid', *args]
    return Site(folder, None, *args, files=files, **kwargs)


def impatient(folder, *args, backoff=(0, 0.1), healthy=60, **kwargs):
    """The same, which does not wait so long."""
    return supervised(
        folder, *args, command=impatient_command(folder, backoff, healthy), **kwargs
    )


def close_gate(folder):
    """From now on, a composition waits until `open_gate`."""
    os.mkfifo(folder / 'gate')


def messages(text):
    """The lines but for those of a composition that is given up."""
    return [
        line
        for line in text.splitlines()
        if line not in ('composition given up', 'cleaned up')
    ]


def open_gate(folder):
    with open(folder / 'gate', 'w'):
        pass
    (folder / 'gate').unlink()


class Daemon(supervised_site.Daemon):
    """A site in the background that is kept alive."""

    def __init__(self, folder, *args, files=FILES, **kwargs):
        super().__init__(folder, '--monitor-restart', *args, files=files, **kwargs)


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
        'crashed, exit code 3, 3 times in a row: wspserve gives up and stops'
    )
    assert has_cleaned_up(site)


def test_it_gives_up_a_site_that_does_not_start_any_more(tmp_path):
    with impatient(tmp_path) as site:
        (tmp_path / 'broken').write_text("raise RuntimeError('broken meanwhile')")
        crash(site)
        assert site.wait() == 1
    assert site.err.text.count('failed to start: site.ini [app:main]') == 2
    assert 'Traceback' in site.err.text
    assert '3 times in a row: wspserve gives up and stops' in site.err.text
    assert site.out.text.count('Serving on') == 1
    assert has_cleaned_up(site)


def test_a_site_that_was_healthy_for_a_while_may_crash_again(tmp_path):
    with impatient(tmp_path, backoff=(0,), healthy=0) as site:
        for count in range(2, 5):
            crash(site, '/segv')
            site.wait_until_served(count)
        assert site.stop()[0] == 0
    assert site.err.text.count('crashed, signal SIGSEGV; restarting\n') == 3


def test_a_site_that_somebody_kills_is_not_given_up(tmp_path):
    with impatient(tmp_path, backoff=(0,)) as site:
        for count in range(2, 6):
            crash(site, '/kill')
            site.wait_until_served(count)
        assert site.stop()[0] == 0
    assert site.err.text.count('crashed, signal SIGKILL; restarting\n') == 4


def test_a_crash_before_the_parent_has_heard_of_the_start_is_a_crash(tmp_path):

    close_gate_first(tmp_path)
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
    close_gate_first(tmp_path)
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


@pytest.mark.parametrize('ini', [INI, UNIX], ids=['tcp', 'unix'])
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


@pytest.mark.parametrize('ini', [INI, UNIX], ids=['tcp', 'unix'])
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


@pytest.mark.parametrize('ini', [INI, UNIX], ids=['tcp', 'unix'])
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


@pytest.mark.parametrize('ini', [INI, UNIX], ids=['tcp', 'unix'])
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
        site.expect('RuntimeError: broken meanwhile; generation 1 keeps serving')
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
        site.expect('RuntimeError: broken meanwhile; generation 1 keeps serving')
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
    path = path_for(site.folder / 'site.pid')
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


# -- a first start that fails ------------------------------------------------------------

FIRST_STARTS = {
    'composition': ("raise RuntimeError('it is broken')", '', 1, 'it is broken'),
    'listener': ('', '[plugin:resource]\nuse = call:webapp:failing', 1, 'not start'),
    'usage': (
        "from paste_wspbus.errors import UsageError; raise UsageError('it is wrong')",
        '',
        2,
        'it is wrong',
    ),
    'exit': ('os._exit(9)', '', 9, ''),
    'crash': ('os.kill(os.getpid(), signal.SIGKILL)', '', 137, ''),
}


def first_start(folder, case):
    broken, plugin, code, line = FIRST_STARTS[case]
    (folder / 'broken').write_text(broken)
    ini = INI.partition('[plugin:resource]')[0] + plugin if plugin else INI
    return {**FILES, 'site.ini': ini}, code, line


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
    assert log.count(site.err.text) == 1


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


@pytest.mark.parametrize('ini', [INI, UNIX], ids=['tcp', 'unix'])
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


@pytest.mark.parametrize('ini', [INI, UNIX], ids=['tcp', 'unix'])
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
    close_gate_first(tmp_path)
    with supervised(tmp_path, wait=False) as site:
        site.expect('composing')
        code, out, err = site.stop()
        assert site.has_left_nothing()
    assert code == 143
    assert out == ''
    assert err == 'composing\ncomposition given up\ncleaned up\n'
    assert not (tmp_path / 'site.pid').exists()
    assert not (tmp_path / 'site.pid.sock').exists()


def close_gate_first(folder):
    folder.mkdir(exist_ok=True)
    close_gate(folder)


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
    close_gate_first(tmp_path)
    with supervised(tmp_path, wait=False) as site:
        site.expect('composing')
        press_ctrl_c(site)
        assert site.wait() in (130, 143)  # its own signal, or the parent's order
        assert site.has_left_nothing()
    assert site.err.text == 'composing\ncomposition given up\ncleaned up\n'
    assert not (tmp_path / 'site.pid').exists()


# -- HUP ------------------------------------------------------------------------------------


@pytest.mark.parametrize('ini', [INI, UNIX], ids=['tcp', 'unix'])
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
@pytest.mark.parametrize('ini', [INI, UNIX], ids=['tcp', 'unix'])
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
    assert 'crashed, signal SIGKILL' in out.read_text()
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
        eventually(log.exists)
        ask(site, '/log')
        assert 'a line of the site' in log.read_text()
        assert site.stop()[0] == 0


def test_sigusr1_while_the_first_child_composes_is_no_start(tmp_path):
    close_gate_first(tmp_path)
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
    close_gate_first(tmp_path)
    with supervised(tmp_path, wait=False) as site:
        site.expect('composing')
        site.send(signal.SIGUSR1)
        open_gate(tmp_path)
        site.wait_until_served()
        assert site.stop()[0] == 0
    assert len(imported(tmp_path)) == 1


def test_sighup_while_the_first_child_composes_is_no_start(tmp_path):
    close_gate_first(tmp_path)
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


@pytest.mark.parametrize('ini', [INI, UNIX], ids=['tcp', 'unix'])
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
            assert ask(site)['pid'] == imported(tmp_path)[1]
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


# -- process 1 ---------------------------------------------------------------------------------


class Container(Site):
    """A site that is process 1 of a PID namespace; ``pid`` is its number outside."""

    def __init__(self, folder, *args, files=FILES, wait=True, **kwargs):
        unshare = ['unshare', '--pid', '--fork', '--kill-child', '--mount-proc']
        command = [*unshare, BIN / 'wspserve']
        super().__init__(
            folder,
            None,
            'site.ini',
            *args,
            files=files,
            command=command,
            wait=wait,
            **kwargs,
        )

    @property
    def first(self):
        """The number of process 1, outside."""
        (pid,) = children(self.process.pid)
        return pid

    def send(self, signum):
        os.kill(self.first, signum)


each_ending = pytest.mark.parametrize('signum', [signal.SIGINT, signal.SIGTERM])


@each_ending
def test_process_1_serves_and_stops(tmp_path, signum):
    with Container(tmp_path) as site:
        told = ask(site)
        assert told['ppid'] == 1
        assert len(os.listdir(f'/proc/{site.first}/task')) == 1
        code, _, err = site.stop(signum)
        assert site.has_left_nothing()
    assert code == 0, site.report()
    assert said(err) == LIFE
    assert is_free(site.port)


@each_ending
def test_process_1_lets_the_request_in_flight_end(tmp_path, signum):
    with Container(tmp_path) as site, site.connect() as client:
        client.send('/wait')
        site.expect('waiting')
        site.send(signum)
        site.expect('stopping')
        site.release()
        assert client.receive().status == 200
        assert site.wait() == 0


def test_process_1_reaps_orphans(tmp_path):
    with Container(tmp_path) as site:
        orphans = [ask(site, '/double_fork')['orphan'] for _ in range(5)]
        for orphan in orphans:  # a zombie would be there
            eventually(
                lambda orphan=orphan: not ask(site, f'/is_there?{orphan}')['is_there']
            )
        assert len(children(site.first)) == 1
        assert site.stop()[0] == 0


@pytest.mark.parametrize('args', [['start'], ['--daemon'], ['restart']])
def test_process_1_cannot_become_a_daemon(tmp_path, args):
    with Container(tmp_path, *args, wait=False) as site:
        assert site.wait() == 2
    (line,) = site.err.text.splitlines()
    assert 'process 1 cannot become a daemon' in line
    assert not (tmp_path / 'life').exists()
    assert not (tmp_path / 'paster.pid').exists()


@pytest.mark.parametrize('page, code', [('/exit3', 3), ('/kill', 137), ('/segv', 139)])
def test_the_childs_exit_code_is_the_containers(tmp_path, page, code):
    with Container(tmp_path) as site:
        crash(site, page)
        assert site.wait() == code
    assert len(imported(tmp_path)) == 1


@pytest.mark.parametrize('case', FIRST_STARTS)
def test_a_container_that_cannot_start_tells_why(tmp_path, case):
    files, code, line = first_start(tmp_path, case)
    with Container(tmp_path, files=files, wait=False) as site:
        assert site.wait() == code
    said = messages(site.err.text)
    assert len(said) == 1, site.report()
    assert line in said[0]


def test_a_stop_with_failures_is_the_containers_exit_code(tmp_path):
    ini = INI.replace('call:webapp:lifespan', 'call:webapp:failing_at_its_end')
    with Container(tmp_path, files={**FILES, 'site.ini': ini}) as site:
        assert site.stop()[0] == 1


def test_a_site_in_a_container_that_exits_ends_it(tmp_path):
    with Container(tmp_path) as site:
        ask(site, '/bus_exit')
        assert site.wait() == 0


def test_a_container_is_stopped_while_it_composes(tmp_path):
    close_gate_first(tmp_path)
    with Container(tmp_path, wait=False) as site:
        site.expect('composing')
        assert site.stop()[0] == 143
    assert site.err.text == 'composing\ncomposition given up\ncleaned up\n'


def test_process_1_replaces_its_child(tmp_path):
    with Container(tmp_path, '--monitor-restart') as site:
        first = ask(site)['pid']
        crash(site)
        site.wait_until_served(2)
        second = ask(site)['pid']
        site.send(signal.SIGHUP)
        site.wait_until_served(3)
        eventually(lambda: ask(site)['pid'] not in (first, second))
        assert site.stop()[0] == 0
    assert site.err.text.count('crashed') == 1
