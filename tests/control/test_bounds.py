"""The control socket and its clients: what comes is bounded in bytes and in total time."""

import contextlib
import json
import random
import socket
import threading
import time

import pytest

from paste_wspbus.command.status_text import describe
from paste_wspbus.control import VERSION, client, server
from paste_wspbus.control.client import NoAnswer, ask
from paste_wspbus.control.server import MAX_REQUEST, Control
from paste_wspbus.control.status import what_it_waits_for
from paste_wspbus.control.stop import NO_DEADLINE, patience
from paste_wspbus.watching.loop import Events
from tests.kit import TIMEOUT

REQUEST = json.dumps({'version': VERSION, 'command': 'status'}).encode() + b'\n'


class Answering:
    """A `Control` in the loop of a test."""

    def __init__(self, folder):
        self.events, self.later = Events(), []
        commands = {
            'status': lambda connection: {'state': 'STARTED'},
            'large': lambda connection: {'text': 'x' * 2_000_000},
            'later': self.later.append,
        }
        self.control = Control(str(folder / 'sock'), commands)
        self.control.open()
        self.control.serve(self)

    def connect(self):
        sock = socket.socket(socket.AF_UNIX)
        sock.connect(self.control.path)
        sock.setblocking(False)
        self.step()
        return sock

    def step(self, count=3):
        for _ in range(count):
            self.events.step(0)

    def is_closed(self, sock):
        self.step()
        with contextlib.suppress(BlockingIOError):
            return sock.recv(100) == b''
        return False

    def close(self):
        self.control.close()
        self.events.close()


@pytest.fixture
def site(tmp_path):
    site = Answering(tmp_path)
    yield site
    site.close()


def random_input(randomly):
    """Something like a request, or nothing like it."""
    values = [
        None,
        True,
        -1,
        1e308,
        '',
        'status',
        'large' * 9,
        [[]],
        {'a': {}},
        VERSION,
    ]
    request = {
        randomly.choice(['version', 'command', 'wait', '']): randomly.choice(values)
        for _ in range(randomly.randint(0, 4))
    }
    line = json.dumps(request).encode()
    kind = randomly.randrange(6)
    if kind == 0:
        return randomly.randbytes(randomly.randint(0, 100))
    if kind == 1:
        cut = randomly.randrange(len(line))
        return line[:cut] + randomly.randbytes(2) + line[cut:] + b'\n'
    if kind == 2:
        return line[: randomly.randrange(len(line))]
    if kind == 3:
        return randomly.choice([b'[', b'{"version":', b'1e999', b'9']) * 3000 + b'\n'
    if kind == 4:
        return randomly.randbytes(2 * MAX_REQUEST)
    return line + b'\n' * randomly.randint(1, 3)


def test_ten_thousand_random_inputs_stall_nobody(site):
    randomly = random.Random(13)
    for number in range(10_000):
        with site.connect() as sock:
            with contextlib.suppress(OSError):
                sock.send(random_input(randomly))
            site.step(1)
        if not number % 1000:
            with site.connect() as sock:
                sock.send(REQUEST)
                site.step()
                assert json.loads(sock.recv(1000))['state'] == 'STARTED'
    site.step(100)
    assert len(site.control._connections) <= server.MAX_CONNECTIONS


def test_a_client_that_drips_has_its_time_in_total(site, monkeypatch):
    monkeypatch.setattr(server, 'REQUEST_TIME', 0.3)
    with site.connect() as sock:
        until = time.monotonic() + TIMEOUT
        while not site.is_closed(sock):
            with contextlib.suppress(OSError):
                sock.send(b' ')
            time.sleep(0.02)
            assert time.monotonic() < until


def test_a_client_that_is_silent_is_closed_by_a_timer(site, monkeypatch):
    monkeypatch.setattr(server, 'REQUEST_TIME', 0.1)
    with site.connect() as sock:
        site.events.step(TIMEOUT)
        assert site.is_closed(sock)
    assert site.events._timers == []  # nobody is waited for: no wake-up


def test_a_client_that_does_not_read_is_closed(site, monkeypatch):
    monkeypatch.setattr(server, 'ANSWER_TIME', 0.1)
    monkeypatch.setattr(server, 'REQUEST_TIME', 0.1)
    with site.connect() as sock:
        sock.send(REQUEST.replace(b'status', b'large'))
        site.step()
        assert len(site.control._sending) == 1
        time.sleep(0.11)
        site.events.step(TIMEOUT)
        assert site.control._sending == []


def test_no_more_clients_wait_for_a_later_answer_than_the_limit(site, monkeypatch):
    monkeypatch.setattr(server, 'MAX_WAITING', 5)
    with contextlib.ExitStack() as stack:
        socks = [stack.enter_context(site.connect()) for _ in range(8)]
        for sock in socks:
            sock.send(REQUEST.replace(b'status', b'later'))
            site.step()
        assert [site.is_closed(sock) for sock in socks] == [True] * 3 + [False] * 5
        for connection in site.later:
            connection.answer({'done': True})
        assert all(b'done' in sock.recv(100) for sock in socks[3:])


# -- who asks -------------------------------------------------------------------------


@pytest.fixture
def answerer(tmp_path):
    """Answers with what a function sends to the client, in a thread."""
    path = str(tmp_path / 'sock')
    listening = socket.socket(socket.AF_UNIX)
    listening.bind(path)
    listening.listen(1)
    threads = []

    def start(function):
        def run():
            sock, _ = listening.accept()
            with sock, contextlib.suppress(OSError):
                sock.recv(1000)
                function(sock)

        threads.append(threading.Thread(target=run))
        threads[0].start()
        return path

    yield start
    for thread in threads:
        thread.join(TIMEOUT)
    listening.close()


def send_for_ever(sock):
    while True:
        sock.sendall(b'[' * 65536)


def drip(sock):
    while True:
        sock.sendall(b' ')
        time.sleep(0.02)


def test_an_answer_that_does_not_end_is_none(answerer, monkeypatch):
    monkeypatch.setattr(client, 'MAX_ANSWER', 1 << 20)
    with pytest.raises(NoAnswer, match='does not end'):
        ask(answerer(send_for_ever), 'status', TIMEOUT)


def test_an_answer_that_drips_has_its_time_in_total(answerer):
    with pytest.raises(NoAnswer, match='in time'):
        ask(answerer(drip), 'status', 0.3)


@pytest.mark.parametrize(
    'answer', [b'[' * 100_000, b'{"pid":' * 100_000, b'\xff', b'9' * 10_000]
)
def test_nonsense_is_no_answer(answerer, answer):
    with pytest.raises(NoAnswer):
        ask(answerer(lambda sock: sock.sendall(answer + b'\n')), 'status', TIMEOUT)


NASTY = 'a\x1b]0;title\x07\r\n\x9b2J\u202eb\u2028c'


def test_what_another_site_answers_cannot_command_the_terminal():
    answer = {
        'state': NASTY,
        'pid': NASTY,
        'generation': NASTY,
        'since': 1e308,
        'urls': [NASTY, [NASTY], {}],
        'workers': [
            {key: NASTY for key in ('name', 'number', 'pid', 'state', 'generation')}
            | {'requests': [NASTY], 'age': 1e999}
        ],
        'failure': NASTY,
        'requests': [NASTY],
        'calling': NASTY,
    }
    lines = [line.text for line in describe(answer, None)]
    for line in [*lines, what_it_waits_for(answer)]:
        assert line.isprintable(), line


def test_no_deadline_is_waited_for_without_end():
    for deadline in (1e999, 1e300, 10**400, float('nan'), None, True, 'x', []):
        assert patience({'deadline': deadline}) < NO_DEADLINE + 60
