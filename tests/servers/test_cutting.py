"""What a stop cuts: the requests of clients, in time for everything else to stop."""

import contextlib
import functools
import signal
import sys
import threading

import pytest

from paste_wspbus.bus import Bus
from paste_wspbus.servers import cutting
from paste_wspbus.servers.cutting import RequestInFlight, WaitsFor, stacks_by_owner
from tests.kit.hostile import CHUNKED, PARTS, SERVERS, Hostile, site_of, stop
from tests.kit.sites import APP

each_server = pytest.mark.parametrize('server', SERVERS)
each_mode = pytest.mark.parametrize('workers', [0, 2], ids=['one process', 'workers'])


@each_mode
@each_server
def test_clients_decide_neither_what_is_closed_nor_the_exit_code(
    tmp_path, server, workers
):
    with (
        site_of(tmp_path, server, workers=workers) as site,
        contextlib.ExitStack() as stack,
    ):
        Hostile(site, stack).all(server)
        assert stop(site, within=3) == 0, site.report()
    err = site.err.text
    assert err.count('lifespan closed') == max(workers, 1), site.report()
    assert 'GET /events, in flight for' in err
    assert 'secret' not in err
    # At the moment of the cut, the endless response may wait for its client.
    assert err.count('s: a stream') in (1, 2)
    counts = [
        err.count(f's: {text}') for text in ('a stream', 'the client does not read')
    ]
    assert sum(counts) == 3, site.report()
    assert err.count('s: the client has not sent the rest') >= 2 + (server in CHUNKED)
    assert 'POST /upload, in flight for' in err
    assert 'Traceback' not in err
    assert site.has_left_nothing()


@each_mode
@each_server
def test_a_request_that_computes_is_cut_and_fails_the_stop(tmp_path, server, workers):
    with (
        site_of(tmp_path, server, workers=workers) as site,
        site.connect() as client,
    ):
        client.send('/compute?secret')
        site.expect('computing')
        assert stop(site, within=3) == 1, site.report()
        with contextlib.suppress(ConnectionResetError):
            assert client.is_ended()
    assert 'GET /compute, in flight for' in site.err.text
    assert ': the application computes' in site.err.text
    assert 'Traceback' not in site.err.text
    assert site.err.text.count('lifespan closed') == max(workers, 1)
    assert site.has_left_nothing()


@each_mode
@each_server
def test_a_close_that_does_not_return_is_named_and_fails_the_stop(
    tmp_path, server, workers
):
    with (
        site_of(tmp_path, server, workers=workers) as site,
        site.connect() as client,
    ):
        client.send('/close')
        site.expect('closing')
        assert stop(site, within=3) == 1, site.report()
    named = 'GET /close, in flight for'
    line = next(one for one in site.err.text.splitlines() if named in one)
    assert line.endswith(' s: the close() of its response has not returned')
    assert 'The stack of GET /close:' in site.err.text
    assert site.has_left_nothing()


@each_mode
@each_server
def test_a_slow_request_is_answered_and_nothing_is_cut(tmp_path, server, workers):
    with (
        site_of(tmp_path, server, workers=workers, seconds=10) as site,
        site.connect() as client,
    ):
        client.send('/slow')
        site.expect('slow')
        site.send(signal.SIGTERM)
        site.expect('Bus STOPPING')
        site.release()
        assert client.receive().body == b'done'
        assert site.wait() == 0, site.report()
    assert 'cuts' not in site.err.text
    assert site.err.text.count('lifespan closed') == max(workers, 1)


@each_server
def test_a_stream_can_end_by_itself(tmp_path, server):
    with site_of(tmp_path, server, seconds=20) as site, site.connect() as client:
        client.send('/polite', version='1.0')
        assert b' 200 ' in client.socket.recv(30)
        assert stop(site, within=10) == 0, site.report()
        assert client.file.read().endswith(b'bye')
    assert 'cuts' not in site.err.text


@each_server
def test_a_second_signal_cuts_at_once_and_names_what_is_cut(tmp_path, server):
    with (
        site_of(tmp_path, server, seconds=30) as site,
        contextlib.ExitStack() as stack,
    ):
        Hostile(site, stack).all(server)
        site.send(signal.SIGTERM)
        site.expect('requests in flight')
        assert stop(site, within=5) == 0, site.report()
    assert 'GET /events, in flight for' in site.err.text
    assert 'lifespan closed' in site.err.text


@each_server
def test_the_wall_clock_is_set_back_and_idle_connections_do_not_hold_up_the_stop(
    tmp_path, server
):
    clock = (
        'import time\n'
        'real, time.back = time.time, 0\n'
        'time.time = lambda: real() - time.back\n'
    )
    back = (
        '\n\nplain = app\n\n\n'
        'def app(environ, start_response):\n'
        "    if environ['PATH_INFO'] == '/back':\n"
        '        time.back = 3600\n'
        '    return plain(environ, start_response)\n'
    )
    files = {'webapp.py': APP + PARTS + back, 'sitecustomize.py': clock}
    env = {'PYTHONPATH': str(tmp_path)}
    with (
        site_of(tmp_path, server, seconds=20, files=files, env=env) as site,
        site.connect() as used,
        site.connect(),
        site.connect() as half,
    ):
        assert used.get('/').body == b'done'
        half.socket.sendall(b'GET / HTTP/1.1\r\n')
        assert site.get('/back').body == b'done'
        assert stop(site, within=4) == 0, site.report()
    assert 'lifespan closed' in site.err.text


@each_mode
@each_server
def test_many_hostile_clients_at_once(tmp_path, server, workers):
    """More than the server has threads, or accepts: they do not hold up the stop either."""
    with (
        site_of(tmp_path, server, workers=workers) as site,
        contextlib.ExitStack() as stack,
    ):
        hostile = Hostile(site, stack)
        for _ in range(300):
            hostile.half_a_body()
        assert stop(site, within=3) == 0, site.report()
    assert 'The stop cuts ' in site.err.text
    assert site.err.text.count('lifespan closed') == max(workers, 1)
    assert 'Traceback' not in site.err.text
    assert site.has_left_nothing()


class Looked:
    """A server of which each look sees other requests; the last ones stay."""

    def __init__(self, *looks):
        self.bus, self.looks, self.is_cut = Bus(), [*looks], False

    def at_most(self, seconds):
        return seconds

    def requests_in_flight(self):
        return self.looks.pop(0) if len(self.looks) > 1 else self.looks[0]

    def cut(self):
        self.is_cut = True


@functools.cache
def computing(number):
    """The request of a connection in which the application computes."""
    kind = WaitsFor.APPLICATION
    return RequestInFlight(
        'GET', '/', float(number), kind, None, f'connection {number}'
    )


@pytest.mark.parametrize(
    ('looks', 'code'),
    [
        ([[computing(1), computing(2)], [computing(1)]], 1),
        ([[computing(1)], [computing(2)]], 0),  # each of them has just begun
        ([[computing(1)], [computing(1), computing(2)], [computing(2)]], 0),
        ([[computing(1)], []], 0),
        ([[]], 0),
    ],
)
def test_a_request_that_has_just_begun_does_not_fail_the_stop(monkeypatch, looks, code):
    monkeypatch.setattr(cutting, 'MOMENT', 0.02)
    monkeypatch.setattr(cutting, 'BETWEEN', 0.001)
    server = Looked(*looks)
    cutting.cut(server, False)
    assert (server.bus.exit_code, server.is_cut) == (code, True)


def test_who_hurries_does_not_wait_for_requests_that_have_just_begun(monkeypatch):
    monkeypatch.setattr(cutting.time, 'sleep', lambda seconds: pytest.fail('it waits'))
    server = Looked([computing(1)])
    server.bus.hurry()
    cutting.cut(server, False)
    assert (server.bus.exit_code, server.is_cut) == (0, True)


class Runner:
    """Runs a generator: at any moment, it may be suspended."""

    def __init__(self):
        self.is_done = False
        threading.Thread(target=self.run, daemon=True).start()

    def run(self):
        for _ in self.generate():
            pass

    def generate(self):
        while not self.is_done:
            yield


def test_a_thread_that_runs_on_while_one_looks_at_its_stack_is_found():
    before = sys.getswitchinterval()
    runners = [Runner() for _ in range(4)]
    try:
        sys.setswitchinterval(1e-6)
        for _ in range(300):
            stacks = stacks_by_owner()
            assert all(id(runner) in stacks for runner in runners)
    finally:
        sys.setswitchinterval(before)
        for runner in runners:
            runner.is_done = True
