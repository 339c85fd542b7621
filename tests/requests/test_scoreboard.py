"""The scoreboard: what another process reads of the requests in flight."""

import os
import signal
import threading
import time
from mmap import mmap

import pytest

from paste_wspbus.requests import scoreboard
from paste_wspbus.requests.scoreboard import SIZE, SLOTS, Phase, Reader, Scoreboard

ONE = (7, 12.5, 'f00-1 GET /report')


def overwrite(fd, text):
    with mmap(fd, SIZE) as memory:
        memory[:] = text


@pytest.fixture
def shared():
    """Return a scoreboard, and another process's view of it."""
    fd = scoreboard.make()
    board, reader = Scoreboard(), Reader(fd)
    board.attach(fd)
    yield board, reader
    reader.close()


def test_a_request_is_shown_until_it_ends(shared):
    board, reader = shared
    assert reader.read() == []
    place = board.begin(*ONE)
    (entry,) = reader.read()
    assert (entry.number, entry.since) == ONE[:2]
    assert (entry.method, entry.id, entry.path) == ('GET', 'f00-1', '/report')
    assert entry.ident == threading.get_ident()
    assert entry.native == threading.get_native_id()
    assert entry.phase is Phase.COMPUTING
    board.streams(place)
    assert reader.read()[0].phase is Phase.STREAM
    assert board.read() == reader.read()
    board.end(place)
    assert reader.read() == []


def test_the_time_of_a_stream_begins_anew_when_it_is_closed(shared):
    board, reader = shared
    place = board.begin(*ONE)
    board.closes(place)  # no part of it was sent
    assert reader.read()[0][1:2] == ONE[1:2] and not board.is_closing(place)
    board.streams(place)
    before = time.monotonic()
    board.closes(place)
    (entry,) = reader.read()
    assert entry.phase is Phase.CLOSING and board.is_closing(place)
    assert before <= entry.since <= time.monotonic()
    assert (entry.number, entry.path) == (7, '/report')
    board.end(place)
    assert reader.read() == []


def test_texts_are_cut_and_need_not_be_latin(shared):
    board, reader = shared
    board.begin(1, 0.0, f'{"i" * 64} {"M" * 20} /\u20ac{"x" * 300}')
    (entry,) = reader.read()
    assert (entry.method, entry.id) == ('M' * 16, 'i' * 64)
    assert entry.path == ('/?' + 'x' * 300)[: scoreboard.PATH]


@pytest.mark.parametrize('path', ['/\xe9\xff', '/a b\x00c', '/' + '\xe9' * 300])
def test_a_path_is_shown_as_in_environ(path, shared):
    board, reader = shared
    board.begin(1, 0.0, f'i GET {path}')
    shown = reader.read()[0].path
    assert (path.startswith(shown) and len(shown) > 100) or shown == path


def test_a_path_that_is_no_text_is_shown(shared):
    board, reader = shared
    board.begin(1, 0.0, 'i GET /\udcff')
    assert reader.read()[0].path == '/?'


def test_more_requests_than_slots_are_counted(shared):
    board, reader = shared
    places = [board.begin(n, float(n), 'i GET /') for n in range(SLOTS + 3)]
    assert places[SLOTS:] == [0, 0, 0]
    assert (len(reader.read()), reader.missed) == (SLOTS, 3)
    for place in places:
        board.sends(place)
        board.end(place)
    assert reader.read() == []
    assert board.begin(*ONE)


def test_a_slot_that_another_request_gets_meanwhile_is_not_read(shared, monkeypatch):
    board, reader = shared
    board.end(board.begin(*ONE))
    read, starts = reader._bytes, iter([7, 8])

    def read_meanwhile():
        board.end(board.begin(next(starts), 1.0, 'f00-1 GET /meanwhile'))
        board.memory[board._free[-1]] = Phase.COMPUTING  # it has not ended
        return read()

    monkeypatch.setattr(reader, '_bytes', read_meanwhile)
    assert reader.read() == []
    starts = iter([9, 9])
    assert [entry.number for entry in reader.read()] == [9]


def test_a_new_program_begins_with_an_empty_board(shared):
    board, reader = shared
    board.begin(*ONE)
    Scoreboard().attach(reader.fd)
    assert reader.read() == []


def test_what_was_in_flight_is_known_after_the_end(shared):
    board, reader = shared
    board.begin(*ONE)
    reader.close()
    assert [entry.path for entry in reader.read()] == ['/report']
    assert reader.missed == 0


def test_without_memory_the_requests_of_the_last_look_stand(shared, monkeypatch):
    def pread(*args):
        raise MemoryError

    board, reader = shared
    board.begin(*ONE)
    seen = reader.read()
    monkeypatch.setattr(scoreboard.os, 'pread', pread)
    reader.close()  # the process has crashed
    assert reader.read() == seen != []


def test_a_process_that_was_killed_leaves_its_requests(shared):
    board, reader = shared
    readable, writable = os.pipe()
    pid = os.fork()
    if not pid:
        try:
            board.begin(*ONE)
            os.write(writable, b'.')
            while True:
                signal.pause()
        finally:
            os._exit(1)
    os.read(readable, 1)
    os.close(readable)
    os.close(writable)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    assert [entry.id for entry in reader.read()] == ['f00-1']


@pytest.mark.parametrize(
    'spoil',
    [
        lambda fd: os.truncate(fd, 0),
        lambda fd: os.truncate(fd, SIZE // 2),
        lambda fd: overwrite(fd, b'\xff' * SIZE),
        lambda fd: overwrite(fd, b'\x01' * SIZE),
        lambda fd: overwrite(fd, os.urandom(SIZE)),
        lambda fd: os.write(fd, os.urandom(SIZE)),
    ],
)
def test_whatever_a_process_writes_there_is_read(spoil, shared):
    board, reader = shared
    board.begin(*ONE)
    spoil(reader.fd)
    for entry in reader.read():
        assert isinstance(entry.phase, Phase)
        assert 0 <= entry.since < 1e12


def test_no_entry_has_the_parts_of_two_requests(shared):
    board, reader = shared
    is_done = threading.Event()

    def write():
        number = 0
        while not is_done.is_set():
            number += 1
            text = f'{number:0>40}'
            board.end(board.begin(number, float(number), f'{text} GET {text}'))

    threads = [threading.Thread(target=write) for _ in range(1)]
    for thread in threads:
        thread.start()
    try:
        seen, until = 0, time.monotonic() + 0.5
        while time.monotonic() < until:
            for entry in reader.read():
                seen += 1
                assert entry.since == entry.number
                assert int(entry.id) == int(entry.path) == entry.number
    finally:
        is_done.set()
        for thread in threads:
            thread.join()
