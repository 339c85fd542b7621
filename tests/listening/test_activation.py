"""Sockets that systemd passes: which are there, and who may serve on them."""

import re
import signal
import socket
import sys

import pytest

from paste_wspbus.errors import UsageError
from paste_wspbus.listening.activation import activated
from tests.kit import Connection, Process, Site
from tests.kit.systemd import LAUNCH, PLUG, SITE, tool

TAKE = """
import os, subprocess, sys
from paste_wspbus.listening.activation import activated
from paste_wspbus.errors import WSPBusError
try:
    for one in activated():
        print(one.fd, one.name, os.get_inheritable(one.fd), flush=True)
except WSPBusError as error:
    print(type(error).__name__, error.exit_code, error, flush=True)
code = 'import os; print([name for name in os.environ if "LISTEN" in name])'
subprocess.run([sys.executable, '-c', code])
"""


def take(tmp_path, sockets, settings):
    fds = [one.fileno() for one in sockets]
    with Process(
        [sys.executable, '-c', LAUNCH, ','.join(map(str, fds)), settings, '-c', TAKE],
        tmp_path,
        pass_fds=fds,
    ) as process:
        assert process.wait() == 0, process.report()
        *lines, environ = process.out.text.splitlines()
        assert environ == '[]'  # what a child finds
        return lines


@pytest.fixture
def listening(tmp_path):
    with (
        socket.create_server(('127.0.0.1', 0)) as tcp,
        socket.socket(socket.AF_UNIX) as unix,
    ):
        unix.bind(str(tmp_path / 'listening'))
        unix.listen()
        yield tcp, unix


@pytest.fixture
def two_ports():
    with (
        socket.create_server(('127.0.0.1', 0)) as one,
        socket.create_server(('127.0.0.1', 0)) as other,
    ):
        yield one, other


def test_sockets_that_are_passed_are_found_with_their_names(tmp_path, listening):
    lines = take(tmp_path, listening, 'LISTEN_FDS=2,LISTEN_FDNAMES=web:admin')
    assert lines == ['3 web False', '4 admin False']


def test_sockets_without_names_are_called_as_systemd_calls_them(tmp_path, listening):
    assert take(tmp_path, listening, 'LISTEN_FDS=2') == [
        '3 unknown False',
        '4 unknown False',
    ]


def test_where_no_socket_is_passed_there_is_none():
    for settings in ({}, {'LISTEN_FDS': '0'}):
        environ = {'LISTEN_PID': '7', **settings}
        assert activated(environ, 7) == []
        assert environ == {}


@pytest.mark.parametrize(
    ('settings', 'message'),
    [
        ('LISTEN_FDS=two', 'UsageError 2 LISTEN_FDS=two is not a number'),
        ('LISTEN_FDS=-1', 'UsageError 2 LISTEN_FDS=-1 is not a number'),
        ('LISTEN_FDS=', 'UsageError 2 LISTEN_FDS= is not a number'),
        ('LISTEN_FDS=²', 'UsageError 2 LISTEN_FDS=² is not a number'),
        (
            'LISTEN_FDS=' + '9' * 30,
            f'UsageError 2 LISTEN_FDS={"9" * 30} is more than the .* descriptors '
            'that a process may have',
        ),
        (
            'LISTEN_FDS=' + '9' * 5000,
            f'UsageError 2 LISTEN_FDS={"9" * 40}… is not a number',
        ),
        (
            'LISTEN_FDS=3',
            'BindError 1 cannot listen on descriptor 5 of LISTEN_FDS=3: '
            'Bad file descriptor',
        ),
        (
            'LISTEN_FDS=2,LISTEN_FDNAMES=web',
            'UsageError 2 LISTEN_FDNAMES=web has 1 names for the 2 sockets of LISTEN_FDS',
        ),
        (
            'LISTEN_FDS=1,LISTEN_FDNAMES=a:b',
            'UsageError 2 LISTEN_FDNAMES=a:b has 2 names for the 1 sockets of LISTEN_FDS',
        ),
    ],
)
def test_variables_that_lie_are_named_in_one_line(
    tmp_path, listening, settings, message
):
    (line,) = take(tmp_path, listening, settings)
    assert re.fullmatch(message, line)


def a_file(tmp_path):
    return open(tmp_path / 'file', 'w')


def a_datagram_socket(tmp_path):
    return socket.socket(socket.AF_INET, socket.SOCK_DGRAM)


def a_socket_that_does_not_listen(tmp_path):
    sock = socket.socket()
    sock.bind(('127.0.0.1', 0))
    return sock


@pytest.mark.parametrize(
    ('make', 'reason'),
    [
        (a_file, 'Socket operation on non-socket'),
        (a_datagram_socket, 'it is not a stream socket'),
        (a_socket_that_does_not_listen, 'it does not listen'),
    ],
)
def test_a_descriptor_that_cannot_serve_is_named_in_one_line(
    tmp_path, listening, make, reason
):
    with make(tmp_path) as wrong:
        (line,) = take(tmp_path, [listening[0], wrong], 'LISTEN_FDS=2')
    place = 'descriptor 4 of LISTEN_FDS=2'
    assert line == f'BindError 1 cannot listen on {place}: {reason}'


def test_sockets_of_another_process_are_left_to_it():
    environ = {'LISTEN_PID': '1', 'LISTEN_FDS': '1', 'LISTEN_FDNAMES': 'web'}
    before = dict(environ)
    assert activated(environ) == []
    assert environ == before
    assert activated({}) == []


def test_a_process_id_that_is_none_is_named():
    with pytest.raises(UsageError, match='LISTEN_PID=me is not a number'):
        activated({'LISTEN_PID': 'me', 'LISTEN_FDS': '1'})


def test_a_name_that_no_socket_has_is_told_with_those_that_were_passed(
    tmp_path, two_ports
):
    fds = [one.fileno() for one in two_ports]
    words = [sys.executable, '-c', LAUNCH, ','.join(map(str, fds))]
    words += ['LISTEN_FDS=2,LISTEN_FDNAMES=web:admin', '-m', 'paste_wspbus', 'site.ini']
    (tmp_path / 'site.ini').write_text(PASSED)
    with Process([*words, '--listen', 'fd://wen'], tmp_path, pass_fds=fds) as process:
        assert process.wait() == 2, process.report()
    assert 'fd://wen: no socket of that name was passed' in process.err.text
    assert 'names that were passed: web, admin' in process.err.text


PASSED = """
[app:main]
use = egg:paste_wspbus#hello

[server:main]
use = egg:waitress
"""


def test_systemd_s_own_tool_passes_a_socket_which_outlives_a_restart(tmp_path):
    (tmp_path / 'site.ini').write_text(PASSED)
    command = [
        tool('systemd-socket-activate'),
        '--fdname=web',
        f'--listen={tmp_path}/web',
        sys.executable,
        '-m',
        'paste_wspbus',
        'site.ini',
    ]
    with Process(command, tmp_path) as process:
        process.expect('Listening on')
        for count in (1, 2):
            with Connection(f'{tmp_path}/web') as client:
                assert client.get(connection='close').status == 200
            assert process.out.wait_for('Serving on ', count), process.report()
            process.send(signal.SIGHUP if count == 1 else signal.SIGTERM)
        assert process.wait() == 0
        assert process.out.text.count(f'Starting server in PID {process.pid}.') == 2


@pytest.mark.parametrize(
    ('names', 'arguments', 'served'),
    [
        ('web:web', [], [0, 1]),
        ('web:admin', ['--listen', 'fd://admin'], [1]),
    ],
)
def test_a_site_serves_on_what_it_was_passed_over_a_restart_too(
    tmp_path, manager, two_ports, names, arguments, served
):
    fds = [one.fileno() for one in two_ports]
    settings = f'LISTEN_FDS=2,LISTEN_FDNAMES={names}'
    command = [sys.executable, '-c', LAUNCH, ','.join(map(str, fds)), settings]
    command += ['-m', 'paste_wspbus', 'site.ini', *arguments]
    with Site(
        tmp_path,
        None,
        files={'plug.py': PLUG, 'site.ini': SITE},
        command=command,
        pass_fds=fds,
        env={'NOTIFY_SOCKET': manager.address},
    ) as site:

        def ask(number):
            connection = Connection(two_ports[number].getsockname())
            connection.send('/')
            return connection

        def answered(connection):
            with connection:
                return connection.receive().body == b'ok'

        manager.until(READY='1')
        assert all(answered(ask(number)) for number in served)
        site.send(signal.SIGHUP)
        manager.until(RELOADING='1')
        waiting = [ask(number) for number in served]  # none is refused
        manager.until(READY='1')
        assert all(map(answered, waiting))
        assert all(answered(ask(number)) for number in served)
        assert site.stop()[0] == 0
    # Nobody serves, but systemd listens.
    waiting = [ask(number) for number in served]
    for connection in waiting:
        connection.close()
