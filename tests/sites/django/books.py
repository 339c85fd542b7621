"""A Django application that adds a lifespan where Django's start their things."""

import os

from django.apps import AppConfig

from paste_wspbus.handoff import get_bus


def index():
    os.write(2, b'index opened\n')
    yield 'index'
    os.write(2, b'index closed\n')


class Books(AppConfig):
    name = 'books'
    path = os.path.dirname(__file__)

    def ready(self):
        get_bus().lifespan(index)
