"""A site with a supervisor, and a daemon."""

import contextlib
import os
import re
import signal
import sys
import time

import pytest

from paste_wspbus.plugins.signals import WINDOW
from tests.kit.clients import Connection, is_free
from tests.kit.processes import eventually, processes_of_session
from tests.kit.sites import run

UNKNOWN_SERVER = """
import os
import socket
from wsgiref.util import setup_testing_defaults


def make(global_conf, host, port, interrupts=1):
    def serve(app):
        with socket.create_server((host, int(port))) as listening:
            port_it_got = listening.getsockname()[1]
            print(f'Serving on http://{host}:{port_it_got}', flush=True)
            for count in range(int(interrupts)):
                try:
                    while True:
                        answer(listening, app)
                except KeyboardInterrupt:
                    os.write(2, b'interrupted\\n')
    return serve


def answer(listening, app):
    client, _ = listening.accept()
    with client, client.makefile('rb') as lines:
        environ = {'PATH_INFO': lines.readline().split()[1].decode()}
        setup_testing_defaults(environ)
        while lines.readline().strip():
            pass
        body = b''.join(app(environ, lambda status, headers, exc_info=None: None))
        head = f'HTTP/1.0 200 OK\\r\\nContent-Length: {len(body)}\\r\\n\\r\\n'
        client.sendall(head.encode() + body)
"""


LOGGING = """
[loggers]
keys = root

[handlers]
keys = file

[formatters]
keys =

[logger_root]
level = INFO
handlers = file

[handler_file]
class = FileHandler
args = ('site.log',)
"""


class Daemon:
    """A site in the background, which always ends with its ``with`` block."""

    def __init__(self, folder, *args, files, pid_file='paster.pid', verb='start'):
        self.folder, args = folder, ['--pid-file', pid_file, *args]
        self.started = run(folder, 'site.ini', verb, *args, files=files)
        assert self.started.code == 0, self.started.report()
        self.pid = int((folder / pid_file).read_text())
        self.session = os.getsid(self.pid)
        self.url = self.started.out.text.split('Serving on ')[1].split()[0]

    @property
    def address(self):
        host, _, port = self.url.removeprefix('http://').rpartition(':')
        return host, int(port)

    @property
    def port(self):
        return self.address[1]

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for pid in processes_of_session(self.session):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def get(self, path='/'):
        with Connection(self.address) as connection:
            return connection.get(path, connection='close')

    @property
    def log(self):
        return (self.folder / 'paster.log').read_text()

    def report(self):
        return self.log

    def send(self, signum):
        os.kill(self.pid, signum)

    def wait_until_gone(self):
        eventually(lambda: not processes_of_session(self.session))


def crash(site, page='/kill'):
    """Send a request that ends its process, so that no response comes."""
    with pytest.raises(ConnectionError):
        site.get(page)


#: The command, with other waits before the restart of a process that crashed.
IMPATIENT = """
import sys

from paste_wspbus.command.main import main
from paste_wspbus.workers import backoff

backoff.WAITS = %s
backoff.HEALTHY = %s
sys.exit(main())
"""


def impatient_command(folder, backoff=(0, 0.1), healthy=60):
    """Return the words of a command whose supervisor waits less before a restart."""
    (folder / 'impatient.py').write_text(IMPATIENT % (backoff, healthy))
    return [sys.executable, 'impatient.py']


def graceful(site, code=0):
    """Restart a site with site.pid gracefully; return what the command prints."""
    told = run(site.folder, 'site.ini', 'graceful', '--pid-file', 'site.pid')
    assert told.code == code, told.report() + site.report()
    return told.out.text + told.err.text


def stop(site, code=0):
    """Stop a site, and check that it leaves nothing."""
    assert site.stop()[0] == code, site.report()
    assert has_cleaned_up(site, zombies=True), site.report()


def has_cleaned_up(site, zombies=False):
    """Whether there is no process, PID file or socket, and the port is free.

    With ``zombies``, zombies do not count: if their parent was killed, process 1 may reap
    them late.
    """
    left = {'site.pid', 'site.pid.sock', 'site.sock'} & set(os.listdir(site.folder))
    free = isinstance(site.address, str) or is_free(site.port)
    gone = not processes_of_session(site.pid) if zombies else site.has_left_nothing()
    return gone and not left and free


def workers(site):
    """Return the process IDs of the workers, from the last line that the command printed."""
    last = re.findall('PIDs (.*)[.]$', site.out.text, re.M)[-1]
    return [int(pid) for pid in last.split(', ')]


def notes(folder, what):
    """Return the notes of the site, in order: ('imported', its process), …; only ``what``."""
    path = folder / 'life'
    lines = path.read_text().splitlines() if path.exists() else []
    found = [(did, int(pid)) for did, pid in map(str.split, lines)]
    return [(did, pid) for did, pid in found if did in what]


def story(folder, *what):
    """Return the kinds of the notes, in order."""
    return [did for did, _ in notes(folder, what)]


def life(folder, *what):
    """Return the processes of the notes, in order."""
    return [pid for _, pid in notes(folder, what)]


def imported(folder):
    """Return the processes that have imported the site's module."""
    return life(folder, 'imported')


def wait_for(folder, what, count):
    """Wait until there are ``count`` notes of a kind; return the process of the last one."""
    eventually(lambda: len(life(folder, what)) >= count)
    return life(folder, what)[-1]


def press_ctrl_c(site):
    os.killpg(site.pid, signal.SIGINT)


def press_ctrl_c_again(site):
    time.sleep(2 * WINDOW)  # within WINDOW, another signal would not count
    press_ctrl_c(site)


def said(text):
    """Return the output of a site without the line that says why it stops.

    And without waitress's warning that its threads start slowly.
    """
    others = re.compile(r'\[waitress\.queue\]|^INFO  \[paste_wspbus\] Stopping: ')
    lines = text.splitlines(keepends=True)
    return ''.join(line for line in lines if not others.search(line))
