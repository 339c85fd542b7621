"""Attacks on the ops listener of a real site, which the site itself must not notice."""

import contextlib
import resource
import socket

import pytest

from tests.kit import Site, free_port, ops, run
from tests.kit.clients import Connection
from tests.kit.processes import eventually
from tests.kit.sites import SERVED, ask

SITE = """
import threading

release = threading.Event()


def make(global_conf, password, **conf):
    return app


def app(environ, start_response):
    if environ['PATH_INFO'].startswith('/wait'):
        environ['wsgi.input'].read()
        release.wait()
    if environ['PATH_INFO'] == '/release':
        release.set()
    start_response('200 OK', [('Content-Type', 'application/json')])
    return [b'{}']
"""

INI = f"""
[wspbus:main]
workers = {{workers}}
ops = 127.0.0.1:{{port}} unix:ops.sock
ops_token = planted-token-123
{SERVED.replace('webapp:make', 'webapp:make' + chr(10) + 'password = planted-password')}
"""

each_mode = pytest.mark.parametrize('workers', [0, 1], ids=['alone', 'workers'])


@contextlib.contextmanager
def served(folder, workers):
    address = '127.0.0.1', free_port()
    ini = INI.format(workers=workers, port=address[1])
    with Site(folder, ini, files={'webapp.py': SITE}) as site:
        yield site, address


@pytest.fixture
def many_descriptors():
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(4096, before[1]), before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, before)


@each_mode
def test_a_thousand_open_connections_take_nothing_from_the_site(
    tmp_path, workers, many_descriptors
):
    with served(tmp_path, workers) as (site, address), contextlib.ExitStack() as stack:
        for number in range(1000):
            sock = stack.enter_context(ops.silent(address))
            if number % 2:
                with contextlib.suppress(OSError):  # it was closed for a later one
                    sock.sendall(b'GET /ready HTTP/1.1\r\nHost: localhost\r\nX: ')
        assert ask(site) == {}
        assert ops.get(address, '/ready').status == 200
        assert run(tmp_path, 'site.ini', 'status').code == 0
        assert site.stop()[0] == 0


@each_mode
def test_nothing_of_a_request_and_no_secret_is_shown(tmp_path, workers):
    with (
        served(tmp_path, workers) as (site, address),
        Connection(('127.0.0.1', site.port)) as client,
    ):
        client.socket.sendall(
            b'POST /wait/shown/planted-path?planted-query=1 HTTP/1.1\r\n'
            b'Host: planted-host\r\nCookie: planted-cookie\r\n'
            b'Content-Length: 12\r\n\r\nplanted-body'
        )
        unix = str(tmp_path / 'ops.sock')

        def is_seen():
            return ops.told(unix, '/status')[1]['status']['requests']

        eventually(is_seen)
        pages = ('/status', '/stacks', '/timeline', '/health', '/metrics', '/ready')
        texts = {page: ops.get(unix, page).text for page in pages}
        texts |= {f'tcp {page}': ops.get(address, page).text for page in pages}
        assert '/wait' in texts['/status'] and '/wait' in texts['/stacks']
        assert [page for page, text in texts.items() if 'planted' in text] == []
        ask(site, '/release')
        assert client.receive().status == 200
        assert site.stop()[0] == 0


@each_mode
def test_what_is_no_request_gets_an_answer_or_an_end(tmp_path, workers):
    with served(tmp_path, workers) as (site, address):
        host = b'Host: localhost\r\n'
        for data, status in (
            (b'\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n', 400),
            (b'GET /../../etc/passwd HTTP/1.1\r\n' + host + b'\r\n', 404),
            (b'GET /status/..%2fready HTTP/1.1\r\n' + host + b'\r\n', 404),
            (b'GET /ready HTTP/1.1\r\nHost: evil.example\r\n\r\n', 421),
            (
                b'POST /ready HTTP/1.1\r\n' + host + b'Content-Length: 5\r\n\r\nhello',
                405,
            ),
            (
                b'GET /ready HTTP/1.1\r\n' + host + b'X: ' + b'a' * 9000 + b'\r\n\r\n',
                431,
            ),
            (b'GET /status HTTP/1.1\r\n' + host + b'\r\n', 401),
        ):
            assert ops.send(address, data).status == status, data
        with ops.silent(address) as sock:
            sock.sendall(b'GET /ready HTTP/1.1\r\n')
            sock.shutdown(socket.SHUT_WR)
            assert sock.recv(1) == b''
        assert ops.get(address, '/ready').status == 200
        assert site.stop()[0] == 0
