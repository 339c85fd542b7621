"""Who has a port: a command says it by process and program."""

import socket

import pytest

from paste_wspbus.unix.listeners import who_listens
from tests.kit import Site, run
from tests.kit.sites import APP

SITE = """
[app:main]
use = call:webapp:make

[server:main]
use = egg:{server}
host = 127.0.0.1
port = {port}
"""


@pytest.mark.parametrize('host', ['127.0.0.1', '::1'])
def test_a_listening_socket_of_this_process(host):
    family = socket.AF_INET6 if ':' in host else socket.AF_INET
    with socket.create_server((host, 0), family=family) as sock:
        assert who_listens(sock.getsockname()[1]) == 'another address of this site'


def test_a_port_at_which_nobody_listens():
    with socket.socket() as sock:
        sock.bind(('127.0.0.1', 0))
        assert who_listens(sock.getsockname()[1]) == ''


@pytest.mark.parametrize('workers', ['0', '2'])
def test_a_site_that_has_the_port_is_named(tmp_path, workers):
    files = {'webapp.py': APP}
    ini = SITE.format(server='waitress', port=0)
    with Site(tmp_path, ini, '--workers', workers, files=files) as site:
        again = run(tmp_path, 'site.ini', '--listen', f'127.0.0.1:{site.port}')
        assert again.code == 1, again.report()
        taken = f'the port is taken: process {site.pid} ('
        assert taken in again.err.text and ') listens there' in again.err.text
        assert len(again.err.text.splitlines()) == 1


def test_an_address_that_another_one_of_the_site_has(tmp_path):
    with socket.create_server(('127.0.0.1', 0)) as sock:
        port = sock.getsockname()[1]
    listen = '--listen', f'0.0.0.0:{port}', '--listen', f'127.0.0.1:{port}'
    ini = '[app:main]\nuse = egg:paste_wspbus#hello\n'
    done = run(tmp_path, 'site.ini', *listen, files={'site.ini': ini})
    assert done.code == 1, done.report()
    assert 'the port is taken: another address of this site listens' in done.err.text
