"""Pyramid, at /api: the configuration adds a lifespan, as it adds views."""

import logging
from sqlite3 import connect

from page import page
from pyramid.config import Configurator

log = logging.getLogger('guestbook')


def guests():
    db = connect(':memory:', check_same_thread=False)
    log.info('Pyramid: the database of guests is open')
    yield db  # request.bus.resources['guests'], from start to stop
    db.close()
    log.info('Pyramid: the database of guests is closed')


def index(request):
    return page('Pyramid', request.bus)


def report(request):
    return page('Pyramid', request.bus, seconds=2)


def make_app(global_conf):
    with Configurator() as config:
        config.include('paste_wspbus.frameworks.pyramid')
        config.add_lifespan(guests)
        config.add_route('index', '/')
        config.add_route('report', '/report')
        config.add_view(index, route_name='index', renderer='string')
        config.add_view(report, route_name='report', renderer='string')
        return config.make_wsgi_app()
