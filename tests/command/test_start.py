"""Daemons: `start`, `status`, `stop`, `restart`, HUP, and the Daemonizer plugin."""

import contextlib
import fcntl
import os
import re
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from tests.kit import (
    BIN,
    COMMANDS,
    TIMEOUT,
    Process,
    Site,
    eventually,
    free_port,
    is_free,
    write,
)
from tests.kit.clients import Busy
from tests.kit.daemons import Ground, Terminal, ini
from tests.kit.processes import has_ended, kill, status_field
from tests.kit.users import AS_PLAIN_USER

# -- start ----------------------------------------------------------------------


@pytest.mark.parametrize('command', COMMANDS)
def test_a_page_is_served_the_moment_start_returns(ground, command):
    process = ground.start(command=command)
    assert ground.get() == f'hello {ground.pid}'
    assert process.out.text == (
        f'Starting server in PID {ground.pid}.\nServing on {ground.url}\n'
    )
    assert process.err.text == ''
    assert ground.processes() == [ground.pid]
    stopped = ground.run('site.ini', 'stop', command=command)
    assert stopped.code == 0, ground.report(stopped)
    assert ground.has_left_nothing()


def test_start_returns_only_after_the_last_component_has_started(ground):
    ground.change(plugin='gate_at_start')
    with ground.begin('site.ini', 'start') as process:
        ground.gate.wait()
        assert process.process.poll() is None
        assert process.out.text == ''
        ground.gate.open()
        assert process.wait() == 0, ground.report(process)
        ground.find_url(process)
    assert ground.get() == f'hello {ground.pid}'


def failing(ground, **kwargs):
    """The one line that `start` says of a site that does not start, and its exit code."""
    ground.change(**kwargs)
    process = ground.run('site.ini', 'start')
    assert process.out.text == ''
    (line,) = process.err.text.splitlines()
    assert 'Traceback' not in line
    assert ground.has_left_nothing()
    return line, process.code


def test_start_tells_of_a_broken_application(ground):
    line, code = failing(ground, app='make_broken')
    assert code == 1
    assert 'site.ini [app:main]' in line
    assert 'out of order' in line


def test_start_tells_of_a_mistake_in_the_ini(ground):
    line, code = failing(ground, stop_timeot=3)
    assert code == 2
    assert 'stop_timeot' in line
    assert 'stop_timeout' in line


def test_start_tells_of_a_missing_ini(ground):
    process = ground.run('nowhere.ini', 'start')
    assert (process.code, process.out.text) == (2, '')
    assert process.err.text == 'nowhere.ini: there is no such file\n'
    assert ground.has_left_nothing()


def test_start_tells_of_a_port_that_is_taken(ground):
    with socket.create_server(('127.0.0.1', 0)) as taken:
        port = taken.getsockname()[1]
        line, code = failing(ground, port=port)
    assert code == 1
    assert f'127.0.0.1:{port}' in line


def test_start_tells_of_a_component_that_does_not_start(ground):
    line, code = failing(ground, plugin='broken_start')
    assert code == 1
    assert 'no database' in line
    assert '[plugin:broken_start]' in line


def test_start_passes_on_that_the_site_got_sigterm_while_it_was_composed(ground):
    ground.change(app='make_at_gate')
    with ground.begin('site.ini', 'start') as process:
        ground.gate.wait()
        kill(ground.pid, signal.SIGTERM)
        assert process.wait() == 143, ground.report(process)
        assert ground.has_left_nothing()
        assert 'Traceback' not in process.err.text


def test_start_tells_that_the_site_was_killed_while_it_was_composed(ground):
    ground.change(app='make_at_gate')
    with ground.begin('site.ini', 'start') as process:
        ground.gate.wait()
        pid = ground.pid
        kill(pid)
        assert process.wait() == 1, ground.report(process)
    (line,) = process.err.text.splitlines()
    assert str(pid) in line
    assert ground.has_left_nothing()


@pytest.mark.parametrize(
    ('signum', 'code'), [(signal.SIGINT, 130), (signal.SIGTERM, 143)]
)
def test_a_signal_to_the_command_stops_the_site_that_it_starts(ground, signum, code):
    ground.change(app='make_at_gate')
    with ground.begin('site.ini', 'start') as process:
        ground.gate.wait()
        process.send(signum)
        assert process.wait() == code, ground.report(process)
        assert ground.has_left_nothing()
    assert 'Traceback' not in process.err.text


MISSES_THE_FIRST = """
import signal


def make(global_conf, text):
    ours = signal.getsignal(signal.SIGTERM)
    signal.signal(signal.SIGTERM, lambda *_: signal.signal(signal.SIGTERM, ours))
    with open('gate') as gate:
        gate.read()
"""


def test_a_site_that_misses_the_signal_while_it_composes_gets_another(ground):
    write(ground.folder, {'webapp.py': MISSES_THE_FIRST})
    with ground.begin('site.ini', 'start') as process:
        ground.gate.wait()
        process.send(signal.SIGINT)
        assert process.wait() == 130, ground.report(process)
        assert ground.has_left_nothing()


def test_a_signal_to_the_command_stops_a_site_whose_components_start(ground):
    ground.change(plugin='gate_at_start')
    with ground.begin('site.ini', 'start') as process:
        ground.gate.wait()
        process.send(signal.SIGINT)
        ground.gate.open()
        assert process.wait() == 130, ground.report(process)
        assert ground.has_left_nothing()


INTERRUPTED_AT_ONCE = """
    import os
    import signal
    import sys

    from paste_wspbus.command.main import main
    from paste_wspbus.plugins import daemon
    from paste_wspbus.report import Report

    launcher, say_pid = os.getpid(), Report.pid


    def interrupt_first(report):
        os.kill(launcher, signal.SIGINT)
        # It handles that while it waits, so that it does not wait any more.
        while True:
            with open(f'/proc/{launcher}/status') as status:
                if 'ShdPnd:\\t0000000000000000' in status.read():
                    break
        say_pid(report)


    Report.pid = interrupt_first
    sys.exit(main(['site.ini', 'start']))
"""


def test_ctrl_c_before_the_command_knows_the_daemon_stops_it_too(ground):
    ground.change(app='make_at_gate')
    write(ground.folder, {'script.py': INTERRUPTED_AT_ONCE})
    words = [sys.executable, 'script.py']
    with Process(words, ground.folder) as process:
        assert process.wait() == 130, ground.report(process)
    assert ground.has_left_nothing()


def test_the_files_of_a_daemon_are_in_the_working_directory(ground):
    elsewhere = ground.folder / 'elsewhere'
    elsewhere.mkdir()
    inside = Ground(elsewhere)
    try:
        process = inside.run('../site.ini', 'start', env={'PYTHONPATH': '..'})
        assert process.code == 0, inside.report(process)
        made = {path.name for path in elsewhere.iterdir()}
        assert {'paster.pid', 'paster.log', 'paster.pid.sock'} <= made
        assert not ground.pid_file.exists()
        assert os.readlink(f'/proc/{inside.pid}/cwd') == str(elsewhere)
        inside.run('../site.ini', 'stop')
        assert inside.has_left_nothing()
    finally:
        inside.close()


def test_the_files_of_a_daemon_are_where_the_options_say(ground):
    (ground.folder / 'run').mkdir()
    files = ['--pid-file=run/site.number', '--log-file', 'run/site.log']
    ground.start(*files)
    pid = int((ground.folder / 'run/site.number').read_text())
    assert ground.get() == f'hello {pid}'
    assert not ground.pid_file.exists()
    assert not ground.log_file.exists()
    assert os.readlink(f'/proc/{pid}/fd/2') == str(ground.folder / 'run/site.log')
    assert ground.run('site.ini', 'status').code == 3
    assert ground.run('site.ini', 'status', *files).code == 0
    assert ground.run('site.ini', 'stop', *files).code == 0
    assert os.listdir(ground.folder / 'run') == ['site.log']


def test_a_daemon_has_a_session_of_its_own_and_no_input(ground):
    ground.start(umask=0o027)
    pid = ground.pid
    assert os.readlink(f'/proc/{pid}/fd/0') == os.devnull
    assert os.getsid(pid) not in (os.getsid(0), pid), 'it could get a terminal'
    assert status_field(pid, 'Umask') == '0027'
    assert os.readlink(f'/proc/{pid}/cwd') == str(ground.folder)
    ours = {'pipe', 'paster.pid', 'paster.pid.lock', 'paster.log'}
    fds = [os.readlink(f'/proc/{pid}/fd/{n}') for n in os.listdir(f'/proc/{pid}/fd')]
    assert {Path(fd).name for fd in fds if fd.startswith(str(ground.folder))} <= ours


def test_a_daemons_files_are_0644_whatever_the_umask_allows(ground):
    ground.start(umask=0)
    assert ground.pid_file.stat().st_mode & 0o777 == 0o644
    assert ground.log_file.stat().st_mode & 0o777 == 0o644
    for private in (ground.control, ground.lock_file):
        assert private.stat().st_mode & 0o777 == 0o600


def test_start_of_what_runs_says_so_and_is_no_failure(ground):
    ground.start()
    pid = ground.pid
    again = ground.run('site.ini', 'start')
    assert again.code == 0, ground.report(again)
    assert again.out.text == f'The site is running already (process {pid}).\n'
    assert again.err.text == ''
    assert ground.processes() == [pid]
    assert ground.get() == f'hello {pid}'


def test_start_of_what_hangs_says_that_it_runs(ground):
    ground.change(start_timeout=1)
    ground.start()
    pid = ground.pid
    kill(pid, signal.SIGSTOP)
    try:
        process = ground.run('site.ini', 'start')
    finally:
        kill(pid, signal.SIGCONT)
    assert process.code == 1, ground.report(process)
    assert f'is running (process {pid}), but does not answer' in process.err.text
    assert ground.get() == f'hello {pid}'


def test_the_option_daemon_alone_starts_a_daemon(ground):
    process = ground.run('--daemon', 'site.ini')
    assert process.code == 0, ground.report(process)
    ground.find_url(process)
    pid = ground.pid
    assert ground.get() == f'hello {pid}'
    again = ground.run('site.ini', '--daemon')
    assert again.code == 1, ground.report(again)
    assert again.out.text == ''
    (line,) = again.err.text.splitlines()
    assert f'process {pid} ' in line
    assert 'paster.pid' in line
    assert ground.processes() == [pid]


def test_quiet_start_prints_nothing(ground):
    for _ in range(2):  # and so it does where the site runs already
        process = ground.run('site.ini', 'start', '-q')
        assert process.code == 0, ground.report(process)
        assert (process.out.text, process.err.text) == ('', '')
    assert len(ground.processes()) == 1


WORDS = {
    'the usual': 'site.ini start word=vars',
    'vars first': 'site.ini word=vars start',
    'options first': '--log-file=my.log site.ini start word=vars',
    'options between': 'site.ini --log-file=my.log word=vars --daemon start',
    'options last': 'site.ini start word=vars -v --log-file my.log',
}


@pytest.mark.parametrize('words', WORDS.values(), ids=WORDS)
def test_vars_and_options_stand_in_any_order(ground, words):
    ground.change(text='%(word)s')
    process = ground.run(*words.split())
    assert process.code == 0, ground.report(process)
    ground.find_url(process)
    assert ground.get() == f'vars {ground.pid}'
    assert (ground.folder / 'my.log').exists() == ('my.log' in words)


def test_the_environment_names_the_file_that_is_started(ground):
    environ = {'PASTE_CONFIG_FILE': 'site.ini'}
    ground.change(text='%(word)s')
    process = ground.run('start', 'word=vars', env=environ)
    assert process.code == 0, ground.report(process)
    ground.find_url(process)
    assert ground.get() == f'vars {ground.pid}'
    assert ground.run('status', env=environ).code == 0
    assert ground.run('stop', env=environ).code == 0
    assert ground.has_left_nothing()


def test_start_does_not_wait_for_a_child_that_the_application_has_forked(ground):
    ground.change(app='make_with_child')
    ground.start()
    child = int(re.search(r'child (\d+)', ground.log)[1])
    assert ground.get() == f'hello {ground.pid}'
    kill(child)


FOR_EVER = """
    import sys

    from paste_wspbus.command.main import main
    from paste_wspbus.unix import daemonizing

    daemonizing.GOING = 1000
    sys.exit(main())
"""


def test_start_of_a_broken_site_does_not_wait_for_a_child_that_it_forked(ground):
    ground.change(app='make_with_child', plugin='broken_start')
    write(ground.folder, {'for_ever.py': FOR_EVER})
    words = [sys.executable, 'for_ever.py']
    with ground.begin('site.ini', 'start', command=words) as process:
        assert process.wait() == 1, ground.report(process)
        assert 'no database' in process.err.text
        child = int(re.search(r'child (\d+)', ground.log)[1])
        kill(child)


def test_start_succeeds_where_nobody_reads_what_it_prints(ground):
    reader, writer = os.pipe()
    os.close(reader)
    words = [BIN / 'wspserve', 'site.ini', 'start']
    try:
        process = subprocess.run(
            words,
            cwd=ground.folder,
            stdin=subprocess.DEVNULL,
            stdout=writer,
            stderr=subprocess.PIPE,
            timeout=TIMEOUT,
        )
    finally:
        os.close(writer)
    assert (process.returncode, process.stderr) == (0, b'')
    assert ground.processes() == [ground.pid]


def test_start_tells_of_a_log_file_that_cannot_be_written(ground):
    ground.log_file.touch(0o444)
    process = ground.run('site.ini', 'start', command=AS_PLAIN_USER)
    assert process.code == 2, ground.report(process)
    (line,) = process.err.text.splitlines()
    assert 'paster.log' in line
    assert 'permission denied' in line
    assert ground.has_left_nothing()


def test_a_daemon_goes_on_when_the_disk_of_its_log_is_full(ground):
    ground.change(plugin='broken_stop')
    ground.start('-v', '--log-file', '/dev/full')
    assert ground.get() == f'hello {ground.pid}'
    stopped = ground.run('site.ini', 'stop')
    assert stopped.code == 1, ground.report(stopped)
    assert ground.has_left_nothing()


def test_a_server_that_fails_in_its_start_is_told_of_under_a_supervisor_too(ground):
    text = ini().replace('threads = 4', 'threadpool_workers = 3')
    write(ground.folder, {'site.ini': text.replace('egg:waitress', 'egg:Paste#http')})
    command = ground.run('site.ini', 'start', '--monitor-restart')
    assert command.code == 1
    (line,) = command.err.text.splitlines()
    assert line.startswith('site.ini [server:main]: ')
    assert 'spawn_if_under' in line


def test_start_works_without_standard_streams(ground):
    started = subprocess.run(
        ['sh', '-c', 'exec "$0" site.ini start <&- >&- 2>&-', BIN / 'wspserve'],
        cwd=ground.folder,
        timeout=TIMEOUT,
    )
    assert started.returncode == 0
    assert '"ready"' not in ground.log
    assert 'Serving on ' in ground.log
    ground.stop()


# -- status ---------------------------------------------------------------------


def status(ground, *args, **kwargs):
    process = ground.run('site.ini', 'status', *args, **kwargs)
    assert process.err.text == '', process.report()
    return process.code, process.out.text


def test_status_of_a_running_site_tells_process_and_url(ground):
    ground.start()
    code, text = status(ground)
    assert code == 0
    first, second = text.splitlines()
    assert re.fullmatch(
        rf'The site is running \(process {ground.pid}\), for \d+ seconds?\.', first
    )
    assert second == f'Serving on {ground.url}'


def test_status_of_a_site_that_does_not_run(ground):
    code, text = status(ground)
    assert code == 3
    assert text == 'The site is not running (there is no paster.pid).\n'
    assert not ground.pid_file.exists()


def test_a_killed_site_is_dead_and_can_be_started_again(ground):
    ground.start()
    first = ground.pid
    kill(first)
    code, text = status(ground)
    assert code == 1
    assert str(first) in text
    assert 'paster.pid' in text
    ground.start()
    assert ground.pid != first
    assert ground.get() == f'hello {ground.pid}'
    assert (
        f'process {first}, which wrote it, is gone; this site uses the file now'
        in ground.log
    )
    ground.stop()
    assert ground.has_left_nothing()


def test_stop_tidies_up_after_a_killed_site(ground):
    ground.start()
    kill(ground.pid)
    process = ground.stop()
    assert 'not running' in process.out.text
    assert ground.has_left_nothing()


def test_the_option_status_is_the_subcommand(ground):
    ground.start()
    for words in (['--status', 'site.ini'], ['site.ini', '--status'], ['--status']):
        process = ground.run(*words)
        assert process.code == 0
        assert f'process {ground.pid}' in process.out.text
    ground.stop()
    assert ground.run('--status').code == 3


def test_status_of_a_site_that_is_composed(ground):
    ground.change(app='make_at_gate')
    with ground.begin('site.ini', 'start') as process:
        ground.gate.wait()
        code, text = status(ground)
        assert code == 0
        assert f'process {ground.pid}' in text
        ground.gate.open()
        assert process.wait() == 0, ground.report(process)


def test_status_names_the_requests_in_flight(ground):
    ground.start()
    with ground.request_at_gate('/Gate/To/X') as connection:
        code, text = status(ground)
        assert code == 0
        assert '1 request in flight' in text
        assert '/Gate/To/X' in text
        ground.gate.open()
        assert connection.receive().text == f'hello {ground.pid}'


# -- stop -----------------------------------------------------------------------


def test_the_site_is_gone_when_stop_returns(ground):
    ground.start()
    pid = ground.pid
    process = ground.run('site.ini', 'stop')
    assert has_ended(pid)
    assert ground.has_left_nothing()
    assert is_free(ground.port)
    assert (process.code, process.err.text) == (0, '')
    assert process.out.text == 'The site has stopped.\n'


@pytest.mark.parametrize('words', ['--stop-daemon site.ini', '--stop-daemon'])
def test_the_option_stop_daemon_is_the_subcommand(ground, words):
    ground.start()
    process = ground.run(*words.split())
    assert process.code == 0, ground.report(process)
    assert ground.has_left_nothing()


def test_stop_of_what_does_not_run_says_so_and_is_no_failure(ground):
    process = ground.run('site.ini', 'stop')
    assert (process.code, process.err.text) == (0, '')
    assert 'not running' in process.out.text
    assert ground.has_left_nothing()


def test_stop_waits_for_the_request_in_flight_and_says_so(ground):
    ground.start()
    pid = ground.pid
    with ground.request_at_gate() as request, ground.begin('site.ini', 'stop') as stop:
        stop.expect('\n')
        assert stop.process.poll() is None
        ground.gate.open()
        assert request.receive().text == f'hello {pid}'
        assert stop.wait() == 0, ground.report(stop)
    (line,) = stop.err.text.splitlines()
    assert f'process {pid}' in line
    assert 'waiting for 1 request in flight' in line
    assert '/Gate' in line
    assert stop.out.text == 'The site has stopped.\n'
    assert ground.has_left_nothing()


def test_stop_says_which_component_it_waits_for(ground):
    ground.change(plugin='gate_at_stop')
    ground.start()
    with ground.begin('site.ini', 'stop') as stop:
        stop.expect('\n')
        ground.gate.wait()
        ground.gate.open()
        assert stop.wait() == 0, ground.report(stop)
    assert "waiting for the 'stop' listener gate_at_stop" in stop.err.text


@pytest.fixture
def terminal():
    terminal = Terminal()
    yield terminal
    terminal.close()


def test_stop_tells_a_terminal_every_second_what_it_waits_for(ground, terminal):
    ground.start()
    with ground.request_at_gate():
        stop = subprocess.Popen(
            [BIN / 'wspserve', 'site.ini', 'stop'],
            cwd=ground.folder,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=terminal.theirs,
        )
        try:
            terminal.hand_over()
            assert terminal.read_until(b', 2 s: waiting for 1 request in flight'), (
                terminal.text
            )
            ground.gate.open()
            assert stop.wait(TIMEOUT) == 0
        finally:
            stop.kill()
            stop.wait()
    assert not terminal.read_until(b'never said')
    assert b', 1 s: waiting for 1 request in flight' in terminal.text
    assert b'\n' not in terminal.text
    assert terminal.text.endswith(b'\r\x1b[K'), 'the line is left behind'
    assert ground.has_left_nothing()


def test_stop_of_a_site_that_stops_with_failures_is_a_failure(ground):
    ground.change(plugin='broken_stop')
    ground.start()
    process = ground.run('site.ini', 'stop')
    assert process.code == 1, ground.report(process)
    assert 'stopped with failures' in process.out.text
    assert 'no goodbye' in ground.log
    assert ground.has_left_nothing()


def test_stop_of_a_site_that_ignores_its_deadline_is_a_failure(ground):
    ground.change(plugin='endless_stop', stop_timeout=1)
    ground.start()
    process = ground.run('site.ini', 'stop')
    assert process.code == 1, ground.report(process)
    assert 'ended by force' in process.out.text
    assert ground.has_left_nothing()


def test_stop_of_a_site_whose_request_does_not_end_is_a_failure(ground):
    ground.change(stop_timeout=1)
    ground.start()
    with ground.request_at_gate():
        process = ground.run('site.ini', 'stop')
        assert process.code == 1, ground.report(process)
        assert 'stopped with failures (exit code 1)' in process.out.text
        assert ground.has_left_nothing()
    assert '/Gate' in ground.log


IMPATIENT = """
    import sys

    from paste_wspbus.command.main import main

    from paste_wspbus.control import stop as stopping

    stopping.UNKNOWN['deadline'], stopping.MARGIN = 0.0, 0.5
    sys.exit(main())
"""


@pytest.mark.parametrize('command', ['stop', 'restart'])
def test_a_stopped_process_is_killed_at_last(ground, command):
    ground.start()
    pid = ground.pid
    write(ground.folder, {'impatient.py': IMPATIENT})
    kill(pid, signal.SIGSTOP)
    process = ground.run('site.ini', command, command=[sys.executable, 'impatient.py'])
    assert has_ended(pid)
    assert f'Process {pid} did not stop within' in process.err.text
    if command == 'stop':
        assert process.code == 1, ground.report(process)
        assert ground.has_left_nothing()
    else:
        assert process.code == 0, ground.report(process)
        ground.find_url(process)
        assert ground.get() == f'hello {ground.pid}'


def test_stop_of_a_site_that_is_composed(ground):
    ground.change(app='make_at_gate')
    with ground.begin('site.ini', 'start') as process:
        ground.gate.wait()
        stopped = ground.run('site.ini', 'stop')
        assert process.wait() == 143
    assert stopped.code == 0, stopped.report()
    assert ground.has_left_nothing()


def test_stop_of_a_site_whose_components_start(ground):
    ground.change(plugin='gate_at_start')
    with ground.begin('site.ini', 'start') as process:
        ground.gate.wait()
        with ground.begin('site.ini', 'stop') as stop:
            stop.expect('Stopping process')
            ground.gate.open()
            assert stop.wait() == 0, ground.report(stop)
        assert process.wait() != 0, ground.report(process)
    assert ground.has_left_nothing()


def test_two_stops_at_once_both_tell_the_truth(ground):
    ground.start()
    with (
        ground.request_at_gate(),
        ground.begin('site.ini', 'stop') as one,
        ground.begin('site.ini', 'stop') as other,
    ):
        one.expect('waiting for')
        other.expect('waiting for')
        ground.gate.open()
        assert (one.wait(), other.wait()) == (0, 0)
        assert one.out.text == other.out.text == 'The site has stopped.\n'
        assert ground.has_left_nothing()


def test_stop_leaves_another_site_alone_that_started_meanwhile(ground):
    ground.start()
    with ground.request_at_gate(), ground.begin('site.ini', 'stop') as stop:
        stop.expect('waiting for')
        with ground.begin('site.ini', 'start') as start:
            ground.gate.open()
            assert stop.wait() == 0, ground.report(stop)
            assert start.wait() == 0, ground.report(start)
            ground.find_url(start)
    assert ground.get() == f'hello {ground.pid}'
    assert ground.processes() == [ground.pid]


# -- restart --------------------------------------------------------------------


class Clients(Busy):
    """Clients that ask for a page, each time on a new connection."""

    def __init__(self, ground, count=4):
        super().__init__(count)
        self.texts, self.errors, self._ground = [], [], ground

    def do(self):
        try:
            self.texts.append(self._ground.get())
        except Exception as error:
            self.errors.append(error)

    def have_seen(self, text):
        eventually(lambda: text in self.texts or self.errors)
        return not self.errors


class LockWatch(Busy):
    """Looks without a pause whether somebody could take the lock of the PID file."""

    def __init__(self, ground):
        super().__init__()
        self.was_free, self.looks, self._path = [], 0, ground.lock_file

    def do(self):
        try:
            with open(self._path) as file:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
                self.was_free.append('free')
        except BlockingIOError:
            self.looks += 1
        except FileNotFoundError as error:
            self.was_free.append(error)


def restart(ground, *args):
    process = ground.run('site.ini', 'restart', *args)
    assert process.code == 0, ground.report(process)
    return process


def test_no_connection_is_refused_or_reset_while_a_site_is_restarted(ground):
    ground.start()
    first, port = ground.pid, ground.port
    with Clients(ground) as clients:
        assert clients.have_seen(f'hello {first}')
        ground.change(text='changed')
        with LockWatch(ground) as watch:
            process = restart(ground)
        second = ground.pid
        assert clients.have_seen(f'changed {second}')
    assert clients.errors == []
    assert set(clients.texts) == {f'hello {first}', f'changed {second}'}
    assert second != first
    assert has_ended(first)
    assert watch.was_free == []
    assert watch.looks > 0
    ground.find_url(process)
    assert ground.port == port
    assert ground.processes() == [second]
    code, text = status(ground)
    assert code == 0
    assert f'process {second}' in text
    ground.stop()
    assert ground.has_left_nothing()


def test_a_site_can_be_restarted_again_and_again(ground):
    ground.start()
    port, seen = ground.port, {ground.pid}
    first = len(os.listdir(f'/proc/{ground.pid}/fd'))
    for _ in range(3):
        ground.find_url(restart(ground))
        assert ground.port == port
        seen.add(ground.pid)
        assert ground.get() == f'hello {ground.pid}'
    assert len(seen) == 4
    eventually(lambda: len(os.listdir(f'/proc/{ground.pid}/fd')) <= first)


def test_restart_of_what_does_not_run_starts_it(ground):
    ground.find_url(restart(ground))
    assert ground.get() == f'hello {ground.pid}'


def test_restart_of_a_killed_site_starts_it(ground):
    ground.start()
    kill(ground.pid)
    ground.find_url(restart(ground))
    assert ground.get() == f'hello {ground.pid}'


def test_the_request_in_flight_is_answered_by_the_site_that_makes_way(ground):
    ground.start()
    first = ground.pid
    with (
        ground.request_at_gate() as request,
        ground.begin('site.ini', 'restart') as process,
    ):
        eventually(lambda: 'stopping' in status(ground)[1])
        waiting = ground.connect()
        waiting.send(connection='close')
        ground.gate.open()
        assert request.receive().text == f'hello {first}'
        assert process.wait() == 0, ground.report(process)
        with waiting:
            assert waiting.receive().text == f'hello {ground.pid}'
    assert ground.pid != first


FAILURES = {
    'application': ({'app': 'make_broken'}, 1, 'out of order'),
    'component': ({'plugin': 'broken_start'}, 1, 'no database'),
}


@pytest.mark.parametrize(('broken', 'code', 'words'), FAILURES.values(), ids=FAILURES)
def test_restart_leaves_nothing_if_the_new_site_does_not_start(
    ground, broken, code, words
):
    ground.start()
    ground.change(**broken)
    process = ground.run('site.ini', 'restart')
    assert process.code == code, ground.report(process)
    (line,) = process.err.text.splitlines()
    assert words in line
    assert process.out.text == ''
    assert ground.has_left_nothing()
    assert is_free(ground.port)


def test_restart_with_a_mistake_in_the_ini_does_not_stop_the_site(ground):
    ground.start()
    pid = ground.pid
    ground.change(stop_timeot=3)
    process = ground.run('site.ini', 'restart')
    assert process.code == 2, ground.report(process)
    (line,) = process.err.text.splitlines()
    assert 'stop_timeot' in line
    assert ground.get() == f'hello {pid}'
    assert ground.processes() == [pid]


def test_restart_with_a_variable_that_is_not_given_does_not_stop_the_site(ground):
    ground.start()
    pid = ground.pid
    ini = ground.folder / 'site.ini'
    ini.write_text(re.sub('(?m)^port = .*', 'port = %(nobody)s', ini.read_text()))
    process = ground.run('site.ini', 'restart')
    assert process.code == 2, ground.report(process)
    (line,) = process.err.text.splitlines()
    assert 'write nobody=VALUE after the file name' in line
    assert 'has stopped' not in line
    assert ground.get() == f'hello {pid}'


def test_restart_moves_the_site_to_the_port_that_the_ini_says_now(ground):
    ground.start()
    old, new = ground.port, free_port()
    ground.change(port=new)
    ground.find_url(restart(ground))
    assert ground.port == new
    assert ground.get() == f'hello {ground.pid}'
    assert is_free(old)


def test_restart_to_a_port_that_is_taken_leaves_nothing(ground):
    ground.start()
    with socket.create_server(('127.0.0.1', 0)) as taken:
        port = taken.getsockname()[1]
        ground.change(port=port)
        process = ground.run('site.ini', 'restart')
        assert process.code == 1, ground.report(process)
        (line,) = process.err.text.splitlines()
        assert f'127.0.0.1:{port}' in line
    assert ground.has_left_nothing()


def test_restart_to_a_log_file_that_cannot_be_had_leaves_nothing(ground):
    ground.start()
    process = ground.run('site.ini', 'restart', '--log-file', 'no/folder/site.log')
    assert process.code == 2, ground.report(process)
    (line,) = process.err.text.splitlines()
    assert 'no/folder/site.log' in line
    assert ground.has_left_nothing()


def test_ctrl_c_of_a_restart_while_the_old_site_stops_leaves_nothing(ground):
    ground.start()
    first = ground.pid
    with ground.request_at_gate() as request:
        with ground.begin('site.ini', 'restart') as process:
            eventually(lambda: 'stopping' in status(ground)[1])
            process.send(signal.SIGINT)
            assert process.wait() == 130, ground.report(process)
        ground.gate.open()
        assert request.receive().text == f'hello {first}'
    eventually(lambda: has_ended(first))
    assert ground.has_left_nothing()


def test_two_restarts_at_once_leave_one_site(ground):
    ground.start()
    first = ground.pid
    with (
        ground.request_at_gate(),
        ground.begin('site.ini', 'restart') as one,
        ground.begin('site.ini', 'restart') as other,
    ):
        eventually(lambda: 'stopping' in status(ground)[1])
        ground.gate.open()
        codes = one.wait(), other.wait()
        texts = one.err.text + other.err.text
        assert 'Traceback' not in texts, texts
        assert 0 in codes, ground.report(one) + ground.report(other)
        for process in (one, other):  # whoever comes to nothing says so
            code = process.process.returncode
            assert (code == 0) == ('Serving on' in process.out.text), process.report()
    assert ground.pid != first
    assert ground.processes() == [ground.pid]
    for process in (one, other):
        if f'PID {ground.pid}.' in process.out.text:
            ground.find_url(process)
    assert ground.get() == f'hello {ground.pid}'


# -- HUP ------------------------------------------------------------------------


def start_time(pid):
    return Path(f'/proc/{pid}/stat').read_text().rpartition(')')[2].split()[19]


def test_hup_replaces_the_program_in_the_same_process(ground):
    ground.start()
    pid, port = ground.pid, ground.port
    inode, born = ground.pid_file.stat().st_ino, start_time(pid)
    with Clients(ground) as clients:
        assert clients.have_seen(f'hello {pid}')
        ground.change(text='changed')
        with LockWatch(ground) as watch:
            kill(pid, signal.SIGHUP)
            assert clients.have_seen(f'changed {pid}')
    assert clients.errors == []
    assert set(clients.texts) == {f'hello {pid}', f'changed {pid}'}
    assert watch.was_free == []
    assert watch.looks > 0
    assert ground.processes() == [pid]
    assert start_time(pid) == born
    assert ground.pid == pid
    assert ground.pid_file.stat().st_ino == inode
    code, text = status(ground)
    assert code == 0
    assert f'process {pid}' in text
    assert text.endswith(f':{port}\n')
    assert os.readlink(f'/proc/{pid}/fd/2') == str(ground.log_file)
    assert 'Traceback' not in ground.log
    ground.stop()
    assert ground.has_left_nothing()


def test_hup_does_not_pile_up_descriptors(ground):
    ground.start()
    pid = ground.pid
    first = len(os.listdir(f'/proc/{pid}/fd'))
    for text in ('one', 'two', 'three'):
        ground.change(text=text)
        kill(pid, signal.SIGHUP)
        eventually(lambda text=text: ground.get() == f'{text} {pid}')
    # Without the client's, once the site has seen its end.
    eventually(lambda: len(os.listdir(f'/proc/{pid}/fd')) <= first)


def test_hup_goes_on_with_the_same_log_file(ground):
    ground.start('-v')
    pid = ground.pid
    ground.change(text='changed')
    before = ground.log
    kill(pid, signal.SIGHUP)
    eventually(lambda: ground.get() == f'changed {pid}')
    assert ground.log.startswith(before)
    eventually(lambda: 'Bus STARTED' in ground.log[len(before) :])


def test_hup_restarts_a_site_that_is_no_daemon(ground):
    with Site(ground.folder, None, 'site.ini') as site:
        ground.change(text='changed')
        port = site.port
        site.send(signal.SIGHUP)
        site.wait_until_served(2)
        assert site.port == port
        assert site.get().text == f'changed {site.pid}'
        assert site.stop()[0] == 0, site.report()
        assert site.has_left_nothing()


def test_hup_of_a_site_that_is_no_daemon_keeps_its_pid_file(ground):
    options = ['--pid-file', 'paster.pid']
    with Site(ground.folder, None, 'site.ini', *options) as site:
        inode = ground.pid_file.stat().st_ino
        site.send(signal.SIGHUP)
        site.wait_until_served(2)
        assert ground.pid == site.pid
        assert ground.pid_file.stat().st_ino == inode
        assert status(ground)[0] == 0
        assert ground.stop().out.text == 'The site has stopped.\n'
        assert site.wait() == 0, site.report()
        assert ground.has_left_nothing()


BROKEN = {**FAILURES, 'ini': ({'stop_timeot': 3}, 2, 'stop_timeot')}


@pytest.mark.parametrize(('broken', 'code', 'words'), BROKEN.values(), ids=BROKEN)
def test_hup_of_a_daemon_that_does_not_start_again_leaves_nothing(
    ground, broken, code, words
):
    ground.start()
    pid = ground.pid
    ground.change(**broken)
    kill(pid, signal.SIGHUP)
    eventually(lambda: has_ended(pid))
    assert words in ground.log
    assert 'Traceback' not in ground.log
    assert ground.has_left_nothing()


def test_hup_to_a_port_that_is_taken_leaves_nothing(ground):
    ground.start()
    pid = ground.pid
    with socket.create_server(('127.0.0.1', 0)) as taken:
        port = taken.getsockname()[1]
        ground.change(port=port)
        kill(pid, signal.SIGHUP)
        eventually(lambda: has_ended(pid))
    assert f'127.0.0.1:{port}' in ground.log
    assert ground.has_left_nothing()


def test_hup_moves_the_site_to_the_port_that_the_ini_says_now(ground):
    ground.start()
    pid, old, new = ground.pid, ground.port, free_port()
    ground.change(port=new)
    kill(pid, signal.SIGHUP)
    eventually(lambda: not is_free(new))
    ground.url = ground.url.replace(str(old), str(new))
    assert ground.get() == f'hello {pid}'
    assert is_free(old)
    assert f'127.0.0.1:{new}\n' in status(ground)[1]


def answer(ground):
    """A page's text; None where a site that dies resets the connection."""
    with contextlib.suppress(ConnectionError):
        return ground.get()


def test_a_hup_to_a_site_that_is_composed_is_carried_out_when_it_has_started(ground):
    ground.change(app='make_at_gate')
    with ground.begin('site.ini', 'start') as process:
        ground.gate.wait()
        pid = ground.pid
        kill(pid, signal.SIGHUP)
        ground.change(text='changed')
        ground.gate.open()
        assert process.wait() == 0, ground.report(process)
        ground.find_url(process)
    eventually(lambda: has_ended(pid) or answer(ground) == f'changed {pid}')
    assert ground.processes() == [pid]


@pytest.mark.parametrize('name', ['SIGUSR1', 'SIGUSR2'])
def test_a_signal_to_a_site_that_is_composed_does_not_end_it(ground, name):
    ground.change(app='make_at_gate')
    with ground.begin('site.ini', 'start') as process:
        ground.gate.wait()
        pid = ground.pid
        kill(pid, getattr(signal, name))
        ground.gate.open()
        assert process.wait() == 0, ground.report(process)
        ground.find_url(process)
    assert ground.get() == f'hello {pid}'
    assert ground.processes() == [pid]


def test_a_second_hup_while_the_first_is_carried_out_does_no_harm(ground):
    ground.start()
    pid = ground.pid
    ground.change(app='make_at_gate')
    kill(pid, signal.SIGHUP)
    ground.gate.wait()  # the new program composes the site
    kill(pid, signal.SIGHUP)
    ground.change(text='changed')
    ground.gate.open()
    eventually(lambda: has_ended(pid) or answer(ground) == f'changed {pid}')
    assert not has_ended(pid)
    assert ground.processes() == [pid]


# -- at the same instant --------------------------------------------------------


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
        assert all(start.err.text == '' for start in starts), report
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


# -- a site that becomes a daemon by itself ------------------------------------------

SELF_MADE = """
import os


def make(global_conf):
    return lambda environ, start_response: []


def make_in_a_child(global_conf):
    if os.fork():
        os._exit(0)
    os.setsid()
    with open('child', 'w') as file:
        file.write(str(os.getpid()))
    return make(global_conf)


def ours(bus, global_conf):
    from paste_wspbus.plugins.daemon import Daemonizer

    return Daemonizer(bus)


def cherrypys(bus, global_conf):
    from cherrypy.process.plugins import Daemonizer

    return Daemonizer(bus)
"""


@pytest.mark.parametrize(
    'app, plugin, said',
    [
        ('make_in_a_child', None, 'Worker 1 (process '),
        ('make', 'ours', 'site.ini [plugin:daemon]: a site that has a supervisor'),
        ('make', 'cherrypys', 'Worker 1 (process '),
    ],
    ids=['at its composition', 'Daemonizer', "CherryPy's Daemonizer"],
)
def test_a_site_with_workers_cannot_become_a_daemon_by_itself(
    tmp_path, app, plugin, said
):
    ini = f"""
    [app:main]
    use = call:webapp:{app}
    [server:main]
    use = egg:waitress
    port = 0
    [wspbus:main]
    plugins = {'daemon' if plugin else ''}
    workers = 1
    [plugin:daemon]
    use = call:webapp:{plugin or 'ours'}
    """
    with Site(tmp_path, ini, files={'webapp.py': SELF_MADE}, wait=False) as site:
        assert site.wait() == 1, site.report()
        lines = site.err.text.splitlines()
        told = [line for line in lines if line.startswith(said)]
        assert told and 'daemon by itself' in told[0], site.report()
        eventually(site.has_left_nothing)
        child = tmp_path / 'child'
        if child.exists():
            eventually(lambda: has_ended(int(child.read_text())))
    assert site.out.text == ''
