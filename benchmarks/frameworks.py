"""Measures the cost of the filter and of the search for frameworks: in a load, in a request."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

import rounds

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

SITES = rounds.HERE.parent / 'tests' / 'sites'

LARGEST = 'the largest'

#: The default number of turns, one with the filter and one without; and the requests of each
#: turn. A figure is the difference of the lower quartiles.
TURNS, REQUESTS = 101, 30

COMPOSE = """
import contextlib, statistics, sys, warnings
from time import thread_time
from wsgiref.util import setup_testing_defaults
warnings.simplefilter('ignore')
from paste_wspbus import testing
from paste_wspbus.ini import composing as loader

sys.path += {folders!r}
took = []

def clocked(function):
    def call(*args):
        began = thread_time()
        try:
            return function(*args)
        finally:
            took.append((thread_time() - began) * 1000)
    return call

class Filter(loader.BusFilter):
    __init__ = clocked(loader.BusFilter.__init__)

loader.BusFilter, loader.introduce = Filter, clocked(loader.introduce)
with (
    contextlib.redirect_stdout(sys.stderr),
    testing.composed({ini!r}, relative_to={folder!r}) as site,
):
    figure = {figure}
print(figure)
"""

REQUEST = """
def ask(app):
    environ = {{}}
    setup_testing_defaults(environ)
    body = app(environ, start_response)
    for part in body:
        pass
    if hasattr(body, 'close'):
        body.close()

def start_response(status, headers, exc_info=None):
    assert status[:3] == '200', status

def seconds(app, before):
    took = 0
    for _ in range({requests}):
        ask(before)
        began = thread_time()
        ask(app)
        took += thread_time() - began
    return took

def microseconds(filtered, before):
    took = {{filtered: [], filtered.app: []}}
    for number in range({turns}):
        for app in [filtered.app, filtered][:: number % 2 * 2 - 1]:
            took[app].append(seconds(app, before) / {requests} * 1e6)
    # Whatever else the machine does makes some of them slower, none faster.
    with_it, without = (statistics.quantiles(each)[0] for each in took.values())
    return with_it - without

def plain(environ, start_response):
    start_response('200 OK', [('Content-Type', 'text/plain')])
    return iter([b'Hello'])
"""

#: The filter around the framework's page, and around a page without a framework. Before
#: each measurement, the framework answers a request: after so much work, the filter's own
#: code is no longer in the processor's caches, which costs more than the filter.
FRAMEWORK = 'microseconds(site.app, site.app.app)'
PLAIN = 'microseconds(loader.BusFilter(plain, site.bus), site.app.app)'


# -- the same page in each framework ---------------------------------------------


def pyramid(global_conf: Any) -> Any:
    from pyramid.config import Configurator
    from pyramid.response import Response

    with Configurator() as config:
        config.add_route('main', '/')
        config.add_view(lambda request: Response('Hello'), route_name='main')
        return config.make_wsgi_app()


def flask(global_conf: Any) -> Any:
    from flask import Flask

    app = Flask('frameworks')
    app.add_url_rule('/', 'main', lambda: 'Hello')
    return app


def django(global_conf: Any) -> Any:
    from django.conf import settings
    from django.core.wsgi import get_wsgi_application
    from django.http import HttpResponse
    from django.urls import path

    urls = type('urls', (), {})
    urls.urlpatterns = [path('', lambda request: HttpResponse('Hello'))]
    settings.configure(SECRET_KEY='x', ROOT_URLCONF=urls, ALLOWED_HOSTS=['*'])
    return get_wsgi_application()


def cherrypy(global_conf: Any) -> Any:
    import cherrypy

    class Root:
        @cherrypy.expose
        def index(self) -> str:
            return 'Hello'

    cherrypy.config.update({'log.screen': False, 'checker.on': False})
    return cherrypy.Application(Root(), None)


PAGES = {
    'Pyramid': ('pyramid', pyramid),
    'Flask': ('flask', flask),
    'Django': ('django', django),
    'CherryPy': ('cherrypy', cherrypy),
}


# -- figures ---------------------------------------------------------------------


def figure(ini: str, what: str, before: str = '') -> Callable[[], float]:
    """Return a function that composes the site in a process, and returns its figure."""
    folders = [str(path) for path in SITES.iterdir() if path.is_dir()]
    program = COMPOSE.format(
        ini=ini, folders=folders, folder=str(rounds.HERE), figure=what
    )
    return lambda: float(rounds.output_of(before + program).splitlines()[-1])


def measure_composition(options: Any) -> None:
    """Measure how long it takes to make the filter, find the applications, and give the bus."""
    contenders = {
        path.parent.name: figure(str(path), 'sum(took)')
        for path in sorted(SITES.glob('*/site.ini'))
    }
    samples = rounds.alternate(contenders, options.rounds)
    samples[LARGEST] = [max(values) for values in zip(*samples.values(), strict=True)]
    title = 'composition: the filter and the search, for each site of the tests'
    rounds.table(title, 'ms', samples, '')
    rounds.judge(
        'milliseconds for the largest', rounds.median(samples, LARGEST), at_most=5
    )


def measure_requests(options: Any) -> None:
    """Measure the difference between a request with the filter and one without."""
    before = REQUEST.format(turns=int(options.turns), requests=REQUESTS)
    for name, (module, factory) in PAGES.items():
        if not rounds.has(module):
            continue
        ini = f'[app:main]\nuse = call:frameworks:{factory.__name__}\n'
        contenders = {
            name: figure(ini, FRAMEWORK, before),
            'no framework': figure(ini, PLAIN, before),
        }
        samples = rounds.alternate(contenders, options.rounds)
        title = f'the filter in a request, {name}'
        more = rounds.table(title, 'µs', samples, name, rounds.DIFFERENCE)
        what = f'microseconds more than without a framework, {name}'
        rounds.judge(what, more.get('no framework'), at_most=1)


def main() -> None:
    global SITES
    options = rounds.options(__doc__, turns=TURNS)
    with tempfile.TemporaryDirectory() as folder:  # some write beside their .ini
        SITES = Path(shutil.copytree(SITES, Path(folder, 'sites')))
        measure_composition(options)
        measure_requests(options)


if __name__ == '__main__':
    main()
