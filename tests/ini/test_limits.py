"""The keys slow_request and request_deadline: what they accept, and what they refuse."""

import pytest

from paste_wspbus.errors import ConfigError
from paste_wspbus.ini.config import Config
from paste_wspbus.ini.units import ByPath

KEYS = pytest.mark.parametrize('key', ['slow_request', 'request_deadline'])


def settings(tmp_path, key, value):
    file = tmp_path / 'site.ini'
    file.write_text(f'[app:main]\nuse = call:x:y\n[wspbus:main]\n{key} = {value}\n')
    return Config(str(file), {}, str(tmp_path)).settings


@KEYS
@pytest.mark.parametrize(
    'value, expected',
    [
        ('60', ByPath(60.0, {})),
        (
            '500ms\n    /export 10m\n    /a b 0',
            ByPath(0.5, {'/export': 600.0, '/a b': 0}),
        ),
        ('\n    /export/ 600', ByPath(None, {'/export': 600.0})),
        ('off', ByPath(0.0, {})),
        ('0', ByPath(0.0, {})),
        ('10\n    / off', ByPath(10.0, {'': 0.0})),
        (
            '100h',
            ByPath(360000.0, {}),
        ),  # longer than stop_timeout, which only ends a stop
    ],
)
def test_limits_become_seconds_by_path(tmp_path, key, value, expected):
    assert settings(tmp_path, key, value)[key] == expected


@KEYS
@pytest.mark.parametrize(
    'value, problem',
    [
        ('-1', "'-1' is not a duration"),
        ('800X', "'800X' is not a duration, as 500ms, 5, 5s, 10m, 12h or 7d, or off"),
        ('never', "'never' is not a duration"),
        ('60\n    export 600', "'export 600' is not a path that begins with /"),
        ('60\n    /export', "'/export' is not a path that begins with / and its value"),
        ('60\n    /export -5', "'-5' is not a duration"),
        ('60\n    /a 1\n    /a/ 2', 'the path /a/ is listed twice'),
        (f'60\n    /{"x" * 300} 1', 'is longer than 200 bytes'),
        ('60 ; seconds', "'60 ; seconds' is not a duration"),
    ],
)
def test_anything_else_is_refused(tmp_path, key, value, problem):
    with pytest.raises(ConfigError) as info:
        settings(tmp_path, key, value)
    assert problem in str(info.value) and f'{key}: ' in str(info.value)
