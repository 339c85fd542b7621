"""A Pyramid site: it includes the bus, or leaves it to the search."""

import os
import sys

from pyramid.config import Configurator


def say(text):
    os.write(2, (text + '\n').encode())


def database(bus, global_conf):
    say('database opened')
    yield 'database'
    say('database closed')


def pool():
    say('pool opened')
    yield 'pool'
    say('pool closed')


def mailer():
    say('mailer opened')
    yield 'mailer'
    say('mailer closed')


def facts(request):
    bus = request.bus
    return {
        'same': bus is request.registry.wspbus,
        'in environ': request.environ.get('wspbus.bus') is bus,
        'state': bus.state.name,
        'resources': bus.resources,
        'request': f'{type(request).__module__}.{type(request).__name__}',
        'own class': 'bus' in vars(type(request)),
    }


def wait(request):
    say('waiting')
    sys.stdin.buffer.read()
    return facts(request)


def add_views(config):
    config.add_route('main', '/')
    config.add_view(facts, route_name='main', renderer='json')
    config.add_route('wait', '/wait')
    config.add_view(wait, route_name='wait', renderer='json')


def including(global_config, **settings):
    with Configurator(settings=settings) as config:
        config.include('paste_wspbus.frameworks.pyramid')
        config.add_lifespan(pool)
        config.add_lifespan('guestbook.mailer', name='post', priority=40)
        say(f'{config.registry.wspbus.state.name} while it is composed')
        add_views(config)
        return config.make_wsgi_app()


def plain(global_config, **settings):
    with Configurator(settings=settings) as config:
        add_views(config)
        app = config.make_wsgi_app()
    global_config['wspbus'].bus.lifespan(pool)
    return app


def without_lifespans(global_config, **settings):
    with Configurator(settings=settings) as config:
        add_views(config)
        return config.make_wsgi_app()
