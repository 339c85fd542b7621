"""Clients that behave badly cost waitress no thread, no descriptor and no processor time, and others are answered."""

import contextlib
import os
import resource
import socket
import struct
import threading
from pathlib import Path

import pytest

from tests.kit import Site, eventually, run
from tests.kit.processes import status_field
from tests.kit.sites import APP

PAGES = """
def app(environ, start_response):
    path, body = environ['PATH_INFO'], environ['wsgi.input'].read()
    if path == '/in_flight':
        body = str(len(bus_of(environ).plugins['requests'])).encode()
    if path == '/fork' and os.fork() == 0:
        hold()
        os._exit(0)
    start_response('200 OK', [('Content-Type', 'text/plain')])
    if path == '/large':
        return (b'x' * 100_000 for _ in range(100))
    return [body or b'hello']
"""

INI = """
[app:main]
use = call:webapp:make
[server:main]
use = egg:waitress
host = 127.0.0.1
port = 0
threads = 4
connection_limit = 3000
"""

HEAD = b'GET / HTTP/1.1\r\nHost: a\r\n\r\n'
LARGE = HEAD.replace(b'/', b'/large', 1)

#: What the main thread may open for itself after the site has answered its first request.
OWN = 4

#: Connections that stay idle.
IDLE = 1000

#: So many seconds the processor time of an idle site is measured, and this it may take.
WATCHED, MOST_CPU = 2.0, 0.4


def descriptors(pid):
    return len(os.listdir(f'/proc/{pid}/fd'))


def cpu(pid):
    """The processor time of a process, in seconds."""
    stat = Path(f'/proc/{pid}/stat').read_text().rpartition(')')[2].split()
    return (int(stat[11]) + int(stat[12])) / os.sysconf('SC_CLK_TCK')


@pytest.fixture(params=['', 'all'])
def site(tmp_path, request):
    """A site that has no descriptor more and no thread less at the end than at the beginning."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]

    def allow_many():
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 4096), hard))

    with Site(
        tmp_path,
        INI,
        files={'webapp.py': APP + PAGES},
        env={'WSPBUS_WAITRESS_WITHOUT': request.param},
        preexec_fn=allow_many,
    ) as site:
        assert site.get().body == b'hello'
        # It opens its control socket when it serves.
        eventually(lambda: run(tmp_path, 'site.ini', 'status').code == 0)
        threads = int(status_field(site.pid, 'Threads'))
        with site.connect() as client:
            assert client.get().body == b'hello'
            before = descriptors(site.pid)
        yield site
        eventually(lambda: site.get('/in_flight').body == b'1')
        eventually(lambda: descriptors(site.pid) <= before + OWN)
        assert int(status_field(site.pid, 'Threads')) >= threads
        assert site.stop()[0] == 0, site.report()
        assert 'Traceback' not in site.err.text


def reset(client):
    at_once = struct.pack('ii', 1, 0)
    client.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, at_once)
    client.close()


def idles(site):
    """Whether the site takes no processor time while nobody asks it anything."""
    before = cpu(site.pid)
    threading.Event().wait(WATCHED)
    return cpu(site.pid) - before < MOST_CPU


def test_clients_that_close_half_of_the_connection_get_the_whole_response(site):
    for text in (HEAD, LARGE, HEAD * 100) * 5:
        with site.connect(receive_buffer=4096) as client:
            client.socket.sendall(text)
            client.socket.shutdown(socket.SHUT_WR)
            came = client.file.read()
            assert came.count(b'200 OK') == text.count(b'GET')
            assert came.endswith(b'hello' if text is not LARGE else b'0\r\n\r\n')


def test_clients_that_send_byte_by_byte_are_answered_and_keep_no_thread(site):
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(site.connect()) for _ in range(20)]
        for number in range(len(HEAD)):
            for client in clients:
                client.socket.sendall(HEAD[number : number + 1])
            assert site.get().body == b'hello'
        for client in clients:
            assert client.receive().body == b'hello'


def test_clients_that_reset_in_the_middle_leave_nothing_behind(site):
    for text in (HEAD[:10], HEAD, HEAD * 100, LARGE, HEAD + LARGE + HEAD):
        for _ in range(20):
            client = site.connect(receive_buffer=4096)
            client.socket.sendall(text)
            if text is LARGE:
                client.socket.recv(10)
            reset(client)
    assert site.get().body == b'hello'


def test_many_idle_connections_take_no_time_and_are_answered_afterwards(site):
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, min(hard, 4096)), hard))
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(site.connect()) for _ in range(IDLE)]
        for client in clients[::2]:
            assert client.get().body == b'hello'
        assert idles(site)
        for client in clients:
            assert client.get().body == b'hello'


def test_clients_that_do_not_read_take_no_time_and_others_are_answered(site):
    with contextlib.ExitStack() as stack:
        clients = [
            stack.enter_context(site.connect(receive_buffer=4096)) for _ in range(3)
        ]
        for client in clients:
            client.socket.sendall(LARGE)
            assert client.socket.recv(12) == b'HTTP/1.1 200'
        assert site.get().body == b'hello'
        assert idles(site)
        for client in clients:
            client.socket.shutdown(socket.SHUT_WR)
            assert client.file.read().endswith(b'0\r\n\r\n')


def test_a_child_that_keeps_copies_of_closed_connections_takes_no_time(site):
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(site.connect()) for _ in range(5)]
        for client in clients:
            assert client.get().body == b'hello'
        assert clients[0].get('/fork').body == b'hello'
    assert site.get().body == b'hello'
    assert idles(site)
    site.release()
