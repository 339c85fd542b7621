"""A worker that hangs is killed: another one answers what it has not begun, for real."""

import contextlib
import json
import os
import re
import socket
import struct
import subprocess
import sys
from types import SimpleNamespace

import pytest

from paste_wspbus.bus import Bus
from paste_wspbus.role import WORKER
from paste_wspbus.servers import untouched
from paste_wspbus.servers.untouched import Marks
from paste_wspbus.workers import handing_on
from paste_wspbus.workers.orders import Orders
from tests.kit import eventually
from tests.kit.processes import has_ended
from tests.kit.sites import ask
from tests.kit.workers import FILES, INI, Workers

#: A page that waits until the test makes a file, and then holds the GIL.
HANGS = """
import re

def match_later(environ):
    say('waits')
    while not os.path.exists('gil'):
        time.sleep(0.001)
    re.match('(a*)*b', 'a' * 100)

PAGES.update({'/match': match_later})
"""

#: Without the length of a response, Paste#http closes the connection. A page says on how
#: many connections no request has begun.
WITH_LENGTH = """
PAGES['/marks'] = lambda environ: {
    'marks': sum(map(bool, bus_of(environ).plugins['server'].untouched.numbers))
}
unmeasured = app

def app(environ, start_response):
    chunks = unmeasured(environ, lambda *_: None)
    start_response('200 OK', [('Content-Length', str(len(chunks[0])))])
    return chunks
"""

TCP, UNIX = 'host = 127.0.0.1\nport = 0\n', 'unix_socket = site.sock\n'


def _hanging(server):
    """Return the files of a site whose workers count as hung after a second."""
    ini = re.sub('(?s)(?<=use = )egg:waitress.*?(?=\n\n)', server, INI)
    return {
        'webapp.py': FILES['webapp.py'] + HANGS,
        'site.ini': ini.replace('soak = 0', 'soak = 0\nhung_after = 1\n'),
    }


@pytest.mark.parametrize(
    ('server', 'keeps'),
    [
        # It has read the request that waits for a thread.
        ('egg:waitress\nthreads = 1\n' + TCP, True),
        # They have not.
        ('egg:paste_wspbus#cheroot\nnumthreads = 1\n' + TCP, True),
        # Each of its threads has a connection.
        (
            'egg:Paste#http\nthreadpool_workers = 1\nthreadpool_spawn_if_under = 0\n'
            + TCP,
            False,
        ),
        ('egg:waitress\nthreads = 1\n' + UNIX, True),
        ('egg:paste_wspbus#cheroot\nnumthreads = 1\n' + UNIX, True),
    ],
    ids=['waitress', 'cheroot', 'paste', 'waitress-unix', 'cheroot-unix'],
)
def test_what_a_worker_that_hangs_has_not_begun_is_answered_by_its_successor(
    tmp_path, server, keeps
):
    files = _hanging(server)
    with contextlib.ExitStack() as stack:
        site = stack.enter_context(Workers(tmp_path, count=1, files=files))
        if keeps:
            kept = stack.enter_context(site.connect())
            kept.get('/')
        hangs = stack.enter_context(site.connect())
        hangs.send('/match')
        site.expect('waits ')
        old = int(re.search(r'waits (\d+)', site.err.text)[1])
        waits = stack.enter_context(site.connect())
        waits.send('/')
        eventually(lambda: site.workers()[0]['queued'] == 1)
        (tmp_path / 'gil').touch()
        if keeps:
            kept.send('/')
        answers = [waits.receive(), *([kept.receive()] if keeps else [])]
        assert [one.status for one in answers] == [200] * len(answers)
        assert old not in {json.loads(one.body)['pid'] for one in answers}
        eventually(lambda: has_ended(old))
        if keeps:
            assert waits.get('/').status == 200
        with pytest.raises(ConnectionError):
            hangs.receive()  # it had begun
        assert site.stop()[0] == 0


@pytest.mark.parametrize('has_pool', [True, False])
def test_a_connection_with_a_thread_of_its_own_is_answered_by_the_successor(
    tmp_path, has_pool
):
    """Of Paste#http: the first request of a connection, and those after others."""
    server = f'egg:Paste#http\nuse_threadpool = {has_pool}\n' + TCP
    files = _hanging(server + 'protocol_version = HTTP/1.1\n')
    files['webapp.py'] += WITH_LENGTH
    with (
        Workers(tmp_path, count=1, files=files) as site,
        site.connect() as kept,
        site.connect() as silent,  # it is accepted before the next one
        site.connect() as hangs,
    ):
        kept.get('/')
        kept.get('/')
        eventually(lambda: ask(site, '/marks')['marks'] == 3)
        hangs.send('/match')
        site.expect('waits ')
        old = int(re.search(r'waits (\d+)', site.err.text)[1])
        (tmp_path / 'gil').touch()
        site.expect('has not answered for')  # now nothing else runs there
        for connection in (silent, kept):
            connection.send('/')
        for connection in (silent, kept):
            answer = connection.receive()
            assert answer.status == 200 and json.loads(answer.body)['pid'] != old
        assert kept.get('/').status == 200
        assert site.stop()[0] == 0


#: A process that has accepted a connection, and says which descriptor it has.
HAS_ACCEPTED = """
import socket, sys
listening = socket.socket(fileno=int(sys.argv[1]))
connection, _ = listening.accept()
print(connection.fileno(), flush=True)
sys.stdin.read()
"""


class _Worker:
    """A worker that is killed."""

    name = title = 'worker 1'
    role = SimpleNamespace(kind=WORKER, place=1)

    def __init__(self, pid):
        self.pid = pid


class _Other:
    """A worker that gets orders."""

    leaving = silent = False

    def __init__(self, name='worker 2'):
        self.name = self.title = name
        self.told = []

    def tell(self, *order, fds):
        self.told.append((*order, [os.fstat(fd).st_ino for fd in fds]))


@pytest.fixture
def killed():
    """Yield a process with a connection, and what the supervisor knows of both."""
    with socket.create_server(('127.0.0.1', 0)) as listening:
        fd = str(listening.fileno())
        child = subprocess.Popen(
            [sys.executable, '-c', HAS_ACCEPTED, fd],
            pass_fds=[int(fd)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        with child, socket.create_connection(listening.getsockname()) as client:
            other, bus = _Other(), Bus()
            serving = [other]
            bus.log = lambda *_: None
            supervisor = SimpleNamespace(
                bus=bus,
                server=SimpleNamespace(sockets=[SimpleNamespace(sock=listening)]),
                is_stopping=False,
                leaving=SimpleNamespace(killed=[]),
                children=SimpleNamespace(board=SimpleNamespace(marks=Marks())),
                serving=lambda: serving,
            )
            worker = _Worker(child.pid)
            yield SimpleNamespace(
                child=child,
                client=client,
                fd=int(child.stdout.readline()),
                handing_on=handing_on.HandingOn(supervisor),
                listening=listening.fileno(),
                marks=supervisor.children.board.marks.of(1),
                other=other,
                serving=serving,
                worker=worker,
            )
            child.kill()


def _die(killed):
    killed.child.kill()
    killed.child.wait()
    killed.handing_on.pass_on('worker 1', killed.child.pid, -9)


def test_an_order_names_the_socket_whose_descriptor_comes_along(killed):
    killed.marks.add(killed.fd)
    killed.handing_on.take(killed.worker)
    _die(killed)
    ((word, inode, inodes),) = killed.other.told
    assert (word, inodes) == ('take', [inode])
    killed.client.settimeout(10)
    assert killed.client.recv(1) == b''  # nobody has kept it


def test_the_worker_that_takes_its_place_gets_them(killed):
    killed.serving.append(successor := _Other('worker 1'))
    killed.marks.add(killed.fd)
    killed.handing_on.take(killed.worker)
    _die(killed)
    assert len(successor.told) == 1 and killed.other.told == []


@pytest.mark.parametrize('flag', ['leaving', 'silent'])
def test_a_worker_that_leaves_or_does_not_answer_gets_none(killed, flag):
    setattr(killed.other, flag, True)
    killed.marks.add(killed.fd)
    killed.handing_on.take(killed.worker)
    _die(killed)
    killed.client.settimeout(10)
    assert killed.client.recv(1) == b''
    assert killed.other.told == []


def test_a_listening_socket_is_no_connection(killed):
    killed.marks.add(killed.listening)  # its descriptor was that of a connection
    killed.handing_on.take(killed.worker)
    _die(killed)
    assert killed.other.told == []


def test_the_supervisor_does_not_wait_for_the_client_of_a_connection_that_it_closes():
    """As close(2) does, if the worker has set SO_LINGER."""
    lingers = struct.pack('ii', 1, 3600)
    with (
        socket.create_server(('127.0.0.1', 0)) as listening,
        socket.create_connection(listening.getsockname()) as connection,
        connection.dup() as copy,
    ):
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, lingers)
        handing_on._close(connection)
        is_on, _ = struct.unpack(
            'ii', copy.getsockopt(socket.SOL_SOCKET, socket.SO_LINGER, 8)
        )
        assert connection.fileno() == -1 and not is_on


def test_a_worker_takes_the_descriptor_of_its_order_and_of_no_other(monkeypatch):
    taken = []
    monkeypatch.setattr(untouched, 'take', lambda server, fd: taken.append(fd))
    bus = SimpleNamespace(
        plugins={}, hurry=None, force_exit=None, log=lambda *_, **__: None
    )
    ours, theirs = socket.socketpair()
    with ours, theirs, socket.socket() as connection:
        orders = Orders(bus, ours, None, [])
        inode, fd = os.fstat(connection.fileno()).st_ino, connection.fileno()
        orders._take(inode)  # its descriptor is missing: none was free
        orders._fds.append(fd)
        orders._take(inode + 1)
        assert taken == []
        orders._take(inode)
        assert taken == [fd]


def test_a_process_that_is_said_to_have_ended_and_lives_keeps_its_connections(killed):
    killed.marks.add(killed.fd)
    killed.handing_on.take(killed.worker)
    killed.handing_on.pass_on('worker 1', killed.child.pid, None)
    _die(killed)  # once more, for real: they are given back already
    assert killed.other.told == []


def test_a_connection_that_is_no_longer_the_marked_one_is_lost(killed):
    killed.marks.add(killed.fd)
    killed.handing_on.take(killed.worker)
    killed.marks.add(killed.fd)
    _die(killed)
    assert killed.other.told == []


def test_the_supervisor_keeps_descriptors_free(killed, monkeypatch):
    monkeypatch.setattr(handing_on, 'KEPT', 1 << 62)
    killed.marks.add(killed.fd)
    killed.handing_on.take(killed.worker)
    _die(killed)
    assert killed.other.told == []


@pytest.mark.filterwarnings('ignore:.*multi-threaded:DeprecationWarning')
def test_a_child_that_is_forked_meanwhile_keeps_no_connection_open(killed):
    killed.marks.add(killed.fd)
    killed.handing_on.take(killed.worker)
    reads, writes = os.pipe()
    pid = os.fork()
    if not pid:
        os.close(writes)
        os.read(reads, 1)  # the end of the test
        os._exit(0)
    os.close(reads)
    try:
        killed.marks.remove(killed.fd)
        _die(killed)
        killed.client.settimeout(10)
        assert killed.client.recv(1) == b''
    finally:
        os.close(writes)
        os.waitpid(pid, 0)
