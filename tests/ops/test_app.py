"""egg:paste_wspbus#health: the probes inside a site, also those of Dockerflow."""

import json

import pytest
from webob import Request

from paste_wspbus import Bus
from paste_wspbus.errors import ConfigError
from paste_wspbus.ops.app import make_health
from paste_wspbus.reference import KEY, BusRef
from paste_wspbus.requests.filter import BusFilter
from tests.kit import Site, run
from tests.kit.processes import eventually
from tests.kit.sites import ask


@pytest.fixture
def bus():
    bus = Bus()
    yield bus
    bus.exit()


def app_of(bus, folder, **conf):
    return make_health({KEY: BusRef(bus), 'here': str(folder)}, **conf)


def answer(app, path, mounted='', method='GET'):
    request = Request.blank(path, method=method)
    request.script_name = mounted
    response = request.get_response(app)
    return response.status_code, json.loads(response.body or b'null')


def test_the_last_segment_of_the_path_names_the_page(bus, tmp_path):
    app = app_of(bus, tmp_path)
    bus.start()
    for path, mounted in (
        ('/ready', '/health'),
        ('/ready', ''),
        ('', '/ready'),
        ('/', '/ready'),
    ):
        status, told = answer(app, path, mounted)
        assert (status, told['ready']) == (200, True)
    assert answer(app, '/__lbheartbeat__')[0] == 200
    assert answer(app, '', '/__heartbeat__') == (200, {'healthy': True, 'checks': {}})
    assert answer(app, '/', '/probes')[1] == {'healthy': True, 'checks': {}}
    assert answer(app, '/other', '/probes')[0] == 404
    assert answer(app, '/ready', method='POST')[0] == 405
    assert answer(app, '/ready', method='HEAD') == (200, None)


def test_what_fails_is_said_and_why_only_if_details_are_asked_for(bus, tmp_path):
    closed, open_ = app_of(bus, tmp_path), app_of(bus, tmp_path, details='true')

    @bus.health('db')
    def db():
        raise OSError('no route to db://shop:pw@db')

    bus.start()
    eventually(lambda: answer(closed, '/health')[0] == 503)
    assert answer(closed, '/__heartbeat__')[0] == answer(closed, '/ready')[0] == 503
    assert answer(closed, '/__lbheartbeat__')[0] == answer(closed, '/live')[0] == 200
    assert 'no route' not in str(answer(closed, '/health')[1])
    assert 'no route to db://***@db' in str(answer(open_, '/health')[1])


def test_details_show_no_secret_of_the_ini(bus, tmp_path):
    path = tmp_path / 'site.ini'
    path.write_text('[app:main]\napi_key = planted-%(here)s%(more)s\n')
    conf = {'__file__': str(path), 'more': '-x', 'here': str(tmp_path)}
    app = make_health({KEY: BusRef(bus), **conf}, details='true')
    bus.health('mail')(lambda: f'refused: planted-{tmp_path}-x')
    bus.start()
    eventually(lambda: 'refused' in str(answer(app, '/health')[1]))
    (one,) = answer(app, '/health')[1]['checks']['mail']['processes']
    assert one['text'] == 'refused: ***'


def test_health_checks_do_not_count_for_max_requests(bus, tmp_path):
    health = app_of(bus, tmp_path)

    def site(environ, start_response):
        if environ['PATH_INFO'] == '/__heartbeat__':
            return health(environ, start_response)
        start_response('200 OK', [])
        return []

    app = BusFilter(site, bus)
    bus.start()
    for path in ('/__heartbeat__', '/', '/__heartbeat__'):
        response = Request.blank(path).get_response(app)
        assert response.status_code == 200
        response.app_iter.close()
    assert bus.plugins['requests'].served == 1


def test_a_drained_bus_is_not_ready(bus, tmp_path):
    app = app_of(bus, tmp_path)
    bus.start()
    bus.drained = True
    assert answer(app, '/ready')[0] == 503


def test_the_version_is_that_of_the_file(bus, tmp_path):
    assert answer(app_of(bus, tmp_path), '/__version__')[0] == 404
    (tmp_path / 'version.json').write_text('{"commit": "abc"}')
    assert answer(app_of(bus, tmp_path), '/__version__') == (200, {'commit': 'abc'})


@pytest.mark.parametrize(
    'conf, problem',
    [
        ({'detail': 'true'}, "did you mean 'details'"),
        ({'details': 'maybe'}, "details: 'maybe' is not true or false"),
        ({'version': 'missing.json'}, 'there is no file'),
        ({'version': 'list.json'}, 'is not a file with a JSON object'),
        ({'version': 'broken.json'}, 'is not a file with a JSON object'),
        ({'version': '.'}, 'is not a file with a JSON object'),
    ],
)
def test_a_wrong_setting_is_refused(bus, tmp_path, conf, problem):
    (tmp_path / 'list.json').write_text('[1]')
    (tmp_path / 'broken.json').write_text('{')
    with pytest.raises(ConfigError, match=problem):
        app_of(bus, tmp_path, **conf)


INI = """
[composite:main]
use = egg:Paste#urlmap
/ = hello
/__heartbeat__ = health
/__version__ = health

[app:hello]
use = egg:paste_wspbus#hello

[app:health]
use = egg:paste_wspbus#health

[server:main]
use = egg:waitress
listen = 127.0.0.1:0
"""


def test_a_composite_mounts_it(tmp_path):
    (tmp_path / 'version.json').write_text('{"version": "1"}')
    with Site(tmp_path, INI) as site:
        assert ask(site, '/__heartbeat__') == {'healthy': True, 'checks': {}}
        assert ask(site, '/__version__') == {'version': '1'}
        assert site.stop()[0] == 0
    wrong = INI.replace('#health', '#health\ndetails = maybe')
    done = run(tmp_path, 'site.ini', files={'site.ini': wrong})
    assert done.code == 2 and "site.ini details: 'maybe' is not true" in done.err.text
