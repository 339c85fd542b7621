"""The head of an HTTP request, as far as the ops listener reads it."""

from __future__ import annotations

import re
from typing import NamedTuple

#: The number of bytes that the head of a request has at most.
MAX_HEAD = 8192

#: RFC 9112, section 3: a method, a path that begins with a slash, and the version.
_FIRST = re.compile(rb"([A-Z!#$%&'*+.^_`|~0-9a-z-]{1,32}) (/[!-~]*) HTTP/1\.([01])")

_NAME = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+")


class BadRequest(ValueError):
    """What came is not a request; ``status`` is the answer: 400, 431 or 505."""

    def __init__(self, status: int, why: str) -> None:
        super().__init__(why)
        self.status = status


class Request(NamedTuple):
    """One request.

    ``path`` is as it came, without the query; nothing decodes it, so only the written
    form of a page's name is that page. ``host`` is None only for HTTP/1.0 without one.
    ``has_body`` says whether more comes behind the head, which nobody reads.
    """

    method: str
    path: str
    query: str = ''
    host: str | None = None
    authorization: str | None = None
    accept: str = ''
    has_body: bool = False
    is_local_socket: bool = False


def read_head(came: bytes, is_local_socket: bool) -> Request | None:
    """Read the head of a request.

    :param came: all bytes that have come.
    :returns: None if the head is not complete.
    :raises BadRequest: if it is not a request that this listener can answer.
    """
    head, end, rest = came.lstrip(b'\r\n').partition(b'\r\n\r\n')
    if len(head) > MAX_HEAD or (not end and len(came) > MAX_HEAD):
        raise BadRequest(431, f'the head has more than {MAX_HEAD} bytes')
    first, *lines = head.split(b'\r\n')
    if not end:
        if lines and not _FIRST.fullmatch(first):
            raise BadRequest(400, 'this is not a request of HTTP/1.1')
        return None
    matched = _FIRST.fullmatch(first)
    if matched is None:
        raise BadRequest(400, 'this is not a request of HTTP/1.1')
    fields = _fields(lines)
    hosts = fields.get('host', [])
    if len(hosts) > 1 or (not hosts and matched[3] == b'1'):
        raise BadRequest(400, 'a request has one Host header')
    path, _, query = matched[2].decode('ascii').partition('?')
    return Request(
        method=matched[1].decode('ascii'),
        path=path,
        query=query,
        host=hosts[0] if hosts else None,
        authorization=', '.join(fields.get('authorization', ())) or None,
        accept=', '.join(fields.get('accept', ())),
        has_body=bool(rest)
        or 'content-length' in fields
        or 'transfer-encoding' in fields,
        is_local_socket=is_local_socket,
    )


def _fields(lines: list[bytes]) -> dict[str, list[str]]:
    fields: dict[str, list[str]] = {}
    for line in lines:
        name, colon, value = line.partition(b':')
        if not colon or not _NAME.fullmatch(name) or b'\0' in value:
            raise BadRequest(400, 'a line of the head is no header')
        text = value.strip(b' \t').decode('latin-1')
        fields.setdefault(name.decode('ascii').lower(), []).append(text)
    return fields
