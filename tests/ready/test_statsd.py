"""Requests, as a StatsD server gets them."""

import socket

import pytest

from paste_wspbus.bus import Bus
from paste_wspbus.errors import ConfigError
from paste_wspbus.ready import statsd
from paste_wspbus.ready.statsd import DATAGRAM, Statsd, packed
from paste_wspbus.requests.ledger import Series
from tests.kit import TIMEOUT, Site
from tests.kit.places import DOCS

ITEM = Series('GET', '2xx', '/item/{id}')


def lines(**settings):
    plugin = Statsd(Bus(), {}, **settings)
    return list(plugin.lines([(ITEM, 0.25), (ITEM, 0.5)]))


def test_method_status_and_route_are_parts_of_the_name():
    assert lines(prefix='shop.web') == [
        'shop.web.requests.GET.2xx.item_id:2|c',
        'shop.web.request_duration.GET.2xx.item_id:250.000|ms',
        'shop.web.request_duration.GET.2xx.item_id:500.000|ms',
    ]


def test_with_tags_they_are_tags():
    assert lines(tags='env:prod, site:a|b#c')[0] == (
        'wspbus.requests:2|c'
        '|#env:prod,site:a_b_c,method:GET,status:2xx,route:/item/{id}'
    )


def test_the_page_shows_what_is_sent():
    page = (DOCS / 'ready' / 'statsd.md').read_text()
    for tags in ('', 'env:prod'):
        assert '```\n' + '\n'.join(lines(prefix='shop', tags=tags)) + '\n```' in page


@pytest.mark.parametrize('tags', ['', 'env:prod'])
def test_a_route_can_forge_no_line(tags):
    nasty = Series('GET', '2xx', '/a\nforged:1|c|#x,y\r@0.1')
    plugin = Statsd(Bus(), {}, tags=tags)
    for line in plugin.lines([(nasty, 0)]):
        assert '\n' not in line and '\r' not in line and '@' not in line
        assert line.count('|') == (2 if tags else 1)


def test_datagrams_have_whole_lines_and_fit():
    sent = [f'name{number}:1|c' for number in range(1000)]
    datagrams = list(packed(sent))
    assert b'\n'.join(datagrams).decode().split('\n') == sent
    assert 5 < len(datagrams) < 20
    assert max(map(len, datagrams)) <= DATAGRAM


@pytest.mark.parametrize('port', [0, -1, 65536])
def test_a_port_that_cannot_be_is_refused(port):
    with pytest.raises(ConfigError, match='from 1 to 65535'):
        Statsd(Bus(), {}, port=port)


def test_a_host_that_is_not_known_costs_no_request_and_is_told_once(monkeypatch):
    def fail(*args, **kwargs):
        raise socket.gaierror(-2, 'Name or service not known')

    monkeypatch.setattr(statsd.socket, 'getaddrinfo', fail)
    bus, told = Bus(), []
    bus.subscribe('log', lambda line, level: told.append(line))
    plugin = Statsd(bus, {}, host='none')
    for _ in range(3):
        plugin._note(ITEM, 0)
        plugin._send()
    assert len(told) == 1 and 'none:8125 cannot be reached' in told[0]


def test_what_nobody_reads_is_lost_and_does_not_grow():
    plugin = Statsd(Bus(), {})
    for _ in range(statsd.MOST + 10):
        plugin._note(ITEM, 0)
    assert len(plugin._requests) == statsd.MOST
    with socket.socket(type=socket.SOCK_DGRAM) as free:
        free.bind(('127.0.0.1', 0))
        plugin.port = free.getsockname()[1]
    plugin._send()
    plugin._note(ITEM, 0)
    plugin._send()
    plugin._socket.close()


INI = """
[app:main]
use = egg:paste_wspbus#hello
[server:main]
use = egg:waitress
host = 127.0.0.1
port = 0
[wspbus:main]
plugins = statsd
[plugin:statsd]
use = egg:paste_wspbus#statsd
port = {port}
prefix = shop
"""


@pytest.mark.parametrize('workers', ['', 'workers = 2\npreload = true'])
def test_a_server_gets_each_request_of_a_site(tmp_path, workers):
    with socket.socket(type=socket.SOCK_DGRAM) as server:
        server.bind(('127.0.0.1', 0))
        server.settimeout(TIMEOUT)
        ini = INI.format(port=server.getsockname()[1])
        ini = ini.replace('plugins = statsd', f'plugins = statsd\n{workers}')
        with Site(tmp_path, ini) as site:
            for _ in range(5):
                assert site.get('/').status == 200
            assert site.stop()[0] == 0
        counted, times = 0, 0
        while counted < 5 or times < 5:
            for line in server.recv(65536).decode().split('\n'):
                name, _, value = line.partition(':')
                assert name in (
                    'shop.requests.GET.2xx.root',
                    'shop.request_duration.GET.2xx.root',
                )
                counted += int(value[:-2]) if value.endswith('|c') else 0
                times += value.endswith('|ms')
        assert (counted, times) == (5, 5)
