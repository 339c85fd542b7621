"""Health checks: what counts as well, what hangs, what is refused."""

import threading

import pytest

from paste_wspbus.bus import Bus
from paste_wspbus.bus.health import MAX_CHECKS, outcome_of
from paste_wspbus.errors import BadCheck
from tests.kit.processes import TIMEOUT, eventually


@pytest.fixture
def started():
    bus = Bus()
    yield bus
    bus.exit()


def raiser(error):
    def check():
        raise error

    return check


class Silent(Exception):
    def __str__(self):
        raise ValueError('no')


@pytest.mark.parametrize(
    'function, ok, text',
    [
        (lambda: None, True, ''),
        (lambda: True, True, ''),
        (lambda: 'PostgreSQL 16', True, 'PostgreSQL 16'),
        (lambda: {'pool': 5, 'busy': 2}, True, 'pool: 5, busy: 2'),
        (lambda: False, False, ''),
        (raiser(OSError('refused')), False, 'OSError: refused'),
        (raiser(ValueError()), False, 'ValueError'),
        (raiser(SystemExit(3)), False, 'SystemExit: 3'),
        (raiser(Silent()), False, 'Silent: what it says cannot be shown'),
        (lambda: {'pool': Silent()}, False, 'ValueError: no'),
        (
            lambda: 3,
            False,
            'it returned a value of the type int: see the documentation',
        ),
        (lambda: 'x' * 20_000, True, 'x' * 10_000),
    ],
)
def test_what_a_check_returns_says_whether_all_is_well(function, ok, text):
    assert outcome_of(function) == (ok, text)


def named(bus):
    return {one['name']: one for one in bus.checks.describe()}


def test_checks_run_while_the_bus_is_started(started):
    calls = []

    @started.health('db', every=0.02)
    def db():
        calls.append(threading.current_thread().name)

    assert named(started)['db']['ok'] is None
    started.start()
    eventually(lambda: len(calls) >= 3)
    assert named(started)['db']['ok'] is True
    assert set(calls) == {'health db'}
    started.stop()
    eventually(lambda: not any('health' in one.name for one in threading.enumerate()))
    count = len(calls)
    started.start()
    eventually(lambda: len(calls) > count)


def test_a_check_that_is_added_later_runs_at_once(started):
    started.start()
    called = threading.Event()
    started.health('late', every=60)(called.set)
    assert called.wait(TIMEOUT)


def test_a_check_that_hangs_stops_no_other_and_is_called_no_second_time(started):
    release, calls = threading.Event(), []

    @started.health('hangs', every=0.05, timeout=0.05)
    def hangs():
        calls.append(1)
        release.wait(TIMEOUT)

    count = []
    started.health('runs', every=0.02)(lambda: count.append(1))
    started.start()
    eventually(lambda: named(started)['hangs']['ok'] is False and len(count) > 5)
    assert 'it has not returned for' in named(started)['hangs']['text']
    assert len(calls) == 1
    release.set()
    eventually(lambda: len(calls) > 1 and named(started)['hangs']['ok'])


def test_each_result_is_told(started):
    told = []
    started.health('db', every=0.02)(lambda: 'here')
    started.tell_health = told.append
    started.start()
    eventually(lambda: len(told) > 1)
    assert [one['text'] for one in told[0]] == ['here']


def test_the_same_function_may_come_again_and_another_may_not(started):
    def make():
        @started.health('db')
        def db():
            pass

    make()
    make()
    assert len(started.checks.describe()) == 1
    with pytest.raises(BadCheck, match="'db': another check has this name"):
        started.health('db')(lambda: None)


def test_two_lambdas_of_one_function_are_two_checks(started):
    started.health('db')(lambda: 1)
    with pytest.raises(BadCheck, match="'db': another check has this name"):
        started.health('db')(lambda: 2)


@pytest.mark.parametrize(
    'arguments, problem',
    [
        ({'name': ''}, 'the name must be a text'),
        ({'name': 'x' * 101}, 'the name must be a text'),
        ({'name': 3}, 'the name must be a text'),
        ({'name': 'a\nb'}, 'printable'),
        ({'group': 'live'}, "one of ready, health, not 'live'"),
        ({'every': 0}, 'every must be a number'),
        ({'every': True}, 'every must be a number'),
        ({'timeout': '1'}, 'timeout must be a number'),
        ({'timeout': float('nan')}, 'timeout must be a number'),
    ],
)
def test_a_wrong_argument_is_refused(started, arguments, problem):
    with pytest.raises(BadCheck, match=problem):
        started.health(**{'name': 'db', **arguments})(lambda: None)


def test_a_check_is_a_function_and_there_are_not_too_many(started):
    with pytest.raises(BadCheck, match='it must be a function'):
        started.health('db')(3)
    for number in range(MAX_CHECKS):
        started.health(f'check {number}')(lambda: None)
    with pytest.raises(BadCheck, match='there are 200 checks'):
        started.health('one more')(lambda: None)


class Pool:
    def health(self):
        return 'pool of 5'


def test_what_a_plugin_yields_is_asked_if_somebody_wants_that(started):
    @started.lifespan(name='db')
    def db():
        yield Pool()

    @started.lifespan(name='cache')
    def cache():
        yield {'a': 1}

    @started.lifespan(name='other')
    def other():
        yield 3

    started.make_checks().find = lambda it: (lambda: True) if it == 3 else None
    started.start()
    eventually(lambda: all(one['ok'] for one in named(started).values()))
    assert named(started)['db']['text'] == 'pool of 5'
    assert set(named(started)) == {'db', 'other'}
