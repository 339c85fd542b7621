"""CherryPy, at /: a plugin in the style of CherryPy, on its engine, which is the bus."""

import logging
from tempfile import TemporaryDirectory

import cherrypy
from cherrypy.process.plugins import SimplePlugin
from page import page

log = logging.getLogger('wiki')


class Uploads(SimplePlugin):
    def start(self):
        self.folder = TemporaryDirectory()
        log.info('CherryPy: the folder of uploads is there')

    def stop(self):
        self.folder.cleanup()
        log.info('CherryPy: the folder of uploads is gone')


class Wiki:
    @cherrypy.expose
    def index(self):
        return page('CherryPy', cherrypy.engine)

    @cherrypy.expose
    def report(self):
        return page('CherryPy', cherrypy.engine, seconds=2)


def make_app(global_conf):
    # The engine becomes the bus when all four frameworks are loaded. So this plugin comes
    # to the bus last: it starts last, and stops first.
    Uploads(cherrypy.engine).subscribe()
    return cherrypy.Application(Wiki(), None).wsgiapp
