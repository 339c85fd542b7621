"""plugins/schedule.py: the times of a cron line, and the texts that become one."""

import os
from datetime import datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from cronsim import CronSim

from paste_wspbus.errors import SettingError
from paste_wspbus.plugins.schedule import NAMES, Schedule, cron_line, local_zone, zone

BERLIN, SAO_PAULO = ZoneInfo('Europe/Berlin'), ZoneInfo('America/Sao_Paulo')


def times(line, local, begin, count):
    schedule, moment, found = Schedule(line, local), begin.timestamp(), []
    for _ in range(count):  # anew after each one, as after a restart
        moment = schedule.next(moment)
        found.append(schedule.text(moment))
    return found


def test_a_job_in_the_hour_that_is_left_out_runs_when_that_hour_would_end():
    begin = datetime(2026, 3, 28, 12, tzinfo=BERLIN)
    assert times('30 2 * * *', BERLIN, begin, 2) == [
        '2026-03-29 03:00 CEST',
        '2026-03-30 02:30 CEST',
    ]


def test_a_job_in_the_hour_that_comes_twice_runs_once():
    begin = datetime(2026, 10, 24, 12, tzinfo=BERLIN)
    assert times('30 2 * * *', BERLIN, begin, 2) == [
        '2026-10-25 02:30 CEST',
        '2026-10-26 02:30 CET',
    ]


def test_a_process_that_starts_in_the_second_of_two_equal_hours_does_not_repeat_the_first():
    begin = datetime(2026, 10, 25, 2, 10, tzinfo=BERLIN, fold=1)
    assert times('30 2 * * *', BERLIN, begin, 1) == ['2026-10-26 02:30 CET']


def test_a_job_of_each_hour_runs_in_both_equal_hours():
    begin = datetime(2026, 10, 25, 1, 30, tzinfo=BERLIN)
    assert times('0 * * * *', BERLIN, begin, 3) == [
        '2026-10-25 02:00 CEST',
        '2026-10-25 02:00 CET',
        '2026-10-25 03:00 CET',
    ]


def test_a_day_without_a_midnight():
    begin = datetime(2018, 11, 3, 12, tzinfo=SAO_PAULO)
    assert times('0 0 * * *', SAO_PAULO, begin, 2) == [
        '2018-11-04 01:00 -02',
        '2018-11-05 00:00 -02',
    ]


@pytest.mark.parametrize('line', ['30 2 * * *', '0,30 0-3 * * *', '5 * * * *'])
@pytest.mark.parametrize('local, year', [(BERLIN, 2026), (SAO_PAULO, 2018)], ids=str)
def test_it_resumes_from_each_time_as_if_it_had_not_stopped(line, local, year):
    for month in (2, 3, 10, 11):
        begin = datetime(year, month, 1, tzinfo=local)
        whole = []
        for one in CronSim(line, begin):
            if one > begin + timedelta(days=40):
                break
            whole.append(int(one.timestamp()))
        schedule = Schedule(line, local)
        assert [schedule.next(one) for one in whole[:-1]] == whole[1:]


def test_a_line_is_returned_with_one_space_between_its_fields():
    assert cron_line(' 15  3 * * MON-FRI ') == '15 3 * * MON-FRI'
    assert cron_line('*/10 * * * * *') == '*/10 * * * * *'
    assert cron_line('0 0 29 2 *') == '0 0 29 2 *'
    assert cron_line(' @Daily ') == '0 0 * * *'
    assert [cron_line(line) for line in NAMES.values()] == [*NAMES.values()]


@pytest.mark.parametrize('line', ['0 0 30 2 *', '0 0 31 4,6 *', '5 4 30-31 FEB *'])
def test_a_time_that_never_comes_is_one_line(line):
    with pytest.raises(SettingError) as caught:
        cron_line(line)
    assert str(caught.value) == f'{line!r} never comes: no such month has such a day'


@pytest.mark.parametrize(
    'line, problem',
    [
        ('', 'wrong number of fields'),
        ('@reboot', 'wrong number of fields'),
        ('61 * * * *', 'bad minute'),
        ('0 0 32 * *', 'bad day-of-month'),
        ('0 0 * 13 *', 'bad month'),
        ('0 0 * * 1#9', 'bad day-of-week'),
        ('0 0 * * ✓', 'bad day-of-week'),
    ],
)
def test_a_wrong_line_says_which_field(line, problem):
    with pytest.raises(SettingError, match=f'is no cron line \\({problem}\\): write'):
        cron_line(line)


@pytest.mark.parametrize(
    'name, hint',
    [
        ('Europe/Berln', "; did you mean 'Europe/Berlin'?"),
        ('../../etc/passwd', ''),
        ('a\0b', ''),
        ('', ''),
    ],
)
def test_an_unknown_time_zone_names_the_nearest(name, hint):
    with pytest.raises(SettingError) as caught:
        zone(name)
    assert str(caught.value).startswith(f'there is no time zone {name!r}{hint}')


def test_the_time_zone_of_the_machine(monkeypatch):
    monkeypatch.setenv('TZ', ':America/Sao_Paulo')
    assert local_zone() == zone('local') == SAO_PAULO
    monkeypatch.setenv('TZ', 'nonsense')
    assert local_zone().utcoffset(None) == timedelta(0)
    monkeypatch.delenv('TZ')
    monkeypatch.setattr('paste_wspbus.plugins.schedule.LOCALTIME', os.devnull)
    assert local_zone().utcoffset(None) == timedelta(0)


def test_without_cronsim_the_error_says_how_to_install_it(monkeypatch):
    monkeypatch.setitem(__import__('sys').modules, 'cronsim', None)
    with pytest.raises(SettingError) as caught:
        cron_line('* * * * *')
    how = "pip install 'paste_wspbus[cron]'"
    assert str(caught.value) == f'it needs cronsim, which is not installed: {how}'
