"""What the ops listener takes for a request."""

import pytest

from paste_wspbus.ops.requests import MAX_HEAD, BadRequest, read_head


def read(text, is_local=False):
    return read_head(text.replace('\n', '\r\n').encode('latin-1'), is_local)


def test_a_request_has_a_method_a_path_and_a_host():
    request = read('GET /ready?verbose HTTP/1.1\nHost: 10.0.0.1:9100\n\n')
    assert (request.method, request.path) == ('GET', '/ready')
    assert (request.query, request.host) == ('verbose', '10.0.0.1:9100')
    assert not request.has_body


def test_half_a_head_is_not_a_request_yet():
    whole = b'GET /live HTTP/1.1\r\nHost: a\r\n\r\n'
    for end in range(len(whole)):
        assert read_head(whole[:end], False) is None
    assert read_head(whole, False).path == '/live'


def test_http_1_0_needs_no_host():
    assert read('HEAD /live HTTP/1.0\n\n').host is None


@pytest.mark.parametrize(
    'text',
    [
        '\x16\x03\x01\x02\x00 a client that speaks TLS\n\n',
        'GET /live\n\n',
        'GET  /live HTTP/1.1\nHost: a\n\n',
        'GET http://a/live HTTP/1.1\nHost: a\n\n',
        'GET /live HTTP/2.0\nHost: a\n\n',
        'GET /l\xefve HTTP/1.1\nHost: a\n\n',
        'GET /live HTTP/1.1\n\n',
        'GET /live HTTP/1.1\nHost: a\nHost: b\n\n',
        'GET /live HTTP/1.1\nHost a\n\n',
        'GET /live HTTP/1.1\nHost : a\n\n',
        'GET /live HTTP/1.1\nHost: a\n folded\n\n',
        'GET /live HTTP/1.1\nHost: a\nX: \x00\n\n',
        'PRI * HTTP/2.0\n\nSM\n\n',
    ],
)
def test_what_is_no_request_is_refused(text):
    with pytest.raises(BadRequest) as caught:
        read(text)
    assert caught.value.status == 400


def test_garbage_is_refused_at_its_first_line():
    with pytest.raises(BadRequest):
        read('hello\nthere')


def test_a_head_has_a_limit():
    for text in ('G' * (MAX_HEAD + 1), f'GET / HTTP/1.1\nHost: {"a" * MAX_HEAD}\n\n'):
        with pytest.raises(BadRequest) as caught:
            read(text)
        assert caught.value.status == 431


def test_a_body_is_noticed():
    assert read('POST / HTTP/1.1\nHost: a\nContent-Length: 3\n\n').has_body
    assert read('GET / HTTP/1.1\nHost: a\n\nGET / HTTP/1.1\n').has_body
