"""The exchange of messages in the supervisor: who gets them, and what it does not wait for."""

import socket
from types import SimpleNamespace

import pytest

from paste_wspbus.role import SITE, WORKER, Role
from paste_wspbus.wire.lines import order, read_order
from paste_wspbus.workers import exchange
from paste_wspbus.workers.exchange import Exchange
from paste_wspbus.workers.handle import WorkerHandle
from paste_wspbus.workers.outbox import MAX_MESSAGES, MAX_WAITING


class Process:
    """A process: the supervisor's view of it, and its own end of the connection."""

    def __init__(self, kind=WORKER, number=0):
        mine, self.its = socket.socketpair()
        mine.setblocking(False)
        self.its.setblocking(False)
        self.handle = WorkerHandle(Role(kind, number), mine, None, 60)
        self.rest = b''

    def read(self):
        """The orders that have come, since they were read last."""
        came = b''
        while True:
            try:
                came += self.its.recv(1 << 20)
            except BlockingIOError:
                break
            self.handle.outbox.flush()
        return [read_order(line) for line in came.splitlines()]

    def close(self):
        self.handle.close()
        self.its.close()


@pytest.fixture
def site(events):
    """Two workers, the process of the site plugins, and what the supervisor hears of them."""
    heard, log = {}, []
    children = SimpleNamespace(hear=heard.__setitem__)
    exchange = Exchange(events, children, lambda line, level: log.append(line))
    processes = [Process(SITE), Process(number=2), Process(number=1)]
    plugins, second, first = processes

    def say(process, **message):
        heard[next(iter(message))](process.handle, message)

    yield SimpleNamespace(
        exchange=exchange,
        first=first,
        second=second,
        plugins=plugins,
        all=processes,
        say=say,
        log=log,
    )
    for one in processes:
        one.close()


def hear(site, *processes, channel='cache'):
    for one in processes:
        site.say(one, hears=[channel])
        assert one.read() == [('heard', [])]


def broadcast(site, sender, args='[1]', channel='cache', retain=False):
    site.say(sender, broadcast=channel, args=args, retain=retain, cluster=False)


def ask(site, asker, channel='cache', timeout=60):
    site.say(asker, ask=7, channel=channel, args='[1]', timeout=timeout)


def number_of(process):
    word, (content,) = process.read()[0]
    assert (word, content[:2]) == ('question', ['cache', '[1]'])
    return content[2]


def answers(process):
    return [content[0] for word, content in process.read() if word == 'answered']


def test_a_message_goes_to_all_that_hear_its_channel(site):
    hear(site, site.first, site.plugins)
    broadcast(site, site.first)
    expected = [('message', [['cache', '[1]']])]
    assert [one.read() for one in site.all] == [expected, [], expected]


def test_who_begins_to_hear_gets_the_last_retained_message_of_each_channel(site):
    broadcast(site, site.first, '[1]', retain=True)
    broadcast(site, site.first, '[2]', retain=True)
    broadcast(site, site.first, '[3]')
    broadcast(site, site.first, '[4]', 'other', retain=True)
    site.say(site.second, hears=['cache', 'nothing'])
    assert site.second.read() == [('message', [['cache', '[2]']]), ('heard', [])]
    site.say(site.second, hears=['cache', 'other'])
    assert site.second.read() == [('message', [['other', '[4]']]), ('heard', [])]


def test_what_is_retained_is_bounded(site):
    most = 'x' * (exchange.MAX_RETAINED - 100)
    broadcast(site, site.first, 'old', retain=True)
    broadcast(site, site.first, most, 'other', retain=True)
    broadcast(site, site.first, 'x' * 200, retain=True)
    assert "'cache' is not retained" in site.log[0]
    site.say(site.second, hears=['cache'])
    assert site.second.read() == [('heard', [])]


def test_the_answers_stand_in_the_order_of_the_workers(site):
    hear(site, *site.all)
    ask(site, site.first)
    (number,) = {number_of(one) for one in site.all}
    for one in site.all:
        site.say(one, answer=number, value='3', error=None)
    assert answers(site.first) == [
        [7, 3, 2, ['site plugins', '3', None]],
        [7, 3, 1, ['worker 2', '3', None]],
        [7, 3, 0, ['worker 1', '3', None]],
    ]


def test_nobody_hears_a_question(site):
    ask(site, site.first)
    assert answers(site.first) == [[7, 0, 0, None]]


def test_a_process_that_ends_has_answered(site):
    hear(site, site.first, site.second)
    ask(site, site.first)
    site.exchange.forget(site.second.handle)
    assert answers(site.first) == [
        [7, 2, 1, ['worker 2', None, 'the process has ended']]
    ]
    ask(site, site.second)  # it may end itself, too
    site.exchange.forget(site.second.handle)
    assert [one.asker for one in site.exchange._questions.values()] == [
        site.first.handle
    ]
    site.second.read()
    broadcast(site, site.first)
    assert site.second.read() == []


def test_a_process_answers_once_and_no_other_ones_question(site):
    hear(site, site.first, site.second)
    ask(site, site.first)
    number = number_of(site.first)
    site.say(site.plugins, answer=number, value='1', error=None)  # it was not asked
    site.say(site.first, answer=number, value='2', error=None)
    site.say(site.first, answer=number, value='3', error=None)
    site.say(site.first, answer=number + 1, value='4', error=None)
    assert answers(site.first) == [[7, 2, 0, ['worker 1', '2', None]]]


def test_who_does_not_answer_in_time(site, events):
    hear(site, site.first, site.second)
    ask(site, site.first, timeout=0.01)
    site.say(site.first, answer=number_of(site.first), value='1', error=None)
    while site.exchange._questions:
        events.step(1)
    told = answers(site.first)
    assert told[1] == [7, 2, 1, ['worker 2', None, 'no answer within 0.01 s']]
    site.say(site.second, answer=number_of(site.second), value='1', error=None)
    assert answers(site.first) == []


def test_the_open_questions_of_a_process_are_bounded(site):
    hear(site, site.second)
    for _ in range(exchange.MAX_QUESTIONS):
        ask(site, site.first)
    assert answers(site.first) == []
    ask(site, site.first)
    ((_, _, _, (name, value, error)),) = answers(site.first)
    assert (name, value) == ('worker 2', None) and '100 questions of worker 1' in error
    assert len(site.exchange._questions) == exchange.MAX_QUESTIONS


def test_a_process_that_does_not_read_holds_up_nobody_and_learns_what_it_missed(site):
    hear(site, site.first, site.second)
    long = '"' + 'x' * 60_000 + '"'
    size, sent = len(order('message', ['cache', long])), 0
    while not site.second.handle.outbox.missed:
        broadcast(site, site.plugins, long)
        assert len(site.first.read()) == 1  # the other one reads
        sent += 1
    assert MAX_MESSAGES - size <= site.second.handle.outbox._size <= MAX_MESSAGES
    broadcast(site, site.plugins, long)
    site.second.handle.tell('stop')  # an order has room
    ask(site, site.first)
    told = answers(site.first)
    assert told[0][3] == ['worker 2', None, 'it does not read its messages']
    came = site.second.read()
    words = [word for word, _ in came]
    assert words == ['message'] * (sent - 1) + ['stop', 'missed']
    assert came[-1][1] == [[3]]  # two messages and a question
    broadcast(site, site.plugins)
    assert site.second.read() == [('message', [['cache', '[1]']])]
    assert MAX_MESSAGES < MAX_WAITING


def test_another_program_of_the_process_says_anew_what_it_hears(site):
    hear(site, site.first)
    site.say(site.first, restarts='execv')
    broadcast(site, site.second)
    assert site.first.read() == []
    hear(site, site.first)
    broadcast(site, site.second)
    assert len(site.first.read()) == 1
