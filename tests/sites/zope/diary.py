"""A Zope site: views that tell what they see, and a diary that needs the database."""

import json
import os
import sys

import transaction
import Zope2
from Products.Five.browser import BrowserView
from zope import event
from zope.component import getUtility, provideUtility

from paste_wspbus.frameworks.zope import IBus
from paste_wspbus.handoff import get_bus


def say(text):
    os.write(2, (text + '\n').encode())


class Facts(BrowserView):
    def __call__(self):
        bus = getUtility(IBus)
        self.request.response.setHeader('Content-Type', 'application/json')
        return json.dumps(
            {
                'in environ': self.request.environ['wspbus.bus'] is bus,
                'state': bus.state.name,
                'resources': bus.resources,
                'visits': getattr(self.context, 'visits', 0),
            }
        )


class Visit(Facts):
    def __call__(self):
        self.context.visits = getattr(self.context, 'visits', 0) + 1
        return super().__call__()


class Wait(Facts):
    def __call__(self):
        say('waiting')
        sys.stdin.readline()
        return super().__call__()


class Served(BrowserView):
    def __call__(self):
        return 'wspbus.bus' in self.request.environ and 'served'


def read_visits():
    app = Zope2.app()
    try:
        return getattr(app, 'visits', 0)
    finally:
        transaction.abort()
        app._p_jar.close()


def subscribe(process_starting):
    """A subscriber of Zope's, while it is composed."""

    @get_bus().lifespan
    def diary():
        say(f'diary opened: {read_visits()} visits')
        yield 'diary'
        say(f'diary closed: {read_visits()} visits')


def journal(bus, global_conf):
    """A plugin: tells of Zope's events, and waits after the stop."""

    def tell(happened):
        if type(happened).__module__ == 'zope.processlifetime':
            say(f'{bus.state.name}: {type(happened).__name__}')

    def wait():
        say(f'stopped; opened: {Zope2.opened}')
        if global_conf.get('waits'):
            sys.stdin.readline()

    event.subscribers.append(tell)
    bus.subscribe('exit', wait)


def moved(global_conf):
    """A filter: Zope as a later version may be."""

    def remove(app):
        del Zope2.opened
        return app

    return remove


def own(global_conf):
    """A filter: a site that has a utility of its own."""

    def provide(app):
        provideUtility('my own', IBus)
        return app

    return provide
