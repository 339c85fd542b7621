"""Exchange by exchange, a client gets from a site under wspserve what plain waitress sends, byte for byte."""

import sys

import pytest

from tests.kit import Process, Site
from tests.kit.exchanges import APP, BIG, EXCHANGES, exchanges

#: Plain waitress, in a process of its own.
PLAIN = """
import webapp
from waitress import create_server

server = create_server(webapp.app, host='127.0.0.1', port=0, threads=4)
print('port', server.effective_port, flush=True)
server.run()
"""

INI = """
[app:main]
use = call:webapp:make
[server:main]
use = egg:waitress
host = 127.0.0.1
port = 0
threads = 4
"""


CONTINUE = b'HTTP/1.1 100 Continue\r\n\r\n'


def site_of(folder, without='', **kwargs):
    """The site; ``without``: the ways in which it does not differ from waitress."""
    env = {'WSPBUS_WAITRESS_WITHOUT': without}
    return Site(folder, INI, env=env, files={'webapp.py': APP}, **kwargs)


@pytest.fixture(scope='module')
def plain(tmp_path_factory):
    """{name: what plain waitress sends}."""
    folder = tmp_path_factory.mktemp('plain')
    (folder / 'webapp.py').write_text(APP)
    with Process([sys.executable, '-W', 'error', '-c', PLAIN], folder) as server:
        assert server.out.wait_for('port'), server.report()
        address = '127.0.0.1', int(server.out.text.split()[1])
        return answers_of(address)


def answers_of(address):
    """{name: what waitress sends}, asked again where it has reset the connection.

    It does so now and then if it closes one from which it has not read all.
    """
    answers = exchanges(address)
    for _ in range(5):
        reset = [name for name, (end, _) in answers.items() if end != 'closed']
        answers |= exchanges(address, reset)
    return answers


def once(came):
    """What came, without the second "100 Continue" that waitress itself sends now and then.

    It does so if the body arrives while the request before it is being answered.
    """
    end, data = came
    return end, data.replace(2 * CONTINUE, CONTINUE)


@pytest.mark.parametrize('without', ['', 'all', 'one-send', 'queue', 'epoll', 'heads'])
def test_each_exchange_is_that_of_plain_waitress(tmp_path, plain, without):
    with site_of(tmp_path, without) as site:
        ours = answers_of(site.address)
        differ = [name for name in EXCHANGES if once(ours[name]) != once(plain[name])]
        assert {name: (ours[name], plain[name]) for name in differ} == {}
        assert site.stop()[0] == 0, site.report()


def test_plain_waitress_answers_what_it_is_asked(plain):
    """So that the comparison is not of failures with failures."""
    assert plain['GET / 1.1'] == (
        'closed',
        b'HTTP/1.1 200 OK\r\nContent-Length: 3\r\nContent-Type: text/plain\r\n'
        b'Date: then\r\nServer: waitress\r\n\r\nok ',
    )
    assert len(plain['a large response, read slowly'][1]) > BIG
    assert plain['a hundred pipelined'][1].count(b'200 OK') == 101
    assert b'ok hello' in plain['100-continue'][1]
    assert b'400 Bad Request' in plain['garbage'][1]
    assert plain['nothing'] == ('closed', b'')
    assert {end for end, _ in plain.values()} == {'closed'}


def test_an_unknown_way_is_named_before_the_site_is_loaded(tmp_path):
    with site_of(tmp_path, 'one_send', wait=False) as site:
        assert site.wait() == 2
        assert "WSPBUS_WAITRESS_WITHOUT: there is no 'one_send'" in site.err.text
        assert "did you mean 'one-send'?" in site.err.text
