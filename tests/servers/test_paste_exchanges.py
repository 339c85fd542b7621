"""Exchange by exchange, a client gets from a site under wspserve what plain Paste#http sends."""

import sys

import pytest

from tests.kit import Process, Site
from tests.kit.exchanges import APP, EXCHANGES, exchanges

#: Plain Paste#http, in a process of its own.
PLAIN = """
import webapp
from paste.httpserver import serve

version = 'HTTP/{version}'
server = serve(webapp.app, '127.0.0.1', 0, protocol_version=version, start_loop=False)
print('port', server.server_address[1], flush=True)
server.serve_forever()
"""

INI = """
[app:main]
use = call:webapp:make
[server:main]
use = egg:Paste#http
host = 127.0.0.1
port = 0
protocol_version = HTTP/{version}
"""

#: Of the others, Paste resets some: what a client sends behind a request is not read.
SINGLE = [name for name in EXCHANGES if name.split()[0] in ('GET', 'HEAD')]


@pytest.mark.parametrize('args', [[], ['--workers', '2']], ids=['alone', 'workers'])
@pytest.mark.parametrize('version', ['1.0', '1.1'])
def test_each_exchange_is_that_of_plain_paste(tmp_path, version, args):
    (tmp_path / 'webapp.py').write_text(APP)
    program = PLAIN.format(version=version)
    with Process([sys.executable, '-c', program], tmp_path) as server:
        assert server.out.wait_for('port'), server.report()
        port = int(server.out.text.split()[1])
        plain = exchanges(('127.0.0.1', port), SINGLE)
    assert plain['GET / 1.1'][1].endswith(b'\r\n\r\nok ')
    with Site(tmp_path, INI.format(version=version), *args) as site:
        ours = exchanges(site.address, SINGLE)
        assert site.stop()[0] == 0, site.report()
    for name in SINGLE:
        if '/text' in name:  # Paste sends a good status and no body
            assert b' 500 ' in ours[name][1].split(b'\r\n')[0], name
        else:
            assert ours[name] == plain[name], name
