"""Several workers: one after another is replaced, without a request lost."""

import contextlib
import fcntl
import json
import os
import re
import resource
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
from pathlib import Path

import pytest

from paste_wspbus.control.client import ask as ask_control
from tests.kit import Site, eventually, free_port, is_free, run, write
from tests.kit.clients import Clients
from tests.kit.processes import (
    asleep,
    children,
    freeze,
    has_ended,
    pending,
    processes_of_session,
)
from tests.kit.sites import APP, ask
from tests.kit.supervised import (
    LOGGING,
    UNKNOWN_SERVER,
    Daemon,
    crash,
    has_cleaned_up,
    impatient_command,
    imported,
    press_ctrl_c,
    press_ctrl_c_again,
)
from tests.kit.systemd import Manager, states
from tests.kit.users import AS_NOBODY, NOBODY, identity, python_for_all

PARTS = """
import fcntl
import sys
import time


def say(text):
    os.write(2, f'{text} {os.getpid()}\\n'.encode())


def name():
    '''Such as 'worker 2'.'''
    return logging.makeLogRecord({}).processName


def wait_at_gate():
    '''Until the test opens it.'''
    with open('gate') as gate:
        say('composing')
        fcntl.flock(gate, fcntl.LOCK_SH)


def about(environ):
    bus = bus_of(environ)
    return {
        'pid': os.getpid(),
        'ppid': os.getppid(),
        'version': VERSION,
        'bus': id(bus),
        'name': bus.plugins['sitelog'].logger.name,
        'threads': sum(
            one.name.startswith('waitress-') for one in threading.enumerate()
        ),
        'plugins': sorted(bus.resources),
        'uid': os.geteuid(),
    }


def make(global_conf, version='1'):
    global VERSION
    VERSION = version
    obey('at_composition')
    return app


def lifespan(bus, global_conf):
    bus.subscribe('drain', lambda: say('draining'))
    say('opened')
    obey('at_start')
    yield
    obey('at_stop')
    say('closed')


note('imported')
obey('at_import')
"""

INI = """
[app:main]
use = call:webapp:make
version = 1

[server:main]
use = egg:waitress
host = 127.0.0.1
port = 0
threads = 4

[wspbus:main]
plugins = resource

[plugin:resource]
use = call:webapp:lifespan
"""
FILES = {'webapp.py': APP + PARTS, 'site.ini': INI}
TCP = 'host = 127.0.0.1\nport = 0\n'
UNIX = 'unix_socket = site.sock\n'
WAITRESS = 'egg:waitress\n' + TCP + 'threads = 4\n'
SERVERS = {
    'waitress': WAITRESS,
    'waitress-unix': 'egg:waitress\n' + UNIX,
    'cheroot': 'egg:paste_wspbus#cheroot\n' + TCP,
    'cheroot-unix': 'egg:paste_wspbus#cheroot\n' + UNIX,
    'paste': 'egg:Paste#http\n' + TCP,
    'wsgiref': 'egg:paste_wspbus#wsgiref\n' + TCP,
}
each_server = pytest.mark.parametrize('server', SERVERS)

#: A composition that waits for `open_gate`.
AT_GATE = 'wait_at_gate()'
#: What only one of the workers does: it is the first who makes the file.
ONE_ONLY = """
try:
    os.close(os.open('taken', os.O_CREAT | os.O_EXCL))
except FileExistsError:
    %s
"""


class Workers(Site):
    """A site in the foreground that several workers serve."""

    def __init__(self, folder, *args, count=2, files=FILES, **kwargs):
        number = [] if count is None else ['--workers', str(count)]
        args = ['site.ini', *number, '--pid-file', 'site.pid', *args]
        super().__init__(folder, None, *args, files=files, **kwargs)

    def status(self):
        return ask_control(str(self.folder / 'site.pid.sock'), 'status')

    def workers(self):
        """What the supervisor tells of each."""
        return self.status()['workers']

    def pids(self):
        return [worker['pid'] for worker in self.workers()]

    def answerers(self):
        """The processes that answer, of twenty requests."""
        return {ask(self)['pid'] for _ in range(20)}

    def run(self, subcommand, *args):
        return run(self.folder, 'site.ini', subcommand, '--pid-file', 'site.pid', *args)

    def begin(self, subcommand, *args):
        """A command that runs in the background of a ``with`` block."""
        return Site(
            self.folder,
            None,
            *['site.ini', subcommand, '--pid-file', 'site.pid', *args],
            wait=False,
        )

    def graceful(self):
        """It succeeds."""
        told = self.run('graceful')
        assert told.code == 0, told.report() + self.report()
        assert told.err.text == ''
        return told

    def change(self, *pairs):
        """Edit the .ini: (old, new), …"""
        path = self.folder / 'site.ini'
        text = path.read_text()
        for old, new in pairs:
            assert old in text
            text = text.replace(old, new)
        path.write_text(text)

    def deploy(self, version):
        """Another version of the site, for whoever composes it from now on."""
        path = self.folder / 'site.ini'
        path.write_text(
            re.sub('(?m)^version = .*', f'version = {version}', path.read_text())
        )

    def versions(self):
        """What is served, of ten requests."""
        return {ask(self)['version'] for _ in range(10)}

    def wait_in(self, pid, stack):
        """A connection whose request this worker has begun, and does not end."""
        others = [one for one in self.pids() if one != pid]
        for other in others:
            freeze(other)
        connection = stack.enter_context(self.connect())
        connection.send('/wait')
        self.expect(f'waiting {pid}\n')
        for other in others:
            os.kill(other, signal.SIGCONT)
        return connection

    def wait_in_all(self, stack):
        """The same in each: {process: connection}."""
        return {pid: self.wait_in(pid, stack) for pid in self.pids()}

    def says(self, word):
        """Which processes said so, in order."""
        return [int(pid) for pid in re.findall(rf'^{word} (\d+)$', self.err.text, re.M)]


def files_for(server, **more):
    head, _, rest = INI.partition('use = egg:waitress\n')
    rest = rest.partition('[wspbus:main]')[2]
    ini = f'{head}use = {SERVERS[server]}\n[wspbus:main]{rest}'
    return {**FILES, 'site.ini': ini, **more}


#: Descriptors of the gates that are shut: {folder: a file that is locked}.
_gates = {}


@pytest.fixture(autouse=True)
def gates():
    yield
    while _gates:
        os.close(_gates.popitem()[1])


def set_up(folder, **hooks):
    """Hooks of the site: what it executes at_import, at_composition, at_start, at_stop."""
    if any('gate' in text for text in hooks.values()):
        _gates[folder] = os.open(folder / 'gate', os.O_CREAT | os.O_EXCL)
        fcntl.flock(_gates[folder], fcntl.LOCK_EX)
    if any("'starting'" in text for text in hooks.values()):
        os.mkfifo(folder / 'starting')  # who opens it waits for the other one
    for name, text in hooks.items():
        (folder / name).write_text(text)


def open_gate(folder):
    """Let those who wait go on, and nobody wait any more."""
    for name in ('at_import', 'at_composition', 'at_start', 'at_stop'):
        (folder / name).unlink(missing_ok=True)
    (folder / 'gate').unlink()
    os.close(_gates.pop(folder))


# -- serving ------------------------------------------------------------------------


@each_server
def test_each_worker_serves_on_a_bus_of_its_own(tmp_path, server):
    with Workers(tmp_path, files=files_for(server)) as site:
        pids = site.pids()
        answers = {}
        eventually(
            lambda: (
                answers.update({(one := ask(site))['pid']: one}) or len(answers) == 2
            )
        )
        assert sorted(answers) == sorted(pids) == sorted(children(site.pid))
        assert {one['ppid'] for one in answers.values()} == {site.pid}
        assert {one['name'] for one in answers.values()} == {
            'paste_wspbus.worker1',
            'paste_wspbus.worker2',
        }
        assert sorted(site.says('opened')) == sorted(pids)
        code, out, _ = site.stop()
        assert code == 0, site.report()
        assert sorted(site.says('closed')) == sorted(pids)
        assert has_cleaned_up(site)
    assert out == (
        f'Starting server in PID {site.pid}.\n'
        f'Serving on {site.url}\n'
        f'Workers in PIDs {pids[0]}, {pids[1]}.\n'
    )


def test_the_supervisor_imports_nothing_of_the_site_and_has_one_thread(tmp_path):
    with Workers(tmp_path) as site:
        assert len(os.listdir(f'/proc/{site.pid}/task')) == 1
        site.graceful()
        crash(site)
        eventually(lambda: len(imported(tmp_path)) == 5)
        assert len(os.listdir(f'/proc/{site.pid}/task')) == 1
        assert site.stop()[0] == 0
    assert len(set(imported(tmp_path))) == 5
    assert site.pid not in imported(tmp_path)


@pytest.mark.parametrize(
    'setting, args, count',
    [
        ('workers = 2', [], 2),
        ('workers = auto', [], 'auto'),
        ('workers = 2', ['--workers', '1'], 1),
        ('workers = 1', ['--workers=3'], 3),
        ('', ['--workers', 'auto'], 'auto'),
    ],
)
def test_how_many_workers_there_are(tmp_path, setting, args, count):
    ini = INI.replace('[wspbus:main]', f'[wspbus:main]\n{setting}')
    files = {**FILES, 'site.ini': ini}
    with Workers(tmp_path, *args, count=None, files=files) as site:
        wanted = len(os.sched_getaffinity(0)) if count == 'auto' else count
        assert site.out.wait_for('Workers in PIDs')
        # A container's quota may be less than its processors.
        found = len(children(site.pid))
        assert found == wanted or (count == 'auto' and 1 <= found < wanted)
        assert [one['number'] for one in site.workers()] == list(range(1, found + 1))
        assert site.stop()[0] == 0


def test_workers_0_on_the_command_line_is_one_process(tmp_path):
    ini = INI.replace('[wspbus:main]', '[wspbus:main]\nworkers = 2')
    with Workers(tmp_path, count=0, files={**FILES, 'site.ini': ini}) as site:
        assert ask(site)['pid'] == site.pid
        assert site.status()['workers'] == []
        code, out, _ = site.stop()
    assert code == 0
    assert 'Workers' not in out


def test_a_quiet_site_prints_nothing(tmp_path):
    with Workers(tmp_path, '-q', wait=False) as site:
        eventually(lambda: len(site.says('opened')) == 2)
        site.run('graceful')  # waits until it is started
        code, out, _ = site.stop()
    assert (code, out) == (0, '')


def test_one_worker_with_a_number_is_replaced_like_others(tmp_path):
    with Workers(tmp_path, count=1) as site:
        (old,) = site.pids()
        site.graceful()
        (new,) = site.pids()
        crash(site)
        eventually(lambda: len(imported(tmp_path)) == 3)
        assert ask(site)['pid'] not in (old, new)
        assert site.stop()[0] == 0


def test_a_daemon_of_several_workers(tmp_path):
    with Daemon(tmp_path, '--workers', '2', files=FILES) as site:
        pids = children(site.pid)
        assert sorted(processes_of_session(site.session)) == sorted([site.pid, *pids])
        numbers = re.findall(r'Workers in PIDs (\d+), (\d+)\.', site.started.out.text)
        assert sorted(map(int, *numbers)) == sorted(pids)
        assert ask(site)['pid'] in pids
        told = run(tmp_path, 'site.ini', 'graceful')
        assert told.code == 0, told.report()
        assert not set(pids) & set(children(site.pid))
        assert int((tmp_path / 'paster.pid').read_text()) == site.pid
        again = run(tmp_path, 'site.ini', 'start', '--workers', '2')
        assert f'running already (process {site.pid})' in again.out.text
        stop = run(tmp_path, 'site.ini', 'stop')
        assert (stop.code, stop.out.text) == (0, 'The site has stopped.\n')
        assert processes_of_session(site.session) == []
    assert is_free(site.port)
    assert {'paster.pid', 'paster.pid.sock'} & set(os.listdir(tmp_path)) == set()


def test_restart_replaces_supervisor_and_workers_and_refuses_nobody(tmp_path):
    with (
        Daemon(tmp_path, '--workers', '2', files=FILES) as site,
        Clients(site) as clients,
    ):
        eventually(lambda: clients.answers)
        again = run(tmp_path, 'site.ini', 'restart', '--workers', '2')
        pid = int((tmp_path / 'paster.pid').read_text())
        try:
            assert again.code == 0, again.report()
            assert pid != site.pid
            fresh = set(children(pid))
            eventually(lambda: fresh & set(clients.answers) or clients.failures)
            clients.stop()
            assert clients.failures == []
        finally:
            stop = run(tmp_path, 'site.ini', 'stop')
        assert stop.code == 0, stop.report()
        assert processes_of_session(site.session) == []


class Public:
    """A folder for each user to enter, ``run`` in it to write to; a command for all."""

    def __init__(self, path):
        self.path, (program, libraries) = path, python_for_all()
        self.env = {'PYTHONDONTWRITEBYTECODE': '1'}
        if libraries:
            self.env['PYTHONPATH'] = libraries
        self.python = program
        self.command = [program, '-m', 'paste_wspbus']
        path.chmod(0o755)
        (path / 'run').mkdir()
        (path / 'run').chmod(0o777)

    def serve(self, *args):
        """Two workers of another user's."""
        webapp = FILES['webapp.py'].replace(
            "open('life', 'a')", "open('run/life', 'a')"
        )
        args = ['site.ini', '--workers', '2', '--pid-file', 'run/site.pid', *args]
        files = {**FILES, 'webapp.py': webapp}
        how = {'files': files, 'command': self.command, 'env': self.env}
        return Site(self.path, None, *args, **how)

    def graceful(self):
        args = ['site.ini', 'graceful', '--pid-file', 'run/site.pid']
        return run(self.path, *args, command=self.command, env=self.env)


@pytest.fixture
def public():
    assert os.geteuid() == 0, 'these tests change users: run them as root'
    path = Path(tempfile.mkdtemp(prefix='wspbus-'))
    yield Public(path)
    shutil.rmtree(path)


def test_workers_are_another_user_and_stay_so(public):
    with public.serve(*AS_NOBODY) as site:
        first = children(site.pid)
        for _ in range(2):
            for pid in [site.pid, *children(site.pid)]:
                assert identity(pid)[0] == {NOBODY.pw_uid}
            assert ask(site)['uid'] == NOBODY.pw_uid
            told = public.graceful()
            assert told.code == 0, told.report()
        crash(site)
        eventually(lambda: len(children(site.pid)) == 2)
        assert not set(first) & set(children(site.pid))
        assert ask(site)['uid'] == NOBODY.pw_uid
        assert site.stop()[0] == 0, site.report()
        assert site.has_left_nothing()


# -- graceful -----------------------------------------------------------------------


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


def test_a_server_that_binds_by_itself_takes_a_restart(tmp_path):
    files = {**FILES, 'server.py': UNKNOWN_SERVER}
    with Workers(tmp_path, files=files) as site:
        old = site.pids()
        site.change(('egg:waitress', 'call:server:make'), ('threads = 4\n', ''))
        told = site.run('graceful')
        assert told.code == 2
        assert 'names another kind of server now' in told.err.text
        assert site.pids() == old
        assert ask(site)['pid'] in old
        assert site.stop()[0] == 0


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


def clients_of(site):
    """How many connections to its control socket there are."""
    path = str(site.folder / 'site.pid.sock')
    lines = Path('/proc/net/unix').read_text().splitlines()
    return sum(line.endswith(f' {path}') and ' 03 ' in line for line in lines)


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


# -- a broken deploy ----------------------------------------------------------------

#: What happens to the new generation: hooks, edits of the .ini, what is said of it.
BROKEN = {
    'import': ({'at_import': "raise RuntimeError('it is broken')"}, (), 'it is broken'),
    'syntax': ({'at_import': 'def :'}, (), 'invalid syntax'),
    'composition': (
        {'at_composition': "raise RuntimeError('it is broken')"},
        (),
        'it is broken',
    ),
    'ini': ({}, [('[wspbus:main]', '[wspbus:main')], 'site.ini'),
    'setting': ({}, [('plugins = resource', 'plugns = resource')], 'plugins'),
    'start': ({'at_start': "raise RuntimeError('it is broken')"}, (), 'it is broken'),
    'exit 0': ({'at_composition': 'os._exit(0)'}, (), 'exit code 0'),
    'exit 3': ({'at_start': 'os._exit(3)'}, (), 'exit code 3'),
    'SystemExit': ({'at_composition': 'sys.exit(5)'}, (), ''),
    'crash': (
        {'at_composition': 'os.kill(os.getpid(), signal.SIGSEGV)'},
        (),
        'signal SIGSEGV',
    ),
    'second': (
        {'at_composition': ONE_ONLY % "raise RuntimeError('it is broken')"},
        (),
        'it is broken',
    ),
}


@pytest.mark.parametrize('case', BROKEN)
def test_a_generation_that_fails_is_dropped_and_reported(tmp_path, case):
    hooks, edits, line = BROKEN[case]
    with Workers(tmp_path) as site, Clients(site, count=2) as clients:
        old = site.pids()
        good = (tmp_path / 'site.ini').read_text()
        set_up(tmp_path, **hooks)
        site.deploy(2)
        site.change(*edits)
        told = site.run('graceful')
        assert told.code not in (0, None)
        assert told.out.text == ''
        assert 1 <= len(told.err.text.splitlines()) <= 2, told.report()
        assert line in told.err.text
        assert 'Traceback' not in told.err.text
        if case != 'second':
            assert site.pids() == old
            assert site.versions() == {'1'}
        eventually(lambda: len(children(site.pid)) == 2)
        assert line in site.status()['failure']
        status = site.run('status')
        assert status.code == 0
        assert 'The last graceful restart failed' in status.out.text
        assert line in status.out.text

        (tmp_path / 'site.ini').write_text(good)
        for hook in hooks:
            (tmp_path / hook).unlink()
        site.deploy(3)
        site.graceful()
        assert site.versions() == {'3'}
        assert site.status()['failure'] is None
        assert 'failed' not in site.run('status').out.text
        clients.stop()
        assert clients.failures == []
        assert site.stop()[0] == 0
        assert has_cleaned_up(site)


@pytest.mark.parametrize('hook', ['at_import', 'at_composition', 'at_start'])
def test_the_traceback_of_a_generation_that_fails_is_in_the_log(tmp_path, hook):
    with Workers(tmp_path) as site:
        set_up(tmp_path, **{hook: "raise RuntimeError('it is broken')"})
        assert site.run('graceful').code in (1, 2)
        site.expect('Generation 2 failed')
        assert 'Traceback (most recent call last)' in site.err.text
        assert f'{hook}", line 1' in site.err.text
        assert site.stop()[0] == 0


SLOW = {
    'composition': {'at_composition': 'wait_at_gate()'},
    'start': {'at_start': 'wait_at_gate()'},
    'deaf': {
        'at_composition': """
say('composing')
while True:
    try:
        threading.Event().wait()
    except BaseException:
        pass  # it swallows the end
"""
    },
}


@pytest.mark.parametrize('case', ['composition', 'start'])
def test_a_generation_that_is_too_slow_is_dropped_and_reported(tmp_path, case):
    ini = INI.replace('[wspbus:main]', '[wspbus:main]\nstart_timeout = 2')
    with Workers(tmp_path, files={**FILES, 'site.ini': ini}) as site:
        old = site.pids()
        set_up(tmp_path, **SLOW[case])
        told = site.run('graceful')
        assert told.code == 1
        assert len(told.err.text.splitlines()) == 1
        # By its own deadline, of what its composition has left, or the supervisor's.
        own = re.search(r'did not start within (1\.\d|2) s', told.err.text)
        assert own or 'start_timeout' in told.err.text
        site.expect('in wait_at_gate')  # its stack
        eventually(lambda: sorted(children(site.pid)) == sorted(old))
        assert site.versions() == {'1'}
        assert 'start' in site.status()['failure']
        for hook in SLOW[case]:
            (tmp_path / hook).unlink()
        site.deploy(2)
        site.graceful()
        assert site.versions() == {'2'}
        assert site.stop()[0] == 0


def test_a_generation_that_ignores_sigterm_is_killed(tmp_path):
    ini = INI.replace('[wspbus:main]', '[wspbus:main]\nstart_timeout = 1')
    with Workers(tmp_path, files={**FILES, 'site.ini': ini}) as site:
        old = site.pids()
        set_up(tmp_path, **SLOW['deaf'])
        told = site.run('graceful')
        assert told.code == 1, told.report()
        assert 'start_timeout' in told.err.text
        assert ask(site)['pid'] in old
        site.expect('did not stop in time: it is killed')
        eventually(lambda: sorted(children(site.pid)) == sorted(old))
        assert site.stop()[0] == 0


def test_a_failed_graceful_leaves_the_number_of_workers(tmp_path):
    ini = INI.replace('[wspbus:main]', '[wspbus:main]\nworkers = 2')
    with Workers(tmp_path, count=None, files={**FILES, 'site.ini': ini}) as site:
        site.change(('workers = 2', 'workers = 1'))
        set_up(tmp_path, at_composition="raise RuntimeError('broken')")
        assert site.run('graceful').code == 1
        (tmp_path / 'at_composition').unlink()
        assert len(site.pids()) == 2
        os.kill(site.pids()[1], signal.SIGKILL)
        eventually(lambda: {w['state'] for w in site.workers()} == {'ready'})
        eventually(lambda: len(site.pids()) == 2)
        assert site.stop()[0] == 0


def test_more_workers_that_fail_leave_the_number_of_workers(tmp_path):
    ini = INI.replace('[wspbus:main]', '[wspbus:main]\nworkers = 1')
    with Workers(tmp_path, count=None, files={**FILES, 'site.ini': ini}) as site:
        site.change(('workers = 1', 'workers = 3'))
        set_up(tmp_path, at_composition="raise RuntimeError('broken')")
        assert site.run('graceful').code == 1
        (tmp_path / 'at_composition').unlink()
        site.send(signal.SIGTTIN)
        eventually(lambda: len(site.pids()) == 2)
        assert [one['number'] for one in site.workers()] == [1, 2]
        assert site.stop()[0] == 0
        assert has_cleaned_up(site)


def test_a_site_whose_folder_was_removed_serves_and_stops(tmp_path):
    there = tmp_path / 'there'
    there.mkdir()
    with Site(
        there,
        None,
        'site.ini',
        '--workers',
        '2',
        '--pid-file',
        tmp_path / 'site.pid',
        files=FILES,
    ) as site:
        for file in there.rglob('*'):
            if file.is_file():
                file.unlink()
        for left in there.glob('*'):
            left.rmdir()
        there.rmdir()
        told = run(tmp_path, 'there/site.ini', 'graceful', '--pid-file', 'site.pid')
        assert told.code in (1, 2)
        assert len(told.err.text.splitlines()) == 1
        assert 'site.ini' in told.err.text
        assert ask(site)['version'] == '1'
        stop = run(tmp_path, 'there/site.ini', 'stop', '--pid-file', 'site.pid')
        assert stop.code == 0, stop.report()
        assert site.wait() == 0, site.report()
        assert site.has_left_nothing()
        assert is_free(site.port)


# -- a first start that fails -----------------------------------------------------------

#: It fails while the other one starts.
FIRST_ALONE = """
if name() == 'worker 1':
    open('starting').close()
    raise RuntimeError('it is broken')
"""
#: It fails while the other one composes.
SECOND_ALONE = """
if name() == 'worker 2':
    raise RuntimeError('it is broken')
wait_at_gate()
"""

FIRST_STARTS = {
    'import': ({'at_import': "raise RuntimeError('it is broken')"}, 'it is broken'),
    'composition': (
        {'at_composition': "raise RuntimeError('it is broken')"},
        'it is broken',
    ),
    'start': ({'at_start': "raise RuntimeError('it is broken')"}, 'it is broken'),
    'exit 3': ({'at_composition': 'os._exit(3)'}, 'exit code 3'),
    'crash': ({'at_start': 'os.kill(os.getpid(), signal.SIGKILL)'}, 'SIGKILL'),
    'one alone': (
        {'at_composition': ONE_ONLY % "raise RuntimeError('it is broken')"},
        'it is broken',
    ),
    'one alone at its start': (
        {'at_start': ONE_ONLY % "raise RuntimeError('it is broken')"},
        'it is broken',
    ),
    'first alone': (  # BUG 6
        {
            'at_composition': FIRST_ALONE,
            'at_start': "open('starting', 'w').close(); time.sleep(0.5)",
        },
        'it is broken',
    ),
    'second alone': ({'at_composition': SECOND_ALONE}, 'it is broken'),  # BUG 7
    'one waits': (
        {
            'at_composition': ONE_ONLY % 'wait_at_gate()',
            'at_start': "raise RuntimeError('it is broken')",
        },
        'it is broken',
    ),
}


def told(text):
    """The lines but for what the site itself prints, two processes at once perhaps."""
    others = re.sub(r'(opened|closed|draining|composing) \d+', '', text)
    return [line for line in others.splitlines() if line]


@pytest.mark.parametrize('case', FIRST_STARTS)
def test_a_first_start_that_fails_is_told_once_and_leaves_nothing(tmp_path, case):
    hooks, line = FIRST_STARTS[case]
    set_up(tmp_path, **hooks)
    with Workers(tmp_path, wait=False) as site:
        code = site.wait()
        assert site.has_left_nothing()
    alone = 'one' not in case and 'alone' not in case
    lines = told(site.err.text)
    assert len(lines) == 1, site.report()
    assert line in lines[0]
    assert site.out.text == ''
    assert {'site.pid', 'site.pid.sock'}.isdisjoint(os.listdir(tmp_path))
    assert code != 0
    assert len(imported(tmp_path)) <= 2
    if alone:
        site_of_one = Site(tmp_path, None, 'site.ini', wait=False, files=FILES)
        with site_of_one as one:
            expected = one.wait() % 256
        assert code == {-signal.SIGKILL % 256: 128 + signal.SIGKILL}.get(
            expected, expected
        )
        if 'exit' not in case and case != 'crash':
            assert told(one.err.text) == lines


@pytest.mark.parametrize('case', ['import', 'one alone'])
def test_a_daemons_first_start_that_fails_is_told_to_the_shell(tmp_path, case):
    hooks, line = FIRST_STARTS[case]
    set_up(tmp_path, **hooks)
    site = run(tmp_path, 'site.ini', 'start', '--workers', '2', files=FILES)
    assert site.code in (1, 2)
    assert len(site.err.text.splitlines()) == 1, site.report()
    assert line in site.err.text
    assert site.out.text == ''
    assert {'paster.pid', 'paster.pid.sock'}.isdisjoint(os.listdir(tmp_path))


def test_a_first_start_that_is_too_slow_is_told(tmp_path):
    ini = INI.replace('[wspbus:main]', '[wspbus:main]\nstart_timeout = 1')
    set_up(tmp_path, at_composition=ONE_ONLY % 'wait_at_gate()')
    with Workers(tmp_path, wait=False, files={**FILES, 'site.ini': ini}) as site:
        assert site.wait() == 1
        assert site.has_left_nothing()
    assert 'start_timeout' in site.err.text
    assert site.out.text == ''


def test_a_port_that_is_taken_is_told_once(tmp_path):
    with socket.create_server(('127.0.0.1', 0)) as taken:
        port = taken.getsockname()[1]
        files = {**FILES, 'site.ini': INI.replace('port = 0', f'port = {port}')}
        with Workers(tmp_path, wait=False, files=files) as site:
            assert site.wait() == 1
    (line,) = site.err.text.splitlines()
    assert f'127.0.0.1:{port}' in line
    assert not (tmp_path / 'life').exists()


# -- deployment by a link -----------------------------------------------------------

RELEASE = """
def make(global_conf):
    def app(environ, start_response):
        start_response('200 OK', [('Content-Type', 'text/plain')])
        return [b'%d ' + global_conf['__file__'].encode()]

    return app
"""


@pytest.mark.parametrize('pid_file', [(), ('--pid-file', 'site.pid')])
@pytest.mark.parametrize('named', ['site.ini', '../current/site.ini'])
def test_graceful_serves_the_release_that_a_link_leads_to_now(
    tmp_path, named, pid_file
):
    current, runtime = tmp_path / 'current', tmp_path / 'runtime'
    runtime.mkdir(mode=0o700)
    env = {'PWD': str(current), 'XDG_RUNTIME_DIR': str(runtime)}
    for number in (1, 2):
        ini = INI.partition('[wspbus:main]')[0].replace('version = 1', '')
        ini = ini.replace('webapp', 'release')
        files = {'release.py': RELEASE % number, 'site.ini': ini}
        write(tmp_path / f'release{number}', files)
    current.symlink_to('release1')
    pid_file = [str(tmp_path / one) if '.' in one else one for one in pid_file]
    args = [named, '--workers', '2', *pid_file]
    with Site(current, None, *args, env=env) as site:
        assert site.get().body == f'1 {current}/site.ini'.encode()
        current.unlink()
        current.symlink_to('release2')
        told = run(current, named, 'graceful', *pid_file, env=env)
        assert told.code == 0, told.report()
        assert site.get().body == f'2 {current}/site.ini'.encode()
        assert run(current, named, 'stop', *pid_file, env=env).code == 0
        assert site.wait() == 0
        assert site.has_left_nothing()


# -- a worker that dies -----------------------------------------------------------------


def impatient(folder, *args, backoff=(0, 0.1), healthy=60, **kwargs):
    """Workers whose supervisor has another idea of how long to wait."""
    command = impatient_command(folder, backoff, healthy)
    return Workers(folder, *args, command=command, **kwargs)


@pytest.mark.parametrize(
    'page, how',
    [
        ('/kill', 'signal SIGKILL'),
        ('/segv', 'signal SIGSEGV'),
        ('/exit0', 'exit code 0'),
    ],
)
def test_a_worker_that_dies_is_replaced_while_the_other_serves(tmp_path, page, how):
    with Workers(tmp_path) as site:
        before = site.pids()
        set_up(tmp_path, at_composition=AT_GATE)
        crash(site, page)
        site.expect('composing')
        assert f'crashed, {how}; restarting\n' in site.err.text
        (stays,) = set(before) & set(site.pids())
        assert site.answerers() == {stays}
        open_gate(tmp_path)
        eventually(lambda: [w['state'] for w in site.workers()] == ['ready', 'ready'])
        eventually(lambda: ask(site)['pid'] == imported(tmp_path)[2])
        assert site.stop()[0] == 0
        assert has_cleaned_up(site)
    assert site.err.text.count('crashed') == 1
    assert (
        f'Worker {1 + before.index(*(set(before) - {stays}))} (process '
        in site.err.text
    )


@pytest.mark.parametrize('preload', ['false', 'true'])
def test_a_worker_killed_while_the_site_starts_is_replaced(tmp_path, preload):
    ini = INI.replace('[wspbus:main]', f'[wspbus:main]\npreload = {preload}')
    set_up(tmp_path, at_start=ONE_ONLY % 'wait_at_gate()')
    with Workers(tmp_path, wait=False, files={**FILES, 'site.ini': ini}) as site:
        site.expect('composing')
        (killed,) = site.says('composing')
        site.expect('opened', 2)
        os.kill(killed, signal.SIGKILL)
        assert site.out.wait_for('Serving on'), site.report()
        open_gate(tmp_path)
        eventually(lambda: {w['state'] for w in site.workers()} == {'ready'})
        assert site.stop()[0] == 0
        assert site.has_left_nothing()
    assert f'(process {killed}) failed to start: signal SIGKILL; restarting\n' in (
        site.err.text
    )


def test_a_worker_that_crashes_again_and_again_is_waited_for(tmp_path):
    with Workers(tmp_path, count=1) as site:
        crash(site, '/segv')
        site.expect('crashed, signal SIGSEGV; restarting\n')
        ask(site)
        crash(site, '/segv')
        site.expect('crashed, signal SIGSEGV; restarting in 1 s\n')
        ask(site)
        assert site.stop()[0] == 0


def test_while_somebody_serves_a_site_is_not_given_up(tmp_path):
    with impatient(tmp_path, backoff=(0,)) as site:
        set_up(tmp_path, at_composition="raise RuntimeError('it is broken')")
        stays = site.pids()[0]
        os.kill(site.pids()[1], signal.SIGSEGV)
        site.expect('failed to start: ', 4)
        assert site.answerers() == {stays}
        (tmp_path / 'at_composition').unlink()
        eventually(lambda: [w['state'] for w in site.workers()] == ['ready', 'ready'])
        assert site.stop()[0] == 0


def test_when_nobody_serves_any_more_a_site_is_given_up(tmp_path):
    with impatient(tmp_path) as site:
        set_up(tmp_path, at_composition="raise RuntimeError('it is broken')")
        for pid in site.pids():
            os.kill(pid, signal.SIGSEGV)
        assert site.wait() == 1
        assert has_cleaned_up(site)
    assert site.err.text.count('gives up') == 1


def test_connections_made_while_nobody_serves_are_answered_later(tmp_path):
    with Workers(tmp_path) as site:
        set_up(tmp_path, at_composition=AT_GATE)
        for pid in site.pids():
            os.kill(pid, signal.SIGKILL)
        site.expect('composing', 2)
        with site.connect() as client:
            client.send()
            open_gate(tmp_path)
            assert client.receive().status == 200
        assert site.stop()[0] == 0


def test_sigterm_to_one_worker_replaces_it(tmp_path):
    with Workers(tmp_path) as site, Clients(site) as clients:
        old, stays = site.pids()
        set_up(tmp_path, at_composition=AT_GATE)
        os.kill(old, signal.SIGTERM)
        site.expect('composing')
        assert len(children(site.pid)) == 3
        assert site.says('draining') == []
        open_gate(tmp_path)
        site.expect(f'closed {old}\n')
        eventually(lambda: len(children(site.pid)) == 2)
        new = imported(tmp_path)[2]
        assert site.pids() == [new, stays]
        eventually(lambda: new in clients.answers or clients.failures)
        clients.stop()
        assert clients.failures == []
        assert site.stop()[0] == 0
    assert 'was asked to stop: a new process takes its place' in site.err.text
    assert 'crashed' not in site.err.text


def test_a_worker_told_to_stop_goes_on_if_the_next_one_fails(tmp_path):
    with Workers(tmp_path) as site:
        old = site.pids()
        set_up(tmp_path, at_composition="raise RuntimeError('it is broken')")
        os.kill(old[0], signal.SIGTERM)
        site.expect('worker 1 keeps serving')
        assert 'it is broken' in site.err.text
        assert site.pids() == old
        assert site.answerers() <= set(old)
        (tmp_path / 'at_composition').unlink()
        os.kill(old[0], signal.SIGTERM)
        site.expect(f'closed {old[0]}\n')
        eventually(lambda: len(children(site.pid)) == 2)
        assert site.stop()[0] == 0


def test_a_page_that_ends_its_bus_ends_the_site(tmp_path):
    with Workers(tmp_path) as site:
        pids = site.pids()
        ask(site, '/bus_exit')
        assert site.wait() == 0, site.report()
        assert sorted(site.says('closed')) == sorted(pids)
        assert has_cleaned_up(site)
    assert 'crashed' not in site.err.text


def test_a_page_that_restarts_its_bus_has_all_workers_replaced(tmp_path):
    with Workers(tmp_path) as site, Clients(site, count=2) as clients:
        before = site.pids()
        ask(site, '/bus_restart')
        eventually(lambda: site.status()['generation'] == 2)
        assert not set(before) & set(site.pids())
        eventually(lambda: set(site.pids()) & set(clients.answers))
        clients.stop()
        assert clients.failures == []
        assert site.stop()[0] == 0
    assert len(imported(tmp_path)) == 4
    assert 'crashed' not in site.err.text


def test_a_page_that_restarts_its_bus_cannot_break_the_site(tmp_path):
    with Workers(tmp_path) as site:
        before = site.pids()
        set_up(tmp_path, at_composition="raise RuntimeError('it is broken')")
        ask(site, '/bus_restart')
        site.expect('Generation 2 failed')
        assert site.pids() == before
        assert site.answerers() <= set(before)
        assert 'it is broken' in site.status()['failure']
        assert site.stop()[0] == 0


# -- one more, one less ---------------------------------------------------------------


def test_one_worker_more_and_one_less(tmp_path):
    with Workers(tmp_path) as site, Clients(site, count=2) as clients:
        first = site.pids()
        site.send(signal.SIGTTIN)
        eventually(lambda: [w['state'] for w in site.workers()] == ['ready'] * 3)
        assert site.pids()[:2] == first
        third = site.pids()[2]
        eventually(lambda: third in clients.answers)
        site.graceful()
        assert len(site.pids()) == 3
        site.send(signal.SIGTTOU)
        eventually(lambda: len(children(site.pid)) == 2)
        site.graceful()
        assert len(site.pids()) == 2
        site.send(signal.SIGTTOU)
        site.expect('One worker stops: the site has 1 now\n')
        site.send(signal.SIGTTOU)
        site.expect('There is only one worker: it is not removed')
        eventually(lambda: len(children(site.pid)) == 1)
        ask(site)
        clients.stop()
        assert clients.failures == []
        assert site.stop()[0] == 0
        assert has_cleaned_up(site)
    assert 'crashed' not in site.err.text


def test_workers_of_a_changed_ini_go_before_those_of_signals(tmp_path):
    ini = INI.replace('[wspbus:main]', '[wspbus:main]\nworkers = 1')
    with Workers(tmp_path, count=None, files={**FILES, 'site.ini': ini}) as site:
        for _ in range(2):
            site.send(signal.SIGTTIN)
            site.expect('One more worker starts', 1 + _)
        site.change(('workers = 1', 'workers = 2'))
        site.graceful()
        eventually(lambda: len(children(site.pid)) == 2)
        assert site.stop()[0] == 0


def test_a_worker_more_that_fails_is_tried_again(tmp_path):
    with impatient(tmp_path, backoff=(0, 0.1)) as site:
        set_up(tmp_path, at_composition="raise RuntimeError('it is broken')")
        site.send(signal.SIGTTIN)
        site.expect('Worker 3 (process ')
        assert 'it is broken' in site.err.text
        ask(site)
        (tmp_path / 'at_composition').unlink()
        eventually(lambda: [w['state'] for w in site.workers()] == ['ready'] * 3)
        assert site.stop()[0] == 0


def limit(pid, what, number):
    """The soft limit alone, so that it can be raised again."""
    hard = resource.prlimit(pid, what)[1]
    resource.prlimit(pid, what, (number, hard))


def test_a_worker_more_without_descriptors_is_logged_and_comes_later(tmp_path):
    with impatient(tmp_path, backoff=(0, 0.1)) as site:
        usual = resource.prlimit(site.pid, resource.RLIMIT_NOFILE)[0]
        highest = max(map(int, os.listdir(f'/proc/{site.pid}/fd')))
        limit(site.pid, resource.RLIMIT_NOFILE, highest + 1)
        site.send(signal.SIGTTIN)
        site.expect('Worker 3 cannot be started: Too many open files')
        ask(site)
        limit(site.pid, resource.RLIMIT_NOFILE, usual)
        eventually(lambda: [w['state'] for w in site.workers()] == ['ready'] * 3)
        assert site.stop()[0] == 0
    assert 'Traceback' not in site.err.text


def test_a_graceful_without_descriptors_fails_with_a_line(tmp_path):
    with Workers(tmp_path) as site:
        old = site.pids()
        eventually(lambda: clients_of(site) == 0)  # of the question for its workers
        usual = resource.prlimit(site.pid, resource.RLIMIT_NOFILE)[0]
        used = {int(fd) for fd in os.listdir(f'/proc/{site.pid}/fd')}
        free = next(fd for fd in range(99) if fd not in used)
        # One is for whoever asks on the control socket.
        limit(site.pid, resource.RLIMIT_NOFILE, free + 2)
        told = site.run('graceful')
        limit(site.pid, resource.RLIMIT_NOFILE, usual)
        assert told.code == 1, told.report()
        assert 'Too many open files' in told.err.text
        assert len(told.err.text.splitlines()) == 1
        assert site.pids() == old
        site.graceful()
        assert site.stop()[0] == 0


#: A user who has no processes but the test's.
LONELY = 54399

LIMIT_PROCESSES = """
import resource
import sys

pid, number = map(int, sys.argv[1:])
hard = resource.prlimit(pid, resource.RLIMIT_NPROC)[1]
resource.prlimit(pid, resource.RLIMIT_NPROC, (hard if number < 0 else number, hard))
"""


def limit_processes(program, pid, number):
    """-1: as many as there may be. In a container, only its own user may say so."""
    args = [program, '-c', LIMIT_PROCESSES, str(pid), str(number)]
    subprocess.run(args, user=LONELY, group=LONELY, extra_groups=[], check=True)


def test_a_worker_more_without_processes_is_logged(public):
    with public.serve('--user', str(LONELY), '--group', str(LONELY)) as site:
        limit_processes(public.python, site.pid, 1)
        site.send(signal.SIGTTIN)
        site.expect('Worker 3 cannot be started: Resource temporarily unavailable')
        told = public.graceful()
        assert told.code == 1, told.report()
        assert 'Resource temporarily unavailable' in told.err.text
        ask(site)
        limit_processes(public.python, site.pid, -1)
        eventually(lambda: len(children(site.pid)) == 3)
        assert site.stop()[0] == 0, site.report()
        assert site.has_left_nothing()


# -- stop -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    'server, how',
    [
        *((server, 'SIGTERM') for server in SERVERS),
        *(('waitress', x) for x in ('stop', 'ctrl-c')),
    ],
)
def test_a_stop_answers_what_is_in_flight_in_each_worker(tmp_path, server, how):
    with Workers(tmp_path, files=files_for(server)) as site:
        with contextlib.ExitStack() as stack:
            clients = site.wait_in_all(stack)
            stop = None
            if how == 'SIGTERM':
                site.send(signal.SIGTERM)
            elif how == 'ctrl-c':
                press_ctrl_c(site)
            else:
                stop = stack.enter_context(site.begin('stop'))
            site.expect('draining', 2)
            site.release()
            for pid, client in clients.items():
                assert json.loads(client.receive().body)['pid'] == pid
            assert site.wait() == 0, site.report()
            if stop is not None:
                assert stop.wait() == 0, stop.report()
                assert stop.out.text.endswith('The site has stopped.\n')
        assert len(site.says('closed')) == 2
        assert has_cleaned_up(site)


@each_server
def test_nobody_is_reset_by_a_stop(tmp_path, server):
    with Workers(tmp_path, files=files_for(server)) as site:
        with Clients(site) as clients:
            eventually(lambda: len(clients.answers) > 20)
            assert site.stop()[0] == 0
        refused = ConnectionRefusedError, FileNotFoundError
        assert [one for one in clients.failures if not isinstance(one, refused)] == []
        assert has_cleaned_up(site)


@each_server
def test_who_waits_in_the_backlog_when_the_site_stops_is_answered(tmp_path, server):
    with Workers(tmp_path, files=files_for(server)) as site:
        pids = site.pids()
        for pid in pids:
            freeze(pid)
        with contextlib.ExitStack() as stack:
            clients = [stack.enter_context(site.connect()) for _ in range(5)]
            for client in clients:
                client.send('/', connection='close')
            site.send(signal.SIGTERM)
            eventually(lambda: asleep(site.pid))
            for pid in pids:
                os.kill(pid, signal.SIGCONT)
            assert {client.receive().status for client in clients} == {200}
        assert site.wait() == 0, site.report()
        assert has_cleaned_up(site)


def wait_until_it_stops(site):
    site.expect('draining', 2)
    eventually(lambda: site.status()['state'] == 'STOPPING')


def test_a_second_signal_skips_the_wait_for_requests(tmp_path):
    with Workers(tmp_path) as site, contextlib.ExitStack() as stack:
        site.wait_in_all(stack)
        press_ctrl_c(site)
        wait_until_it_stops(site)
        press_ctrl_c_again(site)
        assert site.wait() == 0, site.report()  # though nothing was released
        assert len(site.says('closed')) == 2
        assert has_cleaned_up(site)


def test_a_third_signal_leaves_at_once(tmp_path):
    with Workers(tmp_path) as site:
        set_up(tmp_path, at_stop="say('closing'); threading.Event().wait()")
        site.send(signal.SIGTERM)
        site.expect('closing', 2)
        site.send_again(signal.SIGTERM)
        eventually(lambda: 'SIGTERM' not in pending(site.pid))
        site.send_again(signal.SIGTERM)
        assert site.wait() == 70
        eventually(site.has_left_nothing)
    assert 'Asked to stop three times' in site.err.text
    assert 'at_stop' in site.err.text  # where the workers were
    assert is_free(site.port)


def test_a_worker_that_hangs_at_its_stop_is_forced_out(tmp_path):
    ini = INI.replace('[wspbus:main]', '[wspbus:main]\nstop_timeout = 3')
    with Workers(tmp_path, files={**FILES, 'site.ini': ini}) as site:
        hangs = "say('hangs'); threading.Event().wait()"
        set_up(tmp_path, at_stop=ONE_ONLY % hangs)
        with site.begin('stop') as stop:
            site.expect('hangs')
            assert stop.err.wait_for("waiting for the 'stop' listener"), stop.report()
            assert stop.wait() == 1
        assert site.wait() == 70, site.report()
        assert has_cleaned_up(site)
    assert 'ended by force' in stop.out.text
    assert len(site.says('closed')) == 1


def test_a_stop_with_failures_in_one_worker_is_the_sites_exit_code(tmp_path):
    with Workers(tmp_path) as site:
        set_up(tmp_path, at_stop=ONE_ONLY % "raise RuntimeError('it does not stop')")
        assert site.stop()[0] == 1
        assert has_cleaned_up(site)
    assert site.err.text.count('RuntimeError: it does not stop') == 1
    assert 'crashed' not in site.err.text


def test_stop_names_the_requests_of_all_workers(tmp_path):
    with Workers(tmp_path) as site, contextlib.ExitStack() as stack:
        clients = site.wait_in_all(stack)
        with site.begin('stop') as stop:
            assert stop.err.wait_for('waiting for 2 requests in flight'), stop.report()
            assert '/wait' in stop.err.text
            site.release()
            assert stop.wait() == 0
        assert {client.receive().status for client in clients.values()} == {200}
        assert site.wait() == 0


@pytest.mark.parametrize('signum', [signal.SIGTERM, signal.SIGINT])
def test_a_signal_while_workers_compose_ends_the_start(tmp_path, signum):
    set_up(tmp_path, at_composition=AT_GATE)
    with Workers(tmp_path, wait=False) as site:
        site.expect('composing', 2)
        code, out, _ = site.stop(signum)
        assert code == 128 + signal.SIGTERM, site.report()
        assert site.has_left_nothing()
    assert out == ''
    assert 'Traceback' not in site.err.text
    assert {'site.pid', 'site.pid.sock'}.isdisjoint(os.listdir(tmp_path))


def test_a_signal_when_one_worker_is_ready_and_the_other_composes(tmp_path):
    set_up(tmp_path, at_composition=ONE_ONLY % AT_GATE)
    with Workers(tmp_path, wait=False) as site:
        site.expect('composing')
        site.expect('opened')
        code, out, _ = site.stop()
        assert code in (0, 143), site.report()
        assert site.has_left_nothing()
    assert out == ''
    assert len(site.says('closed')) == 1


def test_a_stop_during_a_graceful_restart(tmp_path):
    with Workers(tmp_path) as site:
        set_up(tmp_path, at_composition=AT_GATE)
        with site.begin('graceful') as told:
            site.expect('composing')
            assert site.stop()[0] == 0, site.report()
            assert told.wait() == 1, told.report()
        assert 'asked to stop' in told.err.text
        assert len(site.says('closed')) == 2
        assert has_cleaned_up(site)


def test_a_stop_while_an_old_worker_drains(tmp_path):
    with Workers(tmp_path) as site, contextlib.ExitStack() as stack:
        old = site.pids()
        clients = site.wait_in_all(stack)
        site.send(signal.SIGHUP)
        site.expect(f'draining {old[0]}\n')
        site.send(signal.SIGTERM)
        site.expect('draining', 3)
        site.release()
        assert {client.receive().status for client in clients.values()} == {200}
        assert site.wait() == 0, site.report()
        assert has_cleaned_up(site)


def test_an_old_worker_that_does_not_end_is_forced_out(tmp_path):
    ini = INI.replace('[wspbus:main]', '[wspbus:main]\nstop_timeout = 1')
    with Workers(tmp_path, files={**FILES, 'site.ini': ini}) as site:
        with contextlib.ExitStack() as stack:
            site.wait_in(site.pids()[0], stack)
            old = site.pids()
            site.deploy(2)
            site.graceful()
            assert site.versions() == {'2'}
            assert not set(old) & set(children(site.pid))
        assert site.stop()[0] == 0, site.report()
    assert '/wait' in site.err.text  # what it had in flight


# -- without a supervisor ---------------------------------------------------------------


def kill_supervisor(site):
    site.send(signal.SIGKILL)
    assert site.process.wait() == -signal.SIGKILL


def test_workers_whose_supervisor_was_killed_stop(tmp_path):
    with (
        Workers(tmp_path) as site,
        contextlib.ExitStack() as stack,
    ):
        busy, idle = site.pids()
        client = site.wait_in(busy, stack)
        kill_supervisor(site)
        site.expect(f'closed {idle}\n')
        site.expect('The supervisor is gone: the site stops', 2)
        site.release()
        assert json.loads(client.receive().body)['pid'] == busy
        site.wait()
        eventually(site.has_left_nothing)
    if isinstance(site.address, tuple):
        assert is_free(site.port)
    with Workers(tmp_path) as again:
        assert ask(again)['ppid'] == again.pid
        assert again.stop()[0] == 0


def sleeps(folder):
    """How often the processes that work in a folder have gone to sleep, together."""
    count = 0
    for process in Path('/proc').glob('[0-9]*'):
        with contextlib.suppress(OSError):
            if process.joinpath('cwd').readlink() == folder:
                status = process.joinpath('status').read_text()
                found = status.partition('\nvoluntary_ctxt_switches:')[2]
                count += int(found.split()[0])
    return count


def test_a_start_waits_for_the_workers_of_a_supervisor_that_was_killed(tmp_path):
    port = free_port()
    files = {**FILES, 'site.ini': INI.replace('port = 0', f'port = {port}')}
    with Daemon(tmp_path, '--workers', '2', files=files) as site:
        held = children(site.pid)
        for pid in held:
            freeze(pid)  # they would be gone too soon
        os.kill(site.pid, signal.SIGKILL)
        eventually(lambda: has_ended(site.pid))
        with Site(tmp_path, None, 'site.ini', 'start', wait=False) as again:
            eventually(lambda: not (tmp_path / 'paster.pid.sock').exists())
            slept = sleeps(tmp_path)
            eventually(lambda: sleeps(tmp_path) > slept + 9 or has_ended(again.pid))
            for pid in held:
                os.kill(pid, signal.SIGCONT)
            assert again.wait() == 0, again.report()
        assert run(tmp_path, 'site.ini', 'stop').code == 0


def test_all_kinds_of_workers_notice_that_their_supervisor_was_killed(tmp_path):
    with Workers(tmp_path) as site, contextlib.ExitStack() as stack:
        clients = site.wait_in_all(stack)
        site.send(signal.SIGHUP)
        site.expect('draining')
        set_up(tmp_path, at_composition=AT_GATE)
        site.send(signal.SIGTTIN)  # it waits until the other restart is over
        third = imported(tmp_path)[2]
        os.kill(third, signal.SIGKILL)
        kill_supervisor(site)
        site.release()
        assert {client.receive().status for client in clients.values()} == {200}
        site.wait()
        eventually(site.has_left_nothing)
        assert is_free(site.port)


def test_a_worker_that_composes_notices_that_its_supervisor_was_killed(tmp_path):
    with Workers(tmp_path) as site:
        set_up(tmp_path, at_composition=AT_GATE)
        site.send(signal.SIGHUP)
        site.expect('composing')
        kill_supervisor(site)
        eventually(site.has_left_nothing)  # though the gate is closed still
        site.wait()
        assert is_free(site.port)
        assert len(site.says('opened')) == len(site.says('closed')) == 2


def test_workers_of_the_first_start_notice_that_their_supervisor_was_killed(tmp_path):
    set_up(tmp_path, at_composition=AT_GATE)
    with Workers(tmp_path, wait=False) as site:
        site.expect('composing', 2)
        kill_supervisor(site)
        eventually(site.has_left_nothing)
        site.wait()
    assert site.out.text == ''


FORKS = """
import subprocess

subprocess.Popen(['sleep', '100'])
if not os.fork():
    time.sleep(100)
    os._exit(0)
"""


def test_children_of_the_site_do_not_keep_workers_from_noticing(tmp_path):
    set_up(tmp_path, at_start=FORKS)
    with Workers(tmp_path) as site:
        pids = site.pids()
        kill_supervisor(site)
        for pid in pids:
            eventually(lambda pid=pid: has_ended(pid))
        assert not has_ended(min(processes_of_session(site.pid)))


# -- status -------------------------------------------------------------------------------


def test_status_shows_the_workers_and_their_requests(tmp_path):
    with Workers(tmp_path) as site, contextlib.ExitStack() as stack:
        pids = site.pids()
        client = site.wait_in(pids[1], stack)
        told = site.run('status')
        assert told.code == 0
        lines = told.out.text.splitlines()
        assert f'The site is running (process {site.pid})' in lines[0]
        assert lines[0].endswith(': generation 1, 2 workers.')
        assert f'Serving on {site.url}' in lines
        first, second = (re.split('  +', x) for x in lines if x.startswith('worker '))
        assert first[:4] == ['worker 1', str(pids[0]), 'ready', '1']
        assert second[:4] == ['worker 2', str(pids[1]), 'ready', '1']
        assert first[5] == '0'
        assert '/wait' in second[5]
        site.release()
        assert client.receive().status == 200
        assert site.stop()[0] == 0


def test_status_as_json(tmp_path):
    with Workers(tmp_path) as site, contextlib.ExitStack() as stack:
        client = site.wait_in(site.pids()[0], stack)
        answer = site.run('status', '--json')
        assert answer.code == 0
        told = json.loads(answer.out.text)
        assert told['pid'] == site.pid
        assert told['state'] == 'STARTED'
        assert told['generation'] == 1
        assert told['urls'] == [site.url]
        assert [one['number'] for one in told['workers']] == [1, 2]
        assert [one['state'] for one in told['workers']] == ['ready', 'ready']
        assert '/wait' in told['workers'][0]['requests'][0]
        assert told['workers'][1]['requests'] == []
        assert told['requests'] == told['workers'][0]['requests']
        site.release()
        assert client.receive().status == 200
        assert site.stop()[0] == 0


def test_status_of_a_draining_and_a_starting_worker(tmp_path):
    with Workers(tmp_path) as site, contextlib.ExitStack() as stack:
        client = site.wait_in(site.pids()[0], stack)
        with site.begin('graceful') as told:
            site.expect('draining')
            states = [one['state'] for one in site.workers()]
            assert sorted(states) == ['draining', 'ready', 'ready']
            (drains,) = (one for one in site.workers() if one['state'] == 'draining')
            assert '/wait' in drains['requests'][0]
            assert drains['generation'] == 1
            set_up(tmp_path, at_composition=AT_GATE)
            site.release()
            assert client.receive().status == 200
            site.expect('composing')
            assert 'starting' in [one['state'] for one in site.workers()]
            open_gate(tmp_path)
            assert told.wait() == 0
        assert site.stop()[0] == 0


def test_a_worker_that_hangs_does_not_stall_status(tmp_path):
    with Workers(tmp_path) as site:
        pids = site.pids()
        freeze(pids[0])
        told = site.run('status')
        assert told.code == 0
        assert 'does not answer' in told.out.text
        workers = site.workers()
        assert [one['requests'] for one in workers] == [None, []]
        os.kill(pids[0], signal.SIGCONT)
        eventually(lambda: [one['requests'] for one in site.workers()] == [[], []])
        assert site.stop()[0] == 0


def test_a_worker_that_hangs_does_not_stall_a_graceful_for_ever(tmp_path):
    ini = INI.replace('[wspbus:main]', '[wspbus:main]\nstop_timeout = 0.5')
    with Workers(tmp_path, files={**FILES, 'site.ini': ini}) as site:
        old = site.pids()
        freeze(old[0])
        site.graceful()
        assert not set(old) & set(children(site.pid))
        assert site.stop()[0] == 0
    assert (
        f'Worker 1 (process {old[0]}) did not stop in time: it is killed'
        in site.err.text
    )


# -- logs ---------------------------------------------------------------------------------


def test_each_log_line_of_a_worker_carries_its_number(tmp_path):
    with Workers(tmp_path, '-v') as site:
        eventually(
            lambda: (
                ask(site, '/log')
                and all(
                    f'[worker {number}] [site] a line of the site' in site.err.text
                    for number in (1, 2)
                )
            )
        )
        site.graceful()
        assert site.stop()[0] == 0
    own = re.compile(r'(opened|closed|draining) \d+$')
    lines = [line for line in site.err.text.splitlines() if not own.match(line)]
    for number in (1, 2):
        mine = [line for line in lines if f'[worker {number}] ' in line]
        assert sum('Bus STARTED' in line for line in mine) == 2
        assert sum('Bus EXITED' in line for line in mine) == 2
    supervisors = [line for line in lines if '[worker ' not in line]
    assert all('[paste_wspbus]' in line for line in supervisors), supervisors
    assert sum('Bus STARTED' in line for line in supervisors) == 1


NAMED_LOGGING = LOGGING.replace('keys =\n', 'keys = named\n', 1).replace(
    "args = ('site.log',)\n",
    "args = ('site.log',)\nformatter = named\n\n"
    '[formatter_named]\nformat = %%(processName)s | %%(name)s | %%(message)s\n',
)


def test_the_inis_own_format_can_name_the_worker(tmp_path):
    logging = NAMED_LOGGING.replace('%%', '%')
    with Workers(tmp_path, files={**FILES, 'site.ini': INI + logging}) as site:
        log = tmp_path / 'site.log'
        wanted = {f'worker {number} | site | a line of the site' for number in (1, 2)}
        eventually(
            lambda: ask(site, '/log') and wanted <= set(log.read_text().splitlines())
        )
        assert site.stop()[0] == 0
    text = log.read_text()
    for number in (1, 2):
        assert f'worker {number} | paste_wspbus.worker{number} | Bus STARTED' in text


def test_sigusr1_reopens_the_log_files_of_all(tmp_path):
    files = {**FILES, 'site.ini': INI + LOGGING}
    args = ['--log-file', 'out.log']
    with Workers(tmp_path, *args, files=files, wait=False) as site:
        out, log = tmp_path / 'out.log', tmp_path / 'site.log'
        eventually(lambda: out.exists() and 'Workers in PIDs' in out.read_text())
        out.rename(tmp_path / 'out.log.1')
        log.rename(tmp_path / 'site.log.1')
        site.send(signal.SIGUSR1)
        for pid in [site.pid, *site.pids()]:
            for fd in (1, 2):
                link = f'/proc/{pid}/fd/{fd}'
                eventually(lambda link=link: os.readlink(link) == str(out))
        for pid in site.pids():
            eventually(lambda pid=pid: str(log) in opened_by(pid))
            assert f'{log}.1' not in opened_by(pid)
        assert site.stop()[0] == 0


def opened_by(pid):
    found = []
    for fd in os.listdir(f'/proc/{pid}/fd'):
        with contextlib.suppress(OSError):
            found.append(os.readlink(f'/proc/{pid}/fd/{fd}'))
    return found


# -- systemd --------------------------------------------------------------------------------


@pytest.fixture
def manager(tmp_path):
    manager = Manager(str(tmp_path / 'notify'))
    yield manager
    manager.close()


def test_systemd_is_told_when_the_whole_first_generation_is_ready(tmp_path, manager):
    set_up(tmp_path, at_start=ONE_ONLY % AT_GATE)
    env = {'NOTIFY_SOCKET': manager.address}
    with Workers(tmp_path, env=env, wait=False) as site:
        site.expect('composing')
        site.expect('opened', 2)
        eventually(lambda: site.status()['state'] == 'STARTING')
        assert states(manager.pending()) == []
        open_gate(tmp_path)
        ready = manager.until(READY='1')[-1]
        assert ready['MAINPID'] == str(site.pid)
        assert site.url if site.wait_until_served() else True
        assert site.stop()[0] == 0
    assert states(manager.pending()) == ['STOPPING']


@pytest.mark.parametrize('is_broken', [False, True])
def test_systemd_is_told_of_a_graceful_restart(tmp_path, manager, is_broken):
    with Workers(tmp_path, env={'NOTIFY_SOCKET': manager.address}) as site:
        manager.until(READY='1')
        if is_broken:
            set_up(tmp_path, at_composition="raise RuntimeError('it is broken')")
        assert (site.run('graceful').code != 0) == is_broken
        manager.until(RELOADING='1')
        ready = manager.until(READY='1')
        assert states(ready) == ['READY']
        assert states(manager.pending()) == []
        assert site.stop()[0] == 0
    assert states(manager.pending()) == ['STOPPING']


def test_systemd_is_asked_for_time_while_a_worker_starts(tmp_path, manager):
    set_up(tmp_path, at_composition=AT_GATE)
    env = {'NOTIFY_SOCKET': manager.address}
    with Workers(tmp_path, env=env, wait=False) as site:
        site.expect('composing', 2)
        while 'EXTEND_TIMEOUT_USEC' not in manager.receive():
            pass
        open_gate(tmp_path)
        site.wait_until_served()
        assert site.stop()[0] == 0


# -- idle ------------------------------------------------------------------------------------


def switches(pid):
    """{thread's name: voluntary context switches} of ours: main, and 'supervisor'."""
    found = {}
    for task in Path(f'/proc/{pid}/task').iterdir():
        lines = (task / 'status').read_text().splitlines()
        fields = dict(line.split(':', 1) for line in lines)
        is_main = int(task.name) == pid
        found[task.name, is_main] = int(fields['voluntary_ctxt_switches'])
    return found


def test_who_has_nothing_to_do_sleeps(tmp_path):
    with Workers(tmp_path) as site:
        site.graceful()
        site.pids()  # its answer's time limit runs out, too
        pids = [site.pid, *site.pids()]

        def looks():
            return {pid: switches(pid) for pid in pids}

        def nothing_happens():
            before = looks()
            threading.Event().wait(2)
            after = looks()
            for pid in pids:
                changed = [k for k, v in after[pid].items() if before[pid].get(k) != v]
                # One thread of each worker is the server library's loop.
                if any(is_main for _, is_main in changed):
                    return False
                if len(changed) > (pid != site.pid):
                    return False
            return True

        eventually(nothing_happens)
        assert site.stop()[0] == 0


# -- a server that is not known -----------------------------------------------------------------

UNKNOWN = INI.replace('egg:waitress', 'call:server:make').replace('threads = 4\n', '')
UNKNOWN_FILES = {**FILES, 'server.py': UNKNOWN_SERVER, 'site.ini': UNKNOWN}


def test_a_server_that_binds_by_itself_cannot_have_two_workers(tmp_path):
    site = run(tmp_path, 'site.ini', '--workers', '2', files=UNKNOWN_FILES)
    assert site.code == 2
    (line,) = site.err.text.splitlines()
    assert 'opens its own socket' in line
    assert 'waitress' in line
    assert not (tmp_path / 'life').exists()


def test_a_server_that_binds_by_itself_can_have_one_worker(tmp_path):
    port = free_port()
    ini = UNKNOWN.replace('port = 0', f'port = {port}')
    with Workers(tmp_path, count=1, files={**UNKNOWN_FILES, 'site.ini': ini}) as site:
        eventually(lambda: site.status()['state'] == 'STARTED')
        site.url = f'http://127.0.0.1:{port}'
        assert ask(site)['ppid'] == site.pid
        site.deploy(2)
        site.graceful()
        eventually(lambda: version(site) == '2')

        set_up(tmp_path, at_composition="raise RuntimeError('it is broken')")
        told = site.run('graceful')
        assert told.code == 1
        assert 'it is broken' in told.err.text
        assert ask(site)['version'] == '2'
        (tmp_path / 'at_composition').unlink()
        site.deploy(3)
        site.graceful()
        eventually(lambda: version(site) == '3')
        assert site.stop()[0] == 0, site.report()
        assert site.has_left_nothing()


def version(site):
    """What is served; a server that binds by itself is not there for a moment."""
    with contextlib.suppress(OSError):
        return ask(site)['version']


BY_TEXT = """
def make(global_conf, text):
    if text == 'broken':
        raise RuntimeError('it is broken')

    def app(environ, start_response):
        start_response('200 OK', [('Content-Length', str(len(text)))])
        return [text.encode()]

    return app
"""


def test_a_worker_that_dies_after_a_failed_graceful_has_the_ini_as_it_was(tmp_path):
    ini = '[app:main]\nuse = call:by_text:make\ntext = good\n'
    ini += '[server:main]\nuse = egg:waitress\nhost = 127.0.0.1\nport = 0\n'
    args = ['--workers', '1', '--pid-file', 'site.pid']
    with Site(tmp_path, ini, *args, files={'by_text.py': BY_TEXT}) as site:
        (tmp_path / 'site.ini').write_text(ini.replace('good', 'broken'))
        told = run(tmp_path, 'site.ini', 'graceful', '--pid-file', 'site.pid')
        assert told.code == 1, told.report()
        (old,) = children(site.pid)
        os.kill(old, signal.SIGKILL)
        eventually(lambda: children(site.pid) not in ([old], []))
        assert site.get().text == 'good'
        assert site.stop()[0] == 0
