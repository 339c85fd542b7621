"""Each response is closed and each request ends, whatever application and client do."""

import signal
import socket
import struct

import pytest

from tests.kit import Site, eventually
from tests.kit.sites import APP

MISBEHAVING = """
class Body:
    def __init__(self, path, chunks=(), error=None):
        self.path, self.chunks, self.error = path, iter(chunks), error

    def __iter__(self):
        return self

    def __next__(self):
        for chunk in self.chunks:
            return chunk
        if self.error:
            raise self.error
        raise StopIteration

    def close(self):
        if self.path.endswith('close'):
            hold()
        say(f'closed {self.path}.')


def app(environ, start_response):
    path = environ['PATH_INFO']
    if path == '/in_flight':
        start_response('200 OK', [('Content-Length', '1')])
        return [str(len(bus_of(environ).plugins['requests'])).encode()]
    if path == '/none':
        start_response('200 OK', [])
        return None
    if path == '/raises':
        raise ValueError(path)
    if path == '/never_started':
        return Body(path, [b'text'])
    if path == '/never_started_nor_filled':
        return Body(path)
    status = '204 No Content' if path.startswith('/no_content') else '200 OK'
    start_response(status, [])
    if path == '/started_twice':
        start_response(status, [])
    if path == '/text':
        return Body(path, ['text'])
    if path == '/first':
        return Body(path, [], ValueError(path))
    if path == '/midway':
        return Body(path, [b'some'], ValueError(path))
    if path.endswith('held'):
        say('waiting')
        hold()
    return Body(path, [] if path.startswith('/no_content') else [b'text'])
"""

INI = """
[app:main]
use = call:webapp:make

[wspbus:main]
stop_timeout = 15

[server:main]
host = 127.0.0.1
port = 0
"""

SERVERS = {
    'waitress': 'use = egg:waitress\nthreads = 2\n',
    'cheroot': 'use = egg:paste_wspbus#cheroot\nnumthreads = 2\nmax = 2\n',
    'cherrypy': 'use = egg:paste_wspbus#cherrypy\nthread_pool = 2\n',
    'paste-pool': 'use = egg:Paste#http\nthreadpool_workers = 2\nthreadpool_spawn_if_under = 1\n',
    'paste-threads': 'use = egg:Paste#http\nuse_threadpool = false\n',
    'wsgiref': 'use = egg:paste_wspbus#wsgiref\n',
}
each_server = pytest.mark.parametrize('server', SERVERS)

#: The status, or those that servers give for it; whether there is a response to close.
PATHS = {
    '/none': ({500}, False),
    '/raises': ({500}, False),
    '/started_twice': ({500}, False),
    '/never_started': ({500}, True),
    '/never_started_nor_filled': ({500, None}, True),
    '/first': ({500}, True),
    '/text': ({200, 500}, True),
    '/midway': ({200}, True),
    '/whole': ({200}, True),
    '/no_content': ({204}, True),
}


def site_of(tmp_path, server):
    files = {'webapp.py': APP + MISBEHAVING}
    return Site(tmp_path, INI + SERVERS[server], files=files)


def status_of(site, path, method='GET'):
    with site.connect() as client:
        head = (
            f'{method} {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n'
        )
        client.socket.sendall(head.encode())
        line = client.file.read().partition(b'\r\n')[0]
    return int(line.split()[1]) if line else None


def has_ended_all(site):
    """Whether nothing is in flight, so that a stop has nothing to wait for."""
    eventually(lambda: site.get('/in_flight').body == b'1')
    site.send(signal.SIGTERM)
    return site.wait() == 0


@each_server
def test_what_an_application_does_wrong(tmp_path, server):
    with site_of(tmp_path, server) as site:
        for path, (statuses, is_closed) in PATHS.items():
            assert status_of(site, path) in statuses, path
            if is_closed:
                site.expect(f'closed {path}.')
                assert site.err.text.count(f'closed {path}.') == 1
        assert status_of(site, '/whole', 'HEAD') == 200
        site.expect('closed /whole.', 2)
        assert has_ended_all(site), site.report()


@each_server
@pytest.mark.parametrize('path', ['/held', '/no_content_held'])
@pytest.mark.parametrize('method', ['GET', 'HEAD'])
def test_a_client_that_resets_before_the_response(tmp_path, server, path, method):
    with site_of(tmp_path, server) as site:
        with site.connect() as client:
            client.socket.sendall(
                f'{method} {path} HTTP/1.1\r\nHost: localhost\r\n\r\n'.encode()
            )
            site.expect('waiting')
            at_once = struct.pack('ii', 1, 0)
            client.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, at_once)
        site.release()
        site.expect(f'closed {path}.')
        assert has_ended_all(site), site.report()


@pytest.mark.parametrize('server', [one for one in SERVERS if one != 'waitress'])
@pytest.mark.parametrize(
    ('method', 'path'), [('GET', '/no_content/close'), ('HEAD', '/close')]
)
def test_a_response_without_a_body_does_not_wait_until_it_is_closed(
    tmp_path, server, method, path
):
    """As with each of these servers alone; waitress sends it afterwards."""
    with site_of(tmp_path, server) as site, site.connect() as client:
        client.socket.sendall(f'{method} {path} HTTP/1.1\r\nHost: a\r\n\r\n'.encode())
        assert client.file.readline().split()[1] in (b'200', b'204')
        assert 'closed' not in site.err.text
        site.release()
        site.expect(f'closed {path}.')
        assert has_ended_all(site), site.report()
