"""Sites of one process that a supervisor keeps alive: --monitor-restart."""

import os

import pytest

from tests.kit import Site
from tests.kit import supervised as supervised_site
from tests.kit.sites import APP, SERVED
from tests.kit.supervised import impatient_command

PARTS = """
import subprocess
import sys
import time

note('imported')


def double_fork(environ):
    '''The number of a process without a parent, which has ended or is about to.'''
    reader, writer = os.pipe()
    child = os.fork()
    if not child:
        orphan = os.fork()
        if orphan:
            os.write(writer, str(orphan).encode())
        os._exit(0)
    os.waitpid(child, 0)
    os.close(writer)
    with open(reader) as file:
        return {'orphan': int(file.read())}


def log_and_say(environ):
    log(environ)
    say('a line on standard error')


PAGES.update({
    '/log': log_and_say,
    '/double_fork': double_fork,
    '/is_there': lambda environ: {
        'is_there': os.path.exists(f"/proc/{environ['QUERY_STRING']}"),
    },
    '/subprocess': lambda environ: {
        'code': subprocess.run([sys.executable, '-c', 'raise SystemExit(4)']).returncode,
        'sigchld': signal.getsignal(signal.SIGCHLD) is signal.SIG_DFL,
    },
})


def make(global_conf):
    try:
        if os.path.exists('gate'):
            say('composing')
            with open('gate') as gate:
                gate.read()
            say('composed')
        if os.path.exists('broken'):
            with open('broken') as file:
                exec(file.read())
    except BaseException:
        say('composition given up')
        time.sleep(0.1)
        say('cleaned up')
        raise
    return app


def lifespan(bus, global_conf):
    bus.subscribe('resized', lambda: say(f'resized {os.getpid()}'))
    bus.subscribe('drain', lambda: say('draining'))
    bus.subscribe('stop', lambda: say('stopping'), priority=0)
    say('opened')
    yield
    say('closed')


def failing(bus, global_conf):
    raise RuntimeError('it does not start')
    yield


def failing_at_its_end(bus, global_conf):
    yield
    raise RuntimeError('it does not stop')
"""

INI = (
    SERVED
    + """threads = 4

[wspbus:main]
soak = 0
plugins = resource
signal.SIGWINCH = resized

[plugin:resource]
use = call:webapp:lifespan
"""
)
#: What a life without incidents says.
LIFE = 'opened\ndraining\nstopping\nclosed\n'

FILES = {'webapp.py': APP + PARTS, 'site.ini': INI}
UNIX = INI.replace('host = 127.0.0.1\nport = 0', 'unix_socket = site.sock')
each_socket = pytest.mark.parametrize('ini', [INI, UNIX], ids=['tcp', 'unix'])


def supervised(folder, *args, files=FILES, **kwargs):
    """A site in the foreground that is kept alive."""
    args = ['site.ini', '--monitor-restart', '--pid-file', 'site.pid', *args]
    return Site(folder, None, *args, files=files, **kwargs)


def impatient(folder, *args, backoff=(0, 0.1), healthy=60, **kwargs):
    """The same, which does not wait so long."""
    return supervised(
        folder, *args, command=impatient_command(folder, backoff, healthy), **kwargs
    )


def close_gate(folder):
    """From now on, a composition waits until `open_gate`."""
    os.mkfifo(folder / 'gate')


def open_gate(folder):
    with open(folder / 'gate', 'w'):
        pass
    (folder / 'gate').unlink()


def messages(text):
    """The lines but for those of a composition that is given up."""
    return [
        line
        for line in text.splitlines()
        if line not in ('composition given up', 'cleaned up')
    ]


class Daemon(supervised_site.Daemon):
    """A site in the background that is kept alive."""

    def __init__(self, folder, *args, files=FILES, **kwargs):
        super().__init__(folder, '--monitor-restart', *args, files=files, **kwargs)


#: What fails: `broken`, a plugin, the exit code, what is said of it.
FIRST_STARTS = {
    'composition': ("raise RuntimeError('it is broken')", '', 1, 'it is broken'),
    'listener': ('', '[plugin:resource]\nuse = call:webapp:failing', 1, 'not start'),
    'usage': (
        "from paste_wspbus.errors import UsageError; raise UsageError('it is wrong')",
        '',
        2,
        'it is wrong',
    ),
    'exit': ('os._exit(9)', '', 9, ''),
    'crash': ('os.kill(os.getpid(), signal.SIGKILL)', '', 137, ''),
}


def first_start(folder, case):
    """A site that fails: (its files, the exit code, what it says)."""
    broken, plugin, code, line = FIRST_STARTS[case]
    (folder / 'broken').write_text(broken)
    ini = INI.partition('[plugin:resource]')[0] + plugin if plugin else INI
    return {**FILES, 'site.ini': ini}, code, line
