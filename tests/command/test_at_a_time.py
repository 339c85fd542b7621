"""Several subcommands at a time, for one site: each ends with a true line and exit code."""

import contextlib
import fcntl
import os
import re
import signal
import sys

import pytest

from paste_wspbus.process.turns import OtherCommand, Turn
from tests.kit import Process, eventually
from tests.kit.places import ROOT
from tests.kit.processes import has_ended, lines_beside_progress
from tests.kit.users import NOBODY

WAYS = pytest.mark.parametrize('way', [[], ['--workers', '1']], ids=' '.join)


def at_a_time(ground, stack, *commands):
    """Begin the commands, and wait for all of them."""
    begun = [
        stack.enter_context(ground.begin('site.ini', *command)) for command in commands
    ]
    for process in begun:
        process.code = process.wait()
        assert 'Traceback' not in process.report()
        assert process.out.text + process.err.text, 'it ends without a word'
    return begun


@WAYS
def test_restarts_take_turns(ground, way):
    ground.start(*way)
    with contextlib.ExitStack() as stack:
        restarts = at_a_time(ground, stack, *[['restart', *way]] * 4)
        assert [one.code for one in restarts] == [0] * 4, [
            one.report() for one in restarts
        ]
    pids = [
        int(re.search(r'Starting server in PID (\d+)', one.out.text)[1])
        for one in restarts
    ]
    assert len(set(pids)) == 4
    assert ground.pid in pids
    eventually(lambda: [pid for pid in pids if not has_ended(pid)] == [ground.pid])
    assert 'Traceback' not in ground.log
    ground.stop()
    assert ground.has_left_nothing()


def test_restarts_of_a_site_that_does_not_run_take_turns(ground):
    with contextlib.ExitStack() as stack:
        restarts = at_a_time(ground, stack, *[['restart']] * 3)
    assert [one.code for one in restarts] == [0] * 3
    ground.stop()
    assert ground.has_left_nothing()


def test_a_restart_waits_for_the_start_of_another_command(ground):
    ground.change(app='make_at_gate')
    with ground.begin('site.ini', 'start') as start:
        ground.gate.wait()
        ground.change()
        with ground.begin('site.ini', 'restart') as restart:
            ground.gate.open()
            assert (start.wait(), restart.wait()) == (0, 0), restart.report()
    ground.find_url(restart)
    assert ground.get() == f'hello {ground.pid}'
    ground.stop()


@WAYS
def test_a_stop_also_stops_what_a_restart_has_just_started(ground, way):
    ground.start(*way)
    ground.change(app='make_at_gate', trial='false')
    with ground.begin('site.ini', 'restart', *way) as restart:
        ground.gate.wait()  # the new process has taken over, and composes
        with ground.begin('site.ini', 'stop') as stop:
            assert stop.wait() == 0, stop.report()
            assert stop.out.text == 'The site has stopped.\n'
        assert restart.wait() == 143, restart.report()
    # A line before it may say that the start takes long.
    *_, line = restart.err.text.splitlines()
    assert 'before it was started' in line or 'SIGTERM ended' in line
    assert ground.has_left_nothing()


def test_a_stop_during_the_stop_of_a_restart_stops_both(ground):
    ground.change(plugin='gate_at_stop')
    ground.start()
    ground.change()
    with ground.begin('site.ini', 'restart') as restart:
        ground.gate.wait()
        with ground.begin('site.ini', 'stop') as stop:
            stop.expect('Stopping process')
            ground.gate.open()
            assert stop.wait() == 0, stop.report()
        restart.wait()
        assert restart.out.text + restart.err.text
    assert ground.has_left_nothing()


def test_start_of_a_site_that_another_command_stops(ground):
    ground.change(plugin='gate_at_stop')
    ground.start()
    ground.change()
    with ground.begin('site.ini', 'stop') as stop:
        ground.gate.wait()
        with ground.begin('site.ini', 'start') as start:
            stop.expect('Stopping process')
            ground.gate.open()
            assert (stop.wait(), start.wait()) == (0, 0), start.report()
        ground.find_url(start)
        assert ground.get() == f'hello {ground.pid}'
    ground.stop()


def test_starts_and_stops_at_a_time(ground):
    with contextlib.ExitStack() as stack:
        commands = at_a_time(ground, stack, ['start'], ['stop'], ['start'], ['stop'])
        for one in commands:
            assert one.code in (0, 1, 143), one.report()
    ground.run('site.ini', 'stop')
    assert ground.has_left_nothing()


# -- a turn ------------------------------------------------------------------------


def test_a_turn_that_lasts_too_long_is_named(tmp_path):
    turn, other = (Turn(str(tmp_path / 'site.pid')) for _ in range(2))
    turn.wait(0)
    with pytest.raises(OtherCommand, match=rf'process {os.getpid()}\b.*site.pid.turn'):
        other.wait(0.1)
    turn.end()
    assert list(tmp_path.iterdir()) == []
    other.wait(0)
    other.end()
    turn.end()
    assert list(tmp_path.iterdir()) == []


#: Argument: a folder. A second process interrupts each turn at another moment of it.
INTERRUPTED = """
import os, signal, sys, time
from paste_wspbus.process.turns import Turn

class Interrupted(BaseException):
    pass

def interrupt(*_):
    raise Interrupted

reader, writer = os.pipe()
parent = os.getpid()
if not os.fork():
    os.close(writer)
    for number in range(1000):
        if not os.read(reader, 1):
            break
        until = time.perf_counter() + number * 0.3e-6
        while time.perf_counter() < until:
            pass
        os.kill(parent, signal.SIGUSR1)
    os._exit(0)
os.close(reader)
during = 0
for _ in range(1000):
    turn = Turn(os.path.join(sys.argv[1], 'site.pid'))
    taken = False
    try:
        signal.signal(signal.SIGUSR1, interrupt)
        os.write(writer, b'.')
        turn.take()
        taken = True
        turn.end()
        while True:
            time.sleep(1)
    except Interrupted:
        during += not taken
        turn.end()
    assert os.listdir(sys.argv[1]) == []
    assert not signal.pthread_sigmask(signal.SIG_BLOCK, ())
print('interrupted while it was taken:', during)
"""


def test_a_turn_that_is_interrupted_at_any_moment_leaves_no_file(tmp_path):
    with Process([sys.executable, '-c', INTERRUPTED, str(tmp_path)], ROOT) as process:
        assert process.wait() == 0, process.report()
        assert int(process.out.text.split()[-1]) > 10


def test_only_its_owner_can_hold_a_turn(tmp_path):
    turn = Turn(str(tmp_path / 'site.pid'))
    assert turn.take()
    assert os.stat(turn.path).st_mode & 0o777 == 0o600
    turn.end()


@pytest.mark.parametrize('kind', ['link', 'fifo', 'folder', 'two names'])
def test_what_stands_in_the_place_of_a_turn_is_left_as_it_is(tmp_path, kind):
    turn = Turn(str(tmp_path / 'site.pid'))
    target = tmp_path / 'target'
    target.write_text('kept')
    if kind == 'link':
        os.symlink(target, turn.path)
    elif kind == 'fifo':
        os.mkfifo(turn.path)
    elif kind == 'folder':
        os.mkdir(turn.path)
    else:
        os.link(target, turn.path)
    assert turn.take()
    turn.end()
    assert os.path.lexists(turn.path)
    assert target.read_text() == 'kept'


@pytest.mark.parametrize('is_there', [False, True])
def test_roots_turn_is_not_taken_through_a_link_of_another_users(tmp_path, is_there):
    theirs, roots = tmp_path / 'theirs', tmp_path / 'roots'
    theirs.mkdir()
    roots.mkdir()
    os.symlink(roots, theirs / 'run')
    os.chown(theirs, NOBODY.pw_uid, NOBODY.pw_gid)
    kept = roots / 'site.pid.turn'
    if is_there:
        kept.write_text('1\n')
    turn = Turn(str(theirs / 'run' / 'site.pid'))
    assert turn.take()  # the command itself refuses that folder later
    assert turn.holder() is None
    turn.end()
    assert kept.exists() == is_there
    assert not is_there or kept.read_text() == '1\n'


@pytest.mark.parametrize('text', ['', 'me', '-1', '9' * 40, '\x1b[2J'])
def test_a_holder_that_is_no_number_is_not_named(tmp_path, text):
    turn = Turn(str(tmp_path / 'site.pid'))
    with open(turn.path, 'w') as file:
        file.write(text)
        file.flush()
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(OtherCommand, match=r'^another command has been'):
            turn.wait(0.1)


def test_a_turn_ends_with_its_command(ground):
    ground.change(app='make_at_gate')
    with ground.begin('site.ini', 'start') as start:
        ground.gate.wait()
        start.send(signal.SIGKILL)
        start.wait()
        turn = Turn(str(ground.pid_file))
        turn.wait(0)
        turn.end()
        ground.gate.open()


# -- at the same instant ---------------------------------------------------------


def at_once(ground, count=2):
    """That many `start`s at the same instant, run to their end."""
    with contextlib.ExitStack() as stack:
        starts = [
            stack.enter_context(ground.begin('site.ini', 'start')) for _ in range(count)
        ]
        for start in starts:
            start.wait()
    return starts


def test_of_two_starts_at_the_same_instant_both_tell_the_truth(ground):
    for _ in range(10):
        starts = at_once(ground)
        pid = ground.pid
        assert ground.processes() == [pid]
        report = '\n'.join(ground.report(start) for start in starts)
        assert [start.process.returncode for start in starts] == [0, 0], report
        assert not any(map(lines_beside_progress, starts)), report
        told, asked = sorted(start.out.text for start in starts)
        assert told.startswith(f'Starting server in PID {pid}.\n'), report
        assert asked == f'The site is running already (process {pid}).\n', report
        ground.stop()
    assert ground.has_left_nothing()


def test_of_two_starts_of_a_broken_site_both_fail(ground):
    ground.change(app='make_broken')
    for _ in range(5):
        starts = at_once(ground)
        report = '\n'.join(ground.report(start) for start in starts)
        assert [start.process.returncode for start in starts] == [1, 1], report
        assert any('out of order' in start.err.text for start in starts), report
        for start in starts:
            assert len(start.err.text.splitlines()) == 1, report
        assert ground.has_left_nothing()
