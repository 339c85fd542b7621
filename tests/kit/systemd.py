"""systemd: its end of the notification socket, its programs, a site for it."""

import contextlib
import os
import shutil
import socket

import pytest

from tests.kit.processes import TIMEOUT


class Manager:
    """systemd: its end of the notification socket, its programs, a site for it."""

    def __init__(self, address):
        self.address = str(address)
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind('\0' + self.address[1:] if address[0] == '@' else address)
        self.received = []

    def close(self):
        self.socket.close()

    def receive(self, timeout=TIMEOUT):
        """Wait for the next datagram; return it as a dict."""
        self.socket.settimeout(timeout)
        lines = self.socket.recv(65536).decode().split('\n')
        self.received.append(dict(line.split('=', 1) for line in lines))
        return self.received[-1]

    def pending(self):
        """Return all datagrams that have come and were not received yet."""
        found = []
        with contextlib.suppress(BlockingIOError):
            while True:
                found.append(self.receive(0))
        return found

    def until(self, **wanted):
        """Wait for a datagram with these assignments; return all datagrams up to it."""
        found = []
        while not found or wanted.items() - found[-1].items():
            found.append(self.receive())
        return found


def states(messages):
    """Return the assignments that change the state of the site for systemd, in order."""
    keys = ('READY', 'RELOADING', 'STOPPING')
    return [key for message in messages for key in keys if key in message]


#: A site, and its plug.py. A request to /slow takes as long as the test wants.
SITE = """
[wspbus:main]
plugins = impatience
stop_timeout = 30
[plugin:impatience]
use = call:plug:impatience
[app:main]
use = call:plug:app
[server:main]
use = egg:waitress
host = 127.0.0.1
port = 0
"""


PLUG = """
import sys

def impatience(bus, global_conf):
    if 'systemd' in bus.plugins:
        bus.plugins['systemd'].extend_every = 0.05
    yield

def app(global_conf):
    def app(environ, start_response):
        if environ['PATH_INFO'] == '/slow':
            sys.stderr.write('in flight\\n')
            sys.stdin.readline()
        start_response('200 OK', [('Content-Length', '2')])
        return [b'ok']
    return app
"""

#: Puts descriptors where systemd does, says whose they are, and executes the rest.
LAUNCH = """
import os, sys
words = sys.argv[1:]
for number, fd in enumerate(map(int, filter(None, words.pop(0).split(',')))):
    os.dup2(fd, 100 + number)
    os.set_inheritable(100 + number, True)
for number in range(8):
    try:
        os.dup2(100 + number, 3 + number)
        os.close(100 + number)
    except OSError:
        break
os.environ['LISTEN_PID'] = str(os.getpid())
for setting in words.pop(0).split(','):
    name, _, value = setting.partition('=')
    os.environ[name] = value
os.execv(sys.executable, [sys.executable, *words])
"""


def tool(name):
    """Return the path of a program that apt installs, or skip the test; CI has the program."""
    path = os.pathsep.join([os.environ.get('PATH', ''), '/usr/sbin', '/sbin'])
    found = shutil.which(name, path=path)
    if found is None and os.environ.get('CI'):
        pytest.fail(f'{name} is not installed')
    return found or pytest.skip(f'{name} is not installed')


@pytest.fixture
def manager(tmp_path, monkeypatch):
    """A `Manager` whose socket is not in the environment of this process."""
    for name in ('NOTIFY_SOCKET', 'WATCHDOG_USEC', 'WATCHDOG_PID'):
        monkeypatch.delenv(name, raising=False)
    manager = Manager(str(tmp_path / 'notify'))
    yield manager
    manager.close()
