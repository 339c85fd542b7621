"""What waitress does in another way in our adapter, part by part, and what switches each part off."""

import contextlib
import itertools
import select
import threading
from types import SimpleNamespace

import pytest
from waitress import wasyncore
from waitress.channel import HTTPChannel

from paste_wspbus.bus import Bus
from paste_wspbus.servers import waitress_fast
from paste_wspbus.servers.waitress import WaitressServer
from tests.kit import TIMEOUT, Connection, eventually
from tests.kit.stepped import Stepped


class Served:
    """waitress in this process; ``sent`` is what it has given to send(2), call by call."""

    def __init__(self, monkeypatch, without='', **conf):
        monkeypatch.setenv('WSPBUS_WAITRESS_WITHOUT', without)
        self.bus = Bus()
        self.server = WaitressServer(
            {'listen': '127.0.0.1:0', 'threads': '2', **conf}, {}
        )
        self.server.plug_in(self.bus)
        self.waits, self.go = threading.Semaphore(0), threading.Event()
        self.sent = sent = []
        send = HTTPChannel.send

        def note(channel, data, do_close=True):
            sent.append(bytes(data))
            return send(channel, data, do_close)

        monkeypatch.setattr(HTTPChannel, 'send', note)

    def __enter__(self):
        self.bus.subscribe('start', self.server, self.app)
        self.bus.start()
        return self

    def __exit__(self, *_):
        self.bus.exit()

    def app(self, environ, start_response):
        path = environ['PATH_INFO']
        if path == '/wait':
            self.waits.release()
            assert self.go.wait(TIMEOUT)
        start_response('200 OK', [])
        return iter([b'one', b'two']) if path == '/parts' else [b'hello']

    def connect(self):
        return Connection(self.server.sockets[0].sock.getsockname())

    def get(self, path):
        with self.connect() as client:
            assert client.get(path, connection='close').status == 200
            assert client.is_ended()


def test_the_head_and_the_first_chunk_leave_in_one_send(monkeypatch):
    with Served(monkeypatch) as served:
        served.get('/')
        assert [one.endswith(b'\r\n\r\nhello') for one in served.sent] == [True]
        served.sent.clear()
        served.get('/parts')
        assert served.sent[0].endswith(b'\r\n\r\n3\r\none\r\n')
        assert served.sent[1:] == [b'3\r\ntwo\r\n', b'0\r\n\r\n']


def test_without_one_send_they_leave_as_waitress_sends_them(monkeypatch):
    with Served(monkeypatch, 'one-send') as served:
        served.get('/')
        assert [one.endswith(b'\r\n\r\n') for one in served.sent] == [True, False]


@pytest.mark.parametrize('version', ['4.0', '2.1.2', 'x'])
@pytest.mark.parametrize('beside', [True, False], ids=['beside it', 'metadata'])
def test_another_major_version_of_waitress_goes_its_own_way(
    monkeypatch, tmp_path, beside, version
):
    assert waitress_fast.ways() == set(waitress_fast.WAYS)
    monkeypatch.setattr(wasyncore, '__file__', str(tmp_path / 'waitress/wasyncore.py'))
    monkeypatch.setattr('importlib.metadata.version', lambda name: version)
    if beside:
        (tmp_path / f'waitress-{version}.dist-info').mkdir()
        monkeypatch.setattr('importlib.metadata.version', lambda name: '3.0')
    assert waitress_fast.ways() == set()


def test_a_waitress_in_a_zip_file_is_known_by_its_metadata(monkeypatch, tmp_path):
    inside = tmp_path / 'lib.zip/waitress/wasyncore.py'
    monkeypatch.setattr(wasyncore, '__file__', str(inside))
    assert waitress_fast.ways() == set(waitress_fast.WAYS)


def test_what_is_patched_for_greenlets_goes_waitress_own_way(monkeypatch):
    monkeypatch.setattr(waitress_fast, 'threads_are_greenlets', lambda: True)
    assert waitress_fast.ways() == {waitress_fast.ONE_SEND, waitress_fast.HEADS}


@pytest.mark.parametrize('value', ['true', 'false'])
def test_a_site_that_chooses_poll_or_select_gets_it(monkeypatch, value):
    with Served(monkeypatch, asyncore_use_poll=value) as served:
        assert served.server._loop is None
        served.get('/')


def test_a_system_without_epoll_goes_waitress_own_way(monkeypatch):
    monkeypatch.delattr('select.epoll')
    with Served(monkeypatch) as served:
        assert served.server._loop is None
        served.get('/')


def test_the_epoll_is_closed_when_the_server_has_stopped(monkeypatch):
    with Served(monkeypatch) as served:
        loop = served.server._loop
        served.get('/')
        assert not loop._epoll.closed
    assert loop._epoll.closed and not loop.map


# -- queue ---------------------------------------------------------------------------


def test_a_request_that_has_a_thread_is_not_warned_of(monkeypatch, caplog):
    """As many clients as threads, each of which asks again as soon as it is answered."""

    def ask(served):
        with served.connect() as client:
            for _ in range(500):
                assert client.get().status == 200

    with Served(monkeypatch, threads='4') as served:
        clients = [threading.Thread(target=ask, args=(served,)) for _ in range(4)]
        for client in clients:
            client.start()
        for client in clients:
            client.join(TIMEOUT)
    assert 'Task queue depth' not in caplog.text


@pytest.mark.parametrize('without', ['', 'all'])
def test_requests_that_wait_for_a_thread_are_warned_of(monkeypatch, caplog, without):
    with Served(monkeypatch, without) as served:
        served.server._dispatcher._warns_from = 0
        clients = [served.connect() for _ in range(4)]
        for client in clients[:2]:
            client.send('/wait')
            assert served.waits.acquire(timeout=TIMEOUT)
        for client in clients[2:]:
            client.send('/')
        eventually(lambda: 'Task queue depth is 2' in caplog.text)
        served.go.set()
        for client in clients:
            assert client.receive().status == 200
            client.close()


@pytest.mark.parametrize('without', ['', 'all'])
def test_threads_that_are_stopped_end_and_what_waits_is_cancelled(monkeypatch, without):
    class Channel:
        requests = ['a request']

        def __init__(self):
            self.is_cancelled = False

        def service(self):
            served.waits.release()
            assert served.go.wait(TIMEOUT)

        def cancel(self):
            self.is_cancelled = True

    with Served(monkeypatch, without) as served:
        dispatcher, channels = served.server._dispatcher, [Channel() for _ in range(4)]
        for channel in channels:
            dispatcher.add_task(channel)
        for _ in range(2):
            assert served.waits.acquire(timeout=TIMEOUT)
        assert dispatcher.shutdown(timeout=0)
        assert [one.is_cancelled for one in channels] == [False, False, True, True]
        served.go.set()
        for thread in dispatcher._begun:
            thread.join(TIMEOUT)
            assert not thread.is_alive()
        assert dispatcher.threads == set()


# -- epoll ---------------------------------------------------------------------------


class SteppedChannel(waitress_fast.EpollChannel):
    """A channel without a socket, which a thread serves; ``armed``: the calls of epoll_ctl.

    It reads the next request meanwhile, so that it waits for something at the beginning.
    """

    def __init__(self):
        self.adj = SimpleNamespace(channel_request_lookahead=1)
        self._fileno, self.connected = 7, True
        self.outbuf_lock, self.requests = threading.Condition(), ['a request']
        self.armed = []
        self._map = SimpleNamespace(loop=SimpleNamespace(arm=self.note))
        self.step = lambda: None

    def note(self, fd, events):
        self.step()
        self.armed.append(events & ~select.EPOLLONESHOT)

    def readable(self):
        self.step()
        return super().readable()

    def writable(self):
        self.step()
        return super().writable()


def answers(channel):
    channel.requests.clear()


def has_more_to_send(channel):
    channel.total_outbufs_len = 1


def closes(channel):
    channel.close_when_flushed = True


@pytest.mark.parametrize(
    ('change', 'wanted'),
    [
        (answers, select.EPOLLIN),
        (has_more_to_send, select.EPOLLOUT),
        (closes, select.EPOLLOUT),
    ],
)
def test_the_last_of_two_that_arm_a_connection_knows_what_it_waits_for(change, wanted):
    """The loop and a thread arm it, in each order of their steps."""
    for schedule in itertools.product((0, 1), repeat=10):
        channel = SteppedChannel()

        def thread(channel=channel):
            change(channel)
            channel.step()
            channel.arm_from_thread()

        stepped = Stepped(channel.arm, thread)
        channel.step = stepped.step
        stepped.run(schedule)
        assert channel.armed[-1] == wanted, schedule


@pytest.mark.parametrize(
    ('without', 'lookahead', 'closer'),
    [('', '0', 'waitress-'), ('', '5', 'HTTP server'), ('epoll', '0', 'HTTP server')],
)
def test_a_thread_closes_a_connection_from_which_the_loop_does_not_read(
    monkeypatch, without, lookahead, closer
):
    closed, close = [], HTTPChannel.handle_close

    def note(channel):
        closed.append(threading.current_thread().name)
        close(channel)

    monkeypatch.setattr(HTTPChannel, 'handle_close', note)
    conf = {'channel_request_lookahead': lookahead}
    with Served(monkeypatch, without, **conf) as served:
        served.get('/')
        eventually(lambda: not served.server._channels)
    assert [name.startswith(closer) for name in closed] == [True], closed


def test_a_loop_that_is_held_up_holds_up_nobody_who_asks_it(monkeypatch):
    with Served(monkeypatch) as served:
        entered, release = threading.Event(), threading.Event()

        def hold():
            entered.set()
            release.wait(TIMEOUT)

        served.server.in_loop(lambda: None)  # the loop runs
        first = threading.Thread(target=served.server.in_loop, args=[hold])
        first.start()
        assert entered.wait(TIMEOUT)
        answers = []
        second = threading.Thread(
            target=lambda: answers.append(served.server.in_loop(lambda: True))
        )
        second.start()
        second.join(TIMEOUT / 2)
        release.set()
        first.join()
        second.join()
        assert answers == [False]
        eventually(lambda: served.server.in_loop(lambda: True))


def test_channels_may_be_closed_while_waitress_goes_through_them(monkeypatch):
    with Served(monkeypatch) as served, contextlib.ExitStack() as clients:
        for _ in range(3):
            assert clients.enter_context(served.connect()).get('/').status == 200
        (waitress,) = served.server._servers
        for channel in waitress.active_channels.values():
            channel.handle_close()
        assert not waitress.active_channels
