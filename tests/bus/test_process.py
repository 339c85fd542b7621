"""The bus and its process: fork, the end of the main thread, restart, idleness."""

import os
import signal
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from paste_wspbus.bus import Bus, State
from paste_wspbus.errors import RestartImpossible, WSPBusError
from tests.kit.processes import TIMEOUT, python

needs_fork = pytest.mark.skipif(not hasattr(os, 'fork'), reason='needs fork')
posix = pytest.mark.skipif(os.name != 'posix', reason='needs POSIX')

BUS = """
import os, signal, sys, threading
from paste_wspbus.bus import Bus
bus = Bus()
bus.subscribe('stop', lambda: print('stop', os.getpid()))
"""


def run(*args, stdin='', **kwargs):
    """Let it come to its end; return it with ``out`` and ``err``."""
    with python(*args, **kwargs) as process:
        process.out, process.err = process.communicate(stdin)
    return process


def run_script(script, **kwargs):
    return run('-c', script, **kwargs)


def stops(process):
    return [line for line in process.out.splitlines() if line.startswith('stop')]


# -- fork ---------------------------------------------------------------------


@needs_fork
def test_the_normal_exit_of_a_forked_child_does_not_run_the_bus():
    process = run_script(
        BUS
        + """
bus.start()
child = os.fork()
if not child:
    sys.exit()
os.waitpid(child, 0)
print('child ended')
bus.exit()
"""
    )
    assert process.out.splitlines() == ['child ended', f'stop {process.pid}']
    assert 'RuntimeWarning' not in process.err
    assert process.returncode == 0


@needs_fork
def test_a_child_forked_by_a_thread_does_not_run_the_bus():
    process = run_script(
        BUS
        + """
def request():
    child = os.fork()
    if not child:
        sys.exit()
    os.waitpid(child, 0)
    bus.exit()
bus.start()
threading.Thread(target=request).start()
bus.block()
"""
    )
    assert stops(process) == [f'stop {process.pid}']


@needs_fork
def test_a_child_forked_under_block_that_leaves_by_sys_exit_does_not_run_the_bus():
    process = run_script(
        BUS
        + """
@bus.subscribe('main')
def fork():
    child = os.fork()
    if not child:
        sys.exit()
    os.waitpid(child, 0)
    bus.exit()
bus.start()
bus.block(interval=0)
"""
    )
    assert stops(process) == [f'stop {process.pid}']


@needs_fork
def test_a_fork_in_a_start_listener_moves_the_bus_to_the_child():
    process = run_script(
        BUS
        + """
@bus.subscribe('start')
def daemonize():
    if os.fork():
        os._exit(0)
bus.subscribe('start', lambda: print('started', os.getpid()), priority=90)
bus.start()
"""
    )
    started, stop = (line.split() for line in process.out.splitlines())
    assert (started[0], stop[0]) == ('started', 'stop')
    assert started[1] == stop[1] != str(process.pid)


@needs_fork
def test_a_daemonized_bus_blocks_and_exits_in_the_child():
    process = run_script(
        BUS
        + """
@bus.subscribe('start')
def daemonize():
    if os.fork():
        os._exit(0)
bus.subscribe('main', bus.exit)
bus.start()
bus.block()
print('end')
"""
    )
    stop, end = process.out.splitlines()
    assert stop.startswith('stop ') and stop != f'stop {process.pid}'
    assert end == 'end'
    assert 'RuntimeWarning' not in process.err


@needs_fork
def test_a_bus_started_in_a_forked_child_is_the_childs():
    process = run_script(
        BUS
        + """
bus.start()
bus.stop()
child = os.fork()
if not child:
    bus.start()
    sys.exit()
os.waitpid(child, 0)
print('child ended')
"""
    )
    first, second, ended = process.out.splitlines()
    assert first == f'stop {process.pid}'
    assert second.startswith('stop ') and second != first
    assert ended == 'child ended'


# -- the end of the main thread -----------------------------------------------


def test_the_end_of_the_main_thread_stops_a_started_bus_and_warns():
    process = run_script(BUS + 'bus.start()')
    assert stops(process) == [f'stop {process.pid}']
    assert 'RuntimeWarning: The main thread is exiting' in process.err
    assert process.returncode == 0


def test_however_often_the_bus_was_started_it_is_stopped_once_at_the_end():
    process = run_script(
        BUS
        + """
for _ in range(20):
    bus.start()
    bus.exit()
print('end')
bus.start()
"""
    )
    lines = process.out.splitlines()
    assert lines[lines.index('end') + 1 :] == [f'stop {process.pid}']
    assert process.err.count('RuntimeWarning') == 1


def test_one_handler_is_registered_however_often_and_many_buses_start():
    process = run_script(
        """
import atexit, threading
registered = []
register, register_early = atexit.register, threading._register_atexit
def count(function, *args, **kwargs):
    registered.append(function)
    return register(function, *args, **kwargs)
def count_early(function, *args, **kwargs):
    registered.append(function)
    return register_early(function, *args, **kwargs)
atexit.register, threading._register_atexit = count, count_early
from paste_wspbus.bus import Bus
for _ in range(5):
    bus = Bus()
    for _ in range(5):
        bus.start()
        bus.exit()
print(len(registered))
"""
    )
    assert process.out == '1\n'


def test_every_started_bus_is_stopped_at_the_end():
    process = run_script(
        """
from paste_wspbus.bus import Bus
for name in ('one', 'two'):
    bus = Bus()
    bus.subscribe('stop', print, 'stop', name)
    bus.start()
"""
    )
    assert sorted(stops(process)) == ['stop one', 'stop two']


def test_the_bus_is_stopped_at_the_end_while_a_servers_thread_lives():
    process = run_script(
        BUS
        + """
stopped = threading.Event()
bus.subscribe('start', lambda: threading.Thread(target=stopped.wait).start())
bus.subscribe('stop', stopped.set)
bus.start()
"""
    )
    assert stops(process) == [f'stop {process.pid}']
    assert process.returncode == 0


def test_an_exited_bus_is_left_alone_at_the_end():
    process = run_script(BUS + 'bus.start(); bus.exit(); print("end")')
    assert process.out.splitlines() == [f'stop {process.pid}', 'end']
    assert process.err == ''


def test_a_failed_start_raises_its_error_and_loses_no_output():
    process = run_script(
        BUS
        + """
sys.stdout.reconfigure(write_through=False, line_buffering=False)
@bus.subscribe('start')
def fail():
    print('written before')
    raise ValueError('no database')
bus.start()
"""
    )
    assert process.returncode == 1
    assert process.out.splitlines() == ['written before', f'stop {process.pid}']
    assert 'ValueError: no database' in process.err
    assert 'ChannelFailures' in process.err


@posix
def test_a_sys_exit_by_a_signal_handler_during_start_rolls_back():
    with python(
        '-c',
        BUS
        + """
signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(143))
@bus.subscribe('start')
def slow():
    print('starting')
    sys.stdin.read()
bus.start()
""",
    ) as process:
        assert process.stdout.readline() == 'starting\n'
        process.send_signal(signal.SIGTERM)
        assert process.stdout.readline() == f'stop {process.pid}\n'
        assert process.wait(TIMEOUT) == 143


# -- restart ------------------------------------------------------------------

SITE = """
import os, sys, threading
from paste_wspbus.bus import Bus
generation = os.environ.get('GENERATION', 'first')
print(generation, os.getpid(), os.getcwd(), sys.flags.optimize, sys.warnoptions,
      sys.argv, __name__, sep='|')
if generation == 'first':
    os.environ['GENERATION'] = 'second'
    bus = Bus()
    bus.subscribe('exit', print, 'exit listener')
    bus.start()
    os.chdir(os.sep)
    bus.restart()
    bus.block()
"""


def assert_second_like_first(process):
    assert process.returncode == 0, process.err
    first, stopped, second = process.out.splitlines()
    assert stopped == 'exit listener'
    assert first.startswith('first|')
    assert second == first.replace('first', 'second', 1)


@pytest.fixture
def site(tmp_path):
    """A directory that holds the site as a script, a module and a package."""
    (tmp_path / 'site.txt').write_text('data')
    (tmp_path / 'app.py').write_text(SITE)
    (tmp_path / 'package').mkdir()
    (tmp_path / 'package' / '__init__.py').touch()
    (tmp_path / 'package' / '__main__.py').write_text(SITE)
    return tmp_path


@posix
@pytest.mark.parametrize(
    'args',
    [
        ['app.py'],
        ['-O', 'app.py'],
        ['-OO', '-W', 'ignore', 'app.py', '-O', 'arg with spaces', ''],
        ['-m', 'app'],
        ['-O', '-m', 'app', '-m', '-m'],
        ['-m', 'package', '-c', 'x'],
        ['package'],
        ['-c', SITE],
        ['-O', '-c', SITE, '-c', 'x'],
    ],
    ids=lambda args: ' '.join(args)[:20],
)
def test_a_restart_keeps_options_arguments_directory_and_pid(site, args):
    assert_second_like_first(run(*args, cwd=site))


@posix
def test_a_zipped_application_restarts(tmp_path):
    with zipfile.ZipFile(tmp_path / 'app.pyz', 'w') as archive:
        archive.writestr('__main__.py', SITE)
    assert_second_like_first(run('app.pyz', cwd=tmp_path))


@posix
@pytest.mark.parametrize('kept', [True, False])
def test_files_are_closed_over_a_restart_unless_max_cloexec_files_is_0(tmp_path, kept):
    (tmp_path / 'app.py').write_text(
        f"""
import os, sys
from paste_wspbus.bus import Bus
if len(sys.argv) > 1 and 'FD' in os.environ:
    try:
        os.fstat(int(os.environ['FD']))
        print('open')
    except OSError:
        print('closed')
    sys.exit()
fd = os.open(os.devnull, os.O_RDONLY)
os.set_inheritable(fd, True)
os.environ['FD'] = str(fd)
bus = Bus()
if {kept}:
    bus.max_cloexec_files = 0
bus.start()
bus.restart()
bus.block()
"""
    )
    process = run('app.py', 'arg', cwd=tmp_path)
    assert process.out == ('open\n' if kept else 'closed\n'), process.err


@posix
def test_a_restart_does_not_walk_all_the_files_that_there_might_be():
    process = run_script(
        """
import os, resource
from paste_wspbus.bus import Bus
hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
os.sysconf = lambda name: 10**9
tried = []
set_inheritable = os.set_inheritable
os.set_inheritable = lambda *args: tried.append(args) or set_inheritable(*args)
def execv(*args):
    print(len(tried) < 100)
    raise SystemExit
os.execv = execv
bus = Bus()
bus.start()
bus.restart()
bus.block()
"""
    )
    assert process.out == 'True\n', process.err


@posix
def test_a_restart_is_logged_and_loses_no_buffered_output():
    process = run_script(
        BUS
        + """
sys.stdout.reconfigure(write_through=False, line_buffering=False)
if 'GENERATION' not in os.environ:
    os.environ['GENERATION'] = 'second'
    bus.subscribe('log', lambda message, level: print(message))
    bus.start()
    bus.restart()
    bus.block()
print('second generation')
"""
    )
    lines = process.out.splitlines()
    assert any(line.startswith('Re-spawning ') for line in lines)
    assert lines[-1] == 'second generation'


REFUSED = (
    BUS
    + """
from paste_wspbus.errors import RestartImpossible
bus.start()
def refused():
    try:
        bus.restart()
    except RestartImpossible as error:
        print('refused:', error)
    print(bus.state, bus.execv)
"""
)


@pytest.mark.parametrize('executable', ['', os.devnull])
def test_a_restart_without_an_interpreter_is_refused_before_anything_stops(
    monkeypatch, executable
):
    bus, calls = Bus(), []
    for channel in ('drain', 'stop', 'exit'):
        bus.subscribe(channel, lambda channel=channel: calls.append(channel))
    bus.start()
    try:
        monkeypatch.setattr(sys, 'executable', executable)
        with pytest.raises(RestartImpossible, match='the site keeps running') as caught:
            bus.restart()
        assert isinstance(caught.value, WSPBusError)
        assert calls == []
        assert bus.state is State.STARTED
        assert not bus.execv
    finally:
        bus.exit()


@posix
@pytest.mark.parametrize('gone', ['script', 'directory'])
def test_a_restart_that_has_nothing_to_run_is_refused_before_anything_stops(
    tmp_path, gone
):
    directory = tmp_path / 'site'
    directory.mkdir()
    script = directory / 'app.py'
    script.write_text(
        REFUSED
        + f"""
os.unlink('app.py')
if {gone == 'directory'}:
    os.rmdir(os.getcwd())
refused()
bus.exit()
"""
    )
    process = run('app.py', cwd=directory)
    refused, state, stop = process.out.splitlines()
    assert refused.startswith('refused: ')
    assert state == 'State.STARTED False'
    assert stop == f'stop {process.pid}'


@posix
def test_a_restart_of_a_program_that_came_through_stdin_is_refused():
    process = run('-', stdin=REFUSED + 'refused()\nbus.exit()\n')
    assert process.out.startswith('refused: ')


@posix
def test_a_restart_refused_to_a_signal_handler_leaves_the_site_running(tmp_path):
    (tmp_path / 'app.py').write_text(
        BUS
        + """
os.unlink(__file__)
signal.signal(signal.SIGUSR1, lambda number, frame: bus.restart())
blocking = threading.Event()
bus.subscribe('main', blocking.set)
def ask():
    blocking.wait()
    answered = threading.Semaphore(0)
    bus.subscribe('graceful', answered.release)
    for _ in range(20):
        signal.pthread_kill(threading.main_thread().ident, signal.SIGUSR1)
        bus.graceful()
        answered.acquire()
    print('still running')
    bus.exit()
threading.Thread(target=ask, daemon=True).start()
bus.start()
bus.block()
print('end')
"""
    )
    process = run('app.py', cwd=tmp_path)
    assert process.out.splitlines() == ['still running', f'stop {process.pid}', 'end']
    assert process.returncode == 0


def test_where_somebody_listens_to_restart_how_is_his_concern(monkeypatch):
    bus, calls = Bus(), []
    bus.subscribe('restart', lambda: calls.append(bus.state))
    monkeypatch.setattr(sys, 'executable', '')
    bus.start()
    bus.restart()
    bus.block()
    assert calls == [State.EXITING]
    assert not bus.execv


# -- idleness and import ------------------------------------------------------


def voluntary_switches(pid):
    total = 0
    for status in Path(f'/proc/{pid}/task').glob('*/status'):
        lines = status.read_text().splitlines()
        total += sum(int(s.split()[1]) for s in lines if s.startswith('voluntary_'))
    return total


@pytest.mark.skipif(not Path('/proc/self/status').exists(), reason='needs /proc')
def test_a_process_whose_threads_wait_for_the_bus_does_not_wake_up():
    with python(
        '-c',
        BUS
        + """
bus.start()
threading.Thread(target=bus.wait, args=(bus.states.EXITING,)).start()
signal.signal(signal.SIGTERM, lambda number, frame: bus.exit())
@bus.subscribe('main')
def ready():
    bus.unsubscribe('main', ready)
    print('ready')
bus.block()
print('end')
""",
    ) as process:
        assert process.stdout.readline() == 'ready\n'
        slept = False
        for _ in range(20):
            before = voluntary_switches(process.pid)
            with pytest.raises(subprocess.TimeoutExpired):
                process.wait(timeout=1)
            if voluntary_switches(process.pid) == before:
                slept = True
                break
        assert slept
        process.send_signal(signal.SIGTERM)
        assert process.stdout.read().splitlines() == [f'stop {process.pid}', 'end']


@pytest.mark.skipif(not Path('/proc/self/status').exists(), reason='needs /proc')
@pytest.mark.parametrize('sleep', ['block()', 'wait(bus.states.EXITING)'])
def test_a_signal_that_another_thread_got_wakes_the_main_thread(sleep):
    script = f"""
signal.signal(signal.SIGTERM, lambda number, frame: bus.exit())
def signal_here():
    seen = 0
    while seen < 20:  # the main thread sleeps
        with open(f'/proc/{{os.getpid()}}/stat') as stat:
            seen = seen + 1 if ') S ' in stat.read() else 0
        time.sleep(0.01)
    signal.pthread_kill(threading.get_ident(), signal.SIGTERM)
bus.start()
threading.Thread(target=signal_here, daemon=True).start()
bus.{sleep}
print('end')
"""
    process = run_script(BUS + 'import time\n' + script)
    assert process.out.splitlines() == [f'stop {process.pid}', 'end'], process.err


def test_importing_the_bus_imports_nothing_but_the_standard_library():
    process = run_script(
        """
import sys
before = set(sys.modules)
import paste_wspbus.bus
new = {name.partition('.')[0] for name in set(sys.modules) - before}
print(sorted(new - sys.stdlib_module_names))
"""
    )
    assert process.out == "['paste_wspbus']\n"


@posix
def test_importing_the_bus_and_making_one_has_no_effect_on_the_process():
    process = run_script(
        """
import atexit, os, signal, sys, threading
def look():
    handlers = [signal.getsignal(number) for number in signal.valid_signals()]
    return (threading.enumerate(), os.listdir('/dev/fd'), handlers,
            atexit._ncallbacks(), list(threading._threading_atexits), dict(os.environ),
            sys.excepthook, os.getcwd())
before = look()
import paste_wspbus.bus
paste_wspbus.bus.Bus()
print(look() == before)
"""
    )
    assert process.out == 'True\n', process.err
