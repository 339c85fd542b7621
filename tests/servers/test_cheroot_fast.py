"""servers/cheroot_fast.py: the files and the queue that take the place of cheroot's."""

import select
import socket
import threading

import pytest
from cheroot.makefile import MakeFile

from paste_wspbus.servers.cheroot_fast import (
    LONGEST_JOINED,
    Files,
    Writer,
    faster,
)
from tests.kit import TIMEOUT


@pytest.fixture
def pair():
    ours, theirs = socket.socketpair()
    with ours, theirs:
        for one in (ours, theirs):
            one.settimeout(TIMEOUT)
        yield ours, theirs


def test_a_reader_tells_what_it_has_read_ahead_and_reads_nothing_for_it(pair):
    ours, theirs = pair
    reader = Files().make(ours, 'rb', 1000)
    assert not reader.has_data()
    theirs.sendall(b'one\ntwo\n')
    assert not reader.has_data()  # it waits in the socket, where the selector sees it
    assert reader.readline() == b'one\n'
    assert reader.has_data()
    assert reader.read(4) == b'two\n'
    assert not reader.has_data()
    assert reader.bytes_read == 4


def test_a_client_that_sends_nothing_or_reads_nothing_in_time_is_reported(pair):
    ours, _ = pair
    ours.settimeout(0.01)
    reader, writer = (faster(MakeFile)(ours, mode, 1000) for mode in ('rb', 'wb'))
    # cheroot knows the text.
    with pytest.raises(OSError, match='timed out'):
        reader.readline()
    with pytest.raises(OSError, match='timed out'):
        writer.write(bytes(10**7))


@pytest.mark.parametrize('seconds', [TIMEOUT, None])
def test_files_wait_for_a_client_that_is_slow(pair, seconds):
    ours, theirs = pair
    ours.settimeout(seconds)
    makes, data, came = Files().make, bytes(range(256)) * 40_000, b''
    reader, writer = makes(ours, 'rb', 1000), makes(ours, 'wb', 1000)
    thread = threading.Thread(target=writer.write, args=[data], daemon=True)
    thread.start()
    while len(came) < len(data):
        came += theirs.recv(100_000)
    thread.join(TIMEOUT)
    assert came == data
    thread = threading.Timer(0.05, theirs.sendall, [b'late'])
    thread.start()
    assert reader.read(4) == b'late'


def test_nothing_is_polled_where_something_is_there(pair, monkeypatch):
    # Python calls poll(2) before each recv(2) of a socket with a time limit.
    ours, theirs = pair
    makes = Files().make
    reader, writer = makes(ours, 'rb', 1000), makes(ours, 'wb', 1000)
    assert ours.gettimeout() == 0
    monkeypatch.setattr(select, 'poll', None)
    theirs.sendall(b'one\n')
    assert reader.readline() == b'one\n'
    writer.write(b'two\n')
    assert theirs.recv(10) == b'two\n'


class Sends:
    """A socket of which each send(2) takes at most so many bytes."""

    def __init__(self, most):
        self.most, self.sent = most, []

    def send(self, data):
        self.sent.append(bytes(data[: self.most]))
        return len(self.sent[-1])


def test_the_head_leaves_with_the_first_chunk():
    sock = Sends(10**6)
    writer = Writer(sock, None)
    writer.holds = True
    assert (writer.write(b'head '), sock.sent) == (5, [])
    writer.write(b'first')
    writer.write(b'second')
    writer.flush()
    assert sock.sent == [b'head first', b'second']
    assert writer.bytes_written == 16


def test_a_head_without_a_body_leaves_at_the_end():
    sock = Sends(10**6)
    writer = Writer(sock, None)
    writer.holds = True
    writer.write(b'head')
    writer.flush()
    writer.flush()
    assert sock.sent == [b'head']


def test_a_long_first_chunk_is_not_copied_to_its_head():
    sock = Sends(10**6)
    writer, chunk = Writer(sock, None), b'x' * (LONGEST_JOINED + 1)
    writer.holds = True
    writer.write(b'head')
    writer.write(chunk)
    assert sock.sent == [b'head', chunk]


def test_what_one_send_does_not_take_is_sent_afterwards():
    sock = Sends(4)
    writer = Writer(sock, None)
    writer.holds = True
    writer.write(b'head')
    writer.write(bytearray(b'first'))
    assert sock.sent == [b'head', b'firs', b't']


def test_files_of_tls_stay_as_they_are():
    assert faster(print) is print
