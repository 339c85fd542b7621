"""A site that has more descriptors open than select(2) can take: each server goes on."""

import resource
import socket

import pytest

from tests.kit import Site

SERVERS = {
    'waitress': 'egg:waitress',
    'paste': 'egg:Paste#http',
    'cheroot': 'egg:paste_wspbus#cheroot',
    'wsgiref': 'egg:paste_wspbus#wsgiref',
}

INI = """\
[app:main]
use = call:webapp:make
[server:main]
use = {server}
host = 127.0.0.1
port = 0
"""

WEBAPP = """
import os

held = []


def make(global_conf):
    def app(environ, start_response):
        held.extend(os.open(os.devnull, os.O_RDONLY) for _ in range(1200))
        body = str(max(held)).encode()
        start_response('200 OK', [('Content-Length', str(len(body)))])
        return [body]
    return app
"""


@pytest.mark.parametrize('server', SERVERS)
def test_descriptors_above_1023_are_served(tmp_path, server):
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    assert hard >= 4096
    with Site(
        tmp_path,
        INI.format(server=SERVERS[server]),
        files={'webapp.py': WEBAPP},
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (4096, hard)),
    ) as site:
        with site.connect() as first:
            assert int(first.get().text) > 1023
            # No smaller number is free: that of this connection is above 1023, too.
            assert site.get().status == 200
        site.stop()
        assert site.wait() == 0, site.report()


def test_a_listening_socket_that_is_hung_up_stays_open_until_the_stop():
    """poll(2) says so when another process has shut it down; waitress would close it."""
    from paste_wspbus.bus import Bus
    from paste_wspbus.servers.waitress import WaitressServer

    bus = Bus()
    server = WaitressServer({'listen': '127.0.0.1:0', 'threads': '1'}, {})
    server.plug_in(bus)
    bus.subscribe('start', server, lambda environ, start_response: [b''])
    bus.start()
    try:
        server.sockets[0].sock.shutdown(socket.SHUT_RDWR)
        server.finish()  # the loop has looked at its sockets, and runs this
        assert server.sockets[0].sock.fileno() != -1
    finally:
        bus.exit()
