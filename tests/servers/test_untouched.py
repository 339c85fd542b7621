"""Which connections of a worker another one can take."""

import errno
import os
import select
import socket
from types import SimpleNamespace

import pytest
from waitress.adjustments import Adjustments
from waitress.channel import HTTPChannel

from paste_wspbus.bus import Bus
from paste_wspbus.servers.cheroot import CherootServer
from paste_wspbus.servers.paste_http import PasteServer
from paste_wspbus.servers.untouched import (
    DESCRIPTORS,
    WORKERS,
    Marks,
    Reader,
    came_in_at,
    own,
    take,
)
from paste_wspbus.servers.waitress import WaitressServer
from paste_wspbus.servers.waitress_sharing import in_worker
from paste_wspbus.servers.waitress_untouched import marking
from tests.kit import eventually
from tests.kit.clients import Connection

REQUEST = b'GET / HTTP/1.1\r\n\r\n'


@pytest.fixture
def marks():
    return Marks()


@pytest.fixture
def listening():
    with socket.create_server(('127.0.0.1', 0)) as sock:
        yield sock


@pytest.fixture
def client(listening):
    with socket.create_connection(listening.getsockname()) as client:
        yield client


@pytest.fixture
def accepted(listening, client):
    sock, _ = listening.accept()
    with sock:
        yield sock


def test_a_mark_is_there_until_it_is_removed_and_never_comes_twice(marks):
    untouched = marks.of(2)
    untouched.add(7)
    first = marks.read(2)
    assert set(first) == {7}
    assert marks.read(1) == marks.read(3) == {}
    untouched.remove(7)
    assert marks.read(2) == {}
    untouched.add(7)
    assert marks.read(2)[7] not in (0, first[7])
    marks.clear(2)
    assert marks.read(2) == {}


def test_no_place_and_high_descriptors_have_no_room(marks):
    assert marks.of(0) is None and marks.of(WORKERS + 1) is None
    marks.clear(0)
    assert marks.read(0) == {}
    untouched = marks.of(WORKERS)
    for fd in (-1, DESCRIPTORS):
        untouched.add(fd)
        untouched.remove(fd)
    assert marks.read(WORKERS) == {}


def test_without_memory_there_is_no_room_and_no_error(monkeypatch):
    def allocate(fd, size):
        raise OSError(errno.ENOMEM, os.strerror(errno.ENOMEM))

    monkeypatch.setattr('mmap.mmap', allocate)
    marks = Marks()
    marks.clear(1)
    assert marks.of(1) is None
    assert marks.read(1) == {}


def _waits(sock):
    return sock.recv(10_000, socket.MSG_PEEK | socket.MSG_DONTWAIT)


def test_a_reader_only_looks_the_first_time(marks, client, accepted):
    untouched, fd, buffer = marks.of(1), accepted.fileno(), bytearray(10_000)
    untouched.add(fd)
    with Reader(accepted, untouched) as reader:
        client.sendall(REQUEST)
        assert reader.readinto(buffer) == len(REQUEST)
        assert buffer.startswith(REQUEST)
        assert set(marks.read(1)) == {fd} and _waits(accepted) == REQUEST
        client.sendall(b'rest')
        eventually(lambda: len(_waits(accepted)) > len(REQUEST))
        assert reader.readinto(buffer) == len(b'rest')
        assert marks.read(1) == {}
        untouched.add(fd)
        reader.is_first = True
        client.sendall(REQUEST)
        reader.readinto(buffer)
        client.sendall(REQUEST)  # the next one
        reader.receive()
        assert marks.read(1) == {}
        assert accepted.recv(10_000) == REQUEST
        client.shutdown(socket.SHUT_WR)
        reader.is_first = True
        assert reader.readinto(buffer) == 0


def test_a_request_does_not_begin_if_something_else_comes_than_was_seen(
    marks, client, accepted
):
    with Reader(accepted, marks.of(1)) as reader:
        client.sendall(REQUEST)
        reader.readinto(bytearray(10_000))
        accepted.recv(4)  # as if the last byte that was seen was urgent
        with pytest.raises(ConnectionResetError):
            reader.receive()
        reader.receive()  # it is over
        reader.is_first = True
        client.sendall(REQUEST)
        reader.readinto(bytearray(10_000))
        accepted.close()
        with pytest.raises(ConnectionResetError):
            reader.receive()


def test_where_a_connection_came_in(listening, accepted):
    with (
        socket.create_server(('127.0.0.1', 0)) as other,
        socket.create_server(('0.0.0.0', 0)) as wild,
    ):
        assert came_in_at(accepted, [other, listening]) is listening
        assert came_in_at(accepted, [other, wild]) is None
        with socket.create_connection(('127.0.0.1', wild.getsockname()[1])):
            sock, _ = wild.accept()
            with sock:
                assert came_in_at(sock, [listening, other, wild]) is wild


def test_a_connection_came_in_at_the_socket_of_its_family(listening):
    try:
        sixth = socket.create_server(('::', 0), family=socket.AF_INET6)
    except OSError:
        pytest.skip('the system has no IPv6')
    with (
        sixth,
        socket.create_server(('0.0.0.0', sixth.getsockname()[1])) as fourth,
        socket.create_connection(('127.0.0.1', fourth.getsockname()[1])),
    ):
        sock, _ = fourth.accept()
        with sock:
            assert came_in_at(sock, [fourth, sixth]) is fourth


class _Server:
    """A server that owns each connection, or is too late."""

    def __init__(self, is_late):
        self.is_late, self.taken = is_late, []

    def take(self, connection):
        if self.is_late:
            connection.close()
        self.taken.append(own(connection))


def test_a_connection_belongs_to_one_thread(client, accepted):
    server = _Server(is_late=False)
    take(server, accepted.detach())
    (taken,) = server.taken
    with taken:
        client.sendall(b'more')
        assert taken.recv(4) == b'more'


@pytest.mark.parametrize('server', [_Server(is_late=True), object(), None])
def test_a_connection_that_no_server_owns_is_closed(client, accepted, server):
    take(server, accepted.detach())
    client.settimeout(10)
    assert client.recv(1) == b''
    assert not getattr(server, 'taken', [])


@pytest.mark.parametrize('ahead', [0, 1])
def test_waitress_marks_nothing_if_it_reads_while_a_response_leaves(marks, ahead):
    server = SimpleNamespace(sharing=None, untouched=marks.of(1), take=None)
    servers = [SimpleNamespace(adj=Adjustments(channel_request_lookahead=ahead))]
    kind = in_worker(HTTPChannel, server, servers)
    assert (kind is HTTPChannel) == (server.take is None) == bool(ahead)


class _WaitressServer:
    """What a channel of waitress needs; its tasks wait until a test runs them."""

    application = effective_port = server_name = None

    def __init__(self):
        self.active_channels, self.tasks = {}, []

    add_task = property(lambda self: self.tasks.append)

    def pull_trigger(self):
        """Do nothing: there is no loop."""


@pytest.fixture
def channel(marks, accepted):
    accepted.setblocking(False)
    kind = marking(HTTPChannel, marks.of(1))
    server = _WaitressServer()
    channel = kind(server, accepted, ('127.0.0.1', 1), Adjustments(), map={})
    channel.served, channel.answer = [], b'ok'

    def application(environ, start_response):
        assert marks.read(1) == {}
        channel.served.append(environ['wsgi.input'].read())
        start_response('200 OK', [('Content-Length', str(len(channel.answer)))])
        return [channel.answer]

    server.application, server.adj = application, channel.adj
    server.effective_port, server.server_name = 80, 'localhost'
    yield channel
    channel.handle_close()


def _run(channel):
    while channel.server.tasks:
        channel.server.tasks.pop(0).service()


@pytest.mark.parametrize('count', [1, 3])
def test_waitress_receives_a_request_when_it_begins(
    marks, client, accepted, channel, count
):
    fd, (first,) = accepted.fileno(), marks.read(1).values()
    client.sendall(REQUEST * count)
    channel.handle_read()
    assert marks.read(1) == {fd: first} and _waits(accepted) == REQUEST * count
    assert not channel.readable()  # else the loop would spin
    _run(channel)
    assert len(channel.served) == count
    assert marks.read(1)[fd] > first
    with pytest.raises(BlockingIOError):
        _waits(accepted)


POST = b'POST / HTTP/1.1\r\nContent-Length: %d\r\n' % len(REQUEST)


@pytest.mark.parametrize(
    'parts',
    [
        [REQUEST[:5], REQUEST[5:]],
        [POST + b'\r\n', REQUEST],
        [POST + b'\r\n' + REQUEST[:5], REQUEST[5:]],
        [POST + b'Expect: 100-continue\r\n\r\n', REQUEST],
        [b'\r\n', REQUEST],
    ],
    ids=['head', 'body', 'half a body', 'expect', 'empty'],
)
def test_waitress_marks_no_connection_of_which_it_has_half_a_request(
    marks, client, accepted, channel, parts
):
    client.sendall(parts[0])
    channel.handle_read()
    assert marks.read(1) == {} and channel.readable()
    with pytest.raises(BlockingIOError):
        _waits(accepted)
    client.sendall(parts[1])
    channel.handle_read()
    _run(channel)
    assert len(channel.served) == 1 and len(marks.read(1)) == 1


@pytest.mark.parametrize('closes', [False, True])
def test_waitress_marks_a_connection_when_a_slow_client_has_the_whole_response(
    marks, client, accepted, channel, closes
):
    accepted.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 10_000)
    channel.answer = b'x' * 1_000_000
    closing = b'Connection: close\r\n\r\n' if closes else b'\r\n'
    client.sendall(REQUEST[:-2] + closing)
    channel.handle_read()
    _run(channel)
    assert marks.read(1) == {} and channel.writable() and not channel.readable()
    while channel.total_outbufs_len:
        assert marks.read(1) == {}
        client.recv(1_000_000)
        channel.handle_write()
    assert len(marks.read(1)) == (not closes)
    assert channel.connected == (not closes)


@pytest.mark.parametrize('length', [2, 1_000_000], ids=['at once', 'slowly'])
def test_waitress_marks_no_connection_of_which_it_has_half_the_next_request(
    marks, client, accepted, channel, length
):
    accepted.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 10_000)
    channel.answer = b'x' * length
    client.sendall(REQUEST + REQUEST[:5])
    channel.handle_read()
    _run(channel)
    while channel.total_outbufs_len:
        client.recv(1_000_000)
        channel.handle_write()
    assert marks.read(1) == {} and channel.readable()
    channel.answer = b'ok'
    client.sendall(REQUEST[5:])
    channel.handle_read()
    _run(channel)
    assert len(channel.served) == 2 and len(marks.read(1)) == 1


def test_waitress_marks_nothing_while_its_loop_is_not_done_with_what_it_has_read(
    marks, client, channel
):
    client.sendall(REQUEST)
    channel.handle_read()
    with channel.requests_lock:  # the loop holds it
        channel.task_class(channel, channel.requests[0]).service()
    assert len(channel.served) == 1 and marks.read(1) == {}


@pytest.mark.parametrize(
    'request_',
    [REQUEST[:-2] + b'Connection: close\r\n\r\n', b'GET / and more HTTP/1.1\r\n\r\n'],
    ids=['close', 'refused'],
)
def test_waitress_marks_no_connection_that_it_will_close(
    marks, client, accepted, channel, request_
):
    client.sendall(request_)
    channel.handle_read()
    _run(channel)
    assert channel.close_when_flushed and marks.read(1) == {}
    with pytest.raises(BlockingIOError):
        _waits(accepted)


def test_waitress_begins_no_request_that_is_no_longer_there(
    marks, client, accepted, channel
):
    client.sendall(REQUEST)
    channel.handle_read()
    client.send(b'!', socket.MSG_OOB)
    accepted.recv(4)
    _run(channel)
    assert channel.served == [] and marks.read(1) == {}
    assert channel.close_when_flushed


def test_waitress_resets_nobody_whose_request_it_drops(
    marks, client, accepted, channel
):
    client.sendall(REQUEST)
    channel.handle_read()
    accepted.send(b'so far')
    channel.handle_close()
    client.settimeout(10)
    assert client.recv(10) == b'so far' and client.recv(10) == b''
    assert marks.read(1) == {}


@pytest.mark.parametrize('greenlets', [False, True])
def test_greenlets_which_get_no_descriptors_have_no_marks(
    monkeypatch, marks, greenlets
):
    found = 'paste_wspbus.servers.server.threads_are_greenlets'
    monkeypatch.setattr(found, lambda: greenlets)
    server = WaitressServer({'host': '127.0.0.1', 'port': '0'}, {})
    server.bus, server.untouched, server.holds = Bus(), marks.of(1), True
    server.board = SimpleNamespace(marks=marks)  # it is a worker
    server(None)
    try:
        assert (server.take is None) == greenlets
    finally:
        server.end()
        server.close()


@pytest.fixture(params=[CherootServer, PasteServer])
def served(request, monkeypatch, marks):
    """Yield a server: its address, the names of its requests, and how each began.

    ``untouched`` gives the marks. ``begun`` has what was only looked at until then, and whether the mark was there.
    ``early`` has the clients of ``clients`` that had something to read by then.
    """
    found = SimpleNamespace(names=[], begun=[], clients=[], early=[])
    receive = Reader.receive

    def noting(reader):
        if reader._seen:
            found.begun.append((reader._seen, bool(marks.read(1))))
            found.early += select.select(found.clients, [], [], 0)[0]
        receive(reader)

    def application(environ, start_response):
        assert marks.read(1) == {}
        found.names.append(environ['PATH_INFO'])
        start_response('200 OK', [('Content-Length', '2')])
        return [b'ok']

    monkeypatch.setattr(Reader, 'receive', noting)
    conf = {'host': '127.0.0.1', 'port': '0'}
    if request.param is PasteServer:
        conf['protocol_version'] = 'HTTP/1.1'
    server = request.param(conf, {})
    server.bus, server.untouched = Bus(), marks.of(1)
    server(application)
    found.address, found.untouched = server.sockets[0].name, server.untouched
    yield found
    server.stop()


def head(path, more=''):
    return f'GET {path} HTTP/1.1\r\nHost: a\r\n{more}\r\n'.encode()


def test_each_request_of_a_kept_connection_is_only_looked_at_until_it_begins(
    marks, served
):
    requests = [head('/1'), head('/2'), head('/3')]
    with Connection(served.address) as client:
        for request in requests:
            eventually(lambda: marks.read(1))
            client.socket.sendall(request)
            assert client.receive().body == b'ok'
    assert served.begun == [(request, True) for request in requests]


def test_what_comes_with_a_request_is_not_only_looked_at(marks, served):
    """Pipelined requests are served once each, then the connection is marked again."""
    together = head('/1') + head('/2') + head('/3')
    with Connection(served.address) as client:
        eventually(lambda: marks.read(1))
        client.socket.sendall(together)
        assert [client.receive().status for _ in range(3)] == [200] * 3
        eventually(lambda: marks.read(1))
        client.socket.sendall(head('/4'))
        client.receive()
    assert served.names == ['/1', '/2', '/3', '/4']
    assert served.begun == [(together, True), (head('/4'), True)]


def test_the_first_part_of_a_head_is_received_with_the_second(marks, served):
    request = head('/1')
    with Connection(served.address) as client:
        client.get('/0')
        eventually(lambda: marks.read(1))
        client.socket.sendall(request[:9])
        eventually(lambda: served.begun[-1] == (request[:9], True))
        assert marks.read(1) == {}
        client.socket.sendall(request[9:])
        assert client.receive().status == 200
    assert served.names == ['/0', '/1']


@pytest.mark.parametrize('keeps', [False, True])
def test_a_request_that_is_refused_is_received_before(marks, served, keeps):
    """Else the client could lose the answer: the system resets what was not read."""
    wrong = b'GET / and more HTTP/1.1\r\n\r\n'
    with Connection(served.address) as client:
        if keeps:
            client.get('/')
        eventually(lambda: marks.read(1))
        served.clients.append(client.socket)
        client.socket.sendall(wrong)
        assert client.receive().status == 400
        assert marks.read(1) == {}
        assert client.is_ended()
    assert served.begun[-1] == (wrong, True) and served.early == []


def test_an_empty_line_and_no_request_resets_nobody(served):
    with Connection(served.address) as client:
        client.socket.sendall(b'\r\n')
        client.socket.shutdown(socket.SHUT_WR)
        assert client.is_ended()
    assert served.names == []


@pytest.mark.parametrize(
    'request_', [head('/', 'Connection: close\r\n'), b'GET / HTTP/1.0\r\n\r\n']
)
def test_a_connection_that_is_not_kept_is_not_marked_again(marks, served, request_):
    with Connection(served.address) as client:
        eventually(lambda: marks.read(1))
        (mark,) = marks.read(1).values()
        client.socket.sendall(request_)
        assert client.receive().body == b'ok' and client.is_ended()
        assert marks.read(1) == {}
    assert served.untouched.next() == mark + 1
