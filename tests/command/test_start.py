"""Daemons: what `start` waits for, tells, and leaves where."""

import os
import re
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from paste_wspbus.inbox import Inbox
from paste_wspbus.report import Report
from paste_wspbus.unix import daemonizing
from paste_wspbus.unix.daemonizing import LONG
from tests.kit import BIN, COMMANDS, TIMEOUT, Process, Site, write
from tests.kit.daemons import Ground, ini
from tests.kit.processes import kill, lines_beside_progress, status_field
from tests.kit.users import AS_PLAIN_USER


@pytest.mark.parametrize('command', COMMANDS)
def test_a_page_is_served_the_moment_start_returns(ground, command):
    process = ground.start(command=command)
    assert ground.get() == f'hello {ground.pid}'
    assert process.out.text == (
        f'Starting server in PID {ground.pid}.\nServing on {ground.url}\n'
    )
    assert not lines_beside_progress(process)
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


@pytest.mark.parametrize('what', [{'app': 'make_broken'}, {'plugin': 'broken_start'}])
@pytest.mark.parametrize(
    ('args', 'settings'),
    [
        (['start'], {}),
        (['start'], {'workers': 2}),
        (['start'], {'workers': 2, 'preload': 'true'}),
        (['start'], {'workers': 1, 'restart': 'child'}),
        (['start', '-v'], {}),
        (['start', '--log-file', 'logs/own.log'], {}),
        (['--log-file', 'logs/own.log'], {}),
        (['--log-file', 'logs/own.log'], {'workers': 1}),
    ],
    ids=str,
)
def test_the_traceback_of_a_failed_start_is_in_the_log(ground, what, args, settings):
    (ground.folder / 'logs').mkdir()
    ground.change(**what, **settings)
    process = ground.run('site.ini', *args)
    assert process.code == 1
    (line,) = process.err.text.splitlines()
    why = 'out of order' if 'app' in what else 'no database'
    log = ground.folder / args[-1] if args[-1].endswith('.log') else ground.log_file
    assert re.search(rf'{why}, at webapp\.py:\d+ in \w+', line)
    assert line.endswith(f' (the traceback is in {log})')
    text = log.read_text()
    assert 'Traceback (most recent call last)' in text
    assert f"raise {'ValueError' if 'app' in what else 'LookupError'}('{why}')" in text
    trace = text.partition('Traceback')[2].partition('Error: ')[0]
    assert '-v' in args or 'paste_wspbus' not in trace


def test_a_mistake_in_the_ini_has_no_traceback_in_the_log(ground):
    ground.change(app='nowhere')
    process = ground.run('site.ini', 'start')
    assert process.code == 2
    assert 'Traceback' not in ground.log
    assert "no attribute 'nowhere'\n" in process.err.text


def test_start_tells_of_a_broken_application(ground):
    line, code = failing(ground, app='make_broken')
    assert code == 1
    assert 'site.ini [app:main]' in line
    assert 'out of order' in line


def test_start_does_not_say_of_a_site_that_sends_nonsense_that_it_has_ended(ground):
    with open(ground.folder / 'webapp.py', 'a') as file:
        file.write("""
import stat
for fd in range(3, 64):
    try:
        if stat.S_ISFIFO(os.fstat(fd).st_mode):
            os.write(fd, b'nonsense\\n')
    except OSError:
        pass
""")
    process = ground.run('site.ini', 'start')
    assert process.code == 1, process.report()
    assert 'has sent something that is not a report' in process.err.text
    assert ground.status()[0] == 0  # as that line says


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
    # A line before it may say that the start takes long.
    *_, line = process.err.text.splitlines()
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
    assert ground.run('site.ini', 'status').code == 0
    assert ground.run('site.ini', 'status', *files).code == 0
    assert ground.run('site.ini', 'status', '--pid-file', 'paster.pid').code == 3
    assert ground.run('site.ini', 'stop', *files).code == 0
    assert os.listdir(ground.folder / 'run') == ['site.log']


def test_a_daemon_has_a_session_of_its_own_and_no_input(ground):
    ground.start(umask=0o027)
    pid = ground.pid
    assert os.readlink(f'/proc/{pid}/fd/0') == os.devnull
    assert os.getsid(pid) not in (os.getsid(0), pid), 'it could get a terminal'
    assert status_field(pid, 'Umask') == '0027'
    assert os.readlink(f'/proc/{pid}/cwd') == str(ground.folder)
    # The folder itself is open, so that the files can be removed in any case.
    ours = {'pipe', 'paster.pid', 'paster.pid.lock', 'paster.log', ground.folder.name}
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


def test_start_says_at_once_that_it_may_not_ask_the_daemon(ground):
    ground.change(start_timeout=TIMEOUT * 10)
    ground.start(command=AS_PLAIN_USER)
    ground.control.chmod(0)
    says_that_it_may_not_ask(ground)


def test_start_finds_its_own_site_whose_lock_it_must_not_open(ground):
    ground.start(command=AS_PLAIN_USER)
    ground.lock_file.chmod(0)
    again = ground.run('site.ini', 'start', command=AS_PLAIN_USER)
    assert (again.code, again.err.text) == (0, '')
    assert again.out.text == f'The site is running already (process {ground.pid}).\n'
    ground.stop()


def test_start_says_that_it_may_not_ask_the_site_in_the_foreground(ground, tmp_path):
    control = tmp_path / 'c.sock'
    ground.change(control=control)
    with Site(ground.folder, None, 'site.ini', command=AS_PLAIN_USER) as site:
        control.chmod(0)
        says_that_it_may_not_ask(ground)
        assert site.stop()[0] == 0, site.report()


def says_that_it_may_not_ask(ground):
    again = ground.run('site.ini', 'start', command=AS_PLAIN_USER)
    assert (again.code, again.out.text) == (1, '')
    (line,) = again.err.text.splitlines()
    assert 'does not answer: permission denied' in line


def test_a_daemon_goes_on_when_the_disk_of_its_log_is_full(ground):
    ground.change(plugin='broken_stop')
    ground.start('-v', '--log-file', '/dev/full')
    assert ground.get() == f'hello {ground.pid}'
    stopped = ground.run('site.ini', 'stop')
    assert stopped.code == 1, ground.report(stopped)
    assert ground.has_left_nothing()


def test_a_server_that_fails_in_its_start_is_told_of_under_a_supervisor_too(ground):
    lines = 'ssl_certificate = site.ini\nssl_private_key = site.ini'
    text = ini().replace('threads = 4', lines)
    text = text.replace('egg:waitress', 'egg:paste_wspbus#cheroot')
    write(ground.folder, {'site.ini': text})
    command = ground.run('site.ini', 'start', '--monitor-restart')
    assert command.code == 1
    (line,) = command.err.text.splitlines()
    assert line.startswith('site.ini [server:main]: ')
    assert 'cannot listen on https:' in line


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


# -- a load that takes long ---------------------------------------------------------


WAYS = {
    'one process': [],
    'a worker': ['--workers', '1'],
    'preload': ['--workers', '1'],
    'monitor': ['--monitor-restart'],
}
AT_GATE = re.compile(
    r'The site has been starting for 2 s, and is at \S+/webapp\.py:\d+ in pass_gate\n'
)


def check_that_start_says_where(ground, way):
    with ground.begin('site.ini', 'start', *WAYS[way]) as process:
        assert process.err.wait_for(' in pass_gate\n'), process.report()
        ground.gate.open_for_all()
        assert process.wait() == 0, ground.report(process)
    assert AT_GATE.fullmatch(process.err.text), process.report()
    ground.stop()


@pytest.mark.parametrize('way', WAYS)
def test_start_says_where_a_long_load_is(ground, way):
    """The code waits in a call of C: it is asked by a signal that needs no GIL."""
    ground.change(app='make_at_gate', preload=str(way == 'preload'))
    check_that_start_says_where(ground, way)


@pytest.mark.parametrize('way', ['one process', 'a worker'])
def test_start_says_which_plugin_takes_long(ground, way):
    ground.change(plugin='gate_at_start')
    check_that_start_says_where(ground, way)


@pytest.mark.parametrize('way', ['one process', 'a worker'])
def test_restart_says_where_a_long_load_is(ground, way):
    """Another process loads the new code first; then that code is loaded once more."""
    ground.start(*WAYS[way])
    ground.change(app='make_at_gate')
    with ground.begin('site.ini', 'restart', *WAYS[way]) as process:
        assert process.err.wait_for(' in pass_gate\n'), process.report()
        ground.gate.open_for_all()
        assert process.wait() == 0, ground.report(process)
    assert AT_GATE.fullmatch(process.err.text), process.report()
    ground.stop()


def test_a_quiet_start_does_not_say_that_it_takes_long(ground):
    ground.change(app='make_at_gate')
    with ground.begin('site.ini', '-q', 'start') as quiet:
        ground.gate.wait()
        assert not quiet.err.wait_for('starting', timeout=LONG + 1)
        ground.gate.open()
        assert quiet.wait() == 0, ground.report(quiet)
    assert quiet.err.text == ''
    ground.stop()


def test_start_asks_only_the_processes_of_the_site_where_they_are(capfd):
    """The code of the site can report what it likes."""
    asked = []
    reader, writer = os.pipe()
    report = Report(writer)
    report.pid()
    report.loading(os.getppid())
    launch = daemonizing._Launch(Inbox(reader), None, asked.append)
    end = threading.Timer(LONG + 0.5, report.ready)
    end.start()
    launch.wait()
    end.join()
    os.close(reader)
    assert (launch.code, asked) == (0, [])
    assert capfd.readouterr().err == 'The site has been starting for 2 s\n'
