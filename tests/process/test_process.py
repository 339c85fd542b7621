"""A process under rough operators: log files that are none, stops that meet others."""

import os
import signal
import socket

import pytest

from tests.kit import Site, eventually, is_free, run
from tests.kit.sites import APP, SERVED

PARTS = """
def make_swallowing(global_conf):
    try:
        os.write(2, b'composing\\n')
        hold()
    except:
        os.write(2, b'swallowed\\n')
    return make(global_conf)
"""

SERVERS = (
    'egg:waitress#main',
    'egg:Paste#http',
    'egg:paste_wspbus#cheroot',
    'egg:paste_wspbus#wsgiref',
)


def site(folder, *args, server=SERVERS[0], make='make', **kwargs):
    ini = SERVED.replace('egg:waitress', server)
    ini = ini.replace('webapp:make', f'webapp:{make}')
    return Site(folder, ini, *args, files={'webapp.py': APP + PARTS}, **kwargs)


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
            assert 'pid' in client.receive().text
        assert running.wait() == 0, running.report()


@pytest.mark.parametrize('args', [('--workers', '1'), ('--monitor-restart',)])
def test_the_port_is_free_when_the_supervisor_was_killed_amid_a_request(tmp_path, args):
    with site(tmp_path, *args) as running, running.connect() as client:
        client.send('/wait')
        running.expect('waiting')
        running.send(signal.SIGKILL)
        eventually(lambda: is_free(running.port))
        running.release()
        assert 'pid' in client.receive().text


@pytest.mark.parametrize('args', [(), ('--workers', '2'), ('--monitor-restart',)])
def test_a_sigterm_that_the_composition_swallows_is_not_lost(tmp_path, args):
    with site(tmp_path, *args, make='make_swallowing', wait=False) as starting:
        starting.expect('composing')
        starting.send(signal.SIGTERM)
        starting.expect('swallowed')
        starting.release()
        assert starting.wait() == 143, starting.report()
        assert starting.out.text == ''


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
    assert refused.err.text.startswith('log file pipe: ')
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
