"""A module of the site that holds on to CherryPy's engine from before."""

import os

from cherrypy import engine
from cherrypy.process.plugins import SimplePlugin

publish, stop = engine.publish, engine.stop


def say(text):
    os.write(2, (text + '\n').encode())


class Search(SimplePlugin):
    """A plugin with a priority: before the cache, which has the usual one."""

    def start(self):
        say(f'search started by {self.bus.state.name}')

    start.priority = 40

    def stop(self):
        say(f'search stopped by {self.bus.state.name}')

    stop.priority = 60


Search(engine).subscribe()


@engine.subscribe('start')
def cache():
    say('cache started')


@engine.subscribe('before_request')
def tell_before():
    import cherrypy

    say(f'before {cherrypy.request.local.port}')


@engine.subscribe('after_request')
def tell_after():
    say('after')


@engine.subscribe('start_thread')
def tell_thread(index):
    say(f'thread {index}')


@engine.subscribe('words')
def upper(word):
    return word.upper()
