"""What is remembered of crashes, and what `status` and the log say of them."""

from types import SimpleNamespace

import pytest

from paste_wspbus.workers import crashes
from paste_wspbus.workers.crashes import Crashes

REQUEST = {
    'method': 'GET',
    'path': '/report',
    'age': 2.0,
    'thread': None,
    'id': 'f00-1',
}


@pytest.fixture
def clock(monkeypatch):
    clock = SimpleNamespace(now=1000.0)
    monkeypatch.setattr(crashes.time, 'monotonic', lambda: clock.now)
    return clock


def died(
    name='worker 1',
    code=-11,
    requests=(),
    kills_before=0,
    ready_for=1.5,
    memory=None,
    dumped_core=False,
):
    return SimpleNamespace(
        name=name,
        pid=4711,
        code=code,
        too_slow='',
        title='Worker 1 (process 4711)',
        was_ready=True,
        open_requests=lambda: list(requests),
        kills_before=kills_before,
        ready_for=ready_for,
        memory=memory,
        dumped_core=dumped_core,
    )


def test_without_a_crash_there_is_nothing_to_say():
    told = Crashes().describe('worker 1')
    assert told == {'restarts': 0, 'last_crash': None}
    assert Crashes().loop == ''


@pytest.mark.parametrize(
    'code, how, signal, exit_code',
    [
        (-11, 'signal SIGSEGV', 'SIGSEGV', None),
        (-34, 'signal SIGRTMIN', 'SIGRTMIN', None),
        (-35, 'signal 35', '35', None),
        (3, 'exit code 3', None, 3),
        (0, 'exit code 0', None, 0),
        (None, 'for an unknown reason', None, None),
    ],
)
def test_how_it_ended_is_kept_in_words_and_numbers(code, how, signal, exit_code):
    remembered = Crashes()
    remembered.note(died(code=code))
    last = remembered.describe('worker 1')['last_crash']
    assert (last['how'], last['signal'], last['exit_code']) == (how, signal, exit_code)


def test_each_name_has_its_own_count(clock):
    remembered = Crashes()
    for name in ('worker 1', 'worker 2', 'worker 1'):
        remembered.note(died(name))
    clock.now += 5
    assert remembered.describe('worker 1')['restarts'] == 2
    assert remembered.describe('worker 2')['restarts'] == 1
    assert remembered.describe('worker 1')['last_crash']['age'] == 5


def test_its_requests_are_kept_and_named():
    remembered = Crashes()
    worker = died(requests=[REQUEST])
    remembered.note(worker)
    assert remembered.describe('worker 1')['last_crash']['requests'] == [REQUEST]
    assert crashes.requests_of(worker) == (
        'Worker 1 (process 4711) had 1 request in flight: '
        'GET /report for 2.0 s (request f00-1)'
    )


def test_of_many_requests_ten_are_kept():
    remembered = Crashes()
    worker = died(requests=[REQUEST] * 12)
    remembered.note(worker)
    assert len(remembered.describe('worker 1')['last_crash']['requests']) == 10
    line = crashes.requests_of(worker)
    assert 'had 12 requests in flight' in line and line.endswith('; and 2 more')


def test_without_requests_there_is_no_line():
    assert crashes.requests_of(died()) == ''


@pytest.mark.parametrize(
    'code, kills, is_named', [(-9, 1, True), (-9, 0, False), (-11, 1, False)]
)
def test_the_out_of_memory_killer_is_named_if_it_was_active(
    monkeypatch, code, kills, is_named
):
    monkeypatch.setattr(crashes, 'out_of_memory_kills', lambda: kills)
    remembered = Crashes()
    assert ('out-of-memory killer' in remembered.note(died(code=code))) == is_named
    assert remembered.describe('worker 1')['last_crash']['out_of_memory'] == is_named


@pytest.mark.parametrize('before, after', [(None, None), (None, 3), (3, None)])
def test_what_the_system_does_not_count_is_not_asserted(monkeypatch, before, after):
    monkeypatch.setattr(crashes, 'out_of_memory_kills', lambda: after)
    remembered = Crashes()
    assert remembered.note(died(code=-9, kills_before=before)) == ''
    last = remembered.describe('worker 1')['last_crash']
    assert (last['oom_kills_before'], last['oom_kills']) == (before, after)
    assert last['out_of_memory'] is False


def test_the_memory_at_the_last_look_is_told_with_its_age(clock):
    remembered = Crashes()
    worker = died(code=-9, memory=(300 << 20, clock.now - 2.0))
    assert remembered.note(worker) == ' (it used 300M of memory 2.0 s before)'
    last = remembered.describe('worker 1')['last_crash']
    assert (last['rss'], last['rss_age']) == (300 << 20, 2.0)
    remembered.note(died())
    last = remembered.describe('worker 1')['last_crash']
    assert (last['rss'], last['rss_age']) == (None, None)
    # It says something of a process that was killed, and nothing of another end.
    assert remembered.note(died(memory=(300 << 20, clock.now))) == ''


def test_a_core_dump_is_told_if_there_was_one(monkeypatch):
    monkeypatch.setattr(crashes, 'describe_core', lambda pid, folder: f'core of {pid}')
    remembered = Crashes()
    assert remembered.note(died(dumped_core=True)) == ' (core of 4711)'
    assert remembered.describe('worker 1')['last_crash']['core'] == 'core of 4711'
    assert remembered.note(died()) == ''
    assert remembered.describe('worker 1')['last_crash']['core'] is None


def test_three_crashes_in_a_minute_are_a_loop_which_ends(clock):
    remembered = Crashes()
    for _ in range(2):
        remembered.note(died())
        clock.now += 10
    assert (remembered.recent, remembered.loop) == (2, '')
    remembered.note(died('worker 2', code=3))
    assert remembered.loop == (
        'crash loop: 3 crashes in the last minute, the last one of worker 2: exit code 3'
    )
    clock.now += 51
    assert (remembered.recent, remembered.loop) == (1, '')


def test_processes_that_have_served_for_long_make_no_loop(clock):
    remembered = Crashes()
    for _ in range(5):
        remembered.note(died(ready_for=60.0))
    assert (remembered.recent, remembered.early, remembered.loop) == (5, 0, '')


def test_new_code_ends_a_loop(clock):
    remembered = Crashes()
    for _ in range(3):
        remembered.note(died(ready_for=None))
    assert remembered.loop
    remembered.forget_early()
    assert (remembered.recent, remembered.total, remembered.loop) == (3, 3, '')
