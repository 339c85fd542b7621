"""The settings of [wspbus:main]: values that cannot be."""

import os

import pytest

from paste_wspbus.ini.settings import default_stop_timeout, read_settings
from tests.kit import run

INI = """
[app:main]
use = egg:paste_wspbus#hello

[server:main]
use = egg:waitress
host = 127.0.0.1
port = 0

[wspbus:main]
"""


def refusal(folder, setting):
    """The one line that says why a site with this setting is not served."""
    refused = run(folder, 'site.ini', files={'site.ini': INI + setting})
    assert refused.code == 2, refused.report()
    (line,) = refused.err.text.splitlines()
    return line


@pytest.mark.parametrize('key', ['stop_reserve', 'drain_delay'])
def test_a_part_of_the_stop_that_is_longer_than_the_whole_is_refused(tmp_path, key):
    line = refusal(tmp_path, f'stop_timeout = 20\n{key} = 20')
    assert f'site.ini [wspbus:main] {key}: 20 s is too long' in line
    assert 'stop_timeout, 20 s' in line


CONTAINERS = {
    'none': ([], 4000, 25),
    'process 1': ([], 1, 8),
    'docker': (['/.dockerenv'], 4000, 8),
    'podman': (['/run/.containerenv'], 4000, 8),
}


@pytest.mark.parametrize('files, pid, seconds', CONTAINERS.values(), ids=CONTAINERS)
def test_the_default_of_stop_timeout_is_shorter_in_a_container(
    monkeypatch, files, pid, seconds
):
    monkeypatch.setattr(os.path, 'exists', files.__contains__)
    monkeypatch.setattr(os, 'getpid', lambda: pid)
    assert read_settings(None)['stop_timeout'] == seconds


#: All keys of times say the same of a wrong one.
DURATION = 'a duration, as 500ms, 5, 5s, 10m, 12h or 7d'


def test_a_long_drain_delay_says_that_the_container_has_more_time(monkeypatch):
    monkeypatch.setattr(os, 'getpid', lambda: 1)
    assert default_stop_timeout(4) == 8
    assert default_stop_timeout(5) == 25


def test_a_drain_delay_that_leaves_no_time_to_stop_is_refused(tmp_path):
    # stop_timeout is 25, and includes it
    line = refusal(tmp_path, 'drain_delay = 30')
    assert 'site.ini [wspbus:main] drain_delay: ' in line
    assert 'stop_timeout, 25 s' in line


@pytest.mark.parametrize(
    'key',
    ['stop_timeout', 'start_timeout', 'drain_delay', 'stop_reserve', 'smoke_timeout'],
)
@pytest.mark.parametrize('value', ['inf', '1e3', '1e15', '1_0', '+5', '-0', '\u0663'])
def test_a_time_that_no_clock_can_measure_is_refused(tmp_path, key, value):
    line = f'site.ini [wspbus:main] {key}: {value!r} is not {DURATION}'
    assert refusal(tmp_path, f'{key} = {value}') == line


@pytest.mark.parametrize(
    'key', ['soak', 'max_age', 'hung_after', 'slow_request', 'request_deadline']
)
def test_other_times_say_the_same_of_a_wrong_one(tmp_path, key):
    line = f"site.ini [wspbus:main] {key}: 'yes' is not {DURATION}"
    assert refusal(tmp_path, f'{key} = yes').startswith(line)


@pytest.mark.parametrize('key', ['control', 'pid_file', 'log_file', 'reports'])
@pytest.mark.parametrize('value', ['a\n  b', 'a ; the log', 'a # the log', 'a\x1bb'])
def test_a_path_that_was_meant_otherwise_is_refused(tmp_path, key, value):
    line = refusal(tmp_path, f'{key} = {value}')
    assert line.startswith(f'site.ini [wspbus:main] {key}: ')
    assert ' is not a path' in line or ' is not the path of a folder' in line
    assert '\n' not in line
    assert line.endswith('; a comment needs a line of its own') == ('the log' in value)


@pytest.mark.parametrize(
    ('value', 'problem'),
    [
        ('localhost:80 localhost:80', "'localhost:80' is listed twice"),
        ('[::1', "'[::1' has no pair of brackets"),
        ('localhost:\u0663', 'is not a port: a number from 0 to 65535'),
        ('localhost:8_0', 'is not a port: a number from 0 to 65535'),
    ],
)
@pytest.mark.parametrize('key', ['listen', 'ops'])
def test_addresses_that_were_meant_otherwise_are_refused(tmp_path, key, value, problem):
    line = refusal(tmp_path, f'{key} = {value}')
    assert line.startswith(f'site.ini [wspbus:main] {key}: ')
    assert line.endswith(problem)


@pytest.mark.parametrize(
    ('name', 'problem'),
    [
        ('a:b', "'a:b' cannot be the name of a plugin"),
        ('a#b', "'a#b' cannot be the name of a plugin"),
        ('requests', 'the name requests is taken by wspserve'),
        ('signals', 'or set the key signals, which replaces the default plugin'),
    ],
)
def test_a_name_that_no_plugin_can_have_is_refused(tmp_path, name, problem):
    line = refusal(tmp_path, f'plugins = {name}\n[plugin:{name}]\nuse = call:a:b')
    assert f'[wspbus:main] plugins: {line.partition("plugins: ")[2]}' in line
    assert problem in line


@pytest.mark.parametrize(
    ('setting', 'problem'),
    [
        ('workers = 0   ; one process', "'0   ; one process' is not a whole number"),
        ('stop_timeout = 20 # seconds', "'20 # seconds' is not a duration"),
        ('plugins = ; none', 'there is no section [plugin:;]'),
    ],
)
def test_a_comment_behind_a_value_is_named_as_the_mistake(tmp_path, setting, problem):
    line = refusal(tmp_path, setting)
    assert problem in line
    assert line.endswith('; a comment needs a line of its own')
