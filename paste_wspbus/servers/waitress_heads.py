"""How usual heads are parsed and written in fewer steps; waitress does it for all others."""

from __future__ import annotations

import re
from operator import itemgetter

from waitress.parser import HTTPRequestParser, unquote_bytes_to_wsgi
from waitress.task import WSGITask
from waitress.utilities import build_http_date

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

#: A method, a path from the root, a query, the version. Heads with anything else in their
#: first line are for waitress: a fragment, a host, a character that is no ASCII or not
#: visible, a quotation mark, a backslash, more than 2,000 characters. So an access log can
#: have such a line as it is.
_first_line = re.compile(
    r"""([A-Z]+) ((/(?!/)[!$->@-\[\]-~]{0,999})(?:\?([!$-\[\]-~]{0,999}))?) HTTP/(1\.[01])"""
).fullmatch

#: The characters of heads, without ends of lines.
_VISIBLE = bytes(range(0x20, 0x7F))

#: The names of headers for which waitress does more than to store them.
_SPECIAL = {'TRANSFER-ENCODING', 'CONTENT-LENGTH', 'EXPECT'}

#: A name with an underscore is unusual: its key would be that of a name with a hyphen,
#: and waitress drops it.
_is_name = re.compile(r"[!#$%&'*+\-.^`|~0-9A-Za-z]{1,64}").fullmatch

#: The number of header names that are kept. Clients choose the names: any others are
#: checked each time.
_MOST_NAMES = 1000

#: The most bytes of a part of a head that is kept, and the most parts.
_LONGEST_KEPT, _MOST_KEPT = 1000, 200


class Head(dict):  # type: ignore[type-arg]
    """Headers that may come again; an access log notes here what it shows of them."""

    has_id, shown_by = True, None


#: The results for first lines, and for the headers after them.
_lines: dict[bytes, tuple[str, ...]] = {}
_heads: dict[bytes, Head] = {}

#: The keys of the headers that have come.
_keys: dict[str, str] = {}

#: The names of the headers that applications have sent, as waitress sends them.
_names: dict[str, str] = {}

#: The last second for which a date was written, and that date.
_last_date: tuple[int, str] = 0, build_http_date(0)

_by_name = itemgetter(0)


class FastParser(HTTPRequestParser):  # type: ignore[misc]
    """Has the same attributes after `parse_header` as waitress's own parser.

    A usual head has two more: ``line``, the first line, and ``head``, which nobody changes.
    """

    def parse_header(self, header_plus: bytes) -> None:
        """Parse the head of a request, with its empty line."""
        first, _, rest = header_plus.partition(b'\r\n')
        line = headers = None
        if self.headers_finished:
            # waitress adds it to one that expected "100 Continue".
            self.__dict__.pop('line', None)
        elif line := _lines.get(first) or _line_of(first):
            self.line = line[0]
            headers = _heads.get(rest) or _headers_of(rest)
        if line is None or headers is None:
            super().parse_header(header_plus)
            return
        self.head = headers
        _, self.command, self.request_uri, self.path, self.query, version = line
        self.first_line, self.headers, self.version = first, headers.copy(), version
        self.proxy_scheme = self.proxy_netloc = self.fragment = ''
        self.url_scheme = self.adj.url_scheme
        connection = headers.get('CONNECTION', '').lower()
        if connection == 'close' or (version == '1.0' and connection != 'keep-alive'):
            self.connection_close = True


def _line_of(first: bytes) -> tuple[str, ...] | None:
    """Return the line, method, URI, path, query and version; None if it is not a usual one."""
    match = _first_line(first.decode('latin-1'))
    if match is None:
        return None
    command, uri, path, query, version = match.groups('')
    if '%' in path:
        path = unquote_bytes_to_wsgi(path.encode())
    line = match[0], command, uri, path, query, version
    _keep(_lines, first, line)
    return line


def _headers_of(rest: bytes) -> Head | None:
    """Return the values by key; None if one of the headers is not a usual one.

    :param rest: a head without its first line.
    """
    lines = rest.decode('latin-1').split('\r\n')
    if rest.translate(None, _VISIBLE) != b'\r\n' * (len(lines) - 1):
        return None
    headers = Head()
    for line in lines:
        if not line:
            continue  # the end
        name, colon, value = line.partition(':')
        key = _keys.get(name) or _key_of(name)
        if key is None or not colon or key in headers:
            return None
        headers[key] = value.strip(' ')
    _keep(_heads, rest, headers)
    return headers


def _keep(made: dict[bytes, Any], data: bytes, value: Any) -> None:
    """Keep the result for a part of a head, because many parts come again."""
    if len(data) <= _LONGEST_KEPT:
        if len(made) >= _MOST_KEPT:
            made.clear()
        made[data] = value


def _key_of(name: str) -> str | None:
    if not _is_name(name) or name.upper() in _SPECIAL:
        return None
    key = name.upper().replace('-', '_')
    if len(_keys) < _MOST_NAMES:
        _keys[name] = key
    return key


class FastHead(WSGITask):  # type: ignore[misc]
    """Writes the head of a response as waitress does."""

    def build_response_header(self) -> bytes:
        """Return the head, with its empty line, and note its headers."""
        headers = self._headers()
        if headers is None:
            return super().build_response_header()  # type: ignore[no-any-return]
        self.response_headers = headers
        lines = ['%s: %s' % pair for pair in sorted(headers, key=_by_name)]
        return '\r\n'.join([f'HTTP/1.1 {self.status}', *lines, '\r\n']).encode(
            'latin-1'
        )

    def _headers(self) -> list[tuple[str, str]] | None:
        """Return the headers to send; None if there is something to decide."""
        keeps = self.request.headers.get('CONNECTION', '').lower() != 'close'
        if self.version != '1.1' or not keeps or not self.has_body:
            return None
        headers, has_length = [], False
        for name, value in self.response_headers:
            known = _names.get(name) or _name_of(name)
            if known == 'Date' or known == 'Server':
                return None
            has_length = has_length or known == 'Content-Length'
            headers.append((known, value))
        if not has_length:
            if self.content_length is None:
                return None  # it is sent in chunks
            headers.append(('Content-Length', str(self.content_length)))
        ident = self.channel.server.adj.ident
        if ident:
            headers.append(('Server', ident))
        headers.append(('Date', _date(int(self.start_time))))
        return headers


def _name_of(name: str) -> str:
    known = '-'.join([part.capitalize() for part in name.split('-')])
    if len(_names) < _MOST_NAMES and len(name) <= 64:
        _names[name] = known
    return known


def _date(second: int) -> str:
    global _last_date
    if _last_date[0] != second:
        _last_date = second, build_http_date(second)
    return _last_date[1]
