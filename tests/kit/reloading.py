"""A site under --reload, whose files are saved while it is served."""

import json
import os
import re
import signal

import pytest

from paste_wspbus.control.client import ask as ask_control
from paste_wspbus.control.paths import path_for
from tests.kit.clients import Busy, is_free
from tests.kit.processes import eventually, processes_of_session
from tests.kit.sites import SERVED, Site
from tests.kit.supervised import said

WEBAPP = """
import importlib
import json
import os
import sys
import time
{top}
TEXT, SINCE = {text!r}, time.monotonic_ns()


def make(global_conf):
    bus = global_conf['wspbus'].bus
    {body}
    return app


def app(environ, start_response):
    told = PAGES.get(environ['PATH_INFO'], lambda *_: {{}})(environ) or {{}}
    start_response('200 OK', [('Content-Type', 'application/json')])
    about = {{'text': TEXT, 'pid': os.getpid(), 'ppid': os.getppid(), 'since': SINCE}}
    return [json.dumps({{**about, **told}}).encode()]


def watched(environ):
    '''Wait until the site's own reloader has looked at this file once.'''
    while not [one for one in RELOADERS[0].mtimes if one.endswith('webapp.py')]:
        time.sleep(0.01)


RELOADERS = []
PAGES = {{
    '/watched': watched,
    '/bus_restart': lambda environ: environ['wspbus.bus'].restart(),
    '/exit3': lambda environ: os._exit(3),
    '/import': lambda environ: importlib.import_module(environ['QUERY_STRING']) and {{}},
    '/watch': lambda environ: environ['wspbus.bus'].publish('watch', environ['QUERY_STRING']) and {{}},
    '/program': lambda environ: {{
        'argv': sys.argv,
        'orig_argv': sys.orig_argv,
        'flags': str(sys.flags),
        'folder': os.getcwd(),
        'supervises': 'paste_wspbus.workers.supervisor' in sys.modules,
    }},
}}
"""


INI = SERVED


RELOADERS = ['fork', 'child', 'execv']


each_reloader = pytest.mark.parametrize('reloader', RELOADERS)


def webapp(text, top='', body='pass'):
    """The site's module: what it says, what it does when imported and when composed."""
    return WEBAPP.format(text=text, top=top, body=body)


class Edited(Site):
    """A site under --reload whose files are saved while it is served."""

    def __init__(self, folder, *args, ini=INI, files=None, env=None, **kwargs):
        files = {'webapp.py': webapp('one'), **(files or {})} if ini else files
        env = {'PYTHONDONTWRITEBYTECODE': '', **(env or {})}
        args = '--reload', '--pid-file', 'site.pid', *args
        super().__init__(folder, ini, *args, files=files, env=env, **kwargs)

    def save(self, text, name='webapp.py'):
        """As most editors do: a new file takes the old one's place."""
        new = self.folder / f'{name}.tmp'
        new.write_text(text)
        os.replace(new, self.folder / name)

    def edit(self, text, **kwargs):
        """Save another version of the site's module; wait until it answers: its words."""
        self.save(webapp(text, **kwargs))
        return self.until(text)

    def ask(self, path='/'):
        """What the site says of itself; or the page of status 500."""
        response = self.get(path)
        return json.loads(response.body) if response.status == 200 else response

    def until(self, text, path='/'):
        """Ask until the version that says ``text`` answers."""
        found = []

        def answers():
            response = self.get(path)
            found[:] = [response]
            return response.status == 200 and json.loads(response.body)['text'] == text

        try:
            eventually(answers)
        except AssertionError:
            raise AssertionError(
                f'{found and found[0].text}\n{self.report()}'
            ) from None
        return json.loads(found[0].body)

    def until_broken(self, text):
        """Ask until a page with status 500 and ``text`` answers: that response."""
        found = []

        def answers():
            found[:] = [self.get(accept='text/html')]
            return found[0].status == 500 and text in found[0].text

        try:
            eventually(answers)
        except AssertionError:
            raise AssertionError(
                f'{found and found[0].text}\n{self.report()}'
            ) from None
        return found[0]

    def processes(self):
        return processes_of_session(self.pid)

    def workers(self, state):
        """The numbers of those processes that `status` says this of."""
        path = path_for(self.folder / 'site.pid')
        told = ask_control(path, 'status')['workers']
        return [
            one['pid']
            for one in told
            if one['state'] == state and one['name'] != 'packages'
        ]

    def settle(self, spares=1):
        """Wait for what makes the next reload fast: a spare for each worker."""
        eventually(lambda: len([pid for pid in self.workers('spare') if pid]) == spares)


class Polls(Busy):
    """A client that asks again and again, each time on a new connection."""

    def __init__(self, site):
        super().__init__(pause=0.002)
        self.site, self.answers, self.failures = site, [], []

    def do(self):
        try:
            response = self.site.get()
            assert response.status == 200, response.text
            self.answers.append(self.read(response))
        except Exception as error:
            self.failures.append(error)

    def read(self, response):
        """Return what the site says of itself."""
        return json.loads(response.body)

    @property
    def texts(self):
        """What was served, in turn."""
        texts = []
        for answer in self.answers:
            if texts[-1:] != [answer['text']]:
                texts.append(answer['text'])
        return texts

    def until(self, condition):
        """Wait until an answer is so."""
        eventually(lambda: any(condition(answer) for answer in self.answers[-1:]))

    def __enter__(self):
        super().__enter__()
        eventually(lambda: self.answers or self.failures)
        return self


def stop(site, signum=signal.SIGINT):
    """A site stops, and leaves nothing: its standard error."""
    site.send(signum)
    return ends(site)


def ends(site):
    code = site.wait()
    assert code == 0, site.report()
    assert processes_of_session(site.pid) == []
    assert is_free(site.port)
    err = said(site.err.text)
    assert 'Warning' not in err, err
    return err


def reloads(site, name='webapp.py'):
    """The lines that tell of reloads."""
    return re.findall(rf'^{name} has changed: reloaded in \d+ ms$', site.err.text, re.M)
