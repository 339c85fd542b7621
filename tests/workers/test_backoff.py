"""How long to wait before a process that has crashed is replaced."""

import pytest

from paste_wspbus.workers.backoff import HEALTHY, WAITS, Backoff


def waits(backoff, times, ready_for=None):
    return [backoff.crashed('worker 1', ready_for).wait for _ in range(times)]


def test_the_first_replacement_comes_at_once_and_each_later_one_later():
    assert WAITS[0] == 0
    assert sorted(set(WAITS)) == list(WAITS)
    assert waits(Backoff(WAITS, HEALTHY), len(WAITS)) == list(WAITS)


def test_the_last_wait_holds_for_all_that_follow():
    assert waits(Backoff((0.0, 1.0), 1.0), 5) == [0.0, 1.0, 1.0, 1.0, 1.0]


def test_more_crashes_in_a_row_than_there_are_waits_are_too_much():
    backoff = Backoff((0.0, 1.0), 1.0)
    crashes = [backoff.crashed('worker 1', None) for _ in range(4)]
    assert [crash.is_too_much for crash in crashes] == [False, False, True, True]
    assert [crash.number for crash in crashes] == [1, 2, 3, 4]


@pytest.mark.parametrize(
    'ready_for, number', [(None, 2), (0.0, 2), (0.99, 2), (1.0, 1), (60.0, 1)]
)
def test_a_crash_after_healthy_seconds_is_a_first_one(ready_for, number):
    backoff = Backoff((0.0, 1.0), 1.0)
    backoff.crashed('worker 1', None)
    assert backoff.crashed('worker 1', ready_for).number == number


def test_one_that_never_was_ready_is_not_healthy_however_little_that_takes():
    backoff = Backoff((0.0,), 0.0)
    backoff.crashed('worker 1', None)
    assert backoff.crashed('worker 1', None).is_too_much
    assert not backoff.crashed('worker 1', 0.0).is_too_much


def test_a_crash_that_is_excused_counts_as_a_first_one():
    backoff = Backoff((0.0, 1.0), 1.0)
    waits(backoff, 3)
    crash = backoff.crashed('worker 1', 0.0, excused=True)
    assert (crash.number, crash.wait, crash.is_too_much) == (1, 0.0, False)
    assert backoff.crashed('worker 1', 0.0).number == 2


def test_each_name_has_crashes_of_its_own():
    backoff = Backoff((0.0, 1.0), 1.0)
    waits(backoff, 3)
    assert backoff.crashed('worker 2', None).number == 1


def test_without_waits_the_first_crash_is_too_much():
    crash = Backoff((), 1.0).crashed('worker 1', None)
    assert (crash.number, crash.wait, crash.is_too_much) == (1, 0.0, True)
