"""servers/socketserver_heads.py: what it makes of heads, compared with `http.server`."""

import io
import random
from http.server import BaseHTTPRequestHandler

import pytest

from paste_wspbus.servers.socketserver_heads import parse
from tests.kit.heads import HEADS, mutated

MORE = [
    b'POST /upload HTTP/1.1\r\nContent-Type: multipart/form-data; boundary=x\r\n'
    b'Content-Length: 3\r\n\r\nabc',
    b'GET / HTTP/1.0\r\nCONNECTION: Keep-Alive\r\nContent-Type: text/plain\r\n\r\n',
]


def handler_of(version, data):
    """Return a handler that has read the first line of a request."""
    handler = BaseHTTPRequestHandler.__new__(BaseHTTPRequestHandler)
    handler.protocol_version = f'HTTP/{version}'
    handler.rfile, handler.wfile = io.BufferedReader(io.BytesIO(data)), io.BytesIO()
    handler.client_address, handler.log_message = ('127.0.0.1', 1), lambda *args: None
    handler.raw_requestline = handler.rfile.readline()
    return handler


def made(handler):
    """Return what a handler knows of its request, and what remains to be read."""
    known = dict(vars(handler))
    rest = known.pop('rfile').read()
    for name in ('wfile', 'log_message'):
        del known[name]
    headers = known.pop('headers')
    names = {name.lower() for name, _ in headers.items()} | {'missing'}
    found = {name: (headers.get(name, 1), headers.get_all(name, 2)) for name in names}
    kept = {
        name: value
        for name, value in vars(headers).items()
        if name not in ('policy', '_usual', '_by_name')
    }
    kind = headers.get_content_type()
    return rest, known, headers.items(), found, kept, kind, 'Host' in headers


@pytest.mark.parametrize('version', ['1.0', '1.1'])
def test_mutated_heads_are_parsed_as_by_http_server(version):
    rng, usual = random.Random(2), 0
    for _ in range(5000):
        data = mutated(rng.choice(HEADS + MORE), rng)
        for _ in range(2):  # the second time, its headers are known
            ours = handler_of(version, data)
            if not parse(ours):
                assert ours.rfile.read() == data[len(ours.raw_requestline) :]
                continue
            usual += 1
            plain = handler_of(version, data)
            assert plain.parse_request()
            assert (data, *made(ours)) == (data, *made(plain))
    assert 500 < usual < 9000


def test_a_caller_that_changes_the_list_of_headers_changes_it_for_nobody_else():
    for _ in range(2):
        handler = handler_of('1.1', b'GET / HTTP/1.1\r\nHost: a\r\n\r\n')
        assert parse(handler)
        headers = handler.headers.items()
        assert headers == [('Host', 'a')]
        headers.clear()
