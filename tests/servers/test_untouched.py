"""Which connections of a worker another one can take, and what was read of them."""

import errno
import os
import socket
from types import SimpleNamespace

import pytest
from waitress.adjustments import Adjustments
from waitress.channel import HTTPChannel

from paste_wspbus.servers.untouched import (
    DESCRIPTORS,
    READ,
    ROOM,
    UNKNOWN,
    WORKERS,
    Marks,
    Reader,
    came_in_at,
    consumed,
    own,
    take,
    total_of,
)
from paste_wspbus.servers.waitress_sharing import in_worker
from tests.kit import eventually

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
    untouched = marks.of(WORKERS)  # there are no slots so far back
    for fd in (-1, DESCRIPTORS):
        untouched.add(fd)
        untouched.remove(fd)
    untouched.add(5)
    assert untouched.reads(5, 0) is None
    assert marks.read(WORKERS) == {}
    assert marks.of(1).reads(READ, 0) is None


@pytest.mark.parametrize('fails', [{2 << 20, 32 << 20}, {32 << 20}])
def test_without_memory_there_is_no_room_and_no_error(monkeypatch, fails):
    def allocate(fd, size):
        if size in fails:
            raise OSError(errno.ENOMEM, os.strerror(errno.ENOMEM))
        return bytearray(size)

    monkeypatch.setattr('mmap.mmap', allocate)
    marks = Marks()
    untouched = marks.of(1)
    marks.clear(1)
    assert (untouched is None) == (len(fails) > 1)
    if untouched is not None:
        untouched.add(5)
        assert set(marks.read(1)) == {5}
        assert untouched.reads(5, 0) is None
    assert marks.read(1) == {}


def test_what_a_worker_has_read_is_known_though_it_notes_nothing(
    marks, client, accepted
):
    client.sendall(REQUEST + REQUEST)
    fd = accepted.fileno()
    assert accepted.recv(len(REQUEST)) == REQUEST  # this is answered
    slot = marks.of(1).reads(fd, len(REQUEST))
    assert marks.read(1)[fd] % 2 == 1
    assert marks.unanswered(1, fd, consumed(accepted)) == b''
    accepted.recv_into(slot)
    client.sendall(b'more')  # this waits in the socket
    assert marks.unanswered(1, fd, consumed(accepted)) == REQUEST


def test_a_number_of_bytes_that_cannot_be_is_refused(marks):
    marks.of(1).reads(5, 100)
    assert marks.unanswered(1, 5, 99) is None
    assert marks.unanswered(1, 5, 100) == b''
    assert marks.unanswered(1, 5, 100 + ROOM + 1) is None


def test_urgent_data_lets_nobody_have_the_request_of_another_client(
    marks, listening, client, accepted
):
    untouched, fd = marks.of(1), accepted.fileno()
    client.sendall(REQUEST)
    accepted.recv_into(untouched.reads(fd, 0))
    untouched.add(fd)
    untouched.reads(fd, len(REQUEST))
    client.send(b'!', socket.MSG_OOB)  # the system counts what waits up to here
    client.sendall(REQUEST)
    eventually(lambda: consumed(accepted) > len(REQUEST))  # though nobody has read it
    assert marks.unanswered(1, fd, consumed(accepted)) is None


def test_what_was_read_before_in_an_unknown_number_of_bytes_makes_all_unknown(
    marks, client, accepted
):
    fd = accepted.fileno()
    client.sendall(REQUEST)
    accepted.recv_into(marks.of(1).reads(fd, UNKNOWN))
    assert marks.unanswered(1, fd, consumed(accepted)) is None
    one, other = socket.socketpair()
    with one, other:
        assert total_of(one) == UNKNOWN
    assert total_of(accepted) == len(REQUEST)


def test_nobody_knows_what_was_read_of_a_connection_that_its_client_has_closed(
    client, accepted
):
    assert consumed(accepted) == 0
    client.close()
    with pytest.raises(OSError, match='not connected'):
        consumed(accepted)
    one, other = socket.socketpair()
    with one, other, pytest.raises(OSError, match=r'supported|available'):
        consumed(one)


def test_a_reader_reads_the_first_time_into_a_slot(marks, client, accepted):
    with Reader(accepted, marks.of(1)) as reader:
        fd, buffer = accepted.fileno(), bytearray(10_000)
        client.sendall(REQUEST)
        assert reader.readinto(buffer) == len(REQUEST)
        assert buffer.startswith(REQUEST)
        assert marks.unanswered(1, fd, consumed(accepted)) == REQUEST
        client.sendall(REQUEST)
        reader.readinto(buffer)
        assert marks.read(1) == {}  # what was read does not stand in a slot
        reader.is_first = True
        client.sendall(b'next')
        reader.readinto(buffer)
        assert marks.unanswered(1, fd, consumed(accepted)) == b'next'


def test_a_reader_gives_first_what_another_worker_has_read(marks, client, accepted):
    client.sendall(REQUEST + b'rest')
    accepted.recv(len(REQUEST))
    untouched = marks.of(1)
    untouched.add(accepted.fileno())
    with Reader(accepted, untouched) as reader:
        reader.is_given(REQUEST)
        assert marks.read(1) == {}  # the next worker would not get it
        buffer = bytearray(4)
        reader.readinto(buffer)
        assert (bytes(buffer), reader.given) == (REQUEST[:4], REQUEST[4:])
        reader.readinto(bytearray(100))
        reader.readinto(buffer)
        assert bytes(buffer) == b'rest'
        assert reader.total == len(REQUEST) + len(b'rest') == consumed(accepted)


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


class _Server:
    """A server that owns each connection, or is too late."""

    def __init__(self, is_late):
        self.is_late, self.taken = is_late, []

    def take(self, connection, read):
        if self.is_late:
            connection.close()
        self.taken.append((own(connection), read))


def test_a_connection_belongs_to_one_thread(client, accepted):
    server = _Server(is_late=False)
    take(server, accepted.detach(), b'read')
    ((taken, read),) = server.taken
    with taken:
        assert read == b'read'
        client.sendall(b'more')
        assert taken.recv(4) == b'more'


@pytest.mark.parametrize('server', [_Server(is_late=True), object(), None])
def test_a_connection_that_no_server_owns_is_closed(client, accepted, server):
    take(server, accepted.detach(), b'')
    client.settimeout(10)
    assert client.recv(1) == b''
    assert not getattr(server, 'taken', [])


@pytest.mark.parametrize('ahead', [0, 1])
def test_waitress_marks_nothing_if_it_reads_while_a_response_leaves(marks, ahead):
    server = SimpleNamespace(sharing=None, untouched=marks.of(1), take=None)
    servers = [SimpleNamespace(adj=Adjustments(channel_request_lookahead=ahead))]
    kind = in_worker(HTTPChannel, server, servers)
    assert (kind is HTTPChannel) == (server.take is None) == bool(ahead)
