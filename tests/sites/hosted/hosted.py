"""A site that writes down what its host does with it.

A line each: the process, what happened, and more about it. The process is its ID and
a number that a program begun anew by execv has anew.
"""

import os
import time
from urllib.parse import parse_qs

PROGRAM = os.urandom(3).hex()


class Events:
    """Lines are appended, whole, by any process and any thread."""

    def __init__(self, path):
        self.path = path

    def write(self, *words):
        line = f'{os.getpid()}.{PROGRAM} {" ".join(map(str, words))}\n'
        file = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
        try:
            os.write(file, line.encode())
        finally:
            os.close(file)


def events(bus, global_conf, events, fail='', slow_stop='0'):
    """A lifespan; ``fail``: it fails to start; ``slow_stop``: seconds."""
    out = Events(events)
    bus.subscribe('graceful', lambda: out.write('graceful'))
    host = bus.host
    words = ','.join(sorted(host.capabilities)).replace(' ', '-')
    out.write('composed', host.name.replace(' ', '-'), words)
    if fail:
        raise_at_start(bus, out)
        return None
    return Lifespan(bus, out, float(slow_stop))


def raise_at_start(bus, out):
    @bus.lifespan(name='first')
    def first():
        out.write('start')
        yield
        out.write('stop')

    @bus.lifespan(name='broken')
    def broken():
        raise RuntimeError('no database')
        yield


class Lifespan:
    """What a plugin of the site's is: opened at start, closed at stop."""

    def __init__(self, bus, out, slow_stop):
        self.bus, self.out, self.slow_stop = bus, out, slow_stop

    def subscribe(self):
        @self.bus.lifespan(name='events')
        def lifespan():
            self.out.write('start')
            yield self.out
            time.sleep(self.slow_stop)
            self.out.write('stop', getattr(self.bus, 'stop_reason', None))


def make_app(global_conf, events):
    out = Events(events)

    def app(environ, start_response):
        """``?seconds=0.5``: takes that long. ``?do=exit``: calls the bus."""
        bus = environ['wspbus.bus']
        out.write('request', 'open' if 'events' in bus.resources else 'closed')
        query = {k: v[-1] for k, v in parse_qs(environ['QUERY_STRING']).items()}
        time.sleep(float(query.get('seconds', 0)))
        if 'do' in query:
            getattr(bus, query['do'])()
        body = f'{os.getpid()}.{PROGRAM}'.encode()
        start_response('200 OK', [('Content-Length', str(len(body)))])
        return Body(body, out)

    return app


class Body:
    """The request ends when its body is closed."""

    def __init__(self, body, out):
        self.body, self.out = body, out

    def __iter__(self):
        yield self.body

    def close(self):
        self.out.write('response')
