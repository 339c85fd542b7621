"""The supervisor's end of the messages between machines."""

import json
from types import SimpleNamespace

import pytest

from paste_wspbus.workers.cluster_mail import ClusterMail


@pytest.fixture
def mail(events):
    """Its ``delivered`` has what processes of this machine got; ``its`` is the agent's end."""
    heard, delivered, lines = {}, [], []
    supervisor = SimpleNamespace(
        events=events,
        bus=SimpleNamespace(log=lambda line, level=20: lines.append(line)),
        children=SimpleNamespace(
            hear=lambda word, call, first: heard.update({word: call})
        ),
        exchange=SimpleNamespace(
            deliver=lambda *args: delivered.append(args),
            miss=lambda count: delivered.append(count),
        ),
    )
    mail = ClusterMail(supervisor)
    mail.delivered, mail.lines, mail.rest = delivered, lines, b''

    def broadcast(args='[1]', cluster=True):
        message = {'broadcast': 'cache', 'args': args, 'retain': False}
        heard['broadcast'](None, {**message, 'cluster': cluster})

    def connect():
        mail.its = mail.connect()
        mail.its.setblocking(False)

    mail.broadcast, mail.reconnect = broadcast, connect
    connect()
    yield mail
    mail.its.close()
    mail.close()


def read(mail):
    """What the agent reads, until nothing comes any more."""
    lines = []
    while True:
        mail._outbox.flush()
        try:
            came = mail.its.recv(1 << 20)
        except BlockingIOError:
            return [json.loads(line) for line in lines]
        *whole, mail.rest = (mail.rest + came).split(b'\n')
        lines += whole


def come(mail, *words):
    """Let the agent say this."""
    mail.its.send(json.dumps(words).encode() + b'\n')
    mail._serve()


def test_a_message_for_all_machines_has_a_number(mail):
    mail.broadcast()
    mail.broadcast(cluster=False)
    mail.broadcast('[2]')
    assert read(mail) == [
        ['send', 'site', '["cache", false]\n[1]', 1],
        ['send', 'site', '["cache", false]\n[2]', 2],
    ]


def test_what_has_no_room_is_counted_and_the_others_see_the_gap(mail):
    long = '"' + 'x' * 60_000 + '"'
    while not mail.counts['dropped']:
        mail.broadcast(long)
    mail.broadcast(long)
    sent = read(mail)
    numbers = [number for *_, number in sent]
    assert numbers == [*range(1, len(sent)), mail.counts['sent']]
    assert sent[-1][2] == ''
    assert mail.counts['dropped'] == 2
    assert mail.counts['sent'] == len(sent) + 1
    (line,) = mail.lines  # once a minute
    assert line.startswith('cluster: messages that other machines do not get: 1 (')
    assert read(mail) == []


def test_the_gap_is_shown_before_the_next_message(mail):
    """Others that have been told of messages that were lost before would not report it."""
    long = '"' + 'x' * 60_000 + '"'
    while not mail.counts['dropped']:
        mail.broadcast(long)
    mail.rest = mail.its.recv(1 << 20).rpartition(b'\n')[2]
    mail._outbox.flush()  # there is room again, but more waits
    assert mail._outbox.is_waiting
    last = mail.counts['sent']
    mail.broadcast('[2]')
    lines = read(mail)
    assert [(words[2], words[3]) for words in lines[-2:]] == [
        ('', last),
        ('["cache", false]\n[2]', last + 1),
    ]


def test_the_next_agent_shows_what_the_one_before_may_have_lost(mail):
    mail.broadcast()
    mail.its.close()
    mail._serve()
    mail.broadcast()
    assert mail.counts['dropped'] == 1
    mail.reconnect()
    assert read(mail) == [['send', 'site', '', 2]]
    assert mail.delivered == [1]  # here, too


def test_messages_of_others_are_delivered_once_and_what_is_missing_is_told(mail):
    text = '["cache", true]\n[1]'
    for number in (4, 5, 5, 4, 8):
        come(mail, 'message', 'two-2', text, number)
    message = ('two-2', 'cache', '[1]', True)
    assert mail.delivered == [message, message, 2, message]
    come(mail, 'message', 'two-2', '', 9)  # that one is lost, too
    assert mail.delivered[4:] == [1]
    come(mail, 'missed')
    come(mail, 'message', 'two-2', text, 20)  # this is known already
    assert mail.delivered[5:] == [1, message]
    assert mail.counts == {'sent': 0, 'dropped': 0, 'received': 4, 'missed': 4}
    assert mail.lines == [  # once a minute
        'cluster: messages of other machines that do not come: 2 (they did not reach the '
        'engine)'
    ]


@pytest.mark.parametrize(
    'text',
    [
        'x',
        '[]\n[1]',
        '["cache"]\n[1]',
        '["", false]\n[1]',
        '["cache", 1]\n[1]',
        '["cache", false]\n{}',
        '["cache", false]\n' + '[' * 10_000,
        '["cache", false]\n"' + 'x' * 65536 + '"',
    ],
)
def test_nonsense_is_delivered_to_nobody(mail, text):
    mail._receive('two-2', text, 1)
    assert mail.delivered == []
