"""cheroot and werkzeug as dataflake.wsgi offers them: known by what they are."""

import signal

import pytest

from tests.environments import environment
from tests.kit import Site, is_free
from tests.kit.sites import APP

SITE = """
def pool(bus, global_conf):
    say('pool opened')
    yield
    say('pool closed')


def app(environ, start_response):
    path = environ['PATH_INFO']
    if path == '/exit':
        raise SystemExit(3)
    if path == '/held':
        say('waiting')
        hold()
    start_response('200 OK', [('Content-Length', '8')])
    return [b'answered']
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
"""

SERVERS = {
    'cheroot': 'use = egg:dataflake.wsgi.cheroot#main\nhost = 127.0.0.1\nport = 0\n'
    'shutdown_timeout = 3\npeercreds_enabled = true\n',
    'werkzeug': 'use = egg:dataflake.wsgi.werkzeug#main\nhostname = 127.0.0.1\nport = 0\n'
    'threaded = true\n',
}
each_server = pytest.mark.parametrize('server', SERVERS)


def site_of(folder, server, *args, timeout=20, **kwargs):
    command = [environment('pyruvate') / 'bin' / 'wspserve']
    ini = INI.format(timeout) + SERVERS.get(server, server)
    files = {'webapp.py': APP + SITE}
    return Site(folder, ini, '-v', *args, files=files, command=command, **kwargs)


@each_server
@pytest.mark.parametrize('args', [(), ('--workers', '2')])
def test_an_open_request_is_answered(tmp_path, server, args):
    with site_of(tmp_path, server, *args) as site, site.connect() as client:
        assert site.get('/exit').status == 500
        client.send('/held')
        site.expect('waiting')
        site.send(signal.SIGTERM)
        site.expect('Bus STOPPING')
        site.release()
        assert client.receive().body == b'answered'
        assert site.wait() == 0, site.report()
        assert is_free(site.port)


@each_server
def test_a_request_that_does_not_end_is_cut(tmp_path, server):
    with site_of(tmp_path, server, timeout=4) as site, site.connect() as client:
        client.send('/held')
        site.expect('waiting')
        site.send(signal.SIGTERM)
        assert site.wait() == 1, site.report()
        assert 'GET /held, in flight for' in site.err.text
        assert 'pool closed' in site.err.text


@each_server
def test_listen_and_a_restart_in_place(tmp_path, server):
    with site_of(tmp_path, server, '--listen', '127.0.0.1:0') as site:
        site.send(signal.SIGHUP)
        site.wait_until_served(2)
        assert site.get().body == b'answered'
        assert site.stop()[0] == 0, site.report()


def test_werkzeug_without_threads_runs_as_it_would_by_itself(tmp_path):
    section = SERVERS['werkzeug'].replace('threaded = true', 'use_debugger = true')
    with site_of(tmp_path, section, wait=False) as site:
        site.expect('Running on http://127.0.0.1:')
        port = site.err.text.partition('Running on http://127.0.0.1:')[2].split()[0]
        site.url = f'http://127.0.0.1:{port}'
        with site.connect() as client:
            client.send('/held', version='1.0')
            site.expect('waiting')
            site.send(signal.SIGTERM)
            site.expect('Stopping: ')
            site.release()
            assert client.file.read().endswith(b'answered')
        assert site.wait() == 0, site.report()
        assert 'pool closed' in site.err.text
