"""How many of cheroot's threads are free, as the workers of a site let each other know."""

import threading

import pytest

from paste_wspbus.bus import Bus
from paste_wspbus.servers.cheroot import CherootServer
from paste_wspbus.servers.free_threads import Board
from tests.kit import TIMEOUT, eventually
from tests.kit.clients import Connection

ANSWERS = [('Content-Length', '2')]


@pytest.fixture
def served():
    """Yield a server of two threads, one of two workers; '/wait' waits for its event."""
    conf = {'host': '127.0.0.1', 'port': '0', 'numthreads': '2'}
    server, board = CherootServer(conf, {}), Board()
    server.inside, server.go_on = threading.Event(), threading.Event()

    def application(environ, start_response):
        if environ['PATH_INFO'] == '/wait':
            server.inside.set()
            server.go_on.wait(TIMEOUT)
        start_response('200 OK', ANSWERS)
        return [b'ok']

    server.bus = Bus()
    board.share(board.take(), server, several=True)
    server(application)
    yield server
    server.go_on.set()
    server.stop()


def test_a_thread_that_has_answered_is_free_whether_its_connection_is_kept(served):
    address = served.sockets[0].name
    with Connection(address) as kept, Connection(address) as closed:
        for connection, headers in ((kept, {}), (closed, {'connection': 'close'})):
            connection.send('/', **headers)
            assert connection.receive().body == b'ok'
        eventually(lambda: served.free_threads() == 2)
        kept.send('/wait')
        assert served.inside.wait(TIMEOUT)
        assert served.free_threads() == 1
        served.go_on.set()
        assert kept.receive().body == b'ok'
        eventually(lambda: served.free_threads() == 2)


def test_the_next_request_counts_although_the_thread_of_the_last_one_is_not_done(
    served, monkeypatch
):
    connections = served._server._connections
    put, is_done = connections.put, threading.Event()

    def put_slowly(conn):
        put(conn)
        if not served.inside.is_set():  # the last one
            served.inside.wait(TIMEOUT)
            is_done.set()

    monkeypatch.setattr(connections, 'put', put_slowly)
    with Connection(served.sockets[0].name) as client:
        client.send('/')
        assert client.receive().body == b'ok'
        client.send('/wait')
        assert is_done.wait(TIMEOUT)
        eventually(lambda: served.load_now().busy == 1)
        assert served.free_threads() == 1
        served.go_on.set()
        assert client.receive().body == b'ok'


def test_an_idle_connection_that_is_closed_has_answered_nothing(served):
    answers = served.sharing._answers
    with Connection(served.sockets[0].name) as client:
        client.send('/')
        assert client.receive().body == b'ok'
        eventually(lambda: len(answers) == 1)
        served._server.timeout = 0  # the loop closes it
        assert client.is_ended()
    assert len(answers) == 1
