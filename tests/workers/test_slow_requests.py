"""Slow requests: the log names each with the line where it is, wherever that is."""

import os
import re
import signal
import time

import pytest

from paste_wspbus.control.client import ask as ask_control
from tests.kit import Site

APP = """\
import hashlib
import json
import logging
import os
import socket
import threading
import time


def sleeps():
    time.sleep(60)  # sleeps


def locks():
    lock = threading.Lock()
    lock.acquire()
    lock.acquire()  # locks


def reads():
    one, other = socket.socketpair()
    one.recv(1)  # reads


def computes():
    hashlib.pbkdf2_hmac('sha256', b'', b'', 1 << 30)  # computes


def holds():
    sum(range(10 ** 10))  # holds


def loops():
    while True: pass  # loops


def moves():
    time.sleep(0.8)  # moves
    time.sleep(60)  # later


def streams():
    for number in range(5):
        yield b'%d' % number
        time.sleep(0.25)


class Closes:
    def __iter__(self):
        for _ in range(2):
            yield b'12345'
            time.sleep(0.4)

    def close(self):
        time.sleep(60)  # closes


def logs():
    logging.getLogger('shop').info('The view logs')


def app(environ, start_response):
    name = environ['PATH_INFO'].strip('/').partition('/')[0]
    if name == 'upload':
        environ['wsgi.input'].read(100)  # upload
    elif name == 'streams':
        start_response('200 OK', [('Content-Length', '5')])
        return streams()
    elif name == 'closes':
        start_response('200 OK', [('Content-Length', '10')])
        return Closes()
    elif name:
        globals()[name]()
    start_response('200 OK', [('Content-Type', 'text/plain')])
    deadline = environ.get('wspbus.deadline')
    left = deadline and round(deadline - time.monotonic())
    told = {'pid': os.getpid(), 'id': environ['wspbus.request_id'], 'left': left}
    return [json.dumps(told).encode()]


def make(global_conf):
    return app
"""

INI = """
[app:main]
use = call:slow:make

[server:main]
use = %s
host = 127.0.0.1
port = 0

[wspbus:main]
stop_timeout = 3
%s
"""

#: The seconds that a line may take after its mark: usually some milliseconds, and a
#: quarter of a second if the worker holds the GIL; but the machine may be busy.
SOON = 5.0


def site(folder, *keys, server='egg:waitress', workers=1, limits='slow_request = 0.5'):
    lines = [f'workers = {workers}', limits, *keys]
    files = {'slow.py': APP, 'site.ini': INI % (server, '\n'.join(lines))}
    return Site(folder, None, 'site.ini', '--pid-file', 'site.pid', files=files)


def line_of(comment):
    """Return the number of the line that has a comment."""
    lines = APP.splitlines()
    return next(n for n, line in enumerate(lines, 1) if line.endswith(f'# {comment}'))


def counts(site):
    told = ask_control(str(site.folder / 'site.pid.sock'), 'status')
    return told['slow_requests'], told['overdue_requests']


def kill(site):
    """End the site at once: its requests would hold up the stop."""
    os.killpg(site.pid, signal.SIGKILL)


WHERE = ['sleeps', 'locks', 'reads', 'computes', 'loops']


@pytest.mark.parametrize(
    'workers, name',
    [*((1, name) for name in [*WHERE, 'holds']), *((0, name) for name in WHERE)],
)
def test_the_line_where_a_request_is_slow_is_logged(tmp_path, workers, name):
    with site(tmp_path, workers=workers) as running:
        began = time.monotonic()
        with running.connect() as client:
            client.send(f'/{name}/x?secret=1', x_request_id='its-id')
            running.expect(f'GET /{name}/x has run for ')
            took = time.monotonic() - began
        text = running.err.text
        assert f'slow.py line {line_of(name)} in {name}' in text
        assert '(request its-id)' in text and 'secret' not in text
        assert 'site-packages' not in text
        (age,) = re.findall(r'has run for ([\d.]+) s', text)
        assert 0.5 <= float(age) <= took + 0.1
        assert took < 0.5 + SOON
        kill(running)


SERVERS = {
    'waitress': 'egg:waitress',
    'cheroot': 'egg:paste_wspbus#cheroot',
    'paste': 'egg:Paste#http',
    'wsgiref': 'egg:paste_wspbus#wsgiref',
}


@pytest.mark.parametrize('workers', [0, 1])
@pytest.mark.parametrize('server', SERVERS.values(), ids=SERVERS)
def test_a_stream_whose_close_hangs_is_slow_and_overdue_from_then_on(
    tmp_path, workers, server
):
    limits = 'slow_request = 0.5\nrequest_deadline = 1'
    with site(tmp_path, workers=workers, server=server, limits=limits) as running:
        with running.connect() as client:
            client.send('/closes')
            assert client.receive().body == b'1234512345'
            running.expect(', past its deadline')
        lines = running.err.text.splitlines()
        slow, overdue = (line for line in lines if 'GET /closes' in line)
        for line, age in ((slow, 0.5), (overdue, 1)):
            found = re.search(
                r'GET /closes has been closing its response for (.*?) s', line
            )
            assert age <= float(found[1]) < age + SOON
            assert f'slow.py line {line_of("closes")} in close' in line
        kill(running)


def test_it_is_logged_again_only_when_it_has_moved(tmp_path):
    with site(tmp_path) as running, running.connect() as client:
        client.send('/moves')
        running.expect(f'line {line_of("later")} in moves')
        assert running.err.text.count(f'line {line_of("moves")} in moves') == 1
        assert running.err.text.count('GET /moves has run for') == 2
        assert counts(running) == (1, 0)
        kill(running)


@pytest.mark.parametrize('workers', [0, 1])
def test_a_request_that_waits_for_its_client_is_not_slow(tmp_path, workers):
    server = 'egg:paste_wspbus#cheroot'
    with (
        site(tmp_path, workers=workers, server=server) as running,
        running.connect() as client,
        running.connect() as other,
    ):
        client.send('/upload', content_length='100')
        other.send('/sleeps')
        running.expect('GET /sleeps has run for ')
        assert '/upload' not in running.err.text
        assert counts(running) == (1, 0)
        client.socket.sendall(b'x' * 100)
        assert client.receive().status == 200
        kill(running)


LOGGING = """
[loggers]
keys = root
[handlers]
keys = console
[formatters]
keys = ids
[logger_root]
level = INFO
handlers = console
[handler_console]
class = StreamHandler
args = (sys.stderr,)
formatter = ids
[formatter_ids]
format = %(request_id)s|%(message)s
"""


@pytest.mark.parametrize('workers', [0, 1])
def test_the_log_of_a_request_has_its_id(tmp_path, workers):
    with site(tmp_path, LOGGING, workers=workers) as running:
        assert '"mine"' in running.get('/logs', x_request_id='mine').text
        running.expect('mine|The view logs\n')
        assert running.stop()[0] == 0
    assert '-|Bus STARTED' in running.err.text
    assert 'mine|Bus' not in running.err.text
    assert 'KeyError' not in running.err.text
