"""The HTTP server of the ops listener: limits, bad clients, pages that need an answer."""

import contextlib
import errno
import socket
import threading
import time

import pytest
from webob import Response

from paste_wspbus.ops import pages
from paste_wspbus.ops import server as module
from paste_wspbus.ops.access import Access
from paste_wspbus.ops.pages import Page, as_json
from paste_wspbus.ops.server import MAX_CONNECTIONS, OpsServer
from paste_wspbus.ops.snapshot import Snapshot, State, Told
from tests.kit import ops
from tests.kit.processes import eventually

TOKEN = 'a-token-of-an-operator'


class Known:
    """A site that answers a question at once, or never."""

    def __init__(self, answers=True):
        self.answers, self.asked, self.told = answers, [], {}

    def snapshot(self):
        return Snapshot(State('STARTED', True), self.told)

    def ask(self, kind):
        self.asked.append(kind)
        if self.answers:
            self.told[kind] = Told(len(self.asked), time.monotonic())

    def readers(self):
        return {}


def broken(asked):
    raise KeyError('a secret')


class Long:
    """A page that is made when the test says so."""

    def __init__(self):
        self.begun, self.may_end = threading.Semaphore(0), threading.Semaphore(0)
        self.count = 0

    def make(self, asked):
        self.count += 1
        self.begun.release()
        assert self.may_end.acquire(timeout=60)
        if self.count == 3:
            raise KeyError('a secret')
        return Response(f'{self.count}')


PAGES = {
    '/open': Page(lambda asked: Response('open\n'), is_open=True),
    '/who': Page(lambda asked: as_json({'all': asked.sees_all}), is_open=True),
    '/hidden': Page(lambda asked: Response('hidden\n')),
    '/told': Page(
        lambda asked: as_json({'told': [*asked.snapshot.told]}), True, needs='status'
    ),
    '/broken': Page(broken, is_open=True),
    '/large': Page(lambda asked: Response(b'x' * (8 << 20)), is_open=True),
}


@contextlib.contextmanager
def served(source=None, access=None):
    """Yield the address of a server that runs in a thread."""
    with socket.create_server(('127.0.0.1', 0), backlog=64) as listening:
        listening.setblocking(False)
        server = OpsServer([listening], access or Access(), source or Known(), PAGES)
        thread = threading.Thread(target=server.serve)
        thread.start()
        try:
            yield listening.getsockname()
        finally:
            server.stop()
            thread.join()
            server.close()


def test_a_page_has_headers_that_protect_it():
    with served() as address:
        response = ops.get(address, '/open')
        assert (response.status, response.body) == (200, b'open\n')
        assert response.headers['x-content-type-options'] == 'nosniff'
        assert "default-src 'none'" in response.headers['content-security-policy']
        assert response.headers['connection'] == 'close'
        assert 'access-control-allow-origin' not in response.headers


def test_others_are_answered_while_a_page_takes_long(monkeypatch):
    long = Long()
    metrics = pages.PAGES['/metrics']._replace(make=long.make, needs='')
    monkeypatch.setitem(PAGES, '/long', metrics)
    with served() as address, contextlib.ExitStack() as stack:
        clients = [stack.enter_context(ops.Connection(address)) for _ in range(4)]

        def ask(client):
            client.socket.sendall(b'GET /long HTTP/1.1\r\nHost: localhost\r\n\r\n')

        ask(clients[0])
        assert long.begun.acquire(timeout=60)
        for client in clients[1:]:
            ask(client)
        clients[3].close()  # it does not wait for its page
        for _ in range(2):  # after the second one, the others are read, too
            assert ops.get(address, '/open').status == 200
        long.may_end.release()
        assert ops.Response(clients[0].file).body == b'1'
        assert long.begun.acquire(timeout=60)
        long.may_end.release()
        assert [ops.Response(one.file).body for one in clients[1:3]] == [b'2', b'2']
        long.may_end.release()
        failed = ops.get(address, '/long')
        assert (failed.status, failed.body) == (
            500,
            b'the page cannot be made: KeyError\n',
        )


def test_head_is_get_without_a_body():
    with served() as address, ops.Connection(address) as client:
        client.socket.sendall(b'HEAD /open HTTP/1.1\r\nHost: localhost\r\n\r\n')
        head = client.file.read()
        assert b'Content-Length: 5' in head and head.endswith(b'\r\n\r\n')


@pytest.mark.parametrize(
    'path', ['/', '/nothing', '/..', '/../open', '/open/', '/%6fpen', '//open', '/OPEN']
)
def test_only_the_pages_of_the_table_are_there(path):
    with served() as address:
        assert ops.get(address, path).status == 404


def test_a_hidden_page_takes_the_token():
    with served(access=Access(token=TOKEN)) as address:
        refused = ops.get(address, '/hidden')
        assert refused.status == 401
        # The last one is for browsers.
        assert refused.headers['www-authenticate'].startswith('Basic ')
        assert (
            ops.get(address, '/hidden', Authorization=f'Bearer {TOKEN}').status == 200
        )
        assert ops.get(address, '/who').body == b'{\n  "all": false\n}\n'
    with served() as address:
        assert ops.get(address, '/hidden').status == 403


def test_bad_clients_get_an_answer_and_the_next_one_too():
    with served() as address:
        big = b'POST /open HTTP/1.1\r\nHost: localhost\r\nContent-Length: 99999\r\n\r\n'
        assert ops.send(address, big + b'x' * 99999).status == 405
        assert ops.send(address, b'\x16\x03\x01\r\n\r\n').status == 400
        assert ops.send(address, b'x' * 20000).status == 431
        assert ops.get(address, '/open', host='evil.example').status == 421
        assert ops.get(address, '/open').status == 200


def test_a_page_that_fails_says_nothing_of_why():
    with served() as address:
        response = ops.get(address, '/broken')
        assert (response.status, b'secret' in response.body) == (500, False)
        assert ops.get(address, '/open').status == 200


def test_a_page_gets_a_fresh_answer_of_the_site():
    source = Known()
    with served(source) as address:
        for _ in range(5):
            assert ops.get(address, '/told').status == 200
    assert source.asked[:1] == ['status'] and len(source.asked) <= 5


def test_a_page_does_not_wait_long_for_a_site_that_does_not_answer(monkeypatch):
    monkeypatch.setattr(module, 'PATIENCE', 0.05)
    with served(Known(answers=False)) as address:
        assert ops.get(address, '/told').body == b'{\n  "told": []\n}\n'


def test_a_client_may_end_what_it_sends_before_the_answer(monkeypatch):
    monkeypatch.setattr(module, 'PATIENCE', 0.05)
    with served(Known(answers=False)) as address, ops.Connection(address) as client:
        client.send('/told')
        client.socket.shutdown(socket.SHUT_WR)
        assert client.receive().status == 200


def test_a_connection_that_ends_when_it_is_closed_for_another_ends_nothing_else(
    monkeypatch,
):
    monkeypatch.setattr(module, 'MAX_CONNECTIONS', 1)
    asked, go_on = threading.Event(), threading.Event()

    class Slow(Known):
        def ask(self, kind):
            asked.set()
            assert go_on.wait(5)

    with served(Slow()) as address, ops.Connection(address) as first:
        first.send('/told')
        assert asked.wait(5)
        with ops.silent(address) as second:  # both events come in one turn of the loop
            first.socket.shutdown(socket.SHUT_WR)
            go_on.set()
            second.sendall(b'GET /open HTTP/1.1\r\nHost: localhost\r\n\r\n')
            assert second.recv(12) == b'HTTP/1.1 200'


@pytest.mark.parametrize('number', [errno.EMFILE, errno.ENOBUFS])
def test_a_listener_without_descriptors_or_memory_goes_on_a_little_later(number):
    until, calls = time.monotonic() + 0.3, []

    class Full(socket.socket):
        def _accept(self):
            calls.append(self)
            if time.monotonic() < until:
                raise OSError(number, 'full')
            return super()._accept()

    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(Full()) for _ in range(2)]
        for one in sockets:
            one.bind(('127.0.0.1', 0))
            one.listen(8)
            one.setblocking(False)
        addresses = [one.getsockname() for one in sockets]
        clients = [stack.enter_context(ops.silent(one)) for one in addresses]
        server = OpsServer(sockets, Access(), Known(), PAGES)
        thread = threading.Thread(target=server.serve)
        thread.start()
        try:
            for client in clients:
                client.sendall(b'GET /open HTTP/1.1\r\nHost: localhost\r\n\r\n')
                assert client.recv(12) == b'HTTP/1.1 200'
            assert len(calls) < 100
        finally:
            server.stop()
            thread.join()
            server.close()


def test_a_response_may_be_larger_than_the_buffers():
    with served() as address:
        assert len(ops.get(address, '/large').body) == 8 << 20


def test_silent_connections_take_no_place_from_others():
    with served() as address, contextlib.ExitStack() as stack:
        socks = [
            stack.enter_context(ops.silent(address)) for _ in range(MAX_CONNECTIONS * 3)
        ]
        for _ in range(3):
            assert ops.get(address, '/open').status == 200
        assert socks[0].recv(1) == b''  # the oldest was closed


def test_a_slow_connection_is_closed(monkeypatch):
    monkeypatch.setattr(module, 'TIME', 0.1)
    with served() as address, ops.silent(address) as sock:
        sock.sendall(b'GET /op')
        assert sock.recv(1) == b''


def test_a_client_that_does_not_read_is_closed(monkeypatch):
    monkeypatch.setattr(module, 'TIME', 0.2)
    with served() as address, ops.silent(address) as sock:
        sock.sendall(b'GET /large HTTP/1.1\r\nHost: localhost\r\n\r\n')

        def was_closed():
            try:
                sock.send(b'x')
            except OSError:
                return True
            return False

        eventually(was_closed)
        assert ops.get(address, '/open').status == 200
