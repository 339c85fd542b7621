"""The control socket: what it answers, to whom, and that nobody can stall it."""

import contextlib
import errno
import json
import os
import resource
import selectors
import signal
import socket
import stat
import sys
import tempfile
import threading
import time
import warnings
from pathlib import Path

import pytest

from paste_wspbus.control import VERSION
from paste_wspbus.control.client import NoAnswer, ask
from paste_wspbus.control.server import (
    MAX_CONNECTIONS,
    MAX_REQUEST,
    REST,
    Control,
    ShortTurns,
)
from paste_wspbus.control.stop import PATIENCE, Stop
from paste_wspbus.ini.settings import default_stop_timeout
from paste_wspbus.unix.processes import OtherProcess, descendants
from tests.kit import TIMEOUT, Process, eventually
from tests.kit.daemons import Ground
from tests.kit.processes import has_ended, kill
from tests.kit.sites import APP, SERVED, Site, run


@pytest.fixture
def site(ground):
    """A site that runs."""
    ground.start()
    return ground


def connect(ground):
    client = socket.socket(socket.AF_UNIX)
    try:
        client.connect(str(ground.control))  # a timeout would make it EAGAIN
        client.settimeout(TIMEOUT)
    except BaseException:
        client.close()
        raise
    return client


def talk(ground, sent):
    """Send it and read to the end: what came, parsed; None for a mere close."""
    came = b''
    with connect(ground) as client:
        try:
            client.sendall(sent)
            while part := client.recv(65536):
                came += part
        except ConnectionError:  # it closed before it had read all
            pass
    return json.loads(came) if came else None


def request(command, version=VERSION):
    return json.dumps({'version': version, 'command': command}).encode() + b'\n'


def answers(ground):
    """Whether it tells of its state, as it should at any time."""
    return talk(ground, request('status'))['pid'] == ground.pid


# -- whom it answers ------------------------------------------------------------


def test_it_is_a_socket_beside_the_pid_file_for_its_user_alone(ground):
    ground.start(umask=0)
    mode = ground.control.stat().st_mode
    assert stat.S_ISSOCK(mode)
    assert stat.S_IMODE(mode) == 0o600


ANOTHER_USER = """
import os, socket, sys
client = socket.socket(socket.AF_UNIX)
client.settimeout(60)
uid = int(sys.argv[1])
os.setresuid(uid, uid, uid)
client.connect('paster.pid.sock')
try:
    client.sendall(sys.argv[2].encode() + b'\\n')
    came = client.recv(100)
except ConnectionError:
    came = b''
print('answered' if came else 'closed', flush=True)
"""


def asked_by_user(ground, uid):
    words = [sys.executable, '-c', ANOTHER_USER, str(uid), request('status').decode()]
    with Process(words, ground.folder) as client:
        assert client.wait() == 0, client.report()
    return client.out.text.strip()


def test_another_user_gets_no_answer_even_where_the_file_lets_him_connect(site):
    site.folder.chmod(0o755)
    site.control.chmod(0o666)
    assert asked_by_user(site, 65534) == 'closed'
    assert asked_by_user(site, os.getuid()) == 'answered'


# -- what it answers ------------------------------------------------------------


def test_it_tells_of_the_sites_state(site):
    status = talk(site, request('status'))
    assert status['version'] == VERSION
    assert status['pid'] == site.pid
    assert status['state'] == 'STARTED'
    assert status['urls'] == [site.url]
    assert status['requests'] == []
    assert status['calling'] is None
    assert status['deadline'] == default_stop_timeout(0)


def test_it_names_the_requests_in_flight(site):
    with site.request_at_gate('/Gate/one'):
        status = talk(site, request('status'))
    (found,) = status['requests']
    assert (found['method'], found['path']) == ('GET', '/Gate/one')
    assert found['thread'].startswith('waitress-')
    assert (status['in_flight'], status['busy']) == (1, 1)


def test_it_tells_of_the_state_while_the_site_stops(site):
    with site.request_at_gate(), connect(site) as stopping:
        stopping.sendall(request('stop'))
        eventually(lambda: talk(site, request('status')).get('state') != 'STARTED')
        status = talk(site, request('status'))
        assert status.get('state') == 'STOPPING', status
        assert len(status['requests']) == 1
        assert status['calling']['channel'] == 'stop'
        assert status['calling']['age'] >= 0
        assert status['pid'] == site.pid
        site.gate.open()
        assert json.loads(stopping.recv(4096))['exit_code'] == 0


def test_stop_is_answered_with_the_exit_code_when_the_site_has_stopped(ground):
    ground.change(plugin='broken_stop')
    ground.start()
    pid = ground.pid
    assert talk(ground, request('stop')) == {'version': VERSION, 'exit_code': 1}
    eventually(lambda: has_ended(pid))
    assert ground.has_left_nothing()


def test_a_client_that_asks_for_a_stop_and_leaves_gets_it(site):
    pid = site.pid
    with connect(site) as client:
        client.sendall(request('stop'))
    eventually(lambda: has_ended(pid))
    assert site.has_left_nothing()


def test_many_clients_may_ask_for_a_stop_at_once(site):
    clients = [connect(site) for _ in range(10)]
    try:
        with site.request_at_gate():
            for client in clients:
                client.sendall(request('stop'))
            eventually(lambda: talk(site, request('status'))['state'] == 'STOPPING')
            site.gate.open()
        codes = [json.loads(client.recv(4096))['exit_code'] for client in clients]
    finally:
        for client in clients:
            client.close()
    assert codes == [0] * 10


# -- what it does not understand ------------------------------------------------

NO_REQUESTS = {
    'an unknown command': request('stpo'),
    'the version of tomorrow': request('status', VERSION + 1),
    'no version': b'{"command": "status"}\n',
    'no command': b'{"version": 1}\n',
    'text': b'status\n',
    'an empty line': b'\n',
    'a list': b'["status"]\n',
    'null': b'null\n',
    'a number': b'1\n',
    'no UTF-8': b'\xff\xfe\xfd\n',
    'zeros': bytes(100) + b'\n',
    'deep brackets': b'[' * (MAX_REQUEST - 1) + b'\n',
    'a long number': b'9' * (MAX_REQUEST - 1) + b'\n',
    'half of one': request('status')[:20] + b'\n',
    'HTTP': b'GET / HTTP/1.0\r\n\r\n',
}


def test_what_is_no_request_is_answered_with_an_error(site):
    wrong = []
    for name, sent in NO_REQUESTS.items():
        answer = talk(site, sent)
        if set(answer or ()) != {'version', 'error'}:
            wrong.append(f'{name}: {answer}')
    assert not wrong, '\n'.join(wrong)
    assert answers(site)


@pytest.mark.parametrize('command', [[], {}, None, 7, ['status']])
def test_a_command_that_is_no_text_is_answered_with_an_error(site, command):
    answer = talk(site, request(command))
    assert answer is not None
    assert 'error' in answer
    assert answers(site)


def test_it_names_what_it_knows(site):
    error = talk(site, request('stpo'))['error']
    for command in ('status', 'stop'):
        assert command in error


# -- what would stall it --------------------------------------------------------


def test_half_a_line_stalls_nobody(site):
    with connect(site) as client:
        client.sendall(request('status')[:10])
        assert answers(site)
        client.sendall(request('status')[10:])
        assert json.loads(client.recv(65536))['pid'] == site.pid


def test_half_a_line_before_the_end_is_forgotten(site):
    # What a first answer opens, stays open.
    assert answers(site)
    before = len(os.listdir(f'/proc/{site.pid}/fd'))
    for _ in range(5):
        assert talk_and_shut(site, request('status')[:10]) is None
    assert answers(site)
    eventually(lambda: len(os.listdir(f'/proc/{site.pid}/fd')) <= before)


def talk_and_shut(ground, sent):
    with connect(ground) as client:
        client.sendall(sent)
        client.shutdown(socket.SHUT_WR)
        return client.recv(100) or None


@pytest.mark.parametrize('end', [b'', b'\n'])
def test_a_million_bytes_are_not_read(site, end):
    assert talk(site, b'x' * 1_000_000 + end) is None
    assert answers(site)


def test_a_hundred_idle_connections_stall_nobody(site):
    before = len(os.listdir(f'/proc/{site.pid}/fd'))
    clients = []
    try:
        for _ in range(100):
            clients.append(connect(site))
            assert answers(site)
        held = len(os.listdir(f'/proc/{site.pid}/fd')) - before
        assert held <= MAX_CONNECTIONS + 2
        assert clients[0].recv(1) == b'', 'the oldest gives way'
        clients[-1].sendall(request('status'))
        assert json.loads(clients[-1].recv(65536))['pid'] == site.pid
    finally:
        for client in clients:
            client.close()
    stopped = site.stop()
    assert stopped.out.text == 'The site has stopped.\n'


def test_clients_that_never_read_stall_nobody(site):
    clients = []
    try:
        for _ in range(100):
            client = connect(site)
            clients.append(client)
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1)
            client.sendall(request('status') * 10)
        assert answers(site)
    finally:
        for client in clients:
            client.close()


def test_asking_waits_where_others_are_before_it(site):
    failures = []

    def ask_often():
        for _ in range(20):
            try:
                ask(str(site.control), 'status', TIMEOUT)
            except NoAnswer as error:
                failures.append(error)

    threads = [threading.Thread(target=ask_often) for _ in range(50)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(TIMEOUT)
    assert failures == []


def test_clients_that_leave_at_once_stall_nobody(site):

    def come_and_go():
        for _ in range(50):
            with connect(site) as client:
                client.send(request('status'))

    come_and_go()
    assert answers(site)  # it has opened by now what it needs to serve
    before = len(os.listdir(f'/proc/{site.pid}/fd'))
    threads = [threading.Thread(target=come_and_go) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(TIMEOUT)
    assert answers(site)
    eventually(lambda: len(os.listdir(f'/proc/{site.pid}/fd')) <= before)


def test_a_supervisor_cannot_be_stalled_either(ground):
    ground.start('--workers=1')
    site = ground
    with contextlib.ExitStack() as clients:
        for _ in range(40):
            client = clients.enter_context(connect(site))
            client.sendall(request('status')[:10])
            client = clients.enter_context(connect(site))
            client.sendall(request('status') * 10)
        assert answers(site)
        assert talk(site, b'x' * 1_000_000) is None
        for sent in NO_REQUESTS.values():
            assert 'error' in talk(site, sent)
        limits = resource.prlimit(site.pid, resource.RLIMIT_NOFILE)
        held = len(os.listdir(f'/proc/{site.pid}/fd'))
        try:
            resource.prlimit(site.pid, resource.RLIMIT_NOFILE, (held, limits[1]))
            for _ in range(20):
                assert ask(str(site.control), 'status', TIMEOUT)['pid'] == site.pid
        finally:
            resource.prlimit(site.pid, resource.RLIMIT_NOFILE, limits)
        assert site.run('site.ini', 'graceful').code == 0
    assert answers(site)
    site.stop()
    assert site.has_left_nothing()


# -- its place ------------------------------------------------------------------


def test_it_works_where_the_path_is_longer_than_a_sockets_may_be(ground):
    deep = ground.folder / ('a' * 100) / ('b' * 100)
    deep.mkdir(parents=True)
    name = f'--pid-file={deep / "site.pid"}'
    ground.start(name)
    pid = int((deep / 'site.pid').read_text())
    told = ground.run('site.ini', 'status', name)
    assert told.code == 0
    assert f'Serving on {ground.url}' in told.out.text
    assert ask(str(deep / 'site.pid.sock'), 'status', TIMEOUT)['pid'] == pid
    again = ground.run('site.ini', 'restart', name)
    assert again.code == 0, ground.report(again)
    ground.find_url(again)
    assert ground.get() == f'hello {(deep / "site.pid").read_text().strip()}'
    assert ground.run('site.ini', 'stop', name).code == 0
    assert os.listdir(deep) == []


def test_a_socket_that_a_killed_site_left_is_replaced(ground):
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(ground.control))
    ground.start()
    assert answers(ground)
    ground.stop()
    assert ground.has_left_nothing()


def test_a_file_in_its_place_is_left_alone(ground):
    ground.control.write_text('precious')
    ground.start()
    pid = ground.pid
    assert ground.get() == f'hello {pid}'
    assert f'the control socket {ground.control} cannot be opened: ' in ground.log
    assert 'the site answers no command, only stop works' in ground.log
    assert 'paster.pid.sock' in ground.log
    told = ground.run('site.ini', 'status')
    assert told.code == 0
    assert f'process {pid}' in told.out.text
    stopped = ground.run('site.ini', 'stop')
    assert stopped.code == 0, ground.report(stopped)
    assert has_ended(pid)
    assert not ground.pid_file.exists()
    assert ground.control.read_text() == 'precious'


def test_a_file_in_its_place_is_left_alone_when_a_killed_site_is_tidied_up(ground):
    ground.control.write_text('precious')
    ground.start()
    kill(ground.pid)
    assert ground.run('site.ini', 'stop').code == 0
    assert not ground.pid_file.exists()
    assert ground.control.read_text() == 'precious'


def test_restart_and_hup_of_a_site_without_one_work(ground):
    ground.control.mkdir()
    ground.start()
    first = ground.pid
    again = ground.run('site.ini', 'restart')
    assert again.code == 0, ground.report(again)
    ground.find_url(again)
    assert has_ended(first)
    assert ground.get() == f'hello {ground.pid}'
    ground.change(text='changed')
    os.kill(ground.pid, signal.SIGHUP)
    eventually(lambda: ground.get() == f'changed {ground.pid}')


def test_a_site_in_the_foreground_has_one_only_with_a_pid_file(ground):
    with ground.begin('site.ini') as site:
        site.wait_until_served()
        assert [path for path in ground.folder.iterdir() if '.sock' in path.name] == []
    with ground.begin('site.ini', '--pid-file=paster.pid') as site:
        site.wait_until_served()
        assert answers(ground)
        assert site.stop()[0] == 0, site.report()
    assert ground.has_left_nothing()


# -- asking ---------------------------------------------------------------------


def test_asking_where_nobody_listens_is_no_answer(tmp_path):
    with pytest.raises(NoAnswer) as caught:
        ask(str(tmp_path / 'nothing.sock'), 'status')
    assert caught.value.path == str(tmp_path / 'nothing.sock')
    assert 'nothing.sock' in str(caught.value)


def test_asking_one_that_hangs_ends_in_time(tmp_path):
    path = str(tmp_path / 'site.sock')
    with socket.socket(socket.AF_UNIX) as hanging:
        hanging.bind(path)
        hanging.listen()
        with pytest.raises(NoAnswer, match='time'):
            ask(path, 'status', 0.1)


NO_ANSWERS = [b'', b'hello\n', b'{"half', b'\xff\n', b'[]\n', b'null\n', b'7\n']


@pytest.mark.parametrize('sent', NO_ANSWERS)
def test_what_is_no_answer_is_taken_for_none(tmp_path, sent):
    path = str(tmp_path / 'site.sock')
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(path)
        other.listen()

        def answer():
            client, _ = other.accept()
            with client:
                client.recv(4096)
                client.sendall(sent)

        thread = threading.Thread(target=answer)
        thread.start()
        try:
            with pytest.raises(NoAnswer):
                ask(path, 'status', TIMEOUT)
        finally:
            thread.join(TIMEOUT)


def test_status_does_not_believe_a_control_socket_that_answers_nonsense(ground):
    ground.start()
    pid = ground.pid
    ground.control.unlink()
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(str(ground.control))
        other.listen()

        def answer():
            client, _ = other.accept()
            with client:
                client.recv(4096)
                client.sendall(b'{"error": "nothing fits"}\n')

        thread = threading.Thread(target=answer)
        thread.start()
        told = ground.run('site.ini', 'status')
        thread.join(TIMEOUT)
    assert told.code == 0, told.report()
    assert f'process {pid}' in told.out.text
    assert told.err.text == ''


# -- answers --------------------------------------------------------------------


class Answering:
    """A Control whose loop runs in a thread of the test, until the block ends."""

    def __init__(self, path, **commands):
        self.path = str(path)
        self.control = Control(self.path, commands)
        self.turns = 0
        self._selector = selectors.DefaultSelector()
        self._ends, self._end = os.pipe()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self):
        self.control.open()
        self.control.register(self._selector)
        self._selector.register(self._ends, selectors.EVENT_READ)
        self._thread.start()
        return self

    def _run(self):
        while True:
            self.turns += 1
            for key, _ in self._selector.select():
                if key.fd == self._ends:
                    return
                key.data()

    def __exit__(self, *_):
        os.close(self._end)
        self._thread.join(TIMEOUT)
        assert not self._thread.is_alive()
        self.control.close()
        self._selector.close()
        os.close(self._ends)

    def connect(self):
        client = socket.socket(socket.AF_UNIX)
        client.connect(self.path)
        client.settimeout(TIMEOUT)
        return client


LARGE = {'workers': ['x' * 1000] * 1000}


def test_a_handler_gets_the_whole_request(tmp_path):
    with Answering(tmp_path / 's', tell=lambda one: {'got': one.request}) as site:
        answer = ask(site.path, 'tell', TIMEOUT, wait=False, more=[1])
    request = {'version': VERSION, 'command': 'tell', 'wait': False, 'more': [1]}
    assert answer == {'version': VERSION, 'got': request}


def test_an_answer_of_a_megabyte_arrives_whole(tmp_path):
    with Answering(tmp_path / 's', status=lambda _: LARGE) as site:
        for _ in range(3):
            assert ask(site.path, 'status', TIMEOUT)['workers'] == LARGE['workers']


def test_a_large_answer_that_comes_later_arrives_whole(tmp_path):
    waiting = []
    commands = {'wait': waiting.append}
    commands['status'] = lambda _: waiting[0].answer(LARGE) or {}
    with Answering(tmp_path / 's', **commands) as site, site.connect() as client:
        client.sendall(request('wait'))
        eventually(lambda: waiting)
        with site.connect() as other:
            other.sendall(request('status'))
            with client.makefile() as lines:
                assert json.loads(lines.readline())['workers'] == LARGE['workers']


def test_clients_that_do_not_read_a_large_answer_stall_nobody(tmp_path):
    before = len(os.listdir('/proc/self/fd'))
    with Answering(tmp_path / 's', status=lambda _: LARGE) as site:
        with contextlib.ExitStack() as clients:
            for _ in range(3 * MAX_CONNECTIONS):
                client = clients.enter_context(site.connect())
                client.sendall(request('status'))
            assert ask(site.path, 'status', TIMEOUT)['workers'] == LARGE['workers']
            turns = site.turns
            # Those that it holds are the last; the one before was given up.
            eventually(lambda: len(site.control._sending) <= MAX_CONNECTIONS)
            client.recv(1)
            assert ask(site.path, 'status', TIMEOUT)['version'] == VERSION
            assert site.turns < turns + 1000, 'it spins'
        eventually(lambda: not site.control._sending)
    eventually(lambda: len(os.listdir('/proc/self/fd')) <= before)


def test_a_slow_reader_gets_all(tmp_path):
    answering = Answering(tmp_path / 's', status=lambda _: LARGE)
    with answering as site, site.connect() as client:
        client.sendall(request('status'))
        came = b''
        while not came.endswith(b'\n'):
            came += client.recv(10_000)
            assert ask(site.path, 'status', TIMEOUT)['version'] == VERSION
    assert json.loads(came)['workers'] == LARGE['workers']


def test_a_client_that_leaves_amid_a_large_answer_is_forgotten(tmp_path):
    with Answering(tmp_path / 's', status=lambda _: LARGE) as site:
        with site.connect() as client:
            client.sendall(request('status'))
            client.recv(100)
        eventually(lambda: not site.control._sending)
        assert ask(site.path, 'status', TIMEOUT)['version'] == VERSION


# -- no descriptor is free --------------------------------------------------------

#: A process that answers, and has as many descriptors open as it may.
FULL = """
import os, resource, selectors, sys
from paste_wspbus.control.server import Control

selector = selectors.DefaultSelector()
control = Control('s', {'status': lambda connection: {}})
control.open()
control.register(selector)
held = []


def fill():
    while True:
        try:
            held.append(os.open(os.devnull, os.O_RDONLY))
        except OSError:
            return


def hear():
    line = os.read(0, 100)
    if line == b'free\\n':
        while held:
            os.close(held.pop())
    elif line == b'fill\\n':
        fill()
    elif line == b'take\\n':  # the reserve, as another thread may
        os.close(control._reserve)
        control._reserve = None
        fill()
    else:
        raise SystemExit
    print(line.decode(), end='', flush=True)


resource.setrlimit(resource.RLIMIT_NOFILE, (40, 40))
selector.register(0, selectors.EVENT_READ, hear)
print('there', flush=True)
while True:
    for key, _ in selector.select():
        key.data()
    print('turn', flush=True)
"""


@contextlib.contextmanager
def full(folder, order):
    with Process([sys.executable, '-c', FULL], folder) as process:
        assert process.out.wait_for('there\n'), process.report()
        tell(process, order)
        yield process


def tell(process, order):
    count = process.out.text.count(order)
    process.process.stdin.write(f'{order}\n')
    process.process.stdin.flush()
    assert process.out.wait_for(order, count + 1), process.report()


def test_clients_are_answered_one_by_one_where_no_descriptor_is_free(tmp_path):
    path = str(tmp_path / 's')
    with full(tmp_path, 'fill') as process:
        for _ in range(50):
            assert ask(path, 'status', TIMEOUT)['version'] == VERSION
        with socket.socket(socket.AF_UNIX) as client:
            client.settimeout(TIMEOUT)
            client.connect(path)  # it has the only place, until another client comes
            assert ask(path, 'status', TIMEOUT)['version'] == VERSION
            assert client.recv(1) == b''
        tell(process, 'free')
        assert ask(path, 'status', TIMEOUT)['version'] == VERSION
        # For each client it woke up a few times, and for what it was told.
        assert process.out.text.count('turn\n') < 250


def test_it_does_not_spin_where_not_even_a_reserve_is_left(tmp_path):
    path = str(tmp_path / 's')
    with full(tmp_path, 'take') as process, socket.socket(socket.AF_UNIX) as client:
        client.settimeout(TIMEOUT)
        client.connect(path)
        began, count = time.monotonic(), process.out.text.count('turn\n')
        assert process.out.wait_for('turn\n', count + 11)
        assert time.monotonic() - began >= 9 * REST
        client.sendall(request('status'))
        tell(process, 'free')
        assert json.loads(client.recv(4096))['version'] == VERSION


def test_a_site_without_descriptors_stops_at_once(ground):
    ground.start()
    site = ground
    limits = resource.prlimit(site.pid, resource.RLIMIT_NOFILE)
    held = len(os.listdir(f'/proc/{site.pid}/fd'))
    resource.prlimit(site.pid, resource.RLIMIT_NOFILE, (held, limits[1]))
    assert site.run('site.ini', 'status').code == 0
    asked = site.run('site.ini', 'stop')
    assert (asked.code, asked.out.text) == (0, 'The site has stopped.\n')
    # Asked at the control socket, and not by a signal.
    assert 'wspserve stop' in site.log


@pytest.mark.parametrize(
    ('server', 'workers'),
    [('egg:waitress', 0), ('egg:paste_wspbus#cheroot', 2)],
    ids=['one process', 'workers'],
)
def test_a_site_whose_limit_is_below_what_is_open_says_so_and_stops(
    tmp_path, server, workers
):
    text = SERVED.replace('egg:waitress', server)
    with Site(
        tmp_path,
        f'{text}[wspbus:main]\nworkers = {workers}\n',
        files={'webapp.py': APP},
    ) as site:
        run(tmp_path, 'site.ini', 'status')  # it answers: everything is open
        for pid in [site.pid, *descendants(site.pid)]:
            limits = resource.prlimit(pid, resource.RLIMIT_NOFILE)
            resource.prlimit(pid, resource.RLIMIT_NOFILE, (8, limits[1]))
        asked = run(tmp_path, 'site.ini', 'status')
        assert asked.code == 0
        assert (
            f'it has no free descriptor (RLIMIT_NOFILE is 8); `prlimit --pid {site.pid}'
            in asked.out.text
        )
        asked = run(tmp_path, 'site.ini', 'stop')
        assert asked.code == 0 and site.wait() == 0, site.report()


def test_a_stop_does_not_wait_long_for_who_cannot_answer(tmp_path):
    path = str(tmp_path / 's')
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(path)
        listening.listen()
        program = 'import signal; print("loaded", flush=True); signal.pause()'
        with Process([sys.executable, '-c', program], tmp_path) as process:
            assert process.out.wait_for('loaded')  # what it opens, it has opened
            resource.prlimit(process.pid, resource.RLIMIT_NOFILE, (1, 1))
            began = time.monotonic()
            Stop(path, OtherProcess(process.pid)).run()
            assert time.monotonic() - began < PATIENCE
            assert process.wait() == -signal.SIGTERM


def test_a_site_without_descriptors_serves_on_when_some_are_free_again(site):
    limits = resource.prlimit(site.pid, resource.RLIMIT_NOFILE)
    held = len(os.listdir(f'/proc/{site.pid}/fd'))
    try:
        resource.prlimit(site.pid, resource.RLIMIT_NOFILE, (held, limits[1]))
        for _ in range(20):
            assert ask(str(site.control), 'status', TIMEOUT)['pid'] == site.pid
    finally:
        resource.prlimit(site.pid, resource.RLIMIT_NOFILE, limits)
    assert answers(site)


# -- forked children ----------------------------------------------------------------


def refuses(ground):
    """Whether nobody has it open."""
    try:
        ask(str(ground.control), 'status')
    except NoAnswer as error:
        return error.code == errno.ECONNREFUSED
    return False


def test_a_forked_child_does_not_keep_it_open(ground):
    """Not the socket, nor the connections of clients that wait."""
    ground.start()
    with connect(ground) as waiting, ground.connect() as forks:
        assert answers(ground), 'the one before was accepted'
        forks.send('/fork', connection='close')
        eventually(lambda: 'child ' in ground.log)
        kill(ground.pid)
        eventually(lambda: refuses(ground))
        assert waiting.recv(1) == b''
        assert len(ground.processes()) == 1, 'the child lives on'


# -- a path that is not locked by a PID file ------------------------------------------


@pytest.fixture
def path():
    """A path for a control socket, which is short enough to bind to."""
    with tempfile.TemporaryDirectory(dir='/tmp') as folder:
        yield f'{folder}/site.sock'


def opened(path):
    control = Control(path, {'status': lambda _: {}})
    control.open(shared=True)
    return control


def test_a_second_site_leaves_the_firsts_socket_alone(path):
    first = opened(path)
    try:
        with pytest.raises(OSError, match='another site listens') as caught:
            opened(path)
        assert caught.value.errno == errno.EADDRINUSE
        assert os.path.exists(path)
    finally:
        first.close()
    opened(path).close()
    assert not os.path.exists(path)


def test_one_that_hangs_with_a_full_queue_is_a_site_too(path):
    first = opened(path)
    try:
        with contextlib.ExitStack() as clients:
            with contextlib.suppress(BlockingIOError):
                while True:
                    client = clients.enter_context(socket.socket(socket.AF_UNIX))
                    client.setblocking(False)
                    client.connect(path)
            with pytest.raises(OSError, match='another site listens'):
                opened(path)
    finally:
        first.close()


def test_what_a_killed_site_without_a_pid_file_left_is_replaced(path):
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(path)
    opened(path).close()
    assert not os.path.exists(path)


def test_a_file_where_the_socket_would_be_is_left_alone(path):
    Path(path).write_text('precious')
    with pytest.raises(OSError):
        opened(path)
    assert Path(path).read_text() == 'precious'


OPENS = """
import sys
from paste_wspbus.control.server import Control
control = Control(sys.argv[1], {})
print('there', flush=True)
sys.stdin.readline()
try:
    control.open(shared=True)
except OSError as error:
    print('refused', error.strerror, flush=True)
else:
    print('open', flush=True)
sys.stdin.readline()
control.close()
"""


def test_of_many_that_start_at_once_one_has_the_socket(path, tmp_path):
    with contextlib.ExitStack() as stack:
        sites = [
            stack.enter_context(Process([sys.executable, '-c', OPENS, path], tmp_path))
            for _ in range(6)
        ]
        for site in sites:
            assert site.out.wait_for('there\n'), site.report()
        with socket.socket(socket.AF_UNIX) as left:  # which each of them would replace
            left.bind(path)
        for site in sites:
            site.process.stdin.write('go\n')
            site.process.stdin.flush()
        for site in sites:
            assert site.out.wait_for('\n', 2), site.report()
        said = [site.out.text.splitlines()[1].split()[0] for site in sites]
        assert sorted(said) == ['open', *['refused'] * 5]
        assert os.path.exists(path)
        for site in sites:
            site.release()
            assert site.wait() == 0, site.report()
    assert not os.path.exists(path)


# -- another user asks ------------------------------------------------------------------

#: The command, as another user; what it needs is imported before.
AS_ANOTHER = """
import os, sys
import glob, json, pwd
from paste_wspbus.command.main import main
from paste_wspbus.control import stop as stopping
from paste_wspbus.command import graceful, status, stop
os.setresgid(65534, 65534, 65534)
os.setgroups([])
os.setresuid(65534, 65534, 65534)
sys.exit(main())
"""


@pytest.mark.parametrize(
    ('args', 'code', 'line'),
    [
        (['status'], 0, 'but does not answer: permission denied: it belongs to root.'),
        (['graceful'], 1, 'is running (process {}), but does not answer: permission'),
        (['stop'], 4, 'process {} belongs to another user: permission denied'),
    ],
)
def test_another_user_is_told_so_at_once(args, code, line):
    with tempfile.TemporaryDirectory() as folder:  # which he may enter
        os.chmod(folder, 0o755)
        ground = Ground(folder)
        try:
            ground.start()
            words = [sys.executable, '-c', AS_ANOTHER, 'site.ini', *args]
            with Process(words, folder) as command:
                assert command.wait() == code, command.report()
            said = command.out.text + command.err.text
            assert line.format(ground.pid) in said, command.report()
            assert said.count('\n') == 1
            assert answers(ground)
        finally:
            ground.close()


# -- beside threads that compute ----------------------------------------------------


def test_turns_with_the_gil_are_short_while_a_client_gets_its_answer():
    before = sys.getswitchinterval()
    with ShortTurns():
        assert sys.getswitchinterval() < before
        with warnings.catch_warnings():
            # The threads of other tests may warn.
            warnings.simplefilter('ignore', DeprecationWarning)
            child = os.fork()  # such as by the site, in another thread
        if not child:
            os._exit(round(sys.getswitchinterval() * 1000))
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == before * 1000
    assert sys.getswitchinterval() == before


def test_the_interval_that_a_site_sets_meanwhile_is_kept():
    before = sys.getswitchinterval()
    try:
        with ShortTurns():
            sys.setswitchinterval(0.002)
        assert sys.getswitchinterval() == pytest.approx(0.002)
    finally:
        sys.setswitchinterval(before)
