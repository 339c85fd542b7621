"""What a command line asks for: `parse` makes Options of it."""

import pytest

from paste_wspbus.command.arguments import parse
from paste_wspbus.errors import UsageError
from paste_wspbus.process.options import Options


@pytest.fixture(autouse=True)
def plain_environment(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    for name in ('PASTE_CONFIG_FILE', 'PASTE_DEFAULT_QUIET', '_'):
        monkeypatch.delenv(name, raising=False)


def parsed(line):
    return parse(line.split(), 'wspserve')


def test_options_hold_what_the_command_line_says_and_nothing_of_the_run():
    names = {*vars(Options), *Options.__annotations__, *vars(parsed('site.ini -v'))}
    of_a_run = {'report', 'early', 'terminal', 'logs', 'took_over', 'later'}
    assert not names & (of_a_run | {'files', 'ignore'})


@pytest.mark.parametrize(
    ('line', 'subcommand', 'daemon', 'replaces'),
    [
        ('site.ini', None, False, False),
        ('site.ini start', 'start', True, False),
        ('site.ini restart', 'restart', True, True),
        ('site.ini --daemon', None, True, False),
        ('site.ini status', 'status', False, False),
        ('site.ini --status', 'status', False, False),
        ('--stop-daemon', 'stop', False, False),
        ('site.ini graceful --no-wait', 'graceful', False, False),
    ],
)
def test_a_subcommand_says_what_becomes_of_the_process(
    line, subcommand, daemon, replaces
):
    options = parsed(line)
    assert options.subcommand == subcommand
    assert (options.daemon, options.replaces) == (daemon, replaces)


@pytest.mark.parametrize(
    ('line', 'verbosity'),
    [('site.ini', 1), ('site.ini -q', 0), ('site.ini -v', 2), ('site.ini -vq', 1)],
)
def test_v_and_q_set_the_verbosity(line, verbosity):
    assert parsed(line).verbosity == verbosity


def test_variables_and_options_may_be_mixed():
    options = parsed('site.ini a=1 --workers 2 b=2=3')
    assert (options.config, options.vars) == ('site.ini', {'a': '1', 'b': '2=3'})
    assert options.workers == 2


@pytest.mark.parametrize(
    ('line', 'problem'),
    [
        ('', 'no file is named'),
        ('start site.ini', 'the file comes first: wspserve site.ini start'),
        ('site.ini start stop', 'give one subcommand only: start, stop'),
        (
            'site.ini stop --json',
            '--json works only with status, stacks, plan, blame, timeline',
        ),
        ('site.ini --no-wait', '--no-wait works only with the subcommand graceful'),
        ('site.ini graceful --workers 2', 'the number of workers from the file'),
        ('site.ini --reloader fork', '--reloader works only together with --reload'),
        ('site.ini start --reload', '--reload is for development'),
        ('site.ini --reload-interval 0', '--reload-interval 0'),
        ('site.ini --workers many', '--workers many'),
        ('site.ini --deamon', "unknown option --deamon; did you mean '--daemon'"),
        ('site.ini strat', "'strat' is neither a subcommand nor a variable"),
        ('site.ini --pid-file x --log-file ./x', 'are the same file'),
    ],
)
def test_a_command_line_that_cannot_be_meant_is_refused(line, problem):
    with pytest.raises(UsageError) as refused:
        parsed(line)
    assert problem in str(refused.value)
