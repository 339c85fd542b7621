"""The lines of an access log: a format becomes a function that makes the line of a request."""

from __future__ import annotations

import re
import time
from json.encoder import encode_basestring_ascii
from math import trunc
from urllib.parse import quote

from paste_wspbus.errors import SettingError
from paste_wspbus.reference import REQUEST_ID_KEY
from paste_wspbus.values import nearest

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from typing import Any

    from paste_wspbus.ready.accesslog.filter import Exchange

#: The characters of a text that a line has at most; three points follow one that was longer.
LONGEST = 2000

#: The formats that have names. The first one is Apache's, with fields of ours at its end.
NAMED = {
    'combined': '{client} - {user} [{time}] "{method} {uri} {protocol}" {status} {bytes} '
    '"{referer}" "{agent}" {waited_us} {spent_us} {worker} {request_id} {end}',
    'common': '{client} - {user} [{time}] "{method} {uri} {protocol}" {status} {bytes}',
}

#: The fields of ``format = json``.
JSON = (
    *(
        'time',
        'client',
        'user',
        'method',
        'uri',
        'protocol',
        'status',
        'bytes',
        'referer',
    ),
    *('agent', 'waited_us', 'spent_us', 'worker', 'generation', 'request_id', 'end'),
)

#: Texts that come from a request, or from the application: each one is checked.
_TEXTS = {
    'client': "get('REMOTE_ADDR')",
    'user': "get('REMOTE_USER')",
    'method': "get('REQUEST_METHOD')",
    'uri': "get('REQUEST_URI') or uri_of(get)",
    'query': "get('QUERY_STRING')",
    'protocol': "get('SERVER_PROTOCOL')",
    'scheme': "get('wsgi.url_scheme')",
    'host': "get('HTTP_HOST')",
    'referer': "get('HTTP_REFERER')",
    'agent': "get('HTTP_USER_AGENT')",
}

#: The numbers that each request has; None if one is not known.
_NUMBERS = {
    'bytes': 'x.sent',
    'waited_us': 'None if x.received is None else trunc((x.since - x.received) * 1e6)',
    'spent_us': 'trunc((now - x.since) * 1e6)',
}

#: ``waited_us`` behind a proxy that says when a request came.
_WAITED_SINCE_PROXY = 'waited_by(x, now)'

#: The texts that this package makes: they are not checked.
_OWN = {'request_id': f'get({REQUEST_ID_KEY!r})'}

#: What many requests have in common: it is put together with the texts around it, and kept.
_COMMON = {
    'time': '{0}.text if now < {0}.until else {0}.renew(now)',
    'status': '{0}[x.status]',
    'end': '{0}[end]',
}

#: What all requests of a process have in common; it is not known before the start.
CONSTANTS = ('worker', 'generation', 'pid')

#: The fields that JSON has without quotes.
_UNQUOTED = {*_NUMBERS, 'status', *CONSTANTS}

#: The prefixes of fields that are headers: of the request, and of the response.
HEADER, RESPONSE = 'header.', 'response.'

#: The texts of small numbers, which are the most frequent ones.
_SMALL = [str(number) for number in range(1000)]

_MONTHS = 'Jan Feb Mar Apr May Jun Jul Aug Sep Oct Nov Dec'.split()  # noqa: SIM905

#: The characters of a path that need no quoting (RFC 3986, pchar and the slash).
_SAFE = "/~!$&'()*+,;=:@"

#: Bytes of which one in a text could change the line: all but printable ASCII. They become 0.
_CHANGING = bytes(
    byte if 0x20 <= byte < 0x7F and byte not in b'"\\' else 0 for byte in range(256)
)

#: So many texts of statuses are kept at most: an application can make further ones.
_MOST = 100

#: Seconds of waiting that a header may claim at most.
LONGEST_WAIT = 86400.0


class Format:
    """A format of lines.

    A line consists of pieces: the values of the fields, and the texts between them. Each
    request gives the pieces of its line. The pieces of many requests are joined at once. Nobody can forge a line: texts are escaped, unless all of them have only
    characters that cannot change a line.

    :param parts: the texts and the names of fields in turn.
    :param query: whether lines have the queries of URLs.
    :param has_proxy: whether a header may say since when a request has waited.
    :raises SettingError: if there is no such field.
    """

    def __init__(
        self, parts: list[str], query: bool, has_proxy: bool, is_json: bool
    ) -> None:
        self.fields, self.is_json = frozenset(parts[1::2]), is_json
        self._parts = [*parts[:-1], f'{parts[-1]}\n']
        self._is_query_shown, self._has_proxy = query, has_proxy
        self._unknown = 'null' if is_json else '-'
        self._values: dict[str, Any] = {
            'none': '' if is_json else '-',
            'unknown': self._unknown,
            'small': _SMALL,
            'trunc': trunc,
            'uri_of': _uri_of,
            'header_of': header_of,
            'waited_by': _waited_by,
        }
        sources, bare = self._sources({}), _bare(parts)
        names = [name for _, name, _ in self._pieces({})]
        #: The number of pieces of a line.
        self.width = len(names)
        self._texts = [
            (number, name in bare)
            for number, name in enumerate(names)
            if name in sources and name not in (*_NUMBERS, *_OWN)
        ]

    def compiled(
        self,
        add: Callable[[tuple[str, ...]], object],
        constants: Mapping[str, int | None],
        server: Mapping[str, str],
    ) -> Callable[[Any, float, str], None]:
        """Return the function that gives ``add`` the pieces of the line of a request.

        It takes an `Exchange`, a time.monotonic() and how the request ended. Each request
        calls it, so it is compiled for this format alone.

        :param constants: the values of `CONSTANTS`.
        :param server: Python that computes fields in another way than from an `Exchange`.
        """
        known, made = {**self._values, 'add': add}, []
        sources = self._sources(server)
        for number, (before, name, after) in enumerate(self._pieces(constants)):
            if name in _COMMON:
                kept = f'kept{number}'
                known[kept] = self._kept(name, before, after)
                made.append(_COMMON[name].format(kept))
            else:
                made.append(sources[name] if name else repr(before))
        row = ''.join(f'        {one},\n' for one in made)
        get = '    get = x.environ.get\n' if 'get(' in row else ''
        exec(f'def line(x, now, end):\n{get}    add((\n{row}    ))', known)
        return known['line']  # type: ignore[no-any-return]

    def _sources(self, server: Mapping[str, str]) -> dict[str, str]:
        """Return the Python that computes each field that has a piece of its own.

        :raises SettingError: if there is no such field.
        """
        values = {**_TEXTS, **_OWN, **server}
        values['path'] = f"str({values['uri']}).partition('?')[0]"
        if not self._is_query_shown:
            values |= {'uri': values['path'], 'query': 'None'}
            values['referer'] = f"str({values['referer']} or '').partition('?')[0]"
        sources = {name: f'{value} or none' for name, value in values.items()}
        for name, number in _NUMBERS.items():
            if name == 'waited_us' and self._has_proxy:
                sources[name] = _number(_WAITED_SINCE_PROXY)
            elif name in server:
                sources[name] = _number_that_is_known(server[name])
            else:
                sources[name] = _number(number)
        for name in self.fields:
            if name not in sources and name not in (*_COMMON, *CONSTANTS):
                sources[name] = _source_of_header(name, sources)
        return sources

    def _kept(self, name: str, before: str, after: str) -> Any:
        if name == 'time':
            return _Clock(before, after, self.is_json)
        if name == 'end':
            return _Between(before, after, str)
        return _Between(before, after, lambda status: _code_of(status) or self._unknown)

    def _pieces(
        self, constants: Mapping[str, int | None]
    ) -> list[tuple[str, str, str]]:
        """Return each piece as (text, name of a field, text); a name may be ''."""
        pieces, before = [], self._parts[0]
        for name, after in zip(self._parts[1::2], self._parts[2::2], strict=True):
            if name in CONSTANTS:
                value = constants.get(name)
                before += f'{self._unknown if value is None else value}{after}'
            elif name in _COMMON:
                pieces.append((before, name, after))
                before = ''
            else:
                if before:
                    pieces.append((before, '', ''))
                pieces.append(('', name, ''))
                before = after
        return [*pieces, (before, '', '')] if before else pieces

    def text(self, pieces: list[str]) -> str:
        """Return lines, with their line feeds.

        :param pieces: those of whole lines.
        """
        width = self.width
        try:
            if all(_is_plain(pieces[n::width], bare) for n, bare in self._texts):
                return ''.join(pieces)
        except TypeError:
            pass  # the application has put something into environ that is no text
        starts = range(0, len(pieces), width)
        return ''.join([self._line(pieces[one : one + width]) for one in starts])

    def _line(self, pieces: list[Any]) -> str:
        """Return a line with texts that are escaped as far as they need it."""
        escaped = _escaped_json if self.is_json else _escaped
        made = [one if isinstance(one, str) else ascii(one) for one in pieces]
        for number, is_bare in self._texts:
            if not _is_plain(made[number : number + 1], is_bare):
                made[number] = escaped(made[number], is_bare)
        return ''.join(made)


class _Clock:
    """The present second, or in JSON millisecond, with the texts around it.

    ``text`` is valid until the time.monotonic() ``until``.
    """

    def __init__(self, before: str, after: str, is_json: bool) -> None:
        self._before, self._after, self._is_json = before, after, is_json
        self.text, self.until, self._second, self._shown = '', 0.0, -1, ''

    def renew(self, now: float) -> str:
        """Return the present time, and keep it.

        :param now: the time.monotonic().
        """
        milliseconds = time.time_ns() // 1_000_000
        second, rest = divmod(milliseconds, 1000)
        if second != self._second:
            self._shown = (utc_time if self._is_json else local_time)(second)
            self._second = second
        ms = f'.{rest:03}Z' if self._is_json else ''
        text = self.text = f'{self._before}{self._shown}{ms}{self._after}'
        self.until = now + (0.001 if self._is_json else 1 - rest / 1000)
        return text


class _Between(dict):  # type: ignore[type-arg]
    """From statuses, or other words, to what lines show of them, with the texts around it."""

    def __init__(self, before: str, after: str, find: Callable[[str], str]) -> None:
        self._before, self._after, self._find = before, after, find

    def __missing__(self, word: str) -> str:
        text = f'{self._before}{self._find(word)}{self._after}'
        if len(self) < _MOST:
            self[word] = text
        return text


def read_format(text: str, query: bool = True, has_proxy: bool = False) -> Format:
    """Read a format: a name of `NAMED`, ``json``, ``json`` and names of fields, or a text.

    A text has fields in braces, as ``{status} {header.Accept}``.

    :param query: whether lines have the queries of URLs.
    :param has_proxy: whether a header may say since when a request has waited.
    :raises SettingError: if it has no field, or one that does not exist.
    """
    words = text.split()
    is_json = words[:1] == ['json']
    if is_json:
        parts = _json_parts([word.strip(',') for word in words[1:]] or [*JSON])
    else:
        if len(words) == 1 and '{' not in text:
            text = NAMED.get(words[0], text)
        parts = re.split(r'\{([^{}]*)\}', ' '.join(text.splitlines()).strip())
        if len(parts) == 1:
            problem = f'{text!r} is not combined, common or json, and has no {{field}}'
            hint = nearest(text.strip(), [*NAMED, 'json'])
            raise SettingError(None, f'{problem}{hint}')
        if any(brace in part for part in parts[::2] for brace in '{}'):
            raise SettingError(None, f'{text!r} has a brace without its other one')
    return Format(parts, query, has_proxy, is_json)


def _json_parts(names: list[str]) -> list[str]:
    """Return texts and names of fields in turn, as `re.split` does."""
    parts = ['{']
    for number, name in enumerate(names):
        quote = '' if name in _UNQUOTED else '"'
        parts[-1] += f'{", " * bool(number)}{encode_basestring_ascii(name)}: {quote}'
        parts += [name, quote]
    parts[-1] += '}'
    return parts


def _number(source: str) -> str:
    """Return Python that makes a text of a number, or of None."""
    known = _number_that_is_known('n')
    return f'unknown if (n := {source}) is None else {known}'


def _number_that_is_known(source: str) -> str:
    return f'small[n] if (n := {source}) < 1000 else str(n)'


def _source_of_header(name: str, sources: Iterable[str]) -> str:
    """Return the Python that computes a field which is a header.

    :raises SettingError: if there is no such field.
    """
    for prefix in (HEADER, RESPONSE):
        header = name.removeprefix(prefix)
        if header != name and re.fullmatch(r"[\w!#$&'*+.^`|~-]+", header, re.ASCII):
            if prefix == RESPONSE:
                return f'header_of(x.headers, {header.lower()!r}) or none'
            key = header.upper().replace('-', '_')
            is_cgi = key in ('CONTENT_TYPE', 'CONTENT_LENGTH')
            return f'get({key if is_cgi else f"HTTP_{key}"!r}) or none'
    known = [*sources, *_COMMON, *CONSTANTS, f'{HEADER}NAME', f'{RESPONSE}NAME']
    raise SettingError(None, f'there is no field {name!r}{nearest(name, known)}')


def _is_plain(texts: list[str], is_bare: bool) -> bool:
    """Whether texts have only characters that cannot change a line, and none is too long.

    :raises TypeError: if one of them is no text.
    """
    text = ''.join(texts)
    if len(text) > LONGEST and max(map(len, texts)) > LONGEST:
        return False
    if not text.isascii() or (is_bare and ' ' in text):
        return False
    data = text.encode()
    return data.translate(_CHANGING) == data


def _bare(parts: list[str]) -> set[str]:
    """Return the fields outside of quotes: whoever reads the line splits it at spaces."""
    bare, before = set(), ''
    for number, part in enumerate(parts):
        if number % 2 == 0:
            before += part
        elif before.count('"') % 2 == 0:
            bare.add(part)
    return bare


# -- what the functions call --------------------------------------------------------------


def _uri_of(get: Any) -> str:
    """Return the path as a URL has it, and the query: ``environ`` has the path decoded."""
    path = quote(_bytes(f'{get("SCRIPT_NAME", "")}{get("PATH_INFO", "")}'), safe=_SAFE)
    query = get('QUERY_STRING')
    return f'{path}?{query}' if query else path


def _code_of(status: str) -> str | None:
    """Return the code of a status line; None if the application has given another text."""
    code = status[:3]
    return code if len(code) == 3 and code.isascii() and code.isdecimal() else None


def _waited_by(exchange: Exchange, now: float) -> int | None:
    """Return the microseconds since a proxy had the request; else, since the server had it."""
    get, waited = exchange.environ.get, None
    if exchange.received is not None:
        waited = exchange.since - exchange.received
    header = get('HTTP_X_REQUEST_START')
    if header is not None and get('REMOTE_ADDR') in exchange.log.proxies:
        began = time.time() - (now - exchange.since)
        by_proxy = waited_since(header, began)
        waited = waited if by_proxy is None else by_proxy
    return None if waited is None else trunc(waited * 1e6)


def waited_since(text: str, now: float) -> float | None:
    """Return how long a request has waited, by the header X-Request-Start of a proxy.

    :param text: seconds, milliseconds or microseconds since the epoch, perhaps after ``t=``.
    :param now: a time.time().
    :returns: seconds; None if the text is no such time.
    """
    try:
        began = float(text.strip().removeprefix('t='))
    except ValueError:
        return None
    if began > 1e14:
        began /= 1e6
    elif began > 1e11:  # as seconds, this is in the year 5138
        began /= 1e3
    waited = now - began
    return max(waited, 0.0) if -1 < waited < LONGEST_WAIT else None


def header_of(headers: Iterable[Any], name: str) -> str | None:
    """Return a header of a response; None if there is none.

    :param name: in lower case.
    """
    return next((str(value) for key, value in headers if key.lower() == name), None)


def _bytes(text: object) -> bytes:
    """Return the bytes of a text of ``environ`` (PEP 3333); an application may put others there."""
    try:
        return str(text).encode('latin-1')
    except UnicodeEncodeError:
        return str(text).encode('utf-8', 'backslashreplace')


def _escaped(text: object, is_bare: bool) -> str:
    r"""Return a text with ``\xNN`` for each byte that could change the line, as nginx does."""
    data = _bytes(text)
    more = '...' if len(data) > LONGEST else ''
    table = _BARE if is_bare else _QUOTED
    return ''.join(map(table.__getitem__, data[:LONGEST])) + more


_QUOTED = [
    chr(byte) if 0x20 <= byte < 0x7F and byte not in b'"\\' else f'\\x{byte:02X}'
    for byte in range(256)
]
_BARE = [one if one != ' ' else '\\x20' for one in _QUOTED]


def _escaped_json(text: object, is_bare: bool) -> str:
    r"""Return a text as JSON has it between quotes; bytes that are not UTF-8 are ``\xNN``."""
    shown = _bytes(text).decode('utf-8', 'backslashreplace')
    more = '...' if len(shown) > LONGEST else ''
    escaped = encode_basestring_ascii(f'{shown[:LONGEST]}{more}')[1:-1]
    return escaped.replace('\x7f', '\\u007f')


def local_time(second: int) -> str:
    """Return a time.time() as Apache's logs have it: ``29/Nov/2026:22:20:57 +0100``."""
    t = time.localtime(second)
    sign, minutes = '-' if t.tm_gmtoff < 0 else '+', abs(t.tm_gmtoff) // 60
    day = f'{t.tm_mday:02}/{_MONTHS[t.tm_mon - 1]}/{t.tm_year}'
    zone = f'{sign}{minutes // 60:02}{minutes % 60:02}'
    return f'{day}:{t.tm_hour:02}:{t.tm_min:02}:{t.tm_sec:02} {zone}'


def utc_time(second: int) -> str:
    """Return a time.time() as ``2026-11-29T21:20:57``, in UTC."""
    return time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(second))
