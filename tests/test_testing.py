"""What the package has for the tests of a site: `composed`, `served`, two fixtures."""

import contextlib
import gc
import json
import logging
import os
import re
import signal
import sqlite3
import subprocess
import sys
import textwrap
import threading
import urllib.request
import weakref
from pathlib import Path

import pytest

from paste_wspbus.bus import ChannelFailures, State
from paste_wspbus.errors import ConfigError, FactoryError
from paste_wspbus.testing import NotStarted, StopFailed, composed, served
from tests.kit import TIMEOUT, Connection, eventually, is_free, write
from tests.kit.places import ROOT

#: What the sites of this module did, in order.
said: list[str] = []
may_answer = threading.Event()

#: WebOb's warning on Python 3.11 and 3.12.
CGI = ":'cgi' is deprecated:DeprecationWarning"


@pytest.fixture(autouse=True)
def nothing_was_said():
    said.clear()
    may_answer.clear()


# -- what the sites are made of ---------------------------------------------------


def make(global_conf, **conf):
    def app(environ, start_response):
        bus = environ['wspbus.bus']
        path = environ['PATH_INFO']
        if path == '/exit':
            bus.exit()
        if path == '/wait':
            said.append('waiting')
            may_answer.wait(TIMEOUT)
        status = '404 Not Found' if path == '/nowhere' else '200 OK'
        body = json.dumps(
            {
                'conf': conf,
                'vars': {k: v for k, v in global_conf.items() if k != 'wspbus'},
                'state': bus.state.name,
                'thread': threading.get_ident(),
            }
        ).encode()
        headers = [('Content-Type', 'application/json')]
        start_response(status, [*headers, ('Content-Length', str(len(body)))])
        return [body]

    return app


def make_slowly(global_conf, **conf):
    threading.Event().wait(0.05)
    return make(global_conf, **conf)


def part(bus, global_conf, name='part'):
    said.append(f'+{name}')
    yield f'the {name}'
    said.append(f'-{name}')


def fails_to_stop(bus, global_conf):
    yield
    raise OSError('it does not close')


def fails_to_start(bus, global_conf):
    bus.subscribe('exit', lambda: said.append('exit'))
    raise OSError('it does not open')
    yield


def exits(bus, global_conf):
    bus.exit()
    yield


def fails(global_conf, **conf):
    raise OSError('it cannot be made')


def hangs_until_hurried(bus, global_conf):
    yield
    while not bus.hurried:
        threading.Event().wait(0.01)


INI = """
    [app:main]
    use = call:tests.test_testing:make
    key = %(var)s

    [wspbus:main]
    plugins = first second

    [plugin:first]
    use = call:tests.test_testing:part
    name = first

    [plugin:second]
    use = call:tests.test_testing:part
    name = second

    [DEFAULT]
    var = default
"""

each_way = pytest.mark.parametrize('running', [composed, served])


def with_plugin(function, more=''):
    return f"""
    [app:main]
    use = call:tests.test_testing:make
    [wspbus:main]
    plugins = first it
    {more}
    [plugin:first]
    use = call:tests.test_testing:part
    name = first
    [plugin:it]
    use = call:tests.test_testing:{function}
    """


def with_server(use):
    return f'{INI}\n    [server:main]\n    use = {use}\n    host = 127.0.0.1\n'


def fetch(url):
    with urllib.request.urlopen(url, timeout=TIMEOUT) as response:
        return json.load(response)


def port_of(url):
    return int(url.rpartition(':')[2])


class Surroundings:
    """What a site might change and leave behind."""

    def __init__(self):
        self.path = sys.path[:]
        self.cwd = os.getcwd()
        self.signals = [
            signal.getsignal(number)
            for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGALRM)
        ]
        self.timer = signal.getitimer(signal.ITIMER_REAL)
        self.loggers = [
            (one.name, one.level, one.disabled, one.propagate, one.handlers[:])
            for one in self._all_loggers()
        ]
        self.handlers = [one() for one in logging._handlerList]
        self.files = set(os.listdir('/dev/fd'))
        self.temporary = sorted(Path(tempfile_root()).glob('wspbus-*'))

    @staticmethod
    def _all_loggers():
        known = list(logging.root.manager.loggerDict.values())
        loggers = [one for one in known if isinstance(one, logging.Logger)]
        return [logging.root, *loggers]


def tempfile_root():
    import tempfile

    return tempfile.gettempdir()


@contextlib.contextmanager
def threads_end():
    """No thread is left: they are told to end, and some are not waited for."""
    before = set(threading.enumerate())
    yield
    eventually(lambda: set(threading.enumerate()) <= before)


@pytest.fixture
def untouched(monkeypatch, tmp_path):
    """Afterwards, all is as it was before."""
    monkeypatch.setattr('tempfile.tempdir', str(tmp_path))
    # What is made once in a process is made before: webtest's first answer imports modules
    # that make handlers of logging.
    with threads_end(), composed(INI) as site, served(INI):
        site.get('/')
    said.clear()
    gc.collect()
    before = vars(Surroundings())
    with threads_end():
        yield
    gc.collect()
    after = vars(Surroundings())
    known = {one[0] for one in before['loggers']}
    after['loggers'] = [one for one in after['loggers'] if one[0] in known]
    assert after == before


# -- a composed site ----------------------------------------------------------------


def test_a_composed_site_answers_with_its_bus_started():
    with composed(INI) as site:
        response = site.get('/')
        assert response.json['state'] == 'STARTED'
        assert response.json['thread'] == threading.get_ident()
        assert site.bus.state is State.STARTED
    assert site.bus.state is State.EXITING


def test_the_parts_start_in_order_and_stop_in_reverse():
    with composed(INI) as site:
        assert said == ['+first', '+second']
        assert site.resources == {'first': 'the first', 'second': 'the second'}
        assert set(site.plugins) == {'first', 'second'}
    assert said == ['+first', '+second', '-second', '-first']
    assert site.resources == {}


def test_the_application_is_plain_wsgi():
    started = []
    with composed(INI) as site:
        environ = {'REQUEST_METHOD': 'GET', 'PATH_INFO': '/'}
        body = site.app(environ, lambda *args: started.append(args))
        assert json.loads(b''.join(body))['state'] == 'STARTED'
        body.close()
        assert environ['wspbus.bus'] is site.bus
        assert site.bus.plugins['requests'] == {}
    assert started[0][0] == '200 OK'


def test_a_request_may_be_a_post_and_fail_as_webtest_has_it():
    from webtest import AppError

    with composed(INI) as site:
        assert site.post('/', {'field': 'value'}).status_int == 200
        assert site.get('/nowhere', status=404).status_int == 404
        with pytest.raises(AppError, match='404'):
            site.get('/nowhere')
        assert site.client.put_json('/', {}).status_int == 200


def test_without_webtest_the_message_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, 'webtest', None)
    with composed(INI) as site:
        with pytest.raises(ModuleNotFoundError, match=r'paste_wspbus\[testing\]'):
            site.get('/')
        assert site.bus.state is State.STARTED


def test_what_is_opened_at_start_is_used_and_closed_in_the_test_s_thread(tmp_path):
    write(
        tmp_path,
        {
            'opened_here.py': """
            import sqlite3

            def database(bus, global_conf):
                db = sqlite3.connect(':memory:')
                yield db
                db.close()
            """
        },
    )
    ini = """
    [app:main]
    use = egg:paste_wspbus#hello
    [wspbus:main]
    plugins = db
    [plugin:db]
    use = call:opened_here:database
    """
    with composed(ini, relative_to=tmp_path) as site:
        db = site.resources['db']
        assert db.execute('select 1').fetchone() == (1,)
    with pytest.raises(sqlite3.ProgrammingError, match='closed'):
        db.execute('select 1')


def test_a_request_that_asks_for_exit_stops_a_composed_site_at_once():
    with composed(INI) as site:
        assert site.get('/exit').json['state'] == 'EXITING'
        assert said == ['+first', '+second', '-second', '-first']
    assert len(said) == 4


def test_the_site_may_be_stopped_and_started_by_the_test():
    with composed(INI) as site:
        site.bus.stop()
        assert said[2:] == ['-second', '-first']
        site.bus.start()
        assert site.get('/').json['state'] == 'STARTED'
    assert said == ['+first', '+second', '-second', '-first'] * 2


def test_the_server_s_section_is_left_alone():
    with composed(f'{INI}\n    [server:main]\n    use = egg:there-is-none\n') as site:
        assert site.get('/').status_int == 200


# -- a live server --------------------------------------------------------------------


def test_a_live_server_answers_at_its_url_until_the_end_of_the_block():
    with served(INI) as site:
        assert site.url.startswith('http://127.0.0.1:')
        answer = fetch(site.url)
        assert answer['state'] == 'STARTED'
        assert answer['thread'] != threading.get_ident()
        assert site.resources['first'] == 'the first'
    assert is_free(port_of(site.url))
    assert said == ['+first', '+second', '-second', '-first']


@pytest.mark.parametrize(
    ('use', 'module'),
    [
        ('egg:waitress', 'waitress'),
        ('egg:Paste#http', 'paste_http'),
        ('egg:paste_wspbus#cheroot', 'cheroot'),
        ('egg:paste_wspbus#wsgiref', 'wsgiref'),
        ('egg:gunicorn#main', 'waitress'),
    ],
)
def test_the_server_is_the_site_s_if_it_rides_the_bus_else_waitress(
    use, module, untouched
):
    with served(with_server(use)) as site:
        assert fetch(site.url)['state'] == 'STARTED'
        server = site.bus.plugins['server']
        assert type(server).__module__ == f'paste_wspbus.servers.{module}'


def test_a_live_server_does_not_listen_where_the_ini_says(tmp_path):
    ini = f'{INI}\n    [server:main]\n    use = egg:waitress\n    listen = *:1\n'
    with served(ini) as site:
        assert fetch(site.url)['state'] == 'STARTED'
    ini = f'{INI}\n    [server:main]\n    use = egg:waitress\n    unix_socket = {tmp_path}/s\n'
    with served(ini) as site:
        assert fetch(site.url)['state'] == 'STARTED'
        assert not (tmp_path / 's').exists()


def test_the_end_of_the_block_waits_for_requests_in_flight():
    answers = []
    with served(INI) as site:
        client = threading.Thread(
            target=lambda: answers.append(fetch(f'{site.url}/wait'))
        )
        client.start()
        eventually(lambda: 'waiting' in said)
        site.bus.subscribe('drain', may_answer.set)
    client.join(TIMEOUT)
    assert answers[0]['state'] in ('STARTED', 'DRAINING', 'STOPPING')
    assert said == ['+first', '+second', 'waiting', '-second', '-first']


def test_a_connection_that_a_test_keeps_does_not_hold_up_the_end():
    with served(INI) as site, Connection(('127.0.0.1', port_of(site.url))) as kept:
        assert kept.get().status == 200
        site.bus.exit()
        assert kept.is_ended()


def test_a_request_that_asks_for_exit_is_obeyed_in_block():
    with served(INI) as site:
        assert fetch(f'{site.url}/exit')['state'] == 'STARTED'
        site.bus.block(states=State.STOPPED)
        assert said[2:] == ['-second', '-first']
        assert is_free(port_of(site.url))


def test_a_request_that_asks_for_exit_is_obeyed_at_the_end_of_the_block():
    with served(INI) as site:
        fetch(f'{site.url}/exit')
        assert said == ['+first', '+second']
        assert fetch(site.url)['state'] == 'STARTED'
    assert said[2:] == ['-second', '-first']


def test_a_site_that_another_thread_blocks_for_is_stopped_to_the_end():
    def exit_slowly():
        threading.Event().wait(0.2)
        said.append('exit')

    with served(INI) as site:
        site.bus.subscribe('exit', exit_slowly, priority=99)
        entered = threading.Event()
        site.bus.subscribe('main', entered.set)
        thread = threading.Thread(target=site.bus.block, args=(0.01, State.STOPPED))
        thread.start()
        assert entered.wait(TIMEOUT)
    assert said[2:] == ['-second', '-first', 'exit']
    thread.join(TIMEOUT)
    assert not thread.is_alive()


# -- what is given: a path, a text, vars -----------------------------------------------


@each_way
def test_the_ini_is_a_path(running, tmp_path, untouched):
    write(tmp_path, {'folder/site.ini': INI + '\n    [app:other]\n    use = main'})
    here = tmp_path / 'folder'
    for ini in (here / 'site.ini', f'{here}/site.ini', f'config:{here}/site.ini'):
        with running(ini):
            assert str(here) in sys.path
    with (
        running('site.ini', relative_to=here),
        running('site.ini#other', None, relative_to=here),
    ):
        pass
    with contextlib.chdir(here), running('site.ini') as site:
        assert site.bus.state is State.STARTED


@pytest.mark.filterwarnings(f'ignore{CGI}')
def test_the_site_may_be_an_entry_point():
    with composed('egg:paste_wspbus#hello') as site:
        assert 'Bus state' in site.get('/')
    with (
        served('egg:paste_wspbus#hello') as site,
        urllib.request.urlopen(site.url, timeout=TIMEOUT) as response,
    ):
        assert b'Bus state' in response.read()


def test_a_text_stands_in_a_folder_of_its_own_that_goes_with_the_site(untouched):
    with composed(INI) as site:
        here = site.get('/').json['vars']['here']
        assert os.path.isdir(here)
    assert not os.path.exists(here)


def test_a_text_stands_in_the_folder_that_is_given(tmp_path):
    write(tmp_path, {'base.ini': INI})
    before = set(os.listdir(tmp_path))
    text = '[app:main]\nuse = config:base.ini\nkey = changed\n'
    with composed(text, relative_to=tmp_path) as site:
        answer = site.get('/').json
        assert answer['vars']['here'] == str(tmp_path)
        assert answer['conf'] == {'key': 'changed'}
    assert set(os.listdir(tmp_path)) == before


@each_way
def test_vars_are_those_of_the_command_line(running):
    with running(INI, {'var': '50 %', 'more': 'x'}) as site:
        answer = site.get('/').json if running is composed else fetch(site.url)
        assert answer['conf'] == {'key': '50 %'}
        assert answer['vars']['more'] == 'x'


def test_settings_of_the_ini_hold_but_for_the_drain_delay():
    ini = with_plugin(
        'part', 'drain_delay = 3600\n    stop_timeout = 7000\n    signal.SIGUSR1 = news'
    )
    with composed(ini) as site:
        assert site.bus.stop_timeout == 7000
        assert site.bus.plugins['signals'].handlers['SIGUSR1'] == 'news'


# -- several ---------------------------------------------------------------------------


@each_way
def test_sites_run_one_after_another(running, untouched):
    buses = set()
    for _ in range(3):
        with running(INI) as site:
            buses.add(id(site.bus))
            assert site.bus.state is State.STARTED
        said.append('.')
    assert said == ['+first', '+second', '-second', '-first', '.'] * 3


def test_sites_run_at_once(untouched):
    with composed(INI, {'var': 'a'}) as a, served(INI, {'var': 'b'}) as b:
        with served(INI, {'var': 'c'}) as c:
            assert a.get('/').json['conf'] == {'key': 'a'}
            assert fetch(b.url)['conf'] == {'key': 'b'}
            assert fetch(c.url)['conf'] == {'key': 'c'}
        assert is_free(port_of(c.url))
        assert fetch(b.url)['state'] == 'STARTED'


def test_sites_are_composed_in_several_threads_at_once(tmp_path, untouched):
    answers = []
    write(tmp_path, {'site.ini': INI.replace(':make', ':make_slowly')})

    def run(number):
        with composed(tmp_path / 'site.ini', {'var': number}) as site:
            together.wait(TIMEOUT)
            answers.append(site.get('/').json['conf']['key'])

    together = threading.Barrier(4)
    threads = [threading.Thread(target=run, args=(str(n),)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(TIMEOUT)
    assert sorted(answers) == ['0', '1', '2', '3']


def test_a_folder_stays_importable_until_its_last_site_ends(tmp_path, untouched):
    write(tmp_path, {'site.ini': INI})
    first, second = composed(tmp_path / 'site.ini'), composed(tmp_path / 'site.ini')
    with first:
        second.__enter__()
        assert sys.path.count(str(tmp_path)) == 1
    assert sys.path[-1] == str(tmp_path)
    second.__exit__(None, None, None)
    assert str(tmp_path) not in sys.path


def test_a_folder_that_was_importable_before_stays_so(tmp_path, monkeypatch):
    write(tmp_path, {'site.ini': INI})
    monkeypatch.syspath_prepend(tmp_path)
    with composed(tmp_path / 'site.ini'):
        pass
    assert sys.path[0] == str(tmp_path)
    assert sys.path.count(str(tmp_path)) == 1


# -- what goes wrong ---------------------------------------------------------------------


@each_way
@pytest.mark.parametrize(
    ('ini', 'error', 'message'),
    [
        ('no-such.ini', ConfigError, 'there is no such file'),
        ('[app:main]\nno line of an ini', ConfigError, r'neither a .section. nor'),
        ('[app:other]\nuse = egg:paste_wspbus#hello', ConfigError, r'\[app:main\]'),
        (
            '[app:main]\nuse = call:tests.test_testing:fails',
            FactoryError,
            'cannot be made',
        ),
        ('[app:main]\nuse = call:no_such_module:x', ConfigError, 'no_such_module'),
        (with_plugin('part', 'workerz = 1'), ConfigError, 'workerz'),
        (with_plugin('fails'), FactoryError, 'fails'),
    ],
    ids=['file', 'syntax', 'section', 'factory', 'module', 'key', 'plugin'],
)
def test_errors_of_composition_come_out_as_they_are(
    running, ini, error, message, untouched
):
    with pytest.raises(error, match=message), running(ini):
        raise AssertionError('the block was entered')
    assert said == []


def test_a_wrong_setting_of_the_server_comes_out_as_it_is(untouched):
    ini = f'{INI}\n    [server:main]\n    use = egg:waitress\n    threads = many\n'
    with pytest.raises(ConfigError, match=r'\[server:main\] threads'), served(ini):
        pass


@each_way
def test_a_start_that_fails_comes_out_when_what_had_started_is_stopped(
    running, untouched
):
    with (
        pytest.raises(ChannelFailures) as raised,
        running(with_plugin('fails_to_start')),
    ):
        raise AssertionError('the block was entered')
    assert str(raised.value.__cause__) == 'it does not open'
    assert raised.value.listener == 'it'
    assert said == ['+first', '-first', 'exit']


@each_way
def test_a_site_that_stops_while_it_starts_is_an_error(running, untouched):
    with (
        pytest.raises(NotStarted, match='stopped as soon as'),
        running(with_plugin('exits')),
    ):
        raise AssertionError('the block was entered')
    assert said == ['+first', '-first']


@each_way
def test_a_stop_that_fails_is_raised_when_everything_else_is_stopped(
    running, untouched, caplog
):
    caplog.set_level(logging.INFO, 'paste_wspbus')
    with (
        pytest.raises(ChannelFailures, match='does not close'),
        running(with_plugin('fails_to_stop')),
    ):
        said.append('inside')
    assert said == ['+first', 'inside', '-first']
    assert "Error in 'stop' listener it" in caplog.text
    assert 'Bus EXITED' in caplog.text


def test_a_stop_that_a_request_asked_for_and_that_fails_is_raised(untouched):
    with (
        pytest.raises(ChannelFailures, match='does not close'),
        served(with_plugin('fails_to_stop')) as site,
    ):
        fetch(f'{site.url}/exit')


def test_a_stop_that_fails_in_block_fails_the_test(untouched):
    with (
        pytest.raises(StopFailed) as raised,
        served(with_plugin('fails_to_stop')) as site,
    ):
        fetch(f'{site.url}/exit')
        site.bus.block(states=State.STOPPED)
        said.append('blocked')
    assert raised.value.exit_code == 1
    assert said == ['+first', '-first', 'blocked']


def test_a_failure_that_the_exit_code_tells_of_fails_the_test(untouched):
    def fail():
        site.bus.exit_code = 3
        site.bus.exit()

    with pytest.raises(StopFailed) as raised, served(INI) as site:
        thread = threading.Thread(target=fail)
        thread.start()
        thread.join(TIMEOUT)
    assert raised.value.exit_code == 3
    assert said == ['+first', '+second', '-second', '-first']


@each_way
def test_a_test_that_fails_stops_its_site_and_fails_for_its_own_reason(
    running, untouched
):
    with pytest.raises(AssertionError, match='of the test'), running(INI):
        raise AssertionError('of the test')
    assert said == ['+first', '+second', '-second', '-first']


def test_of_a_test_and_a_stop_that_both_fail_nothing_is_lost(untouched):
    with (
        pytest.raises(ChannelFailures) as raised,
        composed(with_plugin('fails_to_stop')),
    ):
        raise AssertionError('of the test')
    error, errors = raised.value, []
    while error := error.__context__:
        errors.append(str(error))
    assert 'of the test' in errors


def test_a_stop_over_its_time_skips_the_waits_and_fails_the_test_not_the_process(
    untouched, caplog
):
    ini = with_plugin('hangs_until_hurried', 'stop_timeout = 0.2')
    with pytest.raises(StopFailed) as raised, composed(ini):
        pass
    assert raised.value.exit_code == 70
    assert said == ['+first', '-first']
    assert 'did not stop within 0.2 s' in caplog.text
    assert 'hangs_until_hurried' in caplog.text  # its stack


# -- what is left alone --------------------------------------------------------------------


@each_way
def test_signals_threads_files_and_loggers_are_as_before(running, untouched):
    handlers = [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)]
    levels = [logging.root.level, logging.root.handlers[:]]
    with running(INI):
        assert handlers == [
            signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)
        ]
        assert levels == [logging.root.level, logging.root.handlers[:]]


@each_way
def test_a_site_that_has_ended_is_forgotten(running):
    with threads_end(), running(INI) as site:
        bus = weakref.ref(site.bus)
    del site
    gc.collect()
    assert bus() is None  # BUG 1


def test_the_bus_says_to_logging_what_it_does(caplog):
    caplog.set_level(logging.INFO, 'paste_wspbus')
    with composed(INI):
        assert caplog.messages == ['Bus STARTING', 'Bus STARTED']
    assert caplog.messages[2:] == [
        'Bus STOPPING',
        'Bus STOPPED',
        'Bus EXITING',
        'Bus EXITED',
    ]


LOGGING = """
    [loggers]
    keys = root, site
    [handlers]
    keys = file, other
    [formatters]
    keys =
    [logger_root]
    level = ERROR
    handlers = file
    [logger_site]
    level = DEBUG
    qualname = paste_wspbus
    handlers = other
    [handler_file]
    class = FileHandler
    args = (%(log)r, 'w')
    [handler_other]
    class = FileHandler
    args = (%(log)r + '.2', 'w')
"""


def with_logging(folder):
    return INI + LOGGING.replace('%(log)r', repr(str(folder / 'site.log')))


def test_logging_of_the_ini_is_set_up_only_where_it_is_asked_for(tmp_path, untouched):
    with composed(with_logging(tmp_path)):
        pass
    assert list(tmp_path.iterdir()) == []
    with composed(with_logging(tmp_path), configure_logging=True):
        logging.getLogger('elsewhere').error('an error')
        assert logging.root.level == logging.ERROR
    assert 'Bus STARTED' in (tmp_path / 'site.log.2').read_text()
    assert 'an error' in (tmp_path / 'site.log').read_text()


def test_logging_is_as_before_when_the_ini_s_is_wrong(tmp_path, untouched):
    ini = with_logging(tmp_path).replace('keys = root, site', 'keys = root, nobody')
    with (
        pytest.raises(ConfigError, match=r'no section .logger_nobody.'),
        composed(ini, configure_logging=True),
    ):
        pass


def test_handlers_that_were_there_before_are_not_closed(tmp_path, caplog):
    mine = logging.FileHandler(tmp_path / 'mine.log', 'w')
    mine.set_name('mine of this test')
    logging.getLogger('mine').addHandler(mine)
    try:
        with composed(with_logging(tmp_path), configure_logging=True):
            pass
        logging.getLogger('mine').error('still there')
        assert 'still there' in (tmp_path / 'mine.log').read_text()
        assert logging._handlers['mine of this test'] is mine
        assert 'still there' in caplog.text
    finally:
        logging.getLogger('mine').removeHandler(mine)
        mine.close()


# -- pytest ----------------------------------------------------------------------------------


def python(*args, cwd, **environ):
    env = {k: v for k, v in os.environ.items() if not k.startswith('PYTEST')}
    return subprocess.run(
        [sys.executable, '-W', 'error', '-W', f'ignore{CGI}', *map(str, args)],
        cwd=cwd,
        env={**env, 'PYTEST_DISABLE_PLUGIN_AUTOLOAD': '1', **environ},
        capture_output=True,
        text=True,
        timeout=4 * TIMEOUT,
    )


def run_pytest(folder, tests, *args, **files):
    files = {name.replace('_ini', '.ini'): text for name, text in files.items()}
    conftest = files.pop('conftest', '')
    write(folder, {'test_site.py': tests, 'conftest.py': conftest, **files})
    plugins = ('-p', 'paste_wspbus.testing', '-p', 'no:cacheprovider')
    done = python('-m', 'pytest', '-q', *plugins, *args, cwd=folder)
    return done.returncode, done.stdout + done.stderr


HELLO = """
    [app:main]
    use = egg:paste_wspbus#hello
    greeting = Hello, %(who)s
    [DEFAULT]
    who = world
"""


def test_the_fixtures_run_the_site_that_pytest_is_configured_for(tmp_path):
    code, output = run_pytest(
        tmp_path,
        """
        from urllib.request import urlopen

        def test_app(wspbus_site):
            assert 'Hello, world' in wspbus_site.get('/')

        def test_both(wspbus_site, wspbus_server):
            with urlopen(wspbus_server.url, timeout=60) as response:
                assert b'Hello, world' in response.read()
            assert wspbus_site.bus is not wspbus_server.bus
        """,
        '--strict-markers',
        '--strict-config',
        '-c',
        'pytest.ini',
        site_ini=HELLO,
        pytest_ini=f"""
        [pytest]
        wspbus_ini = site.ini
        filterwarnings =
            error
            ignore{CGI}
        """,
    )
    assert code == 0, output
    assert '2 passed' in output


def test_the_fixtures_run_the_site_that_a_test_suite_says(tmp_path):
    code, output = run_pytest(
        tmp_path,
        """
        import pytest

        @pytest.fixture
        def wspbus_vars():
            return {'who': 'pytest'}

        def test_vars(wspbus_site):
            assert 'Hello, pytest' in wspbus_site.get('/')

        class TestText:
            @pytest.fixture
            def wspbus_ini(self):
                return '''
                [app:main]
                use = egg:paste_wspbus#hello
                greeting = in %(here)s
                '''

            def test_text(self, wspbus_site, wspbus_server, tmp_path):
                assert f'in {tmp_path}' in wspbus_site.get('/')
        """,
        conftest=f"""
import pytest

@pytest.fixture(scope='session')
def wspbus_ini():
    return {HELLO!r}
        """,
    )
    assert code == 0, output
    assert '2 passed' in output


def test_the_examples_of_the_documentation_run(tmp_path):
    text = (ROOT / 'docs/testing.md').read_text()
    examples = re.findall(r'```python\n(.*?)```', text, re.S)
    setting, *_ = re.findall(r'```ini\n(.*?)```', text, re.S)
    assert len(examples) > 5
    code, output = run_pytest(
        tmp_path,
        '\n'.join([*examples, 'def test_shared(shared): shared.get("/")\n']),
        '-c',
        'pytest.ini',
        pytest_ini=setting,
        site_ini="""
        [app:main]
        use = egg:paste_wspbus#hello
        greeting = Hello, %(who)s
        [wspbus:main]
        plugins = db
        [plugin:db]
        use = call:database:connect
        [DEFAULT]
        who = world
        """,
        **{
            'database.py': """
            import sqlite3

            def connect(bus, global_conf):
                db = sqlite3.connect(':memory:')
                yield db
                db.close()
            """
        },
    )
    assert code == 0, output
    assert '3 passed' in output


def test_a_failure_of_stop_is_an_error_of_the_test_s_end(tmp_path):
    code, output = run_pytest(
        tmp_path,
        """
        def test_site(wspbus_site):
            pass
        """,
        '-c',
        'pytest.ini',
        pytest_ini='[pytest]\nwspbus_ini = site.ini\n',
        site_ini="""
        [app:main]
        use = egg:paste_wspbus#hello
        [wspbus:main]
        plugins = it
        [plugin:it]
        use = call:conftest:fails_to_stop
        """,
        conftest="""
        def fails_to_stop(bus, global_conf):
            yield
            raise OSError('it does not close')
        """,
    )
    assert code == 1, output
    assert '1 passed, 1 error' in output
    assert 'it does not close' in output


def test_a_suite_that_names_no_site_is_told_how(tmp_path):
    code, output = run_pytest(tmp_path, 'def test_site(wspbus_site): pass\n')
    assert code == 1, output
    assert "Set wspbus_ini in pytest's configuration" in output


def test_a_run_of_pytest_without_a_site_does_not_import_what_composes_one(tmp_path):
    code, output = run_pytest(
        tmp_path,
        """
        import sys

        def test_modules():
            ours = {name for name in sys.modules if name.startswith('paste_wspbus')}
            assert ours == {
                'paste_wspbus', 'paste_wspbus.testing', 'paste_wspbus.errors'
            }
            others = {'paste.deploy', 'webtest', 'webob', 'waitress', 'logging.config'}
            assert not others & set(sys.modules)
        """,
    )
    assert code == 0, output
    assert '1 passed' in output


def test_neither_pytest_nor_webtest_is_needed_by_the_context_managers(tmp_path):
    write(tmp_path, {'site.ini': HELLO})
    script = """
    import sys
    sys.modules['pytest'] = sys.modules['webtest'] = None
    from urllib.request import urlopen
    from paste_wspbus.testing import composed, served
    with composed('site.ini') as site, served('site.ini') as live:
        with urlopen(live.url, timeout=60) as response:
            print(site.bus.state.name, response.read().decode())
    """
    done = python('-c', textwrap.dedent(script), cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, '')
    assert done.stdout.startswith('STARTED')
    assert 'Hello, world' in done.stdout
