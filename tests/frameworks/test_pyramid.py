"""Pyramid: registry and request have the bus, without and with `include`."""

import warnings
from importlib.metadata import version

import pytest

from paste_wspbus.bus import Bus, State
from paste_wspbus.errors import NeedError
from paste_wspbus.frameworks import introduce
from paste_wspbus.handoff import BusRef, embedded_bus
from paste_wspbus.requests.filter import BusFilter
from tests.kit.guests import Log, Wrapper

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


def test_a_resource_is_in_the_registry_while_the_site_is_started():
    bus = Bus()
    config = configured(True, {'wspbus': BusRef(bus)})
    config.add_bus_resource('db')
    config.add_bus_resource('db', 'dbengine')
    config.commit()
    bus.told = []
    bus.lifespan(steps(bus, 'a'), name='db')  # also if it comes later
    bus.start()
    assert config.registry['db'] == config.registry['dbengine'] == 'a'
    bus.exit()
    assert 'db' not in config.registry and 'dbengine' not in config.registry


def test_a_resource_that_nobody_has_fails_the_start():
    bus = Bus()
    config = configured(True, {'wspbus': BusRef(bus)})
    config.add_bus_resource('bd')
    config.commit()
    with pytest.raises(NeedError, match='registry bd needs bd'):
        bus.start()


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
