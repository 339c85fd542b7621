"""What a run of the command carries, and which runner it gets."""

import os

import pytest

from paste_wspbus.command.arguments import parse
from paste_wspbus.command.development import Development
from paste_wspbus.command.leaving import complain
from paste_wspbus.command.main import choose_runner
from paste_wspbus.command.single import Single
from paste_wspbus.command.supervised import Supervised
from paste_wspbus.errors import UsageError
from paste_wspbus.inbox import Inbox
from paste_wspbus.ini.config import Config
from paste_wspbus.process.early_signals import EarlySignals
from paste_wspbus.process.inheritance import Inheritance
from paste_wspbus.process.launch import Launch
from paste_wspbus.process.process import Process
from paste_wspbus.report import Report

INI = '[server:main]\nuse = egg:waitress\n[app:main]\nuse = egg:paste_wspbus#hello\n'


@pytest.fixture
def launch(tmp_path, monkeypatch):
    """Makes a `Launch` of a command line, for a site in the working folder."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / 'site.ini').write_text(INI)
    return lambda line: Launch(
        parse(f'site.ini {line}'.split(), 'wspserve'), EarlySignals()
    )


@pytest.fixture
def reader():
    """A report for somebody who waits, and what he reads."""
    reader, writer = os.pipe()
    yield lambda lasting=False: Report(writer, lasting=lasting), Inbox(reader)
    os.close(reader)


def process_of(launch):
    config = Config(launch.options.config, launch.options.vars, os.getcwd())
    return Process(config, launch, Inheritance())


@pytest.mark.parametrize(
    ('line', 'waits', 'lasting', 'logs', 'elsewhere'),
    [
        ('', False, False, False, False),
        ('', True, True, False, True),  # a supervisor prints it
        ('start', True, False, False, True),  # the process that has launched the daemon
        ('start', True, False, True, False),  # stderr is the log: it belongs there, too
        ('start', False, False, False, False),  # that process is gone
    ],
)
def test_a_failure_is_printed_once(
    launch, reader, line, waits, lasting, logs, elsewhere
):
    run, (report, _) = launch(line), reader
    run.log = '/site.log' if logs else None
    if waits:
        run.report = report(lasting)
    assert run.is_printed_elsewhere is elsewhere
    run.report.close()


def test_who_waits_for_the_start_is_told_why_it_failed(launch, reader, capsys):
    run, (report, inbox) = launch('start'), reader
    run.report = report()
    assert complain(UsageError('no such\nfile'), run) == 2
    run.report.close()
    [told] = inbox
    assert (told['failed'], told['line']) == (2, 'no such file')
    assert capsys.readouterr().err == ''


def test_a_wrong_command_line_is_told_on_stderr(capsys):
    assert complain(UsageError('which file?'), None) == 2
    assert capsys.readouterr().err == 'which file?\n'


@pytest.mark.parametrize(
    ('line', 'runner'),
    [
        ('', Single),
        ('--workers 2', Supervised),
        ('--monitor-restart', Supervised),
        ('--reload', Supervised),
        ('--reload --reloader execv', Development),
    ],
)
def test_the_runner_is_chosen_by_what_is_asked_for(launch, line, runner, tmp_path):
    from paste_wspbus.command.development import watch_file

    run = launch(line)
    watch_file(run)
    process = process_of(run)
    chosen = choose_runner(run, process, None)
    if isinstance(chosen, Supervised):
        chosen.supervisor.events.close()
    assert type(chosen) is runner


@pytest.mark.parametrize(
    ('line', 'ini', 'restarter', 'workers', 'is_supervised'),
    [
        ('', '', 'execv', 0, False),
        ('--reload', '', 'fork', 0, True),
        ('--reload --reloader execv', 'restart = child', 'execv', 0, False),
        ('', 'restart = child', 'child', 0, True),
        ('', 'workers = 3', 'execv', 3, True),
        ('--workers 0', 'workers = 3', 'execv', 0, False),
        ('--monitor-restart', '', 'execv', 0, True),
    ],
)
def test_the_command_line_goes_before_the_ini(
    launch, tmp_path, line, ini, restarter, workers, is_supervised
):
    (tmp_path / 'site.ini').write_text(f'{INI}[wspbus:main]\n{ini}\n')
    process = process_of(launch(line))
    assert (process.restarter, process.workers) == (restarter, workers)
    assert process.is_supervised is is_supervised
