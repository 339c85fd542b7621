"""The messages that an agent passes on: what is sent, what is lost, and how both are seen."""

import json
import socket
import time
from types import SimpleNamespace

import pytest

from paste_wspbus.cluster import mail
from paste_wspbus.cluster.engine import EngineAway, Member, Message, Received
from paste_wspbus.cluster.mail import SITE, Mail, Numbers
from paste_wspbus.cluster.settings import Settings
from tests.kit import eventually

ONE = Member('one-1', 'one')


class Engine:
    """It takes what is sent; ``away`` is why it does not; ``counts`` are those sent together."""

    def __init__(self):
        self.sent, self.away, self.tries, self.counts = [], '', 0, []

    def send(self, *messages):
        self.tries += 1
        if self.away:
            raise EngineAway(self.away)
        if any(one.text == 'too long' for one in messages):
            raise ValueError('a message of 70,000 bytes')
        self.sent += messages
        self.counts.append(len(messages))


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
    first, *others = said(one)
    assert (first, others) == (['dropped', 'it is full', 1], [['dropped', '', 1]] * 2)
    one._again, one.engine.away = 0, ''
    send(one, 4)  # the others see that three are missing
    assert numbers_sent(one) == [(3, ''), (4, 'text')]
    assert one._owed == 0


def test_what_waits_is_sent_together_and_in_order(make):
    """So the time of a round trip does not bound the messages of a second."""
    one, began = make(), []
    one.rolls = SimpleNamespace(
        look=lambda engine: None,
        begin=lambda *asked: began.append(len(one.engine.sent)),
    )
    lines = [['send', SITE, 'text', number] for number in range(1, 251)]
    lines.insert(130, ['roll', 'token'])
    one.mine.sendall(b''.join(json.dumps(line).encode() + b'\n' for line in lines))
    one.start()
    eventually(lambda: len(one.engine.sent) == 250)
    assert [number for number, _ in numbers_sent(one)] == [*range(1, 251)]
    assert one.engine.counts == [100, 30, 100, 20]
    assert began == [130]  # what was said before it is sent before it


def test_messages_that_are_sent_together_are_lost_together(make):
    one = make()
    one.engine.away = 'it does not answer in time'
    one._send(*(Message(ONE.id, SITE, 'text', number) for number in (1, 2, 3)))
    assert one.engine.tries == 1  # nobody knows whether the engine has them
    assert said(one) == [['dropped', 'it does not answer in time', 3]]
    assert one._owed == 3


def test_one_that_is_too_long_takes_no_other_with_it(make):
    one = make()
    texts = 'text', 'too long', 'text'
    one._send(*(Message(ONE.id, SITE, text, n + 1) for n, text in enumerate(texts)))
    assert said(one) == [['dropped', 'a message of 70,000 bytes', 1]]
    assert numbers_sent(one) == [(1, 'text'), (2, ''), (3, 'text')]


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


def test_a_signed_message_that_is_too_old_is_repeated_by_somebody_or_is_lost(make):
    one, old = make(), Message('two', SITE, 'text', 1, time.time() - 71)
    one.receive(Received([old, old]))
    ((word, level, line), missed) = said(one)
    assert (word, level) == ('note', 30) and '71 s old' in line
    assert missed == ['missed']
    unsigned = make(secret='')
    unsigned.receive(Received([old]))
    assert said(unsigned) == [['message', 'two', 'text', 1]]


def test_messages_of_a_clock_that_is_wrong_are_reported_once_a_minute(make):
    one, early = make(), Message('two', SITE, 'text', 1, time.time() + 400.4)
    for messages in ([early], [early], []):
        one.receive(Received(messages))
    ((_, _, line), _) = said(one)
    assert 'by the clocks, it will be sent in 400 s. ' in line
    one._told_at -= mail.MINUTE + 1
    one.receive(Received([]))  # the second one
    assert [words[0] for words in said(one)] == ['note', 'missed']
    one._told_at -= mail.MINUTE + 1
    one.receive(Received([]))
    assert said(one) == []


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
