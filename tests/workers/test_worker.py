"""A process in its role: its name, its time, and how it waits until it may go on."""

import os
import signal
import socket
import sys
from types import SimpleNamespace

import pytest

pytest.importorskip('fcntl')

from paste_wspbus.inbox import Inbox
from paste_wspbus.process.supervised_report import SupervisedReport
from paste_wspbus.requests.watched import WatchedRequests
from paste_wspbus.role import PRELOAD, SITE, Role
from paste_wspbus.wire import lines
from paste_wspbus.workers import packages
from paste_wspbus.workers.orders import watch_for_the_end
from paste_wspbus.workers.worker import Worker


@pytest.fixture
def supervisor():
    """The supervisor's end, and what the process says."""
    mine, its = socket.socketpair()
    reader, writer = os.pipe()
    report = SupervisedReport(writer)
    supervisor = SimpleNamespace(
        connection=mine, its=its, report=report, inbox=Inbox(reader)
    )
    with mine, its:
        yield supervisor
    report.close()
    os.close(reader)


@pytest.fixture
def make(supervisor):
    def make(start_timeout=60.0, **role):
        config = SimpleNamespace(settings={'start_timeout': start_timeout})
        launch = SimpleNamespace(report=supervisor.report)
        process = SimpleNamespace(config=config, launch=launch)
        return Worker(process, supervisor.its, Role(**role), [], -1, WatchedRequests())

    return make


@pytest.mark.parametrize(
    'role, name',
    [
        ({'number': 2}, 'worker 2'),
        ({'kind': SITE}, 'site plugins'),
        ({'kind': PRELOAD}, 'preload'),
        ({}, ''),
    ],
)
def test_log_lines_name_it_where_there_is_more_than_one(make, role, name):
    assert make(**role).name == name


def test_its_time_to_start_counts_from_its_fork(make):
    assert 59 < make().time_to_start <= 60


def test_one_that_is_late_gets_a_moment_to_start(make):
    assert make(start_timeout=0).time_to_start == 0.1


def test_one_that_is_not_held_does_not_wait(make, supervisor):
    assert make(number=1).waits_to_go()
    supervisor.report.pid()
    assert supervisor.inbox.read() == [{'pid': os.getpid()}]


@pytest.mark.parametrize(
    'role', [{'hold': True}, {'kind': SITE}, {'spare': True, 'hold': True}]
)
def test_one_that_is_held_says_so_and_waits(make, supervisor, role):
    supervisor.connection.send(lines.order('go') + lines.order('status'))
    assert make(**role).waits_to_go()
    assert supervisor.inbox.read() == [{'composed': True}]
    assert supervisor.its.recv(100) == b'status\n'  # which is for the site's bus


@pytest.mark.parametrize('word', ['stop', 'make_way'])
def test_any_other_order_ends_it(make, supervisor, word):
    supervisor.connection.send(lines.order(word))
    assert not make(hold=True).waits_to_go()


def test_the_end_of_its_supervisor_ends_it(make, supervisor):
    supervisor.connection.close()
    assert not make(hold=True).waits_to_go()


def test_a_spare_has_all_its_time_from_when_it_goes(make, supervisor):
    worker = make(spare=True, hold=True)
    worker._forked -= 30
    supervisor.connection.send(lines.order('go'))
    worker.waits_to_go()
    assert worker.time_to_start > 59


def test_the_program_that_follows_gets_its_connection_and_its_role(make, supervisor):
    worker = make(number=2, problem='a traceback')
    fd, role, board = worker.bequeath()
    assert (fd, board) == (supervisor.its.fileno(), -1)
    assert Role(*role) == Role(number=2, later=True)
    assert supervisor.inbox.read() == [{'restarts': 'execv'}]


def test_one_that_has_closed_its_connection_is_told_nothing_by_it(make, supervisor):
    """The system sends SIGIO for a copy of the descriptor, too, which the report has."""
    told = []
    worker = make(number=1)
    copy = supervisor.its.dup()
    try:
        watch_for_the_end(supervisor.its, lambda: told.append('end'))
        worker.close()
        os.kill(os.getpid(), signal.SIGIO)  # one that was on its way does no harm
        supervisor.connection.close()
        signal.raise_signal(signal.SIGURG)  # Python would look at other signals, too
        assert not told
    finally:
        copy.close()
        signal.signal(signal.SIGIO, signal.SIG_DFL)


def test_a_signal_that_comes_after_its_connection_is_closed_does_no_harm(
    make, supervisor
):
    """SIGIO may be on its way when the descriptor is closed."""
    told = []
    watch_for_the_end(supervisor.its, lambda: told.append('end'))
    try:
        supervisor.its.close()
        os.kill(os.getpid(), signal.SIGIO)
        signal.raise_signal(signal.SIGURG)  # Python would look at other signals, too
        assert not told
    finally:
        signal.signal(signal.SIGIO, signal.SIG_DFL)


def test_memory_is_left_as_it_is_without_proc(monkeypatch):
    def missing(path, *args):
        raise FileNotFoundError(path)

    monkeypatch.setattr(packages, 'open', missing, raising=False)
    packages.own_memory(0)


@pytest.mark.skipif(sys.platform != 'linux', reason='madvise')
def test_a_spare_that_is_needed_copies_no_more_memory(monkeypatch):
    class Libc:
        def __init__(self, name):
            self.madvise = lambda *_: calls.append(1)

    calls = []
    monkeypatch.setattr('ctypes.CDLL', Libc)
    ours, its = socket.socketpair()
    with ours, its:
        packages.own_memory(its.fileno())
        assert calls
        calls.clear()
        ours.send(b'go\n')
        packages.own_memory(its.fileno())
        assert not calls


def test_a_handler_of_the_sites_own_stays_when_the_connection_is_closed(make):
    worker = make(number=1)
    before = signal.signal(signal.SIGIO, lambda *_: None)
    try:
        mine = signal.getsignal(signal.SIGIO)
        worker.close()
        assert signal.getsignal(signal.SIGIO) is mine
    finally:
        signal.signal(signal.SIGIO, before)
