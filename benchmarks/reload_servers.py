"""A site that is edited, the servers that reload it, and a client that waits for the edit."""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import socket
import sys
import tempfile
import time
from collections.abc import Callable, Iterator

import restart_servers
import rounds

#: The ways in which a poll fails. 'old again' is an answer of the old code after the new
#: code has answered.
FAILURES = ('refused', 'reset', 'timeout', 'truncated', '5xx', 'old again')

#: Seconds that a poll takes at most.
TIMEOUT = 10.0

#: Seconds between two polls: without a pause, the client alone keeps a processor busy.
PAUSE = 0.001

#: Seconds for which the client continues to poll after the new code has answered.
AFTERWARDS = 0.25

#: Seconds between two edits of the same site. In this time, each server can prepare for
#: the next edit. It is also more than one second, because Python compares bytecode with
#: its source only by whole seconds.
BETWEEN = 1.5

SMALL = """
def app(environ, start_response):
    body = b'version $version\\n'
    headers = [('Content-Type', 'text/plain'), ('Content-Length', str(len(body)))]
    start_response('200 OK', headers)
    return [body]


def make_app(global_conf):
    return app
"""

#: A typical site: most of its load is the import of modules.
HEAVY = """
import django.contrib.auth.hashers
import django.core.handlers.wsgi
import django.db.models
import django.forms
import jinja2
import pyramid.config
import pyramid.response
import sqlalchemy.orm

engine = sqlalchemy.create_engine('sqlite://')
template = jinja2.Template('version {{ version }}\\n', keep_trailing_newline=True)


def page(request):
    text = template.render(version=$version)
    return pyramid.response.Response(text, content_type='text/plain')


with pyramid.config.Configurator() as config:
    config.add_route('page', '/')
    config.add_view(page, route_name='page')
    app = config.make_wsgi_app()


def make_app(global_conf):
    return app
"""

SITES = {'small': SMALL, 'heavy': HEAVY}

INI = """
[app:main]
use = call:edited:make_app

[server:main]
use = egg:waitress
host = 127.0.0.1
port = {port}
threads = 4
"""

#: uvicorn takes ASGI.
ASGI = """
import a2wsgi
import edited

app = a2wsgi.WSGIMiddleware(edited.app)
"""

WERKZEUG = """
import edited
import werkzeug

# 'stat': as it is without watchdog.
werkzeug.run_simple(
    '127.0.0.1',
    {port},
    edited.app,
    use_reloader=True,
    reloader_type='stat',
    threaded=True,
)
"""

_REQUEST = b'GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n'


class EditedSite(restart_servers.Site):
    """A site in its own folder, and its module."""

    def __init__(self, folder: str, text: str) -> None:
        super().__init__(folder, workers=0)
        self.text, self.version = text, 0
        self.ini = self.folder / 'site.ini'
        self.ini.write_text(INI.format(port=self.port))
        (self.folder / 'asgi.py').write_text(ASGI)
        (self.folder / 'serve.py').write_text(WERKZEUG.format(port=self.port))
        self.edit()

    def edit(self, how: str | None = None) -> None:
        """Save the next version.

        :param how: 'in place' or 'rename'; None is one time this, the next time that.
        """
        self.version += 1
        if how is None:
            how = 'rename' if self.version % 2 else 'in place'
        module = self.folder / 'edited.py'
        text = self.text.replace('$version', str(self.version))
        # Python also compares bytecode with its source by size.
        text += f'#{"." * (self.version % 97)}\n'
        if how == 'rename':
            new = self.folder / '.edited.py.tmp'
            new.write_text(text)
            new.replace(module)
        else:
            module.write_text(text)


# -- servers ----------------------------------------------------------------------------


@dataclasses.dataclass
class Reloader:
    """A server that reloads: its name, the modules that it needs, and its command.

    ``environment`` has more variables for its environment.
    """

    name: str
    needs: list[str]
    command: Callable[[EditedSite], list[str]]
    environment: dict[str, str] = dataclasses.field(default_factory=dict)

    @contextlib.contextmanager
    def serves(self, text: str) -> Iterator[restart_servers.Running]:
        """Serve a site with this module until the block ends."""
        for module in self.needs:
            if not rounds.has(module):
                raise rounds.Unavailable(f'it takes {module}')
        with tempfile.TemporaryDirectory() as folder:
            site = EditedSite(folder, text)
            command = ['env', *map('='.join, self.environment.items())]
            command = [*(command if self.environment else []), *self.command(site)]
            with restart_servers.serving(command, site) as running:
                yield running


def wspserve(site: EditedSite, *options: str) -> list[str]:
    """Return the command of wspserve."""
    return [rounds.command('wspserve'), *options, str(site.ini)]


def ours(name: str, *options: str) -> Reloader:
    """Return a `Reloader` for wspserve with these options."""
    return Reloader(name, [], lambda site: wspserve(site, *options))


def _paster(site: EditedSite) -> list[str]:
    return [rounds.command('paster'), 'serve', '--reload', str(site.ini)]


def _pserve(site: EditedSite) -> list[str]:
    return [rounds.command('pserve'), '--reload', str(site.ini)]


def _hupper(monitor: str) -> dict[str, str]:
    return {'HUPPER_DEFAULT_MONITOR': f'hupper.{monitor}FileMonitor'}


def _gunicorn(engine: str) -> Callable[[EditedSite], list[str]]:
    return lambda site: [
        *(rounds.command('gunicorn'), '--no-control-socket'),
        *(f'--paste={site.ini}', f'--bind=127.0.0.1:{site.port}'),
        *('--reload', f'--reload-engine={engine}'),
    ]


def _werkzeug(site: EditedSite) -> list[str]:
    return [sys.executable, str(site.folder / 'serve.py')]


def _uvicorn(site: EditedSite) -> list[str]:
    port = f'--port={site.port}'
    return [rounds.command('uvicorn'), '--reload', port, 'asgi:app']


def _granian(site: EditedSite) -> list[str]:
    return [
        *(rounds.command('granian'), '--interface=wsgi', f'--port={site.port}'),
        # Its log is in the folder that it watches.
        *('--reload', '--reload-ignore-patterns=log$', 'edited:app'),
    ]


FORK, CHILD, EXECV = 'wspserve', 'wspserve, child', 'wspserve, execv'
PSERVE = 'pserve'

RELOADERS = [
    ours(FORK, '--reload'),
    ours(CHILD, '--reload', '--reloader=child'),
    ours(EXECV, '--reload', '--reloader=execv'),
    Reloader('paster serve', ['paste.script'], _paster),
    Reloader(PSERVE, ['pyramid'], _pserve, _hupper('polling.Polling')),
    Reloader(
        'pserve, watchdog',
        ['pyramid', 'watchdog'],
        _pserve,
        _hupper('watchdog.Watchdog'),
    ),
    Reloader('gunicorn, poll', ['gunicorn'], _gunicorn('poll')),
    Reloader('gunicorn, inotify', ['gunicorn', 'inotify'], _gunicorn('inotify')),
    Reloader('werkzeug', ['werkzeug'], _werkzeug),
    Reloader('uvicorn', ['uvicorn', 'watchfiles', 'a2wsgi'], _uvicorn),
    Reloader('granian', ['granian', 'watchfiles'], _granian),
]


# -- the client -------------------------------------------------------------------------


def poll(port: int) -> tuple[str, bytes]:
    """Send one request on a new connection; return ('answered', body), or how it failed."""
    response = b''
    try:
        with socket.create_connection(('127.0.0.1', port), TIMEOUT) as connection:
            connection.sendall(_REQUEST)
            while data := connection.recv(65536):
                response += data
                head, _, body = response.partition(b'\r\n\r\n')
                if b' 200 ' in head[:16] and body.endswith(b'\n'):
                    return 'answered', body
    except ConnectionRefusedError:
        return 'refused', b''
    except TimeoutError:
        return 'timeout', b''
    except OSError:
        pass
    if b' 5' in response[:16]:
        return '5xx', b''
    return 'truncated' if response else 'reset', b''


class Client:
    """Edits a site that is served, and polls it; ``polls`` has the results of the last edit."""

    #: Seconds after an edit in which a server prepares for the next one.
    settles = 0.3

    def __init__(self, running: restart_servers.Running) -> None:
        self.running = running
        assert isinstance(running.site, EditedSite)
        self.site = running.site
        self.polls: collections.Counter[str] = collections.Counter()
        self._next = time.monotonic() + BETWEEN

    def edit(self) -> float:
        """Edit the site when the server can be prepared.

        :returns: milliseconds from the edit to the first response by the new code.
        """
        time.sleep(max(0.0, self._next - time.monotonic()))
        took = self.edit_at_once()
        until = time.monotonic() + AFTERWARDS
        while time.monotonic() < until:
            if self._poll() == 'old':
                self.polls['old again'] += 1
            time.sleep(PAUSE)
        self._next = time.monotonic() + BETWEEN
        return took

    def edit_at_once(self) -> float:
        """Do the same at once, even if the server is not prepared; do not poll afterwards."""
        self.polls = collections.Counter()
        began = time.perf_counter()
        self.site.edit()
        until = began + rounds.PATIENCE
        while self._poll() != 'new':
            if self.running.process.poll() is not None:
                code = self.running.process.returncode
                raise rounds.Unavailable(f'it exited with {code}')
            if time.perf_counter() > until:
                raise rounds.Unavailable(
                    f'the edit is not served within {rounds.PATIENCE:g} s'
                )
            time.sleep(PAUSE)
        return (self._answered - began) * 1000

    def edit_and_ask(self, delay: float, how: str) -> str:
        """Edit the site, and send one request on a new connection after ``delay`` seconds.

        :param how: 'in place' or 'rename'.
        :returns: 'new', 'old', or how the request failed. Then the new code serves.
        """
        self.polls = collections.Counter()
        self.site.edit(how)
        until = time.perf_counter() + delay
        while time.perf_counter() < until:
            pass  # sleep() may take a millisecond longer
        found = now = self._poll()
        while now == 'old':
            time.sleep(PAUSE)
            now = self._poll()
        return found

    def after(self, seconds: float) -> None:
        """Let the next `edit` wait for so many seconds."""
        self._next = time.monotonic() + seconds

    def _poll(self) -> str:
        how, body = poll(self.site.port)
        self._answered = time.perf_counter()
        if how == 'answered':
            is_new = body == b'version %d\n' % self.site.version
            how = 'new' if is_new else 'old'
        self.polls[how] += 1
        return how

    def failed(self, *kinds: str) -> int:
        """Return how many polls since the last edit failed in one of these ways (or in any)."""
        return sum(self.polls[kind] for kind in kinds or FAILURES)
