"""Several processes accept from the same sockets: none stands in another one's way."""

import collections
import contextlib
import json
import os
import re
import signal
import socket
import sys

import pytest

from paste_wspbus.listening.backlog import readable
from paste_wspbus.listening.sockets import bind_tcp
from tests.kit import TIMEOUT, Connection, Process, eventually, is_free, write
from tests.kit.clients import Load

#: Binds, forks workers that serve, and passes on the orders that come on its standard
#: input, each a line: an order and the processes that it is for (none: all).
WORKERS = """
import contextlib
import json
import os
import resource
import signal
import socket
import sys
import threading
import time

from paste_wspbus.bus import Bus
from paste_wspbus.servers.registry import find_adapter

released = threading.Event()


def say(text):
    os.write(1, (text + '\\n').encode())


def app(environ, start_response):
    if environ['PATH_INFO'] == '/wait':
        say(f'waiting in {os.getpid()}')
        released.wait(60)
    body = b'hello' if environ['PATH_INFO'] == '/' else str(os.getpid()).encode()
    start_response('200 OK', [('Content-Length', str(len(body)))])
    return [body]


class Worker:
    def __init__(self, server, orders):
        self.bus, self.server, self.orders = Bus(), server, orders
        self.sockets, self.taken = list(server.sockets), []
        self.bus.subscribe('log', self.log)
        server.shared, server.competes = False, True
        for listening in self.sockets:
            listening.owned = False
        server.plug_in(self.bus)
        self.bus.subscribe('start', server, app)

    def log(self, message, level=20, traceback=False):
        say(f'log {level} of {os.getpid()}: {message}')

    def run(self):
        self.bus.start()
        self.thread = threading.Thread(target=self.obey, daemon=True)
        self.bus.subscribe('main', self.begin)
        self.bus.block(interval=0.01)
        say(f'left {os.getpid()}')

    def begin(self):
        # In block(), which takes descriptors to sleep on, before any order.
        self.bus.unsubscribe('main', self.begin)
        self.thread.start()
        say(f'ready {os.getpid()}')

    def obey(self):
        for order in self.orders:
            getattr(self, order.strip())()

    def stop(self):
        for listening in self.sockets:
            listening.owned = True
        self.bus.exit()

    def make_way(self):
        self.bus.exit()

    def release(self):
        released.set()

    def cpu(self):
        say(f'cpu {time.process_time()}')

    def exhaust(self):
        hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        resource.setrlimit(resource.RLIMIT_NOFILE, (64, hard))
        with contextlib.suppress(OSError):
            while True:
                self.taken.append(os.open(os.devnull, os.O_RDONLY))
        say('exhausted')

    def free_one(self):
        os.close(self.taken.pop())

    def free(self):
        while self.taken:
            os.close(self.taken.pop())


class Parent:
    def __init__(self, name, conf):
        self.server, self.pipes = find_adapter(name)(conf, {}), {}
        self.server.shared = True
        self.server.bind()

    def fork(self):
        mine, its = socket.socketpair()
        pid = os.fork()
        if pid:
            its.close()
            self.pipes[pid] = mine
            return
        for pipe in [mine, *self.pipes.values()]:
            pipe.close()
        with its, its.makefile() as orders:
            worker = Worker(self.server, orders)
            worker.run()
            its.shutdown(socket.SHUT_RDWR)  # or its reader would hold up the close
            worker.thread.join()
        sys.exit()

    def copy(self):
        copies = self.server.bequeath()
        say(f'blocking: {any(os.get_blocking(one.sock.fileno()) for one in copies)}')
        for one in copies:
            one.sock.close()

    def pass_on(self, order, pids):
        for pid in pids or list(self.pipes):
            if order.startswith('SIG'):
                os.kill(int(pid), getattr(signal, order))
            else:
                self.pipes[int(pid)].send(f'{order}\\n'.encode())

    def run(self, count):
        for _ in range(count):
            self.fork()
        say(f'Serving on {self.server.urls[0]}')
        for line in sys.stdin:
            order, *pids = line.split()
            if order in ('fork', 'copy'):
                getattr(self, order)()
            else:
                self.pass_on(order, pids)
        codes = [os.waitstatus_to_exitcode(os.waitpid(p, 0)[1]) for p in self.pipes]
        for pipe in self.pipes.values():
            pipe.close()
        self.server.close()
        say(f'exit codes {sorted(set(codes))}')


_, name, conf, count = sys.argv
Parent(name, json.loads(conf)).run(int(count))
"""

KEEPS_ALIVE = {
    'waitress': ('waitress:serve_paste', {'threads': '4'}),
    'cheroot': ('paste_wspbus.servers:cheroot_server', {'numthreads': '4'}),
    'paste': (
        'paste.httpserver:server_runner',
        {'protocol_version': 'HTTP/1.1', 'threadpool_workers': '20'},
    ),
}
SERVERS = {**KEEPS_ALIVE, 'wsgiref': ('paste_wspbus.servers:wsgiref_server', {})}
TCP, UNIX = {'host': '127.0.0.1', 'port': '0'}, {'unix_socket': 's'}

each_server = pytest.mark.parametrize('server', SERVERS)
each_that_keeps_alive = pytest.mark.parametrize('server', KEEPS_ALIVE)
#: TCP for all; what differs with Unix sockets is not in the adapters.
_ON_UNIX = ('waitress', 'cheroot')
each_server_and_family = pytest.mark.parametrize(
    ('server', 'where'),
    [(name, TCP) for name in SERVERS] + [(name, UNIX) for name in _ON_UNIX],
    ids=[f'tcp-{name}' for name in SERVERS] + [f'unix-{name}' for name in _ON_UNIX],
)


class Workers(Process):
    """``with Workers(tmp_path, 'waitress', TCP) as workers:`` serves in two processes."""

    def __init__(self, folder, server, where=TCP, count=2, **conf):
        factory, usual = SERVERS[server]
        write(folder, {'workers.py': WORKERS})
        conf = json.dumps({**where, **usual, **conf})
        super().__init__(
            [sys.executable, '-W', 'error', 'workers.py', factory, conf, count], folder
        )
        self.folder, self._count = folder, count

    def __enter__(self):
        super().__enter__()
        try:
            self.says('Serving on ')
            self.says('ready ', self._count)
            self.pids = [int(pid) for pid in re.findall(r'ready (\d+)', self.out.text)]
            url = re.search(r'Serving on (\S+)', self.out.text)[1]
            host, _, port = url.removeprefix('http://').rpartition(':')
            path = str(self.folder / 's')
            self.address = path if host == 'unix' else (host, int(port))
        except BaseException:
            self.__exit__()
            raise
        return self

    def says(self, text, count=1):
        assert self.out.wait_for(text, count), self.report()

    def order(self, order, *pids):
        self.process.stdin.write(' '.join([order, *map(str, pids)]) + '\n')
        self.process.stdin.flush()

    def freeze(self, *pids):
        """Stop them by SIGSTOP, and wait until they are."""
        self.order('SIGSTOP', *pids)
        for pid in pids:
            eventually(lambda pid=pid: _state(pid) in 'Tt')

    def fork(self):
        """One more; its process number."""
        self.order('fork')
        self.says('ready ', len(self.pids) + 1)
        self.pids.append(int(re.findall(r'ready (\d+)', self.out.text)[-1]))
        return self.pids[-1]

    def connect(self, **kwargs):
        return Connection(self.address, **kwargs)

    def get(self):
        """Who answers a request on a connection of its own."""
        with self.connect() as connection:
            return int(connection.get('/pid', connection='close').body)

    def connect_to(self, pid, stack):
        """A kept-alive connection that this process has."""
        while True:
            connection = stack.enter_context(self.connect())
            if int(connection.get('/pid').body) == pid:
                return connection

    def listens(self, pid):
        """Whether a worker still has the listening socket: the one of its parent's."""
        return not _sockets_of(pid).isdisjoint(_sockets_of(self.pid))

    def cpu(self):
        """The seconds that a lone worker has computed so far."""
        count = self.out.text.count('cpu ')
        self.order('cpu')
        self.says('cpu ', count + 1)
        return float(re.findall(r'cpu (\S+)\n', self.out.text)[-1])

    def end(self, codes=(0,)):
        """Wait for the end of all, and look whether it was clean."""
        self.release()
        assert self.wait() == 0, self.report()
        assert f'exit codes {sorted(codes)}' in self.out.text, self.report()
        assert not re.search('log [45]0', self.out.text), self.report()
        assert 'Traceback' not in self.err.text, self.report()
        assert 'accept()' not in self.err.text, self.report()
        assert self.has_left_nothing()
        if isinstance(self.address, str):
            assert not os.path.exists(self.address)
        else:
            assert is_free(self.address[1])


def _state(pid):
    with open(f'/proc/{pid}/stat') as file:
        return file.read().rpartition(')')[2].split()[0]


def _sockets_of(pid):
    """What tells the sockets of a process from all others."""
    found = set()
    for number in os.listdir(f'/proc/{pid}/fd'):
        with contextlib.suppress(OSError):
            found.add(os.readlink(f'/proc/{pid}/fd/{number}'))
    return {one for one in found if one.startswith('socket:')}


def wait_in(workers, pid, stack):
    """A connection whose request this process has begun, and does not end."""
    others = [one for one in workers.pids if one != pid]
    if others:
        workers.freeze(*others)
    connection = stack.enter_context(workers.connect())
    connection.send('/wait')
    workers.says(f'waiting in {pid}')
    if others:
        workers.order('SIGCONT', *others)
    return connection


# -- a race for a connection --------------------------------------------------------


@each_that_keeps_alive
def test_who_loses_the_race_for_a_connection_serves_its_others(tmp_path, server):
    with Workers(tmp_path, server) as workers, contextlib.ExitStack() as stack:
        kept = {pid: workers.connect_to(pid, stack) for pid in workers.pids}
        with limit(20):  # a loser that waits a second each time would take 40
            for _ in range(40):
                assert workers.get() in workers.pids
                for pid, connection in kept.items():
                    assert int(connection.get('/pid').body) == pid
        workers.order('stop')
        workers.end()


@contextlib.contextmanager
def limit(seconds):
    """Fail a test by an exception after so many seconds."""

    def fail(*_):
        raise AssertionError(f'it takes more than {seconds} s')

    previous = signal.signal(signal.SIGALRM, fail)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, previous)


@each_server_and_family
def test_copies_of_the_sockets_do_not_make_the_others_wait_in_accept(
    tmp_path, server, where
):
    with Workers(tmp_path, server, where) as workers:
        workers.order('copy')
        workers.says('blocking: False')
        assert workers.get() in workers.pids
        workers.order('make_way')
        workers.says('left ', 2)


@each_that_keeps_alive
def test_kept_alive_connections_do_not_all_sit_in_one_process(tmp_path, server):
    with Workers(tmp_path, server) as workers, contextlib.ExitStack() as stack:
        clients = [stack.enter_context(workers.connect()) for _ in range(16)]
        sizes = collections.Counter(client.get('/pid').text for client in clients)
        assert len(sizes) == 2, sizes
        workers.order('stop')
        workers.end()


# -- one of them stops ----------------------------------------------------------------


@each_server_and_family
def test_one_that_makes_way_answers_what_it_has_and_disturbs_nobody(
    tmp_path, server, where
):
    with Workers(tmp_path, server, where) as workers, contextlib.ExitStack() as stack:
        leaves, stays = workers.pids
        waiting = wait_in(workers, leaves, stack)
        idle = []
        if server in KEEPS_ALIVE:
            idle = [workers.connect_to(leaves, stack) for _ in range(2)]
        workers.order('make_way', leaves)
        eventually(lambda: not workers.listens(leaves))
        assert all(client.is_ended() for client in idle)
        assert {workers.get() for _ in range(10)} == {stays}
        workers.order('release', leaves)
        assert int(waiting.receive().body) == leaves
        workers.says(f'left {leaves}')
        assert {workers.get() for _ in range(10)} == {stays}
        workers.order('stop', stays)
        workers.end()


@each_server_and_family
def test_one_that_makes_way_leaves_the_backlog_to_the_others(tmp_path, server, where):
    with Workers(tmp_path, server, where) as workers, contextlib.ExitStack() as stack:
        leaves, stays = workers.pids
        workers.freeze(leaves, stays)
        clients = [stack.enter_context(workers.connect()) for _ in range(20)]
        for client in clients:
            client.send('/pid')
        workers.order('make_way', leaves)
        workers.order('SIGCONT', leaves)
        workers.says(f'left {leaves}')
        workers.order('SIGCONT', stays)
        answered = {int(client.receive().body) for client in clients}
        assert answered <= {leaves, stays}
        workers.order('stop', stays)
        workers.end()


@each_server
def test_what_waits_for_a_thread_of_one_that_makes_way_is_answered(tmp_path, server):
    few = {
        'waitress': {'threads': '1'},
        'cheroot': {'numthreads': '1', 'max': '1'},
        'paste': {'threadpool_workers': '1', 'threadpool_spawn_if_under': '0'},
        'wsgiref': {},
    }[server]
    with (
        Workers(tmp_path, server, **few) as workers,
        contextlib.ExitStack() as stack,
    ):
        leaves, stays = workers.pids
        workers.freeze(stays)
        clients = [stack.enter_context(workers.connect()) for _ in range(10)]
        for client in clients:
            client.send('/wait')
        workers.says(f'waiting in {leaves}')
        # It accepts in turn, so it has all of those before.
        eventually(lambda: _has_accepted(leaves, len(clients)))
        workers.order('make_way', leaves)
        workers.says(f'of {leaves}: Bus STOPPING')
        workers.order('SIGCONT', stays)
        workers.order('release')
        assert [int(client.receive().body) for client in clients] == [leaves] * 10
        workers.order('stop', stays)
        workers.end()


def _has_accepted(pid, count):
    """Whether a process has so many established TCP connections."""
    sockets = _sockets_of(pid)
    with open('/proc/net/tcp') as lines:
        states = [line.split() for line in lines][1:]
    return count <= sum(
        state[3] == '01' and f'socket:[{state[9]}]' in sockets for state in states
    )


@each_server_and_family
def test_one_that_is_killed_leaves_the_others_undisturbed(tmp_path, server, where):
    with Workers(tmp_path, server, where) as workers:
        killed, stays = workers.pids
        assert workers.get() in workers.pids
        workers.order('SIGKILL', killed)
        eventually(lambda: _state(killed) == 'Z')
        assert {workers.get() for _ in range(10)} == {stays}
        workers.order('stop', stays)
        workers.end(codes=(-signal.SIGKILL, 0))


@each_server_and_family
def test_one_after_another_is_replaced_under_load_and_nobody_is_reset(
    tmp_path, server, where
):
    with Workers(tmp_path, server, where) as workers, Load(workers, 8) as load:
        assert load.warm.wait(TIMEOUT)
        for old in list(workers.pids):
            workers.fork()
            workers.order('make_way', old)
            workers.says(f'left {old}')
        workers.order('stop', *workers.pids[2:])
        workers.end()
    assert load.resets == [], load.answers


# -- all of them stop -----------------------------------------------------------------


@each_server_and_family
@pytest.mark.parametrize('together', [True, False], ids=['together', 'in turn'])
def test_a_stop_of_all_under_load_resets_nobody(tmp_path, server, where, together):
    with Workers(tmp_path, server, where) as workers, Load(workers) as load:
        assert load.warm.wait(TIMEOUT)
        if together:
            workers.order('stop')
        else:  # the second one is told when the first has ended the sockets
            first, second = workers.pids
            workers.order('stop', first)
            workers.says(f'left {first}')
            workers.order('stop', second)
        workers.end()
    assert load.resets == [], load.answers


@each_server_and_family
def test_when_all_stop_the_backlog_is_answered_by_whoever_comes_first(
    tmp_path, server, where
):
    with Workers(tmp_path, server, where) as workers, contextlib.ExitStack() as stack:
        first, second = workers.pids
        workers.freeze(first, second)
        clients = [stack.enter_context(workers.connect()) for _ in range(20)]
        for client in clients:
            client.send('/pid')
        workers.order('stop')
        workers.order('SIGCONT', first)
        workers.says(f'left {first}')
        assert {int(client.receive().body) for client in clients} == {first}
        workers.order('SIGCONT', second)
        workers.end()


@each_server
def test_the_last_answers_what_it_has_when_the_others_have_ended_the_sockets(
    tmp_path, server
):
    with Workers(tmp_path, server) as workers, contextlib.ExitStack() as stack:
        first, second = workers.pids
        waiting = wait_in(workers, second, stack)
        workers.order('stop')
        workers.says(f'left {first}')
        before = workers.out.text
        workers.order('release', second)
        assert int(waiting.receive().body) == second
        assert f'left {second}' not in before
        workers.end()


# -- no descriptors -------------------------------------------------------------------

REFUSED = 'No connection can be accepted: Too many open files'


@each_server_and_family
def test_without_descriptors_it_serves_on_and_accepts_when_there_are_some(
    tmp_path, server, where
):
    with (
        Workers(tmp_path, server, where, count=1) as worker,
        contextlib.ExitStack() as stack,
    ):
        waiting = wait_in(worker, *worker.pids, stack)
        worker.order('exhaust')
        worker.says('exhausted')
        newcomer = stack.enter_context(worker.connect())
        newcomer.send()
        worker.says(REFUSED)
        before = worker.cpu()
        assert not readable(newcomer.socket, within=1)
        assert worker.cpu() - before < 0.2  # of a second
        assert worker.out.text.count(REFUSED) == 1
        assert 'accept()' not in worker.err.text
        worker.order('release')
        assert waiting.receive().status == 200
        worker.order('free')
        assert newcomer.receive().status == 200
        assert worker.get() in worker.pids
        worker.order('stop')
        worker.says('left ')


@each_server
def test_what_one_without_descriptors_cannot_accept_another_one_does(tmp_path, server):
    with Workers(tmp_path, server) as workers:
        exhausted, other = workers.pids
        workers.order('exhaust', exhausted)
        workers.says('exhausted')
        assert {workers.get() for _ in range(10)} == {other}
        workers.order('free', exhausted)
        workers.order('stop')
        workers.says('left ', 2)


@each_server
def test_a_stop_without_descriptors_answers_the_backlog_when_there_are_some(
    tmp_path, server
):
    with (
        Workers(tmp_path, server, count=1) as worker,
        contextlib.ExitStack() as stack,
    ):
        waiting = wait_in(worker, *worker.pids, stack)
        worker.order('exhaust')
        worker.says('exhausted')
        newcomer = stack.enter_context(worker.connect())
        newcomer.send()
        worker.says(REFUSED)
        worker.order('stop')
        worker.says('Bus STOPPING')
        worker.order('release')
        assert waiting.receive().status == 200
        assert newcomer.receive().status == 200
        worker.says('left ')


@each_server
def test_a_stop_takes_no_descriptor_from_those_who_wait_for_one(tmp_path, server):
    with (
        Workers(tmp_path, server, count=1) as worker,
        contextlib.ExitStack() as stack,
    ):
        worker.order('exhaust')
        worker.says('exhausted')
        newcomer = stack.enter_context(worker.connect())
        newcomer.send()
        worker.says(REFUSED)
        worker.order('free_one')
        worker.order('stop')
        assert newcomer.receive().status == 200
        worker.says('left ')


@each_that_keeps_alive
def test_a_stop_without_descriptors_closes_idle_connections_for_theirs(
    tmp_path, server
):
    with (
        Workers(tmp_path, server, count=1) as worker,
        contextlib.ExitStack() as stack,
    ):
        idle = worker.connect_to(*worker.pids, stack)
        worker.order('exhaust')
        worker.says('exhausted')
        newcomer = stack.enter_context(worker.connect())
        newcomer.send()
        worker.says(REFUSED)
        worker.order('stop')
        with limit(8):  # cheroot by itself keeps it for 10
            assert idle.is_ended()
        assert newcomer.receive().status == 200
        worker.says('left ')


@pytest.mark.parametrize(
    'family, host', [(socket.AF_INET, '127.0.0.1'), (socket.AF_INET6, '::1')]
)
def test_a_connection_that_is_half_open_is_no_empty_backlog(family, host):
    listening = bind_tcp(family, (host, 0))
    # A handshake is over when the first byte is there: tcp(7).
    listening.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_DEFER_ACCEPT, 60)
    listening.sock.listen(5)
    try:
        assert listening.is_empty()
        with socket.create_connection(listening.sock.getsockname()[:2]) as client:
            assert not listening.is_empty()
            client.send(b'G')
            eventually(lambda: readable(listening.sock))
            assert not listening.is_empty()
            listening.sock.accept()[0].close()
            assert listening.is_empty()
    finally:
        listening.close()
