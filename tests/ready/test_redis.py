"""ready/redis.py: a client as a resource, with a real server."""

import subprocess
import sys

import pytest

from paste_wspbus.bus import ChannelFailures
from paste_wspbus.errors import ConfigError
from paste_wspbus.process.load import states_of
from paste_wspbus.ready.redis import Redis
from tests.kit import eventually, free_port


def plugin(bus, url, **settings):
    made = Redis(bus, {}, url, **settings)
    made.name = 'cache'
    bus.plugins['cache'] = made
    made.subscribe()
    return made


@pytest.fixture
def server(tmp_path):
    """A server at a Unix socket, with a password: its URL."""
    path = tmp_path / 'redis.sock'
    words = ['redis-server', '--port', '0', '--unixsocket', str(path)]
    words += ['--requirepass', 's3cr3t', '--save', '', '--dir', str(tmp_path)]
    with subprocess.Popen(words, stdout=subprocess.DEVNULL) as process:
        try:
            eventually(path.exists)
            yield f'unix://:s3cr3t@{path}'
        finally:
            process.terminate()


def test_the_client_is_a_resource_while_the_site_is_started(bus, server):
    made = plugin(bus, server, decode_responses=True)
    bus.start()
    client = bus.resources['cache']
    assert client is made.client
    client.set('a', 'b')
    assert client.get('a') == 'b'
    shown = server.replace(':s3cr3t@', '')
    assert states_of(bus)['cache'] == {'text': shown, 'ok': True}
    bus.stop()
    assert bus.resources == {}
    bus.start()
    assert bus.resources['cache'].get('a') == 'b'


def test_a_wrong_password_fails_the_start_and_is_not_shown(bus, server):
    plugin(bus, server.replace('s3cr3t', 'wr0ng'))
    with pytest.raises(ChannelFailures) as caught:
        bus.start()
    text = str(caught.value.__cause__)
    assert 'AuthenticationError' in text
    assert 'wr0ng' not in text and '\n' not in text


def test_a_server_that_is_down_fails_the_start(bus):
    plugin(bus, f'redis://:s3cr3t@127.0.0.1:{free_port()}/0')
    with pytest.raises(ChannelFailures) as caught:
        bus.start()
    text = str(caught.value.__cause__)
    assert 'Connection refused (with required = false, the site starts)' in text
    assert 's3cr3t' not in text


def test_or_the_site_starts_without_it(bus, log):
    url = f'redis://127.0.0.1:{free_port()}/0'
    plugin(bus, url, required=False)
    bus.start()
    said = states_of(bus)['cache']['text']
    assert said == f'{url} (it did not answer at the start)'
    assert log[1].endswith('Connection refused: the site starts all the same')


@pytest.mark.parametrize(
    'url, problem',
    [
        ('http://:s3cr3t@h/0', 'url: ValueError: Redis URL must specify one of'),
        ('redis://:s3cr3t@h:x/0', 'url: ValueError: Port could not be cast'),
    ],
)
def test_a_wrong_url_is_one_line_without_the_password(bus, url, problem):
    with pytest.raises(ConfigError) as caught:
        plugin(bus, url)
    assert str(caught.value).startswith(problem)
    assert 's3cr3t' not in str(caught.value)


@pytest.mark.parametrize(
    'url, is_checked',
    [
        ('rediss://h/0', True),
        ('rediss://h/0?ssl_check_hostname=false', False),
        ('rediss://h/0?ssl_cert_reqs=none', None),
        ('redis://h/0', None),
    ],
)
def test_over_tls_the_name_in_the_certificate_is_checked(bus, url, is_checked):
    pool = plugin(bus, url).client.connection_pool
    assert pool.connection_kwargs.get('ssl_check_hostname') is is_checked
    pool.make_connection()


def test_without_redis_py_the_error_says_how_to_install_it(bus, monkeypatch):
    monkeypatch.setitem(sys.modules, 'redis', None)
    with pytest.raises(ConfigError) as caught:
        plugin(bus, 'redis://h/0')
    how = "pip install 'paste_wspbus[redis]'"
    assert str(caught.value) == f'use: it needs redis, which is not installed: {how}'
