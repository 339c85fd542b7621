"""Workers that leave connections to those with a free thread, and the last one, which does not."""

import contextlib
import os
import socket
from types import SimpleNamespace

import pytest

from paste_wspbus.servers import free_threads
from paste_wspbus.servers.free_threads import PLACES, Board


class Threads:
    """A server, as far as it is asked: its free threads, and how often it was resumed."""

    scheme = 'http'

    def __init__(self, free, sockets):
        self.free, self.resumed, self.sockets = free, 0, sockets

    def free_threads(self):
        return self.free

    def resume(self):
        self.resumed += 1


@pytest.fixture
def board():
    return Board()


@pytest.fixture
def listening():
    """A socket with a backlog for eight connections."""
    with socket.create_server(('127.0.0.1', 0), backlog=8) as sock:
        yield SimpleNamespace(sock=sock)


@pytest.fixture
def start(board, listening):
    """Return what a worker with this number of free threads does, and its server."""

    def start(free):
        server = Threads(free, [listening])
        board.share(board.take(), server, several=True)
        server.sharing.begin()
        return server.sharing, server

    return start


def test_a_worker_with_a_free_thread_accepts(start):
    start(1)
    sharing, _ = start(1)
    assert not sharing.leaves_it_to_others()


def test_a_busy_worker_leaves_a_connection_to_a_free_one(start):
    start(1)
    sharing, server = start(0)
    assert sharing.leaves_it_to_others() and sharing.leaves
    assert server.resumed == 0


def test_if_no_worker_has_one_connections_wait_for_the_first_free_thread(start):
    other, its_server = start(0)
    sharing, server = start(0)
    assert sharing.leaves_it_to_others() and other.leaves_it_to_others()
    assert sharing.is_leaving() and other.is_leaving()
    server.free = 1
    sharing.a_thread_is_free()
    assert not sharing.leaves and server.resumed == 1
    assert other.is_leaving() and its_server.resumed == 0


def test_a_backlog_of_unknown_length_is_left_for_some_time(
    start, monkeypatch, tmp_path
):
    sharing, server = start(0)
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(tmp_path / 'a.sock'))
        server.sockets.append(SimpleNamespace(sock=sock))
        assert sharing.leaves_it_to_others() and sharing.is_leaving()
        monkeypatch.setattr(free_threads, 'PATIENCE', 0)
        assert not sharing.is_leaving() and server.resumed == 1
        assert not sharing.leaves_it_to_others()


@pytest.fixture
def fill(listening):
    """Return a function that takes places in the backlog."""
    with contextlib.ExitStack() as stack:

        def fill(places=3):
            for _ in range(places):
                address = listening.sock.getsockname()
                stack.enter_context(socket.create_connection(address))

        yield fill


def test_but_not_while_the_backlog_fills_up(start, fill):
    other, its_server = start(0)
    sharing, server = start(0)
    fill(2)
    assert sharing.leaves_it_to_others() and sharing.is_leaving()
    fill(1)
    assert not sharing.is_leaving() and server.resumed == 1
    assert not sharing.leaves_it_to_others()
    its_server.free = 1  # the other one was not asked
    other.count()
    assert sharing.leaves_it_to_others() and sharing.is_leaving()


def test_a_worker_whose_requests_are_short_accepts_while_it_is_full(start, monkeypatch):
    monkeypatch.setattr(free_threads, 'WITHIN', 3600)
    monkeypatch.setattr(free_threads, 'LAST', 3600)
    start(1)
    sharing, _ = start(0)
    assert sharing.leaves_it_to_others()
    for _ in range(free_threads.MANY):
        sharing.has_answered(is_free=False)
    assert not sharing.leaves_it_to_others()
    monkeypatch.setattr(free_threads, 'LAST', 0)  # now all threads are busy for longer
    assert sharing.leaves_it_to_others()


def test_the_connection_that_was_just_accepted_counts(start, fill):
    other, _ = start(1)
    sharing, _ = start(0)
    fill()
    assert sharing.leaves_it_to_others()
    assert not other.count(accepted=1)
    assert not sharing.leaves_it_to_others()


def test_the_first_free_thread_ends_it(start):
    start(1)
    sharing, server = start(0)
    assert sharing.leaves_it_to_others()
    sharing.a_thread_is_free()  # none is: another connection has it already
    assert sharing.leaves and server.resumed == 0
    server.free = 1
    sharing.a_thread_is_free()
    assert not sharing.leaves and server.resumed == 1
    sharing.a_thread_is_free()
    assert server.resumed == 1


def test_a_thread_that_becomes_free_meanwhile_is_not_overlooked(start):
    start(1)
    sharing, server = start(0)
    numbers = iter([0, 1])
    server.free_threads = lambda: next(numbers)
    assert not sharing.leaves_it_to_others()


def test_a_server_that_stops_accepts_what_comes(start):
    start(1)
    sharing, server = start(0)
    assert sharing.leaves_it_to_others()
    sharing.end()
    assert not sharing.leaves and server.resumed == 1
    assert not sharing.leaves_it_to_others()


def test_a_server_that_stops_has_no_thread_for_others(start, fill):
    stopping, server = start(0)
    sharing, _ = start(0)
    stopping.end()
    server.free = 1
    stopping.a_thread_is_free()
    fill()
    assert not sharing.leaves_it_to_others()


def test_a_server_that_does_not_know_accepts(start):
    start(1)
    sharing, _ = start(None)
    assert not sharing.leaves_it_to_others()


def test_a_worker_that_has_ended_has_no_free_threads(board, start, fill):
    start(1)
    sharing, _ = start(0)
    board.give_back(1)
    fill()
    assert not sharing.leaves_it_to_others()
    assert board.take() == 1


def test_each_place_is_given_once(board):
    taken = [board.take() for _ in range(PLACES - 1)]
    assert sorted(taken) == [*range(1, PLACES)]
    assert board.take() == 0
    board.give_back(0)
    assert board.take() == 0


def test_a_place_is_given_on_without_the_marks_of_the_last_worker(board):
    place = board.take()
    board.marks.of(place).add(7)
    board.give_back(place)
    assert set(board.marks.read(place)) == {7}  # its connections are handed on by them
    assert board.take() == place and board.marks.read(place) == {}


def test_the_children_of_a_process_see_each_other(board, start, fill):
    sharing, _ = start(0)
    server = Threads(1, [])
    board.share(board.take(), server, several=True)
    other = server.sharing
    pid = os.fork()
    if not pid:
        other.begin()
        os._exit(0)
    os.waitpid(pid, 0)
    fill()
    assert sharing.leaves_it_to_others()
