"""Heads of requests, and random changes of them."""

#: Heads, and what comes after them.
HEADS = [
    b'GET / HTTP/1.1\r\nHost: a\r\n\r\n',
    b'GET /a/b?x=1&y=%20 HTTP/1.0\r\nHost: a:80\r\nConnection: keep-alive\r\n'
    b'User-Agent: Mozilla/5.0 (X11; Linux)\r\n\r\n',
    b'POST /x%2Fy%zz HTTP/1.1\r\nContent-Length: 3\r\nX-A: \t b \r\nX_B: c\r\n\r\nabc',
    b'GET //a?b#c HTTP/1.1\r\nExpect: 100-continue\r\nTransfer-Encoding: chunked\r\n\r\n'
    b'0\r\n\r\n',
    b'OPTIONS * HTTP/1.1\r\nConnection: close\r\n\r\n',
    b'GET http://h:1/p?q#f HTTP/1.1\r\nA: b\r\n c\r\nA: d\r\n\r\n',
    b'\r\nGET /\xc3\xa4;a=b?[x]@:y HTTP/1.1\r\nA:b\r\nConnection: Close \r\n\r\n',
    b'GET /x?a?b HTTP/1.1\r\nConnection: Upgrade\r\n\r\n',
    b'get / HTTP/1.1\r\n\r\n',
    b'GET /\r\n\r\n',
]

#: What is put into them.
PIECES = [
    *(
        bytes([byte])
        for byte in b' \t\r\n:_-%?#/[]@*"\\a\0\x0b\x1c\x7f\x80\x85\xa0\xff'
    ),
    *(b'//', b'\r\n', b'HTTP/1.0', b'HTTP/1.1', b'HTTP/2.0', b'A: b\r\n', b'X-Y:\r\n'),
    *(b'Connection: close\r\n', b'Content-Length: 1\r\n', b'content-length: x\r\n'),
    *(b'Expect: 100-continue\r\n', b'Transfer-Encoding: x\r\n', b'no colon\r\n'),
]


def mutated(head, rng):
    """Return a head with up to five changes."""
    head = bytearray(head)
    for _ in range(rng.choice([0, 1, 1, 2, 3, 5])):
        place = rng.randrange(len(head) + 1)
        match rng.randrange(4):
            case 0 | 1:
                head[place:place] = rng.choice(PIECES)
            case 2:
                del head[place : place + rng.randrange(1, 4)]
            case 3:
                head[place : place + 1] = bytes([rng.randrange(256)])
    return bytes(head)
