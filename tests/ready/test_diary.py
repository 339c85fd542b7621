"""ready/diary.py and ready/state.py: what a job remembers, and what it makes of bad memories."""

import json
import os
from zoneinfo import ZoneInfo

import pytest

from paste_wspbus.plugins.schedule import Schedule
from paste_wspbus.ready.diary import COUNTED, Diary
from paste_wspbus.ready.due import CORRECTION, Rules
from paste_wspbus.ready.state import BadState, StateFile, default_path

NOON = 1_780_000_020 // 60 * 60

#: The minutes of three years.
YEARS = 3 * 365 * 1440


class Job:
    """A job that runs each minute, in processes that follow each other."""

    def __init__(self, folder, line='* * * * *', **rules):
        self.path, self.line = str(folder / 'state'), line
        self.rules = Rules(**rules)
        self.said = []

    def process(self, now, fence=None):
        file = StateFile(self.path)
        schedule = Schedule(self.line, ZoneInfo('UTC'))
        diary = Diary(schedule, self.rules, lambda run: 0.0, file, self.say, fence)
        diary.open(now)
        return diary

    def say(self, text, level):
        self.said.append(text)


@pytest.fixture
def job(tmp_path):
    return Job(tmp_path)


def run_of(planned, began, ended, outcome='ok'):
    return {
        'for': planned,
        'began': began,
        'ended': ended,
        'outcome': outcome,
        'error': '',
    }


def run_all(diary, now, took=0.1, outcome='ok'):
    """Run what is due; return the times, in minutes since noon."""
    came = []
    while (run := diary.next_run(now)) is not None:
        came.append((run - NOON) // 60)
        ended = now + took
        diary.ended(run_of(run, now, ended, outcome))
        now = ended
    return came


def test_nothing_is_due_at_the_first_start(job):
    diary = job.process(NOON + 30)
    assert run_all(diary, NOON + 30) == []
    assert diary.seconds_to_next(NOON + 30) == 30
    assert run_all(diary, NOON + 60) == [1]


def test_a_run_whose_time_came_between_two_processes_comes_in_the_second_one(job):
    assert run_all(job.process(NOON + 1), NOON + 1) == []
    assert run_all(job.process(NOON + 61), NOON + 61) == [1]
    assert run_all(job.process(NOON + 62), NOON + 62) == []
    assert job.said == []


def test_under_another_lease_another_machine_may_have_run_it(job):
    assert run_all(job.process(NOON + 1, fence=7), NOON + 1) == []
    assert run_all(job.process(NOON + 61, fence=7), NOON + 61) == [1]
    diary = job.process(NOON + 181, fence=9)
    assert run_all(diary, NOON + 181) == []
    assert run_all(diary, NOON + 240) == [4]


def test_a_process_that_was_killed_in_the_middle_of_a_run_does_not_run_it_again(job):
    assert job.process(NOON + 1).next_run(NOON + 60) == NOON + 60
    diary = job.process(NOON + 65)
    assert diary.last_run['outcome'] == 'interrupted'
    assert run_all(diary, NOON + 65) == []
    assert job.said == ['The last run did not end: its process ended meanwhile']


def test_after_hours_without_the_site_one_run_stands_for_all(job):
    job.process(NOON)
    diary = job.process(NOON + 3 * 3600 + 1)
    assert run_all(diary, NOON + 3 * 3600 + 1) == [179, 180]  # 180 is not late
    assert diary.counts['missed'] == 178
    assert job.said[0].startswith('178 runs, of 20')
    assert 'one run stands for all that were missed' in job.said[0]


def test_after_years_they_are_not_counted_one_by_one(job):
    job.process(NOON)
    diary = job.process(NOON + 3 * 365 * 86400 + 5)
    assert run_all(diary, NOON + 3 * 365 * 86400 + 5) == [YEARS - 1, YEARS]
    assert any(f'More than {COUNTED} runs are missed' in text for text in job.said)


def test_a_job_that_takes_longer_than_its_period_skips_what_it_overlaps(job):
    diary = job.process(NOON)
    assert run_all(diary, NOON + 60, took=150) == [1]
    assert diary.counts['overlapped'] == 2
    assert 'the run before was still in progress' in job.said[0]
    assert run_all(diary, NOON + 240) == [4]


def test_a_short_job_that_catches_up_skips_nothing(tmp_path):
    job = Job(tmp_path, '* * * * * *')
    job.process(NOON)
    diary = job.process(NOON + 50.3)
    now, came = NOON + 50.3, []
    while (run := diary.next_run(now)) is not None:
        came.append(run - NOON)
        diary.ended(run_of(run, now, now + 0.2))  # 50 of them take ten seconds
        now += 0.2
    assert came == [*range(1, 63)]
    assert job.said == []


def test_or_runs_once_more_at_its_end(tmp_path):
    diary = Job(tmp_path, overlap='wait').process(NOON)
    assert diary.next_run(NOON + 60) == NOON + 60
    diary.ended(run_of(NOON + 60, NOON + 60, NOON + 210))
    assert diary.next_run(NOON + 210) == NOON + 180


@pytest.mark.parametrize(
    'text',
    ['', '{', 'null', '[]', '{}', '{"last": "x"}', '{"last": 1e300}', '\0' * 99],
)
def test_garbage_in_the_state_is_told_and_the_job_begins_anew(job, text):
    with open(job.path, 'w') as file:
        file.write(text)
    diary = job.process(NOON + 30)
    assert len(job.said) == 1 and 'the job begins anew' in job.said[0]
    assert run_all(diary, NOON + 60) == [1]


def test_a_run_in_the_state_that_is_nonsense_does_no_harm(job):
    whole = run_of(1, 1, 2)
    for run in (
        3,
        [],
        {'ended': 'x'},
        {**whole, 'began': 'x'},
        {**whole, 'for': 1e300},
    ):
        with open(job.path, 'w') as file:
            json.dump({'last': NOON, 'run': run}, file)
        diary = job.process(NOON + 61)
        assert diary.last_run is None
        assert run_all(diary, NOON + 61) == [1]


def test_a_state_that_cannot_be_read_is_told(job):
    os.mkdir(job.path)
    diary = job.process(NOON)
    assert job.said[0].endswith('it begins anew')
    assert run_all(diary, NOON + 60) == [1]
    assert diary.problem.endswith('is a directory')
    assert 'The state cannot be written' in job.said[1]
    assert len(job.said) == 2  # once, and not at each run


def test_a_clock_that_goes_back_a_little_repeats_no_run(job):
    assert run_all(job.process(NOON + 3 * 3600), NOON + 3 * 3600 + 60) == [181]
    diary = job.process(NOON + 2 * 3600)  # an hour earlier
    assert run_all(diary, NOON + 2 * 3600 + 60) == []
    assert run_all(diary, NOON + 3 * 3600 + 120) == [182]


def test_a_clock_that_was_wrong_before_does_not_stop_the_job(job):
    future = NOON + 10 * 365 * 86400
    job.process(future)
    diary = job.process(NOON)
    assert run_all(diary, NOON + 60) == [1]
    assert 'the clock counts' in job.said[0]
    # It can also be set while the site runs.
    later = NOON + 60 - CORRECTION - 60
    assert run_all(diary, later) == []
    assert run_all(diary, later + 60) == [(later + 60 - NOON) // 60]


def test_a_state_is_replaced_as_a_whole(tmp_path):
    file = StateFile(str(tmp_path / 'state'))
    assert file.read() == {}
    file.write({'last': 3})
    (tmp_path / 'state.new').write_text('half')  # of a process that was killed
    file.write({'last': 4})
    assert file.read() == {'last': 4}
    assert os.listdir(tmp_path) == ['state']
    (tmp_path / 'state').write_text('[]')
    with pytest.raises(BadState):
        file.read()


def test_one_process_at_a_time_has_the_lock(tmp_path):
    first, second = (StateFile(str(tmp_path / 'state')) for _ in range(2))
    first.open()
    second.open()
    assert first.take()
    assert not second.take()
    first.close()
    assert second.take()
    second.close()


def test_each_job_of_each_site_has_a_file_of_its_own(tmp_path, monkeypatch):
    monkeypatch.setenv('TMPDIR', str(tmp_path))
    monkeypatch.setenv('XDG_RUNTIME_DIR', '')
    monkeypatch.setenv('RUNTIME_DIRECTORY', str(tmp_path))
    paths = {
        default_path('cron', file, name)
        for file in ('/a/site.ini', '/b/site.ini')
        for name in ('a b', 'a_b', '../x')
    }
    assert len(paths) == 6
    assert {os.path.dirname(path) for path in paths} == {str(tmp_path)}
