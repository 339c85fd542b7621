"""What workers that fail alike tell: the log has a traceback once, and each that differs."""

import os
import signal
from types import SimpleNamespace

import pytest

from paste_wspbus.errorpage.problem import MOST
from paste_wspbus.workers.failures import KEPT, Failures
from tests.kit.sites import SERVED, Site, run
from tests.kit.workers import Workers, impatient, set_up


class Bus:
    """Takes the lines of the log, and the listeners of the supervisor's channels."""

    def __init__(self):
        self.lines, self.listeners = [], {}

    def log(self, text, level):
        self.lines.append(text)

    def subscribe(self, channel, listener, priority=50):
        self.listeners[channel] = listener

    def ready(self):
        self.listeners['worker_ready']('worker 1', 1)


class Stand:
    """A supervisor whose processes fail as the test says."""

    def __init__(self, was_started):
        self.bus, self.was_started = Bus(), was_started
        self.crashes = SimpleNamespace(loop='')
        self.failures = Failures(self)

    def fail(self, number, trace):
        worker = SimpleNamespace(name=f'worker {number}', pid=100 + number)
        self.failures.note(worker, {'traceback': trace})


def test_a_first_start_has_one_text_for_all_workers_that_fail_alike():
    site = Stand(was_started=False)
    for number in (1, 2, 3):
        site.fail(number, 'Traceback: no db\n')
    site.fail(2, '')  # its line says it all
    assert site.failures.text() == 'Traceback: no db'
    assert site.bus.lines == []  # the command prints it


def test_a_first_start_has_each_text_that_differs_and_whose_it_is():
    site = Stand(was_started=False)
    for number, why in ((1, 'no db'), (2, 'no port'), (3, 'no db')):
        site.fail(number, why)
    assert site.failures.text() == (
        'The start of worker 1, worker 3 has failed:\nno db\n'
        'The start of worker 2 has failed:\nno port'
    )


def test_later_each_text_is_logged_once_until_a_process_was_ready():
    site = Stand(was_started=True)
    for number, why in ((1, 'no db'), (2, 'no db'), (2, 'no port'), (1, 'no db')):
        site.fail(number, why)
    assert site.bus.lines == [
        'The start of worker 1 (process 101) has failed:\nno db',
        'The start of worker 2 (process 102) has failed:\nno port',
    ]
    site.crashes.loop = 'crash loop'
    site.bus.ready()
    site.fail(1, 'no db')
    assert len(site.bus.lines) == 2
    site.crashes.loop = ''
    site.bus.ready()
    site.fail(1, 'no db')
    assert len(site.bus.lines) == 3
    site.bus.listeners['graceful']()
    site.fail(1, 'no db')
    assert len(site.bus.lines) == 4


def test_a_process_that_sends_always_another_text_uses_no_more_and_more_memory():
    site = Stand(was_started=False)
    for number in range(5 * KEPT):
        site.fail(1, f'{number}' + 3 * MOST * 'x')
    assert len(site.failures.text()) < 2 * KEPT * MOST


BROKEN = """
def make(global_conf):
    raise LookupError('no dsn')
"""


@pytest.mark.parametrize('args', [[], ['-v'], ['start'], ['start', '-v']], ids=str)
def test_workers_that_fail_alike_have_one_traceback_and_one_line(tmp_path, args):
    ini = f'{SERVED}\n[wspbus:main]\nworkers = 3\n'
    process = run(
        tmp_path, 'site.ini', *args, files={'site.ini': ini, 'webapp.py': BROKEN}
    )
    assert process.code == 1, process.report()
    log = tmp_path / 'paster.log'
    text = log.read_text() if 'start' in args else process.err.text
    shows = bool(args)
    assert text.count('Traceback (most recent call last)') == shows
    assert text.count("    raise LookupError('no dsn')") == shows
    assert text.count('[app:main]: make failed: LookupError: no dsn') == 1
    assert process.err.text.count('(-v shows the traceback)') == (not shows)
    assert ('paste_wspbus/ini/factories.py' in text) == ('-v' in args)


HUGE = """
def make(global_conf):
    raise LookupError('begins' + 'x' * 300_000 + 'ends')
"""


@pytest.mark.parametrize('args', [[], ['--workers', '2']], ids=str)
def test_an_error_of_many_characters_is_told_without_its_middle(tmp_path, args):
    files = {'site.ini': SERVED, 'webapp.py': HUGE}
    process = run(tmp_path, 'site.ini', *args, files=files)
    assert process.code == 1
    (line,) = process.err.text.splitlines()
    assert '[app:main]: make failed: LookupError: beginsxxx' in line
    assert 'xxx … xxx' in line
    assert 'xxxends, at webapp.py:' in line
    assert len(line) < 5000


EACH_ITS_OWN = """
import logging


def make(global_conf):
    raise LookupError(logging.makeLogRecord({}).processName)
"""


def test_under_reload_workers_that_fail_in_different_ways_have_their_tracebacks(
    tmp_path,
):
    files = {'webapp.py': EACH_ITS_OWN}
    args = ['--reload', '--workers', '2']
    with Site(tmp_path, SERVED, *args, files=files) as site:
        for number in (1, 2):
            assert f'\nLookupError: worker {number}\n' in site.err.text
            line = f'[app:main]: make failed: LookupError: worker {number}, at '
            assert site.err.text.count(line) == 1
        assert site.err.text.count('Traceback (most recent call last)') == 2


def test_a_generation_and_its_crash_loop_have_one_traceback(tmp_path):
    with impatient(tmp_path) as site:
        set_up(tmp_path, at_start="raise RuntimeError('it is broken')")
        assert site.run('graceful').code == 1
        for pid in site.pids():
            os.kill(pid, signal.SIGKILL)
        site.expect('wspserve gives up and stops')
        assert site.err.text.count('failed to start: ') > 1
        assert site.err.text.count('Traceback (most recent call last)') == 1
        assert site.err.text.count("RuntimeError('it is broken')") == 1
        assert "Error in 'start' listener" not in site.err.text


def test_a_second_graceful_that_fails_alike_has_its_traceback(tmp_path):
    with Workers(tmp_path) as site:
        set_up(tmp_path, at_start="raise RuntimeError('it is broken')")
        for number in (1, 2):
            assert site.run('graceful').code == 1
            site.expect(f'Generation {number + 1} failed')
            assert site.err.text.count('Traceback (most recent call last)') == number
