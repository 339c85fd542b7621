"""Requests that a process makes of its own application."""

import sys
import threading
from wsgiref.validate import validator

import pytest

from paste_wspbus.errors import SettingError
from paste_wspbus.requests.asking import (
    LONGEST,
    Target,
    ask,
    is_one_of,
    statuses,
    target,
    targets,
)

HERE = 'http://127.0.0.1:8080'


@pytest.mark.parametrize(
    'text, path, query, scheme, host',
    [
        ('/', '/', '', '', ''),
        ('/a%20b?q=1#x', '/a%20b', 'q=1', '', ''),
        ('/a:b', '/a:b', '', '', ''),
        ('http://example.com', '/', '', 'http', 'example.com'),
        ('HTTPS://me@example.com:8/x', '/x', '', 'https', 'example.com:8'),
        ('https://[::1]/x', '/x', '', 'https', '[::1]'),
    ],
)
def test_a_path_or_a_url_is_a_target(text, path, query, scheme, host):
    assert target(text) == Target(text, path, query, scheme, host)


@pytest.mark.parametrize(
    'text, shown',
    [
        ('/a@b?token=1', '/a@b'),
        ('http://me:p@ss@example.com/a@b?token=1', 'http://example.com/a@b'),
        ('https://example.com/', 'https://example.com/'),
    ],
)
def test_neither_the_query_nor_the_user_of_a_target_is_shown(text, shown):
    assert target(text).shown == shown


@pytest.mark.parametrize(
    'text, problem',
    [
        ('health', "'health' is neither a path that begins with / nor a URL"),
        ('//x', 'neither a path'),
        ('http:///x', 'neither a path'),
        ('ftp://x/', 'neither an http:// nor an https:// URL'),
        ('http://x:99999/', 'not a URL'),
        ('http://[::1', 'not a URL'),
        ('/ü', 'write them as %XX'),
    ],
)
def test_what_is_neither_is_refused_in_one_line(text, problem):
    with pytest.raises(SettingError, match=problem.replace('[', r'\[')) as refused:
        targets(f'/ {text}')
    assert '\n' not in str(refused.value)


@pytest.mark.parametrize('text', ['', 'ok', '2x', '600', '6xx', '20', '2000', '٢00'])
def test_what_is_no_status_is_refused(text):
    with pytest.raises(SettingError, match='such as 200 or 2xx'):
        statuses(text)


@pytest.mark.parametrize(
    'status, is_wanted',
    [('200 OK', True), ('204 No Content', True), ('301 Moved', True), ('302 F', False)],
)
def test_statuses_are_single_ones_and_classes(status, is_wanted):
    assert is_one_of(status, statuses('2XX, 301')) == is_wanted


def answer_of(app, bus, text='/', url=HERE, seconds=30):
    return ask(app, target(text), bus, url, seconds)


def test_the_application_sees_a_request_as_pep_3333_says(bus):
    seen = {}

    def app(environ, start_response):
        seen.update(environ)
        start_response('200 OK', [('Content-Type', 'text/plain')])
        return [b'hello']

    answer = answer_of(validator(app), bus, '/a%C3%BC?q=1')
    assert (answer.status, answer.error) == ('200 OK', None)
    assert seen['PATH_INFO'] == '/aü'.encode().decode('latin-1')
    assert (seen['QUERY_STRING'], seen['HTTP_HOST']) == ('q=1', '127.0.0.1:8080')
    assert (seen['SERVER_PORT'], seen['wsgi.url_scheme']) == ('8080', 'http')
    answer_of(app, bus, 'https://www.example.com/', url='unix:site.sock')
    assert (seen['HTTP_HOST'], seen['SERVER_PORT']) == ('www.example.com', '443')
    assert seen['wsgi.url_scheme'] == 'https'


def test_threads_are_acquired_and_bodies_are_closed(bus):
    told, closed = [], []
    bus.subscribe('acquire_thread', lambda *_: told.append(threading.current_thread()))

    class Endless:
        def __iter__(self):
            while True:
                yield b'x' * (LONGEST // 4)

        def close(self):
            closed.append(threading.current_thread())

    def app(environ, start_response):
        start_response('302 Found', [('Location', '/login')])
        return Endless()

    answer = answer_of(app, bus)
    assert (answer.status, answer.location) == ('302 Found', '/login')
    assert told == closed and threading.current_thread() not in told


@pytest.mark.parametrize('error', [KeyError('dsn'), SystemExit(3)])
def test_what_the_application_raises_is_kept(bus, error):
    def app(environ, start_response):
        raise error

    assert answer_of(app, bus).error is error


def test_an_application_without_a_status_has_failed(bus):
    answer = answer_of(lambda environ, start_response: [], bus)
    assert 'did not call start_response' in str(answer.error)


CLEAN = '200 OK', []


@pytest.mark.parametrize(
    ('status', 'headers', 'body', 'problem'),
    [
        (200, [], [b''], 'the status is int, not str'),
        (b'200 OK', [], [b''], 'the status is bytes, not str'),
        ('2 OK', [], [b''], "the status is '2 OK', not such as 200 OK"),
        ('2000 OK', [], [b''], "the status is '2000 OK', not such as 200 OK"),
        ('200 O\r\nX: y', [], [b''], "the status has the character '\\r'"),
        (*CLEAN, ['text'], 'the body of the response is str, not bytes'),
        (*CLEAN, [None], 'the body of the response is NoneType, not bytes'),
        (*CLEAN, b'text', 'the body of the response is int, not bytes'),
        (*CLEAN, None, 'the body of the response is NoneType, no iterable'),
        ('200 OK', [('X-Count', 1)], [b''], 'the header X-Count is int, not str'),
        ('200 OK', [(b'X-A', '1')], [b''], 'a name of a header is bytes, not str'),
        ('200 OK', [('X-A', '\n')], [b''], "the header X-A has the character '\\n'"),
        ('200 OK', [('X-A', '€')], [b''], "the header X-A has the character '€'"),
        (
            '200 OK',
            [('Content-Length', '9')],
            [b'short'],
            'Content-Length is 9, and the body has 5 bytes',
        ),
        (
            '200 OK',
            [('Content-Length', '')],
            [b''],
            "the header Content-Length is '', not a number",
        ),
    ],
)
def test_a_response_that_no_server_could_send_has_failed(
    bus, status, headers, body, problem
):
    def app(environ, start_response):
        start_response(status, headers)
        return body

    assert str(answer_of(app, bus).error) == problem


def writes_text(environ, start_response):
    start_response(*CLEAN)('text')
    return []


def starts_twice(environ, start_response):
    start_response(*CLEAN)
    start_response(*CLEAN)
    return []


def begins_too_soon(environ, start_response):
    yield b'first'
    start_response(*CLEAN)


def fails_after_the_headers(environ, start_response):
    start_response(*CLEAN)(b'first')
    try:
        raise ValueError('no more')
    except ValueError:
        start_response('500 Failed', [], sys.exc_info())
    return []


@pytest.mark.parametrize(
    ('app', 'problem'),
    [
        (writes_text, 'the body of the response is str, not bytes'),
        (starts_twice, 'the application has called start_response twice'),
        (begins_too_soon, 'the body begins before start_response is called'),
        (fails_after_the_headers, 'no more'),
    ],
)
def test_an_application_that_calls_in_the_wrong_order_has_failed(bus, app, problem):
    assert str(answer_of(app, bus).error) == problem


def begins_late(environ, start_response):
    yield b''
    start_response(*CLEAN)
    yield b'ok'


def fails_before_the_headers(environ, start_response):
    start_response('200 OK', [('Content-Length', '99')])
    try:
        raise ValueError('another page')
    except ValueError:
        start_response(*CLEAN, sys.exc_info())
    return [b'ok']


def has_no_body(environ, start_response):
    start_response('204 No Content', [('Content-Length', '9')])
    return []


def sends(chunk):
    def app(environ, start_response):
        start_response('200', [('X-A', 'grün')])(chunk)
        return [chunk]

    return app


@pytest.mark.parametrize(
    'app',
    [
        begins_late,
        fails_before_the_headers,
        has_no_body,
        *map(sends, [b'ok', bytearray(b'ok'), memoryview(b'ok')]),
    ],
)
def test_a_response_that_a_server_sends_passes(bus, app):
    answer = answer_of(app, bus)
    assert answer.error is None
    assert answer.status[:2] == '20'


def test_an_application_that_hangs_is_late_and_its_line_is_named(bus):
    ends = threading.Event()

    def app(environ, start_response):
        ends.wait()

    answer = answer_of(app, bus, seconds=0.2)
    ends.set()
    assert answer.is_late and not answer.status
    assert 'test_asking.py' in answer.place and answer.place.endswith('app')
