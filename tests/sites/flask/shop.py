"""A Flask site."""

import os
import sys

import flask
from werkzeug.middleware.proxy_fix import ProxyFix

from paste_wspbus.handoff import get_bus


def say(text):
    os.write(2, (text + '\n').encode())


def database(bus, global_conf):
    say('database opened')
    yield 'database'
    say('database closed')


def make_app():
    app = flask.Flask('shop')

    @app.route('/')
    def facts():
        bus = flask.current_app.extensions['wspbus']
        return {
            'in environ': flask.request.environ['wspbus.bus'] is bus,
            'state': bus.state.name,
            'resources': bus.resources,
        }

    @app.route('/wait')
    def wait():
        say('waiting')
        sys.stdin.buffer.read()
        return facts()

    return app


def make(global_conf):
    app = make_app()

    @get_bus(global_conf).lifespan
    def pool():
        say(f'pool opened by {app.extensions["wspbus"].state.name}')
        yield 'pool'
        say(f'pool closed by {app.extensions["wspbus"].state.name}')

    return ProxyFix(app)


def make_with_its_own(global_conf):
    app = make_app()
    app.extensions['wspbus'] = 'my own'
    app.add_url_rule('/own', 'own', lambda: flask.current_app.extensions['wspbus'])
    return app


def make_of_tomorrow(global_conf):
    """Flask, where the class went elsewhere."""
    app = make_app()
    app.add_url_rule(
        '/served', 'served', lambda: f'{"wspbus" in flask.current_app.extensions}'
    )
    del flask.Flask
    return app
