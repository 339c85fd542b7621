"""Guests on the bus: the search, and real Pyramid, Flask and Django sites."""

import contextlib
import functools
import html
import json
import os
import re
import signal
import subprocess
import sys
import time
import types
import warnings
from importlib.metadata import version

import flask
import pytest

from paste_wspbus import frameworks
from paste_wspbus.bus import Bus, State
from paste_wspbus.frameworks import FRAMEWORKS, LIMIT, applications, guests, introduce
from paste_wspbus.handoff import BusRef, embedded_bus
from paste_wspbus.requests.filter import BusFilter
from tests.kit import BIN, TIMEOUT, Site, run
from tests.kit.places import DOCS, SITES

with warnings.catch_warnings():
    # WebOb imports cgi, and Pyramid pkg_resources, which Python and setuptools give up.
    warnings.simplefilter('ignore', DeprecationWarning)
    warnings.filterwarnings('ignore', 'pkg_resources is deprecated', UserWarning)
    from pyramid.config import Configurator
    from pyramid.exceptions import ConfigurationConflictError
    from pyramid.interfaces import INewRequest
    from pyramid.request import Request
    from pyramid.response import Response
    from webob import Request as Asked


class Log(list):
    def __call__(self, message, level=20):
        self.append((level, message))


class Wrapper:
    """A middleware that keeps its application under one name."""

    def __init__(self, **inside):
        self.__dict__.update(inside)

    def __call__(self, environ, start_response):
        raise AssertionError('The search calls nothing')


def leaf(environ, start_response):
    raise AssertionError('The search calls nothing')


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


# -- Flask ---------------------------------------------------------------------


def test_flask_has_the_bus_in_its_extensions():
    app, bus = flask.Flask('x'), Bus()
    assert introduce(BusFilter(app, bus), bus) == ['Flask']
    assert app.extensions['wspbus'] is bus


def test_a_subclass_of_flask_is_flask():
    class Shop(flask.Flask):
        pass

    app, bus = Shop('x'), Bus()
    assert introduce(app, bus) == ['Flask']
    assert app.extensions['wspbus'] is bus


@pytest.mark.parametrize(
    'own', ['mine', False, 0, {}, Bus()], ids=lambda own: type(own).__name__
)
def test_an_extension_of_the_sites_own_stays_and_is_one_warning(own):
    app, log = flask.Flask('x'), Log()
    app.extensions['wspbus'] = own
    two = flask.Flask('two')
    two.extensions['wspbus'] = own
    assert introduce(Wrapper(apps=[app, two]), Bus(), log) == []
    assert app.extensions['wspbus'] is own
    assert log == [
        (
            30,
            f"Flask {version('Flask')}: app.extensions['wspbus'] is the site's own and "
            'stays as it is; the bus is not there',
        )
    ]


def test_none_is_a_place_kept_free():
    app, bus = flask.Flask('x'), Bus()
    app.extensions['wspbus'] = None
    assert introduce(app, bus) == ['Flask']
    assert app.extensions['wspbus'] is bus


def test_an_application_that_is_composed_again_has_the_new_bus_without_a_warning():
    app, log = flask.Flask('x'), Log()
    first, second = Bus(), Bus()
    introduce(app, first, log)
    introduce(app, first, log)
    introduce(app, second, log)
    assert app.extensions['wspbus'] is second
    assert log == []


def test_one_flask_with_a_name_of_its_own_does_not_take_the_bus_from_another():
    own, other, bus, log = flask.Flask('own'), flask.Flask('other'), Bus(), Log()
    own.extensions['wspbus'] = 'mine'
    assert introduce(Wrapper(apps=[own, other]), bus, log) == ['Flask']
    assert other.extensions['wspbus'] is bus
    assert len(log) == 1


def test_a_bus_that_knows_neither_weak_references_nor_slots_can_be_given():
    class Small:
        __slots__ = ()

        def log(self, message, level):
            raise AssertionError(message)

    app, bus = flask.Flask('x'), Small()
    assert introduce(app, bus) == ['Flask']
    assert introduce(app, bus) == ['Flask']
    assert app.extensions['wspbus'] is bus


# -- Pyramid, without and with include -------------------------------------------


def configured(include=False, settings=None, **kwargs):
    config = Configurator(settings=settings or {}, **kwargs)
    if include:
        config.include('paste_wspbus.frameworks.pyramid')
    config.add_route('main', '/')
    config.add_view(view, route_name='main')
    return config


def view(request):
    same = request.bus is request.registry.wspbus
    return Response(f'{same} {type(request) is Request}')


def ask(app):
    return Asked.blank('/').get_response(app).text


def test_pyramid_has_the_bus_in_registry_and_request():
    app, bus = configured().make_wsgi_app(), Bus()
    assert introduce(BusFilter(app, bus), bus) == ['Pyramid']
    assert app.registry.wspbus is bus
    assert ask(app) == 'True True'


def test_no_request_pays_for_a_class_of_its_own():
    app = configured(True, {'wspbus': BusRef(Bus())}).make_wsgi_app()
    assert ask(app) == 'True True'


def test_pyramid_keeps_its_other_request_extensions():
    config = configured()
    config.add_request_method(lambda request: 'a', 'user', property=True)
    config.add_request_method(lambda request: 'b', 'hello')
    config.add_route('more', '/more')
    config.add_view(
        lambda request: Response(
            f'{request.user}{request.hello()}{request.bus is request.registry.wspbus}'
        ),
        route_name='more',
    )
    app = config.make_wsgi_app()
    introduce(app, Bus())
    assert Asked.blank('/more').get_response(app).text == 'abTrue'


def test_a_request_made_by_a_script_has_the_bus_too():
    from pyramid.scripting import prepare

    app, bus = configured().make_wsgi_app(), Bus()
    introduce(app, bus)
    with prepare(registry=app.registry) as env:
        assert env['request'].bus is bus


def test_a_request_method_of_the_sites_own_stays():
    for kwargs in ({}, {'property': True}, {'reify': True}):
        config, log = configured(), Log()
        config.add_request_method(lambda request: 'omnibus', 'bus', **kwargs)
        app, bus = config.make_wsgi_app(), Bus()
        introduce(app, bus, log)
        assert app.registry.wspbus is bus
        assert [text for _, text in log] == [
            f"Pyramid {version('pyramid')}: request.bus is the site's own and stays as "
            'it is; the bus is not there'
        ]
        assert ask(app) == 'False True' if not kwargs else 'False False'


def test_an_attribute_of_the_sites_own_request_class_stays():
    class OwnRequest(Request):
        @property
        def bus(self):
            return 'omnibus'

    app, log = configured(request_factory=OwnRequest).make_wsgi_app(), Log()
    introduce(app, Bus(), log)
    assert len(log) == 1
    assert ask(app) == 'False False'


def test_a_registry_attribute_of_the_sites_own_stays():
    app, log = configured().make_wsgi_app(), Log()
    app.registry.wspbus = 'mine'
    assert introduce(app, Bus(), log) == []
    assert app.registry.wspbus == 'mine'
    assert app.request_extensions is None
    assert [text for _, text in log] == [
        f"Pyramid {version('pyramid')}: registry.wspbus is the site's own and stays as "
        'it is; the bus is not there'
    ]


def test_pyramid_that_is_composed_again_has_the_new_bus():
    app, log, bus = configured().make_wsgi_app(), Log(), Bus()
    introduce(app, Bus(), log)
    introduce(app, bus, log)
    assert app.registry.wspbus is bus
    assert ask(app) == 'True True'
    assert log == []


def test_two_pyramid_applications_each_have_the_bus():
    one, two, bus = configured().make_wsgi_app(), configured().make_wsgi_app(), Bus()
    introduce(Wrapper(apps=[one, two]), bus)
    assert one.registry.wspbus is two.registry.wspbus is bus


def test_include_rides_the_bus_in_the_settings():
    bus = Bus()
    config = configured(True, {'wspbus': BusRef(bus)})
    assert config.registry.wspbus is bus
    app, log = config.make_wsgi_app(), Log()
    assert introduce(app, bus, log) == ['Pyramid']
    assert log == []
    assert ask(app) == 'True True'


def test_include_without_a_bus_rides_the_embedded_one():
    config = configured(True, {'wspbus': 'wspbus'})
    assert config.registry.wspbus is embedded_bus()


def test_the_search_replaces_the_embedded_bus_that_include_gave():
    app, bus, log = configured(True).make_wsgi_app(), Bus(), Log()
    introduce(app, bus, log)
    assert app.registry.wspbus is bus
    assert log == []


def test_include_leaves_a_registry_attribute_of_the_sites_own(caplog):
    config = Configurator(settings={'wspbus': BusRef(Bus())})
    config.registry.wspbus = 'mine'
    config.include('paste_wspbus.frameworks.pyramid')
    assert config.registry.wspbus == 'mine'
    [record] = caplog.records
    assert "registry.wspbus is the site's own" in record.getMessage()


def test_a_sites_own_request_method_wins_over_the_include():
    config, log, bus = Configurator(), Log(), Bus()
    config.registry.settings['wspbus'] = BusRef(bus)
    config.include('paste_wspbus.frameworks.pyramid')
    config.add_request_method(lambda request: 'omnibus', 'bus')
    app = config.make_wsgi_app()
    introduce(app, bus, log)
    assert app.request_extensions.methods['bus'](None) == 'omnibus'
    assert len(log) == 1


def steps(bus, name):
    def lifespan():
        bus.told.append(f'+{name}')
        yield name
        bus.told.append(f'-{name}')

    lifespan.__name__ = name
    return lifespan


def lifespans(*, names=(None, None, None), priorities=(None, None, None)):
    bus = Bus()
    bus.told = []
    config = configured(True, {'wspbus': BusRef(bus)})
    for function, name, priority in zip('abc', names, priorities, strict=True):
        config.add_lifespan(steps(bus, function), name, priority)
    return bus, config


def test_lifespans_start_in_order_and_stop_in_reverse():
    bus, config = lifespans()
    config.commit()
    bus.start()
    assert bus.resources == {'a': 'a', 'b': 'b', 'c': 'c'}
    bus.exit()
    assert bus.told == ['+a', '+b', '+c', '-c', '-b', '-a']


def test_lifespans_have_names_and_priorities():
    bus, config = lifespans(names=('x', 'y', 'z'), priorities=(60, 50, 40))
    config.commit()
    bus.start()
    assert bus.resources == {'x': 'a', 'y': 'b', 'z': 'c'}
    bus.exit()
    assert bus.told == ['+c', '+b', '+a', '-a', '-b', '-c']


def test_a_lifespan_is_added_when_the_configuration_is_committed():
    bus, config = lifespans()
    assert bus.lifespans == {}
    config.commit()
    assert list(bus.lifespans) == ['a', 'b', 'c']


def test_two_lifespans_of_one_name_are_a_conflict():
    _, config = lifespans(names=('x', 'x', None))
    with pytest.raises(ConfigurationConflictError, match='wspbus lifespan'):
        config.commit()


def test_lifespans_without_a_name_do_not_conflict():
    bus = Bus()
    bus.told = []
    config = configured(True, {'wspbus': BusRef(bus)})
    config.add_lifespan(steps(bus, 'a'))
    config.add_lifespan(steps(bus, 'a'))
    config.commit()
    assert list(bus.lifespans) == ['a', 'a-2']


def test_the_timeout_of_a_lifespan_is_the_buss():
    bus = Bus()
    config = configured(True, {'wspbus': BusRef(bus)})
    config.add_lifespan(steps(bus, 'a'), timeout=7)
    config.commit()
    assert bus.lifespans['a'].start_listener.timeout == 7


def test_including_it_twice_is_including_it_once():
    bus = Bus()
    config = configured(True, {'wspbus': BusRef(bus)})
    config.include('paste_wspbus.frameworks.pyramid')
    config.add_lifespan(steps(bus, 'a'))
    config.commit()
    assert list(bus.lifespans) == ['a']


def test_no_request_asks_whether_to_start_a_bus_that_has_an_owner():
    owned = configured(True, {'wspbus': BusRef(Bus())}).make_wsgi_app()
    embedded = configured(True).make_wsgi_app()
    assert handlers_of_requests(owned) == []
    assert len(handlers_of_requests(embedded)) == 1
    assert ask(owned) == 'True True'
    assert owned.registry.wspbus.state is State.STOPPED


def handlers_of_requests(app):
    handlers = app.registry.registeredHandlers()
    return [one for one in handlers if INewRequest in one.required]


# -- Django ------------------------------------------------------------------------

DJANGO = """
import json
import sys

from django.conf import settings
from paste_wspbus.bus import Bus
from paste_wspbus.frameworks import introduce

own = {own}
settings.configure(SECRET_KEY='x', STATIC_URL='/static/', **own)
from django.core.wsgi import get_wsgi_application
from django.contrib.staticfiles.handlers import StaticFilesHandler

app, told, buses = StaticFilesHandler(get_wsgi_application()), [], [Bus(), Bus()]
found = [
    introduce(app, bus, lambda message, level: told.append([level, message]))
    for bus in buses
]
print(json.dumps([
    found, told, settings.WSPBUS in buses and buses.index(settings.WSPBUS)
]))
"""


def django(tmp_path, own):
    (tmp_path / 'project.py').write_text(DJANGO.format(own=own))
    answer = subprocess.run(
        [sys.executable, 'project.py'],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=TIMEOUT,
    )
    assert answer.stderr == ''
    return json.loads(answer.stdout)


@pytest.mark.parametrize('own', [{}, {'WSPBUS': None}], ids=['nothing', 'None'])
def test_django_has_the_bus_in_its_settings_and_the_new_one_when_composed_again(
    tmp_path, own
):
    assert django(tmp_path, own) == [[['Django'], ['Django']], [], 1]


def test_a_django_setting_of_the_sites_own_stays(tmp_path):
    found, told, index = django(tmp_path, {'WSPBUS': 'mine'})
    assert (found, index) == ([[], []], False)
    assert told[0] == [
        30,
        f"Django {version('Django')}: settings.WSPBUS is the site's own and stays as "
        'it is; the bus is not there',
    ]
    assert len(told) == 2  # one in each composition


# -- real sites ----------------------------------------------------------------


def served(tmp_path, name, *args, **kwargs):
    return Site(tmp_path, None, SITES / name / 'site.ini', *args, **kwargs)


def modules_of(*names):
    """What has Python find the modules of sites elsewhere."""
    folders = [str(SITES / name) for name in names]
    if 'PYTHONPATH' in os.environ:
        folders.append(os.environ['PYTHONPATH'])
    return {'PYTHONPATH': os.pathsep.join(folders)}


def facts(site, path='/'):
    response = site.get(path)
    assert response.status == 200, site.report()
    return json.loads(response.body)


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
    lines = site.err.text.splitlines()
    # waitress's "Task queue depth is 1", on a busy machine
    lines = [line for line in lines if 'waitress.queue' not in line]
    return json.loads(response.body), lines


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
        assert facts(site) == PYRAMID_FACTS | {'resources': resources}
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
        assert facts(site) == PYRAMID_FACTS | {'resources': resources}
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
        assert facts(site) == expected
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
            answer = facts(site, part)
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
        answer = facts(site)
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
        answer = facts(site)
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

DOCS = DOCS


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
