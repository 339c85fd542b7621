"""How the applications of a site are found, and which frameworks are asked."""

import functools
import re
import subprocess
import sys
import time
import types
from importlib.metadata import version

import flask
import pytest

from paste_wspbus import frameworks
from paste_wspbus.bus import Bus
from paste_wspbus.frameworks import FRAMEWORKS, guests, introduce
from paste_wspbus.frameworks.inside import LIMIT, applications
from paste_wspbus.requests.filter import BusFilter
from tests.kit import TIMEOUT
from tests.kit.guests import Log, Wrapper, leaf


class Slotted(Wrapper):
    __slots__ = ('app',)

    def __init__(self, app):
        self.app = app


# -- the search ------------------------------------------------------------------


@pytest.mark.parametrize(
    'name', ['app', 'application', 'wrap_app', 'wsgi_app', '_app', 'wrapped']
)
def test_an_application_is_found_inside_a_wrapper(name):
    outer = Wrapper(**{name: leaf})
    assert list(applications(outer)) == [outer, leaf]


@pytest.mark.parametrize('name', ['apps', 'applications', 'mounts'])
@pytest.mark.parametrize(
    'collect',
    [
        lambda *apps: list(apps),
        lambda *apps: tuple(apps),
        lambda *apps: dict(zip('ab', apps, strict=True)),
        lambda *apps: [(('a.example', '/x'), app) for app in apps],
        lambda *apps: [[[app] for app in apps]],
    ],
    ids=['list', 'tuple', 'dict', 'pairs', 'nested'],
)
def test_applications_are_found_in_what_chooses_from_them(name, collect):
    one, two = Wrapper(), Wrapper()
    outer = Wrapper(**{name: collect(one, two)})
    assert list(applications(outer)) == [outer, one, two]


def test_applications_are_found_in_the_urlmap_and_the_cascade_of_paste():
    from paste.cascade import Cascade
    from paste.urlmap import URLMap

    one, two, three = Wrapper(), Wrapper(), Wrapper()
    urls = URLMap()
    urls['/a'] = one
    urls['http://b.example/'] = Cascade([two, three])
    found = list(applications(BusFilter(urls, Bus())))
    assert [app for app in found if type(app) is Wrapper] == [one, two, three]


def test_the_object_of_a_bound_method_is_an_application():
    outer = Wrapper(app=flask.Flask('x').wsgi_app)
    assert any(type(app) is flask.Flask for app in applications(outer))


def test_applications_under_a_replaced_wsgi_app_are_found():
    from werkzeug.middleware.dispatcher import DispatcherMiddleware

    outer, inner = flask.Flask('outer'), flask.Flask('inner')
    outer.wsgi_app = DispatcherMiddleware(outer.wsgi_app, {'/inner': inner})
    bus = Bus()
    assert introduce(outer, bus) == ['Flask']
    assert outer.extensions['wspbus'] is inner.extensions['wspbus'] is bus


def test_an_application_is_found_inside_a_function():
    def timed(app):
        @functools.wraps(app)
        def middleware(environ, start_response):
            return later(environ, app(environ, start_response))

        return middleware

    def logged(app):
        return lambda environ, start_response: app(environ, start_response)

    outer = logged(timed(logged(leaf)))
    assert leaf in list(applications(outer))
    later = None  # what a cell has, too
    assert leaf in list(applications(outer))


def test_an_application_is_found_inside_webobs_middleware():
    from webob.dec import wsgify

    @wsgify.middleware
    def middleware(request, app):
        raise AssertionError('The search calls nothing')

    assert leaf in list(applications(middleware(leaf)))


def test_an_application_is_found_inside_a_partial():
    assert leaf in list(applications(functools.partial(leaf, color='blue')))


def test_an_application_in_a_slot_is_found():
    outer = Slotted(leaf)
    assert list(applications(outer)) == [outer, leaf]


def test_an_empty_slot_hides_nothing_else():
    class HalfMade(Wrapper):
        __slots__ = ('app', 'application')

        def __init__(self):
            self.application = leaf

    assert list(applications(HalfMade()))[1:] == [leaf]


def test_a_circle_ends():
    one, two = Wrapper(), Wrapper()
    one.app, two.app = two, one
    one.apps = loop = [one, two]
    loop.append(loop)
    assert list(applications(one)) == [one, two]


def test_an_application_that_stands_in_two_places_is_offered_once():
    shared = Wrapper()
    outer = Wrapper(apps=[Wrapper(app=shared), Wrapper(app=shared), shared])
    assert list(applications(outer)).count(shared) == 1


@pytest.mark.parametrize('error', [RuntimeError, KeyError, TypeError, RecursionError])
def test_attributes_that_raise_are_passed_over(error):
    class Proxy(Wrapper):
        @property
        def app(self):
            raise error('outside of a request')

    outer = Proxy(application=leaf)
    assert list(applications(outer)) == [outer, leaf]


def test_an_object_that_raises_at_every_question_is_passed_over():
    class Hostile:
        def __getattribute__(self, name):
            raise RuntimeError(name)

        def __eq__(self, other):
            raise RuntimeError('eq')

        def __bool__(self):
            raise RuntimeError('bool')

        __hash__ = None

        def __call__(self, environ, start_response):
            raise AssertionError('The search calls nothing')

    bus, log, site = Bus(), Log(), flask.Flask('x')
    outer = Wrapper(apps=[Hostile(), site])
    assert introduce(outer, bus, log) == ['Flask']
    assert site.extensions['wspbus'] is bus
    assert log == []


def test_a_container_that_raises_is_passed_over():
    class Broken(list):
        def __iter__(self):
            raise RuntimeError('closed')

    outer = Wrapper(apps=Broken([Wrapper()]), app=leaf)
    assert list(applications(outer)) == [outer, leaf]


def test_a_container_without_an_end_is_read_up_to_the_limit():
    class Endless(list):
        def __iter__(self):
            while True:
                yield Wrapper()

    outer = Wrapper(apps=Endless())
    assert len(list(applications(outer))) == LIMIT - 1  # the list is one


def test_an_object_that_has_every_attribute_ends():
    class Endless(Wrapper):
        def __getattr__(self, name):
            return Endless()

    assert 1 < len(list(applications(Endless()))) <= LIMIT


def test_a_chain_longer_than_the_limit_is_followed_up_to_it():
    outer = functools.reduce(lambda app, _: Wrapper(app=app), range(2 * LIMIT), leaf)
    found = list(applications(outer))
    assert len(found) == LIMIT
    assert leaf not in found


def test_what_is_no_application_is_not_looked_into():
    class Settings:
        @property
        def app(self):
            raise AssertionError('It is looked into')

    outer = Wrapper(app=Settings(), application='text', apps=[b'bytes', 1, None])
    assert list(applications(outer)) == [outer]


def test_what_an_attribute_exits_with_is_not_swallowed():
    class Leaving(Wrapper):
        @property
        def app(self):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        list(applications(Leaving()))


# -- which frameworks are asked ------------------------------------------------


def use(monkeypatch, *known):
    monkeypatch.setattr(frameworks, 'FRAMEWORKS', known)


def framework(give, title='Test', distribution='Flask', module='flask'):
    return frameworks.Framework(title, distribution, module, give)


def test_a_framework_that_is_not_imported_is_neither_asked_nor_imported(tmp_path):
    (tmp_path / 'asks.py').write_text(
        'import sys\n'
        'from paste_wspbus.bus import Bus\n'
        'from paste_wspbus.frameworks import introduce\n'
        'class App:\n'
        '    def __getattribute__(self, name):\n'
        '        raise SystemExit(f"{name} is asked for")\n'
        '    def __call__(self, environ, start_response): pass\n'
        'assert introduce(App(), Bus()) == []\n'
        'modules = {name.partition(".")[0] for name in sys.modules}\n'
        'print(modules & {"flask", "django", "pyramid", "cherrypy"})\n'
    )
    answer = subprocess.run(
        [sys.executable, 'asks.py'],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=TIMEOUT,
    )
    assert (answer.stdout, answer.stderr) == ('set()\n', '')


def test_only_frameworks_that_are_imported_are_asked(monkeypatch):
    asked = []

    def asker(name):
        return lambda app, bus: asked.append(name)

    monkeypatch.setitem(sys.modules, 'forbidden', None)
    use(
        monkeypatch,
        framework(asker('here')),
        framework(asker('not here'), module='not_imported_anywhere'),
        framework(asker('forbidden'), module='forbidden'),
    )
    assert introduce(leaf, Bus()) == []
    assert asked == ['here']


def test_each_framework_found_is_named_once_from_the_outside_in(monkeypatch):
    use(
        monkeypatch,
        framework(lambda app, bus: app is leaf, 'Inner'),
        framework(lambda app, bus: app is not leaf, 'Outer'),
    )
    assert introduce(Wrapper(app=Wrapper(app=leaf)), Bus()) == ['Outer', 'Inner']


def test_a_hook_that_fails_is_one_warning_that_names_framework_and_version(
    monkeypatch,
):
    asked = []

    def moved(app, bus):
        asked.append(app)
        raise AttributeError("'App' object\nhas no attribute 'globals'")

    log = Log()
    use(monkeypatch, framework(moved), framework(lambda *_: True, 'Other'))
    assert introduce(Wrapper(apps=[leaf, Wrapper()]), Bus(), log) == ['Other']
    assert log == [
        (
            30,
            f'Test {version("Flask")}: its applications are served without the bus in '
            "their globals (AttributeError: 'App' object has no attribute 'globals')",
        )
    ]
    assert len(asked) == 1


@pytest.mark.parametrize('broken', [False, True], ids=['no metadata', 'broken'])
def test_a_version_that_nobody_knows_is_said_to_be_unknown(
    monkeypatch, tmp_path, broken
):
    if broken:
        folder = tmp_path / 'nosuchthing-1.dist-info'
        folder.mkdir()
        (folder / 'METADATA').write_text('Name: nosuchthing\n')
        monkeypatch.syspath_prepend(tmp_path)
    log = Log()
    use(monkeypatch, framework(lambda *_: 1 / 0, distribution='nosuchthing'))
    assert introduce(leaf, Bus(), log) == []
    assert log[0][1].startswith('Test (unknown version): its applications are served ')


def test_warnings_go_to_logging_if_nobody_else_takes_them(monkeypatch, caplog):
    use(monkeypatch, framework(lambda *_: 1 / 0))
    introduce(leaf, Bus())
    [record] = caplog.records
    assert (record.name, record.levelname) == ('paste_wspbus', 'WARNING')
    assert 'ZeroDivisionError' in record.getMessage()


def test_warnings_can_go_to_the_bus(monkeypatch):
    bus, told = Bus(), []
    bus.subscribe('log', lambda message, level: told.append((level, message)))
    use(monkeypatch, framework(lambda *_: 1 / 0))
    introduce(leaf, bus, bus.log)
    assert [level for level, _ in told] == [30]
    assert 'ZeroDivisionError' in told[0][1]


def test_an_exit_in_a_hook_is_not_swallowed(monkeypatch):
    def leaving(app, bus):
        raise SystemExit(3)

    use(monkeypatch, framework(leaving))
    with pytest.raises(SystemExit):
        introduce(leaf, Bus())


@pytest.mark.parametrize('known', FRAMEWORKS, ids=lambda known: known.title)
def test_a_framework_that_is_half_installed_is_one_warning(monkeypatch, known):
    package = known.module.partition('.')[0]
    for name in [n for n in sys.modules if n.partition('.')[0] == package]:
        monkeypatch.delitem(sys.modules, name)
    parts = known.module.split('.')
    for end in range(len(parts)):
        name = '.'.join(parts[: end + 1])
        half = types.ModuleType(name)
        half.__path__ = []
        monkeypatch.setitem(sys.modules, name, half)
    log = Log()
    use(monkeypatch, known)
    assert introduce(Wrapper(app=leaf), Bus(), log) == []
    assert len(log) == 1
    title = f'{known.title} {guests.version_of(known.distribution)}: '
    assert log[0][1].startswith(title)
    assert re.search(r'\((ImportError|ModuleNotFoundError): ', log[0][1])


def test_the_largest_site_is_searched_in_five_milliseconds():
    def wrapped(app):
        return functools.reduce(lambda app, _: Wrapper(app=app), range(4), app)

    parts = [wrapped(flask.Flask(f'app{number}')) for number in range(5)]
    parts += [wrapped(leaf) for _ in range(40)]
    site = BusFilter(Wrapper(applications=[(('', '/x'), app) for app in parts]), Bus())
    assert len(list(applications(site))) > 180

    def cost():
        start = time.thread_time()
        assert introduce(site, Bus()) == ['Flask']
        return time.thread_time() - start

    assert min(cost() for _ in range(20)) < 0.005
