"""Real TurboGears sites on the bus: full-stack, minimal, and as `gearbox` makes them."""

import json
import re
import shutil
import signal
import subprocess

import pytest

from tests.environments import environment
from tests.kit import TIMEOUT, Site, counted, free_port
from tests.kit.places import DOCS, SITES

SITE = SITES / 'turbogears'
PAGE = DOCS / 'turbogears.md'


@pytest.fixture
def folder(tmp_path):
    """A copy of the site, which makes its ``data`` beside its .ini."""
    made = shutil.ignore_patterns('data', '__pycache__')
    return shutil.copytree(SITE, tmp_path / 'site', ignore=made)


def served(folder, *args, ini='site.ini', command='wspserve', **kwargs):
    programs = environment('turbogears') / 'bin'
    words = {
        'wspserve': [programs / 'wspserve'],
        'paster': [programs / 'paster', 'wspserve'],
        'gearbox': [programs / 'gearbox', 'serve', '-c'],
    }
    return Site(folder, None, ini, *args, command=words[command], **kwargs)


def run(folder, program, *args):
    """Run a program of the environment in ``folder``: what it printed."""
    done = subprocess.run(
        [environment('turbogears') / 'bin' / program, *args],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=TIMEOUT,
    )
    assert done.returncode == 0, f'{done.stdout}\n{done.stderr}'
    return done.stdout


def version():
    script = "from importlib.metadata import version; print(version('TurboGears2'))"
    return run(SITE, 'python', '-c', script).strip()


def what_counts(stderr):
    """The lines that tell of the bus's states, of what was opened, and of what closed."""
    pattern = r'INFO \[paste_wspbus\] (Bus \w+)|(.* opened|.* closed|waiting)'
    found = (re.fullmatch(pattern, line) for line in stderr.splitlines())
    return [match[1] or match[2] for match in found if match]


# -- the bus in app_globals -----------------------------------------------------------


@pytest.mark.parametrize('command', ['wspserve', 'paster'])
def test_a_full_stack_and_a_minimal_application_ride_one_bus(folder, command):
    with served(folder, command=command) as site:
        facts = {'in app_globals': True, 'in config': True, 'state': 'STARTED'}
        resources = ['index', 'pictures', 'numbers']
        full = facts | {'resources': resources, 'pictures': []}
        assert json.loads(site.get('/').body) == full, site.report()
        for count in (1, 2):
            minimal = json.loads(site.get('/counter').body)
            assert minimal == facts | {'count': count}
        assert site.get('/hang?title=dawn').status == 302
        with site.connect() as connection:
            connection.send('/wait', connection='close')
            site.expect('waiting\n')
            site.send(signal.SIGTERM)
            site.expect('Bus STOPPING')
            site.release()
            answer = json.loads(connection.receive().body)
        assert site.wait() == 0, site.report()
    # The database is open as long as a request may need it.
    assert answer == full | {'state': 'STOPPING', 'pictures': ['dawn']}
    assert what_counts(site.err.text) == [
        'Bus STARTING',
        'index opened',
        'gallery opened',
        'counter opened',
        'Bus STARTED',
        'waiting',
        'Bus STOPPING',
        'counter closed',
        'gallery closed',
        'index closed',
        'Bus STOPPED',
        'Bus EXITING',
        'Bus EXITED',
    ]


def test_app_globals_that_know_of_nothing_have_the_bus(folder):
    with served(folder, '-n', 'unaware') as site:
        assert site.get('/attribute').text == 'the bus'
        code, _, err = site.stop()
    assert code == 0
    assert 'WARNING' not in err


@pytest.mark.parametrize(
    ('app', 'present', 'place'),
    [
        ('own', 'number 12 to the harbour', 'app_globals.bus'),
        ('slotted', 'None', 'app_globals, which takes no attribute bus,'),
    ],
)
def test_app_globals_that_have_no_place_for_the_bus_stay_as_they_are(
    folder, app, present, place
):
    with served(folder, '-n', app) as site:
        assert site.get('/attribute').text == present
        code, _, err = site.stop()
    assert code == 0
    assert [line for line in err.splitlines() if 'WARNING' in line] == [
        f"WARNING [paste_wspbus] TurboGears {version()}: {place} is the site's own and "
        'stays as it is; the bus is not there'
    ]


def test_a_site_of_a_turbogears_whose_internals_moved_is_served_without_the_hook(
    folder,
):
    with served(folder, '-n', 'tomorrow') as site:
        assert site.get('/attribute').text == 'None'
        code, _, err = site.stop()
    assert code == 0
    [warning] = [line for line in err.splitlines() if 'WARNING' in line]
    assert f'TurboGears {version()}: its applications are served without' in warning


def test_under_gearbox_serve_the_filter_gives_app_globals_their_bus(folder):
    args = '--app-name', 'filtered'
    kwargs = {'env': {'PYTHONPATH': str(folder)}, 'wait': False}
    with served(folder, *args, command='gearbox', **kwargs) as site:
        site.expect('Serving on http://')
        site.url = re.search(r'Serving on (http://\S+)', site.err.text)[1]
        assert site.get('/attribute').text == 'the bus'
        site.stop(signal.SIGINT)
    assert 'WARNING [paste_wspbus]' not in site.err.text


# -- the site ----------------------------------------------------------------------


def test_sessions_and_mako_work(folder):
    with served(folder) as site:
        cookie = ''
        for number in (1, 2):
            hung = site.get('/hang?title=dawn', cookie=cookie)
            cookie = cookie or hung.headers['set-cookie'].partition(';')[0]
            path = '/' + hung.headers['location'].split('/', 3)[3]
            assert path == f'/picture/{number}'
            page = site.get(path, cookie=cookie)
            assert f'Picture {number} of {number}, hung {number}: Dawn.' in page.text
            assert '<a href="/">Bus</a> STARTED' in page.text
        assert site.stop()[0] == 0


def test_error_pages_and_static_files_work(folder):
    with served(folder) as site:
        for path, status in [('/nowhere', 404), ('/forbidden', 403), ('/fail', 500)]:
            page = site.get(path)
            assert page.status == status
            assert f'<title>A {status} Error has Occurred</title>' in page.text
        assert site.get('/hello.txt').text == 'A static file.\n'
        code, _, err = site.stop()
    assert code == 0
    assert 'LookupError: there is no ☃ picture' in err


def test_the_debugger_in_the_browser_works(folder):
    with served(folder, '-n', 'debugged') as site:
        page = site.get('/fail')
        assert page.status == 500
        assert 'there is no ☃ picture' in page.text
        assert site.stop()[0] == 0


def test_the_sites_own_tests_pass(folder):
    words = ['-m', 'pytest', '-q', '-p', 'no:cacheprovider', 'own_tests.py']
    said = run(folder, 'python', *words)
    expected = (folder / 'own_tests.py').read_text().count('\ndef test_')
    assert f'{expected} passed' in said


def test_the_example_of_the_page_runs(tmp_path):
    blocks = re.findall(r'```\w+\n# (\S+)\n(.*?)```', PAGE.read_text(), re.S)
    assert [name for name, _ in blocks] == ['site.ini', 'pictures.py']
    for name, text in blocks:
        (tmp_path / name).write_text(text.replace('port = 8080', 'port = 0'))
    with served(tmp_path) as site:
        assert re.fullmatch(r'SQLite 3[\d.]+, STARTED', site.get('/').text)
        assert site.stop()[0] == 0, site.report()


# -- a project as gearbox makes it ----------------------------------------------------

COMPOSED = """
from paste_wspbus.frameworks.inside import applications
from paste_wspbus.testing import composed
from tg.wsgiapp import TGApp

with composed('development.ini') as site:
    assert 'TurboGears' in site.get('/demo')
    [app] = [one for one in applications(site.app) if type(one) is TGApp]
    assert app.globals.bus is site.bus
"""


def test_a_project_that_gearbox_made_is_served_with_its_own_server(tmp_path):
    run(tmp_path, 'gearbox', 'quickstart', '--nosa', '--noauth', 'studio')
    project = tmp_path / 'studio'
    setup = 'from setuptools import setup; setup()'
    run(project, 'python', '-W', 'ignore', '-c', setup, '-q', 'egg_info')
    run(project, 'python', '-c', COMPOSED)
    ini, port = project / 'development.ini', free_port()
    assert 'use = egg:gearbox#wsgiref' in ini.read_text()
    ini.write_text(ini.read_text().replace('port = 8080', f'port = {port}'))
    with served(project, ini='development.ini', wait=False) as site:
        site.expect('Starting Standard HTTP server on ')
        site.url = f'http://127.0.0.1:{port}'
        assert 'TurboGears' in site.get('/demo').text
        assert site.get('/nowhere').status == 404
        code, _, err = site.stop()
    assert code == 0, site.report()
    assert 'Bus EXITED' in err
    assert 'WARN' not in err


def test_requests_are_counted_by_the_method_of_their_controller(folder):
    found = counted.routes(folder, lambda: served(folder), '/', '/counter', '/none')
    assert found == {
        ('2xx', 'gallery.controllers.root:RootController.index'): 1,
        ('2xx', 'counter:RootController.index'): 1,
        ('4xx', 'gallery.controllers.error:ErrorController.document'): 1,
    }
