"""A site in a child process: its files, its command, its requests."""

import json
import re
import signal
import sys
import textwrap
from pathlib import Path

from tests.kit.clients import Connection
from tests.kit.processes import BIN, Process

#: The text of the small web application.
APP = Path(__file__).with_name('app.py').read_text()

#: The .ini of a webapp.py, without settings.
SERVED = """
[app:main]
use = call:webapp:make

[server:main]
use = egg:waitress
host = 127.0.0.1
port = 0
"""

COMMANDS = {
    'wspserve': [str(BIN / 'wspserve')],
    'paster': [str(BIN / 'paster'), 'wspserve'],
    'module': [sys.executable, '-m', 'paste_wspbus'],
}


def write(folder, files):
    """Write {name: text} into ``folder``; the texts may be indented."""
    for name, text in files.items():
        path = Path(folder, name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(textwrap.dedent(text).lstrip('\n'))


class Site(Process):
    """``with Site(tmp_path, ini) as site:`` serves an .ini until the block ends.

    ``files`` has the files beside the .ini. ``command`` is a key of COMMANDS, or the words
    of a command. ``args`` are the arguments after ``site.ini``, or all arguments if
    ``ini`` is None. With ``wait=False``, this does not wait until the site serves.
    """

    def __init__(
        self, folder, ini, *args, files=None, command='wspserve', wait=True, **kwargs
    ):
        self.folder = Path(folder)
        write(folder, {**(files or {}), **({'site.ini': ini} if ini else {})})
        words = COMMANDS.get(command) if isinstance(command, str) else command
        first = ['site.ini'] if ini else []
        super().__init__([*words, *first, *args], **{'cwd': folder, **kwargs})
        self._wait = wait

    def __enter__(self):
        super().__enter__()
        try:
            if self._wait:
                self.wait_until_served()
        except BaseException:
            self.__exit__()
            raise
        return self

    def wait_until_served(self, count=1):
        """Wait for the line that shows the URL; ``count`` says which of these lines."""
        assert self.out.wait_for('Serving on ', count), self.report()
        found = re.findall(r'^Serving on (\S+)$', self.out.text, re.M)
        self.url = found[-1]
        self.urls = found

    @property
    def port(self):
        return int(self.url.rpartition(':')[2])

    @property
    def address(self):
        """The address for a socket: (host, port), or a path."""
        if self.url.startswith('unix:'):
            return str(self.folder / self.url.removeprefix('unix:'))
        return self.url.partition('//')[2].rpartition(':')[0].strip('[]'), self.port

    def connect(self, **kwargs):
        return Connection(self.address, **kwargs)

    def get(self, path='/', **headers):
        """Send one request on a new connection; return the response."""
        with self.connect() as connection:
            return connection.get(path, connection='close', **headers)

    def stop(self, signum=signal.SIGTERM):
        """Send a signal and wait; return the exit code, standard output and standard error."""
        self.send(signum)
        return self.wait(), self.out.text, self.err.text


def run(folder, *args, files=None, command='wspserve', **kwargs):
    """Run a command to its end; return a Process, whose ``code`` is the exit code."""
    with Site(
        folder, None, *args, files=files, command=command, wait=False, **kwargs
    ) as process:
        process.code = process.wait()
    return process


def ask(site, path='/'):
    """Return the data that a page of the application shows."""
    response = site.get(path)
    assert response.status == 200, site.report()
    return json.loads(response.body)
