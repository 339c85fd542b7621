"""servers/usual_heads.py: which heads are usual ones, and the date."""

import io
import socket
from email.utils import formatdate

import pytest

from paste_wspbus.servers import usual_heads
from paste_wspbus.servers.usual_heads import date, first_line, headers_of, received


def test_a_head_is_looked_at_and_not_taken():
    file = io.BufferedReader(io.BytesIO(b'A: b\r\n\r\nbody'))
    assert received(file) == b'A: b\r\n\r\n'
    assert file.read() == b'A: b\r\n\r\nbody'


def test_half_a_head_is_for_the_server():
    ours, client = socket.socketpair()
    with ours, client, ours.makefile('rb') as file:
        client.sendall(b'A: b\r\n')
        assert received(file) is None
        client.sendall(b'\r\n')
        assert [file.readline(), file.readline()] == [b'A: b\r\n', b'\r\n']


def test_a_file_of_another_kind_is_for_the_server():
    assert received(io.BytesIO(b'A: b\r\n\r\n')) is None


def test_the_headers_have_their_order_and_their_case():
    data = b'Host: a\r\nX-B:  c \r\nempty:\r\n\r\n'
    assert headers_of(data) == [('Host', 'a'), ('X-B', 'c '), ('empty', '')]


@pytest.mark.parametrize(
    'data',
    [
        b'\r\n\r\n',
        b'A: b\r\n c\r\n\r\n',
        b'A : b\r\n\r\n',
        b'A: \tb\r\n\r\n',
        b'A: \xe4\r\n\r\n',
        b'A: b\nC: d\r\n\r\n',
        b'A: b\rC: d\r\n\r\n',
        b'A: b\r\na: c\r\n\r\n',
        b'no colon\r\n\r\n',
        b': b\r\n\r\n',
        b''.join(b'A-%d: b\r\n' % number for number in range(65)) + b'\r\n',
    ],
)
def test_other_headers_are_for_the_server(data):
    assert headers_of(data) is None


@pytest.mark.parametrize(
    'line', [b'GET //a HTTP/1.1', b'GET / HTTP/2.0', b'GET /#a HTTP/1.1', b'GET /', b'']
)
def test_other_first_lines_are_for_the_server(line):
    assert first_line(line + b'\r\n') is None


def test_the_date_is_that_of_this_second(monkeypatch):
    for second in (0, 86400, 1.7e9, 1.7e9 + 0.9, 1.7e9 + 1, 3):
        monkeypatch.setattr(usual_heads.time, 'time', lambda now=second: now)
        assert date() == formatdate(int(second), usegmt=True)
