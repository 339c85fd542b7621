"""A CherryPy site."""

import atexit
import os
import sys
import threading

import cherrypy
import held
from cherrypy.process.plugins import BackgroundTask, Monitor

from paste_wspbus.handoff import get_bus


def say(text):
    os.write(2, (text + '\n').encode())


def database(bus, global_conf):
    say('database opened')
    yield 'database'
    say('database closed')


@cherrypy.tools.register('before_handler')
def tell():
    say('the tool was here')


class Blog:
    ticks = 0
    ticked = threading.Event()

    @cherrypy.expose
    @cherrypy.tools.json_out()
    def index(self):
        environ = cherrypy.request.wsgi_environ
        bus = environ['wspbus.bus']
        return {
            'engine': cherrypy.engine is bus,
            'held': held.engine.listeners is bus.listeners,
            'state': bus.state.name,
            'resources': bus.resources,
        }

    @cherrypy.expose
    @cherrypy.tools.tell()
    @cherrypy.tools.sessions()
    def visits(self):
        cherrypy.session['visits'] = cherrypy.session.get('visits', 0) + 1
        return str(cherrypy.session['visits'])

    @cherrypy.expose
    def publish(self, word):
        """By the engine, by the one from before, by a method that was kept."""
        publishers = cherrypy.engine.publish, held.engine.publish, held.publish
        return ' '.join(one for publish in publishers for one in publish('words', word))

    @cherrypy.expose
    def tick(self):
        """Whether a task of CherryPy's runs."""
        return str(self.ticked.wait(60))

    @cherrypy.expose
    def monitor(self):
        return str(cherrypy.engine.monitor.thread.is_alive())

    @cherrypy.expose
    def plugins(self):
        engine, bus = cherrypy.engine, cherrypy.request.wsgi_environ['wspbus.bus']
        return ' '.join(
            str(one)
            for one in (
                engine.thread_manager is bus.plugins['threads'],
                engine.signal_handler is bus.plugins['signals'],
                engine.autoreload.thread,
                cherrypy.server.running,
            )
        )

    @cherrypy.expose
    def port(self):
        return str(cherrypy.server.bound_addr[1])

    @cherrypy.expose
    def thread(self):
        return threading.current_thread().name

    @cherrypy.expose
    @cherrypy.tools.json_out()
    def wait(self):
        say('waiting')
        sys.stdin.buffer.read()
        return self.index()

    @cherrypy.expose
    def exit(self):
        held.engine.exit()
        return 'leaving'

    @cherrypy.expose
    def restart(self):
        held.engine.restart()
        return 'coming back'

    @cherrypy.expose
    def stop(self):
        held.stop()
        return 'stopping'

    @cherrypy.expose
    def broken(self):
        raise RuntimeError('broken page')


cherrypy.config.update({'log.screen': False, 'checker.on': False})


def make(global_conf, **local_conf):
    get_bus(global_conf).lifespan(pool)
    cherrypy.engine.monitor = Monitor(cherrypy.engine, Blog.ticked.set, 0.01, 'ticker')
    cherrypy.engine.monitor.subscribe()
    # Not the application: Paste#urlmap asks for its repr, in which CherryPy looks for
    # a request, for the script name that is None.
    return cherrypy.Application(Blog(), None).wsgiapp


def make_task(global_conf):
    task = BackgroundTask(0.01, Blog.ticked.set, bus=cherrypy.engine)
    cherrypy.engine.subscribe('start', task.start)
    cherrypy.engine.subscribe('stop', task.cancel)
    return cherrypy.Application(Blog(), None)


def pool():
    say(f'pool opened by {cherrypy.engine.state.name}')
    yield 'pool'
    say(f'pool closed by {cherrypy.engine.state.name}')


def make_tree(global_conf):
    """Two applications and a plain WSGI one, in CherryPy's own tree."""
    cherrypy.tree.mount(Blog(), '/blog')
    cherrypy.tree.mount(Blog(), '/other')
    cherrypy.tree.graft(plain, '/plain')
    return cherrypy.tree


def plain(environ, start_response):
    start_response('200 OK', [('Content-Type', 'text/plain')])
    return [environ['wspbus.bus'].state.name.encode()]


def make_started(global_conf):
    """As the recipes for mod_wsgi and uWSGI have it."""
    cherrypy.config.update({'engine.autoreload.on': False})
    cherrypy.server.unsubscribe()
    cherrypy.engine.signals.subscribe()
    cherrypy.engine.start()
    atexit.register(cherrypy.engine.stop)
    return cherrypy.Application(Blog(), None)


def make_configured(global_conf, **local_conf):
    """As a site that knows of CherryPy's own server alone."""
    cherrypy.config.update(
        {
            'server.socket_host': '127.0.0.1',
            'server.socket_port': int(local_conf.get('port', 0)),
            'server.thread_pool': 3,
            'server.max_request_body_size': 10,
        }
    )
    return cherrypy.Application(Blog(), None)


def make_logging(global_conf):
    config = {'/': {'log.access_file': os.environ['ACCESS_LOG']}}
    return cherrypy.Application(Blog(), None, config)


def make_with_its_own(global_conf):
    """A site with another engine of its own."""
    cherrypy.engine = Engine(cherrypy.engine)
    return cherrypy.Application(Blog(), None)


class Engine:
    def __init__(self, engine):
        self._engine = engine

    def __getattr__(self, name):
        return getattr(self._engine, name)


def make_failing(global_conf):
    cherrypy.engine.subscribe('start', fail)
    return cherrypy.Application(Blog(), None)


def fail():
    raise RuntimeError('no disk')
