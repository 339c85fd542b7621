"""What clients send to a server, and what they get, byte for byte."""

import itertools
import re
import socket
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

from tests.kit.clients import Connection

#: Bytes of the largest response: no buffer of the system takes them at once.
BIG = 8_000_000

APP = """
import io

BIG = 8_000_000
HEADERS = {
    '/generated': [('Content-Type', 'text/plain')],
    '/big': [('Content-Length', str(BIG))],
    '/longer': [('Content-Length', '3')],
    '/longer_in_parts': [('Content-Length', '4')],
    '/shorter': [('Content-Length', '30')],
    '/written': [('Content-Length', '6')],
    '/late': [('Content-Length', '2')],
    '/headers': [('Server', 'ours'), ('Via', '1.1 us'), ('X-a', '1'), ('x-A', '2')],
}
STATUSES = {'/no_content': '204 No Content', '/not_modified': '304 Not Modified'}
BODIES = {
    '/generated': lambda: (one for one in (b'', b'one', b'', b'two' * 9)),
    '/big': lambda: [b'x' * BIG],
    '/big_in_parts': lambda: (b'%d' % (n % 10) * 100_000 for n in range(BIG // 100_000)),
    '/longer': lambda: [b'abcdef'],
    '/longer_in_parts': lambda: [b'abc', b'def', b'ghi'],
    '/shorter': lambda: [b'abc'],
    '/empty': lambda: [],
    '/empty_chunk': lambda: [b''],
    '/two': lambda: [b'abc', b'def'],
    '/written': lambda: [b'def'],
    '/text': lambda: ['a text, where bytes ought to be'],
    '/bytearray': lambda: [bytearray(b'an array')],
    '/joined_at_most': lambda: [b'x' * 32768],
    '/too_long_to_join': lambda: [b'x' * 32769],
    '/midway': lambda: midway(),
    '/close_raises': lambda: Raises([b'whole']),
    '/not_modified': lambda: [b'not to be sent'],
}


class Raises(list):
    def close(self):
        raise ValueError('in close()')


def midway():
    yield b'some'
    raise ValueError('midway')


def late(start_response):
    start_response('200 OK', HEADERS['/late'])
    yield b'hi'


def app(environ, start_response):
    path = environ['PATH_INFO']
    if path == '/raises':
        raise KeyError('x')
    if path == '/late':
        return late(start_response)
    if path in BODIES or path in STATUSES or path in HEADERS:
        write = start_response(STATUSES.get(path, '200 OK'), HEADERS.get(path, [])[:])
        if path == '/written':
            write(b'abc')
        return BODIES.get(path, list)()
    start_response('200 OK', [('Content-Type', 'text/plain')])
    if path == '/file':
        return environ['wsgi.file_wrapper'](io.BytesIO(b'the text of a file'))
    return [b'ok ' + environ['wsgi.input'].read()]


def make(global_conf):
    return app
"""

PATHS = [
    *('/', '/generated', '/no_content', '/not_modified', '/longer', '/longer_in_parts'),
    *('/shorter', '/empty', '/empty_chunk', '/two', '/written', '/text', '/bytearray'),
    *('/late', '/headers', '/file', '/raises', '/midway', '/close_raises', '/big'),
    *('/joined_at_most', '/too_long_to_join', '/big_in_parts'),
]


class Exchange(NamedTuple):
    """What a client sends, part by part.

    ``awaited``: what must have come before it sends the next part. ``size``: so many
    bytes it sends at a time. ``pause``: seconds that it rests after each 64 kB it reads.
    """

    parts: list[bytes]
    awaited: bytes = b''
    size: int = 1 << 20
    pause: float = 0


def head(text, body=b''):
    return text.replace('\n', '\r\n').encode() + b'\r\n\r\n' + body


GET = head('GET / HTTP/1.1\nHost: a')
LAST = head('GET /generated HTTP/1.1\nHost: a\nConnection: close')
CHUNKED = 'POST / HTTP/1.1\nHost: a\nTransfer-Encoding: chunked'
EXPECT = 'POST / HTTP/1.1\nHost: a\nExpect: 100-continue\nContent-Length: 5'

EXCHANGES = {
    **{
        f'{method} {path} {version}': Exchange(
            [head(f'{method} {path} HTTP/{version}\nHost: a')]
        )
        for path, method, version in itertools.product(
            PATHS, ('GET', 'HEAD'), ('1.0', '1.1')
        )
    },
    'keep-alive of 1.0': Exchange(
        [head('GET /written HTTP/1.0\nConnection: keep-alive') * 2]
    ),
    'close of 1.1': Exchange([head('GET / HTTP/1.1\nHost: a\nConnection: close')]),
    'without a version': Exchange([head('GET /')]),
    'of an unknown version': Exchange([head('GET / HTTP/3.0\nHost: a')]),
    'two, one after the other': Exchange([GET, GET], awaited=b'ok '),
    'five pipelined': Exchange([GET * 5 + LAST]),
    'a hundred pipelined': Exchange([GET * 100 + LAST]),
    'pipelined, and in pieces': Exchange([GET * 5 + LAST], size=7),
    'pipelined behind an error': Exchange([head('GET /raises HTTP/1.1') + GET]),
    'pipelined behind a short body': Exchange([head('GET /shorter HTTP/1.1') + GET]),
    'pipelined behind a large response': Exchange([head('GET /big HTTP/1.1') + GET]),
    'garbage behind a request': Exchange([GET + b'GARBAGE\r\n\r\n']),
    'empty lines before a request': Exchange([b'\r\n\r\n' + GET]),
    'a large response, read slowly': Exchange(
        [head('GET /big HTTP/1.1\nConnection: close')], pause=0.002
    ),
    'large parts, read slowly': Exchange(
        [head('GET /big_in_parts HTTP/1.1')], pause=0.002
    ),
    'a body': Exchange([head('POST / HTTP/1.1\nContent-Length: 5', b'hello')]),
    'a body in pieces': Exchange(
        [head('POST / HTTP/1.1\nContent-Length: 5', b'hello')], size=1
    ),
    'a body behind its head': Exchange(
        [head('POST / HTTP/1.1\nContent-Length: 5'), b'hello']
    ),
    'half a body': Exchange([head('POST / HTTP/1.1\nContent-Length: 5', b'he')]),
    'more than a body': Exchange(
        [head('POST / HTTP/1.1\nContent-Length: 5', b'hello') + GET]
    ),
    'a body in chunks': Exchange([head(CHUNKED, b'5\r\nhello\r\n0\r\n\r\n')]),
    'a body in chunks in pieces': Exchange(
        [head(CHUNKED, b'5\r\nhello\r\n1\r\n!\r\n0\r\n\r\n') + GET], size=3
    ),
    'half a body in chunks': Exchange([head(CHUNKED, b'5\r\nhel')]),
    'a wrong length of a chunk': Exchange([head(CHUNKED, b'5\r\nhello world\r\n')]),
    'no length of a chunk': Exchange([head(CHUNKED, b'what\r\n')]),
    'a large body': Exchange(
        [head('POST / HTTP/1.1\nContent-Length: 1000000', b'y' * 1000000)]
    ),
    '100-continue': Exchange([head(EXPECT), b'hello'], awaited=b'100 Continue\r\n\r\n'),
    '100-continue, not waited for': Exchange([head(EXPECT, b'hello') + GET]),
    '100-continue behind a request': Exchange(
        [GET + head(EXPECT), b'hello'], awaited=b'100 Continue\r\n\r\n'
    ),
    'half a head': Exchange([b'GET / HTTP/1.1\r\nHost']),
    'nothing': Exchange([]),
    'garbage': Exchange([b'GARBAGE\r\n\r\n']),
    'bytes of no text': Exchange([bytes(range(128, 256)) + b'\r\n\r\n']),
    'a wrong length': Exchange([head('POST / HTTP/1.1\nContent-Length: five')]),
    'a negative length': Exchange([head('POST / HTTP/1.1\nContent-Length: -5')]),
    'two lengths': Exchange(
        [head('POST / HTTP/1.1\nContent-Length: 5\nContent-Length: 6', b'hello')]
    ),
    'an unknown encoding': Exchange(
        [head('POST / HTTP/1.1\nTransfer-Encoding: gzip, chunked')]
    ),
    'a bare line feed': Exchange([b'GET / HTTP/1.1\nHost: a\n\n']),
    'a space before a colon': Exchange([head('GET / HTTP/1.1\nHost : a')]),
    'a long header': Exchange([head('GET / HTTP/1.1\nX: ' + 'x' * 6000)]),
    'a strange target': Exchange([head('GET /%2e%2e//a%00b?x=%ff#y HTTP/1.1')]),
    'an absolute target': Exchange([head('GET http://b:1/c?d HTTP/1.1')]),
}


def exchange(address, name):
    """What the server sends until it closes the connection, and whether it resets it."""
    its = EXCHANGES[name]
    buffer = 16384 if its.pause else None
    came, end = bytearray(), 'closed'
    with Connection(address, receive_buffer=buffer) as client:
        client.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        try:
            for number, part in enumerate(its.parts):
                while its.awaited and came.count(its.awaited) < number:
                    more = client.socket.recv(65536)
                    assert more, bytes(came)
                    came += more
                for start in range(0, len(part), its.size):
                    client.socket.sendall(part[start : start + its.size])
            client.socket.shutdown(socket.SHUT_WR)  # the server closes when it is done
            while more := client.socket.recv(65536):
                came += more
                if its.pause:
                    threading.Event().wait(its.pause)
        except OSError as error:
            end = type(error).__name__
    text = re.sub(rb'\r\nDate: [^\r]*', b'\r\nDate: then', bytes(came))
    # A body has digits, too: only the head and short texts name the port.
    if len(text) < BIG:
        text = text.replace(b'%d' % address[1], b'PORT')
    return end, text


def exchanges(address, names=tuple(EXCHANGES)):
    """{name: what the server sends}, of several clients at once."""
    with ThreadPoolExecutor(8) as clients:
        came = clients.map(lambda name: exchange(address, name), names)
        return dict(zip(names, came, strict=True))
