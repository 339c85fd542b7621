"""What waits for a process that does not read: it is bounded, in order, and never waited for."""

import os
import socket

import pytest

from paste_wspbus.workers import outbox
from paste_wspbus.workers.outbox import Outbox


@pytest.fixture
def pair():
    mine, its = socket.socketpair()
    mine.setblocking(False)
    with mine, its:
        yield mine, its


@pytest.fixture
def sender(pair):
    notes = []
    sender = Outbox(pair[0], notes.append)
    sender.notes = notes
    yield sender
    sender.close()


def fill(sender):
    count = 0
    while not sender.is_waiting:
        sender.put(b'%06d\n' % count)
        count += 1
    return count


def test_what_has_room_is_sent_at_once(sender, pair):
    assert sender.put(b'go\n')
    assert pair[1].recv(10) == b'go\n'
    assert sender.notes == []


def test_what_has_no_room_waits_and_comes_in_order(sender, pair):
    count = fill(sender)
    assert sender.notes == [True]
    for number in range(count, count + 1000):
        assert sender.put(b'%06d\n' % number)
    came = b''
    while sender.is_waiting or len(came) < 7 * (count + 1000):
        came += pair[1].recv(65536)
        sender.flush()
    assert came == b''.join(b'%06d\n' % number for number in range(count + 1000))
    assert sender.notes[-1] is False


def test_a_long_line_is_sent_in_parts(sender, pair):
    line = b'x' * 900_000 + b'\n'
    assert sender.put(line)
    came = b''
    while len(came) < len(line):
        came += pair[1].recv(65536)
        sender.flush()
    assert came == line and not sender.is_waiting


def test_no_more_waits_than_the_limit(sender, pair, monkeypatch):
    monkeypatch.setattr(outbox, 'MAX_WAITING', 100)
    fill(sender)
    taken = sum(sender.put(b'0123456789') for _ in range(1000))
    assert taken < 10
    pair[1].setblocking(False)
    with pytest.raises(BlockingIOError):
        while True:
            pair[1].recv(65536)
    sender.flush()
    assert not sender.is_waiting
    assert sender.put(b'room again\n')


def test_a_descriptor_waits_with_its_line(sender, pair):
    count = fill(sender)
    reader, writer = os.pipe()
    assert sender.put(b'fork\n', [writer])
    os.close(writer)  # as the caller does
    os.set_blocking(reader, False)
    came, got = b'', []
    while len(came) < 7 * count + 5:
        data, fds, _, _ = socket.recv_fds(pair[1], 65536, 10)
        came += data
        got += fds
        sender.flush()
    assert came.endswith(b'fork\n') and len(got) == 1
    os.write(got[0], b'!')
    assert os.read(reader, 1) == b'!'
    os.close(got[0])
    assert os.read(reader, 1) == b''  # no copy is left
    os.close(reader)


def test_what_waits_is_dropped_at_the_end_with_its_descriptors(sender):
    fill(sender)
    reader, writer = os.pipe()
    sender.put(b'fork\n', [writer])
    os.close(writer)
    sender.close()
    assert os.read(reader, 1) == b''
    os.close(reader)
    sender.flush()


def test_nobody_is_told_where_nobody_listens(sender, pair):
    fill(sender)
    pair[1].close()
    sender.flush()
    assert not sender.is_waiting
    assert sender.put(b'go\n')
