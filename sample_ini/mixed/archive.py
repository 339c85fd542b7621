"""Pylons, at /old: the Globals open the database that the controllers use."""

import logging
from sqlite3 import connect

from page import page
from paste.registry import RegistryManager
from pylons import app_globals
from pylons.configuration import PylonsConfig
from pylons.controllers import WSGIController
from pylons.wsgiapp import PylonsApp
from routes import Mapper
from routes.middleware import RoutesMiddleware

from paste_wspbus import get_bus

log = logging.getLogger('archive')


class Globals:
    def __init__(self, config):
        get_bus(config).lifespan(self.letters)

    def letters(self):
        self.db = connect(':memory:', check_same_thread=False)
        log.info('Pylons: the database of letters is open')
        yield self.db  # app_globals.db, from start to stop
        self.db.close()
        log.info('Pylons: the database of letters is closed')


class ArchiveController(WSGIController):
    def index(self):
        return page('Pylons', app_globals.bus)

    def report(self):
        return page('Pylons', app_globals.bus, seconds=2)


def make_app(global_conf, **app_conf):
    config = PylonsConfig()
    config.init_app(global_conf, app_conf, package='archive')
    config['pylons.app_globals'] = Globals(config)
    routes = Mapper()
    routes.connect('/{action}', controller='archive:ArchiveController')
    for path in ('', '/'):  # below /old, both are the first page
        routes.connect(path, controller='archive:ArchiveController', action='index')
    routes.create_regs([])
    app = RoutesMiddleware(PylonsApp(config), routes, singleton=False)
    return RegistryManager(app)
