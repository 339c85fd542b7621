"""The routes of requests, as real applications of each framework say them."""

import subprocess
import sys
import warnings

import pytest

from paste_wspbus.bus import Bus
from paste_wspbus.frameworks.routes import finders
from paste_wspbus.requests.filter import BusFilter
from paste_wspbus.requests.metered import UNKNOWN, meter_of


def routes(app, *paths, mounted_at=''):
    """Ask for paths; return the routes under which they are counted, in this order."""
    bus = Bus()
    meter = meter_of(bus)
    found = []
    meter.sinks.append(lambda series, seconds: found.append(series.route))
    wsgi = BusFilter.around(app, bus)
    bus.start()
    for path in paths:
        environ = {
            'REQUEST_METHOD': 'GET',
            'SCRIPT_NAME': mounted_at,
            'PATH_INFO': path,
            'QUERY_STRING': '',
            'SERVER_NAME': 'localhost',
            'HTTP_HOST': 'localhost',
            'SERVER_PORT': '80',
            'SERVER_PROTOCOL': 'HTTP/1.1',
            'wsgi.url_scheme': 'http',
            'wsgi.version': (1, 0),
            'wsgi.input': sys.stdin,
            'wsgi.errors': sys.stderr,
            'wsgi.multithread': True,
            'wsgi.multiprocess': False,
            'wsgi.run_once': False,
        }
        body = wsgi(environ, lambda *args: None)
        list(body)
        body.close()
    bus.exit()
    return found


def middleware(app):
    """Wrap an application in a layer that gives it a copy of environ."""

    def wrapped(environ, start_response):
        return app(dict(environ), start_response)

    return wrapped


@pytest.fixture
def pyramid():
    with warnings.catch_warnings():  # it imports what setuptools gives up
        warnings.filterwarnings('ignore', 'pkg_resources is deprecated', UserWarning)
        warnings.filterwarnings('ignore', category=DeprecationWarning)
        from pyramid.config import Configurator
        from pyramid.response import Response

    config = Configurator()
    config.add_route('item', '/item/{id}')
    config.add_route('all', 'items/*rest')
    config.add_view(lambda request: Response('x'), route_name='item')
    config.add_view(lambda request: Response('x'), route_name='all')
    return config.make_wsgi_app()


def test_pyramid_says_the_pattern_of_the_matched_route(pyramid):
    assert routes(middleware(pyramid), '/item/1', '/items/a/b', '/none') == [
        '/item/{id}',
        '/items/*rest',
        UNKNOWN,
    ]


def test_a_route_begins_where_its_application_is_mounted(pyramid):
    assert routes(pyramid, '/item/1', mounted_at='/shop') == ['/shop/item/{id}']


def test_pyramids_routes_can_still_be_listed(pyramid):
    finders(pyramid)
    assert [one.name for one in pyramid.routes_mapper.get_routes()] == ['item', 'all']


def test_flask_says_the_rule():
    from flask import Flask

    app = Flask('shop')
    app.add_url_rule('/item/<int:id>', view_func=lambda id: 'x', endpoint='item')
    found = routes(app, '/item/1', '/none', mounted_at='/shop')
    assert found == ['/shop/item/<int:id>', UNKNOWN]


def test_cherrypy_says_the_page_handler():
    import cherrypy

    class Root:
        @cherrypy.expose
        def item(self, id):
            return 'x'

    app = cherrypy.Application(Root(), '', {'/': {'log.screen': False}})
    app.log.screen = False
    item, none = routes(app, '/item/1', '/none')
    assert item.endswith(':test_cherrypy_says_the_page_handler.<locals>.Root.item')
    assert none == UNKNOWN


DJANGO = """
import django
from django.conf import settings
from django.http import HttpResponse
from django.urls import path
settings.configure(ROOT_URLCONF='__main__', ALLOWED_HOSTS=['*'], SECRET_KEY='x', DEBUG=False)
django.setup()
urlpatterns = [path('item/<int:id>', lambda request, id: HttpResponse('x'))]
from django.core.handlers.wsgi import WSGIHandler
from tests.frameworks.test_routes import routes
print(*routes(WSGIHandler(), '/item/1', '/none', mounted_at='/shop'))
"""


def test_django_says_the_route():
    done = subprocess.run(
        [sys.executable, '-c', DJANGO], capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == ['/shop/item/<int:id>', UNKNOWN]


def test_a_framework_that_fails_is_left_out(pyramid, monkeypatch):
    import paste_wspbus.frameworks.pyramid as ours

    def fail(app):
        raise AttributeError('it has changed')

    monkeypatch.setattr(ours, 'show_routes', fail)
    assert routes(pyramid, '/item/1', '/item/1/2') == ['/item/...', UNKNOWN]
