"""Every server starts, and stops without losing a request."""

import contextlib
import signal
import socket
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from paste_wspbus.bus import Bus
from tests.kit import TIMEOUT, Connection, Site, eventually, is_free, run
from tests.kit.clients import Load
from tests.kit.sites import APP
from tests.kit.supervised import said

#: A site that waits for the end of its standard input where the test must
#: come first, and tells on standard error where it is.
PARTS = """
import time
from wsgiref.util import FileWrapper

BIG = 4 * 1024 * 1024


def lifespan(bus, global_conf):
    say('lifespan opened')
    yield
    say('lifespan closed')


def app(environ, start_response):
    body = PAGES[environ['PATH_INFO']](environ)
    headers = [('Content-Type', 'text/plain')]
    if isinstance(body, list) and environ['PATH_INFO'] != '/bare':
        # Paste#http needs it, to keep a connection of HTTP/1.1.
        headers.append(('Content-Length', str(sum(map(len, body)))))
    start_response('200 OK', headers)
    return body


def hello(environ):
    return [b'hello']


def wait(environ):
    say('waiting')
    hold()
    return [b'answered']


def slow(environ):
    say('computing')
    time.sleep(8)
    return [b'computed']


def big(environ):
    say('sending')
    return [b'x' * (BIG // 4)] * 4


def stream(environ):
    yield b'first '
    say('streaming')
    hold()
    yield b'last'


def file(environ):
    path = os.path.join(os.path.dirname(__file__), 'big.bin')
    wrapper = environ.get('wsgi.file_wrapper', FileWrapper)
    return wrapper(open(path, 'rb'), 65536)


def upload(environ):
    say('reading')
    body = environ['wsgi.input'].read(int(environ['CONTENT_LENGTH']))
    return [b'%d bytes' % len(body)]


def in_flight(environ):
    return [str(len(bus_of(environ).plugins['requests'])).encode()]


def leave(environ):
    bus_of(environ).exit()
    return [b'leaving']


PAGES = {
    '/': hello, '/bare': hello, '/wait': wait, '/slow': slow, '/big': big, '/stream': stream,
    '/file': file, '/upload': upload, '/in_flight': in_flight, '/exit': leave,
}
"""

INI = """
[app:main]
use = call:webapp:make

[wspbus:main]
plugins = resource
stop_timeout = 25

[plugin:resource]
use = call:webapp:lifespan

[server:main]
"""

TCP = 'host = 127.0.0.1\nport = 0\n'
UNIX = 'unix_socket = %(here)s/s\n'
PASTE = 'use = egg:Paste#http\n'
POOL = PASTE + 'threadpool_workers = 2\nthreadpool_spawn_if_under = 1\n'
THREADS = PASTE + 'use_threadpool = false\n'
WAITRESS = 'use = egg:waitress\nthreads = 2\n'
CHEROOT = 'use = egg:paste_wspbus#cheroot\nnumthreads = 2\nmax = 2\n'
WSGIREF = 'use = egg:paste_wspbus#wsgiref\n'
HTTP11 = 'protocol_version = HTTP/1.1\n'

KEEPS_ALIVE = {
    'waitress': WAITRESS + TCP,
    'waitress-unix': WAITRESS + UNIX,
    'paste-pool-1.1': POOL + HTTP11 + TCP,
    'paste-pool-1.1-unix': POOL + HTTP11 + UNIX,
    'paste-threads-1.1': THREADS + HTTP11 + TCP,
    'cheroot': CHEROOT + TCP,
    'cheroot-unix': CHEROOT + UNIX,
}
SERVERS = {
    **KEEPS_ALIVE,
    'paste-pool-1.0': POOL + TCP,
    'paste-threads-1.0': THREADS + TCP,
    'paste-threads-1.0-unix': THREADS + UNIX,
    'wsgiref': WSGIREF + TCP,
    'wsgiref-unix': WSGIREF + UNIX,
}
OVER_TCP = [name for name in SERVERS if not name.endswith('unix')]

each_server = pytest.mark.parametrize('server', SERVERS)
each_that_keeps_alive = pytest.mark.parametrize('server', KEEPS_ALIVE)


def site_of(tmp_path, server, *args, **kwargs):
    ini = INI + SERVERS.get(server, server)
    return Site(tmp_path, ini, '-v', *args, files={'webapp.py': APP + PARTS}, **kwargs)


def stopped(site):
    """The site was told to stop: wait for its end, and look whether it was clean."""
    assert site.wait() == 0, site.report()
    assert 'lifespan closed' in site.err.text, site.report()
    assert 'Traceback' not in site.err.text, site.report()
    assert site.has_left_nothing()
    if site.url.startswith('unix:'):
        assert not (site.folder / 's').exists()
    else:
        assert is_free(site.port)
    return True


# -- what is in flight ----------------------------------------------------------


@each_server
def test_a_request_in_flight_is_answered(tmp_path, server):
    with site_of(tmp_path, server) as site, site.connect() as client:
        client.send('/wait')
        site.expect('waiting')
        site.send(signal.SIGTERM)
        site.expect('Bus STOPPING')
        site.release()
        response = client.receive()
        assert (response.status, response.body) == (200, b'answered')
        assert client.is_ended()
        assert stopped(site)


@each_server
def test_who_connects_while_a_request_is_in_flight_is_refused_at_once(tmp_path, server):
    def is_refused():
        try:
            with site.connect():
                return False  # it is emptying its backlog
        except (ConnectionRefusedError, FileNotFoundError):
            return True

    with site_of(tmp_path, server) as site, site.connect() as client:
        client.send('/wait')
        site.expect('waiting')
        site.send(signal.SIGTERM)
        site.expect('Bus STOPPING')
        eventually(is_refused)
        site.release()
        assert client.receive().body == b'answered'
        assert stopped(site)


@each_server
def test_a_response_that_has_begun_is_sent_to_its_end(tmp_path, server):
    with site_of(tmp_path, server) as site, site.connect() as client:
        client.send('/stream')
        site.expect('streaming')
        site.send(signal.SIGTERM)
        site.expect('Bus STOPPING')
        site.release()
        response = client.receive()
        assert (response.status, response.body) == (200, b'first last')
        assert stopped(site)


@each_server
def test_a_body_read_slowly_is_delivered_in_full(tmp_path, server):
    with (
        site_of(tmp_path, server) as site,
        site.connect(receive_buffer=16384) as client,
    ):
        client.send('/big')
        site.expect('sending')
        assert client.socket.recv(12).endswith(b' 200')
        site.send(signal.SIGTERM)
        site.expect('Bus STOPPING')
        received = b''.join(iter(lambda: client.socket.recv(16384), b''))
        _, _, body = received.partition(b'\r\n\r\n')
        assert len(body) == 4 * 1024 * 1024
        assert stopped(site)


@each_server
def test_a_request_whose_body_is_on_its_way_is_answered(tmp_path, server):
    with site_of(tmp_path, server) as site, site.connect() as client:
        client.socket.sendall(
            b'POST /upload HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100000\r\n\r\n'
        )
        client.socket.sendall(b'x' * 50000)
        if server.startswith('waitress'):  # it calls the application afterwards
            assert site.get().status == 200
        else:
            site.expect('reading')
        site.send(signal.SIGTERM)
        site.expect('Bus STOPPING')
        client.socket.sendall(b'x' * 50000)
        assert client.receive().body == b'100000 bytes'
        assert stopped(site)


@pytest.fixture(scope='module')
def long_requests(tmp_path_factory):
    """For each server: SIGTERM with 8 s to go, and a client that reads for as long."""

    def read_for_eight_seconds(client):
        client.send('/big')
        body = b''
        while chunk := client.file.read(256 * 1024):
            body += chunk
            threading.Event().wait(0.45)  # the slow client itself, not a wait for it
        return len(body.partition(b'\r\n\r\n')[2])

    def serve(server, folder):
        with (
            site_of(folder, server) as site,
            site.connect() as client,
            site.connect(receive_buffer=16384) as reader,
            ThreadPoolExecutor(1) as pool,
        ):
            client.send('/slow')
            site.expect('computing')
            size = pool.submit(read_for_eight_seconds, reader)
            site.expect('sending')
            site.send(signal.SIGTERM)
            site.expect('Bus STOPPING')
            response = client.receive()
            return response.status, response.body, size.result(), stopped(site)

    with ThreadPoolExecutor(len(SERVERS)) as pool:
        yield {
            server: pool.submit(serve, server, tmp_path_factory.mktemp('long'))
            for server in SERVERS
        }


@each_server
def test_eight_seconds_of_computing_and_of_reading_are_waited_for(
    long_requests, server
):
    assert long_requests[server].result() == (200, b'computed', 4 * 1024 * 1024, True)


# -- what waits -------------------------------------------------------------------


@each_server
def test_requests_that_wait_for_a_thread_are_answered(tmp_path, server):
    with site_of(tmp_path, server) as site, contextlib.ExitStack() as stack:
        clients = [stack.enter_context(site.connect()) for _ in range(10)]
        for client in clients:
            client.send('/wait')
        site.expect('waiting', 2)
        site.send(signal.SIGTERM)
        site.expect('Bus STOPPING')
        site.release()
        assert [c.receive().body for c in clients] == [b'answered'] * 10
        assert stopped(site)


@each_server
def test_connections_in_the_backlog_are_answered(tmp_path, server):
    with site_of(tmp_path, server) as site, contextlib.ExitStack() as stack:
        assert site.get().status == 200
        site.send(signal.SIGSTOP)
        clients = [stack.enter_context(site.connect()) for _ in range(20)]
        for client in clients:
            client.send()
        site.send(signal.SIGTERM)
        site.send(signal.SIGCONT)
        assert [client.receive().status for client in clients] == [200] * 20
        assert stopped(site)


def test_waitress_answers_what_its_connection_limit_kept_in_the_backlog(tmp_path):
    limited = WAITRESS + TCP + 'connection_limit = 4\nchannel_timeout = 600\n'
    with site_of(tmp_path, limited) as site, contextlib.ExitStack() as stack:
        clients = [stack.enter_context(site.connect()) for _ in range(12)]
        for client in clients:
            client.send('/wait')
        site.expect('waiting', 2)
        site.send(signal.SIGTERM)
        site.expect('Bus STOPPING')
        site.release()
        assert [c.receive().body for c in clients] == [b'answered'] * 12
        assert stopped(site)


@pytest.mark.parametrize('where', ['127.0.0.1:0', '127.0.0.1:0 127.0.0.2:0'])
@pytest.mark.parametrize('limit', [1, 2])
def test_the_connection_limit_of_waitress_counts_connections(tmp_path, limit, where):
    limited = WAITRESS + f'listen = {where}\nconnection_limit = {limit}\n'
    with site_of(tmp_path, limited) as site, contextlib.ExitStack() as stack:
        clients = [stack.enter_context(site.connect()) for _ in range(limit)]
        assert [client.get().body for client in clients] == [b'hello'] * limit
        over = stack.enter_context(site.connect())
        over.send()
        site.expect('reached the connection limit')
        assert clients[0].get().body == b'hello'
        clients[0].close()
        assert over.receive().body == b'hello'
        site.send(signal.SIGTERM)
        assert site.wait() == 0, site.report()


def test_a_connection_limit_of_nothing_is_one_line(tmp_path):
    ini = INI + WAITRESS + TCP + 'connection_limit = 0\n'
    files = {'webapp.py': APP + PARTS, 'site.ini': ini}
    site = run(tmp_path, 'site.ini', files=files)
    assert site.code == 2
    assert 'connection_limit' in site.err.text
    assert len(site.err.text.splitlines()) == 1, site.report()


@each_that_keeps_alive
def test_an_idle_connection_is_closed_and_does_not_hold_up_the_stop(tmp_path, server):
    with site_of(tmp_path, server) as site, contextlib.ExitStack() as stack:
        clients = [stack.enter_context(site.connect()) for _ in range(2)]
        for client in clients:
            for _ in range(2):
                response = client.get()
                assert (response.status, response.body) == (200, b'hello')
        site.send(signal.SIGTERM)
        assert all(client.is_ended() for client in clients)
        assert stopped(site)


@each_server
def test_a_connection_that_sends_nothing_does_not_hold_up_the_stop(tmp_path, server):
    with site_of(tmp_path, server) as site, site.connect() as silent:
        assert site.get().body == b'hello'
        site.send(signal.SIGTERM)
        assert silent.is_ended()
        assert stopped(site)


@each_server
def test_half_a_request_head_does_not_hold_up_the_stop(tmp_path, server):
    with site_of(tmp_path, server) as site, site.connect() as halted:
        assert site.get().body == b'hello'
        halted.socket.sendall(b'GET / HTTP/1.1\r\nHost: localhost\r\nX-')
        site.send(signal.SIGTERM)
        assert halted.file.read()[:12] in (b'', b'HTTP/1.1 400')
        assert stopped(site)


@each_server
def test_sigint_stops_it_too_with_nothing_to_do(tmp_path, server):
    with site_of(tmp_path, server) as site:
        assert site.get().body == b'hello'
        site.send(signal.SIGINT)
        assert stopped(site)


@each_server
def test_a_request_can_end_the_site_and_is_answered(tmp_path, server):
    with site_of(tmp_path, server) as site:
        assert site.get('/exit').body == b'leaving'
        assert stopped(site)


# -- load ---------------------------------------------------------------------------


@pytest.mark.parametrize('server', [*OVER_TCP, 'waitress-unix', 'cheroot-unix'])
def test_a_stop_under_load_resets_nobody(tmp_path, server):
    for stop in range(3):
        with site_of(tmp_path, server) as site:
            with Load(site) as load:
                assert load.warm.wait(TIMEOUT)
                site.send(signal.SIGTERM)
                assert stopped(site)
            assert load.resets == [], f'stop {stop + 1}, {load.answers} answers'


# -- any other server(app) ------------------------------------------------------------

UNKNOWN = """
import socket
import threading

from webapp import say


def run_server(app, global_conf, port='0'):
    with socket.create_server(('127.0.0.1', int(port))) as listener:
        say('accepting on %s' % listener.getsockname()[1])
        while True:
            connection, _ = listener.accept()
            threading.Thread(target=answer, args=(connection, app), daemon=True).start()


def answer(connection, app):
    with connection, connection.makefile('rb') as lines:
        path = lines.readline().decode().split()[1]
        while lines.readline().strip():
            pass
        body = app({'PATH_INFO': path, 'REQUEST_METHOD': 'GET'}, lambda *_: None)
        connection.sendall(b'HTTP/1.0 200 OK\\r\\n\\r\\n' + b''.join(body))


def make_server(global_conf, port='0'):
    return lambda app: run_server(app, global_conf, port)


def make_one_that_returns(global_conf):
    return lambda app: say('served')


def make_one_that_fails(global_conf):
    def serve(app):
        raise OSError('no network today')
    return serve


def make_one_that_traps_ctrl_c(global_conf):
    def serve(app):
        try:
            run_server(app, global_conf)
        except KeyboardInterrupt:
            say('trapped')
    return serve
"""

FACTORY = 'use = call:unknown:make_server\n'
EXPLICIT = 'paste.server_factory = unknown:make_server\n'
RUNNER = 'paste.server_runner = unknown:run_server\n'


@contextlib.contextmanager
def unknown_site(tmp_path, section):
    files = {'webapp.py': APP + PARTS, 'unknown.py': UNKNOWN}
    with Site(tmp_path, INI + section, '-v', files=files, wait=False) as site:
        site.expect('accepting on ')
        port = site.err.text.partition('accepting on ')[2].split()[0]
        site.url = f'http://127.0.0.1:{port}'
        yield site


def end_by_request(site):
    with contextlib.suppress(ConnectionError):  # it may be gone before it answers
        assert site.get('/exit').body == b'leaving'


ENDS = {
    'SIGTERM': lambda site: site.send(signal.SIGTERM),
    'SIGINT': lambda site: site.send(signal.SIGINT),
    'exit() in a request': end_by_request,
}


@pytest.mark.parametrize('end', ENDS)
@pytest.mark.parametrize('section', [FACTORY, EXPLICIT, RUNNER])
def test_an_unknown_server_is_ended_where_it_accepts(tmp_path, section, end):
    with unknown_site(tmp_path, section) as site:
        assert site.get().body == b'hello'
        ENDS[end](site)
        assert stopped(site)


def test_an_unknown_server_that_traps_ctrl_c_itself_stops_the_site(tmp_path):
    section = 'use = call:unknown:make_one_that_traps_ctrl_c\n'
    with unknown_site(tmp_path, section) as site:
        site.send(signal.SIGINT)
        assert stopped(site)
        assert 'trapped' in site.err.text


def test_an_unknown_server_that_returns_stops_the_site(tmp_path):
    files = {'webapp.py': APP + PARTS, 'unknown.py': UNKNOWN}
    ini = INI + 'use = call:unknown:make_one_that_returns\n'
    site = run(tmp_path, 'site.ini', files={'site.ini': ini, **files})
    assert site.code == 0, site.report()
    assert said(site.err.text).splitlines() == [
        'lifespan opened',
        'served',
        'lifespan closed',
    ]


def test_an_unknown_server_that_fails_is_told_of_in_one_line(tmp_path):
    files = {'webapp.py': APP + PARTS, 'unknown.py': UNKNOWN}
    ini = INI + 'use = call:unknown:make_one_that_fails\n'
    site = run(tmp_path, 'site.ini', files={'site.ini': ini, **files})
    assert site.code == 1, site.report()
    opened, closed, line = site.err.text.splitlines()
    assert (opened, closed) == ('lifespan opened', 'lifespan closed')
    assert 'site.ini [server:main]' in line
    assert 'no network today' in line


def test_an_unknown_server_runs_last_in_the_main_thread(tmp_path):
    with unknown_site(tmp_path, FACTORY) as site:
        text = site.err.text
        assert text.index('lifespan opened') < text.index('accepting on')
        assert 'Bus STARTED' in text


# -- where it listens -------------------------------------------------------------------

ONLY_APP = '[app:main]\nuse = call:webapp:make\n'


def listening_site(tmp_path, *args, ini=ONLY_APP, **kwargs):
    return Site(tmp_path, ini, *args, files={'webapp.py': APP + PARTS}, **kwargs)


def test_listen_host_port_serves_a_file_without_a_server(tmp_path):
    with listening_site(tmp_path, '--listen', '127.0.0.1:0') as site:
        assert site.url.startswith('http://127.0.0.1:')
        assert site.get().body == b'hello'
        assert site.stop()[0] == 0
        assert is_free(site.port)


@pytest.mark.parametrize('server', [None, *OVER_TCP])
def test_each_server_listens_on_ipv6(tmp_path, server):
    try:
        socket.create_server(('::1', 0), family=socket.AF_INET6).close()
    except OSError:
        pytest.skip('no IPv6 here')
    ini = INI + SERVERS[server] if server else ONLY_APP
    with listening_site(tmp_path, '--listen', '[::1]:0', '-v', ini=ini) as site:
        assert site.url.startswith('http://[::1]:')
        with site.connect() as client:
            client.send('/wait')
            site.expect('waiting')
            site.send(signal.SIGTERM)
            site.expect('Bus STOPPING')
            site.release()
            assert client.receive().body == b'answered'
        assert site.wait() == 0, site.report()


@pytest.mark.parametrize('server', OVER_TCP)
def test_listen_takes_the_place_of_what_the_section_says(tmp_path, server):
    path = tmp_path / 'other'
    with listening_site(
        tmp_path, f'--listen=unix:{path}', ini=INI + SERVERS[server]
    ) as site:
        assert site.url == f'unix:{path}'
        assert site.get().body == b'hello'
        assert site.stop()[0] == 0
        assert not path.exists()


def test_listen_needs_no_variables_of_what_it_takes_the_place_of(tmp_path):
    ini = INI + WAITRESS + 'host = %(http_host)s\nport = %(http_port)s\n'
    with listening_site(tmp_path, '--listen', '127.0.0.1:0', ini=ini) as site:
        assert site.get().status == 200
        assert site.stop()[0] == 0
    checked = run(tmp_path, 'site.ini', '--check', '--listen', '127.0.0.1:0')
    assert checked.code == 0, checked.report()
    checked = run(tmp_path, 'site.ini', '--check')
    assert checked.code == 2
    assert 'write http_host=VALUE after the file name' in checked.err.text


@pytest.mark.parametrize('server', [None, *OVER_TCP])
def test_listen_fd_serves_a_socket_that_somebody_else_keeps(tmp_path, server):
    with socket.create_server(('127.0.0.1', 0)) as kept:
        number, port = kept.fileno(), kept.getsockname()[1]
        ini = INI + SERVERS[server] if server else ONLY_APP
        with listening_site(
            tmp_path, '--listen', f'fd://{number}', ini=ini, pass_fds=[number]
        ) as site:
            assert site.url == f'http://127.0.0.1:{port}'
            assert site.get().body == b'hello'
            assert site.stop()[0] == 0
        # The queue is its owner's: who connects now is not refused, but waits.
        with (
            Connection(('127.0.0.1', port)) as client,
            contextlib.closing(kept.accept()[0]) as accepted,
        ):
            client.socket.sendall(b'for the successor')
            assert accepted.recv(100) == b'for the successor'


def test_listen_fd_of_a_unix_socket_leaves_its_file(tmp_path):
    path = tmp_path / 'kept'
    with socket.socket(socket.AF_UNIX) as kept:
        kept.bind(str(path))
        with listening_site(
            tmp_path, '--listen', f'fd://{kept.fileno()}', pass_fds=[kept.fileno()]
        ) as site:
            assert site.get().body == b'hello'
            assert site.stop()[0] == 0
        assert path.exists()


def test_a_stale_unix_socket_is_replaced(tmp_path):
    with socket.socket(socket.AF_UNIX) as stale:
        stale.bind(str(tmp_path / 's'))
    with site_of(tmp_path, 'waitress-unix') as site:
        assert site.get().body == b'hello'
        assert site.stop()[0] == 0


def test_waitress_listens_at_several_addresses(tmp_path):
    section = WAITRESS + 'listen = 127.0.0.1:0 127.0.0.2:0\n'
    with site_of(tmp_path, section) as site:
        site.out.wait_for('Serving on ', 2)
        site.wait_until_served()
        first, second = site.urls
        assert (first.rpartition(':')[0], second.rpartition(':')[0]) == (
            'http://127.0.0.1',
            'http://127.0.0.2',
        )
        for url in site.urls:
            site.url = url
            assert site.get().body == b'hello'
        site.send(signal.SIGTERM)
        assert stopped(site)


@each_server
def test_a_port_that_is_taken_is_one_line(tmp_path, server):
    with contextlib.ExitStack() as stack:
        if server.endswith('unix'):
            taken = stack.enter_context(socket.socket(socket.AF_UNIX))
            taken.bind(str(tmp_path / 's'))
            taken.listen()
            section, name = SERVERS[server], 'unix:s'
        else:
            taken = stack.enter_context(socket.create_server(('127.0.0.1', 0)))
            name = f'127.0.0.1:{taken.getsockname()[1]}'
            section = SERVERS[server].replace(
                'port = 0', f'port = {name.partition(":")[2]}'
            )
        site = run(
            tmp_path,
            'site.ini',
            files={'webapp.py': APP + PARTS, 'site.ini': INI + section},
        )
        assert site.code == 1
        assert len(site.err.text.splitlines()) == 1, site.report()
        assert f'annot listen on {name}' in site.err.text
        assert site.has_left_nothing()


# -- HTTP/1.1 with the filter --------------------------------------------------------------


#: These make a Content-Length of the len() of a body.
COUNTS = {'waitress', 'waitress-unix'}


@each_that_keeps_alive
def test_a_body_of_one_string_keeps_the_connection(tmp_path, server):
    with site_of(tmp_path, server) as site, site.connect() as client:
        for _ in range(3):
            response = client.get('/bare' if server in COUNTS else '/')
            assert response.body == b'hello'
            assert response.headers.get('connection', '').lower() != 'close'
            assert 'content-length' in response.headers
        assert site.stop()[0] == 0


@each_server
def test_a_file_is_served_in_full_and_its_request_ends(tmp_path, server):
    content = bytes(range(256)) * 4096
    (tmp_path / 'big.bin').write_bytes(content)
    with site_of(tmp_path, server) as site:
        for _ in range(2):
            assert site.get('/file').body == content
        # The server may close the body a little later than its client has it.
        eventually(lambda: site.get('/in_flight').body == b'1')
        assert site.stop()[0] == 0


@each_server
def test_a_client_that_goes_away_leaves_no_request_behind(tmp_path, server):
    with site_of(tmp_path, server) as site:
        with site.connect(receive_buffer=4096) as client:
            client.send('/big')
            site.expect('sending')
        eventually(lambda: site.get('/in_flight').body == b'1')
        site.send(signal.SIGTERM)
        assert site.wait() == 0


def test_waitress_does_not_take_threads_that_have_just_started_for_busy(caplog):
    from paste_wspbus.servers import waitress

    dispatcher = waitress._Dispatcher(Bus())
    dispatcher.active_count = 4  # as it is until the threads have come to the queue
    dispatcher.threads = {0, 1, 2, 3}
    dispatcher.add_task('the first request')
    assert list(dispatcher.queue) == ['the first request']
    assert caplog.text == ''
    dispatcher._warns_from = 0
    dispatcher.add_task('another one')
    assert 'Task queue depth is 2' in caplog.text


#: A server that has limits of its own, and the keys for them.
LIMITED = {
    'waitress': WAITRESS + TCP,
    'cheroot': CHEROOT + TCP,
    'cherrypy': 'use = egg:paste_wspbus#cherrypy\nthread_pool = 2\n' + TCP,
}


@pytest.mark.parametrize('server', LIMITED)
def test_a_body_larger_than_the_limit_is_refused_and_a_smaller_one_is_not(
    tmp_path, server
):
    section = LIMITED[server] + 'max_request_body_size = 1000\n'
    with site_of(tmp_path, section) as site:
        head = 'POST /upload HTTP/1.1\r\nHost: localhost\r\nContent-Length: {}\r\n\r\n'
        with site.connect() as client:
            client.socket.sendall(head.format(999).encode() + b'x' * 999)
            assert client.receive().body == b'999 bytes'
        with site.connect() as client:
            client.socket.sendall(head.format(1001).encode())
            assert client.receive().status == 413
        site.send(signal.SIGTERM)
        assert site.wait() == 0, site.report()
