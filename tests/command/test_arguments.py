"""The command line: the number of workers, and the order of its words."""

import pytest

from paste_wspbus.command.arguments import parse
from paste_wspbus.errors import UsageError
from paste_wspbus.ini.settings import MAX_WORKERS, worker_count
from tests.kit import run, write


def test_graceful_takes_no_number_of_workers(folder):
    told = run(folder, 'site.ini', 'graceful', '--workers=3')
    assert told.code == 2
    assert (
        told.err.text
        == 'graceful reads the number of workers from the file: leave out --workers\n'
    )


@pytest.mark.parametrize('subcommand', ['status', 'stop'])
def test_a_number_of_workers_does_no_harm(folder, subcommand):
    told = run(folder, 'site.ini', subcommand, '--workers=3')
    assert 'is not running' in told.out.text + told.err.text


@pytest.mark.parametrize('text', ['0', '1', '4', '1000', '007', ' 2 '])
def test_a_number_of_workers_is_a_whole_number(text):
    assert worker_count(text) == int(text)


NO_NUMBERS = [
    '-1',
    '1.5',
    '',
    'many',
    '١',
    '²',
    str(10**30),
    'nan',
    '1001',
    '1_0',
    '+1',
]


@pytest.mark.parametrize('text', [*NO_NUMBERS, '0x4', '4 4', 'auto 2', 'inf'])
def test_what_is_no_number_of_workers(text):
    with pytest.raises(ValueError):
        worker_count(text)
    with pytest.raises(UsageError) as caught:
        parse(['site.ini', f'--workers={text}'], 'wspserve')
    assert str(caught.value) == (
        f'--workers {text}: it must be a number from 0 to {MAX_WORKERS}, or auto'
    )


@pytest.mark.parametrize(
    ('args', 'workers'),
    [
        ([], None),
        (['--workers', '3'], 3),
        (['--workers=0'], 0),
        (['--workers=2', '--workers', '5'], 5),
        (['start', '--workers', '4', 'x=y'], 4),
    ],
)
def test_the_number_of_workers_on_the_command_line(args, workers):
    assert parse(['site.ini', *args], 'wspserve').workers == workers


def test_the_order_of_file_and_subcommand_is_told(folder):
    write(folder, {'site.ini': '[app:main]\nuse = egg:paste_wspbus#hello\n'})
    told = run(folder, 'start', 'site.ini')
    assert told.code == 2
    assert told.err.text == (
        'wspserve: the file comes first: wspserve site.ini start\n'
    )
    told = run(folder, 'site.ini', 'strat')
    assert told.code == 2
    assert "did you mean 'start'?" in told.err.text


@pytest.mark.parametrize(
    ('option', 'hint'),
    [
        ('--bogus', ''),
        ('--deamon', "; did you mean '--daemon'?"),
        ('--log-fil=my log', "; did you mean '--log-file'?"),
        ('--port', '; write --listen HOST:PORT'),
        ('-w', '; write --workers N'),
    ],
)
def test_an_option_that_is_not_known_is_compared_without_its_dashes(option, hint):
    with pytest.raises(UsageError) as caught:
        parse(['site.ini', option], 'wspserve')
    assert str(caught.value).endswith(
        f'unknown option {option.partition("=")[0]}{hint}'
    )
