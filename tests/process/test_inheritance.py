"""What one process leaves to another one, and what the other one makes of it."""

import os
import socket

import pytest

from paste_wspbus.process.handing_over import receive, send
from paste_wspbus.process.inheritance import VARIABLE, Inheritance
from paste_wspbus.process.inherited_fields import is_role
from paste_wspbus.role import Role


@pytest.fixture
def fds():
    """Three descriptors, of /dev/null."""
    opened = [os.open(os.devnull, os.O_RDONLY) for _ in range(3)]
    yield opened
    for fd in opened:
        os.close(fd)


@pytest.fixture
def listening():
    """A descriptor of a socket that listens."""
    with socket.create_server(('127.0.0.1', 0)) as sock:
        yield sock.fileno()


@pytest.fixture
def file(tmp_path):
    """A descriptor of a regular file."""
    with open(tmp_path / 'site.pid', 'w') as opened:
        yield opened.fileno()


def test_the_next_program_of_this_process_gets_all(listening, file):
    control = socket.socket(socket.AF_UNIX)
    fds = [listening, file, control.fileno()]
    left = Inheritance({'port': '8080'}, fds[:1], fds[1], fds[2], owned=False)
    left.daemon, left.reload = True, (1.5, True)
    environ = {}
    left.to_environ(environ)
    for fd in fds:
        os.set_inheritable(fd, True)  # as execv(2) needs it
    came = Inheritance.from_environ(environ)
    assert vars(came) == {**vars(left), 'reload': [1.5, True], 'came_over_execv': True}
    assert not any(map(os.get_inheritable, fds))
    assert environ == {}  # programs that the site starts do not get it
    control.close()


@pytest.mark.parametrize(
    'text',
    [
        'no JSON',
        '[]',
        '{}',
        '{"pid": 1, "sockets": [0]}',  # another process's
        '{"pid": PID, "of_a_later_version": 1}',
        '{"pid": PID, "sockets": [9999]}',  # not open
        '[' * 100_000,
        '{"pid": PID, "sockets": [FILE]}',
        '{"pid": PID, "sockets": [-1]}',
        '{"pid": PID, "sockets": [1e300]}',
        '{"pid": PID, "sockets": [%d]}' % 10**30,
        '{"pid": PID, "sockets": [true]}',
        '{"pid": PID, "sockets": {"0": 1}}',
        '{"pid": PID, "sockets": null}',
        '{"pid": PID, "where": ["port"]}',
        '{"pid": PID, "where": {"port": 80}}',
        '{"pid": PID, "pid_file": SOCKET}',
        '{"pid": PID, "pid_file": "3"}',
        '{"pid": PID, "control": FILE}',
        '{"pid": PID, "control": %d}' % 10**30,
        '{"pid": PID, "owned": "yes"}',
        '{"pid": PID, "daemon": 2}',
        '{"pid": PID, "report": -5}',
        '{"pid": PID, "report": %d}' % 2**40,
        '{"pid": PID, "worker": [FILE, []]}',
        '{"pid": PID, "worker": [SOCKET]}',
        '{"pid": PID, "worker": [SOCKET, [1, 2]]}',
        '{"pid": PID, "worker": [SOCKET, ["worker", 1, 1, true, true, true, true, "", 1, 1]]}',
        '{"pid": PID, "worker": [%d, []]}' % 10**30,
        '{"pid": PID, "problem": "?"}',
        '{"pid": PID, "problem": [{}, ""]}',
        '{"pid": PID, "reload": [1, true]}',
        '{"pid": PID, "reload": ["views.py"]}',
    ],
)
def test_what_was_not_left_to_this_process_is_not_used(text, listening, file):
    text = text.replace('SOCKET', str(listening)).replace('FILE', str(file))
    environ = {VARIABLE: text.replace('PID', str(os.getpid()))}
    came = Inheritance.from_environ(environ)
    assert vars(came) == vars(Inheritance())
    assert environ == {}


@pytest.mark.parametrize('held', ['sockets and a PID file', 'sockets', 'nothing'])
def test_another_process_gets_descriptors_of_its_own(fds, held):
    left = {
        'sockets and a PID file': Inheritance({'port': '1'}, fds[:2], fds[2]),
        'sockets': Inheritance({'port': '1'}, fds),
        'nothing': Inheritance(),
    }[held]
    here, there = socket.socketpair()
    with here, there:
        send(left, here)
        came = receive(there)
    assert came is not None
    try:
        # Where they are bound is asked of the sockets themselves.
        assert (came.where, came.owned) == ({}, left.owned)
        assert came.came_from_another
        assert len(came.descriptors) == len(left.descriptors)
        assert (came.pid_file is None) == (left.pid_file is None)
        assert (came.control is None) == (left.control is None)
        assert not {*came.descriptors} & {*left.descriptors}
        assert not any(map(os.get_inheritable, came.descriptors))
    finally:
        came.forget()


def test_a_process_that_refuses_leaves_nothing():
    here, there = socket.socketpair()
    with here, there:
        here.sendall(
            b'{"version": 1, "error": "another process is already taking over"}\n'
        )
        assert receive(there) is None
        here.close()
        assert receive(there) is None


@pytest.mark.parametrize(
    'text',
    [
        b'{',
        b'[1]',
        b'7',
        b'{"sockets": -1, "pid_file": false, "control": false, "owned": true}',
        b'{"sockets": 1, "pid_file": false, "control": false, "owned": true}',
        b'{"sockets": true, "pid_file": true, "control": false, "owned": true}',
        b'{"sockets": 3, "pid_file": true, "control": true, "owned": true}',
        b'{"sockets": 2, "pid_file": 1, "control": "yes", "owned": true}',
        b'{"sockets": "3", "pid_file": false, "control": false, "owned": true}',
        b'{"sockets": 1e999, "pid_file": false, "control": false, "owned": true}',
        b'{"sockets": 3}',
        b'{' * 60_000,
        b'[' * 60_000,
        b'{"sockets": %d}' % 10**60,
    ],
)
def test_what_makes_no_sense_is_closed(fds, text):
    before = sorted(os.listdir('/proc/self/fd'))
    here, there = socket.socketpair()
    with here, there:
        socket.send_fds(here, [text], fds)
        assert receive(there) is None
    assert sorted(os.listdir('/proc/self/fd')) == before


def test_a_control_socket_of_an_earlier_version_is_closed(fds):
    text = b'{"sockets": 1, "pid_file": true, "control": true, "owned": false}'
    here, there = socket.socketpair()
    with here, there:
        socket.send_fds(here, [text], fds)
        came = receive(there)
    assert len(came.descriptors) == 2 and came.control is None
    came.forget()


def test_who_takes_the_sockets_closes_them(fds):
    ours, passed = socket.socket(), socket.socket()
    came = Inheritance(sockets=[ours.detach(), passed.detach()], pid_file=fds[2])
    came.origins = [[[], None], [['fd://web'], None]]
    taken = came.take_sockets()
    assert [one.is_passed for one in taken] == [False, True]
    assert came.descriptors == fds[2:]
    for listening in taken:
        listening.close()


def test_a_worker_is_inherited_with_each_role():
    role = Role()._replace(time_to_stop=3.5, problem='text', number=2)
    assert is_role(list(role))
    assert is_role(list(Role()))
    assert not is_role([*Role()._replace(time_to_stop='3')])
