"""Clients that hold up a stop, and the site that they hold up."""

import contextlib
import signal
import threading
import time

from tests.kit.sites import APP, Site

PARTS = """
import sys
import time


class Replaced:
    # The files of wspserve are those of another release now.
    def find_spec(self, name, path=None, target=None):
        if name.startswith('paste_wspbus.'):
            raise ImportError(name)


def lifespan(bus, global_conf, **conf):
    say('lifespan opened')
    yield
    time.sleep(0.05)
    say('lifespan closed')


def app(environ, start_response):
    def answer():
        start_response('200 OK', [('Content-Type', 'text/plain')])

    path = environ['PATH_INFO']
    if path == '/events':
        answer()
        return events(environ)
    if path == '/polite':
        answer()
        return polite(environ)
    if path == '/endless':
        answer()
        return endless()
    if path == '/unread':
        answer()
        return unread()
    if path == '/compute':
        say('computing')
        environ['wspbus.draining'].wait(60)
        sys.meta_path.insert(0, Replaced())
        while True:
            time.sleep(0.01)
    if path == '/close':
        answer()
        return Closing()
    if path == '/slow':
        say('slow')
        hold()
        time.sleep(0.2)
    if path == '/upload':
        chunked = 'HTTP_TRANSFER_ENCODING' in environ
        length = None if chunked else int(environ['CONTENT_LENGTH'])
        environ['wsgi.input'].read(length)
    answer()
    return [b'done']


class Closing:
    def __iter__(self):
        yield b'x'

    def close(self):
        say('closing')
        while True:
            time.sleep(0.01)


def events(environ):
    while True:
        yield b'data: x\\n\\n'
        time.sleep(0.02)


def polite(environ):
    yield b'hello '
    environ['wspbus.draining'].wait(60)
    yield b'bye'


def endless():
    while True:
        yield b'x' * 1000
        time.sleep(0.001)


def unread():
    for _ in range(1000):
        yield b'x' * 1000000
"""

INI = """
[app:main]
use = call:webapp:make

[wspbus:main]
plugins = resource
stop_timeout = {seconds}
workers = {workers}
{keys}

[plugin:resource]
use = call:webapp:lifespan

[server:main]
host = 127.0.0.1
port = 0
"""

SERVERS = {
    'waitress': 'use = egg:waitress\nthreads = 20\n',
    'cheroot': 'use = egg:paste_wspbus#cheroot\nnumthreads = 20\n',
    'cherrypy': 'use = egg:paste_wspbus#cherrypy\nthread_pool = 20\n',
    'paste-pool': 'use = egg:Paste#http\nthreadpool_workers = 20\n',
    'paste-threads': 'use = egg:Paste#http\nuse_threadpool = false\n',
    'wsgiref': 'use = egg:paste_wspbus#wsgiref\n',
}
#: The servers that read chunked bodies.
CHUNKED = ('waitress', 'cheroot', 'cherrypy')


def site_of(folder, server, *args, seconds=3, workers=0, keys='', files=None, **kwargs):
    """Return a site with a lifespan; ``keys`` are further lines of [wspbus:main]."""
    ini = INI.format(seconds=seconds, workers=workers, keys=keys) + SERVERS[server]
    files = {'webapp.py': APP + PARTS, **(files or {})}
    return Site(folder, ini, '-v', *args, files=files, **kwargs)


class Hostile:
    """Clients that hold up a stop."""

    def __init__(self, site, stack):
        self.site, self.stack = site, stack
        self.done = threading.Event()
        stack.callback(self.done.set)

    def connect(self, text, **kwargs):
        connection = self.stack.enter_context(self.site.connect(**kwargs))
        connection.socket.sendall(text.replace('\n', '\r\n').encode())
        return connection

    def all(self, server):
        self.events()
        self.unread()
        self.endless()
        self.half_a_body()
        self.no_continue()
        self.dripped_head()
        if server in CHUNKED:
            self.half_a_chunk()
        self.stack.enter_context(self.site.connect()).get('/')  # two idle connections
        self.stack.enter_context(self.site.connect())

    def events(self):
        connection = self.connect('GET /events?secret=1 HTTP/1.1\nHost: x\n\n')
        assert b' 200 ' in connection.socket.recv(100)

    def unread(self):
        connection = self.connect('GET /unread HTTP/1.1\nHost: x\n\n')
        assert b' 200 ' in connection.socket.recv(100)

    def endless(self):
        connection = self.connect('GET /endless HTTP/1.1\nHost: x\n\n')
        assert b' 200 ' in connection.socket.recv(100)

        def read():
            with contextlib.suppress(OSError):
                while connection.socket.recv(100000):
                    pass

        threading.Thread(target=read, daemon=True).start()

    def half_a_body(self):
        self.connect('POST /upload?half HTTP/1.1\nHost: x\nContent-Length: 9\n\na')

    def no_continue(self):
        head = 'POST /expect HTTP/1.1\nHost: x\nExpect: 100-continue\n'
        self.connect(head.replace('expect', 'upload') + 'Content-Length: 9\n\n')

    def half_a_chunk(self):
        head = 'POST /upload HTTP/1.1\nHost: x\nTransfer-Encoding: chunked\n\n'
        self.connect(head + 'ffff\nabc')

    def dripped_head(self):
        connection = self.connect('GET /dripped HTTP/1.1\nHost: x\n')

        def drip():
            with contextlib.suppress(OSError):
                while not self.done.wait(0.05):
                    connection.socket.sendall(b'X: y\r\n')

        threading.Thread(target=drip, daemon=True).start()


def stop(site, within, signum=signal.SIGTERM):
    """Stop a site, which must end within these seconds; return its exit code."""
    began = time.monotonic()
    site.send(signum)
    code = site.wait()
    assert time.monotonic() - began < within, site.report()
    return code
