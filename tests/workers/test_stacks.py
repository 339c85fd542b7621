"""The stacks of a process that does not help: it waits, computes, or holds the GIL."""

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from paste_wspbus.requests import scoreboard
from paste_wspbus.requests.written_stacks import SIGNAL, State
from paste_wspbus.role import Role
from paste_wspbus.watching.loop import Events
from paste_wspbus.workers import stacks
from paste_wspbus.workers.handle import WorkerHandle
from paste_wspbus.workers.stacks import Stacks
from tests.kit import TIMEOUT, eventually

pytestmark = pytest.mark.skipif(
    not sys.platform.startswith('linux'), reason='it reads proc(5)'
)

PROGRAM = """
import hashlib, os, re, socket, sys, threading, time
from paste_wspbus.requests import written_stacks

def sleeps():
    time.sleep(1000)

def locks():
    lock = threading.Lock()
    lock.acquire()
    lock.acquire()

def reads():
    one, other = socket.socketpair()
    one.recv(1)

def holds_the_gil():
    re.match('(a*)*b', 'a' * 100)

def computes_in_c():
    hashlib.pbkdf2_hmac('sha256', b'', b'', 1 << 30)

def loops():
    while True:
        pass

def is_busy():
    def calls(depth):
        return depth and [calls(depth - 1) for _ in (1, 2)]
    def run():
        while True:
            calls(8)
    for _ in range(4):
        threading.Thread(target=run, daemon=True).start()
    run()

if __name__ == '__main__':
    board, what = sys.argv[1:]
    if what != 'unregistered':
        written_stacks.register(int(board))
    begun = threading.Event()
    def run():
        print(threading.get_native_id(), flush=True)
        globals().get(what, sleeps)()
    threading.Thread(target=run, daemon=True).start()
    time.sleep(1000)
"""


@pytest.fixture
def events():
    events = Events()
    yield events
    events.close()


@pytest.fixture
def start(tmp_path):
    """Return a function that starts a process, and returns its handle and a thread's native id."""
    (tmp_path / 'program.py').write_text(PROGRAM)
    started = []

    def start(what):
        mine, its = socket.socketpair()
        worker = WorkerHandle(Role(), mine, None, 60, scoreboard.make())
        its.close()
        child = subprocess.Popen(
            [sys.executable, 'program.py', str(worker.board.fd), what],
            cwd=tmp_path,
            pass_fds=[worker.board.fd],
            stdout=subprocess.PIPE,
        )
        started.append((worker, child))
        worker.is_process(child.pid)
        return worker, int(child.stdout.readline())

    yield start
    for worker, child in started:
        child.kill()
        child.wait()
        child.stdout.close()
        worker.close()


def ask(events, worker, times=1):
    """Return what the process has answered, once for each time it was asked."""
    answers, stacks = [], Stacks(events)
    for _ in range(times):
        stacks.ask(worker, answers.append)
    assert answers == []
    until = time.monotonic() + TIMEOUT
    while len(answers) < times and time.monotonic() < until:
        events.step(0.1)
    return answers


def test_a_question_that_fails_is_answered_and_the_next_one_too(
    events, start, monkeypatch
):
    def fail(pid):
        monkeypatch.undo()
        raise MemoryError

    failed = []
    events.failed = lambda error, function: failed.append(type(error))
    worker, _ = start('sleeps')
    monkeypatch.setattr('paste_wspbus.workers.stacks._threads', fail)
    first, second = ask(events, worker, 2)
    assert (first, failed) == (None, [MemoryError])
    assert second is None or isinstance(second, dict)


def until_in(events, worker, ident, name):
    """Return the frames of a thread as soon as it is in a function."""
    until = time.monotonic() + TIMEOUT
    while time.monotonic() < until:
        (stacks,) = ask(events, worker)
        frames = (stacks or {}).get(ident, [])
        if any(frame.name == name for frame in frames):
            return frames
    raise AssertionError(stacks)


@pytest.mark.parametrize(
    'what', ['sleeps', 'locks', 'reads', 'holds_the_gil', 'computes_in_c', 'loops']
)
def test_the_stacks_of_a_process_wherever_it_is(what, events, start):
    worker, ident = start(what)
    frames = until_in(events, worker, ident, what)
    at = next(number for number, frame in enumerate(frames) if frame.name == what)
    assert Path(frames[at].file).name == 'program.py'
    lines = PROGRAM.splitlines()
    assert lines[frames[at].line - 1].startswith('    ')
    assert frames[at + 1].name == 'run'


def test_all_threads_answer_one_after_the_other(events, start):
    worker, ident = start('sleeps')
    until_in(events, worker, ident, 'sleeps')
    (stacks,) = ask(events, worker)
    assert stacks.keys() == {worker.pid, ident}
    assert [frame.name for frame in stacks[worker.pid]] == ['<module>']


def test_only_one_thread_is_asked(events, start):
    worker, ident = start('sleeps')
    until_in(events, worker, ident, 'sleeps')
    answers, stacks = [], Stacks(events)
    stacks.ask(worker, answers.append, ident)
    stacks.ask(worker, answers.append, worker.pid)
    stacks.ask(worker, answers.append, 1)
    while len(answers) < 3:
        events.step(0.1)
    assert [one and [*one] for one in answers] == [[ident], [worker.pid], None]


def test_a_busy_process_survives_many_questions(events, start):
    worker, _ = start('is_busy')
    for _ in range(100):
        (stacks,) = ask(events, worker)
        assert stacks
    assert os.waitpid(worker.pid, os.WNOHANG) == (0, 0)


def test_a_process_that_is_stopped_answers_later(events, start):
    worker, ident = start('sleeps')
    until_in(events, worker, ident, 'sleeps')
    os.kill(worker.pid, signal.SIGSTOP)
    stacks, answers = Stacks(events), []
    for number in (1, 2):
        stacks.ask(worker, answers.append)
        while len(answers) < number:
            events.step(0.1)
    assert answers == [None, None]
    os.kill(worker.pid, signal.SIGCONT)
    assert until_in(events, worker, ident, 'sleeps')


def test_a_process_that_would_be_ended_by_the_signal_does_not_get_it(events, start):
    worker, _ = start('unregistered')
    assert ask(events, worker) == [None]
    assert os.waitpid(worker.pid, os.WNOHANG) == (0, 0)


def test_a_process_that_has_ended_has_no_stacks(events, start):
    worker, _ = start('sleeps')
    worker.has_ended(0)
    assert ask(events, worker) == [None]


def test_the_worker_is_not_disturbed_by_many_questions(events, start):
    worker, ident = start('loops')
    for _ in range(20):
        (stacks,) = ask(events, worker)
        assert ident in stacks


def test_the_signal_is_a_realtime_signal():
    assert signal.SIGRTMIN < SIGNAL < signal.SIGRTMAX
    assert signal.getsignal(SIGNAL) is signal.SIG_DFL


def test_threads_that_have_a_request_are_asked_first(monkeypatch):
    asked = []
    state = State(handles=True, blocks=False, waits=False)
    monkeypatch.setattr(stacks, '_threads', lambda pid: [1, 2, 3, 4])
    monkeypatch.setattr(stacks, 'state_of', lambda pid, thread: state)
    board = SimpleNamespace(fd=-1, read=lambda: [SimpleNamespace(native=3)])
    worker = SimpleNamespace(
        ended=False, pid=1, board=board, signal=lambda number, one: asked.append(one)
    )
    question = stacks._Question(worker, None, None)
    eventually(question.is_done)
    assert asked == [3, 1, 2, 4]
