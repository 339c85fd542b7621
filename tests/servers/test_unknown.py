"""Servers that wspserve does not know: their requests are answered, and they do not hold up a stop."""

import contextlib
import signal
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.kit import Site, eventually
from tests.kit.sites import APP

SITE = """
import asyncio
import ctypes
import time
from socketserver import ThreadingMixIn
from wsgiref import simple_server

ERRORS = {
    '/SystemExit': SystemExit(3),
    '/KeyboardInterrupt': KeyboardInterrupt(),
    '/CancelledError': asyncio.CancelledError(),
}


def pool(bus, global_conf):
    say('pool opened')
    yield
    say('pool closed')


def app(environ, start_response):
    path = environ['PATH_INFO']
    if path in ERRORS:
        raise ERRORS[path]
    if path == '/held':
        say('waiting')
        hold()
    if path == '/swallows':
        for _ in range(10):
            try:
                say('waiting')
                time.sleep(0.05)
            except BaseException:
                say('swallowed')
    if path == '/short':
        time.sleep(0.1)
    if path == '/exit':
        bus_of(environ).exit()
    start_response('200 OK', [('Content-Type', 'text/plain')])
    return slowly() if path == '/slowly' else [b'answered']


def slowly():
    yield b'ans'
    say('waiting')
    hold()
    yield b'wered'


class Handler(simple_server.WSGIRequestHandler):
    def log_message(self, *args):
        pass


class Threads(ThreadingMixIn, simple_server.WSGIServer):
    daemon_threads = True
    block_on_close = False


def serve_wsgiref(app, kind):
    server = simple_server.make_server('127.0.0.1', 0, app, kind, Handler)
    say(f'accepting on {server.server_port}.')
    with server:
        server.serve_forever()


def serve_werkzeug(app, threaded):
    from werkzeug.serving import make_server

    server = make_server('127.0.0.1', 0, app, threaded=threaded)
    say(f'accepting on {server.server_port}.')
    with server:
        server.serve_forever()


def serve_in_c(app):
    '''Never come back to Python: no signal ends pthread_mutex_lock(3).'''
    thread = threading.Thread(target=serve_wsgiref, args=(app, Threads), daemon=True)
    thread.start()
    lock, mutex = ctypes.CDLL(None).pthread_mutex_lock, ctypes.create_string_buffer(64)
    lock(mutex)
    lock(mutex)


SERVERS = {
    'wsgiref': lambda app: serve_wsgiref(app, simple_server.WSGIServer),
    'wsgiref-threads': lambda app: serve_wsgiref(app, Threads),
    'werkzeug': lambda app: serve_werkzeug(app, False),
    'werkzeug-threads': lambda app: serve_werkzeug(app, True),
    'c': serve_in_c,
}


def make_server(global_conf, name):
    return SERVERS[name]
"""

INI = """
[app:main]
use = call:webapp:make

[wspbus:main]
plugins = pool
stop_timeout = {}

[plugin:pool]
use = call:webapp:pool

[server:main]
use = call:webapp:make_server
name = {}
"""

IN_MAIN = ['wsgiref', 'werkzeug']
IN_THREADS = ['wsgiref-threads', 'werkzeug-threads']
each_server = pytest.mark.parametrize('server', IN_MAIN + IN_THREADS)


@contextlib.contextmanager
def site_of(tmp_path, server, timeout=20):
    ini, files = INI.format(timeout, server), {'webapp.py': APP + SITE}
    with Site(tmp_path, ini, '-v', files=files, wait=False) as site:
        site.expect('accepting on ')
        port = site.err.text.partition('accepting on ')[2].partition('.')[0]
        site.url = f'http://127.0.0.1:{port}'
        yield site


def whole_answer(client):
    """Whether the whole body comes, as it is or in chunks."""
    text = client.file.read()
    return text.endswith((b'answered', b'wered\r\n0\r\n\r\n')) and b' 200 ' in text


def lines_in_order(site, *texts):
    places = [site.err.text.index(text) for text in texts]
    return places == sorted(places)


@each_server
@pytest.mark.parametrize('signum', [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize('path', ['/held', '/slowly'])
def test_an_open_request_is_answered_before_anything_stops(
    tmp_path, server, signum, path
):
    with site_of(tmp_path, server) as site, site.connect() as client:
        client.send(path, version='1.0')
        site.expect('waiting')
        site.send(signum)
        site.expect('Stopping: ')
        site.release()
        assert whole_answer(client), site.report()
        assert site.wait() == 0, site.report()
        assert 'pool closed' in site.err.text
        assert 'Traceback' not in site.err.text, site.report()


@each_server
def test_a_request_that_ends_the_site_is_answered(tmp_path, server):
    with site_of(tmp_path, server) as site, site.connect() as client:
        client.send('/exit', version='1.0')
        assert whole_answer(client)
        assert site.wait() == 0, site.report()


@pytest.mark.parametrize('server', IN_MAIN)
def test_an_application_that_catches_everything_does_not_catch_the_stop(
    tmp_path, server
):
    with site_of(tmp_path, server) as site, site.connect() as client:
        client.send('/swallows', version='1.0')
        site.expect('waiting')
        site.send(signal.SIGINT)
        assert whole_answer(client)
        assert site.wait() == 0, site.report()
        assert 'swallowed' not in site.err.text


@pytest.mark.parametrize('server', IN_MAIN)
def test_a_server_of_one_thread_stops_under_load_and_cuts_nobody(tmp_path, server):
    def ask_until_it_is_gone():
        answers = []
        with contextlib.suppress(ConnectionError):
            while True:
                answers.append(site.get('/short').status)
        return answers

    with site_of(tmp_path, server, timeout=60) as site, ThreadPoolExecutor(3) as pool:
        clients = [pool.submit(ask_until_it_is_gone) for _ in range(3)]
        eventually(lambda: site.get('/').status == 200)
        began = time.monotonic()
        site.send(signal.SIGTERM)
        assert site.wait() == 0, site.report()
        assert time.monotonic() - began < 20
        assert 'The stop cuts' not in site.err.text
        for client in clients:
            assert {200} <= set(client.result()) <= {200, 503}


@each_server
def test_what_is_no_exception_costs_one_request(tmp_path, server):
    with site_of(tmp_path, server) as site:
        for name in ('SystemExit', 'KeyboardInterrupt', 'CancelledError'):
            assert site.get(f'/{name}').status == 500
            site.expect(f"raised {name} in 'GET' '/{name}'")
        assert site.get('/').body == b'answered'
        site.send(signal.SIGTERM)
        assert site.wait() == 0, site.report()


@each_server
@pytest.mark.parametrize(
    ('path', 'code', 'why'), [('/held', 1, 'computes'), ('/slowly', 0, 'a stream')]
)
def test_a_request_that_does_not_end_is_cut_and_every_part_stops(
    tmp_path, server, path, code, why
):
    with site_of(tmp_path, server, timeout=4) as site, site.connect() as client:
        client.send(path, version='1.0')
        site.expect('waiting')
        began = time.monotonic()
        site.send(signal.SIGTERM)
        assert site.wait() == code, site.report()
        assert 2.5 < time.monotonic() - began < 4.5
        assert f'GET {path}, in flight for' in site.err.text
        assert why in site.err.text
        assert lines_in_order(site, 'The stop cuts 1 request in flight', 'pool closed')


@pytest.mark.parametrize('server', ['wsgiref-threads', 'wsgiref'])
def test_a_second_signal_does_not_wait_for_a_request(tmp_path, server):
    with site_of(tmp_path, server, timeout=60) as site, site.connect() as client:
        client.send('/held', version='1.0')
        site.expect('waiting')
        began = time.monotonic()
        site.send(signal.SIGTERM)
        site.expect('Stopping: ')
        time.sleep(0.6)  # a person's second wish, not the echo of the first
        site.send(signal.SIGTERM)
        assert site.wait() == 0, site.report()
        assert time.monotonic() - began < 10
        assert 'pool closed' in site.err.text


@pytest.mark.parametrize('signum', [signal.SIGTERM, signal.SIGINT])
def test_a_server_that_never_comes_back_to_python_hears_signals_and_is_left(
    tmp_path, signum
):
    with site_of(tmp_path, 'c', timeout=6) as site:
        assert site.get('/').body == b'answered'
        began = time.monotonic()
        site.send(signum)
        assert site.wait() == 70, site.report()
        assert time.monotonic() - began < 7
        name = signal.Signals(signum).name
        assert site.err.text.count(f'Stopping: {name}') == 1
        assert 'The server does not return' in site.err.text
        assert 'pool closed' in site.err.text


@pytest.mark.parametrize('signum', [signal.SIGTERM, signal.SIGINT])
def test_such_a_server_is_left_at_once_after_a_second_signal(tmp_path, signum):
    with site_of(tmp_path, 'c', timeout=120) as site:
        site.send(signum)
        site.expect('Stopping: ')
        time.sleep(0.6)  # a person's second wish, not the echo of the first
        site.send(signum)
        began = time.monotonic()
        assert site.wait() == 70, site.report()
        assert time.monotonic() - began < 15
        assert 'pool closed' in site.err.text
