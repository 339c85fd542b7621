"""ready/sqlalchemy.py: an engine as a resource, with SQLite, and with a server that is down."""

import gc
import socket
import sys

import pytest
import sqlalchemy

from paste_wspbus.bus import ChannelFailures
from paste_wspbus.errors import ConfigError
from paste_wspbus.ini.typed import convert, settings_of
from paste_wspbus.process.load import states_of
from paste_wspbus.ready.sqlalchemy import SQLAlchemy
from tests.kit import Site, eventually, free_port, run
from tests.kit.sites import SERVED, ask


def plugin(bus, url, **settings):
    made = SQLAlchemy(bus, {}, url, **settings)
    made.name = 'db'
    bus.plugins['db'] = made
    made.subscribe()
    return made


#: pg8000 leaves its socket open if it cannot connect.
pytestmark = pytest.mark.filterwarnings(
    'ignore::pytest.PytestUnraisableExceptionWarning'
)


@pytest.fixture(autouse=True)
def collected():
    yield
    gc.collect()  # here, and not in a test of another module


@pytest.fixture
def url(tmp_path):
    return f'sqlite:///{tmp_path}/site.db'


def test_a_database_in_memory_is_closed_without_a_complaint(bus, caplog):
    engine = plugin(bus, 'sqlite:///:memory:').engine
    bus.start()
    with engine.connect() as connection:
        assert connection.scalar(sqlalchemy.select(7)) == 7
    bus.stop()
    # SQLAlchemy logs what it cannot close.
    assert [one for one in caplog.records if one.name.startswith('sqlalchemy')] == []


def test_the_engine_is_a_resource_while_the_site_is_started(bus, url):
    made = plugin(bus, url, pool_size=3)
    bus.start()
    engine = bus.resources['db']
    assert engine is made.engine and engine.pool.size() == 3
    with engine.connect() as connection:
        assert connection.scalar(sqlalchemy.select(7)) == 7
        text = states_of(bus)['db']['text']
        assert text == f'{url}: 1 connections in use; up to 3 are kept open'
    assert engine.pool.checkedin() == 1
    bus.stop()
    assert bus.resources == {}
    assert engine.pool.checkedin() == 0
    bus.start()
    assert bus.resources['db'] is engine


def test_further_keys_are_those_of_create_engine(bus, url):
    made = plugin(bus, url, pool_timeout='3', max_overflow=0, pool_pre_ping=True)
    assert made.engine.pool.timeout() == 3


def dead(password='s3cr3t'):
    return f'postgresql+pg8000://u:{password}@127.0.0.1:{free_port()}/x'


def test_a_database_that_is_down_fails_the_start_in_one_line_without_the_password(bus):
    plugin(bus, dead())
    with pytest.raises(ChannelFailures) as caught:
        bus.start()
    text = str(caught.value.__cause__)
    assert 'InterfaceError: ' in text and '127.0.0.1' in text
    assert text.endswith('(with required = false, the site starts)')
    assert 's3cr3t' not in text and '\n' not in text


def test_or_the_site_starts_without_it(bus, log):
    plugin(bus, dead(), required=False)
    bus.start()
    assert 'InterfaceError: ' in log[1] and 's3cr3t' not in log[1]
    assert log[1].endswith(': the site starts all the same')
    assert 'db' in bus.resources


def test_a_database_that_does_not_answer_has_a_time_limit(bus):
    with socket.create_server(('127.0.0.1', 0)) as silent:
        port = silent.getsockname()[1]
        plugin(bus, f'postgresql+pg8000://u:p@127.0.0.1:{port}/x', timeout=0.3)
        with pytest.raises(ChannelFailures) as caught:
            bus.start()
    assert 'no answer within 0.3 s' in str(caught.value.__cause__)


@pytest.mark.parametrize(
    'url, problem',
    [
        ('postgre://u:s3cr3t@h/x', "url: NoSuchModuleError: Can't load plugin"),
        ('postgresql+pg8000://u:s3cr3t@h:x/x', 'url: ValueError: invalid literal'),
        ('://u:s3cr3t@h', 'url: ArgumentError: '),
        (
            'oracle+oracledb://u:s3cr3t@h/x',
            'url: its driver oracledb is not installed: pip install oracledb',
        ),
    ],
)
def test_a_wrong_url_is_one_line_without_the_password(bus, url, problem):
    with pytest.raises(ConfigError) as caught:
        plugin(bus, url)
    assert str(caught.value).startswith(
        f'[plugin:db] {problem}'.removeprefix('[plugin:db] ')
    )
    assert 's3cr3t' not in str(caught.value) and '\n' not in str(caught.value)


def test_a_url_without_a_scheme_is_refused_without_its_password():
    with pytest.raises(ConfigError) as caught:
        convert(
            settings_of(SQLAlchemy), {'url': 'u:s3cr3t@h/x'}, 'site.ini', 'plugin:db'
        )
    assert "'***@h/x' is not a URL" in str(caught.value)


def test_an_unknown_key_is_named(bus, url):
    with pytest.raises(ConfigError, match=r"'pool_sise' sent to create_engine\(\)$"):
        plugin(bus, url, pool_sise='3')


def test_without_sqlalchemy_the_error_says_how_to_install_it(bus, url, monkeypatch):
    monkeypatch.setitem(sys.modules, 'sqlalchemy', None)
    with pytest.raises(ConfigError) as caught:
        plugin(bus, url)
    how = "pip install 'paste_wspbus[sqlalchemy]'"
    assert (
        str(caught.value) == f'use: it needs SQLAlchemy, which is not installed: {how}'
    )


PRELOADED = """
import json, os
from sqlalchemy import event, text
from paste_wspbus import get_bus

def note(connection, record):
    record.info['pid'] = os.getpid()

def make(global_conf):
    bus = get_bus(global_conf)
    engine = bus.plugins['db'].engine
    event.listen(engine, 'connect', note)
    with engine.connect() as connection:  # in the process that is forked
        connection.execute(text('create table if not exists t (a)'))

    def app(environ, start_response):
        with bus.resources['db'].connect() as connection:
            told = {'pid': os.getpid(), 'made_by': connection.info['pid']}
        start_response('200 OK', [('Content-Type', 'application/json')])
        return [json.dumps(told).encode()]

    return app
"""


def test_forked_workers_have_connections_of_their_own(tmp_path, url):
    ini = f"""
[wspbus:main]
workers = 2
preload = true
plugins = db

[plugin:db]
use = egg:paste_wspbus#sqlalchemy
url = %(ENV_DSN)s
{SERVED}
"""
    files = {'webapp.py': PRELOADED}
    with Site(tmp_path, ini, files=files, env={'DSN': url}) as site:
        seen = set()

        def both():
            told = ask(site, '/')
            assert told['made_by'] == told['pid']
            seen.add(told['pid'])
            return len(seen) == 2

        eventually(both)
        status = run(tmp_path, 'site.ini', 'status', env={'DSN': url}).out.text
        assert status.count(f': {url}'[:30]) == 2, status
        assert site.stop()[0] == 0
