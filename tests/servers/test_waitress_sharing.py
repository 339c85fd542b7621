"""Whether a thread of waitress is free, as the workers of a site let each other know."""

import threading

import pytest

from paste_wspbus.bus import Bus
from paste_wspbus.servers import free_threads
from paste_wspbus.servers.free_threads import Board
from paste_wspbus.servers.waitress import WaitressServer
from tests.kit import TIMEOUT, eventually
from tests.kit.clients import Connection


@pytest.fixture
def expects_long(monkeypatch):
    """Keep a thread free for a new connection, however long it sends nothing."""
    monkeypatch.setattr(free_threads, 'EXPECTED', 10 * TIMEOUT)


@pytest.fixture
def served():
    """Yield a server of one thread, one of two workers; '/wait' waits for its event.

    ``says_free`` returns whether the others take its thread for free.
    """
    conf = {'host': '127.0.0.1', 'port': '0', 'threads': '1'}
    server, board = WaitressServer(conf, {}), Board()
    server.inside, server.go_on = threading.Event(), threading.Event()

    def application(environ, start_response):
        if environ['PATH_INFO'] == '/wait':
            server.inside.set()
            server.go_on.wait(TIMEOUT)
        start_response('200 OK', [('Content-Length', '2')])
        return [b'ok']

    server.bus = Bus()
    place = board.take()
    server.share(board)
    board.share(place, server, several=True)
    server(application)
    server.says_free = lambda: board._bytes[place] == 1
    server.board = board
    yield server
    server.go_on.set()
    server.stop()


def test_a_further_request_of_a_kept_connection_takes_the_thread(served):
    with Connection(served.sockets[0].name) as client:
        assert client.get('/').status == 200
        eventually(served.says_free)
        client.send('/wait')
        assert served.inside.wait(TIMEOUT)
        assert not served.says_free()
        served.go_on.set()
        assert client.receive().status == 200
        eventually(served.says_free)


def test_the_thread_is_free_before_the_client_knows_that_its_connection_is_closed(
    served, monkeypatch
):
    """Else its next connection would be left to another worker."""
    is_checked = threading.Event()
    monkeypatch.setattr(
        served.sharing, 'has_answered', lambda *_: is_checked.wait(TIMEOUT)
    )
    with Connection(served.sockets[0].name) as client:
        client.send('/wait', connection='close')
        assert served.inside.wait(TIMEOUT)
        assert not served.says_free()
        served.go_on.set()
        assert client.receive().status == 200 and client.is_ended()
        try:
            assert served.says_free()
        finally:
            is_checked.set()


@pytest.mark.parametrize('ends', ['a request', 'its end'])
def test_the_thread_is_kept_free_for_a_new_connection_until_it_sends_something(
    expects_long, served, ends
):
    served.board._bytes[served.board.take()] = 1  # another worker has a free thread
    with (
        Connection(served.sockets[0].name) as first,
        Connection(served.sockets[0].name) as second,
    ):
        eventually(lambda: served.sharing.leaves)
        second.send('/')
        assert served.count() == 1
        if ends == 'a request':
            assert first.get('/').status == 200
        else:
            first.close()
        assert second.receive().status == 200
