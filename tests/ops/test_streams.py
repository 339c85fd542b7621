"""The event streams: how often there are events, how many streams, clients that do not read."""

import contextlib
import json
import socket
import threading
import time

import pytest

from paste_wspbus.ops import server as server_module
from paste_wspbus.ops.access import Access
from paste_wspbus.ops.history import History, Point
from paste_wspbus.ops.server import OpsServer
from paste_wspbus.ops.snapshot import Snapshot, State, Told
from paste_wspbus.ops.streams import EVERY, MAX_STREAMS, PATIENCE, Streams, event
from tests.kit import ops
from tests.kit.processes import eventually


class Known:
    """A site that answers a question at once, or never."""

    def __init__(self, answers=True, size=0):
        self.answers, self.asked, self.told = answers, 0, {}
        self.status = {'ini': 'site.ini', 'urls': ['x' * size]}

    def snapshot(self):
        return Snapshot(State('STARTED', True), self.told)

    def ask(self, kind):
        if kind == 'state':  # that this site does not answer
            return
        assert kind == 'status'
        self.asked += 1
        if self.answers:
            self.told[kind] = Told(self.status, time.monotonic())

    def readers(self):
        return {}


class Sink:
    """A stream that keeps what it gets."""

    def __init__(self):
        self.data, self.is_open = b'', True

    def send(self, data):
        self.data += data

    def end(self, data):
        self.data, self.is_open = self.data + data, False

    @property
    def names(self):
        return [
            line[7:].decode()
            for line in self.data.split(b'\n')
            if line.startswith(b'event: ')
        ]


@pytest.fixture
def now(monkeypatch):
    """A clock that stands still; ``now[0]`` is its time."""
    now = [time.monotonic()]
    monkeypatch.setattr(time, 'monotonic', lambda: now[0])
    return now


def test_nobody_is_asked_while_nobody_looks(now):
    source = Known()
    streams = Streams(source, History())
    streams.look()
    assert (source.asked, streams.due) == (0, None)


def test_there_is_one_event_a_second_for_all_streams(now):
    source, first, second = Known(), Sink(), Sink()
    streams = Streams(source, History())
    streams.add(first)
    streams.look()
    assert first.names == ['history', 'news']
    now[0] += EVERY / 2
    streams.add(second)
    streams.look()
    assert second.names == ['history', 'news']  # what is known already
    assert source.asked == 1
    now[0] = streams.due
    streams.look()
    assert (source.asked, first.names[2:], second.names[2:]) == (2, ['news'], ['news'])
    for stream in (first, second):
        streams.remove(stream)
    now[0] += EVERY
    streams.look()
    assert (source.asked, streams.due) == (2, None)


def test_a_site_that_does_not_answer_is_told_as_well(now):
    stream = Sink()
    streams = Streams(Known(answers=False), History())
    streams.add(stream)
    streams.look()
    assert stream.names == ['history']
    now[0] += PATIENCE
    streams.look()
    assert stream.names == ['history', 'news']
    assert '"answered": null' in stream.data.decode()


def test_the_history_comes_again_when_it_has_a_new_point(now):
    history, stream = History(), Sink()
    streams = Streams(Known(), history)
    streams.add(stream)
    streams.look()
    history.points.append(Point(1.0, 5.0, 2.0, 0.0, None, 0.123456))
    history.count += 1
    now[0] += EVERY
    streams.look()
    assert stream.names == ['history', 'news', 'history', 'news']
    assert b'[[1.0, 5.0, 2.0, 0.0, null, 0.1235]]' in stream.data


def test_one_stream_too_many_ends_the_oldest(now):
    streams, sinks = Streams(Known(), History()), [Sink() for _ in range(9)]
    assert len(sinks) == MAX_STREAMS + 1
    for sink in sinks:
        streams.add(sink)
    assert [sink.is_open for sink in sinks] == [False] + [True] * MAX_STREAMS
    assert sinks[0].data.endswith(b'retry: 30000\nevent: full\ndata: {}\n\n')


def test_an_event_is_one_line_whatever_is_in_it():
    data = event('news', {'name': 'a\n\ndata: b\r\u2028'})
    assert data.count(b'\n') == 3
    assert json.loads(data.partition(b'data: ')[2]) == {'name': 'a\n\ndata: b\r\u2028'}


@contextlib.contextmanager
def served(source):
    with socket.create_server(('127.0.0.1', 0), backlog=64) as listening:
        listening.setblocking(False)
        server = OpsServer([listening], Access(pages=True), source)
        thread = threading.Thread(target=server.serve)
        thread.start()
        try:
            yield listening.getsockname(), server
        finally:
            server.stop()
            thread.join()
            server.close()


def test_a_stream_stays_open_and_its_end_is_said():
    source = Known()
    with contextlib.ExitStack() as stack:
        with served(source) as (address, _):
            client = stack.enter_context(ops.silent(address))
            client.sendall(b'GET /events HTTP/1.1\r\nHost: localhost\r\n\r\n')
            file = stack.enter_context(client.makefile('rb'))
            lines = [
                line.decode().strip().lower() for line in iter(file.readline, b'\r\n')
            ]
            assert lines[0] == 'http/1.1 200 ok'
            assert 'content-type: text/event-stream; charset=utf-8' in lines
            assert not any(line.startswith('content-length') for line in lines)
            while source.asked < 3:
                assert file.readline()
            assert ops.get(address, '/ready').status == 200
            assert ops.get(address, '/events', method='HEAD').body == b''
            assert ops.get(address, '/events', host='evil.example').status == 421
        assert file.read().endswith(b'event: end\ndata: {}\n\n')


def test_a_client_that_does_not_read_is_dropped(monkeypatch):
    monkeypatch.setattr(server_module, 'TIME', 0.5)
    source = Known(size=1 << 20)
    with served(source) as (address, server), ops.silent(address) as client:
        client.sendall(b'GET /events HTTP/1.1\r\nHost: localhost\r\n\r\n')
        eventually(lambda: source.asked)
        eventually(lambda: not server._clients)
        asked = source.asked
        assert ops.get(address, '/ready').status == 200
    assert source.asked <= asked + 1


def test_a_client_that_goes_is_forgotten():
    source = Known()
    with served(source) as (address, server):
        with ops.silent(address) as client:
            client.sendall(b'GET /events HTTP/1.1\r\nHost: localhost\r\n\r\n')
            eventually(lambda: source.asked)
        eventually(lambda: not server._clients)
        assert server._streams.due is None
