"""Plone's server of zc.buildout, and waitress_fastlisten: waitress, known by what it is."""

import signal

import pytest

from tests.environments import environment
from tests.kit import Connection, Site, free_port, is_free
from tests.kit.sites import APP

SITE = """
import os

if os.environ.get('SLOW'):
    say('loading')
    hold()


def app(environ, start_response):
    if environ['PATH_INFO'] == '/held':
        say('waiting')
        hold()
    start_response('200 OK', [('Content-Length', '8')])
    return [b'answered']
"""

#: As Plone's buildout recipe and its documentation write the section: the first key is
#: never used, and names what does not exist.
SERVERS = {
    'plone': """
[server:main]
paste.server_factory = plone.recipe.zope2instance:main
use = egg:plone.recipe.zope2instance#main
threads = 2
clear_untrusted_proxy_headers = false
max_request_body_size = 1073741824
asyncore_use_poll = True
""",
    'fastlisten': """
[server:main]
paste.server_factory = waitress_fastlisten:main
use = egg:waitress_fastlisten#main
""",
}
each_server = pytest.mark.parametrize('server', SERVERS)


def parts(server, where):
    ini = f'[app:main]\nuse = call:webapp:make\n{SERVERS[server]}{where}\n'
    command = [environment('zope') / 'bin' / 'wspserve']
    return ini, {'files': {'webapp.py': APP + SITE}, 'command': command}


@each_server
@pytest.mark.parametrize('key', ['listen', 'fast-listen'])
@pytest.mark.parametrize('args', [(), ('--workers', '2')])
def test_an_open_request_is_answered(tmp_path, server, key, args):
    ini, kit = parts(server, f'{key} = 127.0.0.1:0')
    with Site(tmp_path, ini, '-v', *args, **kit) as site, site.connect() as client:
        client.send('/held')
        site.expect('waiting')
        site.send(signal.SIGTERM)
        site.expect('Bus STOPPING')
        site.release()
        assert client.receive().body == b'answered'
        assert site.wait() == 0, site.report()
        assert is_free(site.port)


@each_server
def test_who_connects_while_the_site_is_loaded_waits(tmp_path, server):
    port = free_port()
    ini, kit = parts(server, f'fast-listen = 127.0.0.1:{port}')
    with Site(tmp_path, ini, **kit, env={'SLOW': '1'}, wait=False) as site:
        site.expect('loading')
        with Connection(('127.0.0.1', port)) as client:
            client.send('/')
            site.release()
            assert client.receive().body == b'answered'
        assert site.stop()[0] == 0, site.report()


@each_server
@pytest.mark.parametrize('key', ['listen', 'fast-listen'])
def test_listen_replaces_the_address_of_the_section(tmp_path, server, key):
    taken = free_port()
    ini, kit = parts(server, f'{key} = 127.0.0.1:{taken}')
    with Site(tmp_path, ini, '--listen', '127.0.0.1:0', **kit) as site:
        assert site.get().body == b'answered'
        assert is_free(taken)
        assert site.stop()[0] == 0, site.report()


@each_server
def test_two_addresses_are_a_mistake(tmp_path, server):
    ini, kit = parts(server, 'fast-listen = 127.0.0.1:0\nlisten = 127.0.0.1:0')
    with Site(tmp_path, ini, '--check', **kit, wait=False) as site:
        assert site.wait() == 2
        problem = 'fast-listen: it cannot be set together with listen'
        assert site.err.text == f'site.ini [server:main] {problem}\n'
