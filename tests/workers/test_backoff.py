"""How long to wait before a process that has crashed is replaced."""

import heapq
from types import SimpleNamespace

import pytest

from paste_wspbus.workers.backoff import HEALTHY, MINUTE, SETTLED, WAITS, Backoff


@pytest.fixture
def clock():
    return SimpleNamespace(now=1000.0)


@pytest.fixture
def make(clock):
    return lambda waits=WAITS, healthy=HEALTHY: Backoff(
        waits, healthy, lambda: clock.now
    )


def waits(backoff, clock, times, ready_for=None):
    """The waits of one process that ends again as soon as it was started."""
    found = []
    for _ in range(times):
        found.append(backoff.crashed('worker 1', ready_for).wait)
        clock.now += found[-1]
    return found


def starts(backoff, clock, workers, lives, takes=0.3, until=60.0):
    """How many processes start within a minute if each ends ``lives`` s after READY."""
    ends = [(clock.now + takes + lives, number) for number in range(workers)]
    heapq.heapify(ends)
    until, count = clock.now + until, workers
    while ends[0][0] < until:
        clock.now, number = heapq.heappop(ends)
        name = f'worker {number}'
        start = clock.now + backoff.crashed(name, lives, workers=workers).wait
        count += start < until
        heapq.heappush(ends, (start + takes + lives, number))
    return count


def test_the_first_replacement_comes_at_once_and_each_later_one_later(make, clock):
    assert WAITS[0] == 0
    assert sorted(set(WAITS)) == list(WAITS)
    assert waits(make(), clock, len(WAITS)) == list(WAITS)


def test_the_last_wait_holds_for_all_that_follow_within_a_minute(make, clock):
    assert waits(make((0.0, 1.0)), clock, 5) == [0.0, 1.0, 1.0, 1.0, 1.0]


@pytest.mark.parametrize('workers', [1, 2, 3, 4, 5, 6, 7, 8])
@pytest.mark.parametrize('lives', [0.0, 0.5, 1.5, 5.0, 10.0, 19.0])
def test_a_crash_loop_starts_at_most_twelve_processes_in_its_first_minute(
    make, clock, workers, lives
):
    assert starts(make(), clock, workers, lives) <= 12


@pytest.mark.parametrize('lives', [0.0, 1.5, 10.0, 19.0])
def test_a_large_site_starts_each_worker_and_four_more(make, clock, lives):
    assert starts(make(), clock, 16, lives) <= 16 + 4


@pytest.mark.parametrize('workers', [6, 8, 16, 64])
@pytest.mark.parametrize('first', [2, 5, 8])
@pytest.mark.parametrize('lives', [0.0, 0.1, 1.5])
def test_the_same_if_the_crash_comes_during_the_first_start(
    make, clock, workers, first, lives
):
    backoff, began, first = make(), clock.now, min(first, workers)
    ends = [(clock.now + lives + 0.1 * number, number) for number in range(first)]
    clock.now = ends[0][0]
    waits = [backoff.crashed('worker 0', lives, workers=workers).wait]
    waits += [backoff.turn(workers, before) for before in range(workers - first)]
    at = [clock.now + wait for wait in waits]
    ends = [*ends[1:], *((start + lives, start) for start in at)]
    heapq.heapify(ends)
    while ends[0][0] < began + MINUTE:
        clock.now, number = heapq.heappop(ends)
        at.append(clock.now + backoff.crashed(str(number), lives, workers=workers).wait)
        heapq.heappush(ends, (at[-1] + lives, at[-1]))
    assert first + sum(start < began + MINUTE for start in at) <= 12


def test_one_that_has_not_started_waits_for_its_turn(make, clock):
    backoff = make()
    assert backoff.turn(2, 0) == 0.0  # nothing has crashed
    found = [backoff.crashed('worker 1', 0.5, workers=6).wait for _ in range(2)]
    assert found == [0.0, 2.0]
    assert [backoff.turn(6, before) for before in range(2)] == [2.0 + 4.0, 6.0 + 8.0]
    assert not backoff.is_calm()
    clock.now += SETTLED
    assert backoff.is_calm()
    backoff.release()
    assert backoff.turn(2, 0) == 2.0


def test_it_goes_on_for_minutes(make, clock):
    backoff = make()
    for _ in range(5):
        assert starts(backoff, clock, 1, 1.5) <= 8


def test_many_workers_that_end_at_once_start_one_after_the_other(make, clock):
    backoff = make()
    found = [backoff.crashed(f'worker {number}', 10.0).wait for number in range(5)]
    assert found == [0.0, 1.0, 3.0, 7.0, 15.0]


def test_those_that_have_served_for_long_are_replaced_at_once(make, clock):
    backoff = make()
    for number in range(16):
        assert backoff.crashed(f'worker {number}', SETTLED).wait == 0.0
    assert backoff.crashed('worker 1', 1.0).wait == 0.0


def test_crashes_of_the_last_minute_count_and_earlier_ones_do_not(make, clock):
    backoff = make()
    backoff.crashed('worker 1', 5.0)
    clock.now += MINUTE - 1
    assert backoff.crashed('worker 1', 5.0).wait == 1.0
    clock.now += MINUTE
    assert backoff.crashed('worker 1', 5.0).wait == 0.0


def test_new_code_begins_anew(make, clock):
    backoff = make()
    for _ in range(9):
        backoff.crashed('worker 1', 0.5)
    backoff.forget()
    crash = backoff.crashed('worker 1', 0.5)
    assert (crash.number, crash.wait) == (1, 0.0)


def test_more_crashes_in_a_row_than_there_are_waits_are_too_much(make):
    backoff = make((0.0, 1.0))
    crashes = [backoff.crashed('worker 1', None) for _ in range(4)]
    assert [crash.is_too_much for crash in crashes] == [False, False, True, True]
    assert [crash.number for crash in crashes] == [1, 2, 3, 4]


def test_of_several_workers_the_replacements_count(make):
    backoff = make((0.0, 1.0))
    names = ['worker 1', 'worker 2', 'worker 3', 'worker 1', 'worker 2']
    found = [backoff.crashed(name, 0.2).is_too_much for name in names]
    assert found == [False, False, False, False, True]


@pytest.mark.parametrize(
    'ready_for, number', [(None, 2), (0.0, 2), (0.99, 2), (1.0, 1), (60.0, 1)]
)
def test_a_crash_after_healthy_seconds_is_a_first_one(make, ready_for, number):
    backoff = make((0.0, 1.0))
    backoff.crashed('worker 1', None)
    assert backoff.crashed('worker 1', ready_for).number == number


def test_one_that_never_was_ready_is_not_healthy_however_little_that_takes(make):
    backoff = make((0.0,), 0.0)
    backoff.crashed('worker 1', None)
    assert backoff.crashed('worker 1', None).is_too_much
    assert not backoff.crashed('worker 1', 0.0).is_too_much


def test_a_crash_that_is_excused_counts_as_a_first_one_and_waits_as_any_other(
    make, clock
):
    backoff = make((0.0, 1.0))
    waits(backoff, clock, 3)
    crash = backoff.crashed('worker 1', 0.0, excused=True)
    assert (crash.number, crash.wait, crash.is_too_much) == (1, 1.0, False)
    assert backoff.crashed('worker 1', 0.0).number == 2


def test_the_crashes_of_all_workers_are_in_a_row(make, clock):
    backoff = make((0.0, 1.0))
    waits(backoff, clock, 2)
    crash = backoff.crashed('worker 2', None)
    assert (crash.number, crash.is_too_much) == (3, False)


def test_without_waits_the_first_crash_is_too_much(make):
    crash = make(()).crashed('worker 1', None)
    assert (crash.number, crash.wait, crash.is_too_much) == (1, 0.0, True)
