"""Real sites of Pyramid, Flask, Django and CherryPy ride on the bus."""

import contextlib
import html
import json
import os
import re
import signal
import subprocess
import sys
from importlib.metadata import version

import pytest

from tests.kit import BIN, TIMEOUT, Site, run
from tests.kit.places import DOCS, SITES
from tests.kit.sites import ask
from tests.kit.supervised import said

# -- real sites ----------------------------------------------------------------


def served(tmp_path, name, *args, **kwargs):
    return Site(tmp_path, None, SITES / name / 'site.ini', *args, **kwargs)


def modules_of(*names):
    """What has Python find the modules of sites elsewhere."""
    folders = [str(SITES / name) for name in names]
    if 'PYTHONPATH' in os.environ:
        folders.append(os.environ['PYTHONPATH'])
    return {'PYTHONPATH': os.pathsep.join(folders)}


def stop_during_a_request(site, path='/wait'):
    """Stop it while a request waits: (what the request gets, lines on stderr)."""
    with site.connect() as connection:
        connection.send(path, connection='close')
        site.expect('waiting\n')
        site.send(signal.SIGTERM)
        site.release()
        response = connection.receive()
    assert response.status == 200, site.report()
    assert site.wait() == 0, site.report()
    return json.loads(response.body), said(site.err.text).splitlines()


PYRAMID_FACTS = {
    'same': True,
    'in environ': True,
    'state': 'STARTED',
    'request': 'pyramid.request.Request',
    'own class': False,
}


@pytest.mark.parametrize('command', ['wspserve', 'paster'])
@pytest.mark.parametrize('app', ['main', 'settings'])
def test_a_pyramid_site_that_includes_the_bus(tmp_path, app, command):
    with served(tmp_path, 'pyramid', '-n', app, command=command) as site:
        resources = {'database': 'database', 'pool': 'pool', 'post': 'mailer'}
        assert ask(site) == PYRAMID_FACTS | {'resources': resources}
        answer, lines = stop_during_a_request(site)
    assert answer['resources'] == resources
    assert lines == [
        'STOPPED while it is composed',
        'mailer opened',
        'database opened',
        'pool opened',
        'waiting',
        'pool closed',
        'database closed',
        'mailer closed',
    ]


def test_a_pyramid_site_that_knows_of_nothing_has_the_bus(tmp_path):
    with served(tmp_path, 'pyramid', '-n', 'plain') as site:
        resources = {'database': 'database', 'pool': 'pool'}
        assert ask(site) == PYRAMID_FACTS | {'resources': resources}
        answer, lines = stop_during_a_request(site)
    assert answer['resources'] == resources
    assert lines == [
        'database opened',
        'pool opened',
        'waiting',
        'pool closed',
        'database closed',
    ]


@pytest.mark.parametrize('command', ['wspserve', 'paster'])
@pytest.mark.parametrize('name', ['flask', 'django'])
def test_a_site_has_the_bus_where_its_people_look_for_it(tmp_path, name, command):
    index = ['index'] if name == 'django' else []
    with served(tmp_path, name, command=command) as site:
        resources = {one: one for one in ['database', 'pool', *index]}
        expected = {'in environ': True, 'state': 'STARTED', 'resources': resources}
        assert ask(site) == expected
        answer, lines = stop_during_a_request(site)
    assert answer['resources'] == resources
    assert lines == [
        'database opened',
        'pool opened by STARTING',
        *(f'{one} opened' for one in index),
        'waiting',
        *(f'{one} closed' for one in index),
        'pool closed by STOPPING',
        'database closed',
    ]


def test_three_frameworks_in_one_process_ride_one_bus(tmp_path):
    env = modules_of('django', 'pyramid', 'flask')
    with served(tmp_path, 'mixed', env=env) as site:
        resources = {'index', 'pool', 'pool-2', 'post', 'pool-3'}
        for part in ('/', '/api/', '/shop/'):
            answer = ask(site, part)
            assert answer['in environ']
            assert answer['state'] == 'STARTED'
            assert set(answer['resources']) == resources
        answer, lines = stop_during_a_request(site, '/shop/wait')
    assert set(answer['resources']) == resources
    opened = [line.partition(' ')[0] for line in lines if ' opened' in line]
    closed = [line.partition(' ')[0] for line in lines if ' closed' in line]
    assert opened == ['mailer', 'pool', 'index', 'pool', 'pool']
    assert closed == opened[::-1]


def test_a_site_with_an_extension_of_its_own_is_served_with_it(tmp_path):
    with served(tmp_path, 'flask', '-n', 'own') as site:
        assert site.get('/own').text == 'my own'
        code, _, err = site.stop()
    assert code == 0
    assert err.count("app.extensions['wspbus'] is the site's own and stays") == 1


def test_a_site_whose_frameworks_internals_moved_is_served_without_the_hook(tmp_path):
    with served(tmp_path, 'flask', '-n', 'tomorrow') as site:
        assert site.get('/served').text == 'False'
        code, _, err = site.stop()
    assert code == 0
    warning = f'Flask {version("Flask")}: its applications are served without the bus'
    assert err.count(warning) == 1


LOGGING = """
[loggers]
keys = root

[handlers]
keys = console

[formatters]
keys =

[logger_root]
level = INFO
handlers = console

[handler_console]
class = StreamHandler
args = (sys.stderr,)
"""


@contextlib.contextmanager
def under_pserve(tmp_path, ini, *args, name):
    words = [BIN / 'pserve', ini, *args]
    env = modules_of(name)
    with Site(tmp_path, None, command=words, wait=False, env=env) as site:
        site.expect('Serving on http://')
        site.url = re.search(r'Serving on (http://[\d.]+:\d+)', site.err.text)[1]
        assert ' opened' not in site.err.text
        yield site


@pytest.mark.parametrize('name', ['flask', 'django', 'cherrypy'])
def test_under_pserve_the_filter_gives_a_site_its_bus(tmp_path, name):
    ini = tmp_path / 'pserve.ini'
    ini.write_text(
        f"""
[filter:bus]
use = egg:paste_wspbus#bus

[app:site]
use = config:{SITES / name / 'site.ini'}

[pipeline:main]
pipeline = bus site

[server:main]
use = egg:waitress
listen = 127.0.0.1:0
{LOGGING}"""
    )
    with under_pserve(tmp_path, ini, name=name) as site:
        answer = ask(site)
        code, _, err = site.stop(signal.SIGINT)
    assert answer['state'] == 'STARTED'
    assert answer['resources']['pool'] == 'pool'
    assert answer.get('in environ', answer.get('engine')) is True
    pool = [line.partition(' by ')[0] for line in err.splitlines() if 'pool ' in line]
    assert pool == ['pool opened', 'pool closed']
    assert code == 0, site.report()


@pytest.mark.parametrize('app', ['main', 'filtered'])
def test_under_pserve_the_first_request_starts_the_bus_and_the_end_stops_it(
    tmp_path, app
):
    ini = SITES / 'pyramid' / 'pserve.ini'
    with under_pserve(tmp_path, ini, '-n', app, name='pyramid') as site:
        answer = ask(site)
        code, _, err = site.stop(signal.SIGINT)
    assert answer['same']
    assert answer['in environ'] is (app == 'filtered')
    assert answer['state'] == 'STARTED'
    lines = [line for line in err.splitlines() if line.endswith(('opened', 'closed'))]
    if app == 'main':
        assert lines == ['mailer opened', 'pool opened', 'pool closed', 'mailer closed']
    else:
        assert lines == []
    assert code == 0, site.report()


def test_prequest_starts_and_stops_what_its_request_needs(tmp_path):
    process = run(
        tmp_path,
        SITES / 'pyramid' / 'site.ini',
        '/',
        command=[BIN / 'prequest'],
        env=modules_of('pyramid'),
    )
    assert process.code == 0, process.report()
    assert '"state": "STARTED"' in process.out.text
    lines = process.err.text.splitlines()
    lines = [line for line in lines if line.endswith(('opened', 'closed'))]
    assert lines == ['mailer opened', 'pool opened', 'pool closed', 'mailer closed']


# -- in a test of the site's own ----------------------------------------------------


COMPOSING = """
import sys
import warnings

warnings.simplefilter('ignore')  # of what sites import
from paste_wspbus.testing import composed, served
from urllib.request import urlopen
import json

with composed(sys.argv[1]) as site:
    first = site.get('/').json
with served(sys.argv[1]) as site, urlopen(site.url) as response:
    again = json.load(response)
print(json.dumps([first, again, site.bus.exit_code]))
"""


@pytest.mark.parametrize('name', ['pyramid', 'flask', 'django', 'cherrypy'])
def test_a_site_is_composed_and_served_one_after_the_other_in_its_own_tests(
    tmp_path, name
):
    (tmp_path / 'test.py').write_text(COMPOSING)
    answer = subprocess.run(
        [sys.executable, 'test.py', SITES / name / 'site.ini'],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=TIMEOUT,
    )
    assert answer.returncode == 0, answer.stderr
    first, again, code = json.loads(answer.stdout)
    assert first['state'] == again['state'] == 'STARTED'
    # What AppConfig.ready adds is added once in a process.
    first['resources'].pop('index', None)
    assert first == again
    assert first['resources']['pool'] == 'pool'
    assert code == 0


# -- the pages of the documentation ------------------------------------------------


@pytest.mark.parametrize(
    ('page', 'expected'),
    [
        ('pyramid', 'SQLite 3.'),
        ('flask', 'SQLite 3.'),
        ('django', "{'Emma': 'Austen'}"),
        ('cherrypy', '3 pages'),
    ],
)
def test_the_example_of_a_frameworks_page_runs(tmp_path, page, expected):
    text = (DOCS / f'{page}.md').read_text()
    blocks = re.findall(r'```(?:ini|python)\n# ([\w.]+)[^\n]*\n(.*?)```', text, re.S)
    files = dict(blocks)
    assert len(files) == len(blocks) >= 2
    ini = re.sub(r'(port = |localhost:)\d+', r'\g<1>0', files.pop('site.ini'))
    with Site(tmp_path, ini, files=files) as site:
        answer = site.get('/')
        assert expected in html.unescape(answer.text), site.report()
        assert site.stop()[0] == 0, site.report()
