"""Becoming another user: after the port is bound, before the site is imported."""

import contextlib
import grp
import json
import os
import pwd
import random
import shutil
import signal
import stat
import tempfile
from pathlib import Path

import pytest

from tests.kit import Process, Site, eventually, is_free, ops, run, supervised
from tests.kit.sites import APP, ask
from tests.kit.users import (
    AS_NOBODY,
    GROUP,
    NOBODY,
    identity,
    is_for_everybody,
)

#: What the system gives to nobody besides.
GROUPS = sorted(os.getgrouplist('nobody', NOBODY.pw_gid))

#: A number that passwd does not know.
STRANGER = next(
    uid for uid in range(54321, 60000) if uid not in {e.pw_uid for e in pwd.getpwall()}
)

#: What each module of the site does when it is imported.
TELL = """
import os

with open(os.path.join(os.path.dirname(__file__), 'imported'), 'a') as file:
    file.write(f'{__name__} {os.geteuid()} {os.getegid()} {os.getpid()}\\n')
"""

PARTS = """
def refused(function, *args):
    try:
        function(*args)
    except PermissionError:
        return True
    return False


def become_root(environ):
    return {
        'refused': [
            refused(os.setuid, 0),
            refused(os.seteuid, 0),
            refused(os.setresuid, 0, 0, 0),
            refused(os.setgid, 0),
            refused(os.setgroups, [0]),
            refused(open, os.path.join(os.path.dirname(__file__), 'secret')),
        ]
    }


def environment(environ):
    return {name: os.environ.get(name) for name in ('HOME', 'USER', 'LOGNAME')}


PAGES['/become_root'] = become_root
PAGES['/environment'] = environment
"""

FILES = {
    'webapp.py': TELL + APP + PARTS,
    'pool.py': TELL
    + """
def lifespan(bus, global_conf):
    yield
""",
    'busmaker.py': TELL
    + """
from paste_wspbus.bus import Bus


def make(global_conf):
    return Bus()
""",
    'serving.py': TELL + supervised.UNKNOWN_SERVER,
}

INI = """
[app:main]
use = call:webapp:make

[server:main]
use = egg:waitress
host = %(http_host)s
port = %(http_port)s

[wspbus:main]
use = call:busmaker:make
plugins = resource

[plugin:resource]
use = call:pool:lifespan

[DEFAULT]
http_host = 127.0.0.1
http_port = 0
"""
UNIX = INI.replace(
    'host = %(http_host)s\nport = %(http_port)s', 'unix_socket = run/site.sock'
)
UNKNOWN_SERVER = INI.replace('egg:waitress', 'call:serving:make')
MODULES = {'webapp', 'pool', 'busmaker'}

LOGGING = supervised.LOGGING.replace('site.log', 'run/site.log')

each_way = pytest.mark.parametrize(
    'way', [[], ['--monitor-restart']], ids=['alone', 'supervised']
)


# -- a Python, and a folder, that everybody may enter ------------------------------------


@pytest.fixture
def command(interpreter, monkeypatch):
    program, path = interpreter
    if path:
        monkeypatch.setenv('PYTHONPATH', path)
    monkeypatch.setenv('PYTHONDONTWRITEBYTECODE', '1')
    return [program, '-m', 'paste_wspbus']


@pytest.fixture
def folder():
    """Root's, for all to enter; in it ``run``, for all to write, and ``imported``."""
    path = Path(tempfile.mkdtemp(prefix='wspbus-'))
    try:
        assert is_for_everybody(path.parent), f'{path.parent} is not for all to enter'
        path.chmod(0o755)
        (path / 'run').mkdir()
        (path / 'run').chmod(0o777)
        (path / 'imported').touch()
        (path / 'imported').chmod(0o666)
        (path / 'secret').touch(0o600)
        yield path
    finally:
        shutil.rmtree(path)


@pytest.fixture
def low_port():
    """A host of loopback and a port that only root can have; nobody else takes them."""
    host = f'127.{random.randint(1, 254)}.{random.randint(1, 254)}.{random.randint(1, 254)}'
    port = random.choice([port for port in range(600, 1024) if is_free(port, host)])
    return host, port


@pytest.fixture
def serve(folder, command, low_port):
    """Serve the site with these arguments, on the low port."""
    host, port = low_port
    vars = [f'http_host={host}', f'http_port={port}']

    def serve(*args, ini=INI, **kwargs):
        files = {**FILES, 'site.ini': ini}
        args = ['site.ini', *vars, *args]
        return Site(folder, None, *args, files=files, command=command, **kwargs)

    serve.vars = vars
    return serve


# -- what a process is -----------------------------------------------------------------------


def capabilities(pid):
    lines = Path(f'/proc/{pid}/status').read_text().splitlines()
    return {
        int(line.split()[1], 16) for line in lines if line[:6] in ('CapEff', 'CapPrm')
    }


def imports(folder):
    """{module: {(uid, gid) it was imported as, …}}"""
    found = {}
    for line in (folder / 'imported').read_text().splitlines():
        module, uid, gid, _ = line.split()
        found.setdefault(module, set()).add((int(uid), int(gid)))
    return found


def importers(folder):
    """The processes that imported the application."""
    lines = (folder / 'imported').read_text().splitlines()
    return [int(line.split()[3]) for line in lines if line.startswith('webapp ')]


def owner(path):
    status = os.lstat(path)
    return status.st_uid, status.st_gid


NOBODYS = (NOBODY.pw_uid, NOBODY.pw_gid)

IDENTITIES = {
    'names': (AS_NOBODY, *NOBODYS, GROUPS),
    'numbers': (
        ['--user', str(NOBODY.pw_uid), '--group', str(NOBODY.pw_gid)],
        *NOBODYS,
        GROUPS,
    ),
    'user': (['--user', 'nobody'], *NOBODYS, GROUPS),
    'group': (['--group', GROUP], 0, NOBODY.pw_gid, [NOBODY.pw_gid]),
    'stranger': (
        ['--user', str(STRANGER), '--group', str(STRANGER)],
        STRANGER,
        STRANGER,
        [STRANGER],
    ),
    'another group': (
        ['--user', 'nobody', '--group', 'daemon'],
        NOBODY.pw_uid,
        1,
        None,
    ),
}


# -- becoming it ------------------------------------------------------------------------------


@each_way
@pytest.mark.parametrize('who', IDENTITIES)
def test_a_low_port_is_bound_and_then_the_user_is_changed(
    folder, serve, low_port, who, way
):
    args, uid, gid, groups = IDENTITIES[who]
    if groups is None:
        gid = grp.getgrnam('daemon').gr_gid
        groups = sorted(os.getgrouplist('nobody', gid))
    with serve(*args, *way, extra_groups=[0, 4, 20]) as site:
        assert site.address == low_port
        pids = {site.pid, ask(site)['pid']}
        assert len(pids) == 1 + len(way)
        for pid in pids:
            assert identity(pid) == ({uid}, {gid}, groups)
            assert uid == 0 or capabilities(pid) == {0}
        assert imports(folder) == {module: {(uid, gid)} for module in MODULES}
        assert site.stop()[0] == 0
    assert 'ERROR' not in site.err.text
    assert is_free(low_port[1], low_port[0])


@each_way
def test_nothing_gives_the_site_root_again(folder, serve, way):
    with serve(*AS_NOBODY, *way) as site:
        assert ask(site, '/become_root')['refused'] == [True] * 6
        assert site.stop()[0] == 0


@each_way
@pytest.mark.parametrize('who', ['names', 'numbers', 'user', 'group', 'stranger'])
def test_home_and_the_names_follow_the_user(serve, who, way):
    roots = {'HOME': '/root', 'USER': 'root', 'LOGNAME': 'root'}
    wanted = {
        'group': roots,
        'stranger': {'HOME': '/', 'USER': None, 'LOGNAME': None},
    }.get(who, {'HOME': NOBODY.pw_dir, 'USER': 'nobody', 'LOGNAME': 'nobody'})
    with serve(*IDENTITIES[who][0], *way, env=roots) as site:
        assert ask(site, '/environment').items() >= wanted.items()
        assert site.stop()[0] == 0


@each_way
def test_the_module_of_a_server_that_is_not_known_is_not_imported_by_root(
    folder, serve, way
):
    with serve(*AS_NOBODY, *way, 'http_port=0', ini=UNKNOWN_SERVER) as site:
        assert identity(ask(site)['pid']) == ({NOBODYS[0]}, {NOBODYS[1]}, GROUPS)
        assert imports(folder) == {
            module: {NOBODYS} for module in MODULES | {'serving'}
        }
        assert site.stop()[0] == 0


def test_a_low_port_that_is_taken_is_told_before_anything_is_imported(
    folder, serve, command
):
    with serve(*AS_NOBODY) as site:
        args = ['site.ini', *AS_NOBODY, *serve.vars]
        again = run(folder, *args, command=command)
        assert again.code == 1
        (line,) = again.err.text.splitlines()
        assert 'taken' in line
        assert len(importers(folder)) == 1
        assert site.stop()[0] == 0


@each_way
@pytest.mark.parametrize(
    'use, said, code',
    [
        ('call:in_roots_home:make', "there is no module 'in_roots_home'", 2),
        ('egg:InRootsHome', "the distribution 'InRootsHome' is not installed", 2),
        ('call:needs_it:make', "No module named 'in_roots_home'", 1),
    ],
)
def test_packages_that_only_root_can_read_are_named(
    folder, serve, monkeypatch, way, use, said, code
):
    """As in an environment below /root: Python says that there is no such module."""
    home = folder / 'home'
    metadata = home / 'InRootsHome-1.dist-info' / 'METADATA'
    metadata.parent.mkdir(parents=True)
    metadata.write_text('Metadata-Version: 2.1\nName: InRootsHome\nVersion: 1\n')
    (home / 'in_roots_home.py').write_text('def make(global_conf): ...\n')
    (folder / 'needs_it.py').write_text('import in_roots_home\n')
    home.chmod(0o700)
    paths = filter(None, [str(home), os.environ.get('PYTHONPATH')])
    monkeypatch.setenv('PYTHONPATH', os.pathsep.join(paths))
    ini = INI.replace('call:webapp:make', use)
    with serve(*AS_NOBODY, *way, ini=ini, wait=False) as site:
        assert site.wait() == code, site.report()
        (line,) = site.err.text.splitlines()
        assert f'{said}; this user cannot read home' in line


def test_the_modules_of_python_that_only_root_can_read_are_named(
    folder, serve, monkeypatch
):
    """A module that wspserve itself imports after the change of user."""
    home = folder / 'home'
    home.mkdir(0o700)
    paths = filter(None, [str(home), os.environ.get('PYTHONPATH')])
    monkeypatch.setenv('PYTHONPATH', os.pathsep.join(paths))
    hidden = "import sys\nsys.modules['difflib'] = None\n"
    ini = INI.replace('call:webapp:make', 'call:hides:make')
    (folder / 'hides.py').write_text(f'{hidden}raise ValueError\n')
    with serve(*AS_NOBODY, ini=ini, wait=False) as site:
        assert site.wait() == 1, site.report()
        (line,) = site.err.text.splitlines()
        assert 'difflib' in line and line.endswith(': this user cannot read home')


# -- files --------------------------------------------------------------------------------------


@each_way
@pytest.mark.parametrize(
    'args, owners',
    [(AS_NOBODY, NOBODYS), (['--group', GROUP], (0, NOBODY.pw_gid))],
    ids=['user', 'group'],
)
def test_all_files_belong_to_the_user(folder, serve, way, args, owners):
    files = ['--pid-file', 'site.pid', '--log-file', 'out.log']
    files += ['--ops', 'unix:run/ops.sock']
    with serve(*args, *way, *files, ini=UNIX + LOGGING, wait=False) as site:
        log = folder / 'out.log'
        eventually(lambda: log.exists() and 'Serving on' in log.read_text())
        site.url = 'unix:run/site.sock'
        ask(site, '/log')
        names = [
            'site.pid',
            'site.pid.lock',
            'site.pid.sock',
            'out.log',
            'run/site.sock',
            'run/site.log',
            'run/ops.sock',
        ]
        assert {name: owner(folder / name) for name in names} == dict.fromkeys(
            names, owners
        )
        assert stat.S_IMODE((folder / 'site.pid').stat().st_mode) == 0o644
        ops.becomes(str(folder / 'run/ops.sock'), '/ready', 200)
        sockets = 'site.pid.sock', 'run/site.sock', 'run/ops.sock'
        for private in ('site.pid.lock', *sockets):
            assert stat.S_IMODE((folder / private).stat().st_mode) == 0o600
        assert 'a line of the site' in (folder / 'run/site.log').read_text()
        assert site.stop()[0] == 0
    assert not (folder / 'run/site.sock').exists()


@each_way
def test_a_folder_of_the_users_is_left_clean(folder, serve, way):
    with serve(*AS_NOBODY, *way, '--pid-file', 'run/site.pid') as site:
        assert {path.name for path in (folder / 'run').iterdir()} == {
            'site.pid',
            'site.pid.lock',
            'site.pid.sock',
        }
        assert site.stop()[0] == 0
    assert list((folder / 'run').iterdir()) == []


@each_way
def test_in_roots_folder_the_pid_file_is_emptied(folder, serve, command, way):
    pid_file = ['--pid-file', 'site.pid']
    with serve(*AS_NOBODY, *way, *pid_file) as site:
        assert site.stop()[0] == 0
    assert (folder / 'site.pid').read_text() == ''
    assert run(folder, 'site.ini', 'status', *pid_file, command=command).code == 3
    with serve(*AS_NOBODY, *way, *pid_file) as again:  # what is left is in nobody's way
        assert (folder / 'site.pid').read_text() == f'{again.pid}\n'
        assert owner(folder / 'site.pid.sock') == NOBODYS
        assert again.stop()[0] == 0
    assert 'uses the file now' not in again.err.text


@each_way
def test_logs_that_the_user_cannot_open_again_stay_in_use(folder, serve, way):
    with serve(*AS_NOBODY, *way, '-v', '--log-file', 'out.log', wait=False) as site:
        log, moved = folder / 'out.log', folder / 'out.log.1'
        eventually(lambda: log.exists() and 'Serving on' in log.read_text())
        site.url = log.read_text().split('Serving on ')[1].split()[0]
        log.rename(moved)
        site.send(signal.SIGUSR1)
        line = 'Cannot reopen'
        eventually(lambda: moved.read_text().count(line) == 1 + len(way))
        ask(site)
        assert not log.exists()
        assert site.stop()[0] == 0


@each_way
@pytest.mark.parametrize('kind', ['symlink', 'hard link', 'fifo', 'folder'])
def test_root_opens_no_log_but_a_plain_file_in_a_folder_of_the_users(
    folder, serve, kind, way
):
    """The folder is the user's: so is what stands there under the log's name."""
    log, secret = folder / 'run/out.log', folder / 'secret'
    problem = 'it is not a regular file'
    if kind == 'symlink':
        log.symlink_to(secret)
        problem = 'it is a symbolic link'
    elif kind == 'hard link':
        log.hardlink_to(secret)
        problem = 'it has other names (hard links)'
    elif kind == 'folder':
        log.mkdir()
        problem = 'it is a directory'
    else:
        os.mkfifo(log)
    args = [*AS_NOBODY, *way, '--log-file', 'run/out.log', '--pid-file', 'run/site.pid']
    with serve(*args, wait=False) as site:
        assert site.wait() == 2, site.report()
    (line,) = site.err.text.splitlines()
    assert line.startswith(f'log file run/out.log: {problem}')
    assert importers(folder) == []
    assert (owner(secret), secret.read_text()) == ((0, 0), '')
    assert [path.name for path in (folder / 'run').iterdir()] == ['out.log']


@each_way
@pytest.mark.parametrize('kind', ['symlink', 'fifo'])
def test_root_opens_the_log_again_only_as_a_plain_file(folder, serve, kind, way):
    """This site stays root, and its log is in a folder of another user's."""
    log, secret = folder / 'run/out.log', folder / 'secret'
    moved = folder / 'run/out.log.1'
    with serve(*way, '-v', '--log-file', 'run/out.log', wait=False) as site:
        eventually(lambda: log.exists() and 'Serving on' in log.read_text())
        log.rename(moved)
        if kind == 'symlink':
            log.symlink_to(secret)
        else:
            os.mkfifo(log)
        site.send(signal.SIGUSR1)
        line = f'Cannot reopen {log}: it is '
        eventually(lambda: moved.read_text().count(line) == 1 + len(way))
        log.unlink()
        site.send(signal.SIGUSR1)
        eventually(log.exists)
        assert (owner(log), stat.S_IMODE(log.stat().st_mode)) == ((0, 0), 0o644)
        assert site.stop()[0] == 0
    assert secret.read_text() == ''


@each_way
def test_a_secret_of_roots_that_was_moved_to_the_logs_name_is_not_given_away(
    folder, serve, way
):
    log = folder / 'run/out.log'
    (folder / 'secret').write_text('precious\n')
    (folder / 'secret').rename(log)
    args = [*AS_NOBODY, *way, '--log-file', 'run/out.log']
    with serve(*args, wait=False) as site:
        eventually(lambda: 'Serving on' in log.read_text())
        assert (owner(log), stat.S_IMODE(log.stat().st_mode)) == ((0, 0), 0o600)
        assert site.stop()[0] == 0


# -- from one generation to the next -----------------------------------------------------------


@each_way
def test_sighup_keeps_the_low_port_and_the_user(folder, serve, low_port, way):
    pid_file = ['--pid-file', 'site.pid']
    with serve(*AS_NOBODY, *way, *pid_file) as site:
        for count in (2, 3):
            site.send(signal.SIGHUP)
            site.wait_until_served(count)
            assert site.address == low_port
            pids = {site.pid, ask(site)['pid']}
            for pid in pids:
                assert identity(pid) == ({NOBODYS[0]}, {NOBODYS[1]}, GROUPS)
        assert (folder / 'site.pid').read_text() == f'{site.pid}\n'
        trials = 0 if way else 2  # another process loads the code first
        assert len(importers(folder)) == 3 + trials
        assert imports(folder) == {module: {NOBODYS} for module in MODULES}
        assert site.stop()[0] == 0
    assert 'crashed' not in site.err.text


@each_way
def test_sighup_after_the_log_was_moved_out_of_roots_folder(folder, serve, way):
    files = ['--pid-file', 'site.pid', '--log-file', 'out.log']
    with serve(*AS_NOBODY, *way, *files, wait=False) as site:
        log, moved = folder / 'out.log', folder / 'out.log.1'
        eventually(lambda: log.exists() and 'Serving on' in log.read_text())
        site.url = log.read_text().split('Serving on ')[1].split()[0]
        log.rename(moved)
        site.send(signal.SIGHUP)
        eventually(lambda: moved.read_text().count('Serving on') == 2)
        ask(site)
        assert site.stop()[0] == 0
    trials = 0 if way else 1
    assert len(importers(folder)) == 2 + trials


def test_sighup_where_the_user_cannot_read_the_ini(folder, serve):
    with serve(*AS_NOBODY) as site:
        (folder / 'site.ini').chmod(0o600)  # it has passwords in it
        site.send(signal.SIGHUP)
        site.expect('site.ini')
        assert ask(site)['pid'] == site.pid
        assert site.stop()[0] == 0
    assert len(importers(folder)) == 1


def test_sighup_where_only_the_parent_could_read_the_ini(folder, serve):
    with serve(*AS_NOBODY, '--monitor-restart') as site:
        (folder / 'site.ini').chmod(0o600)
        site.send(signal.SIGHUP)
        site.wait_until_served(2)
        eventually(lambda: ask(site)['pid'] == importers(folder)[1])
        assert site.stop()[0] == 0


def test_a_crash_keeps_the_low_port_and_the_user(folder, serve, low_port):
    with serve(*AS_NOBODY, '--monitor-restart') as site:
        with pytest.raises(ConnectionError):
            site.get('/kill')
        site.wait_until_served(2)
        assert site.address == low_port
        assert identity(ask(site)['pid']) == ({NOBODYS[0]}, {NOBODYS[1]}, GROUPS)
        assert site.stop()[0] == 0


class Daemon:
    """A site in the background, ended with its ``with`` block."""

    def __init__(self, folder, command, *args, verb='start'):
        self.folder = folder
        self.process = run(folder, 'site.ini', verb, *args, command=command)
        assert self.process.code == 0, self.process.report()
        self.pid = int((folder / 'paster.pid').read_text())
        self.session = os.getsid(self.pid)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for pid in self.processes():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def processes(self):
        """Those of its session that run."""
        found = []
        for path in Path('/proc').glob('[0-9]*/stat'):
            with contextlib.suppress(OSError):
                state, _, _, session, *_ = path.read_text().rpartition(')')[2].split()
                if int(session) == self.session and state != 'Z':
                    found.append(int(path.parent.name))
        return found


@pytest.fixture
def start(folder, serve, command):
    """Start the site as a daemon with these arguments, on the low port."""
    for name, text in {**FILES, 'site.ini': INI}.items():
        (folder / name).write_text(text)
    return lambda *args, **kwargs: Daemon(folder, command, *args, *serve.vars, **kwargs)


@each_way
def test_root_stops_a_daemon_of_the_users_and_cleans_up(folder, start, command, way):
    before = {path.name for path in folder.iterdir()}
    with start(*AS_NOBODY, *way) as daemon:
        assert owner(folder / 'paster.log') == NOBODYS
        for pid in daemon.processes():
            assert identity(pid) == ({NOBODYS[0]}, {NOBODYS[1]}, GROUPS)
        status = run(folder, 'site.ini', 'status', command=command)
        assert f'running (process {daemon.pid})' in status.out.text
        stop = run(folder, 'site.ini', 'stop', command=command)
        assert (stop.code, stop.out.text) == (0, 'The site has stopped.\n')
        eventually(lambda: daemon.processes() == [])
        assert {path.name for path in folder.iterdir()} == {*before, 'paster.log'}


@each_way
def test_root_restarts_a_daemon_of_the_users_on_its_low_port(
    folder, start, low_port, command, way
):
    with (
        start(*AS_NOBODY, *way) as first,
        start(*AS_NOBODY, *way, verb='restart') as second,
    ):
        assert first.pid != second.pid
        eventually(lambda: first.processes() == [])
        assert 'Serving on http://%s:%s\n' % low_port in second.process.out.text
        for pid in second.processes():
            assert identity(pid) == ({NOBODYS[0]}, {NOBODYS[1]}, GROUPS)
        assert imports(folder) == {module: {NOBODYS} for module in MODULES}
        assert owner(folder / 'paster.pid') == NOBODYS
        assert owner(folder / 'paster.pid.sock') == NOBODYS
        assert run(folder, 'site.ini', 'stop', command=command).code == 0
        assert not (folder / 'paster.pid').exists()
        assert not (folder / 'paster.pid.sock').exists()


@each_way
@pytest.mark.parametrize('user', [AS_NOBODY, []], ids=['named', 'kept'])
def test_root_tries_new_code_as_the_user_and_does_not_stop_the_site_if_it_fails(
    folder, start, serve, command, way, user
):
    with start(*AS_NOBODY, *way) as daemon:
        (folder / 'webapp.py').write_text(TELL + 'raise RuntimeError("broken")\n')
        args = [*user, *way, *serve.vars]
        told = run(folder, 'site.ini', 'restart', *args, command=command)
        assert told.code == 1, told.report()
        assert 'RuntimeError: broken' in told.err.text
        assert '; the old site was not stopped' in told.err.text
        assert imports(folder) == {module: {NOBODYS} for module in MODULES}
        status = run(folder, 'site.ini', 'status', command=command)
        assert f'running (process {daemon.pid})' in status.out.text
        assert owner(folder / 'paster.pid') == NOBODYS


@each_way
@pytest.mark.parametrize('who', ['user', 'group', 'another group', 'numbers'])
def test_a_restart_without_user_keeps_the_user_of_the_site(
    folder, start, command, who, way
):
    args, uid, gid, groups = IDENTITIES[who]
    if groups is None:
        gid = grp.getgrnam('daemon').gr_gid
        groups = sorted(os.getgrouplist('nobody', gid))
    with start(*args, *way), start(*way, verb='restart') as second:
        for pid in second.processes():
            assert identity(pid) == ({uid}, {gid}, groups)
        assert imports(folder) == {module: {(uid, gid)} for module in MODULES}
        assert owner(folder / 'paster.pid') == (uid, gid)
        assert 'keeps the user' in (folder / 'paster.log').read_text()
        assert run(folder, 'site.ini', 'stop', command=command).code == 0


def test_a_restart_with_user_changes_it(folder, start, command):
    with (
        start(*AS_NOBODY),
        start('--user', 'daemon', verb='restart') as second,
        start('--user', 'root', verb='restart') as third,
    ):
        pwd_entry = pwd.getpwnam('daemon')
        uids = {uid for uid, _ in imports(folder)['webapp']}
        assert uids == {NOBODYS[0], pwd_entry.pw_uid, 0}
        assert second.pid != third.pid
        assert run(folder, 'site.ini', 'stop', command=command).code == 0


def test_a_restart_of_a_site_of_roots_stays_roots(folder, start, command):
    with start(), start(verb='restart') as second:
        assert identity(second.pid)[0] == {0}
        assert 'keeps the user' not in (folder / 'paster.log').read_text()
        assert run(folder, 'site.ini', 'stop', command=command).code == 0


@each_way
def test_a_restart_of_a_site_that_was_killed_does_not_make_it_roots(
    folder, start, command, way
):
    with start(*AS_NOBODY, *way) as first:
        for pid in first.processes():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        eventually(lambda: first.processes() == [])
        for _ in range(2):
            again = run(folder, 'site.ini', 'restart', *way, command=command)
            assert again.code == 2, again.report()
            (line,) = again.err.text.splitlines()
            assert 'paster.pid belongs to nobody' in line
            assert 'add --user nobody' in line
        assert len(importers(folder)) == 1
    with start('--user', 'nobody', *way, verb='restart') as second:
        assert identity(second.pid)[0] == {NOBODYS[0]}
        assert run(folder, 'site.ini', 'stop', command=command).code == 0


#: Holds the PID file as nobody, while a process of root's listens on the control socket:
#: what looks like a site of root's is one of nobody's.
DISGUISED = """
import os, socket, sys, time

from paste_wspbus.unix.pid_lock import PIDLock

how, uid = sys.argv[1], int(sys.argv[2])
control = socket.socket(socket.AF_UNIX)
control.bind('service.sock')
os.symlink(os.path.abspath('service.sock'), 'paster.pid.sock')
control.listen()  # so far it is a service of root's
lock = PIDLock('paster.pid')
if how == 'by link':
    pid = os.fork()
    if pid:
        time.sleep(100)
    lock.acquire()
    lock.write()
    os.setuid(uid)
else:  # a setuid program holds the lock, as 'passwd > paster.pid' does
    lock.acquire()
    lock.write()
    if not os.fork():
        time.sleep(100)
    control.close()
    if how == 'by a setuid program':
        os.setresuid(uid, 0, 0)
print('ready', flush=True)
time.sleep(100)
"""


@pytest.mark.parametrize(
    'how', ['by link', 'by a setuid program', 'without a control socket']
)
def test_a_site_in_disguise_does_not_become_roots(folder, start, command, how):
    for name, text in {**FILES, 'site.ini': INI, 'evil.py': DISGUISED}.items():
        (folder / name).write_text(text)
    words = [command[0], 'evil.py', how, NOBODYS[0]]
    with Process(words, cwd=folder) as disguised:
        assert disguised.out.wait_for('ready'), disguised.report()
        os.chown(folder, *NOBODYS)
        if how == 'without a control socket':
            (folder / 'paster.pid.sock').unlink()
        restart = run(folder, 'site.ini', 'restart', command=command)
    assert importers(folder) == []
    assert restart.code == 2, restart.report()
    (line,) = restart.err.text.splitlines()
    assert 'add --user NAME (or --user root)' in line


@each_way
def test_sighup_to_a_daemon_keeps_the_low_port_and_the_user(
    folder, start, low_port, command, way
):
    with start(*AS_NOBODY, *way) as daemon:
        os.kill(daemon.pid, signal.SIGHUP)
        eventually(lambda: len(importers(folder)) == 2)
        log = folder / 'paster.log'
        eventually(lambda: log.read_text().count('Serving on') == 2)
        assert not is_free(low_port[1], low_port[0])
        for pid in daemon.processes():
            with contextlib.suppress(FileNotFoundError):  # the old worker leaves
                assert identity(pid) == ({NOBODYS[0]}, {NOBODYS[1]}, GROUPS)
        assert run(folder, 'site.ini', 'stop', command=command).code == 0
        assert not (folder / 'paster.pid').exists()
    assert imports(folder) == {module: {NOBODYS} for module in MODULES}


# -- what cannot be --------------------------------------------------------------------------------

IMPOSSIBLE = {
    'user': (['--user', 'nonesuch'], '--user nonesuch: there is no such user'),
    'group': (['--group', 'nonesuch'], '--group nonesuch: there is no such group'),
    'a group beside a user': (
        ['--user', 'nobody', '--group', 'nonesuch'],
        '--group nonesuch: there is no such group',
    ),
    'no group': (['--user', str(STRANGER)], f'--user {STRANGER}'),
    'no digit': (['--user', '²', '--group', GROUP], '--user ²'),
    'a group that is no digit': (['--group', '²'], '--group ²'),
    'a number too large': (['--user', '9' * 12, '--group', GROUP], '--user 99999'),
    'a group too large': (['--group', '9' * 12], '--group 99999'),
    # (uid_t) -1 means "as it is" to setresuid(2) and chown(2).
    'minus one': (['--user', '4294967295', '--group', GROUP], '--user 4294967295'),
    'the group minus one': (['--group', '4294967295'], '--group 4294967295'),
    'nothing': (['--user', ''], '--user'),
}


@each_way
@pytest.mark.parametrize('case', IMPOSSIBLE)
def test_a_user_or_group_that_cannot_be_had_is_wrong_usage(folder, serve, case, way):
    args, line = IMPOSSIBLE[case]
    with serve(*args, *way, '--pid-file', 'site.pid', wait=False) as site:
        assert site.wait() == 2, site.report()
    assert len(site.err.text.splitlines()) == 1, site.report()
    assert line in site.err.text
    assert importers(folder) == []
    assert not (folder / 'site.pid').exists()


AS_STRANGER = {'user': STRANGER, 'group': STRANGER, 'extra_groups': []}


@pytest.mark.parametrize('args', [['--user', 'nobody'], ['--group', GROUP], AS_NOBODY])
def test_only_root_can_become_somebody_else(folder, serve, args):
    with serve(*args, **AS_STRANGER, wait=False) as site:
        assert site.wait() == 2
    option = ' '.join(args[:2])
    assert site.err.text == f'{option}: only root can become another user or group\n'
    assert importers(folder) == []


def test_a_user_that_it_is_already_is_no_change(folder, serve):
    user = ['--user', str(STRANGER), '--group', str(STRANGER)]
    with serve(*user, 'http_port=0', **AS_STRANGER) as site:
        assert identity(site.pid) == ({STRANGER}, {STRANGER}, [])
        assert ask(site)['pid'] == site.pid
        assert site.stop()[0] == 0
    assert 'ERROR' not in site.err.text


def test_another_user_cannot_stop_the_site(folder, start, command):
    with start(*AS_NOBODY) as daemon:
        stop = run(folder, 'site.ini', 'stop', command=command, **AS_STRANGER)
        assert stop.code == 4
        (line,) = stop.err.text.splitlines()
        assert f'process {daemon.pid} belongs to another user' in line
        status = run(folder, 'site.ini', 'status', command=command, **AS_STRANGER)
        assert status.code == 0
        assert f'process {daemon.pid}' in status.out.text
        assert run(folder, 'site.ini', 'stop', command=command).code == 0


# -- the plugin ----------------------------------------------------------------------------------------


def script(folder, command, text, **kwargs):
    """Run a Python script: what it prints, as JSON."""
    (folder / 'script.py').write_text(SCRIPT + text)
    process = run(folder, 'script.py', command=command[:1], **kwargs)
    assert process.code == 0, process.report()
    return json.loads(process.out.text)


SCRIPT = """
import json
import os

from paste_wspbus.bus import Bus, ChannelFailures
from paste_wspbus.errors import UsageError
from paste_wspbus.plugins.daemon import DropPrivileges

bus, log, umask = Bus(), [], os.umask(0o22)
bus.subscribe('log', lambda msg, level: log.append(msg))


def who():
    return [*os.getresuid(), *os.getresgid(), sorted(os.getgroups())]


def tell(**told):
    os.umask(mask := os.umask(0))
    print(json.dumps({'who': who(), 'umask': mask, 'log': log, **told}))
    bus.exit()
"""


def test_the_plugin_drops_privileges_on_a_plain_bus(folder, command):
    told = script(
        folder,
        command,
        f"""
seen = {{}}
bus.subscribe('start', lambda: seen.update(server=os.geteuid()), priority=75)
bus.subscribe('start', lambda: seen.update(rest=os.geteuid()), priority=78)
DropPrivileges(bus, umask=0o27, uid='nobody', gid={GROUP!r}).subscribe()
bus.start()
tell(seen=seen)
""",
    )
    uid, gid = NOBODYS
    assert told['who'] == [uid, uid, uid, gid, gid, gid, GROUPS]
    assert told['umask'] == 0o27
    assert told['seen'] == {'server': 0, 'rest': uid}
    assert f'Now uid {uid}, gid {gid}.' in told['log']


@pytest.mark.parametrize('quote', [repr, int], ids=['text', 'number'])
def test_the_plugin_takes_numbers(folder, command, quote):
    told = script(
        folder,
        command,
        f"""
DropPrivileges(bus, uid={quote(str(STRANGER))}, gid={quote(str(STRANGER))}).subscribe()
bus.start()
tell()
""",
    )
    assert told['who'] == [STRANGER] * 6 + [[STRANGER]]
    assert told['umask'] == 0o22


def test_the_plugin_changes_nothing_where_nothing_is_asked_for(folder, command):
    told = script(
        folder,
        command,
        'DropPrivileges(bus).subscribe(); bus.start(); tell()',
        extra_groups=[4],
    )
    assert told['who'] == [0] * 6 + [[4]]
    assert told['umask'] == 0o22


def test_the_plugin_does_it_once(folder, command):
    told = script(
        folder,
        command,
        """
DropPrivileges(bus, uid='nobody').subscribe()
bus.start()
bus.stop()
bus.start()
tell()
""",
    )
    assert told['who'][0] == NOBODY.pw_uid
    assert sum(line.startswith('Now uid') for line in told['log']) == 1


@pytest.mark.parametrize(
    'arguments', ["uid='nonesuch'", "gid='nonesuch'", f'uid={STRANGER}']
)
def test_the_plugin_fails_the_start_for_a_user_that_cannot_be_had(
    folder, command, arguments
):
    told = script(
        folder,
        command,
        f"""
DropPrivileges(bus, {arguments}).subscribe()
try:
    bus.start()
except ChannelFailures as failures:
    error = failures.get_instances()[0]
    tell(usage=isinstance(error, UsageError), state=bus.state.name)
""",
    )
    assert (told['usage'], told['state']) == (True, 'STOPPED')
    assert told['who'][:6] == [0] * 6


def test_the_plugin_fails_the_start_where_it_is_not_root(folder, command):
    told = script(
        folder,
        command,
        """
DropPrivileges(bus, uid='nobody').subscribe()
try:
    bus.start()
except ChannelFailures as failures:
    tell(error=str(failures.get_instances()[0]), state=bus.state.name)
""",
        **AS_STRANGER,
    )
    assert told['error'] == '--user nobody: only root can become another user or group'
    assert told['state'] == 'STOPPED'
    assert told['who'][0] == STRANGER


def test_a_system_that_keeps_root_is_found_out(folder, command):
    told = script(
        folder,
        command,
        """
from paste_wspbus.plugins.daemon import PrivilegesKept

os.setresuid = lambda real, effective, saved: os.seteuid(effective)
DropPrivileges(bus, uid='nobody').subscribe()
try:
    bus.start()
except ChannelFailures as failures:
    tell(kept=isinstance(failures.get_instances()[0], PrivilegesKept))
""",
    )
    assert told['kept'] is True


# -- gunicorn's workers ------------------------------------------------------------------------

#: A master of root's, whose worker is another user; as gunicorn has them.
MASTER = """
import os, sys, time

from paste_wspbus.unix.pid_lock import PIDLock

lock = PIDLock('site.pid')
lock.acquire()
lock.write()
if not os.fork():
    lock.forget()
    os.setgid(int(sys.argv[2]))
    os.setuid(int(sys.argv[1]))
    print('ready', flush=True)
time.sleep(100)
"""

ASK = """
import json
from types import SimpleNamespace

from paste_wspbus.errors import UsageError
from paste_wspbus.process.predecessor import keep_user_of_workers

settings = {}
try:
    keep_user_of_workers(SimpleNamespace(user=None, pid_file='site.pid', control=None), settings)
except UsageError as error:
    settings = str(error)
print(json.dumps(settings))
"""


@pytest.mark.parametrize(
    'uid, kept',
    [(NOBODYS[0], {'user': str(NOBODYS[0]), 'group': str(NOBODYS[1])}), (0, {})],
)
def test_the_user_of_gunicorns_workers_is_kept(folder, command, uid, kept):
    (folder / 'master.py').write_text(MASTER)
    (folder / 'ask.py').write_text(ASK)
    with Process([command[0], 'master.py', uid, NOBODYS[1]], cwd=folder) as master:
        assert master.out.wait_for('ready'), master.report()
        asked = run(folder, 'ask.py', command=command[:1])
        assert json.loads(asked.out.text) == kept, asked.report()
        os.chown(folder, *NOBODYS)  # now somebody else may have put the PID file there
        asked = run(folder, 'ask.py', command=command[:1])
        assert 'add --user NAME' in json.loads(asked.out.text), asked.report()
