"""A user who may start no more processes or threads (RLIMIT_NPROC): one line says so."""

import json
import os
import shutil
import signal
import subprocess
import tempfile
from pathlib import Path

import pytest

from tests.kit import Site, eventually, run, write
from tests.kit.daemons import WEBAPP, ini
from tests.kit.users import python_for_all

#: A user who has no processes but the test's.
LONELY = 54398

AT_MOST = """
import os, resource, sys
number = int(sys.argv[1])
resource.setrlimit(resource.RLIMIT_NPROC, (number, number))
os.execv(sys.executable, [sys.executable, '-m', 'paste_wspbus', *sys.argv[2:]])
"""

LIMIT = """
import resource, sys
pid, number = map(int, sys.argv[1:])
resource.prlimit(pid, resource.RLIMIT_NPROC, (number, number))
"""

NO_PROCESSES = (
    'the system starts no more processes: raise the limit (ulimit -u, or TasksMax= of '
    'systemd)\n'
)
NO_THREADS = 'the system starts no more threads: set a smaller number'


class Lonely:
    """A folder with a site of a user who has no other processes."""

    def __init__(self, folder):
        self.folder = folder
        self.python, path = python_for_all()
        runtime = {'XDG_RUNTIME_DIR': str(folder), 'RUNTIME_DIRECTORY': ''}
        user = {'user': LONELY, 'group': LONELY, 'extra_groups': []}
        self.user = {'env': {'PYTHONPATH': path, **runtime}, **user}

    def run(self, number, *args):
        command = [self.python, '-c', AT_MOST, str(number)]
        return run(self.folder, *args, command=command, **self.user)

    def limit(self, pid, number):
        """Only its own user may say so."""
        args = [self.python, '-c', LIMIT, str(pid), str(number)]
        subprocess.run(args, user=LONELY, group=LONELY, extra_groups=[], check=True)


@pytest.fixture
def lonely():
    assert os.geteuid() == 0, 'these tests change users: run them as root'
    folder = Path(tempfile.mkdtemp(prefix='wspbus-'))
    folder.chmod(0o700)
    os.chown(folder, LONELY, LONELY)
    write(folder, {'site.ini': ini(), 'webapp.py': WEBAPP})
    yield Lonely(folder)
    shutil.rmtree(folder)


@pytest.mark.parametrize(
    ('number', 'args'),
    [
        (1, ['site.ini', 'start']),
        (2, ['site.ini', 'start']),  # the daemon is forked by a child
        (1, ['--check', '--compose', 'site.ini']),
    ],
)
def test_a_command_that_may_start_no_process_says_so_in_a_line(lonely, number, args):
    told = lonely.run(number, *args)
    assert told.code == 1, told.report()
    assert told.err.text == NO_PROCESSES
    assert not list(lonely.folder.glob('paster.pid*'))


def test_a_site_that_may_start_no_thread_refuses_to_restart_and_serves(lonely):
    command = [lonely.python, '-m', 'paste_wspbus']
    words = {'command': command, **lonely.user}
    with Site(lonely.folder, None, 'site.ini', **words) as site:
        lonely.limit(site.process.pid, 1)
        told = run(lonely.folder, 'site.ini', 'graceful', **words)
        assert told.code == 1, told.report()
        assert f'refuses: {NO_THREADS}' in told.err.text
        site.send(signal.SIGHUP)
        eventually(lambda: NO_THREADS in site.err.text)
        told = run(lonely.folder, 'site.ini', 'status', '--json', **words)
        assert json.loads(told.out.text)['state'] == 'STARTED'
        assert site.stop()[0] == 0
    assert 'Traceback' not in site.err.text
