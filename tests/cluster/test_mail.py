"""The messages that an agent passes on: what is sent, what is lost, and how both are seen."""

import json
import socket
import time

import pytest

from paste_wspbus.cluster import mail
from paste_wspbus.cluster.engine import EngineAway, Member, Message, Received
from paste_wspbus.cluster.mail import SITE, Mail, Numbers
from paste_wspbus.cluster.settings import Settings
from tests.kit import eventually

ONE = Member('one-1', 'one')


class Engine:
    """It takes what is sent; ``away`` is why it does not."""

    def __init__(self):
        self.sent, self.away, self.tries = [], '', 0

    def send(self, message):
        self.tries += 1
        if self.away:
            raise EngineAway(self.away)
        self.sent.append(message)


@pytest.fixture
def make():
    made = []

    def make(secret='sesame'):
        mine, its = socket.socketpair()
        mine.settimeout(10)
        made.extend((mine, its))
        ini = Settings('redis://h/0', 'shop', 'one', secret=secret, keep=10)
        one = Mail(ini, ONE, Engine(), its)
        one.mine = mine
        return one

    yield make
    for one in made:
        one.close()


def said(one):
    """What it has said to the supervisor."""
    one.mine.setblocking(False)
    try:
        return [json.loads(line) for line in one.mine.recv(1 << 20).splitlines()]
    except BlockingIOError:
        return []


def send(one, *numbers):
    for number in numbers:
        one._send(Message(ONE.id, SITE, 'text', number))


def numbers_sent(one):
    return [(message.number, message.text) for message in one.engine.sent]


def test_a_message_is_sent_with_the_time_and_the_sender(make):
    one = make()
    one.start()
    one.mine.sendall(b'["send", "site", "te')
    one.mine.sendall(b'xt", 7]\n')
    eventually(lambda: one.engine.sent)
    (message,) = one.engine.sent
    assert message[:4] == (ONE.id, SITE, 'text', 7)
    assert abs(time.time() - message.at) < 60


def test_what_does_not_reach_the_engine_is_lost_and_counted(make):
    one = make()
    one.engine.away = 'it is full'
    send(one, 1, 2, 3)
    assert one.engine.tries == 1  # the others do not wait for it
    assert said(one) == [['dropped', 'it is full'], ['dropped', ''], ['dropped', '']]
    one._again, one.engine.away = 0, ''
    send(one, 4)  # the others see that three are missing
    assert numbers_sent(one) == [(4, 'text')]
    assert one._owed == 0


def test_if_nothing_follows_an_empty_message_shows_what_was_lost(make, monkeypatch):
    monkeypatch.setattr(mail, 'AGAIN', 0.01)
    one = make()
    one.engine.away = 'it is full'
    send(one, 1, 2)
    one.start()
    eventually(lambda: one.engine.tries >= 4)
    one.engine.away = ''
    eventually(lambda: one.engine.sent)
    assert numbers_sent(one) == [(2, '')]
    assert [words[0] for words in said(one)] == ['dropped'] * 2


def test_the_supervisor_gets_what_others_send(make):
    one = make()
    own, other = (Message(who, SITE, 'text', 1, time.time()) for who in (ONE.id, 'two'))
    freed = Message('two', 'freed', '', 0, time.time())
    one.receive(Received([own, freed, other], missed=True))
    assert said(one) == [['missed'], ['message', 'two', 'text', 1]]


def test_a_signed_message_that_is_too_old_is_repeated_by_somebody(make):
    one, old = make(), Message('two', SITE, 'text', 1, time.time() - 71)
    one.receive(Received([old, old]))
    ((word, level, line),) = said(one)
    assert (word, level) == ('note', 30) and '71 s old' in line
    unsigned = make(secret='')
    unsigned.receive(Received([old]))
    assert said(unsigned) == [['message', 'two', 'text', 1]]


def test_messages_with_another_signature_are_logged_once_a_minute(make):
    one = make()
    for count in (0, 2, 3, 0):
        one.receive(Received([], refused=count))
    ((word, level, line),) = said(one)
    assert (word, level) == ('note', 30) and 'dropped: 2 (they are not signed' in line
    one._refused_at -= mail.MINUTE + 1
    one.receive(Received([]))
    assert 'dropped: 3 (' in said(one)[0][2]


def test_numbers_show_what_came_before_and_what_is_missing():
    numbers = Numbers()
    assert numbers.take('a', 7) == 0  # nobody knows what was before
    assert [numbers.take('a', 8), numbers.take('b', 1)] == [0, 0]
    assert [numbers.take('a', 8), numbers.take('a', 3)] == [None, None]
    assert numbers.take('a', 11) == 2
    numbers.excuse()
    assert [numbers.take('a', 11), numbers.take('a', 20)] == [None, 0]
    assert numbers.take('a', 22) == 1
    for number in range(mail.MOST_SENDERS):
        numbers.take(f'c{number}', 1)
    assert len(numbers._last) == mail.MOST_SENDERS
    assert numbers.take('a', 1) == 0  # it is forgotten: only its age counts
