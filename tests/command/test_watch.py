"""`status --watch`: what it shows, what its keys do, and how it leaves the terminal."""

import os
import re
import signal

import pytest

from paste_wspbus.command.screen import ENTER, LEAVE
from tests.kit import eventually, run
from tests.kit.processes import has_ended
from tests.kit.screens import Screen
from tests.kit.stand_in import StandIn, worker
from tests.kit.workers import Workers

#: The keys of a terminal that send signals.
CTRL_C, CTRL_Z = '\x03', '\x1a'

WATCH = 'site.ini', 'status', '--watch', '--interval', '0.1'


def watch(folder, *args, **kwargs):
    return Screen(folder, *WATCH, *args, **kwargs)


def is_left(screen):
    """Whether the other screen was left as often as it was entered, and the cursor is back."""
    return screen.text.count(ENTER) == screen.text.count(LEAVE) > 0


# -- what it shows ----------------------------------------------------------------------


def test_it_shows_the_site_in_place_and_what_changes(folder, site):
    site.tell(status={'workers': [worker(1)]})
    with watch(folder) as screen:
        screen.shows(f'The site is running (process {site.pid})')
        screen.shows('worker 1  4710     ready')
        site.tell(status={'workers': [worker(1, state='draining')]})
        screen.shows('draining')
        assert '\x1b[H' in screen.text
        screen.press('q')
        screen.ends(0)
        eventually(lambda: is_left(screen))
        assert 'Traceback' not in screen.said


def test_a_site_that_goes_away_and_comes_back_is_recognized(folder):
    with watch(folder) as screen:
        screen.shows('The site is not running')
        with StandIn(folder) as first:
            screen.shows(f'The site is running (process {first.pid})')
            seen = len(screen.text)
        screen.shows('The site is ', seen)
        with StandIn(folder) as second:
            screen.shows(f'The site is running (process {second.pid})')
        screen.press('q')
        screen.ends(0)


def test_a_site_that_hangs_does_not_hold_up_the_keys(folder):
    with StandIn(folder, '--silent'), watch(folder) as screen:
        screen.shows('Asking')
        screen.press('q')
        screen.ends(0)


@pytest.mark.parametrize('env, is_coloured', [({}, True), ({'NO_COLOR': '1'}, False)])
def test_colours_are_shown_unless_the_environment_forbids_it(
    folder, site, env, is_coloured
):
    site.tell(status={'workers': [worker(1)]})
    with watch(folder, env=env) as screen:
        screen.shows('worker 1')
        screen.press('q')
        screen.ends(0)
        assert ('\x1b[32m' in screen.text) == is_coloured


def test_what_the_site_answers_cannot_command_the_terminal(folder, site):
    site.tell(status={'failure': '\x1b]0;title\x07', 'workers': [worker(1)]})
    with watch(folder) as screen:
        screen.shows('The last reload failed: \\x1b]0;title\\x07')
        screen.press('q')
        screen.ends(0)
        assert '\x1b]0' not in screen.text


def test_a_small_terminal_shows_a_part_and_a_resize_shows_more(folder, site):
    site.tell(status={'workers': [worker(number) for number in range(1, 30)]})
    with watch(folder, size=(40, 10)) as screen:
        seen = screen.shows('more lines')
        assert 'worker 29' not in screen.text
        frame = screen.text.rpartition('\x1b[H')[2].split('\x1b[J')[0]
        shown = [re.sub(r'\x1b\[[0-9;?]*[a-zA-Z]|\r', '', x) for x in frame.split('\n')]
        assert len(shown) <= 10 and max(map(len, shown)) <= 40
        screen.resize(120, 50)
        screen.shows('worker 29', seen)
        screen.press('q')
        screen.ends(0)


# -- keys -------------------------------------------------------------------------------


def test_keys_act_on_the_site(tmp_path):
    with (
        Workers(tmp_path) as site,
        Screen(tmp_path, *WATCH, '--pid-file', 'site.pid') as screen,
    ):
        screen.shows('2 workers')
        screen.press('+')
        screen.shows('one more worker. Then it has 3.')
        screen.shows('3 workers')
        screen.press('-')
        screen.shows('one worker less. Then it has 2.')
        eventually(lambda: len(site.pids()) == 2)
        screen.press('s')
        screen.shows('The stacks of all threads are in the log')
        for pid in (site.pid, *site.pids()):
            site.expect(f'Stacks of process {pid}:')
        screen.press('g')
        screen.shows('asked for a graceful restart')
        eventually(lambda: site.status()['generation'] == 2)
        screen.shows('generation 2')
        screen.press('x\x1b[A')  # keys that mean nothing
        screen.press('q')
        screen.ends(0)
        told = site.status()['last_reload']
        assert told['asked_by'].startswith('`wspserve graceful` by ')
        assert site.stop()[0] == 0


def test_one_process_has_no_workers_to_change_but_stacks(tmp_path):
    with (
        Workers(tmp_path, count=None) as site,
        Screen(tmp_path, *WATCH, '--pid-file', 'site.pid') as screen,
    ):
        screen.shows('SERVED')
        screen.press('+')
        screen.shows('add_worker: this site has no workers')
        screen.press('s')
        site.expect(f'Stacks of process {site.pid}:')
        screen.press('q')
        screen.ends(0)
        assert site.stop()[0] == 0


def test_a_site_of_an_earlier_version_says_what_it_knows(folder, site):
    with watch(folder) as screen:
        screen.shows('running')
        screen.press('+')
        screen.shows('with the commands status, graceful, stop')
        screen.press('q')
        screen.ends(0)


# -- how it ends --------------------------------------------------------------------------


def test_ctrl_c_restores_the_terminal(folder, site):
    with watch(folder) as screen:
        screen.shows('running')
        screen.press(CTRL_C)
        screen.ends(130)
        eventually(lambda: is_left(screen))
        assert 'Traceback' not in screen.said


@pytest.mark.parametrize('signum, code', [(signal.SIGTERM, 143), (signal.SIGHUP, 129)])
def test_a_signal_restores_the_terminal(folder, site, signum, code):
    with watch(folder) as screen:
        screen.shows('running')
        os.kill(screen.job, signum)
        screen.ends(code)
        eventually(lambda: is_left(screen))


def test_ctrl_z_restores_the_terminal_until_it_continues(folder, site):
    with watch(folder) as screen:
        screen.shows('running')
        for _ in range(2):
            seen = len(screen.text)
            screen.press(CTRL_Z)
            screen.hears('stopped, restored: True')
            screen.shows(ENTER, seen)
            screen.shows('running', seen)
        screen.press('q')
        screen.ends(0)
        eventually(lambda: is_left(screen))
        assert screen.said.count('stopped') == 2


def test_it_ends_with_its_terminal(folder, site):
    with watch(folder) as screen:
        screen.shows('running')
        job = screen.job
        screen.hang_up()
        eventually(lambda: has_ended(job))
        assert 'Traceback' not in screen.said


def test_an_error_restores_the_terminal(folder, site):
    """The command has an error of its own, in the thread that asks."""
    (folder / 'sitecustomize.py').write_text(
        'import paste_wspbus.command.status as status\n'
        'def look(options): raise ZeroDivisionError("a bug")\n'
        'status.look = look\n'
    )
    with watch(folder, env={'PYTHONPATH': str(folder)}) as screen:
        screen.hears('ZeroDivisionError: a bug')
        screen.ends(1)
        # The error may come before the other screen is entered.
        assert screen.text.count(ENTER) == screen.text.count(LEAVE)


# -- where it cannot be shown -----------------------------------------------------------


def test_without_a_terminal_one_line_says_so(folder, site):
    told = run(folder, *WATCH)
    assert told.code == 2
    assert told.out.text == ''
    assert told.err.text.startswith('status --watch needs a terminal')
    assert len(told.err.text.splitlines()) == 1


@pytest.mark.parametrize('term', ['dumb', ''])
def test_a_terminal_that_cannot_do_it_is_refused(folder, term):
    with watch(folder, env={'TERM': term}) as screen:
        screen.hears('cannot move its cursor')
        screen.ends(2)
        assert ENTER not in screen.text


@pytest.mark.parametrize(
    'args, line',
    [
        (['--watch'], '--watch works only with the subcommand status'),
        (['stop', '--watch'], '--watch works only with the subcommand status'),
        (['status', '--interval', '1'], '--interval works only together with --watch'),
        (['status', '--watch', '--json'], '--watch is for people: leave out --json'),
        (['status', '--watch', '-q'], '--watch shows the site, and -q shows nothing'),
        (
            ['status', '--watch', '--interval', '0'],
            '--interval 0: it must be a number of seconds from 0.1 to 3600',
        ),
        (
            ['status', '--watch', '--interval', 'nan'],
            '--interval nan: it must be a number of seconds from 0.1 to 3600',
        ),
    ],
)
def test_what_does_not_belong_together_is_refused(folder, args, line):
    told = run(folder, 'site.ini', *args)
    assert told.code == 2
    assert told.err.text.startswith(line)
    assert len(told.err.text.splitlines()) == 1
