"""The files of a site: those that the .ini names, the command line, and a site that runs."""

import os
import signal

import pytest

from tests.kit import eventually, run, write
from tests.kit.daemons import ini

KEYS = {
    'control': 'run/shop.sock',
    'pid_file': 'run/shop.pid',
    'log_file': 'run/shop.log',
}


@pytest.fixture
def named(ground):
    """A site whose .ini names its files; the working folder of its commands is another."""
    ground.change(**KEYS)
    (ground.folder / 'run').mkdir()
    (ground.folder / 'elsewhere').mkdir()
    ground.pid_file = ground.folder / 'run' / 'shop.pid'
    ground.log_file = ground.folder / 'run' / 'shop.log'
    return ground


def ask(ground, *args):
    return run(ground.folder / 'elsewhere', '../site.ini', *args)


@pytest.mark.parametrize('way', [(), ('--workers=1',)])
def test_no_subcommand_needs_the_files_that_the_ini_names(named, way):
    assert ask(named, 'start', *way).code == 0
    first = named.pid
    assert (named.folder / 'run' / 'shop.sock').is_socket()
    assert f'process {first}' in ask(named, 'status').out.text
    assert ask(named, 'start', *way).out.text.startswith('The site is running already')
    assert ask(named, 'graceful').code == 0
    assert ask(named, 'restart', *way).code == 0
    assert named.pid != first
    assert f'process {named.pid}' in ask(named, 'status').out.text
    assert ask(named, 'stop').code == 0
    assert os.listdir(named.folder / 'elsewhere') == []
    assert os.listdir(named.folder / 'run') == ['shop.log']
    assert ask(named, 'status').code == 3


def test_they_are_enough_to_find_a_site_without_an_entry(named):
    assert ask(named, 'start').code == 0
    without = {'env': {'RUNTIME_DIRECTORY': ''}}
    words = named.folder / 'elsewhere', '../site.ini'
    assert f'process {named.pid}' in run(*words, 'status', **without).out.text
    assert run(*words, 'stop', **without).code == 0


def test_the_command_line_goes_before_the_ini(named):
    files = '--pid-file=mine.pid', '--log-file=mine.log'
    assert ask(named, 'start', *files).code == 0
    assert sorted(os.listdir(named.folder / 'elsewhere')) == [
        'mine.log',
        'mine.pid',
        'mine.pid.lock',
    ]
    assert ask(named, 'stop').code == 0
    assert not named.pid_file.exists()


def test_they_hold_in_the_foreground_too(named):
    with named.begin('site.ini') as site:
        eventually(lambda: named.pid_file.exists() and named.pid_file.read_text())
        assert named.pid == site.pid
        eventually(lambda: 'Serving on' in named.log)
        site.send(signal.SIGTERM)
        assert site.wait() == 0


@pytest.mark.parametrize('way', [(), ('--workers=1',)])
def test_a_graceful_says_that_another_one_takes_a_restart(named, way):
    assert ask(named, 'start', *way).code == 0
    pid = named.pid
    named.change(**{**KEYS, 'pid_file': 'run/other.pid'})
    told = ask(named, 'graceful')
    assert told.code == 0
    eventually(lambda: 'pid_file in [wspbus:main] has changed' in named.log)
    if way:
        assert 'takes a restart' in told.out.text
    assert named.pid == pid
    told = ask(named, 'restart', *way)
    assert (told.code, 'another PID file' in told.err.text) == (1, True)
    assert ask(named, 'stop').code == 0
    assert os.listdir(named.folder / 'run') == ['shop.log']


@pytest.mark.parametrize(
    ('keys', 'code', 'line'),
    [
        (KEYS, 0, 'no mistakes found'),
        (
            {'pid_file': 'x', 'log_file': './x'},
            2,
            'log_file: pid_file is the same file',
        ),
        ({'control': ''}, 2, "control: '' is not a path"),
        ({'pid_file': 'none/x'}, 2, 'pid_file: there is no folder'),
        ({'log_file': 'none/x'}, 2, 'log_file: there is no folder'),
        ({'pid_file': '/run/none/x'}, 0, 'pid_file: there is no folder'),
        ({'pidfile': 'x'}, 2, 'call:MODULE:FUNCTION; the key of a path is pid_file'),
    ],
)
def test_check_knows_the_keys(named, keys, code, line):
    write(named.folder, {'site.ini': ini(**keys)})
    told = named.run('site.ini', '--check')
    assert told.code == code
    assert line in told.out.text + told.err.text
