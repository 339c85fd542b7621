"""The Windows bus for real: Windows' Python with pywin32, under Wine, at a keyboard.

``.ci/wine DIR`` makes what this needs; WSPBUS_WINE names the folder.
"""

import configparser
import contextlib
import os
import re
import signal
import subprocess
import textwrap
import threading
import time
import urllib.request
from pathlib import Path

import pytest

from paste_wspbus.plugins.signals import WINDOW
from tests.kit import TIMEOUT, Output, write
from tests.kit.places import ROOT

pytestmark = pytest.mark.wine


CTRL_BREAK, CTRL_CLOSE = 1, 2

#: A program's beginning; what it prints is a line of the test.
BUS = """
import os, signal, sys, threading, time
from paste_wspbus.bus import Bus, State
from paste_wspbus.plugins.win32 import *

bus = Win32Bus()
bus.subscribe('start', lambda: print('starts'))
bus.subscribe('stop', lambda: print('stops'))
bus.subscribe('exit', lambda: print('exits'))
"""

WIN32 = """
use = egg:paste_wspbus#win32
plugins = db
"""

SITE = """
[plugin:db]
use = call:parts:db
[plugin:bad]
use = call:parts:broken
[app:main]
use = call:parts:app
[server:main]
use = egg:waitress
host = 127.0.0.1
port = 0
"""

PARTS = """
import threading

leaving = threading.Event()


def db(bus, global_conf, **local_conf):
    @bus.lifespan
    def db():
        print('db opens', flush=True)
        yield
        print('db closes', flush=True)

    bus.subscribe('stop', leaving.set, priority=1)


def app(global_conf):
    def app(environ, start_response):
        if environ['PATH_INFO'] == '/slow':
            print('in flight', flush=True)
            leaving.wait()
        if environ['PATH_INFO'] == '/exit':
            environ['wspbus.bus'].exit()
        start_response('200 OK', [('Content-Type', 'text/plain')])
        return [environ['wspbus.bus'].state.name.encode()]

    return app


def broken(bus, global_conf):
    @bus.subscribe('start', priority=80)
    def broken():
        raise OSError('no such queue')
"""


@pytest.fixture(scope='session')
def wine(tmp_path_factory):
    """Run Windows' Python on this checkout: a function of its arguments."""
    folder = os.environ.get('WSPBUS_WINE')
    if not folder or not Path(folder, 'made-by').exists():
        reason = 'run .ci/wine DIR and set WSPBUS_WINE=DIR'
        pytest.fail(reason) if os.environ.get('CI') else pytest.skip(reason)
    path = [_metadata(tmp_path_factory.mktemp('installed')), ROOT]
    environ = {
        **os.environ,
        'PYTHONPATH': ';'.join(f'Z:{part}'.replace('/', '\\') for part in path),
        'PYTHONUNBUFFERED': '1',
        'PYTHONDONTWRITEBYTECODE': '1',  # Linux' Python reads the same folders
    }
    folder = Path(folder).resolve()
    with _wine_running(folder):
        yield lambda cwd, *args: Program(folder, cwd, environ, args)


@contextlib.contextmanager
def _wine_running(folder):
    """Keep a program: Wine's server, begun by another, would have that one's pipes open."""
    with subprocess.Popen(
        [folder / 'python', '-c', "print('runs', flush=True); input()"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,  # Wine's Python takes no files
    ) as keeper:
        try:
            assert keeper.stdout.readline().strip() == b'runs'
            yield
        finally:
            keeper.kill()


def _metadata(folder):
    """What an installation says of this distribution: its entry points."""
    config = configparser.ConfigParser()
    config.read(ROOT / 'setup.cfg')
    groups = config['options.entry_points'].items()
    write(
        folder / 'paste_wspbus-0.dist-info',
        {
            'METADATA': 'Metadata-Version: 2.1\nName: paste_wspbus\nVersion: 0\n',
            'entry_points.txt': '\n'.join(f'[{key}]{text}' for key, text in groups),
        },
    )
    return folder


class Program:
    """Windows' Python with a keyboard; it does not outlive its ``with`` block.

    What it writes is read through a pipe; its console has the keyboard alone.
    """

    def __init__(self, folder, cwd, environ, args):
        self.keyboard, console = os.openpty()
        self.process = subprocess.Popen(
            ['setsid', '--ctty', folder / 'python', *map(str, args)],
            cwd=cwd,
            env=environ,
            stdin=console,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        os.close(console)
        self.out = Output(self.process.stdout)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait(TIMEOUT)
        os.close(self.keyboard)
        self.out.close()

    def press_ctrl_c(self):
        os.write(self.keyboard, b'\x03')

    def expect(self, text, count=1):
        assert self.out.wait_for(text, count), self.out.text

    def expect_url(self):
        self.expect('Serving on ')
        return re.search(r'Serving on (\S+)', self.out.text)[1]

    def end(self):
        """Wait for it: (exit code, the lines that it wrote)."""
        try:
            code = self.process.wait(TIMEOUT)
        except subprocess.TimeoutExpired:
            raise AssertionError(f'It does not end: {self.out.text}') from None
        self.out._thread.join(TIMEOUT)
        return code, self.out.text.splitlines()


@pytest.fixture
def program(wine, tmp_path):
    """Start a program that begins with a bus."""

    def start(text):
        write(tmp_path, {'program.py': BUS + textwrap.dedent(text)})
        return wine(tmp_path, 'program.py')

    return start


@pytest.fixture
def wspserve(wine, tmp_path):
    """Start wspserve on SITE, with what [wspbus:main] is to have."""

    def start(wspbus, *args):
        write(tmp_path, {'site.ini': f'[wspbus:main]\n{wspbus}\n{SITE}'})
        write(tmp_path, {'parts.py': PARTS})
        return wine(tmp_path, '-m', 'paste_wspbus', 'site.ini', *args)

    return start


def get(url):
    with urllib.request.urlopen(url, timeout=TIMEOUT) as response:
        return response.read().decode()


# -- wspserve


def test_a_site_serves_and_ctrl_c_stops_it(wspserve):
    with wspserve(WIN32) as site:
        assert get(site.expect_url()) == 'STARTED'
        site.press_ctrl_c()
        code, lines = site.end()
    assert code == 0
    assert lines[0] == 'db opens'
    assert lines[-1] == 'db closes'


def test_ctrl_c_waits_for_the_request_in_flight(wspserve):
    with wspserve(WIN32) as site:
        url, answers = site.expect_url(), []
        client = threading.Thread(target=lambda: answers.append(get(f'{url}/slow')))
        client.start()
        site.expect('in flight')
        site.press_ctrl_c()
        client.join(TIMEOUT)
        assert site.end()[0] == 0
    assert answers == ['STOPPING']


def test_a_request_can_ask_for_the_exit(wspserve):
    with wspserve(WIN32) as site:
        get(f'{site.expect_url()}/exit')
        code, lines = site.end()
    assert code == 0
    assert lines[-1] == 'db closes'


def test_the_default_bus_serves_and_stops_when_a_request_says_so(wspserve):
    with wspserve('plugins = db') as site:
        get(f'{site.expect_url()}/exit')
        code, lines = site.end()
    assert code == 0
    assert lines[-1] == 'db closes'


def test_ctrl_c_stops_the_default_bus_too(wspserve):
    with wspserve('plugins = db') as site:
        site.expect_url()
        site.press_ctrl_c()
        code, lines = site.end()
    assert code == 0
    assert lines[-1] == 'db closes'


def test_a_pid_file_is_held_and_the_site_found_and_stopped_by_it(wspserve, tmp_path):
    def code_and_text(*args):
        with wspserve(WIN32, *args, '--pid-file', 'site.pid') as command:
            code, lines = command.end()
        return code, '\n'.join(lines)

    assert code_and_text('status')[0] == 3
    with wspserve(WIN32, '--pid-file', 'site.pid') as site:
        site.expect_url()
        assert code_and_text('status')[0] == 0
        code, text = code_and_text()
        assert code == 1
        assert 'already' in text
        assert code_and_text('stop')[0] == 0
        assert site.end()[0] == 0
    assert not (tmp_path / 'site.pid').exists()
    assert not (tmp_path / 'site.pid.lock').exists()
    assert code_and_text('status')[0] == 3


@pytest.mark.parametrize(
    'args', [['start'], ['--monitor-restart'], ['--user', 'somebody']], ids=str
)
def test_what_needs_posix_is_refused_in_one_line(wspserve, args):
    with wspserve(WIN32, *args) as site:
        code, lines = site.end()
    assert code == 2
    assert len(lines) == 1
    assert 'this system has no' in lines[0]


def test_a_start_that_fails_is_told_in_one_line(wspserve):
    with wspserve(WIN32.replace('db', 'db bad')) as site:
        code, lines = site.end()
    assert code == 1
    assert lines[:2] == ['db opens', 'db closes']
    assert '[plugin:bad]' in lines[2]
    assert 'no such queue' in lines[2]
    assert len(lines) == 3


# -- the bus


def test_an_exit_elsewhere_wakes_block_which_slept_undisturbed(program):
    text = """
    import win32event
    waits, asleep = [], threading.Event()
    wait = win32event.WaitForMultipleObjects
    def counted(*args):
        waits.append(threading.current_thread().name)
        if waits[-1] == 'MainThread':
            asleep.set()
        return wait(*args)
    win32event.WaitForMultipleObjects = counted

    def leave():
        asleep.wait()
        time.sleep(idle)
        took.append(time.perf_counter())
        bus.exit()

    delays = []
    for idle in [0.5] + [0.01] * 20:
        took = []
        bus.start()
        waits.clear()
        asleep.clear()
        leaver = threading.Thread(target=leave)
        leaver.start()
        bus.block()
        delays.append(time.perf_counter() - took[0])
        # Of the two, one finds that what woke it was taken already.
        assert waits.count('MainThread') <= 2, waits
        leaver.join()
    print('median', sorted(delays)[10] * 1000, 'ms')
    """
    with program(text) as site:
        code, lines = site.end()
    assert code == 0, lines
    # CherryPy's bus sleeps 100 ms at a time.
    assert float(lines[-1].split()[1]) < 30


def test_main_is_published_at_its_interval(program):
    text = """
    times = []
    @bus.subscribe('main')
    def beat():
        times.append(time.perf_counter())
        if len(times) == 6:
            bus.exit()
    bus.start()
    bus.block(interval=0.1)
    print(times[-1] - times[0])
    """
    with program(text) as site:
        code, lines = site.end()
    assert code == 0
    assert float(lines[-1]) >= 0.49


def test_a_time_limit_of_a_wait_is_kept_on_windows_clock(program):
    text = """
    from queue import Empty
    for seconds in (0, 0.001, 0.02, 0.1):
        before = time.perf_counter()
        try:
            EventQueue().get(timeout=seconds)
        except Empty:
            print(seconds <= time.perf_counter() - before < seconds + 5)
    """
    with program(text) as site:
        assert site.end() == (0, ['True'] * 4)


def test_another_process_waits_for_a_state_and_asks_for_an_exit(
    program, wine, tmp_path
):
    other = """
    import sys
    from win32con import SYNCHRONIZE
    from win32event import *
    from paste_wspbus.plugins.win32 import event_name, signal_child

    pid = int(sys.argv[1])
    started, exiting = (
        OpenEvent(SYNCHRONIZE, False, event_name(state, pid))
        for state in ('STARTED', 'EXITING')
    )
    assert WaitForSingleObject(started, 0) == WAIT_TIMEOUT
    SetEvent(OpenEvent(EVENT_MODIFY_STATE, False, f'go on {pid}'))
    WaitForSingleObject(started, INFINITE)
    print('STARTED')
    assert WaitForSingleObject(exiting, 0) == WAIT_TIMEOUT
    signal_child(pid, 'exit')
    WaitForSingleObject(exiting, INFINITE)
    print('EXITING')
    """
    text = """
    import win32event
    goes_on = win32event.CreateEvent(None, True, False, f'go on {os.getpid()}')

    @bus.subscribe('start')
    def wait_for_the_other():
        print('pid', os.getpid(), 'waits')
        win32event.WaitForSingleObject(goes_on, win32event.INFINITE)

    bus.start()
    bus.block()
    """
    with program(text) as site:
        site.expect('waits')
        pid = re.search(r'pid (\d+)', site.out.text)[1]
        write(tmp_path, {'other.py': other})
        with wine(tmp_path, 'other.py', pid) as waiter:
            assert waiter.end() == (0, ['STARTED', 'EXITING'])
        code, lines = site.end()
    assert code == 0
    assert lines[-1] == 'exits'


def test_a_process_without_a_bus_takes_no_commands(program):
    text = """
    try:
        signal_child(os.getpid(), 'exit')
    except NoSuchBus as error:
        print(error)
    """
    with program(text) as site:
        code, lines = site.end()
    assert code == 0
    assert re.fullmatch(r'Process \d+ takes no commands: .*not found.*', lines[0])


# -- the keyboard


def test_a_wait_in_the_main_thread_is_ended_by_ctrl_c(program):
    text = """
    print('ready')
    try:
        bus.wait(State.STARTED)
    except KeyboardInterrupt:
        print('interrupted')
    """
    with program(text) as site:
        site.expect('ready')
        site.press_ctrl_c()
        assert site.end() == (0, ['ready', 'interrupted'])


def test_ctrl_c_stops_a_bus_that_blocks(program):
    with program("bus.start(); print('ready'); bus.block(); print('end')") as site:
        site.expect('ready')
        site.press_ctrl_c()
        assert site.end() == (0, ['starts', 'ready', 'stops', 'exits', 'end'])


def test_ctrl_c_in_a_start_takes_effect_before_the_next_listener(program):
    text = """
    pressed = threading.Event()
    bus.subscribe('log', lambda msg, level: 0)
    put = bus.turn.put

    def heard(*command):
        queued = put(*command)
        if command[0] == 'exit':
            pressed.set()
        return queued

    bus.turn.put = heard

    @bus.subscribe('start')
    def slow():
        print('slow')
        pressed.wait()

    bus.subscribe('start', lambda: print('not this one'))
    bus.start()
    print(bus.state.name)
    """
    with program(text) as site:
        site.expect('slow')
        site.press_ctrl_c()
        assert site.end() == (0, ['starts', 'slow', 'stops', 'exits', 'EXITING'])


def test_the_second_ctrl_c_interrupts_a_start_that_sleeps(program):
    text = f"""
    asked = bus.exit
    def exit():
        asked()
        print('asked')
    bus.exit = exit

    @bus.subscribe('start')
    def slow():
        print('slow')
        time.sleep({2 * TIMEOUT})

    try:
        bus.start()
    except KeyboardInterrupt:
        print('interrupted')
    """
    with program(text) as site:
        site.expect('slow')
        site.press_ctrl_c()
        site.expect('asked')
        time.sleep(WINDOW)
        site.press_ctrl_c()
        code, lines = site.end()
    assert code == 0
    assert lines == ['starts', 'slow', 'asked', 'stops', 'exits', 'interrupted']


def test_the_third_ctrl_c_leaves_a_main_thread_that_hangs(program):
    text = """
    log = lambda msg, level: print(msg)
    bus.subscribe('log', log)

    hurry = bus.hurry
    def told():
        hurry()
        print('hurried')
    bus.hurry = told

    @bus.subscribe('stop')
    def hang():
        print('hangs')
        lock = threading.Lock()
        lock.acquire()
        lock.acquire()

    bus.start()
    print('ready')
    bus.block()
    """
    with program(text) as site:
        for line in ('ready', 'hangs', 'hurried'):
            site.expect(line)
            time.sleep(WINDOW)
            site.press_ctrl_c()
        code, lines = site.end()
    assert code == 70
    assert 'in hang' in '\n'.join(lines)


@pytest.mark.parametrize('how', ['ctrl-c', 'exit'])
def test_a_server_that_blocks_is_ended(program, how):
    text = f"""
    def server():
        try:
            print('serves')
            if {how!r} == 'exit':
                threading.Thread(target=bus.exit).start()
            time.sleep({2 * TIMEOUT})
        except KeyboardInterrupt:
            print('ended')
            raise

    bus.subscribe('start', server, blocking=True)
    bus.start()
    bus.block()
    """
    with program(text) as site:
        site.expect('serves')
        if how == 'ctrl-c':
            site.press_ctrl_c()
        assert site.end() == (0, ['starts', 'serves', 'ended', 'stops', 'exits'])


#: Wine has no key for these; this is where Windows begins to tell a process of them.
_CTRL_ROUTINE = """
import ctypes
def tell():
    ctypes.windll.kernel32.CtrlRoutine({event})
    print('not ended')
threading.Thread(target=tell, daemon=True).start()
"""


def test_ctrl_break_stops_the_site(program):
    text = 'bus.start()\n' + _CTRL_ROUTINE.format(event=CTRL_BREAK) + 'bus.block()'
    with program(text) as site:
        code, lines = site.end()
    assert code == 0
    # Another thread prints, on the same line perhaps.
    lines = [line.replace('not ended', '') for line in lines]
    assert [line for line in lines if line] == ['starts', 'stops', 'exits']


def test_a_console_that_is_closed_waits_for_the_site_to_end_by_itself(program):
    text = (
        "bus.subscribe('exit', lambda: (time.sleep(1), print('last')), priority=90)\n"
        'bus.start()\n'
        + _CTRL_ROUTINE.format(event=CTRL_CLOSE)
        + "bus.block()\nprint('end')"
    )
    with program(text) as site:
        assert site.end() == (0, ['starts', 'stops', 'exits', 'last', 'end'])


def test_a_console_that_is_closed_does_not_wait_for_ever(program):
    text = (
        "bus.plugins['console'].close_timeout = 0.5\n"
        "bus.subscribe('stop', threading.Event().wait)\n"
        'bus.start()\n' + _CTRL_ROUTINE.format(event=CTRL_CLOSE) + 'bus.block()'
    )
    with program(text) as site:
        site.expect('starts')
        site.expect('not ended')  # Windows would, at this point
