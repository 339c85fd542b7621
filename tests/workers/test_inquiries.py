"""Inquiries after the status: answered when all workers have, are gone, or are slow."""

from types import SimpleNamespace

import pytest

from paste_wspbus.role import PACKAGES, PRELOAD, WORKER, Role
from paste_wspbus.workers import handle, inquiries
from paste_wspbus.workers.handle import WorkerHandle
from paste_wspbus.workers.inquiries import Inquiries


def request(path):
    return {'method': 'GET', 'path': path, 'age': 1.0, 'thread': None}


class FakeWorker(WorkerHandle):
    def __init__(self, kind=WORKER, is_ready=True):
        super().__init__(Role(kind), SimpleNamespace(fileno=lambda: -1), None, 60)
        if is_ready:
            self.is_now_ready([])
        self.told = []

    def tell(self, word):
        self.told.append(word)


@pytest.fixture
def children():
    children = SimpleNamespace(alive=[FakeWorker(), FakeWorker()], heard={})
    children.hear = children.heard.__setitem__
    return children


@pytest.fixture
def ask(children, events):
    asked = Inquiries(events, children)
    answers = []

    def ask():
        asked.inquire(SimpleNamespace(), lambda: answers.append('answered'))
        return answers

    ask.inquiries = asked
    return ask


def test_it_is_answered_when_all_have(ask, children):
    answers = ask()
    for worker in children.alive:
        assert (worker.told, worker.known_status) == (['status'], None)
        assert answers == []
        children.heard['status'](worker, {'status': {'requests': []}})
    assert answers == ['answered']
    assert children.alive[0].status == {'requests': []}


def test_one_that_ends_is_not_waited_for(ask, children):
    answers = ask()
    first, second = children.alive
    ask.inquiries.no_need_to_wait_for(first)
    assert answers == []
    ask.inquiries.no_need_to_wait_for(second)
    assert answers == ['answered']


def test_those_that_have_nothing_to_say_are_not_asked(ask, children):
    mute = [FakeWorker(PRELOAD), FakeWorker(PACKAGES), FakeWorker(is_ready=False)]
    children.alive = mute
    assert ask() == ['answered']
    assert [worker.told for worker in mute] == [[], [], []]


def test_one_that_is_slow_is_waited_for_no_longer(ask, events, monkeypatch):
    monkeypatch.setattr(inquiries, 'PATIENCE', 0.01)
    monkeypatch.setattr(handle, 'PATIENCE', 0.01)
    answers = ask()
    while not answers:
        events.step(1)
    assert answers == ['answered']


def test_one_that_is_stopped_is_not_waited_for(ask, children, monkeypatch):
    stopped, answers = children.alive
    why = {4711: 'a signal has stopped it'}
    monkeypatch.setattr(handle, 'why_stopped', lambda pid: why.get(pid, ''))
    stopped.is_process(4711)
    assert ask() == []
    children.heard['status'](answers, {'status': {'requests': []}})
    assert ask() == ['answered']
    assert stopped.describe()['is_stopped'] is True
    assert stopped.describe()['requests'] is None


def test_one_that_hangs_is_waited_for_and_asked_once(ask, children, monkeypatch):
    hangs, answers = children.alive
    children.heard['status'](hangs, {'status': {'requests': [request('/before')]}})
    ask()
    monkeypatch.setattr(handle, 'PATIENCE', 0)
    for count in range(1, 2001):
        children.heard['status'](answers, {'status': {'requests': []}})
        assert len(ask()) == count
    assert hangs.told == ['status']
    assert hangs.known_status is None
    assert hangs.describe()['requests'] is None
    children.heard['status'](hangs, {'status': {'requests': [request('/late')]}})
    assert hangs.describe()['requests'] == [request('/late')]
    ask()
    assert hangs.told == ['status', 'status']


def test_it_is_answered_once(ask, children, events, monkeypatch):
    monkeypatch.setattr(inquiries, 'PATIENCE', 0.0)
    children.alive = []
    answers = ask()
    events.step(0)
    assert answers == ['answered']


def test_two_inquiries_are_answered_by_one_status(ask, children):
    ask()
    answers = ask()
    for worker in children.alive:
        children.heard['status'](worker, {'status': {'requests': []}})
    assert answers == ['answered', 'answered']
