"""A site that `start` runs as a daemon, and the terminal from which it was started."""

import contextlib
import errno
import fcntl
import os
import pty
import re
import select
import signal
import subprocess
import termios
import threading
import time
from pathlib import Path

import pytest

from tests.kit.clients import Busy, Connection
from tests.kit.processes import TIMEOUT, eventually
from tests.kit.sites import Site, run, write

WEBAPP = """
import os
import subprocess
import sys
import time


def say(text):
    os.write(2, (text + '\\n').encode())


def pass_gate():
    # It opens when the other end is closed.
    with open('gate') as gate:
        gate.read()


def make(global_conf, text='hello', **conf):
    def app(environ, start_response):
        path = environ['PATH_INFO']
        if path.startswith('/Gate'):
            pass_gate()
        if path == '/fork':
            fork()
        start_response('200 OK', [('Content-Type', 'text/plain')])
        return [f'{text} {os.getpid()}'.encode()]
    return app


def make_broken(global_conf):
    raise ValueError('out of order')


def make_at_gate(global_conf):
    pass_gate()
    return make(global_conf)


def make_with_child(global_conf):
    fork()
    return make(global_conf)


def fork():
    # A child that does not execute another program, as multiprocessing's.
    if not os.fork():
        say(f'child {os.getpid()}')
        while True:
            time.sleep(100)


def broken_start(bus, global_conf):
    raise LookupError('no database')
    yield


def broken_stop(bus, global_conf):
    yield
    raise LookupError('no goodbye')


def gate_at_start(bus, global_conf):
    pass_gate()
    yield


def gate_at_stop(bus, global_conf):
    yield
    pass_gate()


def endless_stop(bus, global_conf):
    yield
    time.sleep(1000)
"""


def ini(app='make', port=0, text='hello', plugin=None, **settings):
    """Return the text of a site.ini; ``settings`` are keys of [wspbus:main]."""
    lines = [
        '[app:main]',
        f'use = call:webapp:{app}',
        f'text = {text}' if app == 'make' else '',
        '[server:main]',
        'use = egg:waitress',
        'host = 127.0.0.1',
        f'port = {port}',
        'threads = 4',
        '[wspbus:main]',
        *(f'{key} = {value}' for key, value in settings.items()),
    ]
    if plugin:
        lines += [f'plugins = {plugin}', f'[plugin:{plugin}]']
        lines += [f'use = call:webapp:{plugin}']
    return '\n'.join([*lines, ''])


class Gate:
    """The FIFO with the name gate, where a site waits until the test opens it."""

    def __init__(self, folder):
        self.path = Path(folder, 'gate')
        os.mkfifo(self.path)
        self._fd = -1

    def wait(self):
        """Wait until the site waits at the gate."""
        eventually(self._is_reached)

    def _is_reached(self):
        try:
            self._fd = os.open(self.path, os.O_WRONLY | os.O_NONBLOCK)
        except OSError as error:
            assert error.errno == errno.ENXIO
            return False
        return True

    def open(self):
        """Let the site continue."""
        fd, self._fd = self._fd, -1
        if fd != -1:
            os.close(fd)

    def open_for_all(self):
        """Let the site continue, and each process that comes later."""
        self.wait()
        self.path.unlink()
        self.path.touch()
        self.open()


class Ground:
    """A folder with a site; all its daemons end with the test."""

    def __init__(self, folder, text=None):
        self.folder = Path(folder)
        write(folder, {'webapp.py': WEBAPP, 'site.ini': text or ini()})
        self.pid_file = self.folder / 'paster.pid'
        self.lock_file = self.folder / 'paster.pid.lock'
        self.log_file = self.folder / 'paster.log'
        self.control = self.folder / 'paster.pid.sock'
        self.gate = Gate(folder)

    def change(self, **kwargs):
        """Write another site.ini."""
        write(self.folder, {'site.ini': ini(**kwargs)})

    def run(self, *args, **kwargs):
        """Run wspserve to its end."""
        process = run(self.folder, *args, **kwargs)
        assert process.out.ended and process.err.ended, 'something holds its pipes'
        return process

    def start(self, *args, **kwargs):
        """Start the site; return the process of the command."""
        process = self.run('site.ini', 'start', *args, **kwargs)
        assert process.code == 0, self.report(process)
        self.find_url(process)
        return process

    def find_url(self, process):
        (self.url,) = re.findall(r'^Serving on (\S+)$', process.out.text, re.M)

    def stop(self):
        process = self.run('site.ini', 'stop')
        assert process.code == 0, self.report(process)
        return process

    def status(self, *args, **kwargs):
        """What the subcommand says: (its exit code, its text)."""
        process = self.run('site.ini', 'status', *args, **kwargs)
        assert process.err.text == '', process.report()
        return process.code, process.out.text

    def begin(self, *args, **kwargs):
        """Return a command that runs while the test continues; for a ``with`` block."""
        return Site(self.folder, None, *args, wait=False, **kwargs)

    @property
    def pid(self):
        return int(self.pid_file.read_text())

    @property
    def port(self):
        return int(self.url.rpartition(':')[2])

    def connect(self, **kwargs):
        return Connection(('127.0.0.1', self.port), **kwargs)

    def get(self, path='/'):
        """Return the text of a page: the application's text and its process ID."""
        with self.connect() as connection:
            return connection.get(path, connection='close').text

    @contextlib.contextmanager
    def request_at_gate(self, path='/Gate'):
        """Keep a request in flight; yield the connection on which its response comes."""
        with self.connect() as connection:
            connection.send(path, connection='close')
            self.gate.wait()
            try:
                yield connection
            finally:
                self.gate.open()

    @property
    def log(self):
        return self.log_file.read_text()

    def processes(self):
        """Return the IDs of all processes whose working folder is this folder."""
        found = []
        for name in os.listdir('/proc'):
            if name.isdigit():
                with contextlib.suppress(OSError):  # it has ended, or is a zombie
                    if Path(os.readlink(f'/proc/{name}/cwd')) == self.folder:
                        found.append(int(name))
        return found

    def has_left_nothing(self):
        """Check that there is no process, no PID file and no control socket."""
        assert self.processes() == []
        left = sorted(path.name for path in self.folder.iterdir())
        assert [name for name in left if '.pid' in name] == []
        return True

    def report(self, process):
        log = self.log if self.log_file.exists() else 'none'
        return f'{process.report()}\nlog:\n{log}'

    def close(self):
        self.gate.open()
        until = time.monotonic() + TIMEOUT
        while left := self.processes():
            assert time.monotonic() < until, f'{left} do not die'
            for pid in left:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            threading.Event().wait(0.01)


@pytest.fixture
def ground(tmp_path):
    ground = Ground(tmp_path)
    yield ground
    ground.close()


class Terminal:
    """A terminal (a pseudo-terminal) whose text the test reads."""

    def __init__(self):
        self._ours, self.theirs = pty.openpty()
        self.text = b''

    def read_until(self, text):
        """Read until ``text`` came; return False if the last process closes the terminal."""
        while text not in self.text:
            assert select.select([self._ours], [], [], TIMEOUT)[0], self.text
            try:
                self.text += os.read(self._ours, 4096)
            except OSError:  # EIO
                return False
        return True

    def start(self, words, folder, **environ):
        """Start a command that has this terminal, also for Ctrl-C; return a Popen."""
        process = subprocess.Popen(
            [str(word) for word in words],
            cwd=folder,
            env={**os.environ, 'PYTHONWARNINGS': '', **environ},
            stdin=self.theirs,
            stdout=self.theirs,
            stderr=self.theirs,
            start_new_session=True,
            preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
        )
        self.hand_over()
        return process

    def press_ctrl_c(self):
        """Type Ctrl-C: the terminal sends SIGINT to its foreground processes."""
        os.write(self._ours, b'\x03')

    @property
    def lines(self):
        """The lines that came, without what the terminal echoes of Ctrl-C."""
        return self.text.decode().replace('\r\n', '\n').replace('^C', '').splitlines()

    def hand_over(self):
        """Close the test's own end: from now on, only the started processes have it."""
        theirs, self.theirs = self.theirs, -1
        os.close(theirs)

    def close(self):
        os.close(self._ours)
        if self.theirs != -1:
            os.close(self.theirs)


class Clients(Busy):
    """Clients that ask for a page, each time on a new connection."""

    def __init__(self, ground, count=4):
        super().__init__(count)
        self.texts, self.errors, self._ground = [], [], ground

    def do(self):
        try:
            self.texts.append(self._ground.get())
        except Exception as error:
            self.errors.append(error)

    def have_seen(self, text):
        eventually(lambda: text in self.texts or self.errors)
        return not self.errors


class LockWatch(Busy):
    """Looks without a pause whether somebody could take the lock of the PID file."""

    def __init__(self, ground):
        super().__init__()
        self.was_free, self.looks, self._path = [], 0, ground.lock_file

    def do(self):
        try:
            with open(self._path) as file:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
                self.was_free.append('free')
        except BlockingIOError:
            self.looks += 1
        except FileNotFoundError as error:
            self.was_free.append(error)


#: Sites that do not start: {what fails: (`Ground.change` makes it, exit code, words)}.
FAILURES = {
    'application': ({'app': 'make_broken'}, 1, 'out of order'),
    'component': ({'plugin': 'broken_start'}, 1, 'no database'),
}
