"""How a usual request head is parsed in fewer steps; waitress parses all other heads."""

from __future__ import annotations

import re

from waitress.parser import HTTPRequestParser, unquote_bytes_to_wsgi

#: A method, a path from the root, a query, the version. Heads with anything else in their
#: first line are for waitress: a fragment, a host, a character that is no ASCII or not
#: visible.
_first_line = re.compile(
    rb"""([A-Z]+) ((/(?!/)[!-"$->@-~]*)(?:\?([!-"$-~]*))?) HTTP/(1\.[01])"""
).fullmatch

#: The names of headers for which waitress does more than to store them.
_SPECIAL = {b'TRANSFER-ENCODING', b'CONTENT-LENGTH', b'EXPECT'}

#: An underscore would be the same key as a hyphen: waitress drops such headers.
_is_name = re.compile(rb"[!#$%&'*+\-.^`|~0-9A-Za-z]{1,64}").fullmatch

#: Clients choose the names: further ones are looked at each time.
_MOST_NAMES = 1000

#: The keys of the headers that have come.
_keys: dict[bytes, str] = {}


class FastParser(HTTPRequestParser):  # type: ignore[misc]
    """Has the same attributes after `parse_header` as waitress's own parser."""

    def parse_header(self, header_plus: bytes) -> None:
        """Parse the head of a request, with its empty line."""
        first, *lines = header_plus.split(b'\r\n')
        match = _first_line(first)
        headers = match and _headers_of(lines)
        if match is None or headers is None:
            super().parse_header(header_plus)
            return
        command, uri, path, query, version = match.groups(b'')
        self.first_line, self.headers = first, headers
        self.command, self.version = command.decode(), version.decode()
        self.request_uri, self.query = uri.decode(), query.decode()
        self.path = unquote_bytes_to_wsgi(path) if b'%' in path else path.decode()
        self.proxy_scheme = self.proxy_netloc = self.fragment = ''
        self.url_scheme = self.adj.url_scheme
        connection = headers.get('CONNECTION', '').lower()
        if connection == 'close' or (version == b'1.0' and connection != 'keep-alive'):
            self.connection_close = True


def _headers_of(lines: list[bytes]) -> dict[str, str] | None:
    """Return the values by key; None if one of the headers is not a usual one."""
    headers: dict[str, str] = {}
    for line in lines:
        if not line:
            continue  # the end
        name, colon, value = line.partition(b':')
        key = _keys.get(name) or _key_of(name)
        if key is None or not colon or key in headers:
            return None
        text = value.decode('latin-1')
        if not (value.isascii() and text.isprintable()):
            return None
        headers[key] = text.strip(' ')
    return headers


def _key_of(name: bytes) -> str | None:
    if not _is_name(name) or name.upper() in _SPECIAL:
        return None
    key = name.upper().replace(b'-', b'_').decode()
    if len(_keys) < _MOST_NAMES:
        _keys[name] = key
    return key
