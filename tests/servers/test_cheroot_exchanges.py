"""Exchange by exchange, a client gets from a site under wspserve what plain cheroot sends, byte for byte."""

import sys

import pytest

from tests.kit import Process, Site
from tests.kit.exchanges import APP, BIG, EXCHANGES, exchanges

#: Plain cheroot, in a process of its own.
PLAIN = """
import webapp
from cheroot.wsgi import Server

server = Server(('127.0.0.1', 0), webapp.app, numthreads=4)
server.max = 4
server.prepare()
print('port', server.bind_addr[1], flush=True)
server.serve()
"""

INI = """
[app:main]
use = call:webapp:make
[server:main]
use = egg:paste_wspbus#cheroot
host = 127.0.0.1
port = 0
numthreads = 4
"""


@pytest.fixture(scope='module')
def plain(tmp_path_factory):
    """{name: what plain cheroot sends}."""
    folder = tmp_path_factory.mktemp('plain')
    (folder / 'webapp.py').write_text(APP)
    with Process([sys.executable, '-c', PLAIN], folder) as server:
        assert server.out.wait_for('port'), server.report()
        return exchanges(('127.0.0.1', int(server.out.text.split()[1])))


#: What plain cheroot answers with a good status and no body, and we with 500.
WRONG_BODIES = {
    name for name in EXCHANGES if {'/text', '/bytearray'} & set(name.split())
}


@pytest.mark.parametrize('args', [[], ['--workers', '2']], ids=['alone', 'workers'])
def test_each_exchange_is_that_of_plain_cheroot(tmp_path, plain, args):
    with Site(tmp_path, INI, *args, files={'webapp.py': APP}) as site:
        ours = exchanges(site.address)
        differ = {name for name in EXCHANGES if ours[name] != plain[name]}
        assert {name: (ours[name], plain[name]) for name in differ - WRONG_BODIES} == {}
        for name in WRONG_BODIES:
            assert ours[name][1].startswith(b'HTTP/1.1 500 '), name
        assert site.stop()[0] == 0, site.report()


def test_plain_cheroot_answers_what_it_is_asked(plain):
    """So that the comparison is not of failures with failures."""
    assert plain['GET / 1.1'][1].endswith(b'\r\n\r\n3\r\nok \r\n0\r\n\r\n')
    assert len(plain['a large response, read slowly'][1]) > BIG
    assert plain['a hundred pipelined'][1].count(b'200 OK') == 101
    assert b'ok hello' in plain['100-continue'][1]
    assert b'400 Bad Request' in plain['garbage'][1]
    assert plain['nothing'] == ('closed', b'')
