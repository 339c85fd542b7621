"""How an .ini becomes a site, and how the bus reaches each of its parts."""

import copy
import gc
import json
import pickle
import signal
import sys
from importlib import metadata

import pytest

from paste_wspbus.bus import Bus, State
from paste_wspbus.handoff import BusRef, embedded_bus, get_bus
from paste_wspbus.ini.factories import REQUIRED
from paste_wspbus.ini.file import ConfigLoader
from paste_wspbus.ini.includes import files_of
from paste_wspbus.ini.settings import default_stop_timeout
from paste_wspbus.plugins import Plugin, on
from paste_wspbus.requests.filter import BusFilter
from tests.kit import Site, run, write
from tests.kit.sites import ask
from tests.kit.supervised import said

PROBE = '''
import json
import logging
import os

from paste_wspbus.bus import Bus
from paste_wspbus.handoff import BusRef, get_bus
from paste_wspbus.plugins import Plugin, on

seen = []
#: What the command plugs in.
DEFAULT = {'sitelog', 'signals', 'server', 'threads', 'restart'}


def say(text):
    os.write(2, (text + '\\n').encode())


def facts(conf):
    return {
        key: 'a reference' if isinstance(value, BusRef) else value
        for key, value in conf.items()
    }


def make(global_conf, **conf):
    bus = get_bus(global_conf)

    def app(environ, start_response):
        start_response('200 OK', [('Content-Type', 'application/json')])
        mine = environ['wspbus.bus']
        return [json.dumps({
            'conf': facts(conf),
            'global_conf': facts(global_conf),
            'text': str(global_conf['wspbus']),
            'same': bus is mine and conf.get('x', BusRef(bus)).bus is mine,
            'in_flight': len(mine.plugins['requests']),
            'resources': mine.resources,
            'plugins': sorted(set(mine.plugins) - DEFAULT),
            'settings': [mine.drain_delay, mine.stop_timeout, mine.start_timeout],
            'bus': type(mine).__name__,
            'seen': seen,
            'filtered': environ.get('filtered', []),
        }).encode()]

    return app


def make_filter(global_conf, name):
    bus = get_bus(global_conf)
    def filter(app):
        def filtered(environ, start_response):
            environ.setdefault('filtered', []).append(name)
            if 'wspbus.bus' in environ:
                assert environ['wspbus.bus'] is bus
            return app(environ, start_response)
        return filtered
    return filter


def lifespan(bus, global_conf, **conf):
    say('open %s' % conf['name'])
    yield conf
    say('close %s' % conf['name'])


class Recorder:
    """A plugin with a subscribe() of its own."""

    def __init__(self, bus, global_conf, **conf):
        self.bus, self.conf = bus, conf

    def subscribe(self):
        say('subscribed')
        self.bus.subscribe('before_request', self.before)
        self.bus.subscribe('after_request', self.after)

    def before(self, environ):
        seen.append('before ' + environ['PATH_INFO'])

    def after(self, environ):
        seen.append('after ' + environ['PATH_INFO'])


class Marked(Plugin):
    channels = ('tea',)

    def __init__(self, bus, global_conf):
        super().__init__(bus)

    @on('tea')
    def tea(self):
        say('tea time')

    @on('drain')
    def drain(self):
        say('draining')


def subscribe_only(bus, global_conf):
    bus.subscribe('start', lambda: say('a function started'))


class OwnBus(Bus):
    def log(self, msg='', level=20, traceback=False):
        say('own: ' + msg)
        super().log(msg, level, traceback)


def own_bus(global_conf):
    bus = OwnBus()
    bus.made_from = sorted(global_conf)
    say('made from %s' % ' '.join(sorted(global_conf)))
    return bus
'''

LISTEN = ('--listen', '127.0.0.1:0')
APP = '[app:main]\nuse = call:probe:make\n'


def probe_site(tmp_path, ini, *args, files=None, **kwargs):
    files = {'probe.py': PROBE, **(files or {})}
    return Site(tmp_path, ini, *LISTEN, *args, files=files, **kwargs)


def ask_in_turn(site, *paths):
    """On one connection: a request begins when the one before has ended."""
    with site.connect() as connection:
        return [json.loads(connection.get(path).body) for path in paths]


def facts(tmp_path, ini, *args, path='/', **kwargs):
    """What the probe says of a site that is started for it and stopped cleanly."""
    with probe_site(tmp_path, ini, *args, **kwargs) as site:
        answer = ask(site, path)
        assert site.stop()[0] == 0, site.report()
        assert 'Traceback' not in site.err.text
    return answer


# -- BusRef, get_bus ------------------------------------------------------------


def test_a_reference_is_the_text_wspbus_with_a_bus():
    bus = Bus()
    ref = BusRef(bus)
    assert ref == 'wspbus'
    assert isinstance(ref, str)
    assert ref.bus is bus
    assert '%' not in ref


@pytest.mark.parametrize(
    'duplicate',
    [
        copy.copy,
        copy.deepcopy,
        str,
        *(
            lambda ref, protocol=protocol: pickle.loads(pickle.dumps(ref, protocol))
            for protocol in range(pickle.HIGHEST_PROTOCOL + 1)
        ),
    ],
)
def test_a_duplicate_of_a_reference_is_a_plain_string(duplicate):
    made = duplicate(BusRef(Bus()))
    assert type(made) is str
    assert made == 'wspbus'


def test_a_configuration_with_a_reference_can_be_copied_and_pickled():
    conf = {'wspbus': BusRef(Bus()), 'debug': 'true'}
    for made in (copy.deepcopy(conf), pickle.loads(pickle.dumps(conf))):
        assert made == conf
        assert type(made['wspbus']) is str


def test_get_bus_reads_the_reference():
    bus = Bus()
    assert get_bus({'wspbus': BusRef(bus)}) is bus


@pytest.mark.parametrize('conf', [None, {}, {'wspbus': 'wspbus'}, {'debug': 'true'}])
def test_get_bus_without_a_reference_is_the_embedded_bus(conf):
    assert get_bus(conf) is embedded_bus()
    assert get_bus(conf) is get_bus()


# -- how it travels ----------------------------------------------------------------


def test_the_bus_reaches_an_application(tmp_path):
    answer = facts(tmp_path, APP)
    assert answer['same']
    assert answer['text'] == 'wspbus'
    assert answer['global_conf']['wspbus'] == 'a reference'
    assert answer['in_flight'] == 1


def test_the_bus_travels_through_get(tmp_path):
    answer = facts(tmp_path, APP + 'get x = wspbus\n')
    assert answer['conf'] == {'x': 'a reference'}
    assert answer['same']


@pytest.mark.parametrize(
    'use', ['config:other.ini', 'config:other.ini#main', 'config:sub/deep.ini']
)
def test_the_bus_travels_into_another_file(tmp_path, use):
    answer = facts(
        tmp_path,
        f'[DEFAULT]\nshared = outer\n[app:main]\nuse = {use}\nown = 1\n',
        files={
            'other.ini': APP + 'get x = wspbus\nset more = inner\n',
            'sub/deep.ini': '[app:main]\nuse = config:../other.ini\n',
        },
    )
    assert answer['same']
    assert answer['conf'] == {'x': 'a reference', 'own': '1'}
    assert answer['global_conf']['shared'] == 'outer'
    assert answer['global_conf']['more'] == 'inner'


def test_the_bus_travels_through_a_composite_and_into_other_files(tmp_path):
    ini = """
        [composite:main]
        use = egg:Paste#urlmap
        / = front
        /back = config:other.ini
        /named = config:other.ini#named

        [app:front]
        use = call:probe:make
        get x = wspbus
        """
    other = APP + 'get x = wspbus\n\n[app:named]\nuse = main\n'
    with probe_site(tmp_path, ini, files={'other.ini': other}) as site:
        for answer in ask_in_turn(site, '/', '/back', '/named'):
            assert answer['same']
            assert answer['in_flight'] == 1
        assert site.stop()[0] == 0


# -- the filter ------------------------------------------------------------------------

PARTS = """
[app:probe]
use = call:probe:make

[filter:bus]
use = egg:paste_wspbus#bus

[filter:one]
use = call:probe:make_filter
name = one

[wspbus:main]
plugins = recorder

[plugin:recorder]
use = call:probe:Recorder
"""

FILTERS = {
    'none': '[app:main]\nuse = probe\n',
    'filter-with': '[app:main]\nuse = probe\nfilter-with = bus\n',
    'filter-with a URI': '[app:main]\nuse = probe\nfilter-with = egg:paste_wspbus#bus\n',
    'pipeline': '[pipeline:main]\npipeline = bus one probe\n',
    'pipeline, not first': '[pipeline:main]\npipeline = one bus probe\n',
    'pipeline, twice': '[pipeline:main]\npipeline = bus one bus bus probe\n',
    'filter-app': '[filter-app:main]\nuse = egg:paste_wspbus#bus\nnext = probe\n',
    'filter-app of a pipeline': '[filter-app:main]\nuse = egg:paste_wspbus#bus\nnext = p\n'
    '[pipeline:p]\npipeline = one bus probe\n',
    'composite of filtered': '[composite:main]\nuse = egg:Paste#urlmap\n/ = filtered\n'
    '[app:filtered]\nuse = probe\nfilter-with = bus\n',
}


@pytest.mark.parametrize('kind', FILTERS)
def test_a_request_is_counted_once_however_it_is_filtered(tmp_path, kind):
    with probe_site(tmp_path, FILTERS[kind] + PARTS) as site:
        first, second = ask_in_turn(site, '/1', '/2')
        assert first['same']
        assert (first['in_flight'], second['in_flight']) == (1, 1)
        assert first['seen'] == ['before /1']
        assert second['seen'] == ['before /1', 'after /1', 'before /2']
        assert first['filtered'] == (['one'] if 'one' in FILTERS[kind] else [])
        assert site.stop()[0] == 0


CHECKED = """
[filter:checks]
use = {checks}

[filter:bus]
use = egg:paste_wspbus#bus

[app:probe]
use = call:probe:make

[pipeline:main]
pipeline = {filters} probe
"""


@pytest.mark.parametrize('checks', ['egg:Paste#lint', 'call:checks:make_validator'])
@pytest.mark.parametrize('filters', ['checks bus', 'bus checks', 'checks'])
def test_the_bus_keeps_the_rules_of_pep_3333(tmp_path, checks, filters):
    """The checks stand before the filter, behind it, or inside wspserve's own."""
    files = {
        'checks.py': """
            from wsgiref.validate import validator

            def make_validator(global_conf):
                return validator
            """
    }
    ini = CHECKED.format(checks=checks, filters=filters)
    with probe_site(tmp_path, ini, files=files) as site:
        assert ask(site, '/1')['same']
        assert ask(site, '/2')['same']
        assert site.stop()[0] == 0
    assert said(site.err.text) == ''


class Body:
    """A response's body that tells when it is closed."""

    def __init__(self, parts, log):
        self.parts, self.log = parts, log

    def __iter__(self):
        return iter(self.parts)

    def close(self):
        self.log.append('closed')


def request(app, path='/', **environ):
    environ.update(PATH_INFO=path, REQUEST_METHOD='GET')
    return app(environ, lambda status, headers, exc_info=None: None)


def test_a_request_ends_when_its_body_is_closed():
    log, bus = [], Bus()
    bus.subscribe('before_request', lambda environ: log.append('before'))
    bus.subscribe('after_request', lambda environ: log.append('after'))
    app = BusFilter(lambda environ, start_response: Body([b'a', b'b'], log), bus)
    body = request(app)
    assert len(bus.plugins['requests']) == 1
    assert list(body) == [b'a', b'b']
    assert len(bus.plugins['requests']) == 1
    body.close()
    assert log == ['before', 'closed', 'after']
    assert not bus.plugins['requests']
    body.close()
    assert log.count('after') == 1


def test_a_body_keeps_its_length():
    bus = Bus()
    sized = request(BusFilter(lambda *_: [b'one'], bus))
    assert len(sized) == 1
    unsized = request(BusFilter(lambda *_: iter([b'one']), bus))
    assert not hasattr(unsized, '__len__')
    for body in (sized, unsized):
        body.close()
    assert not bus.plugins['requests']


def test_a_file_wrapper_stays_what_it_is():
    log, bus = [], Bus()

    class FileWrapper(Body):
        pass

    body = request(
        BusFilter(lambda *_: FileWrapper([b'x'], log), bus),
        **{'wsgi.file_wrapper': FileWrapper},
    )
    assert type(body) is FileWrapper
    assert len(bus.plugins['requests']) == 1
    body.close()
    assert log == ['closed']
    assert not bus.plugins['requests']


def raise_error(*_):
    raise RuntimeError('no such luck')


def test_a_request_that_raises_has_ended():
    log, bus = [], Bus()
    bus.subscribe('after_request', lambda environ: log.append(environ['PATH_INFO']))
    with pytest.raises(RuntimeError, match='no such luck'):
        request(BusFilter(raise_error, bus), '/x')
    assert log == ['/x']
    assert not bus.plugins['requests']


def test_a_body_whose_close_raises_has_ended_its_request():
    bus = Bus()
    body = Body([], [])
    body.close = raise_error
    wrapped = request(BusFilter(lambda *_: body, bus))
    with pytest.raises(RuntimeError, match='no such luck'):
        wrapped.close()
    assert not bus.plugins['requests']


def test_the_requests_in_flight_are_a_status_report():
    bus = Bus()
    body = request(BusFilter(lambda *_: [b''], bus), '/a\nb')
    (report,) = bus.publish('status')
    (line,) = report['requests_in_flight']
    assert "'GET'" in line
    assert '\n' not in line
    body.close()


def test_the_requests_in_flight_have_the_paths_that_were_asked_for():
    def mapped(environ, start_response):  # as Paste's urlmap does
        environ['SCRIPT_NAME'], environ['PATH_INFO'] = '/v1', '/secrets'
        return [b'']

    bus = Bus()
    body = request(BusFilter(mapped, bus), '/v1/secrets')
    (report,) = bus.publish('status')
    assert "'/v1/secrets'" in report['requests_in_flight'][0]
    body.close()


# -- [wspbus:main] -------------------------------------------------------------------------


def test_the_settings_have_defaults(tmp_path):
    limit = default_stop_timeout(0)
    assert facts(tmp_path, APP)['settings'] == [0, limit, 60]


def test_the_settings_are_the_buses(tmp_path):
    ini = APP + '[wspbus:main]\ndrain_delay = 0.01\nstop_timeout = 7\nstart_timeout=8.5'
    assert facts(tmp_path, ini)['settings'] == [0.01, 7, 8.5]


def test_a_section_wspbus_without_a_name_is_main(tmp_path):
    ini = APP + '[wspbus]\nstop_timeout = %(seconds)s\n'
    assert facts(tmp_path, ini, 'seconds=9')['settings'][1] == 9


MARKED = """
[plugin:marked]
use = call:probe:Marked
"""


@pytest.mark.parametrize('key', ['signal.SIGUSR1', 'signal.USR1', 'signal.usr1'])
def test_a_signal_is_published_on_the_channel_that_the_site_names(tmp_path, key):
    ini = APP + MARKED + f'[wspbus:main]\nplugins = marked\n{key} = tea\n'
    with probe_site(tmp_path, ini) as site:
        site.send(signal.SIGUSR1)
        site.expect('tea time')
        assert ask(site)['same']
        assert site.stop()[0] == 0


def test_requests_are_accepted_while_the_drain_delay_lasts(tmp_path):
    ini = APP + MARKED + '[wspbus:main]\nplugins = marked\ndrain_delay = 5\n'
    with probe_site(tmp_path, ini) as site:
        site.send(signal.SIGTERM)
        site.expect('draining')
        assert ask(site)['same']
        assert site.wait() == 0, site.report()


# -- plugins ----------------------------------------------------------------------------------

DATABASES = """
[plugin:a]
use = call:probe:lifespan
name = a

[plugin:b]
use = call:probe:lifespan
name = b
url = %(here)s/%(file)s

[plugin:c]
use = call:probe:lifespan
name = c

[DEFAULT]
file = b.db
"""


def test_plugins_start_in_the_order_of_the_list_and_stop_in_reverse(tmp_path):
    ini = APP + '[wspbus:main]\nplugins = c a\n  b\n' + DATABASES
    with probe_site(tmp_path, ini) as site:
        answer = ask(site)
        assert site.stop()[0] == 0
    assert said(site.err.text).split('\n')[:-1] == [
        *('open c', 'open a', 'open b'),
        *('close b', 'close a', 'close c'),
    ]
    assert answer['resources'] == {
        'a': {'name': 'a'},
        'b': {'name': 'b', 'url': f'{tmp_path}/b.db'},
        'c': {'name': 'c'},
    }
    assert answer['plugins'] == ['a', 'b', 'c', 'requests']


def test_a_plugin_with_subscribe_is_plugged_in(tmp_path):
    ini = APP + '[wspbus:main]\nplugins = recorder\n' + PARTS.partition('plugins =')[2]
    ini = ini.replace('\n recorder\n', '\n')
    with probe_site(tmp_path, ini) as site:
        assert ask(site, '/x')['seen'] == ['before /x']
        assert 'recorder' in ask(site)['plugins']
        assert site.stop()[0] == 0
    assert site.err.text.splitlines().count('subscribed') == 1


def test_a_plugin_may_be_a_function_that_subscribes(tmp_path):
    ini = (
        APP + '[wspbus:main]\nplugins = f\n[plugin:f]\nuse = call:probe:subscribe_only'
    )
    with probe_site(tmp_path, ini) as site:
        assert site.stop()[0] == 0
    assert said(site.err.text).splitlines() == ['a function started']


def test_a_plugin_section_that_is_not_listed_is_not_made(tmp_path):
    answer = facts(tmp_path, APP + '[plugin:x]\nuse = call:nowhere:nothing\n')
    assert answer['plugins'] == ['requests']


def test_cherrypys_plugins_ride_in_a_section(tmp_path):
    pytest.importorskip('cherrypy')
    plugin = """
        from cherrypy.process.plugins import SimplePlugin
        from probe import say

        class Old(SimplePlugin):
            def __init__(self, bus, global_conf, word):
                super().__init__(bus)
                self.word = word

            def start(self):
                say('start ' + self.word)

            def stop(self):
                say('stop ' + self.word)
        """
    ini = (
        APP
        + '[wspbus:main]\nplugins = old\n[plugin:old]\nuse = call:old:Old\nword = this\n'
    )
    with probe_site(tmp_path, ini, files={'old.py': plugin}) as site:
        assert ask(site)['same']
        assert site.stop()[0] == 0
    assert said(site.err.text).splitlines() == ['start this', 'stop this']


def test_a_typo_in_a_plugins_channel_is_an_error_when_it_is_plugged_in():
    class Typo(Plugin):
        @on('strat')
        def start(self):
            pass

    bus = Bus()
    with pytest.raises(Exception, match="did you mean 'start'") as error:
        Typo(bus).subscribe()
    assert error.value.exit_code == 1
    assert bus.state is State.STOPPED


# -- another bus ---------------------------------------------------------------------------------


@pytest.mark.parametrize('use', ['OwnBus', 'own_bus'])
def test_the_whole_bus_can_be_swapped(tmp_path, use):
    ini = (
        APP + DATABASES + f'[wspbus:main]\nuse = call:probe:{use}\n'
        'stop_timeout = 3\nplugins = a\n'
    )
    with probe_site(tmp_path, ini, 'color=red') as site:
        answer = ask(site)
        assert answer['bus'] == 'OwnBus'
        assert answer['same']
        assert answer['settings'][1] == 3
        assert answer['resources'] == {'a': {'name': 'a'}}
        assert site.stop()[0] == 0
    assert 'own: Bus STARTED' in site.err.text
    assert 'own: Bus EXITED' in site.err.text
    if use == 'own_bus':
        assert 'made from __file__ color file here' in site.err.text


def test_the_bus_of_this_package_can_be_named(tmp_path):
    answer = facts(tmp_path, APP + '[wspbus:main]\nuse = egg:paste_wspbus#bus\n')
    assert answer['bus'] == 'Bus'
    assert answer['same']


# -- variables ---------------------------------------------------------------------------------------

COLORS = """
[DEFAULT]
color = green

[app:main]
use = call:probe:make
wall = %(color)s wall
port = 80
"""


def test_default_holds_without_a_var(tmp_path):
    answer = facts(tmp_path, COLORS)
    assert answer['conf'] == {'wall': 'green wall', 'port': '80'}
    assert answer['global_conf']['color'] == 'green'


def test_a_var_beats_default_in_interpolation_and_in_global_conf(tmp_path):
    answer = facts(tmp_path, COLORS, 'color=red')
    assert answer['conf'] == {'wall': 'red wall', 'port': '80'}
    assert answer['global_conf']['color'] == 'red'


def test_a_var_named_like_a_local_key_takes_nothing_away(tmp_path):
    answer = facts(tmp_path, COLORS, 'port=99', 'use=nothing')
    assert answer['conf'] == {'wall': 'green wall', 'port': '80'}
    assert answer['global_conf']['port'] == '99'


def test_a_var_named_port_leaves_the_server_its_port(tmp_path):
    ini = COLORS + '[server:main]\nuse = egg:waitress\nport = 0\nhost = 127.0.0.1\n'
    with Site(tmp_path, ini, 'port=1', files={'probe.py': PROBE}) as site:
        assert site.port != 1
        assert ask(site)['global_conf']['port'] == '1'
        assert site.stop()[0] == 0


@pytest.mark.parametrize('value', ['100%', '%(here)s', '%', '%%', 'a=b', '', 'é %s'])
def test_a_var_is_taken_literally(tmp_path, value):
    answer = facts(tmp_path, COLORS, f'color={value}')
    assert answer['conf']['wall'] == f'{value} wall'
    assert answer['global_conf']['color'] == value


def test_a_var_reaches_files_that_are_included(tmp_path):
    answer = facts(
        tmp_path,
        '[DEFAULT]\ncolor = blue\n[app:main]\nuse = config:other.ini\n',
        'color=red',
        files={'other.ini': COLORS},
    )
    assert answer['conf']['wall'] == 'red wall'
    assert answer['global_conf']['color'] == 'red'


def test_default_of_an_including_file_does_not_change_the_included_ones(tmp_path):
    ini = '[DEFAULT]\ncolor = blue\nextra = 1\n[app:main]\nuse = config:other.ini\n'
    answer = facts(tmp_path, ini, files={'other.ini': COLORS})
    assert answer['conf']['wall'] == 'green wall'
    assert answer['global_conf']['extra'] == '1'


def test_a_var_is_the_sections_own_key_where_that_has_one(tmp_path):
    ini = APP + 'host = inner\nurl = http://%(host)s/\n'
    assert facts(tmp_path, ini, 'host=outer')['conf']['url'] == 'http://inner/'


def check(tmp_path, ini, *args):
    process = run(
        tmp_path,
        '--check',
        'site.ini',
        *args,
        files={'site.ini': ini, 'probe.py': PROBE},
    )
    assert process.code == 0, process.report()
    assert process.err.text == ''
    return process.out.text


SERVER = '[server:main]\nuse = egg:waitress\nport = 0\n'


def test_check_warns_of_a_key_that_default_swallows(tmp_path):
    text = check(tmp_path, '[DEFAULT]\nport = 1\n' + APP + SERVER)
    (warning,) = [line for line in text.splitlines() if 'warning' in line]
    assert 'site.ini' in warning
    assert '[server:main] port' in warning
    assert 'DEFAULT' in warning


def test_check_warns_of_a_var_that_other_commands_would_swallow_a_key_by(tmp_path):
    text = check(tmp_path, APP + SERVER, 'port=1')
    (warning,) = [line for line in text.splitlines() if 'warning' in line]
    assert '[server:main] port' in warning


def test_check_asks_for_no_server_where_to_listen_is_said(tmp_path):
    assert 'warning' in check(tmp_path, APP)
    assert 'warning' not in check(tmp_path, APP, '--listen', '127.0.0.1:0')


def test_check_of_a_good_file_says_so(tmp_path):
    assert check(tmp_path, APP + SERVER) == 'site.ini: no mistakes found\n'


# -- environment variables -----------------------------------------------------------------------------

ENVIRONMENT = """
[DEFAULT]
data = %(ENV_DATA)s/x

[app:main]
use = call:probe:make
password = %(ENV_PASSWORD)s
path = %(data)s
"""


def test_environment_variables_are_taken_literally(tmp_path):
    answer = facts(
        tmp_path, ENVIRONMENT, env={'DATA': '/srv', 'PASSWORD': '100%(x)s%%d'}
    )
    assert answer['conf'] == {'password': '100%(x)s%%d', 'path': '/srv/x'}
    assert answer['global_conf']['data'] == '/srv/x'


def test_environment_variables_reach_files_that_are_included(tmp_path):
    answer = facts(
        tmp_path,
        '[app:main]\nuse = config:other.ini\n',
        files={'other.ini': ENVIRONMENT},
        env={'DATA': '/srv', 'PASSWORD': '%'},
    )
    assert answer['conf'] == {'password': '%', 'path': '/srv/x'}


def test_the_environment_is_not_in_global_conf(tmp_path):
    answer = facts(tmp_path, APP, env={'PASSWORD': 'secret'})
    assert set(answer['global_conf']) == {'here', '__file__', 'wspbus'}


# -- logging -----------------------------------------------------------------------------------------------

LOGGING = """
[loggers]
keys = root

[handlers]
keys = file

[formatters]
keys = plain

[logger_root]
level = INFO
handlers = file

[handler_file]
class = FileHandler
args = (r'%(here)s/%(name)s-%(ENV_STAGE)s.log', 'a')
formatter = plain

[formatter_plain]
format = %(levelname)s %(name)s %(message)s
"""


@pytest.fixture
def logging_ini():
    # A format's own %(name)s must not be taken for a var.
    return APP + LOGGING.replace('%(name)s-', '%(which)s-').replace(
        'format = %(levelname)s %(name)s %(message)s', 'format = %(message)s'
    )


def test_logging_is_configured_with_here_the_vars_and_the_environment(
    tmp_path, logging_ini
):
    facts(tmp_path, logging_ini, 'which=site', env={'STAGE': 'test'})
    lines = (tmp_path / 'site-test.log').read_text().splitlines()
    assert [line for line in lines if line.startswith('Bus ')] == [
        *('Bus STARTING', 'Bus STARTED', 'Bus STOPPING', 'Bus STOPPED'),
        *('Bus EXITING', 'Bus EXITED'),
    ]


def test_a_log_format_keeps_its_fields_whatever_the_vars_are_called(
    tmp_path, logging_ini
):
    ini = logging_ini.replace(
        'format = %(message)s', 'format = %(levelname)s <%(name)s> %(message)s'
    )
    facts(tmp_path, ini, 'which=site', 'name=var', 'message=x', env={'STAGE': 'test'})
    text = (tmp_path / 'site-test.log').read_text()
    assert 'INFO <paste_wspbus> Bus STARTED' in text


def test_logging_in_a_file_with_default_and_percent_signs(tmp_path, logging_ini):
    ini = '[DEFAULT]\nwhich = %(ENV_STAGE)s\n' + logging_ini
    facts(tmp_path, ini, 'other=100%', env={'STAGE': 'test'})
    assert 'Bus STARTED' in (tmp_path / 'test-test.log').read_text()


def test_loggers_that_exist_already_stay_enabled(tmp_path, logging_ini):
    script = """
        import logging, sys
        early = logging.getLogger('early')
        from paste_wspbus.command.main import main
        class Tell:
            def __call__(self):
                early.warning('heard')
        import probe
        probe.subscribe_only = lambda bus, conf: bus.subscribe('start', Tell())
        sys.exit(main())
        """
    ini = (
        logging_ini
        + '[wspbus:main]\nplugins = f\n[plugin:f]\nuse = call:probe:subscribe_only\n'
    )
    with probe_site(
        tmp_path,
        ini,
        'which=site',
        files={'script.py': script},
        command=[sys.executable, 'script.py'],
        env={'STAGE': 'test'},
    ) as site:
        assert site.stop()[0] == 0
    assert 'heard' in (tmp_path / 'site-test.log').read_text().splitlines()


def test_log_files_are_reopened_by_sigusr1(tmp_path, logging_ini):
    ini = logging_ini + MARKED + '[wspbus:main]\nplugins = marked\nsignal.USR2 = tea\n'
    with probe_site(tmp_path, ini, 'which=site', env={'STAGE': 'test'}) as site:
        log = tmp_path / 'site-test.log'
        log.rename(tmp_path / 'rotated.log')
        site.send(signal.SIGUSR1)
        site.send(signal.SIGUSR2)
        site.expect('tea time')  # both went through the same queue
        assert site.stop()[0] == 0
    assert 'Bus STARTED' in (tmp_path / 'rotated.log').read_text()
    assert 'Bus EXITED' in log.read_text()
    assert 'Bus STARTED' not in log.read_text()


# -- under a server that knows of no bus -----------------------------------------------------------------------

EMBEDDED = """
import os
import sys
import threading

from paste.deploy import loadapp

from paste_wspbus.handoff import get_bus


def make(global_conf):
    bus = get_bus(global_conf)

    @bus.lifespan
    def database():
        print('opened', flush=True)
        yield 'rows'
        print('closed', flush=True)

    def app(environ, start_response):
        start_response('200 OK', [])
        assert environ['wspbus.bus'] is bus
        return [bus.resources['database'].encode()]

    return app


def request():
    environ = {'PATH_INFO': '/', 'REQUEST_METHOD': 'GET'}
    body = app(environ, lambda *_: None)
    print(b''.join(body).decode(), flush=True)
    body.close()


if __name__ == '__main__':
    import embedded

    app = loadapp('config:site.ini', relative_to=os.getcwd())
    print('composed', flush=True)
    # HOW
    print('end', flush=True)
"""

HOWS = {
    'one request': 'request()',
    'two requests': 'request(); request()',
    'a request in a thread': 't = threading.Thread(target=request); t.start(); t.join()',
    'requests in threads': """ts = [threading.Thread(target=request) for _ in range(8)]
    [t.start() for t in ts]
    [t.join() for t in ts]""",
    'no request': '',
}


@pytest.mark.parametrize('how', HOWS)
def test_the_embedded_bus_starts_with_the_first_request_and_stops_at_exit(
    tmp_path, how
):
    ini = (
        '[pipeline:main]\npipeline = bus app\n'
        '[filter:bus]\nuse = egg:paste_wspbus#bus\n'
        '[app:app]\nuse = call:embedded:make\n'
    )
    process = run(
        tmp_path,
        '-W',
        'error',
        'embedded.py',
        files={'site.ini': ini, 'embedded.py': EMBEDDED.replace('# HOW', HOWS[how])},
        command=[sys.executable],
    )
    assert process.code == 0, process.report()
    assert process.err.text == ''
    rows = {'two requests': 2, 'requests in threads': 8, 'no request': 0}.get(how, 1)
    assert process.out.text.splitlines() == [
        'composed',
        *(['opened'] if rows else []),
        *['rows'] * rows,
        'end',
        *(['closed'] if rows else []),
    ]


def test_the_files_that_an_ini_is_made_of(tmp_path):
    write(
        tmp_path,
        {
            'site.ini': """
                [DEFAULT]
                other = config:sub/default.ini
                [composite:main]
                use = egg:Paste#urlmap
                / = home
                /blog = config:sub/blog.ini#x
                bad = %(nothing)s
                [app:home]
                use = config:%(here)s/home%%20page.ini
                [pipeline:p]
                pipeline = config:missing.ini#f home
            """,
            'sub/blog.ini': """
                [app:x]
                use = config:../site.ini#home
                filter-with = config:broken.ini
            """,
            'home page.ini': '[app:main]\nuse = call:x:y\n',
            'sub/broken.ini': '[app:main\n',
        },
    )
    names = ['site.ini', 'sub/blog.ini', 'sub/broken.ini', 'sub/default.ini']
    names += ['home page.ini', 'missing.ini']
    files = files_of(ConfigLoader(str(tmp_path / 'site.ini'), {}))
    assert sorted(files) == sorted(str(tmp_path / name) for name in names)


def test_the_entry_points_that_are_known_are_those_of_the_distributions():
    for (distribution, group, name), value in REQUIRED.items():
        (found,) = metadata.distribution(distribution).entry_points.select(
            group=group, name=name
        )
        assert found.value == value


def test_a_load_that_a_signal_abandons_at_its_first_step_complains_of_nothing(tmp_path):
    """A signal handler that raises leaves a ``with`` statement's generator behind."""
    write(tmp_path, {'site.ini': '[app:main]\nuse = call:webapp:make\n'})
    abandoned = ConfigLoader(str(tmp_path / 'site.ini'), {})._translating('app:main')
    abandoned.__enter__()
    del abandoned  # what it raises now is an unraisable exception, which fails the test
    gc.collect()
