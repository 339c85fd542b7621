"""CherryPy's plugins and servers on our bus: child processes that use them, and requests."""

import contextlib
import errno
import http.client
import importlib
import os
import queue
import socket
import subprocess
import sys
import textwrap
import threading
import warnings

import pytest

from tests.kit.places import ROOT
from tests.kit.processes import TIMEOUT

with warnings.catch_warnings():
    warnings.simplefilter('ignore')  # of CherryPy's and its dependencies' imports
    cherrypy = importlib.import_module('cherrypy')
    plugins = importlib.import_module('cherrypy.process.plugins')
    servers = importlib.import_module('cherrypy.process.servers')
    wspbus = importlib.import_module('cherrypy.process.wspbus')
    cheroot_wsgi = importlib.import_module('cheroot.wsgi')

posix = pytest.mark.skipif(os.name != 'posix', reason='signals and forks of POSIX')

#: What child processes import or run.
SCRIPTS = ROOT / 'tests' / 'plugins' / 'cherrypy' / 'scripts'


class Lines:
    """The lines that come out of a pipe, and its end, each waited for with patience."""

    def __init__(self, pipe):
        self.said = []  # what was listened to
        self.all = []  # what came
        self.over = threading.Event()
        self._pipe = pipe
        self._coming = queue.SimpleQueue()
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self):
        with self._pipe:
            for line in self._pipe:
                self.all.append(line.decode(errors='replace').rstrip('\n'))
                self._coming.put(self.all[-1])
        self.over.set()
        self._coming.put(None)

    def _next(self, wanted):
        try:
            line = self._coming.get(timeout=TIMEOUT)
        except queue.Empty:
            pytest.fail(f'waited for {wanted!r}, heard only {self.said}')
        if line is not None:
            self.said.append(line)
        return line

    def hear(self, wanted):
        """What follows ``wanted`` in the next line that begins with it."""
        while (line := self._next(wanted)) is not None:
            if line.startswith(wanted):
                return line[len(wanted) :].strip()
        pytest.fail(f'it ended before {wanted!r}: {self.said}')

    def rest(self):
        """Everything said, once nobody can say more."""
        while self._next('the end') is not None:
            pass
        return self.said


def environment(**more):
    """Of a child process: without what was set for this process alone."""
    alone = {'PYTHONWARNINGS', 'PYTEST_ADDOPTS', 'LISTEN_PID', 'SITE_PORT', 'REPORT_FD'}
    return {
        **{name: value for name, value in os.environ.items() if name not in alone},
        'PYTHONPATH': os.pathsep.join([str(ROOT), str(SCRIPTS)]),
        'PYTHONDONTWRITEBYTECODE': '1',
        **more,
    }


class Child(Lines):
    """A process of ours and what it says on stdout and stderr."""

    def __init__(self, argv, cwd, env, pass_fds):
        self.process = subprocess.Popen(
            [sys.executable, *map(str, argv)],
            cwd=cwd,
            env=environment(**env),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            pass_fds=pass_fds,
        )
        self.pid = self.process.pid
        super().__init__(self.process.stdout)

    def send(self, signum):
        self.process.send_signal(signum)

    def ends(self):
        """Its exit code."""
        try:
            return self.process.wait(TIMEOUT)
        except subprocess.TimeoutExpired:
            pytest.fail(f'it does not end: {self.said}')

    def kill(self):
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait(TIMEOUT)
        self.over.wait(TIMEOUT)


def program(source):
    return textwrap.dedent("""\
            import os, signal, sys, threading
            from riding import say, say_when_blocking, talking_bus
            from cherrypy.process import plugins, servers
            bus = talking_bus()
        """) + textwrap.dedent(source)


def get(port, path='/'):
    """Status and body of one request on a connection of its own."""
    connection = http.client.HTTPConnection('127.0.0.1', port, timeout=TIMEOUT)
    with contextlib.closing(connection):
        connection.request('GET', path)
        with connection.getresponse() as response:
            return response.status, response.read().decode()


def nobody_listens(port):
    """Whether a client is refused. Somebody else could not bind it at once.

    cheroot binds a port that the system chose without SO_REUSEADDR: the connections that
    it closed hold it for a minute.
    """
    with socket.socket() as client:
        client.settimeout(TIMEOUT)
        return client.connect_ex(('127.0.0.1', port)) == errno.ECONNREFUSED
