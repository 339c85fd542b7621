"""CherryPy on the bus: its applications, those that hold on to its engine, its server."""

import importlib
import json
import os
import re
import shutil
import signal
import warnings
from importlib.metadata import version
from urllib.request import urlopen

import pytest

from paste_wspbus import testing
from paste_wspbus.bus import Bus, State
from paste_wspbus.frameworks import introduce
from paste_wspbus.frameworks.cherrypy import Bridge, RequestChannel, replace_engine
from paste_wspbus.frameworks.guests import Taken
from paste_wspbus.handoff import composing
from tests.kit import Site, eventually, free_port, is_free, run
from tests.kit.places import SITES

with warnings.catch_warnings():
    warnings.simplefilter('ignore')  # of CherryPy's and its dependencies' imports
    cherrypy = importlib.import_module('cherrypy')
    plugins = importlib.import_module('cherrypy.process.plugins')

SITE = SITES / 'cherrypy' / 'site.ini'

SEARCH = 'search started by STARTING', 'search stopped by STOPPING'
DATABASE = 'database opened', 'database closed'
POOL = 'pool opened by STARTING', 'pool closed by STOPPING'


def served(tmp_path, *args, **kwargs):
    return Site(tmp_path, None, SITE, *args, **kwargs)


def told(site, *words):
    """The lines on standard error that begin with one of these words."""
    return [line for line in site.err.text.splitlines() if line.startswith(words)]


# -- applications ------------------------------------------------------------------


@pytest.mark.parametrize('command', ['wspserve', 'paster'])
def test_the_engine_is_the_bus_and_all_starts_and_stops_in_order(tmp_path, command):
    with served(tmp_path, command=command) as site:
        with site.connect() as connection:
            connection.send('/wait', connection='close')
            site.expect('waiting\n')
            site.send(signal.SIGTERM)
            site.release()
            response = connection.receive()
        assert site.wait() == 0, site.report()
    facts = json.loads(response.body)
    assert facts.pop('state') in ('STARTED', 'DRAINING', 'STOPPING')
    assert facts == {
        'engine': True,
        'held': True,
        'resources': {'database': 'database', 'pool': 'pool'},
    }
    assert told(site, 'search', 'database', 'pool', 'cache', 'waiting') == [
        SEARCH[0],
        DATABASE[0],
        POOL[0],
        'cache started',
        'waiting',
        POOL[1],
        DATABASE[1],
        SEARCH[1],
    ]


def test_tools_sessions_and_error_pages_work(tmp_path):
    with served(tmp_path, '-v') as site:
        first = site.get('/visits')
        cookie = first.headers['set-cookie'].partition(';')[0]
        assert site.get('/visits', cookie=cookie).text == '2'
        assert site.get('/broken').status == 500
        assert site.get('/nothing/here').status == 404
        assert told(site, 'the tool') == ['the tool was here'] * 2
        code, _, err = site.stop()
    assert code == 0
    assert "Stopped thread 'Session cleanup'." in err


def test_code_publishes_by_the_engine_by_the_old_one_and_by_a_method_that_it_kept(
    tmp_path,
):
    with served(tmp_path) as site:
        assert site.get('/publish?word=a').text == 'A A A'


def test_a_monitor_runs_from_start_to_stop(tmp_path):
    with served(tmp_path, '-v') as site:
        assert site.get('/tick').text == 'True'
        assert site.get('/monitor').text == 'True'
        _, _, err = site.stop()
    assert err.index("Started monitor thread 'ticker'") < err.index('Bus STARTED')
    assert err.index('Bus STOPPING') < err.index("Stopped thread 'ticker'")


def test_a_background_task_runs(tmp_path):
    with served(tmp_path, '-n', 'task') as site:
        assert site.get('/tick').text == 'True'
        assert site.stop()[0] == 0


def test_channels_of_requests_and_threads_are_heard_once_in_order(tmp_path):
    with served(tmp_path) as site:
        for _ in range(3):
            site.get('/')
        site.stop()
        lines = told(site, 'before', 'after', 'thread')
    threads = sorted(line for line in lines if line.startswith('thread'))
    assert threads == [f'thread {number}' for number in range(1, len(threads) + 1)]
    assert lines[0].startswith('thread')
    assert lines.count(f'before {site.port}') == lines.count('after') == 3


def test_server_autoreloader_threads_and_signals_are_the_buss(tmp_path):
    with served(tmp_path) as site:
        assert site.get('/plugins').text == 'True True None False'


def test_log_files_of_cherrypy_are_reopened(tmp_path):
    log, moved = tmp_path / 'access.log', tmp_path / 'moved.log'
    env = {'ACCESS_LOG': str(log)}
    with served(tmp_path, '-n', 'logging', env=env) as site:
        site.get('/publish?word=first')
        log.rename(moved)
        site.send(signal.SIGUSR1)
        eventually(log.exists)
        site.get('/publish?word=second')
        assert site.stop()[0] == 0
    assert 'first' in moved.read_text()
    assert 'second' in log.read_text()
    assert 'second' not in moved.read_text()


def test_the_old_engines_exit_ends_the_site(tmp_path):
    with served(tmp_path, '-v') as site:
        assert site.get('/exit').text == 'leaving'
        assert site.wait() == 0
    assert site.err.text.count('Bus EXITED') == 1
    assert DATABASE[1] in site.err.text


def test_a_stop_that_was_kept_from_the_old_engine_stops_the_site_once(tmp_path):
    with served(tmp_path, '-v') as site:
        assert site.get('/stop').text == 'stopping'
        assert site.wait() == 0
    assert site.err.text.count('Bus STOPPING') == 1
    assert told(site, 'search')[1:] == [SEARCH[1]]


def test_the_old_engines_restart_brings_the_same_process_up_again(tmp_path):
    with served(tmp_path) as site:
        assert site.get('/restart').text == 'coming back'
        site.wait_until_served(2)
        assert json.loads(site.get('/').body)['engine']
        assert f'PID {site.pid}.' in site.out.text.splitlines()[-2]
        assert site.stop()[0] == 0
    assert told(site, 'search') == [*SEARCH, *SEARCH]


def test_the_tree_and_what_is_grafted_into_it_are_served(tmp_path):
    with served(tmp_path, '-n', 'tree') as site:
        for path in ('/blog/', '/other/'):
            assert json.loads(site.get(path).body)['engine']
        assert site.get('/plain').text == 'STARTED'
        assert site.get('/nothing').status == 404
        assert site.stop()[0] == 0


def test_it_is_served_beside_other_frameworks_under_a_urlmap(tmp_path):
    shop = SITE.parent.parent / 'flask'
    ini = f"""
        [composite:main]
        use = egg:Paste#urlmap
        / = blog
        /wiki = blog
        /shop = config:{shop}/site.ini

        [app:blog]
        use = config:{SITE}

        [server:main]
        use = egg:paste_wspbus#cherrypy
        port = 0
    """
    folders = os.pathsep.join([str(SITE.parent), str(shop)])
    with Site(tmp_path, ini, env={'PYTHONPATH': folders}) as site:
        for path in ('/', '/wiki/', '/shop/'):
            facts = json.loads(site.get(path).body)
            assert facts['state'] == 'STARTED'
            assert set(facts['resources']) == {'pool', 'pool-2', 'pool-3'}
        assert site.stop()[0] == 0
    # Flask's requests are none of CherryPy's.
    assert len(told(site, 'before')) == len(told(site, 'after')) == 2
    assert told(site, 'pool') == [POOL[0]] * 3 + [POOL[1]] * 3


def test_an_engine_that_the_site_has_started_starts_again_with_the_site(tmp_path):
    with served(tmp_path, '-n', 'started', '-v') as site:
        assert json.loads(site.get('/').body)['state'] == 'STARTED'
        code, _, err = site.stop(signal.SIGINT)
    assert code == 0
    assert told(site, 'search', 'database') == [
        *SEARCH,
        SEARCH[0],
        *DATABASE,
        SEARCH[1],
    ]
    assert err.count('CherryPy: the engine was started while the site was loaded') == 1
    assert err.rstrip().endswith('Bus EXITED')
    assert 'Stopping: SIGINT' in err


def test_an_engine_of_the_sites_own_stays_and_is_one_warning(tmp_path):
    with served(tmp_path, '-n', 'own') as site:
        assert not json.loads(site.get('/').body)['engine']
        code, _, err = site.stop()
    assert code == 0
    warning = (
        f"CherryPy {version('CherryPy')}: cherrypy.engine is the site's own and stays "
        'as it is; the bus is not there'
    )
    assert err.count(warning) == 1


def test_a_listener_of_the_engine_that_fails_to_start_fails_the_site(tmp_path):
    process = run(tmp_path, SITE, '-n', 'failing')
    assert process.code == 1
    last = process.err.text.splitlines()[-1]
    assert '[app:main]: blog.fail failed: RuntimeError: no disk' in last
    assert told(process, 'search', 'database') == [SEARCH[0], *DATABASE, SEARCH[1]]


# -- the engine, in this process -----------------------------------------------------


@pytest.fixture
def engine():
    """CherryPy's, as it was imported, and again so afterwards."""
    own = cherrypy.engine
    listeners = {name: set(of) for name, of in own.listeners.items()}
    priorities, subscribed = dict(own._priorities), Bridge.subscribed
    Bridge.subscribed = ()
    yield own
    if Bridge.current is not None:
        Bridge.current.give_back()
    cherrypy.engine = own
    own.listeners, own._priorities = listeners, priorities
    Bridge.subscribed = subscribed


@pytest.fixture
def app(engine):
    return cherrypy.Application(object(), None)


def test_an_application_a_tree_and_a_virtual_host_are_cherrypys(engine, app):
    host = cherrypy.wsgi.VirtualHost(app, {'b.example': app})
    for one in (app, app.wsgiapp, cherrypy.tree, host):
        bus = Bus()
        assert introduce(one, bus) == ['CherryPy']
        assert cherrypy.engine is bus
    assert introduce(cherrypy.expose, Bus()) == []


def test_who_holds_on_to_the_engine_has_the_bus_by_another_name(engine):
    bus = Bus()
    replace_engine(bus)
    assert cherrypy.engine is cherrypy.process.bus is bus
    assert isinstance(engine, cherrypy.process.wspbus.Bus)
    engine.subscribe('news', str.upper)
    assert bus.publish('news', 'a') == engine.publish('news', 'a') == ['A']
    engine.database = 'db'
    assert bus.database == 'db'
    del engine.database
    assert not hasattr(bus, 'database')
    bus.start()
    assert engine.state is State.STARTED
    assert (
        engine.state == engine.states.STARTED == cherrypy.process.wspbus.states.STARTED
    )
    engine.exit()
    assert bus.state is State.EXITING


def test_the_states_that_a_kept_method_sets_are_the_buss(engine):
    subscribe, unsubscribe = engine.subscribe, engine.unsubscribe
    start, leave, tell = engine.start, engine.exit, engine.publish
    bus, heard = Bus(), []
    replace_engine(bus)
    subscribe('news', heard.append)
    tell('news', 1)
    unsubscribe('news', heard.append)
    tell('news', 2)
    bus.subscribe('log', lambda message, level: heard.append(message))
    start()
    assert bus.state is State.STARTED
    leave()
    assert bus.state is State.EXITING
    assert heard == [
        1,
        *['Bus STARTING', 'Bus STARTED', 'Bus STOPPING', 'Bus STOPPED'],
        *['Bus EXITING', 'Bus EXITED'],
    ]


def test_listeners_move_in_the_order_of_their_subscription_with_their_priorities(
    engine,
):
    heard = []

    def listener(name):
        return lambda: heard.append(name)

    for name, priority in [('b', 50), ('a', 10), ('c', 50), ('d', 50)]:
        engine.subscribe('start', listener(name), priority)
    bus = Bus()
    bus.subscribe('start', listener('of the bus'))
    replace_engine(bus)
    bus.start()
    bus.exit()
    assert heard == ['a', 'of the bus', 'b', 'c', 'd']


def test_attributes_that_the_site_has_set_are_there(engine):
    engine.database = 'db'
    try:
        bus = Bus()
        replace_engine(bus)
        assert bus.database == 'db'
        cherrypy.config.update({'engine.autoreload.frequency': 5})
        assert bus.autoreload.frequency == 5
    finally:
        del vars(engine)['database']


def test_cherrypys_own_plugins_are_not_on_the_bus(engine):
    bus = Bus()
    bus.plugins.update(threads=object(), sitelog=object(), signals=signals(bus))
    replace_engine(bus)
    names = {
        listener.name
        for channel in bus.listeners
        for listener in bus.channel(channel).ordered
    }
    assert {name for name in names if name.startswith('cherrypy.')} == {
        'cherrypy._cpchecker.Checker',
        'cherrypy._GlobalLogManager.reopen_files',
    }
    assert bus.thread_manager is bus.plugins['threads']
    assert bus.signal_handler is bus.plugins['signals']


def signals(bus):
    from paste_wspbus.plugins.signals import SignalHandler

    return SignalHandler(bus)


def test_without_plugins_of_the_buss_cherrypys_log_and_threads_do_their_work(engine):
    told, bus = [], Bus()
    replace_engine(bus)
    bus.subscribe('start_thread', told.append)
    bus.publish('acquire_thread')
    assert told == [1]
    assert [one.name for one in bus.channel('log').ordered] == ['cherrypy._buslog']


def test_a_signals_listener_of_the_site_is_heard_and_cherrypys_own_are_not(engine):
    def dump():
        pass

    previous = signal.getsignal(signal.SIGUSR2)
    engine.signal_handler.set_handler('SIGUSR2', dump)
    engine.signals.subscribe()
    engine.subscribe('SIGNALS', dump)
    bus = Bus()
    bus.plugins['signals'] = handler = signals(bus)
    del handler.handlers['SIGUSR2']
    replace_engine(bus)
    assert signal.getsignal(signal.SIGUSR2) is previous
    assert handler.handlers['SIGUSR2'] == 'SIGUSR2'
    assert bus.listeners['SIGUSR2'] == {dump}
    assert not any(bus.listeners[name] for name in ('SIGTERM', 'SIGHUP', 'SIGUSR1'))
    assert 'SIGNALS' not in handler.handlers


def test_a_bus_of_its_own_is_nothing_to_replace(engine):
    cherrypy.engine = bus = Bus()
    replace_engine(bus)
    assert 'cherrypy.engine' not in bus.plugins
    with pytest.raises(Taken):
        replace_engine(Bus())
    assert cherrypy.engine is bus


def test_a_listener_that_fails_to_stop_does_not_keep_an_engine_from_being_replaced(
    engine,
):
    @engine.subscribe('stop')
    def fail():
        raise RuntimeError('no')

    cherrypy.server.unsubscribe()
    engine.start()
    bus = Bus()
    replace_engine(bus)
    assert cherrypy.engine is bus
    assert engine.state is State.STOPPED


def test_after_the_exit_cherrypy_has_its_engine_again(engine):
    kept, bus = engine.stop, Bus()
    replace_engine(bus)
    bus.start()
    bus.exit()
    assert cherrypy.engine is cherrypy.process.bus is engine
    assert engine.state == engine.states.STOPPED
    kept()  # as atexit would
    assert bus.state is State.EXITING
    assert type(engine) is cherrypy.process.wspbus.Bus


def test_a_bus_that_starts_again_is_the_engine_again(engine):
    bus = Bus()
    replace_engine(bus)
    bus.start()
    bus.exit()
    bus.start()
    assert cherrypy.engine is bus
    assert engine.state is State.STARTED
    bus.exit()
    assert cherrypy.engine is engine
    bridge = bus.plugins['cherrypy.engine']
    replace_engine(bus)
    assert bus.plugins['cherrypy.engine'] is bridge
    bridge.unsubscribe()
    bus.start()
    bus.exit()
    assert cherrypy.engine is bus


def test_the_next_bus_has_what_modules_have_subscribed(engine):
    heard = []

    @engine.subscribe('start')
    def of_the_module():
        heard.append('module')

    def compose(number):
        cherrypy.engine.subscribe('start', lambda: heard.append(number))
        bus = Bus()
        replace_engine(bus)
        return bus

    # The first lambda is of the same line as the second: made for its own site.
    for number in (1, 2):
        bus = compose(number)
        bus.start()
        bus.exit()
    assert sorted(map(str, heard)) == ['1', '2', 'module', 'module']


def test_a_bus_that_was_never_started_gives_way_to_the_next(engine):
    one, two = Bus(), Bus()
    replace_engine(one)
    replace_engine(two)
    assert cherrypy.engine is two
    two.start()
    assert engine.state is State.STARTED
    assert one.state is State.STOPPED
    two.exit()


def test_a_request_channel_calls_each_listener_by_its_own_publisher(engine):
    bus, heard = Bus(), []
    bus.subscribe('before_request', lambda environ: heard.append(environ))
    replace_engine(bus)
    replace_engine(bus)
    assert type(bus.listeners['before_request']) is RequestChannel
    bus.subscribe('before_request', lambda: heard.append('CherryPy'))
    bus.subscribe('before_request', lambda *args: heard.append(len(args)))
    bus.subscribe('before_request', heard.append)
    bus.publish('before_request', {})
    assert heard == [{}, 1, {}]
    bus.publish('before_request')
    assert heard[3:] == ['CherryPy']


def test_a_request_listener_that_fails_is_named(engine):
    bus, log = Bus(), []
    replace_engine(bus)

    class Failing(plugins.SimplePlugin):
        def before_request(self):
            raise RuntimeError('no')

    Failing(bus).subscribe()
    bus.subscribe('log', lambda message, level: log.append(message))
    with pytest.raises(Exception, match='no'):
        bus.publish('before_request')
    assert 'Failing.before_request' in log[-1].splitlines()[0]


def test_a_site_can_be_composed_again_and_again(engine):
    for _ in range(2):
        with testing.composed(SITE) as site:
            assert site.get('/').json == {
                'engine': True,
                'held': True,
                'state': 'STARTED',
                'resources': {'database': 'database', 'pool': 'pool'},
            }
            assert site.get('/publish?word=b').text == 'B B B'
        assert site.bus.exit_code == 0


def test_the_page_tells_how_a_factory_replaces_the_engine_itself(engine):
    page = (SITE.parents[3] / 'docs' / 'cherrypy.md').read_text()
    [example] = re.findall(r'```python\n(from paste_wspbus.*?)```', page, re.S)
    bus = Bus()
    with composing(bus):
        exec(compile(example, 'docs/cherrypy.md', 'exec'), {})
    assert cherrypy.engine is bus


# -- CherryPy's own server -------------------------------------------------------------


def test_cherrypys_server_serves_in_threads_of_its_own_and_loses_no_request(tmp_path):
    with served(tmp_path, '--server-name', 'cherrypy') as site:
        assert site.get('/thread').text.startswith('CP Server Thread-')
        assert site.get('/port').text == str(site.port)
        assert site.get('/plugins').text == 'True True None True'
        with site.connect() as connection:
            connection.send('/wait', connection='close')
            site.expect('waiting\n')
            site.send(signal.SIGTERM)
            site.release()
            assert connection.receive().status == 200
        assert site.wait() == 0
    assert sorted(told(site, 'thread')) == ['thread 1', 'thread 2']
    assert told(site, 'waiting', 'pool closed') == ['waiting', POOL[1]]


def test_it_serves_sites_that_are_not_cherrypys(tmp_path):
    ini = """
        [app:main]
        use = egg:paste_wspbus#hello

        [server:main]
        use = egg:paste_wspbus#cherrypy
        socket_host = 127.0.0.1
        socket_port = 0
    """
    with Site(tmp_path, ini) as site:
        assert site.get('/').status == 200
        assert site.stop()[0] == 0


def test_it_serves_in_a_sites_own_tests(engine):
    with testing.served(
        """
        [app:main]
        use = egg:paste_wspbus#hello

        [server:main]
        use = egg:paste_wspbus#cherrypy
        """
    ) as site:
        assert cherrypy.server.running
        assert cherrypy.server.base() == site.url
        with urlopen(site.url) as response:
            assert response.status == 200
    assert not cherrypy.server.running


def test_cherrypys_configuration_is_the_servers(tmp_path):
    with served(tmp_path, '-n', 'configured', '--server-name', 'configured') as site:
        assert site.get('/port').text == str(site.port)
        assert sorted(told(site, 'thread')) == ['thread 1', 'thread 2', 'thread 3']
        assert site.get('/', content_length='11').status == 413
        assert site.stop()[0] == 0
    assert is_free(site.port)


def test_a_port_of_cherrypys_configuration_is_kept_over_a_restart(tmp_path):
    folder, port = tmp_path / 'site', free_port()
    shutil.copytree(SITE.parent, folder)
    ini = folder / 'site.ini'
    text = ini.read_text().replace(
        'make_configured\nport = 0', f'make_configured\nport = {port}'
    )
    ini.write_text(text)
    args = ('site.ini#configured', '--server-name', 'configured')
    with Site(folder, None, *args) as site:
        assert site.port == port
        site.send(signal.SIGHUP)
        site.wait_until_served(2)
        assert site.get('/port').text == str(port)
        assert site.stop()[0] == 0


def test_workers_share_the_port_of_the_ini(tmp_path):
    args = ('--server-name', 'cherrypy', '--workers', '2')
    with served(tmp_path, *args) as site:
        assert site.get('/').status == 200
        assert site.stop()[0] == 0
    assert told(site, 'pool') == [POOL[0], POOL[0], POOL[1], POOL[1]]


def test_workers_need_the_port_in_the_ini(tmp_path):
    args = ('-n', 'configured', '--server-name', 'configured', '--workers', '1')
    process = run(tmp_path, SITE, *args)
    assert process.code == 1
    assert 'set host and port in [server:main]' in process.err.text


def test_the_pages_server_section_serves(tmp_path):
    page = (SITE.parents[3] / 'docs' / 'cherrypy.md').read_text()
    [section] = re.findall(r'```ini\n(\[server:main\].*?)```', page, re.S)
    section = section.replace('8080', '0')
    with Site(tmp_path, f'[app:main]\nuse = egg:paste_wspbus#hello\n{section}') as site:
        assert site.get('/').status == 200
        assert site.stop()[0] == 0


@pytest.mark.parametrize(
    ('line', 'problem'),
    [
        ('thread_pol = 3', "thread_pol: unknown setting; did you mean 'thread_pool'?"),
        ('thread_pool = many', "thread_pool: 'many' is not a whole number"),
        ('nodelay = perhaps', "nodelay: 'perhaps' is not valid"),
        ('ssl_certificate = no.pem', 'ssl_certificate: there is no file no.pem'),
    ],
)
def test_a_wrong_setting_is_one_line(tmp_path, line, problem):
    ini = f"""
        [app:main]
        use = egg:paste_wspbus#hello

        [server:main]
        use = egg:paste_wspbus#cherrypy
        {line}
    """
    files = {'site.ini': ini}
    process = run(tmp_path, 'site.ini', files=files)
    assert process.code == 2
    [found] = process.err.text.splitlines()
    assert re.search(re.escape(problem), found), found
