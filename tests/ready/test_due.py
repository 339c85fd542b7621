"""ready/due.py: which of the runs that are due begin."""

from paste_wspbus.ready.due import MISSED, OVERLAPPED, Busy, Rules, judge


def due(*times):
    return [(time, time) for time in times]


def test_runs_within_the_grace_begin_one_after_the_other():
    assert judge(due(10, 20, 30), 60, None, Rules(grace=60)) == (10, [])
    assert judge(due(20, 30), 60, None, Rules(grace=60)) == (20, [])


def test_one_run_stands_for_all_that_were_missed():
    verdict = judge(due(10, 20, 30, 95), 100, None, Rules(grace=60))
    assert verdict == (30, [(10, MISSED), (20, MISSED)])


def test_missed_runs_can_be_skipped():
    rules = Rules(grace=60, misfire='skip')
    assert judge(due(10, 20), 100, None, rules) == (None, [(10, MISSED), (20, MISSED)])
    assert judge(due(10, 95), 100, None, rules) == (95, [(10, MISSED)])


def test_with_misfire_all_each_missed_run_begins():
    rules = Rules(grace=60, misfire='all')
    assert judge(due(10, 20, 95), 100, None, rules) == (10, [])
    assert judge(due(20, 95), 100, Busy(10.0, 11.0), rules) == (20, [])


def test_runs_may_overlap():
    verdict = judge(due(20, 30), 35, Busy(10.5, 34.0), Rules(overlap='allow'))
    assert verdict == (20, [])


def test_a_run_whose_time_came_while_the_job_ran_is_skipped():
    verdict = judge(due(20, 30), 35, Busy(10.5, 34.0), Rules())
    assert verdict == (None, [(20, OVERLAPPED), (30, OVERLAPPED)])


def test_or_it_waits_and_one_stands_for_all():
    verdict = judge(due(20, 30), 35, Busy(10.5, 34.0), Rules(overlap='wait'))
    assert verdict == (30, [(20, OVERLAPPED)])


def test_a_late_run_overlaps_what_it_would_have_overlapped_on_time():
    busy = Busy(10.0, 19.0)  # it began at 25, after a restart, and took nine seconds
    assert judge(due(20, 30), 35, busy, Rules()) == (20, [])
    assert judge(due(20, 30), 35, Busy(10.0, 22.0), Rules()) == (30, [(20, OVERLAPPED)])


def test_a_run_that_waited_for_a_long_job_is_no_misfire():
    rules = Rules(grace=1, misfire='skip', overlap='wait')
    assert judge(due(20), 500, Busy(10.0, 499.0), rules) == (20, [])


def test_lateness_is_counted_from_the_end_of_the_jitter():
    assert judge([(10, 50.0)], 100, None, Rules(misfire='skip')) == (10, [])
    assert judge([(10, 30.0)], 100, None, Rules(misfire='skip')).run is None


def test_what_is_behind_the_run_is_decided_later():
    rules = Rules(grace=60, misfire='skip')
    assert judge(due(95, 98, 99), 100, Busy(96.0, 98.0), rules) == (95, [])
