"""Plone, from the instance that Zope's mkwsgiinstance makes where Plone is installed."""

import re
import signal

import pytest

from tests.environments import environment
from tests.frameworks.published import Client, run, warnings_of_the_bus
from tests.kit import Site


@pytest.fixture(scope='session')
def programs():
    """The folder of the programs of an environment with Plone."""
    return environment('plone') / 'bin'


@pytest.fixture
def instance(programs, tmp_path):
    """An instance, whose zope.ini has the same bytes when the test is over."""
    words = '-d', tmp_path / 'instance', '-u', 'admin:secret'
    run(tmp_path, programs / 'mkwsgiinstance', *words)
    ini = tmp_path / 'instance' / 'etc' / 'zope.ini'
    written = ini.read_bytes()
    yield tmp_path / 'instance'
    assert ini.read_bytes() == written


def serve(programs, instance):
    words = 'etc/zope.ini', '--listen', '127.0.0.1:0'
    return Site(instance, None, *words, command=[programs / 'wspserve'])


NEW = {
    'site_id': 'shop',
    'title': 'The Shop',
    'description': '',
    'default_language': 'en',
    'portal_timezone': 'UTC',
    'setup_content': False,
}


def create(programs, instance):
    """Create a Plone site, and stop Zope meanwhile.

    That takes longer than a stop may take in a container, so this one may take more.
    """
    ini = instance / 'etc' / 'zope.ini'
    own = ini.read_text()
    ini.write_text(f'{own}\n[wspbus:main]\nstop_timeout = 120\n')
    with serve(programs, instance) as site:
        ini.write_text(own)
        plone = Client(site.port, auth='admin:secret')
        with plone.sent('POST', '/@sites/classic', NEW) as receive:
            site.expect('Applying main profile')
            site.send(signal.SIGTERM)
            site.expect('Bus STOPPING')
            answer = receive()
        assert (answer.status, answer.json['title']) == (200, 'The Shop')
        assert site.wait() == 0, site.report()
    text = site.err.text
    assert text.rindex('GenericSetup') > text.index('Bus STOPPING')
    assert warnings_of_the_bus(text) == []
    # Its own [handler_eventlog] has it in a file, and [handler_accesslog] the request.
    assert 'Bus EXITED' in (instance / 'var' / 'log' / 'event.log').read_text()
    access = (instance / 'var' / 'log' / 'Z4.log').read_text()
    assert '"POST /%40sites/classic HTTP/1.1" 200' in access


PATHS = ['/', '/@sites', '/shop', '/shop/walden', '/shop/@search', '/shop/nowhere']


def answers(site):
    """Pages for a browser and documents for a program."""
    browser, program = Client(site.port, Accept='text/html'), Client(site.port)
    return {
        (path, client.headers['Accept']): client('GET', path).seen()
        for client in (browser, program)
        for path in PATHS
    }


SAVED = """
from os.path import getsize

from ZODB.FileStorage import FileStorage
from ZODB.fsIndex import fsIndex

FileStorage('var/Data.fs', read_only=True).close()
assert fsIndex.load('var/Data.fs.index')['pos'] == getsize('var/Data.fs')
"""


def test_a_plone_site_that_is_made_while_zope_stops_is_there_as_under_runwsgi(
    programs, instance
):
    create(programs, instance)
    run(instance, programs / 'python', '-W', 'ignore', '-c', SAVED)
    with serve(programs, instance) as site:
        plone = Client(site.port, auth='admin:secret')
        page = {'@type': 'Document', 'title': 'Walden'}
        assert plone('POST', '/shop', page).status == 201
        publish = plone('POST', '/shop/walden/@workflow/publish')
        assert publish.status == 200, publish.text
        served = answers(site)
        assert site.stop()[0] == 0, site.report()
    assert (
        'property="og:title" content="Walden"'
        in served['/shop/walden', 'text/html'][-1]
    )
    own = [programs / 'runwsgi', own_ini(instance)]
    with Site(instance, None, command=own, wait=False) as site:
        site.expect('Serving on http://')
        [site.url] = re.findall(r'Serving on (http://\S+)', site.err.text)
        assert answers(site) == served


def own_ini(instance):
    """Zope's own command can be told its port by the file only."""
    ini = instance / 'etc' / 'own.ini'
    text = (instance / 'etc' / 'zope.ini').read_text()
    ini.write_text(text.replace('port = 8080', 'port = 0'))
    return ini


def test_the_check_finds_no_mistake_in_what_mkwsgiinstance_writes(programs, instance):
    told = run(instance, programs / 'wspserve', 'etc/zope.ini', '--check')
    assert told == 'etc/zope.ini: no mistakes found\n'
