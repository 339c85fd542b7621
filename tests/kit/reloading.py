"""A site under --reload, whose files are saved while it is served."""

import json
import os
import re
import signal

import pytest

from paste_wspbus.control.client import ask as ask_control
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
    """Return the site's module: the text that it shows, and its code at import and at load."""
    return WEBAPP.format(text=text, top=top, body=body)


class Edited(Site):
    """A site under --reload whose files are saved while it is served."""

    def __init__(self, folder, *args, ini=INI, files=None, env=None, **kwargs):
        files = {'webapp.py': webapp('one'), **(files or {})} if ini else files
        env = {'PYTHONDONTWRITEBYTECODE': '', **(env or {})}
        args = '--reload', '--pid-file', 'site.pid', *args
        super().__init__(folder, ini, *args, files=files, env=env, **kwargs)

    def save(self, text, name='webapp.py'):
        """Save a file as most editors do: a new file takes the place of the old one."""
        new = self.folder / f'{name}.tmp'
        new.write_text(text)
        os.replace(new, self.folder / name)

    def edit(self, text, **kwargs):
        """Save another version of the site's module; return its first answer."""
        self.save(webapp(text, **kwargs))
        return self.until(text)

    def ask(self, path='/'):
        """Return the data of a page, or the response with status 500."""
        response = self.get(path)
        return json.loads(response.body) if response.status == 200 else response

    def until(self, text, path='/'):
        """Ask until the version with this text answers; return its data."""
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
        """Ask until a page with status 500 and this text comes; return that response."""
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
        """Return the IDs of the processes for which `status` reports this state."""
        path = str(self.folder / 'site.pid.sock')
        told = ask_control(path, 'status')['workers']
        return [
            one['pid']
            for one in told
            if one['state'] == state and one['name'] != 'packages'
        ]

    def settle(self, spares=1):
        """Wait until each worker has a spare, which makes the next reload fast."""
        eventually(lambda: len([pid for pid in self.workers('spare') if pid]) == spares)


class Polls(Busy):
    """A client that sends requests again and again, each on a new connection."""

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
        """Return the data of the page."""
        return json.loads(response.body)

    @property
    def texts(self):
        """The texts that were served, in order, each once in a row."""
        texts = []
        for answer in self.answers:
            if texts[-1:] != [answer['text']]:
                texts.append(answer['text'])
        return texts

    def until(self, condition):
        """Wait until the last answer meets a condition."""
        eventually(lambda: any(condition(answer) for answer in self.answers[-1:]))

    def __enter__(self):
        super().__enter__()
        eventually(lambda: self.answers or self.failures)
        return self


def stop(site, signum=signal.SIGINT):
    """Stop a site, and check that it leaves nothing; return its standard error."""
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
    """Return the lines that report reloads."""
    return re.findall(rf'^{name} has changed\nserved in \d+ ms$', site.err.text, re.M)
