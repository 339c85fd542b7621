"""How usual heads are parsed and written, compared with waitress's own way."""

import random
from types import SimpleNamespace

import pytest
from waitress.adjustments import Adjustments
from waitress.parser import HTTPRequestParser
from waitress.task import WSGITask
from waitress.utilities import build_http_date

from paste_wspbus.servers import waitress_heads
from paste_wspbus.servers.waitress_heads import FastHead, FastParser
from tests.kit.heads import HEADS, mutated

SETTINGS = Adjustments(listen='127.0.0.1:0')

ATTRIBUTES = [
    'completed',
    'empty',
    'expect_continue',
    'headers_finished',
    'header_plus',
    'chunked',
    'content_length',
    'header_bytes_received',
    'body_bytes_received',
    'version',
    'connection_close',
    'headers',
    'first_line',
    'command',
    'path',
    'query',
    'fragment',
    'request_uri',
    'proxy_scheme',
    'proxy_netloc',
    'url_scheme',
]


def parsed(kind, data):
    """Return what a parser makes of all that a client sends."""
    parser, taken = kind(SETTINGS), []
    while data and not parser.completed:
        taken.append(parser.received(data))
        data = data[taken[-1] :]
    error = parser.error and (type(parser.error), parser.error.body)
    made = {name: getattr(parser, name, None) for name in ATTRIBUTES}
    return taken, made, error, type(parser.body_rcv)


def test_mutated_heads_are_parsed_as_by_waitress():
    rng, by_waitress = random.Random(1), []
    parse = HTTPRequestParser.parse_header

    def counting(parser, head):
        by_waitress.append(head)
        parse(parser, head)

    for _ in range(5000):
        head = mutated(rng.choice(HEADS), rng)
        expected = parsed(HTTPRequestParser, head)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(HTTPRequestParser, 'parse_header', counting)
            for _ in range(2):  # the second time, parts of it are known
                assert (head, *parsed(FastParser, head)) == (head, *expected)
    assert 2000 < len(by_waitress) < 9000  # both ways were taken


def test_a_head_after_one_that_expects_100_continue_is_added_as_by_waitress():
    """waitress sends "100 Continue" and reads on, also if there is no body to come."""
    made = []
    for kind in (HTTPRequestParser, FastParser):
        parser = kind(SETTINGS)
        parser.received(b'GET /a HTTP/1.1\r\nExpect: 100-continue\r\nA: b\r\n\r\n')
        # What HTTPChannel.send_continue does:
        parser.expect_continue = parser.completed = False
        parser.received(b'GET /c HTTP/1.1\r\nD: e\r\n\r\n')
        made.append({name: getattr(parser, name, None) for name in ATTRIBUTES})
    assert made[0] == made[1]
    assert made[1]['headers'] == {'EXPECT': '100-continue', 'A': 'b', 'D': 'e'}
    assert not hasattr(parser, 'line')  # it would be that of the first head


def test_the_names_of_headers_do_not_take_memory_without_end():
    for number in range(2000):
        head = b'GET / HTTP/1.1\r\nX-%d: a\r\n\r\n' % number
        assert parsed(FastParser, head)[1]['headers'] == {f'X_{number}': 'a'}
    assert len(waitress_heads._keys) <= 1000


def test_what_is_kept_of_heads_is_bounded_and_no_request_changes_it():
    for number in range(500):
        head = b'GET /%d HTTP/1.1\r\nA: %d\r\nB: %s\r\n\r\n'
        head %= number, number, b'b' * (number * 10)
        for _ in range(2):
            parser = FastParser(SETTINGS)
            parser.received(head)
            assert (parser.path, parser.headers['A']) == (f'/{number}', str(number))
            parser.headers['A'] = 'changed'
    for kept in (waitress_heads._lines, waitress_heads._heads):
        assert 0 < len(kept) <= 200
        assert max(map(len, kept)) <= 1000


def written(kind, settings, request, status, headers, length):
    """Return the head that a task writes, and what it notes."""
    channel = SimpleNamespace(adj=settings, server=SimpleNamespace(adj=settings))
    task = kind(channel, request)
    task.start_time, task.status, task.content_length = 1e9 + 0.7, status, length
    task.response_headers = list(headers)
    head = task.build_response_header()
    return head, task.response_headers, task.close_on_finish, task.chunked_response


RESPONSE_HEADERS = [
    *(
        ('Content-Type', 'text/plain'),
        ('content-type', 'a; b'),
        ('X-A', ''),
        ('x--b', 'c'),
    ),
    *(('SET-COOKIE', 'b=1'), ('Set-Cookie', 'a=\xe9'), ('Via', 'v'), ('ETag', '"e"')),
    *(('Content-Length', '3'), ('content-length', '3'), ('CONTENT-LENGTH', '4')),
    *(('Date', 'now'), ('server', 's'), ('\xdf-\xe9', 'x'), ('', 'y'), ['L', 'list']),
]


def test_heads_of_responses_are_written_as_by_waitress():
    rng = random.Random(2)
    others = Adjustments(listen='127.0.0.1:0', ident=None)
    for _ in range(5000):
        connection = rng.choice(
            ['', '', 'Connection: close\r\n', 'Connection: keep-alive\r\n']
        )
        version = rng.choice(['1.1', '1.1', '1.0'])
        request = HTTPRequestParser(SETTINGS)
        request.received(f'GET / HTTP/{version}\r\n{connection}\r\n'.encode())
        args = (
            rng.choice([SETTINGS, others]),
            request,
            rng.choice(['200 OK', '404 Not Found', '204 No Content', '304 x', '101 y']),
            rng.sample(RESPONSE_HEADERS, rng.randrange(6)),
            rng.choice([None, 0, 3]),
        )
        assert (args, written(FastHead, *args)) == (args, written(WSGITask, *args))


def test_the_date_is_that_of_the_second():
    for second in (5, 5, 6, 5):
        assert waitress_heads._date(second) == build_http_date(second)
