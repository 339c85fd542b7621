"""A CherryPy site on our bus: ``app.py before|after block|quickstart|start``.

The bus replaces CherryPy's before CherryPy is imported, or after. Then the
site blocks, is run by cherrypy.quickstart, or ends without either.
"""

import os
import sys

from riding import replace_wspbus, say, say_when_blocking, take_over, talking_bus

bus = talking_bus()
when, how = sys.argv[1:]
if when == 'before':
    replace_wspbus(bus)

import cherrypy  # noqa: E402

if when == 'after':
    take_over(bus)

assert cherrypy.engine is bus
assert cherrypy.server.bus is bus


@cherrypy.engine.subscribe('before_request')
def tell_before():
    say('before_request')


@cherrypy.engine.subscribe('after_request')
def tell_after():
    say('after_request')


@cherrypy.engine.subscribe('graceful')
def tell_graceful():
    say('graceful was heard')


cherrypy.engine.subscribe('start_thread', lambda index: say('start_thread', index))
cherrypy.engine.subscribe('stop_thread', lambda index: say('stop_thread', index))


class Root:
    @cherrypy.expose
    def index(self):
        return 'hello'

    @cherrypy.expose
    def pid(self):
        return str(os.getpid())

    @cherrypy.expose
    def state(self):
        return cherrypy.engine.state.name

    @cherrypy.expose
    def listen(self, channel):
        cherrypy.engine.subscribe(channel, lambda word: word.upper())
        return 'listening'

    @cherrypy.expose
    def publish(self, channel, word):
        return ' '.join(cherrypy.engine.publish(channel, word))

    @cherrypy.expose
    def graceful(self):
        cherrypy.engine.graceful()
        return 'told'

    @cherrypy.expose
    def exit(self):
        cherrypy.engine.exit()
        return 'leaving'

    @cherrypy.expose
    def restart(self):
        cherrypy.engine.restart()
        return 'coming back'

    @cherrypy.expose
    def interrupt(self):
        raise KeyboardInterrupt


cherrypy.config.update(
    {
        'engine.autoreload.on': False,
        'log.screen': False,
        'server.socket_host': '127.0.0.1',
        'server.socket_port': int(os.environ.get('SITE_PORT', '0')),
        'server.thread_pool': 2,
        'server.shutdown_timeout': 30,
    }
)


say_when_blocking(bus, 'blocking')
if how == 'quickstart':
    cherrypy.quickstart(Root())
    sys.exit()
cherrypy.tree.mount(Root(), '/')
cherrypy.engine.signals.subscribe()
cherrypy.engine.start()
say('port', cherrypy.server.bound_addr[1])
if how == 'block':
    cherrypy.engine.block()
    say('block returned')
