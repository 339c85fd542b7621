"""servers/cheroot_heads.py: how usual heads are parsed and written, compared with cheroot."""

import io
import random
from types import SimpleNamespace

import pytest
from cheroot.server import HTTPRequest

from paste_wspbus.servers import usual_heads
from paste_wspbus.servers.cheroot_heads import UsualHeads
from tests.kit.heads import HEADS, mutated

MORE = [
    b'GET / HTTP/1.0\r\nCONNECTION: Keep-Alive\r\nAccept: a, b\r\n\r\n',
    b"GET / HTTP/1.1\r\nConnection: close\r\nx-y'z: c\r\n\r\n",
    b'OPTIONS /a?b HTTP/1.1\r\nHost: a\r\n\r\n',
]

SERVER = {
    'ssl_adapter': None,
    'protocol': 'HTTP/1.1',
    'server_name': 'a server',
    'max_request_body_size': 0,
    'timeout': 10,
}


def request_of(kind, data, most=0, keeps=True):
    """Return a request of a server and a connection, which have what cheroot looks at."""
    server = SimpleNamespace(
        **SERVER, max_request_header_size=most, can_add_keepalive_connection=keeps
    )
    file = io.BufferedReader(io.BytesIO(data))
    return kind(server, SimpleNamespace(rfile=file, wfile=io.BytesIO()))


def parsed(request):
    """Return what a request knows after it was parsed, what was sent, and what is not read."""
    request.parse_request()
    known = {key: value for key, value in vars(request).items() if key != 'rfile'}
    known['started_request'] &= request.ready
    conn = known.pop('conn')
    del known['server']
    return known, conn.wfile.getvalue(), conn.rfile.read()


@pytest.mark.parametrize('most', [0, 60, 8192])
def test_mutated_heads_are_parsed_as_by_cheroot(most):
    rng, usual = random.Random(3), 0
    for _ in range(4000):
        data = mutated(rng.choice(HEADS + MORE), rng)
        expected = parsed(request_of(HTTPRequest, data, most))
        for _ in range(2):  # the second time, its headers are known
            assert (data, *parsed(request_of(UsualHeads, data, most))) == (
                data,
                *expected,
            )
        usual += request_of(UsualHeads, data, most).parse_usual()
    assert 100 < usual < 3000


def test_a_tunnel_is_refused_as_by_cheroot():
    data = b'CONNECT /a HTTP/1.1\r\nHost: a\r\n\r\n'
    ours, plain = (request_of(kind, data) for kind in (UsualHeads, HTTPRequest))
    assert parsed(ours) == parsed(plain)


HEADERS = [
    [],
    [(b'Content-Length', b'3')],
    [(b'content-length', b'3'), (b'X-A', b'\xe4'), (b'X-A', b'')],
    [(b'Content-Length', b'3'), (b'Date', b'x')],
    [(b'Content-Length', b'3'), (b'server', b'x')],
    [(b'Content-Length', b'3'), (b'Connection', b'Keep-Alive')],
    [(b'Content-Length', b'3'), (b'Connection', b'close')],
]


@pytest.mark.parametrize(
    'status', [b'200 OK', b'204 No Content', b'413 Too Large', b'OK']
)
@pytest.mark.parametrize('keeps', [True, False])
@pytest.mark.parametrize('head', [*HEADS[:3], *MORE])
@pytest.mark.parametrize('unread', [0, 1])
def test_heads_of_responses_are_written_as_by_cheroot(
    monkeypatch, status, keeps, head, unread
):
    monkeypatch.setattr(usual_heads.time, 'time', lambda: 1.7e9)
    for headers in HEADERS:
        written = []
        for kind in (HTTPRequest, UsualHeads):
            request = request_of(kind, head, keeps=keeps)
            request.parse_request()
            request.rfile = SimpleNamespace(remaining=unread, read=written.append)
            request.status, request.outheaders = status, headers.copy()
            try:
                request.send_headers()
            except ValueError:
                written.append('ValueError')
            close, chunked = request.close_connection, request.chunked_write
            sent = request.conn.wfile.getvalue()
            written.append((sent, request.outheaders, close, chunked))
        half = len(written) // 2
        assert written[:half] == written[half:]
