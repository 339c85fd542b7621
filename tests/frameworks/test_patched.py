"""Sites that patch Python's threads and sockets: gevent and eventlet, whole and in part."""

import re
import signal

import pytest

from paste_wspbus.control.client import ask, connect
from tests.environments import environment
from tests.kit import TIMEOUT, Site, eventually, run

SERVERS = {
    'waitress': 'egg:waitress',
    'paste': 'egg:Paste#http',
    'cheroot': 'egg:paste_wspbus#cheroot',
    'wsgiref': 'egg:paste_wspbus#wsgiref',
}

#: First lines of a site.
GEVENT = 'from gevent import monkey; monkey.patch_all()'
EVENTLET = 'import eventlet; eventlet.monkey_patch()'
UNPATCHED = ''
LIBRARIES = {'gevent': GEVENT, 'eventlet': EVENTLET}

SITE = """
import os
import sys
import threading
import time

turns = []


def turn():
    # A greenlet of the site's own, which runs as long as nothing stops the hub.
    while True:
        time.sleep(0.005)
        turns.append(1)


if 'patch_thread' not in FIRST and 'thread=True' not in FIRST:  # that stops all
    threading.Thread(target=turn, daemon=True).start()


def make_app(global_conf):
    def app(environ, start_response):
        before = len(turns)
        if environ['PATH_INFO'] == '/wait':
            open('begun', 'w').close()
            while not os.path.exists('go'):
                time.sleep(0.01)
        while len(turns) < before + 2:
            time.sleep(0.01)
        if environ['PATH_INFO'] == '/exit':
            environ['wspbus.bus'].exit()
        start_response('200 OK', [('Content-Length', '2')])
        return [b'hi']
    return app


def make_server(global_conf, host, port):
    def serve(app):
        if 'eventlet' in sys.modules:
            import eventlet.wsgi
            eventlet.wsgi.server(eventlet.listen((host, int(port))), app)
        else:
            from gevent.pywsgi import WSGIServer
            WSGIServer((host, int(port)), app).serve_forever()
    return serve


def db(bus, global_conf):
    @bus.lifespan()
    def db():
        print('db opens', flush=True)
        yield
        print('db closes', flush=True)
"""

INI = """\
[app:main]
use = call:site_of_greenlets:make_app
[server:main]
use = {server}
host = 127.0.0.1
port = 0
[wspbus:main]
plugins = db
[plugin:db]
use = call:site_of_greenlets:db
"""


@pytest.fixture(scope='session')
def programs():
    """The folder of the programs of an environment with gevent and eventlet."""
    return environment('patched') / 'bin'


@pytest.fixture
def site(tmp_path, programs):
    """Return a site whose module begins with a line."""

    def make(
        first, *args, server='egg:waitress', command=None, more='', keys='', **kwargs
    ):
        text = f'{first}\nFIRST = {first!r}\n{SITE}{more}'
        files = {'site_of_greenlets.py': text}
        words = command or [programs / 'python', '-W', 'ignore', programs / 'wspserve']
        return Site(
            tmp_path,
            INI.format(server=server).replace('plugins = db', f'plugins = db\n{keys}'),
            *args,
            files=files,
            command=words,
            **kwargs,
        )

    return make


def serves_and_stops(site, tmp_path, signum=signal.SIGTERM):
    """Assert that a site answers, also what waits when it is stopped, and stops in order."""
    assert site.get().text == 'hi'
    with site.connect() as waiting:
        waiting.send('/wait')
        eventually((tmp_path / 'begun').exists)
        site.send(signum)
        (tmp_path / 'go').touch()
        assert waiting.receive().text == 'hi'
    assert site.wait() == 0, site.report()
    assert 'Traceback' not in site.err.text, site.report()
    assert 'in flight: 0' not in site.err.text  # it waits for nothing but for requests
    assert site.out.text.count('db closes') == site.out.text.count('db opens') > 0


@pytest.mark.parametrize('server', SERVERS)
@pytest.mark.parametrize('library', LIBRARIES)
def test_a_site_that_patches_in_its_first_line(library, server, site, tmp_path):
    with site(LIBRARIES[library], server=SERVERS[server]) as served:
        serves_and_stops(served, tmp_path)


@pytest.mark.parametrize('args', [['--workers', '2'], ['--reload']], ids=str)
@pytest.mark.parametrize('library', LIBRARIES)
def test_a_patched_site_in_workers(library, args, site, tmp_path):
    with site(LIBRARIES[library], *args) as served:
        serves_and_stops(served, tmp_path)


@pytest.mark.parametrize('library', LIBRARIES)
def test_a_patched_site_restarts(library, site):
    with site(LIBRARIES[library]) as served:
        assert served.get().text == 'hi'
        served.send(signal.SIGHUP)
        eventually(lambda: served.out.text.count('db opens') == 2)
        assert served.get().text == 'hi'
        served.send(signal.SIGTERM)
        assert served.wait() == 0, served.report()
        assert 'Traceback' not in served.err.text, served.report()


@pytest.mark.parametrize('server', SERVERS)
def test_python_is_patched_before_the_command(server, site, programs, tmp_path):
    command = [programs / 'python', '-m', 'gevent.monkey', programs / 'wspserve']
    with site(UNPATCHED, server=SERVERS[server], command=command) as served:
        serves_and_stops(served, tmp_path, signal.SIGINT)


@pytest.mark.parametrize(
    'args',
    [
        ['--workers', '2'],
        ['--reload', '--reloader=fork'],
        ['--reload', '--reloader=child'],
    ],
    ids=str,
)
def test_python_is_patched_before_a_supervisor(args, site, programs, tmp_path):
    command = [programs / 'python', '-m', 'gevent.monkey', programs / 'wspserve']
    with site(UNPATCHED, *args, command=command) as served:
        serves_and_stops(served, tmp_path, signal.SIGINT)


@pytest.mark.parametrize('library', LIBRARIES)
def test_a_silent_client_of_a_patched_site_does_not_keep_the_commands(
    library, site, tmp_path
):
    words = '--pid-file', 'site.pid'
    with site(LIBRARIES[library], *words) as served:
        control = str(tmp_path / 'site.pid.sock')
        with connect(control, TIMEOUT):
            assert ask(control, 'status', TIMEOUT)['pid'] == served.pid
        for name in ('graceful', 'stop'):
            assert served.get().text == 'hi'
            asked = run(tmp_path, 'site.ini', name, *words)
            assert asked.code == 0, asked.report()
        assert served.wait() == 0, served.report()
    assert 'Traceback' not in served.err.text, served.report()


@pytest.mark.parametrize('library', LIBRARIES)
def test_a_request_of_a_patched_site_asks_for_an_exit(library, site):
    with site(LIBRARIES[library]) as served:
        assert served.get('/exit').text == 'hi'
        assert served.wait() == 0, served.report()
        assert served.out.text.endswith('db closes\n')


@pytest.mark.parametrize('server', SERVERS)
def test_sockets_alone_are_patched(server, site, tmp_path):
    first = 'import eventlet; eventlet.monkey_patch(socket=True, all=False)'
    with site(first, server=SERVERS[server]) as served:
        serves_and_stops(served, tmp_path)


@pytest.mark.parametrize(
    'first',
    [
        'from gevent import monkey; monkey.patch_all(thread=False)',
        'import eventlet; eventlet.monkey_patch(thread=False)',
    ],
    ids=LIBRARIES,
)
def test_all_but_threads_is_patched(first, site, tmp_path):
    with site(first) as served:
        serves_and_stops(served, tmp_path)


@pytest.mark.parametrize(
    ('first', 'server', 'what'),
    [
        ('from gevent import monkey; monkey.patch_thread()', 'waitress', 'threading'),
        (
            'import eventlet; eventlet.monkey_patch(thread=True, all=False)',
            'waitress',
            'threading',
        ),
        ('from gevent import monkey; monkey.patch_socket()', 'cheroot', 'sockets'),
        ('from gevent import monkey; monkey.patch_socket()', 'paste', 'sockets'),
    ],
)
def test_what_cannot_work_is_one_line(first, server, what, site):
    with site(first, server=SERVERS[server], wait=False) as served:
        assert served.wait() == 1, served.report()
    assert served.out.text == ''
    (line,) = served.err.text.splitlines()
    assert re.search(f'patched {what}, but not .*patch_all', line)


@pytest.mark.parametrize('library', LIBRARIES)
def test_a_server_of_greenlets_runs_in_the_main_thread(library, site, tmp_path):
    with site(
        LIBRARIES[library], server='call:site_of_greenlets:make_server', wait=False
    ) as served:
        assert served.out.wait_for('db opens'), served.report()
        assert served.out.wait_for('Starting server'), served.report()
        served.send(signal.SIGTERM)
        assert served.wait() == 0, served.report()
    assert served.out.text.endswith('db closes\n')


#: The application also streams.
STREAMS = """

plain = make_app


def make_app(global_conf):
    app = plain(global_conf)

    def streams(environ, start_response):
        page = PAGES.get(environ['PATH_INFO'])
        if page is None:
            return app(environ, start_response)
        return page(environ, start_response)

    return streams


def events(environ, start_response):
    start_response('200 OK', [('Content-Type', 'text/plain')])
    while True:
        yield b'x'
        time.sleep(0.01)


def polite(environ, start_response):
    start_response('200 OK', [('Content-Type', 'text/plain')])
    yield b'hello '
    environ['wspbus.draining'].wait()
    yield b'bye'


def compute(environ, start_response):
    open('begun', 'w').close()
    while True:
        time.sleep(0.01)


PAGES = {'/events': events, '/polite': polite, '/compute': compute}
"""


@pytest.mark.parametrize('server', SERVERS)
@pytest.mark.parametrize('library', LIBRARIES)
def test_a_stream_of_a_patched_site_is_cut_or_ends_by_itself(
    library, server, site, tmp_path
):
    keys = 'stop_timeout = 5'
    with (
        site(
            LIBRARIES[library], server=SERVERS[server], more=STREAMS, keys=keys
        ) as served,
        served.connect() as endless,
        served.connect() as polite,
    ):
        endless.send('/events', version='1.0')
        assert b' 200 ' in endless.socket.recv(30)
        polite.send('/polite', version='1.0')
        assert b' 200 ' in polite.socket.recv(30)
        assert served.get().text == 'hi'
        served.send(signal.SIGTERM)
        assert polite.file.read().endswith(b'bye')
        assert served.wait() == 0, served.report()
    assert 'db closes' in served.out.text
    assert 'GET /events, in flight for' in served.err.text
    assert 's: a stream' in served.err.text
    assert '/polite' not in served.err.text


@pytest.mark.parametrize('server', SERVERS)
@pytest.mark.parametrize('library', LIBRARIES)
def test_a_request_of_a_patched_site_that_computes_is_cut(
    library, server, site, tmp_path
):
    keys = 'stop_timeout = 3'
    with (
        site(
            LIBRARIES[library], server=SERVERS[server], more=STREAMS, keys=keys
        ) as served,
        served.connect() as client,
    ):
        client.send('/compute')
        eventually((tmp_path / 'begun').exists)
        assert served.stop()[0] == 1, served.report()
    assert 'db closes' in served.out.text
    assert 's: the application computes' in served.err.text
