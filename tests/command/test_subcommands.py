"""`status`, `graceful` and `stop`: what they find, ask, wait for, print and exit with."""

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import time

import pytest

from paste_wspbus.command.arguments import parse
from paste_wspbus.command.status import _age
from paste_wspbus.control.client import ask
from paste_wspbus.control.paths import runtime_paths
from paste_wspbus.control.status import what_it_waits_for
from paste_wspbus.errors import UsageError
from paste_wspbus.ini.settings import MAX_WORKERS, worker_count
from paste_wspbus.plugins.pidfile import PIDLock
from paste_wspbus.unix.cpus import cpu_count
from tests.kit import BIN, TIMEOUT, Process, eventually, run, write
from tests.kit.daemons import Ground, Terminal

#: A supervisor that answers what the test tells it to, by lines of JSON.
STAND_IN = """
import json, os, selectors, sys, time
from paste_wspbus.control.paths import path_for, runtime_path
from paste_wspbus.control.server import Control
from paste_wspbus.plugins.pidfile import PIDLock

waiting, replies = [], {}
status = {
    'pid': os.getpid(), 'state': 'STARTED', 'since': time.time(), 'age': 0, 'urls': [],
    'generation': 1, 'workers': [], 'requests': [], 'threads': [], 'calling': None,
    'deadline': 25, 'is_crashed': False, 'failure': None,
}


def heed(command):
    def handler(connection):
        print(json.dumps(connection.request), flush=True)
        waiting.append(connection)
        if command in replies:
            answer(replies[command])
    return handler


def answer(message):
    for connection in waiting:
        connection.close() if message is None else connection.answer(message)
    waiting.clear()


def do(order):
    status.update(order.get('status', {}))
    for key in order.get('without', ()):
        del status[key]
    replies.update(order.get('replies', {}))
    if 'answer' in order:
        answer(order['answer'])
    if order.get('open'):
        control.register(selector)
    if order.get('leave'):
        leave()


def leave():
    control.close()
    if lock is not None:
        lock.release()
    os._exit(0)


def hear():
    global came
    part = os.read(0, 65536)
    if not part:
        leave()
    *lines, came = (came + part).split(b'\\n')
    for line in lines:
        do(json.loads(line))
        print('done', flush=True)


def tell_status(connection):
    print('status', flush=True)
    return status


commands = {
    'status': tell_status,
    'graceful': heed('graceful'),
    'stop': heed('stop'),
}
came, lock, selector = b'', None, selectors.DefaultSelector()
if '--runtime' in sys.argv:
    control = Control(runtime_path('site.ini'), commands)
    control.open(shared=True)
else:
    lock = PIDLock('paster.pid')
    lock.acquire()
    lock.write()
    control = Control(path_for(lock.path), commands)
    control.open()
if '--silent' not in sys.argv:
    control.register(selector)
selector.register(0, selectors.EVENT_READ, hear)
print('there', flush=True)
while True:
    for key, _ in selector.select():
        key.data()
"""


class StandIn(Process):
    """What the commands take for a site, in a child process."""

    def __init__(self, folder, *args):
        super().__init__([sys.executable, '-c', STAND_IN, *args], folder)
        self._told = 0

    def __enter__(self):
        super().__enter__()
        assert self.out.wait_for('there\n'), self.report()
        return self

    def tell(self, **order):
        self._told += 1
        self.process.stdin.write(json.dumps(order) + '\n')
        self.process.stdin.flush()
        assert self.out.wait_for('done\n', self._told), self.report()

    def wait_for_request(self, command):
        assert self.out.wait_for(f'"command": "{command}"'), self.report()

    @property
    def requests(self):
        lines = self.out.text.splitlines()
        return [json.loads(line) for line in lines if line.startswith('{')]


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """The working directory; sites without a PID file meet in one of their own."""
    folder = tmp_path / 'site'
    folder.mkdir()
    runtime = tmp_path / 'runtime'
    runtime.mkdir(0o700)
    monkeypatch.setenv('XDG_RUNTIME_DIR', str(runtime))
    monkeypatch.setenv('TMPDIR', str(tmp_path))
    write(folder, {'site.ini': '[app:main]\n'})
    return folder


@pytest.fixture
def site(folder):
    with StandIn(folder) as site:
        yield site


@pytest.fixture
def unlisted(folder):
    """A site without a PID file."""
    with StandIn(folder, '--runtime') as site:
        yield site


@pytest.fixture
def terminal():
    terminal = Terminal()
    yield terminal
    terminal.close()


@contextlib.contextmanager
def begun(folder, *args, **kwargs):
    """A command that goes on while the test does."""
    with Process([BIN / 'wspserve', *args], folder, **kwargs) as command:
        yield command


def worker(number, **more):
    told = {'name': f'worker {number}', 'number': number, 'pid': 4710}
    told |= {'state': 'ready', 'generation': 2, 'age': 7300, 'requests': []}
    return {**told, **more}


# -- status ---------------------------------------------------------------------


def test_status_shows_each_worker_in_a_table(folder, site):
    site.tell(
        status={
            'age': 3 * 86400 + 100,
            'urls': ['http://127.0.0.1:6543'],
            'generation': 3,
            'workers': [
                worker(1, state='draining', requests=["'GET' '/x' 0.5 s"]),
                worker(2, pid=4712, generation=3, age=121, requests=None),
                worker(1, pid=123456, state='starting', requests=None),
                worker(None, name='site plugins', age=1),
            ],
        }
    )
    told = run(folder, 'site.ini', 'status')
    assert told.code == 0, told.report()
    assert told.out.text == (
        f'The site is running (process {site.pid}), for 3 days: '
        'generation 3, 2 workers.\n'
        'Serving on http://127.0.0.1:6543\n'
        '\n'
        'WORKER        PROCESS  STATE     GENERATION  AGE        REQUESTS\n'
        "worker 1      4710     draining  2           2 hours    1: 'GET' '/x' 0.5 s\n"
        'worker 2      4712     ready     3           2 minutes  does not answer\n'
        'worker 1      123456   starting  2           2 hours    ?\n'
        'site plugins  4710     ready     2           1 second   0\n'
    )


def test_status_tells_why_the_last_graceful_restart_failed(folder, site):
    site.tell(status={'workers': [worker(1)], 'failure': 'no database'})
    told = run(folder, 'site.ini', 'status')
    assert told.code == 0
    assert ', 1 worker.\n' in told.out.text
    last = told.out.text.splitlines()[-1]
    assert last == 'The last graceful restart failed: no database'


def test_status_shortens_what_a_worker_with_many_requests_does(folder, site):
    requests = [f"'GET' '/{number}' 1 s" for number in range(100)]
    site.tell(status={'workers': [worker(1, requests=requests)], 'requests': requests})
    told = run(folder, 'site.ini', 'status')
    row = told.out.text.splitlines()[3]
    assert "100: 'GET' '/0' 1 s, 'GET' '/1' 1 s, 'GET' '/2' 1 s, …" in row
    assert 'Waiting for 100 requests in flight' in told.out.text


@pytest.mark.parametrize(
    ('seconds', 'text'),
    [
        (0, '0 seconds'),
        (-5, '0 seconds'),
        (0.6, '1 second'),
        (1, '1 second'),
        (119, '119 seconds'),
        (120, '2 minutes'),
        (7200, '2 hours'),
        (86400 * 2, '2 days'),
    ],
)
def test_an_age_is_told_in_the_largest_unit_that_fits_twice(seconds, text):
    assert _age(seconds) == text


def test_status_makes_do_with_what_an_older_site_tells(folder, site):
    keys = ('since', 'age', 'urls', 'generation', 'workers', 'requests', 'threads')
    site.tell(without=[*keys, 'calling', 'deadline', 'is_crashed', 'failure'])
    told = run(folder, 'site.ini', 'status')
    assert (told.code, told.err.text) == (0, ''), told.report()
    assert told.out.text == f'The site is running (process {site.pid}).\n'


NONSENSE = [None, 'x', -1, [], {}, ['x'], [None], [{}], True, 1e300]


def test_no_answer_is_too_odd_for_status(folder, site):
    """One process asks for all: the ways to be odd are many."""
    code = (
        'import sys; from paste_wspbus.command.main import main\n'
        'for _ in sys.stdin: print(main(["site.ini", "status"]), flush=True)'
    )
    keys = ('since', 'age', 'urls', 'generation', 'workers', 'requests', 'threads')
    with Process([sys.executable, '-c', code], folder) as asking:
        count = 0
        for key in (*keys, 'calling', 'deadline', 'is_crashed', 'failure', 'state'):
            for value in NONSENSE:
                site.tell(status={key: value})
                count += 1
                asking.process.stdin.write('\n')
                asking.process.stdin.flush()
                assert asking.out.wait_for('\n0\n', count), (key, value)
            site.tell(status={key: None})
        asking.release()
        assert asking.wait() == 0, asking.report()
        assert asking.err.text == ''


def test_status_prints_to_a_terminal_that_has_not_each_letter(folder, site):
    site.tell(status={'failure': 'kein Café', 'requests': ['é'] * 5})
    env = {'PYTHONIOENCODING': 'ascii'}
    told = run(folder, 'site.ini', 'status', env=env)
    assert (told.code, told.err.text) == (0, '')
    assert r'kein Caf\xe9' in told.out.text


def test_status_is_0_where_nobody_reads_what_it_prints(folder, site):
    reader, writer = os.pipe()
    os.close(reader)
    try:
        told = subprocess.run(
            [BIN / 'wspserve', 'site.ini', 'status'],
            cwd=folder,
            stdout=writer,
            stderr=subprocess.PIPE,
            timeout=TIMEOUT,
        )
    finally:
        os.close(writer)
    assert (told.returncode, told.stderr) == (0, b'')


# -- status --json --------------------------------------------------------------


def status_json(folder, *args):
    told = run(folder, 'site.ini', 'status', '--json', *args)
    assert told.err.text == ''
    assert told.out.text.startswith('{\n  "')
    return told.code, json.loads(told.out.text)


def test_json_is_the_sites_whole_answer(folder, site):
    workers = [worker(1), worker(2)]
    site.tell(status={'workers': workers, 'generation': 7, 'tomorrow': [1]})
    code, told = status_json(folder)
    assert code == 0
    assert (told['version'], told['pid'], told['state']) == (1, site.pid, 'STARTED')
    assert (told['workers'], told['generation']) == (workers, 7)
    assert told['tomorrow'] == [1], 'what a later version adds is passed on'


def test_json_of_a_site_that_does_not_run(folder):
    assert status_json(folder) == (
        3,
        {
            'state': 'NOT RUNNING',
            'pid': None,
            'problem': 'there is no paster.pid',
        },
    )


def test_json_of_a_site_that_died(folder):
    with Process(['true'], folder) as gone:
        gone.wait()
    (folder / 'paster.pid').write_text(f'{gone.pid}\n')
    code, told = status_json(folder)
    assert (code, told['state'], told['pid']) == (1, 'DEAD', gone.pid)
    assert 'is gone' in told['problem']


def test_json_of_a_pid_file_that_cannot_be_read(folder):
    (folder / 'paster.pid').write_text('twelve\n')
    code, told = status_json(folder)
    assert (code, told['state'], told['pid']) == (4, 'UNKNOWN', None)
    assert 'does not contain a process ID' in told['problem']


def test_json_of_a_site_that_does_not_answer(folder):
    with StandIn(folder, '--silent') as site:
        code, told = status_json(folder)
    assert (code, told['state'], told['pid']) == (0, 'NO ANSWER', site.pid)
    assert told['problem'] == 'it is still starting, or it hangs'


def test_json_without_an_end_of_the_deadline_is_json(folder, site):
    site.process.stdin.write('{"status": {"deadline": Infinity}}\n')
    site.process.stdin.flush()
    assert site.out.wait_for('done\n')
    assert status_json(folder)[1]['deadline'] is None


@pytest.mark.parametrize('args', [('--json',), ('stop', '--json'), ('--json', 'start')])
def test_json_is_for_status_alone(folder, args):
    told = run(folder, 'site.ini', *args)
    assert told.code == 2
    assert told.err.text == '--json works only with the subcommand status\n'


def test_status_as_an_option_takes_json(folder):
    told = run(folder, '--status', '--json')
    assert (told.code, json.loads(told.out.text)['state']) == (3, 'NOT RUNNING')


# -- graceful -------------------------------------------------------------------


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


@pytest.mark.parametrize('args', [('--no-wait',), ('stop', '--no-wait')])
def test_no_wait_is_for_graceful_alone(folder, args):
    told = run(folder, 'site.ini', *args)
    assert told.code == 2
    assert told.err.text == '--no-wait works only with the subcommand graceful\n'


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


# -- stop -----------------------------------------------------------------------


def test_stop_names_the_workers_requests(folder, site):
    site.tell(status={'requests': ["'GET' '/a' 1 s", "'GET' '/b' 2 s"]})
    with begun(folder, 'site.ini', 'stop') as command:
        site.wait_for_request('stop')
        command.expect(
            f'Stopping process {site.pid}: waiting for 2 requests in flight '
            "('GET' '/a' 1 s, 'GET' '/b' 2 s)"
        )
        site.tell(answer={'exit_code': 0})
        site.release()
        assert command.wait() == 0, command.report()
        assert command.out.text == 'The site has stopped.\n'


def test_what_it_waits_for_makes_do_with_little():
    assert what_it_waits_for({}) == 'it does not answer'
    assert what_it_waits_for({'pid': 1}) == 'in an unknown state'
    assert what_it_waits_for({'requests': 'x', 'state': 'STOPPING'}) == 'stopping'


def test_graceful_takes_no_number_of_workers(folder):
    told = run(folder, 'site.ini', 'graceful', '--workers=3')
    assert told.code == 2
    assert (
        told.err.text
        == 'graceful reads the number of workers from the file: leave out --workers\n'
    )


@pytest.mark.parametrize('subcommand', ['status', 'stop'])
def test_a_number_of_workers_does_no_harm(folder, subcommand):
    told = run(folder, 'site.ini', subcommand, '--workers=3')
    assert 'is not running' in told.out.text + told.err.text


# -- a site without a PID file --------------------------------------------------


def test_status_finds_a_site_without_a_pid_file(folder, unlisted):
    told = run(folder, 'site.ini', 'status')
    assert told.code == 0, told.report()
    assert f'The site is running (process {unlisted.pid})' in told.out.text
    assert status_json(folder)[1]['pid'] == unlisted.pid


@pytest.mark.parametrize('config', ['site.ini', './site.ini#other', 'config:site.ini'])
def test_a_site_without_a_pid_file_is_found_by_each_name_of_its_ini(
    folder, unlisted, config
):
    assert run(folder, config, 'status').code == 0


def test_a_site_without_a_pid_file_is_found_from_elsewhere_and_by_links(
    folder, unlisted, tmp_path
):
    (tmp_path / 'link.ini').symlink_to(folder / 'site.ini')
    told = run(tmp_path, 'link.ini', 'status')
    assert told.code == 0, told.report()


def test_another_ini_of_the_same_name_is_another_site(folder, unlisted, tmp_path):
    write(tmp_path, {'other/site.ini': '[app:main]\n'})
    assert run(tmp_path / 'other', 'site.ini', 'status').code == 3


def test_a_pid_file_goes_before_a_site_without_one(folder, unlisted):
    assert run(folder, 'site.ini', 'status', '--pid-file=x.pid').code == 3
    with StandIn(folder) as listed:
        assert status_json(folder)[1]['pid'] == listed.pid
        listed.release()
        listed.wait()
    assert status_json(folder)[1]['pid'] == unlisted.pid


def test_graceful_restarts_a_site_without_a_pid_file(folder, unlisted):
    unlisted.tell(replies={'graceful': {'generation': 5}})
    told = run(folder, 'site.ini', 'graceful')
    assert told.code == 0, told.report()
    assert told.out.text == f'Generation 5 serves (process {unlisted.pid}).\n'


def test_stop_stops_a_site_without_a_pid_file(folder, unlisted):
    with begun(folder, 'site.ini', 'stop') as command:
        unlisted.wait_for_request('stop')
        unlisted.tell(answer={'exit_code': 0})
        unlisted.release()
        assert command.wait() == 0, command.report()
        assert command.out.text == 'The site has stopped.\n'
    assert run(folder, 'site.ini', 'status').code == 3


def test_stop_ends_a_site_without_a_pid_file_that_ignores_its_deadline(
    folder, unlisted
):
    unlisted.tell(status={'deadline': -4.5})
    told = run(folder, 'site.ini', 'stop')
    assert unlisted.process.wait(TIMEOUT) == -signal.SIGKILL
    assert told.code == 1
    assert f'Process {unlisted.pid} did not stop' in told.err.text
    assert run(folder, 'site.ini', 'status').code == 3


def test_stop_of_a_site_without_a_pid_file_that_does_not_answer(folder):
    with StandIn(folder, '--runtime', '--silent') as silent:
        told = run(folder, 'site.ini', 'stop')
        assert silent.process.poll() is None
    assert told.code == 1
    assert told.err.text.count('\n') == 1
    assert 'does not answer' in told.err.text


def test_status_of_a_site_without_a_pid_file_that_does_not_answer(folder):
    with StandIn(folder, '--runtime', '--silent'):
        code, told = status_json(folder)
    assert (code, told['state'], told['pid']) == (0, 'NO ANSWER', None)


#: A process that listens, and a child that outlives it and answers there.
LEFT = """
import json, os, socket
from paste_wspbus.control.paths import address_of, runtime_path
sock = socket.socket(socket.AF_UNIX)
with address_of(runtime_path('site.ini')) as address:
    sock.bind(address)
sock.listen()
parent = os.getpid()
if os.fork():
    os._exit(0)
print(os.getpid(), flush=True)
while True:
    client, _ = sock.accept()
    client.recv(1000)
    client.sendall(json.dumps({'version': 1, 'pid': parent}).encode() + b'\\n')
    client.close()
"""


def test_a_folder_that_others_may_write_to_is_not_believed(folder, unlisted):
    (path,) = [
        path for path in runtime_paths(str(folder / 'site.ini')) if os.path.exists(path)
    ]
    os.chmod(os.path.dirname(path), 0o722)
    for subcommand in ('status', 'stop', 'graceful'):
        told = run(folder, 'site.ini', subcommand)
        assert told.code == 4, told.report()
        (line,) = (told.out.text + told.err.text).splitlines()
        assert 'others can write to it (its mode is 0722)' in line
    assert unlisted.process.poll() is None


def test_a_folder_that_another_user_has_made_leaves_it_unknown_whether_a_site_runs(
    folder, tmp_path
):
    made = tmp_path / 'runtime' / 'paste_wspbus'
    made.mkdir(0o700)
    os.chown(made, 65534, -1)
    told = run(folder, 'site.ini', 'status')
    assert told.code == 4
    assert told.out.text == (
        f'It is not known whether the site runs: {made} cannot have control sockets: '
        'it belongs to another user (UID 65534, not 0)\n'
    )
    assert status_json(folder)[1]['state'] == 'UNKNOWN'
    # Of a site with a PID file, it is known.
    assert run(folder, 'site.ini', 'status', '--pid-file=x.pid').code == 3


def test_stop_asks_the_system_and_not_the_site_which_process_it_is(folder, unlisted):
    """The site may have been broken into, and root would kill any process."""
    victim = subprocess.Popen(['sleep', '1000'])
    try:
        unlisted.tell(status={'pid': victim.pid, 'deadline': -4.5})
        told = run(folder, 'site.ini', 'stop')
        assert unlisted.process.wait(TIMEOUT) == -signal.SIGKILL
        assert f'Process {unlisted.pid} did not stop' in told.err.text
        assert victim.poll() is None
    finally:
        victim.kill()
        victim.wait()


def test_stop_signals_nobody_where_only_a_child_of_the_site_is_left(folder):
    """Another process may have the number of the one that listened."""
    write(folder, {'left.py': LEFT})
    with Process([sys.executable, 'left.py'], folder) as left:
        eventually(lambda: left.out.text.count('\n') == 1)
        told = run(folder, 'site.ini', 'stop')
        assert told.code == 1
        assert 'the system does not name its process' in told.err.text
        os.kill(int(left.out.text), signal.SIGKILL)


def test_what_only_looks_makes_no_folder(folder, tmp_path):
    for subcommand in ('status', 'stop', 'graceful'):
        run(folder, 'site.ini', subcommand)
    assert os.listdir(tmp_path / 'runtime') == []
    assert sorted(os.listdir(tmp_path)) == ['runtime', 'site']


# -- sites ----------------------------------------------------------------------


@pytest.fixture
def ground(folder):
    ground = Ground(folder)
    yield ground
    ground.close()


def table(told):
    """The rows of a table that `status` printed, each split in its columns."""
    lines = told.out.text.split('\n\n')[1].splitlines()
    head, *rows = (re.split('  +', line) for line in lines)
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
    assert [row['GENERATION'] for row in after] == ['2', '2']
    assert not {row['PROCESS'] for row in before} & {row['PROCESS'] for row in after}
    assert ground.get().startswith('changed')
    ground.stop()
    assert ground.has_left_nothing()


def test_status_and_stop_name_what_a_workers_request_is(ground):
    ground.start('--workers', '1')
    with ground.request_at_gate('/Gate/one') as connection:
        (row,) = table(ground.run('site.ini', 'status'))
        assert re.match(r'1: .*GET.*/Gate/one', row['REQUESTS']), row
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
    assert 'The last graceful restart failed: ' in told.out.text
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
    ground.change(app='make_broken')
    told = ground.run('site.ini', 'graceful')
    assert told.code == 1, ground.report(told)
    assert told.err.text == 'The site did not start again: see its log.\n'
    assert ground.has_left_nothing()


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
            other.expect('another site of this .ini listens there')
            assert status_json(folder)[1]['pid'] == site.pid
            assert other.stop()[0] == 0, other.report()
        assert status_json(folder)[1]['generation'] == 2
        stopped = run(folder, 'site.ini', 'stop')
        assert (stopped.code, stopped.out.text) == (0, 'The site has stopped.\n')
        assert site.wait() == 0, site.report()
    assert run(folder, 'site.ini', 'status').code == 3
    assert ground.has_left_nothing()


# -- how many workers -----------------------------------------------------------


@pytest.mark.parametrize('text', ['0', '1', '4', '1000', '007', ' 2 '])
def test_a_number_of_workers_is_a_whole_number(text):
    assert worker_count(text) == int(text)


NO_NUMBERS = [
    '-1',
    '1.5',
    '',
    'many',
    '١',
    '²',
    str(10**30),
    'nan',
    '1001',
    '1_0',
    '+1',
]


@pytest.mark.parametrize('text', [*NO_NUMBERS, '0x4', '4 4', 'auto 2', 'inf'])
def test_what_is_no_number_of_workers(text):
    with pytest.raises(ValueError):
        worker_count(text)
    with pytest.raises(UsageError) as caught:
        parse(['site.ini', f'--workers={text}'], 'wspserve')
    assert str(caught.value) == (
        f'--workers {text}: it must be a number from 0 to {MAX_WORKERS}, or auto'
    )


@pytest.mark.parametrize('text', ['auto', 'Auto', 'AUTO'])
def test_auto_is_a_worker_for_each_cpu(text):
    assert worker_count(text) == cpu_count() >= 1


@pytest.mark.parametrize(
    ('args', 'workers'),
    [
        ([], None),
        (['--workers', '3'], 3),
        (['--workers=0'], 0),
        (['--workers=2', '--workers', '5'], 5),
        (['start', '--workers', '4', 'x=y'], 4),
    ],
)
def test_the_number_of_workers_on_the_command_line(args, workers):
    assert parse(['site.ini', *args], 'wspserve').workers == workers


CPUS = len(os.sched_getaffinity(0))


def quotas(tmp_path, cgroup, **files):
    """A folder with what the kernel tells: control groups, CPU quotas."""
    write(tmp_path, {'proc/self/cgroup': cgroup})
    write(tmp_path / 'sys/fs/cgroup', files)
    return cpu_count(str(tmp_path))


def test_without_a_quota_each_cpu_that_may_be_used_counts(tmp_path):
    assert cpu_count(str(tmp_path)) == CPUS
    assert quotas(tmp_path, '0::/\n', **{'cpu.max': 'max 100000\n'}) == CPUS


def test_a_cpu_that_the_process_may_not_use_does_not_count(tmp_path):
    code = (
        'import os; from paste_wspbus.unix.cpus import cpu_count\n'
        'os.sched_setaffinity(0, [min(os.sched_getaffinity(0))])\n'
        'print(cpu_count())'
    )
    with Process([sys.executable, '-c', code], tmp_path) as process:
        assert process.wait() == 0, process.report()
        assert process.out.text == '1\n'


@pytest.fixture
def many_cpus(monkeypatch):
    monkeypatch.setattr(os, 'sched_getaffinity', lambda pid: set(range(64)))


@pytest.mark.parametrize(
    ('quota', 'count'),
    [
        ('200000 100000', 2),
        ('150000 100000', 2),
        ('10000 100000', 1),
        ('1 100000', 1),
        ('6400000 100000', 64),
        ('9900000 100000', 64),
        ('max 100000', 64),
        ('', 64),
        ('nonsense', 64),
        ('100000 0', 64),
        ('-1 100000', 64),
        ('1 2 3', 64),
    ],
)
def test_the_quota_of_a_container_is_rounded_up(tmp_path, many_cpus, quota, count):
    assert quotas(tmp_path, '0::/\n', **{'cpu.max': f'{quota}\n'}) == count


@pytest.mark.parametrize(
    ('own', 'around', 'count'), [('3', '5', 3), ('5', '3', 3), ('max', '4', 4)]
)
def test_the_smallest_quota_of_the_groups_around_it_holds(
    tmp_path, many_cpus, own, around, count
):
    files = {'a/cpu.max': f'{around}0 10\n', 'a/b/cpu.max': 'max 10\n'}
    files['a/b/c/cpu.max'] = f'{own}{"" if own == "max" else "0"} 10\n'
    files['other/cpu.max'] = '10 10\n'
    assert quotas(tmp_path, '0::/a/b/c\n', **files) == count


def test_a_quota_holds_where_the_containers_own_path_is_not_there(tmp_path, many_cpus):
    files = {'cpu.max': '30 10\n'}
    assert quotas(tmp_path, '0::/docker/0123456789ab\n', **files) == 3
    assert quotas(tmp_path, '0::/../../elsewhere\n', **files) == 3


@pytest.mark.parametrize('mount', ['cpu', 'cpu,cpuacct'])
def test_a_quota_of_the_first_version_of_control_groups_holds(
    tmp_path, many_cpus, mount
):
    cgroup = '5:cpuset:/x\n4:cpu,cpuacct:/a/b\n1:name=systemd:/y\n0::/\n'
    files = {
        f'{mount}/a/cpu.cfs_quota_us': '70\n',
        f'{mount}/a/cpu.cfs_period_us': '20\n',
        f'{mount}/a/b/cpu.cfs_quota_us': '-1\n',
        f'{mount}/a/b/cpu.cfs_period_us': '20\n',
    }
    assert quotas(tmp_path, cgroup, **files) == 4


def test_auto_is_never_more_than_a_site_may_have(monkeypatch):
    monkeypatch.setattr(os, 'sched_getaffinity', lambda pid: set(range(5000)))
    assert worker_count('auto') <= MAX_WORKERS


def test_the_order_of_file_and_subcommand_is_told(folder):
    write(folder, {'site.ini': '[app:main]\nuse = egg:paste_wspbus#hello\n'})
    told = run(folder, 'start', 'site.ini')
    assert told.code == 2
    assert told.err.text == (
        'wspserve: the file comes first: wspserve site.ini start\n'
    )
    told = run(folder, 'site.ini', 'strat')
    assert told.code == 2
    assert "did you mean 'start'?" in told.err.text
