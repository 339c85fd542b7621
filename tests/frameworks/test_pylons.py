"""Real Pylons sites on the bus: Pylons 1.0.3 as convert_pylons.py makes it of Python 3."""

import json
import re
import shutil
import signal
import subprocess

import pytest

from paste_wspbus.bus import Bus
from paste_wspbus.frameworks.guests import Taken
from paste_wspbus.frameworks.pylons import give_globals
from tests.environments import environment
from tests.kit import TIMEOUT, Site, counted
from tests.kit.places import DOCS, SITES

SITE = SITES / 'pylons'
PAGE = DOCS / 'pylons.md'


@pytest.fixture
def folder(tmp_path):
    """A copy of the site, which makes its ``data`` beside its .ini."""
    made = shutil.ignore_patterns('data', '__pycache__')
    return shutil.copytree(SITE, tmp_path / 'site', ignore=made)


def served(folder, *args, command='wspserve', **kwargs):
    programs = environment('pylons') / 'bin'
    words = {
        'wspserve': [programs / 'wspserve'],
        'paster': [programs / 'paster', 'wspserve'],
        'paster serve': [programs / 'paster', 'serve'],
    }
    return Site(folder, None, 'site.ini', *args, command=words[command], **kwargs)


def what_counts(stderr):
    """The lines that tell of the bus's states, of what was opened, and of what closed."""
    pattern = r'INFO \[paste_wspbus\] (Bus \w+)|(.* opened|.* closed|waiting)'
    found = (re.fullmatch(pattern, line) for line in stderr.splitlines())
    return [match[1] or match[2] for match in found if match]


# -- the bus in app_globals -----------------------------------------------------------


@pytest.mark.parametrize('command', ['wspserve', 'paster'])
def test_two_pylons_applications_under_one_urlmap_ride_one_bus(folder, command):
    with served(folder, command=command) as site:
        facts = {
            'in app_globals': True,
            'in config': True,
            'state': 'STARTED',
            'resources': ['index', 'letters', 'letters-2'],
            'letters': [],
        }
        for path in ('/', '/old/'):
            assert json.loads(site.get(path).body) == facts, site.report()
        assert site.get('/post?text=Hello').status == 302
        with site.connect() as connection:
            connection.send('/wait', connection='close')
            site.expect('waiting\n')
            site.send(signal.SIGTERM)
            site.expect('Bus STOPPING')
            site.release()
            answer = json.loads(connection.receive().body)
        assert site.wait() == 0, site.report()
    # The database is open as long as a request may need it.
    assert answer == facts | {'state': 'STOPPING', 'letters': ['Hello']}
    assert what_counts(site.err.text) == [
        'Bus STARTING',
        'index opened',
        'archive opened',
        'old opened',
        'Bus STARTED',
        'waiting',
        'Bus STOPPING',
        'old closed',
        'archive closed',
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
        f"WARNING [paste_wspbus] Pylons 1.0.3: {place} is the site's own and stays as "
        'it is; the bus is not there'
    ]


def test_a_site_of_a_pylons_whose_internals_moved_is_served_without_the_hook(folder):
    with served(folder, '-n', 'tomorrow') as site:
        assert site.get('/attribute').text == 'None'
        code, _, err = site.stop()
    assert code == 0
    [warning] = [line for line in err.splitlines() if 'WARNING' in line]
    assert 'Pylons 1.0.3: its applications are served without the bus' in warning


def own(**kwargs):
    return type('Globals', (), kwargs)()


def fails(self):
    raise LookupError('outside of a request')


@pytest.mark.parametrize(
    'free',
    [own(), own(bus=None), own(__slots__=('bus',)), own(__slots__=('bus', '__dict__'))],
    ids=['nothing', 'None', 'a slot', 'slots'],
)
def test_a_place_that_is_free_is_taken(free):
    first, second = Bus(), Bus()
    for bus in (first, first, second):
        assert give_globals(free, bus)
        assert free.bus is bus


@pytest.mark.parametrize(
    ('taken', 'place'),
    [
        (own(bus='omnibus'), 'app_globals.bus'),
        (own(bus=''), 'app_globals.bus'),
        (own(__getattr__=lambda self, name: name), 'app_globals.bus'),
        (own(bus=property(fails)), 'app_globals.bus'),
        (own(bus=property(lambda self: None)), 'app_globals, which takes no'),
        (own(__slots__=()), 'app_globals, which takes no attribute bus,'),
        (('a', 'tuple'), 'app_globals, which takes no attribute bus,'),
    ],
    ids=['text', 'empty', 'proxy', 'fails', 'read-only', 'slots', 'tuple'],
)
def test_what_is_the_sites_own_is_not_overwritten(taken, place):
    with pytest.raises(Taken) as caught:
        give_globals(taken, Bus())
    assert caught.value.place.startswith(place)
    assert 'bus' not in getattr(taken, '__dict__', {})


def test_a_bus_that_app_globals_took_themselves_is_left_alone():
    bus = Bus()
    assert give_globals(own(bus=property(lambda self: bus)), bus)


def test_a_site_without_app_globals_has_no_place_for_the_bus():
    assert give_globals(None, Bus()) is False


# -- the site ----------------------------------------------------------------------


def test_sessions_routes_and_mako_work(folder):
    with served(folder) as site:
        cookie = ''
        for number in (1, 2):
            posted = site.get('/post?text=Hi', cookie=cookie)
            cookie = cookie or posted.headers['set-cookie'].partition(';')[0]
            assert posted.status == 302
            path = '/' + posted.headers['location'].split('/', 3)[3]
            assert path == f'/letters/{number}'
            page = site.get(path, cookie=cookie)
            assert f'Letter {number} of {number}, posted {number}: Hi.' in page.text
            assert '<a href="/">Bus</a> STARTED' in page.text
        assert site.stop()[0] == 0


def test_error_pages_and_static_files_work(folder):
    with served(folder) as site:
        for path, status in [('/nowhere', 404), ('/forbidden', 403), ('/fail', 500)]:
            page = site.get(path)
            assert page.status == status
            assert f'<title>Server Error {status}</title>' in page.text
        assert site.get('/hello.txt').text == 'A static file.\n'
        assert site.get('/error/style/black.css').headers['content-type'] == 'text/css'
        code, _, err = site.stop()
    assert code == 0
    assert 'LookupError: there is no ☃ letter' in err


def test_the_debugger_in_the_browser_works(folder):
    with served(folder, '-n', 'debugged') as site:
        page = site.get('/fail')
        assert page.status == 500
        assert 'there is no ☃ letter' in page.text
        shown = site.get('/' + page.headers['x-debug-url'].split('/', 3)[3])
        assert shown.status == 200
        assert 'there is no ☃ letter' in shown.text
        assert site.stop()[0] == 0


def test_the_sites_own_tests_pass(folder):
    python = environment('pylons') / 'bin' / 'python'
    words = ['-m', 'pytest', '-q', '-p', 'no:cacheprovider', 'own_tests.py']
    tests = subprocess.run(
        [python, *words], cwd=folder, capture_output=True, text=True, timeout=TIMEOUT
    )
    assert tests.returncode == 0, tests.stdout
    expected = (folder / 'own_tests.py').read_text().count('\ndef test_')
    assert f'{expected} passed' in tests.stdout


# -- the page of the documentation ----------------------------------------------------


@pytest.fixture
def page(folder):
    """The site with the files of the page in the place of its own."""
    blocks = re.findall(r'```python\n# (\S+)\n(.*?)```', PAGE.read_text(), re.S)
    assert len(blocks) == 2
    for name, text in blocks:
        assert (folder / name).exists()
        (folder / name).write_text(text)
    return folder


def test_the_example_of_the_page_works_in_the_project(page):
    with served(page) as site:
        for path in ('/', '/old/'):
            assert re.fullmatch(r'SQLite 3[\d.]+, STARTED', site.get(path).text)
        assert site.stop()[0] == 0, site.report()


def test_under_paster_serve_the_filter_gives_app_globals_their_bus(page):
    env = {'PYTHONPATH': str(page), 'PYTHONUNBUFFERED': '1'}
    kwargs = {'env': env, 'wait': False}
    with served(page, '-n', 'filtered', command='paster serve', **kwargs) as site:
        assert site.out.wait_for('serving on '), site.report()
        site.url = re.search(r'serving on (http://\S+)', site.out.text)[1]
        assert re.fullmatch(r'SQLite 3[\d.]+, STARTED', site.get('/').text)
        site.stop(signal.SIGINT)
    assert what_counts(site.err.text)[-1] == 'Bus EXITED'
    assert 'WARNING' not in site.err.text


def test_requests_are_counted_by_controller_and_action(folder):
    paths = '/', '/letters/3', '/letters/4', '/none', '/nothing/here'
    found = counted.routes(folder, lambda: served(folder), *paths)
    status = next(status for status, route in found if route == 'page.letter')
    assert found == {
        ('2xx', 'page.index'): 1,
        (status, 'page.letter'): 2,
        ('4xx', '(unknown)'): 2,
    }
