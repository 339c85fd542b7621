"""The access log: one line for each request, with the status that was sent, and no forged one."""

import contextlib
import json
import os
import re
import signal
import socket
import struct
import sys
import threading
import time
import types

import pytest

from paste_wspbus.errors import SettingError
from paste_wspbus.ready.accesslog import AccessLog, check_settings
from paste_wspbus.ready.accesslog import lines as making
from paste_wspbus.ready.accesslog import writer as writing
from paste_wspbus.ready.accesslog.cached import Cached, local_time
from paste_wspbus.ready.accesslog.lines import LONGEST, read_format, waited_since
from paste_wspbus.ready.accesslog.writer import CannotOpen, Writer
from paste_wspbus.servers import waitress_log
from paste_wspbus.servers.waitress_heads import Head
from tests.kit import TIMEOUT, Site, eventually, run, write

ENVIRON = {
    'REQUEST_METHOD': 'GET',
    'SCRIPT_NAME': '/shop',
    'PATH_INFO': '/caf\xc3\xa9',
    'QUERY_STRING': 'q=1',
    'SERVER_PROTOCOL': 'HTTP/1.1',
    'REMOTE_ADDR': '192.0.2.1',
    'HTTP_REFERER': 'http://example.com/?token=secret',
    'HTTP_USER_AGENT': 'Test/1.0',
}


@pytest.fixture
def logged(bus, tmp_path):
    """Serve one request in this process; return the lines that it has made."""
    path, logs = tmp_path / 'access.log', []

    def serve(app, *, form='json', take=b''.join, query=True, proxies=(), **environ):
        made = read_format(form, query, bool(proxies))
        log = AccessLog(bus, str(path), made, 0, proxies)
        logs.append(log)
        log.start()
        wrapped = log.around(app)
        parts = {**ENVIRON, **environ}

        def start_response(status, headers, exc_info=None):
            if exc_info and start_response.sent:
                raise exc_info[1]
            return lambda data: setattr(start_response, 'sent', True)

        start_response.sent = False
        body = None
        try:
            body = wrapped(parts, start_response)
            if take is not None:
                take(body)
        finally:
            if hasattr(body, 'close'):
                body.close()
                body.close()  # some servers do it twice
        return path.read_text().splitlines()

    yield serve
    for log in logs:
        log.writer.stop(1)


def entry(lines):
    assert len(lines) == 1
    return json.loads(lines[0])


def hello(environ, start_response):
    start_response('200 OK', [('Content-Type', 'text/plain')])
    return [b'Hello, ', b'world']


# -- formats ----------------------------------------------------------------------------


def test_the_combined_format_is_that_of_apache_with_more_at_its_end(logged):
    (line,) = logged(hello, form='combined')
    assert re.fullmatch(
        r'192\.0\.2\.1 - - \[\d\d/[A-Z][a-z][a-z]/\d{4}:\d\d:\d\d:\d\d [+-]\d{4}\] '
        r'"GET /shop/caf%C3%A9\?q=1 HTTP/1\.1" 200 12 '
        r'"http://example\.com/\?token=secret" "Test/1\.0" - \d+ - [0-9a-f]+-100 done',
        line,
    )


def test_json_is_an_object_with_numbers(logged):
    made = entry(logged(hello))
    assert made['status'] == 200
    assert made['bytes'] == 12
    assert made['uri'] == '/shop/caf%C3%A9?q=1'
    assert made['waited_us'] is None
    assert made['end'] == 'done'
    assert re.fullmatch(r'\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z', made['time'])
    assert entry(logged(hello, form='json status path')[1:]) == {
        'status': 200,
        'path': '/shop/caf%C3%A9',
    }


def test_without_queries_the_referer_has_none_either(logged):
    made = entry(logged(hello, query=False, REQUEST_URI='/x?password=secret'))
    assert 'secret' not in json.dumps(made)
    assert (made['uri'], made['referer']) == ('/x', 'http://example.com/')


def test_a_format_may_have_headers(logged):
    form = '{header.Content-Type} {header.X-A} {response.content-type} {generation}'
    assert logged(hello, form=form, HTTP_X_A='a b', CONTENT_TYPE='text/html') == [
        r'text/html a\x20b text/plain 1'
    ]


@pytest.mark.parametrize(
    ('form', 'problem'),
    [
        ('{statsu}', "there is no field 'statsu'; did you mean 'status'?"),
        ('json time statsu', "there is no field 'statsu'"),
        ('combind', "did you mean 'combined'?"),
        ('plain text', 'has no {field}'),
        ('', 'has no {field}'),
        ('{header.}', "no field 'header.'"),
        ('{header.a b}', 'no field'),
        ("{header.x'+exit()+'}", 'no field'),
    ],
)
def test_a_wrong_format_is_refused(form, problem):
    with pytest.raises(SettingError) as caught:
        read_format(form)
    assert problem in caught.value.problem


def test_texts_of_a_format_stay_as_they_are(logged):
    assert logged(hello, form='"\'" \\ % é {status}') == ['"\'" \\ % é 200']
    with pytest.raises(SettingError):
        read_format('{status} {bytes')


# -- nothing of a request can forge a line ----------------------------------------------

HOSTILE = 'a"b\\c\n127.0.0.1 - -\x1b[2J\x7f\x85\xff\u202e'


@pytest.mark.parametrize('form', ['combined', 'json'])
@pytest.mark.parametrize(
    'key',
    ['REQUEST_URI', 'HTTP_REFERER', 'HTTP_USER_AGENT', 'REMOTE_USER', 'REMOTE_ADDR',
     'REQUEST_METHOD', 'SERVER_PROTOCOL'],
)  # fmt: skip
def test_no_text_of_a_request_can_forge_a_line(logged, key, form):
    (line,) = logged(hello, form=form, **{key: HOSTILE})
    assert line.isascii()
    assert line.isprintable()
    if form == 'json':
        text = 'a"b\\c\n127.0.0.1 - -\x1b[2J\x7f\x85\xff\u202e'.encode()
        values = [str(one) for one in json.loads(line).values()]
        assert any(text.decode() == one for one in values)
    else:
        assert line.count('"') == 6
        assert r'a\x22b\x5Cc\x0A127.0.0.1' in line
        if key in ('REMOTE_USER', 'REMOTE_ADDR'):
            assert r'1\x20-\x20-' in line


def test_bytes_that_are_not_utf_8_are_shown_by_their_numbers(logged):
    made = entry(logged(hello, HTTP_USER_AGENT='caf\xe9'))
    assert made['agent'] == 'caf\\xe9'
    assert entry(logged(hello, HTTP_USER_AGENT='caf\xc3\xa9')[1:])['agent'] == 'café'


@pytest.mark.parametrize('form', ['combined', 'json'])
def test_a_long_text_is_cut(logged, form):
    (line,) = logged(hello, form=form, HTTP_USER_AGENT='x' * 100_000)
    assert LONGEST < len(line) < LONGEST + 500
    assert 'x...' in line


@pytest.mark.parametrize('user', [7, b'joe', object(), '\ud800'])
def test_what_the_application_puts_into_environ_may_be_no_text(logged, user):
    def app(environ, start_response):
        environ['REMOTE_USER'] = user
        return hello(environ, start_response)

    (line,) = logged(app, form='{user} {status}')
    assert line.endswith(' 200')
    assert ' ' not in line[:-4]


def test_what_comes_again_is_kept_but_not_without_end():
    kept = Cached('"', '"', str)
    for number in range(5000):
        assert kept[f'agent {number % 2500}'] == f'"agent {number % 2500}"'
    assert kept['x' * 1000] == f'"{"x" * 1000}"'
    assert 0 < len(kept) <= 1000
    assert max(map(len, kept)) < 20


def test_two_logs_show_the_same_head_each_in_its_own_way(writer):
    known = waitress_log.KNOWN._replace(head='x.head')
    head = Head(REFERER='http://a/?q=1', USER_AGENT='a "b"')
    task = types.SimpleNamespace(head=head, environ={}, content_bytes_written=5)
    one, forms = writer(seconds=60), ('"{referer}" {agent} {bytes}', 'json agent')
    lines = [read_format(form).compiled(one, {}, known) for form in forms]
    one.asks = False
    for line in lines * 2:
        line(task, 1.0, 1.0)
    del head['REFERER']
    head.shown_by = None
    lines[0](task, 1.0, 1.0)
    shown = r'a\x20\x22b\x22 5'
    expected = [f'"http://a/?q=1" {shown}\n', '{"agent": "a \\"b\\""}\n']
    assert one.lines == [*expected * 2, f'"-" {shown}\n']
    one.lines.clear()


def test_a_second_is_looked_up_once(monkeypatch, writer):
    clock, one = [], writer(seconds=60)
    monkeypatch.setattr(
        making.time, 'time_ns', lambda: clock.append(1) or 5_250_000_000
    )
    line = read_format('json time').compiled(one, {})
    one.asks = False
    for now in (100.0, 100.0015, 100.7499, 99.5, 100.75):
        line(None, {}, '200 OK', 5, 0.0, None, now, 'done')
    times = [json.loads(line)['time'][-6:] for line in one.lines]
    one.lines.clear()
    assert times == ['5.250Z', '5.251Z', '5.999Z', '5.250Z', '5.250Z']
    assert len(clock) == 3


def test_the_user_is_the_one_that_the_application_has_found(logged):
    def app(environ, start_response):
        environ['REMOTE_USER'] = 'joe'
        return hello(environ, start_response)

    assert entry(logged(app))['user'] == 'joe'


# -- each request once, with what was sent -----------------------------------------------


def test_a_response_without_a_body_has_no_bytes(logged):
    assert entry(logged(hello, REQUEST_METHOD='HEAD'))['bytes'] == 0


def test_a_generator_that_nobody_reads_was_not_sent(logged):
    def app(environ, start_response):
        start_response('200 OK', [])
        return (one for one in [b'a', b'b'])

    made = entry(logged(app, take=None))
    assert (made['end'], made['bytes']) == ('aborted', 0)
    made = entry(logged(app, take=None, REQUEST_METHOD='HEAD')[1:])
    assert made['end'] == 'done'
    made = entry(logged(app)[2:])
    assert (made['end'], made['bytes']) == ('done', 2)


def test_a_client_that_goes_away_is_in_the_line(logged):
    def app(environ, start_response):
        start_response('200 OK', [])
        yield b'first'
        yield b'second'

    def take(body):
        parts = iter(body)
        next(parts), next(parts)

    made = entry(logged(app, take=take))
    assert (made['end'], made['bytes'], made['status']) == ('aborted', 5, 200)


@pytest.mark.parametrize('is_late', [False, True])
def test_an_exception_is_500_if_nothing_was_sent(logged, tmp_path, is_late):
    def app(environ, start_response):
        start_response('200 OK', [])
        if is_late:
            yield b'some'
        raise ValueError

    with pytest.raises(ValueError):
        logged(app)
    made = entry((tmp_path / 'access.log').read_text().splitlines())
    assert made['end'] == 'error'
    assert made['status'] == (200 if is_late else 500)

    def broken(environ, start_response):
        raise SystemExit

    with pytest.raises(SystemExit):
        logged(broken)
    made = json.loads((tmp_path / 'access.log').read_text().splitlines()[1])
    assert (made['status'], made['end']) == (500, 'error')


def test_the_last_status_counts(logged):
    def app(environ, start_response):
        start_response('200 OK', [])
        try:
            raise ValueError
        except ValueError as error:
            start_response('503 Busy', [], (ValueError, error, None))
        return [b'busy']

    assert entry(logged(app))['status'] == 503


def test_a_status_that_was_not_taken_does_not_count(logged):
    def app(environ, start_response):
        write = start_response('200 OK', [])
        write(b'old')
        with contextlib.suppress(ValueError):
            start_response('500 No', [], (ValueError, ValueError(), None))
        return [b'er']

    made = entry(logged(app))
    assert (made['status'], made['bytes'], made['end']) == (200, 5, 'done')


def test_a_status_that_is_none_is_not_shown(logged):
    def app(environ, start_response):
        start_response('2"0', [])
        return []

    assert entry(logged(app))['status'] is None


def test_a_request_has_one_line_in_a_file(bus, tmp_path):
    path = tmp_path / 'access.log'
    outer, inner = (
        AccessLog(bus, str(path), read_format('{status}'), 0) for _ in range(2)
    )
    app = outer.around(inner.around(hello))
    app(dict(ENVIRON), lambda *args: None).close()
    assert path.read_text() == '200\n'


# -- how long it has waited ---------------------------------------------------------------


@pytest.mark.parametrize(
    ('text', 'waited'),
    [
        ('t=1000000000.5', 0.5),
        ('1000000000500', 0.5),
        ('1000000000500000', 0.5),
        ('1000000001.5', 0.0),
        ('1000005000', None),
        ('1', None),
        ('nan', None),
        ('inf', None),
        ('x', None),
        ('', None),
    ],
)
def test_the_header_of_a_proxy_has_several_units(text, waited):
    assert waited_since(text, 1000000001.0) == (
        None if waited is None else pytest.approx(waited)
    )


def test_only_a_trusted_proxy_says_how_long_a_request_has_waited(logged):
    sent = {'HTTP_X_REQUEST_START': f't={time.time() - 5}'}
    assert entry(logged(hello, **sent))['waited_us'] is None
    made = entry(logged(hello, proxies=['192.0.2.2'], **sent)[1:])
    assert made['waited_us'] is None
    made = entry(logged(hello, proxies=['192.0.2.1'], **sent)[2:])
    assert 4_900_000 < made['waited_us'] < 60_000_000


def test_times_are_those_of_the_zone(monkeypatch):
    monkeypatch.setenv('TZ', 'America/St_Johns')
    time.tzset()
    try:
        assert local_time(1764454857) == '29/Nov/2025:18:50:57 -0330'
    finally:
        monkeypatch.undo()
        time.tzset()


# -- the file -----------------------------------------------------------------------------


@pytest.fixture
def said():
    return []


@pytest.fixture
def writer(tmp_path, said):
    made = []

    def make(path=tmp_path / 'a.log', seconds=0.01):
        one = Writer(str(path), lambda text, level: said.append(text), seconds)
        made.append(one)
        return one

    yield make
    for one in made:
        one.stop(1)


def test_the_thread_writes_what_was_added(writer, tmp_path):
    one = writer()
    one.start()
    for number in range(1000):
        one.add(f'{number}\n')
    one.stop(5)
    one.add('late\n')
    lines = (tmp_path / 'a.log').read_text().splitlines()
    assert lines == [*map(str, range(1000)), 'late']


def test_a_line_is_written_soon_without_a_stop(writer, tmp_path):
    one = writer()
    one.add('a\n')
    eventually(lambda: (tmp_path / 'a.log').exists())
    eventually(lambda: (tmp_path / 'a.log').read_text() == 'a\n')
    one.add('b\n')
    eventually(lambda: (tmp_path / 'a.log').read_text() == 'a\nb\n')


def test_a_full_disk_is_told_once_and_counted(writer, said):
    one = writer('/dev/full', 0)
    one.start()
    one.add('a\n')
    one.add('b\n')
    assert said == [
        'The access log /dev/full loses lines: No space left on device; the site keeps serving'
    ]
    one.path = '/dev/null'
    one.add('c\n')
    assert said[1:] == ['The access log /dev/null is written again; 2 lines were lost']
    assert one.lost == 2


@pytest.mark.parametrize(
    ('others', 'text'),
    [('', 'whole\nsecond line\n'), ('other\n', 'whole\nfirother\n\nsecond line\n')],
)
def test_a_line_for_half_of_which_there_is_room_is_taken_back(
    writer, tmp_path, monkeypatch, others, text
):
    one, path = writer(seconds=0), tmp_path / 'a.log'
    one.start()
    one.add('whole\n')
    left = [3, 0]
    real = os.write

    def few(fd, data):
        if not left:
            return real(fd, data)
        room = left.pop(0)
        if not room:
            with path.open('a') as file:  # another process has more luck
                file.write(others)
            raise OSError(28, 'No space left on device')
        return real(fd, data[:room])

    monkeypatch.setattr(writing.os, 'write', few)
    one.add('first line\n')
    one.add('second line\n')
    assert path.read_text() == text
    assert one.lost == 1


def test_a_fifo_without_a_reader_holds_nothing_up(writer, tmp_path, said):
    path = tmp_path / 'fifo'
    os.mkfifo(path)
    one = writer(path, 0)
    one.start()
    one.add('lost\n')
    assert said == [
        f'The access log {path} loses lines: nobody reads it; the site keeps serving'
    ]
    reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    try:
        one.add('read\n')
        assert os.read(reader, 100) == b'read\n'
    finally:
        os.close(reader)


def test_a_reader_that_stops_gets_whole_lines_later(writer, tmp_path, monkeypatch):
    monkeypatch.setattr(writing, 'PATIENCE', 0.01)
    monkeypatch.setattr(writing, 'MOST', 20)
    path = tmp_path / 'fifo'
    os.mkfifo(path)
    reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    one = writer(path, 0)
    one.start()
    lines = [f'{number:04} {"x" * 2000}\n' for number in range(100)]
    for line in lines:
        one.add(line)
    got = b''
    while True:
        try:
            part = os.read(reader, 1 << 16)
        except BlockingIOError:
            if one.flush():
                break
            continue
        got += part
        one.flush()
    got += os.read(reader, 1 << 20) if select_readable(reader) else b''
    os.close(reader)
    text = got.decode()
    assert text == ''.join(lines[: text.count('\n')])
    assert one.lost == 100 - text.count('\n') > 0


def select_readable(fd):
    import select

    return bool(select.select([fd], [], [], 0)[0])


def test_many_lines_do_not_wait_for_their_time(writer, tmp_path, monkeypatch):
    monkeypatch.setattr(writing, 'LONGEST_LOOK', 0.01)
    one = writer(seconds=600)
    one.start()
    for number in range(writing.AT_ONCE):
        one.add(f'{number}\n')
    eventually(lambda: (tmp_path / 'a.log').read_text().count('\n') == writing.AT_ONCE)


def test_while_a_reader_has_stopped_not_too_many_lines_wait(
    writer, tmp_path, monkeypatch
):
    monkeypatch.setattr(writing, 'MOST', 20)
    monkeypatch.setattr(writing, 'PATIENCE', 0.001)
    path = tmp_path / 'fifo'
    os.mkfifo(path)
    reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    one = writer(path)
    one.start()

    def is_full():
        one.add('x' * 2000 + '\n')
        return one.lost > 100

    eventually(is_full)
    assert len(one.lines) <= 500
    os.close(reader)


def test_a_forked_child_writes_only_its_own_lines(writer, tmp_path):
    one = writer(seconds=60)
    one.start()
    one.add('parent\n')
    pid = os.fork()
    if pid == 0:
        one.add('child\n')
        one.stop(5)
        os._exit(0)
    os.waitpid(pid, 0)
    one.stop(5)
    assert sorted((tmp_path / 'a.log').read_text().split()) == ['child', 'parent']


def test_several_threads_lose_no_line(writer, tmp_path):
    one = writer()
    one.start()

    def add(number):
        for line in range(2000):
            one.add(f'{number} {line}\n')

    threads = [threading.Thread(target=add, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    one.stop(10)
    lines = (tmp_path / 'a.log').read_text().splitlines()
    assert len(lines) + one.lost == 8000
    assert len(set(lines)) == len(lines)


def test_a_file_that_cannot_be_opened_fails_the_start(writer, tmp_path):
    with pytest.raises(CannotOpen):
        writer(tmp_path / 'no' / 'a.log').start()


@pytest.mark.parametrize(
    ('file', 'problem'),
    [('.', 'is a folder'), ('no/a.log', 'there is no folder'), ('sock', 'is a socket')],
)
def test_a_file_that_cannot_be_is_refused(tmp_path, monkeypatch, file, problem):
    monkeypatch.chdir(tmp_path)
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind('sock')
        with pytest.raises(SettingError) as caught:
            check_settings({'file': file})
    assert problem in caught.value.problem
    assert caught.value.key == 'file'


# -- in a site ------------------------------------------------------------------------------

APP = """
import threading, time
ends = threading.Event()

def make(global_conf):
    return app

def app(environ, start_response):
    path = environ['PATH_INFO']
    if path == '/error':
        raise ValueError
    if path == '/os_error':
        raise OSError
    headers = [('Content-Length', '5')] if path == '/length' else []
    environ['write'] = start_response('200 OK', headers)
    if path == '/forget':
        del environ['REMOTE_ADDR']
    if path == '/stream':
        return stream()
    if path == '/parts':
        return (part for part in [b'', b'123', b'45678'])
    if path == '/write':
        environ['write'](b'123')
        environ['write'](b'45678')
        return []
    if path == '/stuck':
        print('stuck', flush=True)
        ends.wait(60)
    if path == '/fifo':
        print('opens', environ['QUERY_STRING'], flush=True)
        open(environ['QUERY_STRING']).close()
    if path == '/file':
        return environ.get('wsgi.file_wrapper', list)(open(__file__, 'rb'))
    return [b'12345']

def stream():
    while True:
        yield b'x' * 10000
"""

SITE = """
[app:main]
use = call:webapp:make
{filter}
[server:main]
use = {server}
host = 127.0.0.1
port = 0

[wspbus:main]
stop_timeout = 3
{main}

[{kind}:accesslog]
use = egg:paste_wspbus#accesslog
file = access.log
format = json
"""

PLUGIN = {'kind': 'plugin', 'filter': '', 'main': 'plugins = accesslog'}
FILTER = {'kind': 'filter', 'filter': 'filter-with = accesslog', 'main': ''}
SERVERS = ['egg:waitress', 'egg:paste_wspbus#cheroot', 'egg:Paste#http',
           'egg:paste_wspbus#wsgiref']  # fmt: skip


def entries(folder):
    lines = (folder / 'access.log').read_text().splitlines()
    return [json.loads(line) for line in lines]


def ask(port, target, method='GET', version='1.1'):
    """Send a request; return its response, whole."""
    with socket.create_connection(('127.0.0.1', port), TIMEOUT) as sock:
        head = (
            f'{method} {target} HTTP/{version}\r\nHost: localhost\r\nConnection: close'
        )
        sock.sendall(f'{head}\r\nUser-Agent: x"y\r\n\r\n'.encode())
        return b''.join(iter(lambda: sock.recv(65536), b''))


@pytest.mark.parametrize(
    ('server', 'form'),
    [*((one, PLUGIN) for one in SERVERS), (SERVERS[0], FILTER), (SERVERS[1], FILTER)],
)
def test_each_server_logs_what_it_has_sent(tmp_path, server, form):
    ini = SITE.format(server=server, **form)
    with Site(tmp_path, ini, files={'webapp.py': APP}) as site:
        bodies = {}
        for target in ('/length?a=1', '/chunked', '/file', '/parts', '/write'):
            body = ask(site.port, target).partition(b'\r\n\r\n')[2]
            bodies[target] = 5 if b'12345' in body else len(body)
        assert b' 500 ' in ask(site.port, '/error')
        ask(site.port, '/length', 'HEAD')
        ask(site.port, '/forget')
        site.stop()
    made = {(one['method'], one['uri']): one for one in entries(tmp_path)}
    assert len(entries(tmp_path)) == len(made) == 8
    assert made['GET', '/forget']['client'] == ''
    sizes = {key[1]: one['bytes'] for key, one in made.items() if key[0] == 'GET'}
    assert sizes['/length?a=1'] == sizes['/chunked'] == 5
    assert sizes['/parts'] == sizes['/write'] == 8
    assert sizes['/file'] in ((tmp_path / 'webapp.py').stat().st_size, None)
    assert made['GET', '/error']['status'] == 500
    assert made['GET', '/error']['end'] == 'error'
    ends = {one['end'] for key, one in made.items() if key[1] != '/error'}
    assert ends == {'done'}
    assert {one['agent'] for one in made.values()} == {'x"y'}
    if server == 'egg:waitress':
        assert all(0 <= one['waited_us'] < TIMEOUT * 1e6 for one in made.values())


@pytest.mark.parametrize(
    ('server', 'form'),
    [(SERVERS[0], PLUGIN), (SERVERS[0], FILTER), (SERVERS[1], PLUGIN)],
)
def test_a_client_that_goes_and_a_request_that_is_cut_have_lines(
    tmp_path, server, form
):
    ini = SITE.format(server=server, **form)
    with Site(tmp_path, ini, files={'webapp.py': APP}) as site:
        with socket.create_connection(('127.0.0.1', site.port), TIMEOUT) as sock:
            sock.sendall(b'GET /stream HTTP/1.1\r\nHost: x\r\n\r\n')
            assert sock.recv(65536)
        eventually(lambda: (tmp_path / 'access.log').read_text().count('\n') == 1)
        stuck = socket.create_connection(('127.0.0.1', site.port), TIMEOUT)
        stuck.sendall(b'GET /stuck HTTP/1.1\r\nHost: x\r\n\r\n')
        assert site.out.wait_for('stuck')
        site.process.send_signal(signal.SIGTERM)
        site.wait()
        stuck.close()
    stream, cut = entries(tmp_path)
    assert (stream['uri'], stream['end'], stream['status']) == (
        '/stream',
        'aborted',
        200,
    )
    assert (cut['uri'], cut['end'], cut['status']) == ('/stuck', 'cut', None)


def test_a_client_that_is_there_has_not_gone(monkeypatch):
    from paste_wspbus.servers.waitress_log import has_gone

    one, other = socket.socketpair()
    with one:
        with other:
            assert not has_gone(one)
            other.shutdown(socket.SHUT_WR)  # it may still read
            assert not has_gone(one)
        assert has_gone(one)
        monkeypatch.delattr('select.poll')
        assert not has_gone(one)


@pytest.mark.parametrize('server', SERVERS[:2])
def test_a_short_response_to_a_client_that_has_gone_is_aborted(tmp_path, server):
    ini = SITE.format(server=server, **PLUGIN)
    with Site(tmp_path, ini, files={'webapp.py': APP}) as site:
        os.mkfifo(tmp_path / 'fifo')
        with socket.create_connection(('127.0.0.1', site.port), TIMEOUT) as sock:
            sock.sendall(b'GET /fifo?fifo HTTP/1.1\r\nHost: x\r\n\r\n')
            assert site.out.wait_for('opens fifo')
            reset = struct.pack('ii', 1, 0)  # close(2) sends RST, tcp(7)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, reset)
        (tmp_path / 'fifo').write_text('')
        assert b'12345' in ask(site.port, '/length')
        site.stop()
    ends = {one['uri']: one['end'] for one in entries(tmp_path)}
    assert ends == {'/fifo?fifo': 'aborted', '/length': 'done'}


@pytest.mark.skipif(sys.platform != 'linux', reason='the system must say it')
def test_what_waits_in_the_backlog_of_busy_workers_has_waited(tmp_path):
    ini = SITE.format(server='egg:waitress', **PLUGIN)
    ini = ini.replace('port = 0', 'port = 0\nthreads = 1\nbacklog = 100')
    ini = ini.replace('[wspbus:main]', '[wspbus:main]\nworkers = 2\nsoak = 0')
    with (
        Site(tmp_path, ini, files={'webapp.py': APP}) as site,
        contextlib.ExitStack() as stack,
    ):

        def send(target):
            sock = socket.create_connection(('127.0.0.1', site.port), TIMEOUT)
            stack.enter_context(sock)
            sock.sendall(f'GET {target} HTTP/1.1\r\nHost: x\r\n\r\n'.encode())
            return sock

        for fifo in ('one', 'two'):
            os.mkfifo(tmp_path / fifo)
            send(f'/fifo?{fifo}')
            assert site.out.wait_for(f'opens {fifo}')
        began = time.monotonic()
        waiting = send('/length')
        waited = time.monotonic()
        threading.Event().wait(0.1)
        waited = time.monotonic() - waited
        for fifo in ('one', 'two'):
            (tmp_path / fifo).write_text('')
        assert waiting.recv(65536)
        took = time.monotonic() - began
        site.stop()
    (made,) = [one for one in entries(tmp_path) if one['uri'] == '/length']
    assert waited - 0.02 <= made['waited_us'] / 1e6 <= took + 0.02


def test_a_connection_whose_system_says_nothing_arrived_when_it_was_read():
    from paste_wspbus.servers.waitress_log import arrival

    one, other = socket.socketpair()
    with one, other:
        one.send(b'x')
        channel = types.SimpleNamespace(used=1.0, answered=None, socket=other)
        assert arrival(channel) == 1.0
        channel.socket = None  # the connection is closed
        assert arrival(channel) == 1.0


def test_waitress_logs_what_it_refuses(tmp_path):
    ini = SITE.format(server='egg:waitress', **PLUGIN)
    with Site(tmp_path, ini, files={'webapp.py': APP}) as site:
        assert b' 400 ' in ask(site.port, '/x', version='1.1\r\nContent-Length: -1')
        assert b' 500 ' in ask(site.port, '/os_error')
        assert b' 400 ' in ask(site.port, '/x', version='1.1\r\nBad header: \x01')
        site.stop()
    refused, failed, unread = entries(tmp_path)
    assert (refused['status'], refused['end'], refused['uri']) == (400, 'refused', '/x')
    assert (failed['status'], failed['end']) == (500, 'error')
    assert (unread['status'], unread['end'], unread['uri']) == (400, 'refused', '')


@pytest.mark.parametrize('form', ['json', 'combined'])
def test_what_a_client_sends_waitress_forges_no_line(tmp_path, form):
    ini = SITE.format(server='egg:waitress', **PLUGIN).replace('= json', f'= {form}')
    hostile = ['/a"b', '/a\\b', '/\x7f', '/caf\xc3\xa9?"', '/?' + 'y' * 3000, '//x']
    with Site(tmp_path, ini, files={'webapp.py': APP}) as site:
        for target in hostile:
            ask(site.port, target)
            ask(site.port, '/', version=f'1.1\r\nReferer: {target}')
        site.stop()
    lines = (tmp_path / 'access.log').read_text().splitlines()
    assert len(lines) == 12
    assert all(line.isascii() and line.isprintable() for line in lines)
    if form == 'combined':
        assert {line.count('"') for line in lines} == {6}
        assert r'"GET /a\x22b HTTP/1.1"' in lines[0]
        return
    found = [json.loads(line) for line in lines]
    shown = [one['uri'] for one in found[::2]]
    assert shown[:2] == ['/a"b', '/a\\b']
    assert shown[4] == '/?' + 'y' * (LONGEST - 2) + '...'
    referers = [one['referer'] for one in found[1::2]]
    assert referers[:2] == shown[:2]
    assert referers[4] == shown[4]


def test_workers_share_a_file_and_reopen_it(tmp_path):
    main = 'plugins = accesslog\nworkers = 2'
    ini = SITE.format(server='egg:waitress', **{**PLUGIN, 'main': main})
    with Site(tmp_path, ini, files={'webapp.py': APP}) as site:
        for _ in range(20):
            ask(site.port, '/old')
        os.rename(tmp_path / 'access.log', tmp_path / 'old.log')
        site.process.send_signal(signal.SIGUSR1)
        eventually((tmp_path / 'access.log').exists)
        for _ in range(20):
            ask(site.port, '/new')
        site.stop()
    lines = (tmp_path / 'old.log').read_text() + (tmp_path / 'access.log').read_text()
    made = [json.loads(line) for line in lines.splitlines()]
    assert len(made) == 40
    assert {one['worker'] for one in made} <= {1, 2}
    assert len({one['request_id'] for one in made}) == 40
    assert {one['generation'] for one in made} == {1}


@pytest.mark.parametrize('form', [PLUGIN, FILTER])
@pytest.mark.parametrize(
    ('key', 'value', 'problem'),
    [
        ('file', 'no/access.log', 'there is no folder'),
        ('file', '.', 'is a folder'),
        ('format', '{statsu}', "there is no field 'statsu'; did you mean 'status'?"),
        ('qerry', 'no', "unknown key; did you mean 'query'?"),
        ('query', 'perhaps', "'perhaps' is not true or false"),
    ],
)
def test_a_mistake_is_one_line_from_the_check(tmp_path, form, key, value, problem):
    ini = SITE.format(server='egg:waitress', **form)
    ini = re.sub(rf'(?m)^{key} = .*\n', '', ini) + f'{key} = {value}\n'
    write(tmp_path, {'site.ini': ini, 'webapp.py': APP})
    done = run(tmp_path, '--check', 'site.ini')
    assert done.code == 2
    assert len(done.err.text.splitlines()) == 1
    assert f'[{form["kind"]}:accesslog] {key}: ' in done.err.text
    assert problem in done.err.text


def test_a_mistake_is_one_line_at_the_start(tmp_path):
    for form in (PLUGIN, FILTER):
        ini = SITE.format(server='egg:waitress', **form)
        ini = ini.replace('file = access.log', 'file = no/access.log')
        write(tmp_path, {'site.ini': ini, 'webapp.py': APP})
        done = run(tmp_path, 'site.ini')
        assert done.code == 2
        (line,) = done.err.text.splitlines()
        assert f'[{form["kind"]}:accesslog] file: there is no folder' in line


WITHOUT_BUS = """
import os
from paste.deploy import loadapp
from webob import Request

app = loadapp('config:' + os.path.abspath('site.ini'))
pid = os.fork()
Request.blank('/parent' if pid else '/child').get_response(app).app_iter.close()
if pid:
    os.waitpid(pid, 0)
"""


def test_the_filter_works_without_a_bus_and_a_server_of_ours(tmp_path):
    ini = SITE.format(server='egg:waitress', **FILTER)
    write(tmp_path, {'site.ini': ini, 'webapp.py': APP, 'run.py': WITHOUT_BUS})
    done = run(tmp_path, 'run.py', command=[sys.executable])
    assert done.code == 0, done.err.text
    assert sorted(one['uri'] for one in entries(tmp_path)) == ['/child', '/parent']


@pytest.mark.skipif(os.geteuid() != 0, reason='only root follows no links of others')
def test_root_follows_no_link_of_others(writer, tmp_path):
    folder = tmp_path / 'logs'
    folder.mkdir()
    folder.chmod(0o777)
    (folder / 'access.log').symlink_to(tmp_path / 'elsewhere')
    with pytest.raises(CannotOpen, match='symbolic link'):
        writer(folder / 'access.log').start()
    assert not (tmp_path / 'elsewhere').exists()
