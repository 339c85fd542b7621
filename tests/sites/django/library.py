"""A Django site: its settings, URLs, application and what rides on the bus."""

import os
import sys

from paste_wspbus.handoff import get_bus

SECRET_KEY = 'of a test'
ALLOWED_HOSTS = ['*']
ROOT_URLCONF = 'library'
INSTALLED_APPS = ['books.Books']
USE_TZ = True
WSPBUS = None


def say(text):
    os.write(2, (text + '\n').encode())


def database(bus, global_conf):
    say('database opened')
    yield 'database'
    say('database closed')


def facts(request):
    from django.conf import settings
    from django.http import JsonResponse

    bus = settings.WSPBUS
    return JsonResponse(
        {
            'in environ': request.environ['wspbus.bus'] is bus,
            'state': bus.state.name,
            'resources': bus.resources,
        }
    )


def wait(request):
    say('waiting')
    sys.stdin.buffer.read()
    return facts(request)


def urls():
    from django.urls import path

    return [path('', facts), path('wait', wait)]


def __getattr__(name):
    if name == 'urlpatterns':
        return urls()
    raise AttributeError(name)


def make(global_conf):
    os.environ['DJANGO_SETTINGS_MODULE'] = 'library'
    from django.conf import settings
    from django.core.wsgi import get_wsgi_application

    @get_bus(global_conf).lifespan
    def pool():
        say(f'pool opened by {settings.WSPBUS.state.name}')
        yield 'pool'
        say(f'pool closed by {settings.WSPBUS.state.name}')

    return get_wsgi_application()
