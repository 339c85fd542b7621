"""Sites that several workers serve: what each says of itself, and gates at which it waits."""

import fcntl
import os
import re
import signal
from pathlib import Path

import pytest

from paste_wspbus.control.client import ask as ask_control
from tests.kit import TIMEOUT, Site, run
from tests.kit.processes import freeze, lines_beside_progress
from tests.kit.sites import APP, ask
from tests.kit.supervised import impatient_command
from tests.kit.users import python_for_all

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
soak = 0
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
        return self.control('status')

    def control(self, command):
        """The answer of its control socket."""
        return ask_control(str(self.folder / 'site.pid.sock'), command, TIMEOUT)

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
        assert not lines_beside_progress(told), told.report()
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


def unlock_gates():
    """At the end of a test: whatever it has left shut."""
    while _gates:
        os.close(_gates.popitem()[1])


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


def clients_of(site):
    """How many connections to its control socket there are."""
    path = str(site.folder / 'site.pid.sock')
    lines = Path('/proc/net/unix').read_text().splitlines()
    return sum(line.endswith(f' {path}') and ' 03 ' in line for line in lines)


def impatient(folder, *args, backoff=(0, 0.1), healthy=60, **kwargs):
    """Workers whose supervisor has another idea of how long to wait."""
    command = impatient_command(folder, backoff, healthy)
    return Workers(folder, *args, command=command, **kwargs)
