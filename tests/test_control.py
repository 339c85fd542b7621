"""The control socket: what it answers, to whom, and that nobody can stall it."""

import json
import os
import signal
import socket
import stat
import sys
import threading

import pytest
from support import TIMEOUT, Process, eventually
from test_daemon import Ground, has_ended, kill

from paste_wspbus.control import (
    MAX_CONNECTIONS,
    MAX_REQUEST,
    VERSION,
    NoAnswer,
    ask,
    path_for,
)


@pytest.fixture
def ground(tmp_path):
    ground = Ground(tmp_path)
    yield ground
    ground.close()


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
    assert path_for(str(ground.pid_file)) == str(ground.control)
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
    assert status['deadline'] == 25


def test_it_names_the_requests_in_flight(site):
    with site.request_at_gate('/Gate/one'):
        (line,) = talk(site, request('status'))['requests']
    assert 'GET' in line
    assert '/Gate/one' in line


def test_it_tells_of_the_state_while_the_site_stops(site):
    with site.request_at_gate(), connect(site) as stopping:
        stopping.sendall(request('stop'))
        eventually(lambda: talk(site, request('status')).get('state') != 'STARTED')
        status = talk(site, request('status'))
        assert status.get('state') == 'STOPPING', status
        assert len(status['requests']) == 1
        assert "'stop' listener" in status['calling']
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
    before = len(os.listdir(f'/proc/{site.pid}/fd'))

    def come_and_go():
        for _ in range(50):
            with connect(site) as client:
                client.send(request('status'))

    threads = [threading.Thread(target=come_and_go) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(TIMEOUT)
    assert answers(site)
    eventually(lambda: len(os.listdir(f'/proc/{site.pid}/fd')) <= before)


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
    assert ask(path_for(str(deep / 'site.pid')), 'status', TIMEOUT)['pid'] == pid
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
    assert 'no control socket' in ground.log
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
