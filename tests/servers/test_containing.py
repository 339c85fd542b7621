"""What an application raises that is no Exception costs that request alone, with each server."""

import itertools
import signal

import pytest

from tests.kit import Site, eventually, is_free
from tests.kit.sites import APP

RAISING = """
import asyncio

ERRORS = {
    'SystemExit': SystemExit(3),
    'KeyboardInterrupt': KeyboardInterrupt(),
    'CancelledError': asyncio.CancelledError(),
    'GeneratorExit': GeneratorExit(),
}


def pool(bus, global_conf):
    say('pool opened')
    yield
    say('pool closed')


class Body:
    def __init__(self, chunks, error=None, error_of_close=None):
        self.chunks, self.error, self.error_of_close = iter(chunks), error, error_of_close

    def __iter__(self):
        return self

    def __next__(self):
        for chunk in self.chunks:
            return chunk
        if self.error:
            raise self.error
        raise StopIteration

    def close(self):
        if self.error_of_close:
            raise self.error_of_close


class File:
    def __init__(self, error, error_of_close=None):
        self.error, self.error_of_close = error, error_of_close

    def read(self, size=-1):
        if self.error:
            raise self.error
        return b''

    def close(self):
        if self.error_of_close:
            raise self.error_of_close


def app(environ, start_response):
    _, place, name, *_ = environ['PATH_INFO'].split('/') + ['', '']
    if place == 'in_flight':
        start_response('200 OK', [('Content-Length', '1')])
        return [str(len(bus_of(environ).plugins['requests'])).encode()]
    error = ERRORS.get(name)
    if place == 'call':
        raise error
    if not place:
        start_response('200 OK', [('Content-Length', '5')])
        return [b'hello']
    write = start_response('200 OK', [('Content-Type', 'text/plain')])
    if place == 'started':
        raise error
    if place == 'first':
        return Body([], error)
    if place == 'later':
        return Body([b'some'], error)
    if place == 'close':
        return Body([b'whole'], None, error)
    if place == 'write':
        write(b'some')
        raise error
    if place == 'file':
        return environ['wsgi.file_wrapper'](File(error))
    if place == 'closed_file':
        return environ['wsgi.file_wrapper'](File(None, error))
"""

INI = """
[app:main]
use = call:webapp:make

[wspbus:main]
plugins = pool
stop_timeout = 15

[plugin:pool]
use = call:webapp:pool

[server:main]
host = 127.0.0.1
port = 0
"""

SERVERS = {
    'waitress': 'use = egg:waitress\nthreads = 2\nconnection_limit = 10\n',
    'cheroot': 'use = egg:paste_wspbus#cheroot\nnumthreads = 2\nmax = 2\n',
    'cherrypy': 'use = egg:paste_wspbus#cherrypy\nthread_pool = 2\nthread_pool_max = 2\n',
    'paste-pool': 'use = egg:Paste#http\nthreadpool_workers = 2\nthreadpool_spawn_if_under = 1\n',
    'paste-threads': 'use = egg:Paste#http\nuse_threadpool = false\n',
    'wsgiref': 'use = egg:paste_wspbus#wsgiref\n',
}
ERRORS = ['SystemExit', 'KeyboardInterrupt', 'CancelledError', 'GeneratorExit']

#: What the client gets, where the error comes from.
ANSWERS = {
    'call': (500, None),
    'started': (500, None),
    'first': (500, None),
    'later': (200, b'some'),
    'write': (200, b'some'),
    'close': (200, b'whole'),
}

each_server = pytest.mark.parametrize('server', SERVERS)


def site_of(tmp_path, server, *args):
    files = {'webapp.py': APP + RAISING}
    return Site(tmp_path, INI + SERVERS[server], '-v', *args, files=files)


def ask(site, path, version='1.1'):
    """The status and the body of one request, as far as they came; the server closes."""
    with site.connect() as client:
        head = (
            f'GET {path} HTTP/{version}\r\nHost: localhost\r\nConnection: close\r\n\r\n'
        )
        client.socket.sendall(head.encode())
        head, _, body = client.file.read().partition(b'\r\n\r\n')
    return int(head.split()[1]) if head else None, body


def still_serves_and_stops(site):
    assert ask(site, '/') == (200, b'hello')
    eventually(lambda: ask(site, '/in_flight')[1] == b'1')
    site.send(signal.SIGTERM)
    assert site.wait() == 0, site.report()
    assert 'pool closed' in site.err.text
    return is_free(site.port)


@each_server
def test_it_costs_that_request_alone_wherever_it_is_raised(tmp_path, server):
    with site_of(tmp_path, server) as site:
        for place, name in itertools.product(ANSWERS, ERRORS):
            status, body = ask(site, f'/{place}/{name}', version='1.0')
            expected, text = ANSWERS[place]
            assert (status, text or body) == (expected, body), (place, name)
        assert still_serves_and_stops(site)


@each_server
def test_it_is_logged_once_with_its_traceback_the_method_and_the_path(tmp_path, server):
    with site_of(tmp_path, server) as site:
        assert ask(site, '/call/SystemExit')[0] == 500
        site.expect("SystemExit in 'GET' '/call/SystemExit'")
        assert still_serves_and_stops(site)
        log = site.err.text
        assert log.count('SystemExit: 3') == 1
        assert log.count('raise error\n') == 1


# The others have no wrapper.
@pytest.mark.parametrize('server', ['waitress', 'wsgiref'])
@pytest.mark.parametrize('place', ['file', 'closed_file'])
def test_a_file_that_the_server_reads_may_raise_it(tmp_path, server, place):
    with site_of(tmp_path, server) as site:
        for name in ERRORS:
            ask(site, f'/{place}/{name}')
        assert still_serves_and_stops(site)


@pytest.mark.parametrize('server', ['waitress', 'cheroot'])
@pytest.mark.parametrize('args', [('--workers', '2'), ('--reload',)])
def test_a_worker_keeps_serving_after_each_error(tmp_path, server, args):
    with site_of(tmp_path, server, *args) as site:
        for name in ERRORS * 2:
            assert ask(site, f'/call/{name}')[0] == 500
        assert ask(site, '/') == (200, b'hello')
        site.send(signal.SIGTERM)
        assert site.wait() == 0, site.report()
        assert 'ended' not in site.err.text, site.report()
