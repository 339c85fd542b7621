"""Applications whose requests for /busy keep their threads: they sleep, or they compute."""

import time

#: Seconds of a request for /busy: it is longer than any measurement.
LONG = 600


def sleeping(environ, start_response):
    """Wait as if for a database."""
    if environ['PATH_INFO'] == '/busy':
        time.sleep(LONG)
    start_response('200 OK', [('Content-Length', '2')])
    return [b'OK']


def computing(environ, start_response):
    """Compute in Python, which needs the GIL."""
    until = time.monotonic() + LONG
    while environ['PATH_INFO'] == '/busy' and time.monotonic() < until:
        pass
    start_response('200 OK', [('Content-Length', '2')])
    return [b'OK']


def make_sleeping(global_conf):
    return sleeping


def make_computing(global_conf):
    return computing
