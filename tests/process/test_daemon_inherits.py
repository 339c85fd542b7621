"""What a daemon keeps of the descriptors and of the environment of the command."""

import contextlib
import fcntl
import os
import socket
import sys

import pytest

from tests.kit.processes import children

WAYS = pytest.mark.parametrize(
    'way', [[], ['--workers', '1'], ['--monitor-restart']], ids=' '.join
)

#: Executes a command to which systemd passes the socket that is descriptor N.
ACTIVATE = """
import os, sys

os.dup2(int(sys.argv[1]), 3)
os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS='1')
os.execv(sys.argv[2], sys.argv[2:])
"""


def opened(pid):
    """What the descriptors of a process lead to."""
    folder, found = f'/proc/{pid}/fd', set()
    for name in os.listdir(folder):
        with contextlib.suppress(FileNotFoundError):  # it was the file of an import
            found.add(os.readlink(f'{folder}/{name}'))
    return found


@WAYS
def test_a_lock_of_the_script_that_starts_a_daemon_does_not_stay_held(
    ground, tmp_path, way
):
    with (
        open(tmp_path / 'deploy.lock', 'w') as lock,
        open(tmp_path / 'secret', 'w') as secret,
    ):
        fcntl.flock(lock, fcntl.LOCK_EX)
        ground.start(*way, pass_fds=[lock.fileno(), secret.fileno()])
    with open(tmp_path / 'deploy.lock') as again:
        fcntl.flock(again, fcntl.LOCK_EX | fcntl.LOCK_NB)  # nobody holds it
    for pid in [ground.pid, *children(ground.pid)]:
        found = opened(pid)
        assert not {str(tmp_path / 'deploy.lock'), str(tmp_path / 'secret')} & found
        assert str(ground.log_file) in found
    assert ground.get().startswith('hello')
    ground.stop()


@WAYS
def test_a_socket_that_is_named_stays_open(ground, way):
    with socket.create_server(('127.0.0.1', 0)) as sock:
        port, fd = sock.getsockname()[1], sock.fileno()
        process = ground.start(*way, '--listen', f'fd://{fd}', pass_fds=[fd])
    assert f'Serving on http://127.0.0.1:{port}\n' in process.out.text
    assert ground.get().startswith('hello')
    ground.stop()


@WAYS
def test_a_socket_that_systemd_passes_is_the_daemons(ground, way, tmp_path):
    (tmp_path / 'activate.py').write_text(ACTIVATE)
    with socket.create_server(('127.0.0.1', 0)) as sock:
        port, fd = sock.getsockname()[1], sock.fileno()
        command = [sys.executable, 'activate.py', fd, sys.executable]
        command += ['-m', 'paste_wspbus', 'site.ini', 'start']
        process = ground.run(*way, command=command, pass_fds=[fd])
    assert process.code == 0, ground.report(process)
    assert f'Serving on http://127.0.0.1:{port}\n' in process.out.text
    ground.find_url(process)
    assert ground.get().startswith('hello')
    ground.stop()


def test_a_site_in_the_foreground_keeps_what_it_inherits(ground, tmp_path):
    """Whoever starts it so has a reason; a supervisor as systemd passes nothing else."""
    with open(tmp_path / 'mine', 'w') as mine:
        fd = mine.fileno()
        with ground.begin('site.ini', pass_fds=[fd]) as site:
            site.wait_until_served()
            assert str(tmp_path / 'mine') in opened(site.pid)
