"""Root's `restart` of a site that was broken into: what it hands over is not believed."""

import contextlib
import os
import shutil
import signal
import tempfile
from pathlib import Path

import pytest

from tests.kit import Process, free_port, is_free, run
from tests.kit.sites import APP
from tests.kit.users import (
    AS_NOBODY,
    NOBODY,
    is_for_everybody,
    python_for_all,
)

#: Holds the PID file and answers on the control socket, as nobody; hands over what the
#: test says. Root runs it: what it opens as root, a site's user could not, but for files
#: that everybody can read.
BROKEN_INTO = """
import json, os, socket, sys, tempfile

from paste_wspbus.unix.pid_lock import PIDLock

kind, port, uid, victim = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4]
lock = PIDLock('run/site.pid')
lock.acquire()
lock.write()
lock.chown(uid, uid)
control = socket.socket(socket.AF_UNIX)
control.bind(lock.control)
os.chown(lock.control, uid, uid)
control.listen()
os.setgroups([]), os.setgid(uid), os.setuid(uid)


def tcp(port=port, listen=True, kind=socket.SOCK_STREAM, host='127.0.0.1'):
    sock = socket.socket(socket.AF_INET, kind)
    if kind == socket.SOCK_STREAM:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    sock.bind((host, port))
    if listen:
        sock.listen()
    return sock


def unix(name):
    # Its name is relative: in the folder of whoever resolves it, it is another file.
    os.chdir('run')
    sock = socket.socket(socket.AF_UNIX)
    sock.bind(name)
    sock.listen()
    return sock


def connected():
    listener = tcp(0)
    client = socket.create_connection(listener.getsockname())
    return client


fields = {'where': {'host': '127.0.0.1', 'port': str(port)}, 'owned': True,
          'control': False, 'pid_file': True}
sockets, pid_file, controls = [], lock.fd, []
if kind == 'honest':
    sockets = [tcp()]
elif kind == 'udp':
    sockets = [tcp(kind=socket.SOCK_DGRAM, listen=False)]
elif kind == 'connected':
    sockets = [connected()]
elif kind == 'bound':
    sockets = [tcp(listen=False)]
elif kind == 'elsewhere':
    sockets = [tcp(0)]
elif kind == 'another host':
    sockets = [tcp(host='127.0.0.2')]
elif kind == 'a name of a file':
    sockets = [unix(victim)]
elif kind == 'a name with dots':
    os.mkdir('run/deep')
    sockets = [unix('deep/../' + victim)]
elif kind == 'directory':
    sockets = [os.open('.', os.O_RDONLY)]
elif kind == 'a file as PID file':
    sockets, pid_file = [tcp()], os.open(victim, os.O_RDONLY)
elif kind == 'a file as control socket':
    sockets, controls = [tcp()], [os.open(victim, os.O_RDONLY)]
    fields['control'] = True
elif kind == 'a thousand':
    sockets = [os.open('/dev/null', os.O_RDONLY) for _ in range(1000)]
elif kind == 'no PID file':
    sockets, pid_file = [tcp()], None
    fields['pid_file'] = False

fields['sockets'] = len(sockets)
print('ready', flush=True)
while True:
    client, _ = control.accept()
    request = json.loads(client.makefile().readline())
    if request['command'] == 'status':
        answer = {'version': 1, 'pid': os.getpid(), 'state': 'STARTED', 'deadline': 2,
                  'urls': [], 'requests': [], 'threads': [], 'calling': None}
        client.sendall(json.dumps(answer).encode() + b'\\n')
        client.close()
        continue
    if request['command'] != 'replace':
        client.close()
        continue
    fds = [one if isinstance(one, int) else one.fileno() for one in sockets]
    fds += [pid_file] if pid_file is not None else []
    fds += controls
    socket.send_fds(client, [json.dumps(fields).encode()], fds[:250])
    try:
        for at in range(250, len(fds), 250):
            socket.send_fds(client, [b' '], fds[at:at + 250])
    except BrokenPipeError:
        pass  # the restart has taken what it wants
    os._exit(0)
"""

INI = """
[app:main]
use = call:webapp:make

[server:main]
use = egg:waitress
host = 127.0.0.1
port = %(http_port)s
"""

KINDS = [
    'honest',
    'udp',
    'connected',
    'bound',
    'elsewhere',
    'another host',
    'a name of a file',
    'a name with dots',
    'directory',
    'a file as PID file',
    'a file as control socket',
    'a thousand',
    'no PID file',
]


@pytest.fixture(scope='module')
def command():
    assert os.geteuid() == 0, 'these tests change users: run them as root'
    program, path = python_for_all()
    return [program, '-m', 'paste_wspbus'], {'PYTHONPATH': path} if path else {}


@pytest.fixture
def folder():
    """Root's; in it ``run`` is nobody's, and ``victim`` root's for all to read."""
    path = Path(tempfile.mkdtemp(prefix='wspbus-'))
    try:
        assert is_for_everybody(path.parent)
        path.chmod(0o755)
        (path / 'run').mkdir()
        os.chown(path / 'run', NOBODY.pw_uid, NOBODY.pw_gid)
        (path / 'victim').write_text('4711\n')
        (path / 'webapp.py').write_text(APP)
        yield path
    finally:
        with contextlib.suppress(OSError, ValueError):
            os.kill(int((path / 'run/site.pid').read_text()), signal.SIGKILL)
        shutil.rmtree(path)


@pytest.mark.parametrize('kind', KINDS)
def test_a_restart_gives_nothing_away_and_serves_where_the_ini_says(
    folder, command, kind
):
    take_over(folder, command, kind)


@pytest.mark.parametrize(
    'kind', ['honest', 'a name of a file', 'a file as PID file', 'elsewhere']
)
def test_nor_does_it_with_workers(folder, command, kind):
    take_over(folder, command, kind, '--workers', '1')


@pytest.mark.parametrize('server', ['Paste#http', 'paste_wspbus#cheroot'])
@pytest.mark.parametrize('kind', ['honest', 'a name of a file', 'elsewhere'])
def test_nor_does_it_with_another_server(folder, command, kind, server):
    take_over(folder, command, kind, server=server)


def take_over(folder, command, kind, *args, server='waitress'):
    """Root restarts a site that hands over a ``kind`` of thing."""
    words, env = command
    port = free_port()
    (folder / 'site.ini').write_text(INI.replace('waitress', server))
    (folder / 'evil.py').write_text(BROKEN_INTO)
    victims = 'victim', 'site.ini', 'webapp.py', '.'
    before = {name: os.lstat(folder / name)[:6] for name in victims}
    stranger = [words[0], 'evil.py', kind, port, NOBODY.pw_uid, 'victim']
    args = [*AS_NOBODY, *args, '--pid-file', 'run/site.pid', '--log-file', 'out.log']
    with Process(stranger, cwd=folder, env=env) as evil:
        assert evil.out.wait_for('ready'), evil.report()
        restart = run(
            folder,
            'site.ini',
            f'http_port={port}',
            'restart',
            *args,
            command=words,
            env=env,
        )
        assert restart.code == 0, restart.report()
        assert 'Traceback' not in restart.report()
        assert f'Serving on http://127.0.0.1:{port}\n' in restart.out.text
        assert evil.wait() in (0, -signal.SIGTERM), evil.report()
    assert not is_free(port)
    assert {name: os.lstat(folder / name)[:6] for name in victims} == before
    assert 'Traceback' not in (folder / 'out.log').read_text()
    pid = int((folder / 'run/site.pid').read_text())
    uids = Path(f'/proc/{pid}/status').read_text().split('Uid:')[1].split()[:4]
    assert set(map(int, uids)) == {NOBODY.pw_uid}
    opened = {os.readlink(path) for path in Path(f'/proc/{pid}/fd').iterdir()}
    assert str(folder / 'victim') not in opened
    stop = run(
        folder, 'site.ini', 'stop', '--pid-file', 'run/site.pid', command=words, env=env
    )
    assert stop.code == 0, stop.report()
    assert is_free(port)
    assert (folder / 'victim').exists()
