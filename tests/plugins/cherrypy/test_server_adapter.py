"""CherryPy's ServerAdapter with cheroot's server rides our bus unmodified."""

import socket
import threading

import pytest

from paste_wspbus.bus import ChannelFailures, State
from tests.kit import free_port
from tests.kit.cherrypys import cheroot_wsgi, get, nobody_listens, servers
from tests.kit.processes import TIMEOUT
from tests.kit.threads import ended


def hello(environ, start_response):
    body = b'hello from cheroot'
    start_response('200 OK', [('Content-Length', str(len(body)))])
    return [body]


@pytest.fixture
def server(bus):
    """An adapter of a cheroot server."""
    address = ('127.0.0.1', free_port())
    server = cheroot_wsgi.Server(address, hello, numthreads=2, shutdown_timeout=30)
    adapter = servers.ServerAdapter(bus, server, address)
    adapter.subscribe()
    return adapter


def test_a_cheroot_server_serves_from_start_to_stop_and_starts_again(bus, log, server):
    for _ in range(2):
        bus.start()
        port = server.bound_addr[1]
        assert f'Serving on http://127.0.0.1:{port}' in log
        assert get(port) == (200, 'hello from cheroot')
        bus.stop()
        assert nobody_listens(port)
    bus.exit()
    assert sum(line.endswith(' shut down') for line in log) == 2


def test_a_cheroot_server_is_restarted_on_a_started_bus(bus, server):
    bus.start()
    port = server.bound_addr[1]
    assert get(port)[0] == 200
    server.restart()
    assert get(server.bound_addr[1])[0] == 200
    assert bus.state is State.STARTED


def test_two_servers_ride_on_one_bus(bus, server):
    address = ('127.0.0.1', 0)
    other = servers.ServerAdapter(bus, cheroot_wsgi.Server(address, hello), address)
    other.subscribe()
    bus.start()
    ports = [server.bound_addr[1], other.bound_addr[1]]
    assert [get(port)[0] for port in ports] == [200, 200]
    bus.stop()
    assert all(nobody_listens(port) for port in ports)


def test_an_adapter_that_unsubscribed_starts_no_server(bus, server):
    server.unsubscribe()
    bus.start()
    assert not server.running


def test_a_request_in_flight_is_answered_by_a_stop(bus):
    reached, finish = threading.Event(), threading.Event()

    def slow(environ, start_response):
        reached.set()
        finish.wait(TIMEOUT)
        return hello(environ, start_response)

    address = ('127.0.0.1', 0)
    server = cheroot_wsgi.Server(address, slow, numthreads=2, shutdown_timeout=30)
    adapter = servers.ServerAdapter(bus, server, address)
    adapter.subscribe()
    bus.subscribe('stop', finish.set, priority=1)
    bus.start()
    answers = []
    port = adapter.bound_addr[1]
    client = threading.Thread(target=lambda: answers.append(get(port)))
    client.start()
    assert reached.wait(TIMEOUT)
    bus.stop()
    assert ended(client)
    assert answers == [(200, 'hello from cheroot')]


def test_a_taken_port_fails_the_start_and_stops_what_was_started(bus, log, server):
    told = []
    bus.subscribe('start', lambda: told.append('start'), priority=10)
    bus.subscribe('stop', lambda: told.append('stop'), priority=90)
    with socket.create_server(('127.0.0.1', 0)) as taken:
        # As ServerAdapter sees it: it looks whether anybody answers there.
        server.bind_addr = taken.getsockname()
        with pytest.raises(ChannelFailures) as failed:
            bus.start()
    assert isinstance(failed.value.__cause__, OSError)
    assert told == ['start', 'stop']
    assert bus.state is State.STOPPED
    assert not server.running
    server.bind_addr = server.httpserver.bind_addr
    bus.start()
    assert get(server.bound_addr[1])[0] == 200


@pytest.mark.filterwarnings('ignore::pytest.PytestUnhandledThreadExceptionWarning')
def test_a_server_that_cannot_start_takes_the_bus_down(bus, log):
    class Broken:
        ready = False

        def start(self):
            self.thread = threading.current_thread()
            raise RuntimeError('no server today')

        def stop(self):
            raise AssertionError('it never started')

    broken = Broken()
    servers.ServerAdapter(bus, broken, None).subscribe()
    with pytest.raises(ChannelFailures) as failed:
        bus.start()
    assert str(failed.value.__cause__) == 'no server today'
    # The server's own thread asks for an exit; who is last carries it out.
    bus.wait(State.EXITING)
    assert ended(broken.thread)
    assert any(line.startswith('Error in HTTP server: shutting down') for line in log)


def test_a_site_that_forgets_to_block_is_stopped_when_its_main_thread_ends(
    site, tmp_path
):
    child = site("""
        from cheroot.wsgi import Server
        address = ('127.0.0.1', 0)
        servers.ServerAdapter(bus, Server(address, None), address).subscribe()
        plugins.PIDFile(bus, 'site.pid').subscribe()
        bus.start()
    """)
    assert child.ends() == 0
    said = child.rest()
    assert any('RuntimeWarning: The main thread is exiting' in line for line in said)
    assert 'Bus EXITED' in said
    assert not (tmp_path / 'site.pid').exists()
