"""Two applications of different frameworks. Each uses the bus that it gets from its configuration."""

from flask import Flask
from pyramid.config import Configurator
from pyramid.response import Response

from paste_wspbus import get_bus


def flask_app(global_conf):
    bus = get_bus(global_conf)
    app = Flask(__name__)

    @bus.lifespan(name='flask')
    def lifespan():
        bus.log('Flask starts')
        yield
        bus.log('Flask stops')

    @app.get('/')
    def index():
        return f'Flask, bus {bus.state.name}\n'

    return app


def pyramid_app(global_conf):
    bus = get_bus(global_conf)

    @bus.lifespan(name='pyramid')
    def lifespan():
        bus.log('Pyramid starts')
        yield
        bus.log('Pyramid stops')

    def index(request):
        return Response(f'Pyramid, bus {request.environ["wspbus.bus"].state.name}\n')

    with Configurator() as config:
        config.add_route('index', '/')
        config.add_view(index, route_name='index')
        return config.make_wsgi_app()
