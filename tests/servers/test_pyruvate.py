"""pyruvate, a server in Rust that Plone sites use: it hears signals, and stops in order."""

import contextlib
import signal
import socket
import time

import pytest

from tests.environments import environment
from tests.kit import Site, eventually, free_port, is_free
from tests.kit.sites import APP

SITE = """
import asyncio
import time

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
    if path == '/in_flight':
        text = str(len(bus_of(environ).plugins['requests'])).encode()
    else:
        text = b'answered'
    start_response('200 OK', [('Content-Length', str(len(text)))])
    return [text] if path != '/midway' else midway()


def midway():
    raise ValueError('midway')
    yield b''


def main_thread(global_conf, **conf):
    '''Make pyruvate as somebody's own factory does: nobody knows what it is.'''
    import pyruvate

    return lambda app: pyruvate.serve_paste(app, global_conf, **conf)
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
use = {}
socket = {}
workers = 2
"""


def site_of(folder, *args, use='egg:pyruvate#main', where=None, timeout=20, **kwargs):
    where = where or f'127.0.0.1:{free_port()}'
    command = [environment('pyruvate') / 'bin' / 'wspserve']
    files = {'webapp.py': APP + SITE}
    ini = INI.format(timeout, use, where)
    return Site(folder, ini, '-v', *args, files=files, command=command, **kwargs)


@pytest.mark.parametrize('signum', [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize('args', [(), ('--workers', '1')])
def test_it_hears_signals_and_answers_the_open_request(tmp_path, signum, args):
    where = f'127.0.0.1:{free_port()}'
    with contextlib.ExitStack() as stack:
        site = stack.enter_context(site_of(tmp_path, *args, where=where, wait=False))
        site.expect('Bus STARTED', 2 if args else 1)
        site.url = f'http://{where}'
        client = stack.enter_context(site.connect())
        client.send('/held')
        site.expect('waiting')
        site.send(signum)
        site.expect('Bus STOPPING')
        site.release()
        assert client.file.read().endswith(b'answered')
        assert site.wait() == 0, site.report()
        assert 'pool closed' in site.err.text
        # The system gives a signal from outside to any thread. The one that ends pyruvate is
        # for the main thread.
        stopping = site.err.text.partition('Bus STOPPING')[2]
        assert 'Interrupted system call' not in stopping
        assert is_free(site.port)


def test_it_listens_on_a_unix_socket(tmp_path):
    with site_of(tmp_path, where=str(tmp_path / 's')) as site:
        assert site.url == f'unix:{tmp_path / "s"}'
        assert site.get().body == b'answered'
        assert site.stop()[0] == 0


def test_a_port_that_is_taken_is_an_error(tmp_path):
    with socket.create_server(('127.0.0.1', 0)) as taken:
        where = f'127.0.0.1:{taken.getsockname()[1]}'
        with site_of(tmp_path, where=where, wait=False) as site:
            assert site.wait() == 1
            assert f'annot listen on {where}' in site.err.text
            assert 'pool closed' in site.err.text


def test_a_request_that_does_not_end_is_cut_and_every_part_stops(tmp_path):
    with site_of(tmp_path, timeout=4) as site, site.connect() as client:
        client.send('/held')
        site.expect('waiting')
        began = time.monotonic()
        site.send(signal.SIGTERM)
        assert site.wait() == 1, site.report()
        assert time.monotonic() - began < 4.5
        assert 'GET /held, in flight for' in site.err.text
        assert 'pool closed' in site.err.text


def test_what_is_no_exception_costs_one_request_and_none_remains_open(tmp_path):
    with site_of(tmp_path) as site:
        for path in ('/SystemExit', '/KeyboardInterrupt', '/CancelledError', '/midway'):
            assert site.get(path).status == 500
        eventually(lambda: site.get('/in_flight').body == b'1')
        assert site.stop()[0] == 0, site.report()


def test_it_serves_after_a_restart_in_place(tmp_path):
    with site_of(tmp_path) as site:
        site.send(signal.SIGHUP)
        site.wait_until_served(2)
        assert site.get().body == b'answered'
        assert site.stop()[0] == 0, site.report()


@pytest.mark.parametrize('signum', [signal.SIGTERM, signal.SIGINT])
def test_in_the_main_thread_it_is_stopped_by_the_signal_that_it_hears(tmp_path, signum):
    where = f'127.0.0.1:{free_port()}'
    with site_of(
        tmp_path, use='call:webapp:main_thread', where=where, wait=False
    ) as site:
        site.expect('pyruvate listening')
        site.url = f'http://{where}'
        with site.connect() as client:
            client.send('/held')
            site.expect('waiting')
            site.send(signum)
            if signum == signal.SIGTERM:  # SIGINT reaches Python when it has returned
                site.expect('Stopping: ')
            site.release()
            assert client.file.read().endswith(b'answered')
        assert site.wait() == 0, site.report()
        assert 'pool closed' in site.err.text
        assert site.err.text.count('Stopping: ') == 1


def test_a_second_signal_does_not_wait(tmp_path):
    with site_of(tmp_path, timeout=60) as site, contextlib.ExitStack() as stack:
        client = stack.enter_context(site.connect())
        client.send('/held')
        site.expect('waiting')
        site.send(signal.SIGTERM)
        site.expect('Bus STOPPING')
        time.sleep(0.6)  # a person's second wish, not the echo of the first
        site.send(signal.SIGTERM)
        assert site.wait() == 0, site.report()
        assert 'pool closed' in site.err.text
