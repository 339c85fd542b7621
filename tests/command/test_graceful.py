"""`graceful`: what it asks, waits for, prints and exits with."""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from paste_wspbus.command.graceful import _under_way
from paste_wspbus.control.client import ask
from paste_wspbus.plugins.pidfile import PIDLock
from tests.kit import BIN, TIMEOUT, Process, eventually, run
from tests.kit.daemons import Ground
from tests.kit.processes import freeze
from tests.kit.stand_in import StandIn, begun, status_json, worker
from tests.kit.users import AS_PLAIN_USER

# -- a site that the test speaks for ------------------------------------------


def test_graceful_waits_until_the_new_generation_serves(folder, site):
    with begun(folder, 'site.ini', 'graceful') as command:
        site.wait_for_request('graceful')
        assert command.process.poll() is None
        site.tell(answer={'generation': 3})
        assert command.wait() == 0, command.report()
        assert command.out.text == f'Generation 3 serves (process {site.pid}).\n'
        assert command.err.text == ''
    assert site.requests == [{'version': 1, 'command': 'graceful', 'wait': True}]


def test_graceful_says_why_it_failed_and_exits_with_the_sites_code(folder, site):
    answer = {'failed': 7, 'line': 'site.ini [app:main]: no luck', 'generation': 2}
    site.tell(replies={'graceful': answer})
    told = run(folder, 'site.ini', 'graceful')
    assert told.code == 7, told.report()
    assert told.out.text == ''
    assert told.err.text == (
        'The graceful restart failed, generation 2 keeps serving: '
        'site.ini [app:main]: no luck\n'
    )


@pytest.mark.parametrize('code', [0, -9, 1000, None, 'x'])
def test_a_failed_graceful_restart_never_exits_with_0(folder, site, code):
    site.tell(replies={'graceful': {'failed': code}})
    told = run(folder, 'site.ini', 'graceful')
    assert told.code == 1
    assert told.err.text == 'The graceful restart failed: see its log\n'


def test_graceful_without_waiting_returns_when_the_site_was_asked(folder, site):
    site.tell(replies={'graceful': {'accepted': True}})
    told = run(folder, 'site.ini', 'graceful', '--no-wait')
    assert told.code == 0, told.report()
    line = f'Process {site.pid} was asked for a graceful restart.\n'
    assert told.out.text == line
    assert site.requests == [{'version': 1, 'command': 'graceful', 'wait': False}]


@pytest.mark.parametrize(
    'args', [('--no-wait',), ('stop', '--no-wait'), ('status', '--no-soak')]
)
def test_no_wait_is_for_graceful_alone(folder, args):
    told = run(folder, 'site.ini', *args)
    assert told.code == 2
    only = f'{args[-1]} works only with the subcommand graceful\n'
    assert told.err.text == only


def test_graceful_where_nothing_runs(folder):
    told = run(folder, 'site.ini', 'graceful')
    assert told.code == 1
    line = 'The site is not running (there is no paster.pid).\n'
    assert (told.out.text, told.err.text) == ('', line)
    assert os.listdir(folder) == ['site.ini']


def test_graceful_where_the_site_died(folder):
    with Process(['true'], folder) as gone:
        gone.wait()
    (folder / 'paster.pid').write_text(f'{gone.pid}\n')
    told = run(folder, 'site.ini', 'graceful')
    assert told.code == 1
    assert told.err.text == (
        f'The site is not running: PID file paster.pid: process {gone.pid}, '
        'which wrote it, is gone\n'
    )
    assert (folder / 'paster.pid').exists()


def test_graceful_with_a_pid_file_that_is_none(folder):
    (folder / 'paster.pid').write_text('twelve\n')
    told = run(folder, 'site.ini', 'graceful')
    assert told.code == 2
    assert told.err.text == ('PID file paster.pid: it does not contain a process ID\n')


def test_graceful_waits_for_a_site_that_is_starting(folder, site):
    site.tell(status={'state': 'STARTING'}, replies={'graceful': {'generation': 2}})
    with begun(folder, 'site.ini', 'graceful') as command:
        assert site.out.wait_for('status\n', 2), site.report()
        assert site.requests == []
        site.tell(status={'state': 'STARTED'})
        assert command.wait() == 0, command.report()
        assert command.out.text.startswith('Generation 2 serves')


def test_graceful_waits_for_a_site_that_does_not_answer_yet(folder):
    with StandIn(folder, '--silent') as site:
        site.tell(replies={'graceful': {'generation': 2}})
        with begun(folder, 'site.ini', 'graceful') as command:
            eventually(lambda: connections(folder) > 0)
            site.tell(open=True)
            assert command.wait() == 0, command.report()
        assert command.out.text.startswith('Generation 2 serves')


def test_graceful_says_so_if_the_site_was_stopped_by_a_signal(folder):
    with StandIn(folder) as site:
        site.tell(replies={'graceful': {'generation': 2}})
        freeze(site.pid)
        with begun(folder, 'site.ini', 'graceful') as command:
            line = f'The site (process {site.pid}) does not answer: a signal has stopped it'
            assert command.err.wait_for(line), command.report()
            os.kill(site.pid, signal.SIGCONT)
            assert command.wait() == 0, command.report()


def connections(folder):
    """How many clients wait at its socket, which nobody looks after."""
    with open('/proc/net/unix') as lines:
        path = str(folder / 'paster.pid.sock')
        return sum(line.rstrip().endswith(path) for line in lines) - 1


def test_graceful_gives_up_when_the_start_fails(folder, site):
    site.tell(status={'state': 'STARTING'})
    with begun(folder, 'site.ini', 'graceful') as command:
        assert site.out.wait_for('status\n'), site.report()
        site.release()
        assert command.wait() == 1, command.report()
        assert command.err.text == (
            f'The site (process {site.pid}) has stopped, or did not start: '
            'see its log.\n'
        )


def test_graceful_says_that_the_supervisor_is_gone(folder, site):
    with begun(folder, 'site.ini', 'graceful') as command:
        site.wait_for_request('graceful')
        site.send(signal.SIGKILL)
        site.process.wait(TIMEOUT)
        assert command.wait() == 1, command.report()
        line = f'The site (process {site.pid}) is gone: see its log.\n'
        assert (command.out.text, command.err.text) == ('', line)


def test_graceful_says_that_no_answer_came(folder, site):
    site.tell(replies={'graceful': None})
    told = run(folder, 'site.ini', 'graceful')
    assert told.code == 1
    line = f'The site (process {site.pid}) gave no answer: see its log.\n'
    assert told.err.text == line


def test_graceful_says_why_a_site_refuses(folder, site):
    site.tell(replies={'graceful': {'error': 'version 1 knows: status, stop'}})
    told = run(folder, 'site.ini', 'graceful')
    assert told.code == 1
    assert told.err.text == (
        f'The site (process {site.pid}) refuses: version 1 knows: status, stop\n'
    )


def test_after_ctrl_c_the_graceful_restart_goes_on(folder, site):
    with begun(folder, 'site.ini', 'graceful') as command:
        site.wait_for_request('graceful')
        command.send(signal.SIGINT)
        assert command.wait() == 130, command.report()
        assert command.err.text == (
            'The graceful restart continues; `status` shows how far it is.\n'
        )
    site.tell(answer={'generation': 2})
    assert ask(str(folder / 'paster.pid.sock'), 'status', TIMEOUT)['pid'] == site.pid


def test_graceful_tells_a_terminal_each_second_which_worker_starts(
    folder, site, terminal
):
    site.tell(
        status={
            'workers': [
                worker(1),
                worker(2, state='draining', requests=["'GET' '/x' 1 s"]),
                worker(2, state='starting', age=7, requests=None),
            ]
        }
    )
    command = subprocess.Popen(
        [BIN / 'wspserve', 'site.ini', 'graceful'],
        cwd=folder,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=terminal.theirs,
    )
    try:
        terminal.hand_over()
        assert terminal.read_until(b', 2 s: worker 2'), terminal.text
        site.tell(answer={'generation': 2})
        assert command.wait(TIMEOUT) == 0
    finally:
        command.kill()
        command.wait()
    assert not terminal.read_until(b'never said')
    line = b'Graceful restart, 1 s: worker 2 starts, 7 s; worker 2 finishes 1 request'
    assert line in terminal.text
    assert b'\n' not in terminal.text
    assert terminal.text.endswith(b'\r\x1b[K'), 'the line is left behind'


def test_the_progress_of_a_soak_is_shown():
    soak = {'worker': 'worker 1', 'pid': 4711, 'generation': 2, 'remaining': 1.25}
    assert _under_way({'soak': soak, 'workers': [worker(1)]}) == [
        'the new worker 1 serves beside the old workers, 1.2 s more'
    ]


# A site of one process replaces itself.


def test_graceful_waits_until_a_site_of_one_process_has_restarted(folder, site):
    site.tell(replies={'graceful': {'restarting': True}})
    with begun(folder, 'site.ini', 'graceful') as command:
        site.wait_for_request('graceful')
        site.tell(status={'state': 'STOPPING'})
        site.tell(status={'state': 'STARTING', 'since': time.time() + 5})
        assert command.process.poll() is None
        site.tell(status={'state': 'STARTED'})
        assert command.wait() == 0, command.report()
        assert command.out.text == f'The site has restarted (process {site.pid}).\n'


def test_graceful_of_a_site_of_one_process_that_does_not_start_again(folder, site):
    site.tell(replies={'graceful': {'restarting': True}})
    with begun(folder, 'site.ini', 'graceful') as command:
        site.wait_for_request('graceful')
        site.tell(status={'state': 'STOPPING'})
        site.release()
        assert command.wait() == 1, command.report()
        line = 'The site did not start again: see its log.\n'
        assert command.err.text == line


def test_graceful_without_waiting_does_not_wait_for_a_restart_either(folder, site):
    site.tell(replies={'graceful': {'restarting': True}})
    told = run(folder, 'site.ini', 'graceful', '--no-wait')
    assert told.code == 0, told.report()
    line = f'Process {site.pid} was asked for a graceful restart.\n'
    assert told.out.text == line


IMPATIENT = """
import sys
from paste_wspbus.command.main import main
from paste_wspbus.command import graceful
graceful.SOON = 0.3
sys.exit(main())
"""


def test_graceful_does_not_wait_for_a_restart_that_does_not_begin(folder, site):
    site.tell(replies={'graceful': {'restarting': True}})
    words = [sys.executable, '-c', IMPATIENT]
    told = run(folder, 'site.ini', 'graceful', command=words)
    assert told.code == 1
    line = f'The site (process {site.pid}) does not restart: see its log.\n'
    assert told.err.text == line


def test_graceful_does_not_wait_for_a_control_socket_that_never_comes(folder):
    lock = PIDLock(str(folder / 'paster.pid'))
    lock.acquire()
    lock.write()
    try:
        words = [sys.executable, '-c', IMPATIENT]
        told = run(folder, 'site.ini', 'graceful', command=words)
    finally:
        lock.release()
    assert told.code == 1
    assert 'does not answer: it is still starting, or it hangs' in told.err.text


# -- real sites ---------------------------------------------------------------


@pytest.fixture
def ground(folder):
    ground = Ground(folder)
    yield ground
    ground.close()


def table(told):
    """The rows of a table that `status` printed, each split in its columns."""
    lines = told.out.text.split('\n\n')[1].splitlines()
    head, *rows = (re.split('  +', line) for line in lines)
    assert head[:2] == ['WORKER', 'PROCESS']
    return [dict(zip(head, row, strict=True)) for row in rows]


def test_a_graceful_restart_of_two_workers_as_the_operator_sees_it(ground):
    ground.start('--workers', '2')
    before = table(ground.run('site.ini', 'status'))
    assert [row['WORKER'] for row in before] == ['worker 1', 'worker 2']
    assert int(ground.get().split()[1]) in [int(row['PROCESS']) for row in before]
    ground.change(text='changed')
    told = ground.run('site.ini', 'graceful')
    assert told.code == 0, ground.report(told)
    assert told.out.text == f'Generation 2 serves (process {ground.pid}).\n'
    after = table(ground.run('site.ini', 'status'))
    assert len(after) == 2
    assert not {row['PROCESS'] for row in before} & {row['PROCESS'] for row in after}
    assert ground.get().startswith('changed')
    ground.stop()
    assert ground.has_left_nothing()


def test_status_and_stop_name_what_a_workers_request_is(ground):
    ground.start('--workers', '1')
    with ground.request_at_gate('/Gate/one') as connection:
        told = ground.run('site.ini', 'status')
        (row,) = table(told)
        assert (row['IN FLIGHT'], row['BUSY/THREADS']) == ('1', '1/4')
        assert re.search(
            r'worker 1  waitress-\d  GET /Gate/one(  \S+)?\n', told.out.text
        )
        with ground.begin('site.ini', 'stop') as stop:
            stop.expect('waiting for 1 request in flight')
            assert '/Gate/one' in stop.err.text
            ground.gate.open()
            assert connection.receive().status == 200
            assert stop.wait() == 0, ground.report(stop)
    assert ground.has_left_nothing()


def test_a_generation_that_cannot_be_composed_is_reported_and_the_old_one_goes_on(
    ground,
):
    ground.start('--workers', '1')
    before = ground.get()
    ground.change(app='make_broken')
    told = ground.run('site.ini', 'graceful')
    assert told.code == 1, ground.report(told)
    assert told.err.text.startswith(
        'The graceful restart failed, generation 1 keeps serving: '
    )
    assert 'out of order' in told.err.text
    assert ground.get() == before
    told = ground.run('site.ini', 'status')
    assert re.search(
        'The last reload, .*, by .wspserve graceful. by .*, failed after .*: .*out of order',
        told.out.text,
    )
    ground.change(text='mended')
    assert ground.run('site.ini', 'graceful').code == 0
    assert ground.get().startswith('mended')
    told = ground.run('site.ini', 'status')
    assert 'failed' not in told.out.text


def test_a_site_of_one_process_restarts_gracefully_too(ground):
    ground.start()
    pid = ground.pid
    ground.change(text='changed')
    told = ground.run('site.ini', 'graceful')
    assert told.code == 0, ground.report(told)
    assert told.out.text == f'The site has restarted (process {pid}).\n'
    ground.url = status_json(ground.folder)[1]['urls'][0]
    assert ground.get() == f'changed {pid}'


def test_a_site_of_one_process_that_does_not_start_again_is_told(ground):
    ground.start()
    ground.change(plugin='broken_start')
    told = ground.run('site.ini', 'graceful')
    assert told.code == 1, ground.report(told)
    assert told.err.text.startswith('The site did not start again: ')
    assert (
        '[plugin:' in told.err.text and 'LookupError: no database, at ' in told.err.text
    )
    assert ground.has_left_nothing()


@pytest.mark.parametrize(
    ('spoil', 'command', 'why'),
    [
        (Path.unlink, IMPATIENT, 'but its control socket paster.pid.sock is missing'),
        (lambda path: path.chmod(0), '', 'but does not answer: permission denied'),
    ],
)
def test_graceful_says_that_it_cannot_ask_the_site_that_restarts_any_more(
    ground, spoil, command, why
):
    words = [sys.executable, '-c', command] if command else AS_PLAIN_USER
    ground.start(command=AS_PLAIN_USER)
    ground.change(plugin='gate_at_start')
    with ground.begin('site.ini', 'graceful', command=words) as told:
        ground.gate.wait()
        spoil(ground.control)
        ground.gate.open()
        assert told.wait() == 1, ground.report(told)
        (line,) = told.err.text.splitlines()
        assert line.startswith(f'The site is running (process {ground.pid}), {why}')
    ground.stop()


def test_graceful_waits_for_the_start_of_workers(ground):
    ground.change(app='make_at_gate')
    with ground.begin('site.ini', '--workers=1', '--pid-file=paster.pid') as site:
        ground.gate.wait()
        with begun(ground.folder, 'site.ini', 'graceful') as command:
            ground.gate.open()  # for the first, and for the one after it
            site.wait_until_served()
            ground.gate.wait()
            ground.gate.open()
            assert command.wait() == 0, command.report()
        assert 'Generation 2 serves' in command.out.text
        assert site.stop()[0] == 0, site.report()


def test_who_waits_for_a_graceful_restart_is_told_of_a_stop(ground):
    ground.start('--workers=1')
    ground.change(app='make_at_gate')
    with begun(ground.folder, 'site.ini', 'graceful') as command:
        ground.gate.wait()
        ground.stop()
        assert command.wait() == 1, command.report()
        assert command.err.text.startswith('The graceful restart failed: ')
        assert 'stop' in command.err.text
    assert ground.has_left_nothing()


def test_after_ctrl_c_the_new_generation_serves_nevertheless(ground):
    ground.start('--workers=1')
    ground.change(app='make_at_gate')
    with begun(ground.folder, 'site.ini', 'graceful') as command:
        ground.gate.wait()
        command.send(signal.SIGINT)
        assert command.wait() == 130, command.report()
    ground.gate.open()
    eventually(lambda: status_json(ground.folder)[1]['generation'] == 2)


def test_two_graceful_restarts_at_once_are_both_answered(ground):
    ground.start('--workers=1')
    with (
        begun(ground.folder, 'site.ini', 'graceful') as first,
        begun(ground.folder, 'site.ini', 'graceful') as second,
    ):
        assert (first.wait(), second.wait()) == (0, 0), second.report()
        for command in (first, second):
            assert re.match(r'Generation [23] serves', command.out.text)


def test_workers_in_the_foreground_are_asked_without_a_pid_file(ground):
    folder = ground.folder
    with ground.begin('site.ini', '--workers=1') as site:
        site.wait_until_served()
        assert status_json(folder)[1]['pid'] == site.pid
        assert run(folder, 'site.ini', 'graceful').code == 0
        with ground.begin('site.ini', '--workers=1') as other:
            other.wait_until_served()
            asked = run(folder, 'site.ini', 'graceful')  # of which of them?
            assert asked.code == 4, asked.report()
            assert f'process {site.pid}' in asked.err.text
            assert f'process {other.pid}' in asked.err.text
            assert other.stop()[0] == 0, other.report()
        assert status_json(folder)[1]['generation'] == 2
        stopped = run(folder, 'site.ini', 'stop')
        assert (stopped.code, stopped.out.text) == (0, 'The site has stopped.\n')
        assert site.wait() == 0, site.report()
    assert run(folder, 'site.ini', 'status').code == 3
    assert ground.has_left_nothing()


@pytest.mark.parametrize(
    'way, says',
    [
        ([], 'another process loads the new code'),
        (['--workers', '1'], 'worker 1 starts'),
    ],
)
def test_graceful_says_where_a_long_load_is(ground, way, says):
    ground.start(*way)
    ground.change(app='make_at_gate')
    with ground.begin('site.ini', 'graceful', '--no-soak') as process:
        assert process.err.wait_for(' in pass_gate\n'), process.report()
        shown = ground.run('site.ini', 'stacks').out.text
        assert re.search(
            r'starting\):\n.*:\n    \S+webapp.py line \d+ in pass_gate', shown
        )
        ground.gate.open_for_all()  # then a process without workers loads it itself
        assert process.wait() == 0, ground.report(process)
    (line,) = process.err.text.splitlines()
    place = r'\S+/webapp\.py:\d+ in pass_gate'
    assert re.fullmatch(rf'Graceful restart, \d s: {says}, \d s, at {place}', line)
    ground.stop()
