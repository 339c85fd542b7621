"""ini/units.py: durations, sizes and values by path."""

import re

import pytest

from paste_wspbus.errors import SettingError
from paste_wspbus.ini.units import (
    ByPath,
    by_path,
    duration,
    size,
)
from paste_wspbus.values import DURATION_TAKES
from tests.ini.test_settings import refusal


@pytest.mark.parametrize(
    ('text', 'seconds'),
    [
        ('500ms', 0.5),
        ('5', 5),
        (' 5s ', 5),
        ('1.5 m', 90),
        ('10m', 600),
        ('12h', 43200),
        ('1d', 86400),
        ('0', 0),
    ],
)
def test_a_duration_has_a_unit_or_is_seconds(text, seconds):
    assert duration(text) == seconds


@pytest.mark.parametrize(
    'text',
    [
        '800X',
        '-1',
        '-1s',
        '',
        's',
        '5 s s',
        '1e3s',
        'infs',
        '١s',
        '1_0',
        '9' * 30,
        '5w',
    ],
)
def test_other_durations_are_refused(text):
    with pytest.raises(ValueError, match=re.escape(text) or None):
        duration(text)


@pytest.mark.parametrize(
    ('text', 'count'),
    [('300M', 300 * 2**20), ('1.5G', 3 * 2**29), ('10 K', 10240), ('77', 77)],
)
def test_a_size_has_a_unit_or_is_bytes(text, count):
    assert size(text) == count


@pytest.mark.parametrize('text', ['300MB', 'M', '-1M', '3m', '1e9', ''])
def test_other_sizes_are_refused(text):
    with pytest.raises(ValueError, match=re.escape(text) or None):
        size(text)


read = by_path(duration, DURATION_TAKES)


def test_the_longest_prefix_counts_in_whole_segments():
    value = read('60\n/export 10m\n/export/small/ 5\n')
    assert value == ByPath(60.0, {'/export': 600.0, '/export/small': 5.0})
    assert [
        value.of(path)
        for path in ('/', '/exports', '/export', '/export/', '/export/small/1', '')
    ] == [60, 60, 600, 600, 5, 60]


def test_paths_stand_without_a_value_for_the_others():
    value = read('\n/export 600')
    assert (value.of('/export/1'), value.of('/')) == (600, None)


def test_the_root_is_a_prefix_of_each_path():
    assert read('/ 5\n/a 7').of('/b') == 5


@pytest.mark.parametrize(
    ('text', 'problem'),
    [
        ('800X', "'800X' is not a duration, as 500ms, 5, 5s, 10m, 12h or 7d"),
        ('60\n/export 800X', "'800X' is not a duration"),
        (
            '60\nexport 600',
            "'export 600' is not a path that begins with / and its value",
        ),
        ('60\n/export', "'/export' is not a path that begins with / and its value"),
        ('60\n/a 1\n/a/ 2', 'the path /a/ is listed twice'),
        ('/x 5 6', "'/x 5 6' has two values"),
        ('60\n/x\t5m 6', 'has two values'),
        ('60\n/x 5, 6', 'has two values'),
        ('60\n/x 5 /y 6', "'/x 5 /y 6' has several paths: each has a line of its own"),
        ('60\n/x? 5', "'/x? 5' has a query: only the path counts"),
        ('60\n/x/* 5', "'/x/* 5' ends with /*"),
    ],
)
def test_mistakes_in_values_by_path_are_named(text, problem):
    with pytest.raises(SettingError) as refused:
        read(text)
    assert problem in refused.value.problem


def test_a_time_of_the_ini_takes_a_unit(tmp_path):
    line = refusal(tmp_path, 'drain_delay = 1m')  # stop_timeout is 25, and includes it
    assert 'drain_delay: 60 s is too long' in line
