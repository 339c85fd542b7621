"""A process under rough operators: odd files, odd numbers, stops that meet others."""

import os
import signal
import socket

import pytest
from support import Site, eventually, is_free, run

WEBAPP = """
import contextlib
import os
import sys
import time


def make(global_conf):
    def app(environ, start_response):
        if environ['PATH_INFO'] == '/wait':
            os.write(2, b'waiting\\n')
            sys.stdin.read()
        start_response('200 OK', [('Content-Type', 'text/plain')])
        return [b'hello']
    return app


def make_swallowing(global_conf):
    try:
        os.write(2, b'composing\\n')
        sys.stdin.read()
    except:
        os.write(2, b'swallowed\\n')
    return make(global_conf)
"""

INI = """
[app:main]
use = call:webapp:make

[server:main]
use = {server}
host = 127.0.0.1
port = 0

[wspbus:main]
{settings}
"""

SERVERS = (
    'egg:waitress#main',
    'egg:Paste#http',
    'egg:paste_wspbus#cheroot',
    'egg:paste_wspbus#wsgiref',
)


def site(folder, *args, server=SERVERS[0], settings='', make='make', **kwargs):
    ini = INI.format(server=server, settings=settings)
    ini = ini.replace('webapp:make', f'webapp:{make}')
    return Site(folder, ini, *args, files={'webapp.py': WEBAPP}, **kwargs)


def is_refused(address):
    """Whether a newcomer is told so at once; not if it is left to wait."""
    with socket.socket() as newcomer:
        newcomer.settimeout(0.5)
        try:
            newcomer.connect(address)
        except ConnectionRefusedError:
            return True
        except TimeoutError:
            return False
    return False


@pytest.mark.parametrize('args', [(), ('--workers', '1'), ('--monitor-restart',)])
@pytest.mark.parametrize('server', SERVERS)
def test_newcomers_are_refused_while_a_stop_waits_for_a_request(tmp_path, server, args):
    with site(tmp_path, *args, server=server) as running:
        with running.connect() as client:
            client.send('/wait')
            running.expect('waiting')
            running.send(signal.SIGTERM)
            eventually(lambda: is_refused(running.address))
            running.release()
            assert client.receive().text == 'hello'
        assert running.wait() == 0, running.report()


@pytest.mark.parametrize('args', [('--workers', '1'), ('--monitor-restart',)])
def test_the_port_is_free_when_the_supervisor_was_killed_amid_a_request(tmp_path, args):
    with site(tmp_path, *args) as running, running.connect() as client:
        client.send('/wait')
        running.expect('waiting')
        running.send(signal.SIGKILL)
        eventually(lambda: is_free(running.port))
        running.release()
        assert client.receive().text == 'hello'


@pytest.mark.parametrize('args', [(), ('--workers', '2'), ('--monitor-restart',)])
def test_a_sigterm_that_the_composition_swallows_is_not_lost(tmp_path, args):
    with site(tmp_path, *args, make='make_swallowing', wait=False) as starting:
        starting.expect('composing')
        starting.send(signal.SIGTERM)
        starting.expect('swallowed')
        starting.release()
        assert starting.wait() == 143, starting.report()
        assert starting.out.text == ''


def test_a_drain_delay_that_leaves_no_time_to_stop_is_refused(tmp_path):
    settings = 'drain_delay = 30'  # stop_timeout is 25, and includes it
    with site(tmp_path, settings=settings, wait=False) as refused:
        assert refused.wait() == 2, refused.report()
    (line,) = refused.err.text.splitlines()
    assert 'site.ini [wspbus:main] drain_delay: ' in line
    assert 'stop_timeout, 25 s' in line


@pytest.mark.parametrize('key', ['stop_timeout', 'start_timeout', 'drain_delay'])
@pytest.mark.parametrize('value', ['inf', '1e400', '1e15'])
def test_a_time_that_no_clock_can_measure_is_refused(tmp_path, key, value):
    with site(tmp_path, settings=f'{key} = {value}', wait=False) as refused:
        assert refused.wait() == 2, refused.report()
    line = f'site.ini [wspbus:main] {key}: {value!r} is not a number of seconds\n'
    assert refused.err.text == line


def test_one_file_cannot_be_both_pid_file_and_log(tmp_path):
    with site(
        tmp_path, 'start', '--pid-file=both', '--log-file=./both', wait=False
    ) as refused:
        assert refused.wait() == 2, refused.report()
    assert refused.err.text == '--pid-file and --log-file are the same file\n'
    assert not os.path.exists(tmp_path / 'both')


@pytest.mark.parametrize('args', [(), ('start',)])
def test_a_log_file_that_is_a_pipe_which_nobody_reads_is_told(tmp_path, args):
    os.mkfifo(tmp_path / 'pipe')
    with site(tmp_path, *args, '--log-file=pipe', wait=False) as refused:
        assert refused.wait() == 2, refused.report()
    assert refused.err.text.startswith('--log-file pipe: ')
    assert sorted(os.listdir(tmp_path)) == ['pipe', 'site.ini', 'webapp.py']


def test_a_log_file_may_be_a_pipe_that_somebody_reads(tmp_path):
    os.mkfifo(tmp_path / 'pipe')
    reader = os.open(tmp_path / 'pipe', os.O_RDONLY | os.O_NONBLOCK)
    try:
        with site(tmp_path, 'start', '--log-file=pipe', wait=False) as started:
            assert started.wait() == 0, started.report()
        assert run(tmp_path, 'site.ini', 'stop').code == 0
        assert b'Serving on ' in os.read(reader, 65536)
    finally:
        os.close(reader)


def test_what_is_worth_a_warning_is_told_while_a_site_starts_too(tmp_path):
    with site(tmp_path, env={'NOTIFY_SOCKET': '/nonexistent'}) as running:
        code, _, err = running.stop()
    assert code == 0
    (line,) = err.splitlines()
    assert 'systemd cannot be told at /nonexistent: No such file or directory' in line


def test_a_watchdog_that_no_clock_can_measure_does_no_harm(tmp_path):
    env = {'NOTIFY_SOCKET': '/nonexistent', 'WATCHDOG_USEC': '9' * 20}
    with site(tmp_path, env=env) as running:
        code, _, err = running.stop()
    assert code == 0
    assert 'Traceback' not in err
