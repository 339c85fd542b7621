"""A TurboGears application in one file, from the minimal configurator."""

import itertools

from gallery.model import say
from tg import (
    MinimalApplicationConfigurator,
    TGController,
    app_globals,
    config,
    expose,
    request,
)


class RootController(TGController):
    @expose('json')
    def index(self):
        bus = request.environ['wspbus.bus']
        return {
            'in app_globals': app_globals.bus is bus,
            'in config': config['wspbus'].bus is bus,
            'state': bus.state.name,
            'count': next(bus.resources['numbers']),
        }


def numbers():
    say('counter opened')
    yield itertools.count(1)
    say('counter closed')


def make_app(global_conf, **app_conf):
    base_config = MinimalApplicationConfigurator()
    base_config.update_blueprint(
        {'root_controller': RootController(), 'renderers': ['json']}
    )
    app = base_config.make_wsgi_app(global_conf, app_conf)
    global_conf['wspbus'].bus.lifespan(numbers)
    return app
