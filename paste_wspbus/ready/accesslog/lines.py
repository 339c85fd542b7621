"""The lines of an access log: a format becomes a function that makes the line of a request."""

from __future__ import annotations

import re
import time
from json.encoder import encode_basestring_ascii
from typing import NamedTuple
from urllib.parse import quote

from paste_wspbus.errors import SettingError
from paste_wspbus.reference import REQUEST_ID_KEY
from paste_wspbus.values import nearest

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
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
    'path': "(get('REQUEST_URI') or uri_of(get)).partition('?')[0]",
    'query': "get('QUERY_STRING')",
    'protocol': "get('SERVER_PROTOCOL')",
    'scheme': "get('wsgi.url_scheme')",
    'host': "get('HTTP_HOST')",
    'referer': "get('HTTP_REFERER')",
    'agent': "get('HTTP_USER_AGENT')",
}

#: The same with ``query = false``.
_WITHOUT_QUERY = {
    'query': 'None',
    'uri': _TEXTS['path'],
    'referer': "get('HTTP_REFERER', '').partition('?')[0]",
}

#: The fields that this package makes itself.
_OWN = {
    'time': 'log.second if now < log.until else log.renew(now)',
    'status': 'codes.get(x.status) or code_of(x.status) or unknown',
    'bytes': 'unknown if x.sent is None else x.sent',
    'waited_us': 'unknown if x.waited is None else int(x.waited * 1e6)',
    'spent_us': 'int((now - x.since) * 1e6)',
    'worker': 'log.worker or unknown',
    'generation': 'log.generation',
    'pid': 'log.pid',
    'request_id': f'get({REQUEST_ID_KEY!r}) or none',
    'end': 'end',
}

#: The same in JSON, which has milliseconds; behind a proxy that says when a request came.
_TIME_IN_JSON = f'({_OWN["time"]}) + milliseconds[int((now - log.begun) * 1000) % 1000]'
_WAITED_SINCE_PROXY = 'waited_by(x, now, unknown)'

#: Those of them that JSON has without quotes.
_NUMBERS = frozenset(_OWN) - {'time', 'request_id', 'end'}

#: The prefixes of fields that are headers: of the request, and of the response.
HEADER, RESPONSE = 'header.', 'response.'

_MILLISECONDS = [f'.{number:03}Z' for number in range(1000)]
_MONTHS = 'Jan Feb Mar Apr May Jun Jul Aug Sep Oct Nov Dec'.split()  # noqa: SIM905

#: The characters of a path that need no quoting (RFC 3986, pchar and the slash).
_SAFE = "/~!$&'()*+,;=:@"

#: Bytes of which one in a text could change the line: all but printable ASCII.
_CHANGING = bytes([*range(0x20), *b'"\\', *range(0x7F, 0x100)])

#: From status lines to their codes: so many are kept.
_codes: dict[str, str] = {}
_MOST_CODES = 100

#: Seconds of waiting that a header may claim at most.
LONGEST_WAIT = 86400.0


class Format(NamedTuple):
    """A format of lines; ``fields`` are the names of its fields.

    ``values(exchange, now, end)`` takes an `Exchange`, a time.monotonic() and how the
    request ended; it returns a tuple, the values of the fields. ``text(batch)`` returns the
    lines of a list of such tuples, with their line feeds.
    """

    values: Callable[[Any, float, str], tuple[Any, ...]]
    text: Callable[[list[tuple[Any, ...]]], str]
    fields: frozenset[str]
    is_json: bool


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
    sources = {
        name: _source(name, query, has_proxy, is_json)
        for name in dict.fromkeys(parts[1::2])
    }
    values, text_of = _compiled(parts, sources, is_json)
    return Format(values, text_of, frozenset(sources), is_json)


def _json_parts(names: list[str]) -> list[str]:
    """Return texts and names of fields in turn, as `re.split` does."""
    parts = ['{']
    for number, name in enumerate(names):
        quote = '' if name in _NUMBERS else '"'
        parts[-1] += f'{", " * bool(number)}{encode_basestring_ascii(name)}: {quote}'
        parts += [name, quote]
    parts[-1] += '}'
    return parts


def _source(name: str, query: bool, has_proxy: bool, is_json: bool) -> str:
    """Return the Python that computes a field.

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
    if name == 'time' and is_json:
        return _TIME_IN_JSON
    if name == 'waited_us' and has_proxy:
        return _WAITED_SINCE_PROXY
    if name in _OWN:
        return _OWN[name]
    if name in _TEXTS:
        source = _TEXTS[name] if query else _WITHOUT_QUERY.get(name, _TEXTS[name])
        return f'{source} or none'
    known = [*_TEXTS, *_OWN, f'{HEADER}NAME', f'{RESPONSE}NAME']
    raise SettingError(None, f'there is no field {name!r}{nearest(name, known)}')


def _compiled(parts: list[str], sources: dict[str, str], is_json: bool) -> Any:
    """Return the functions ``values`` and ``text`` of a `Format`.

    Each request needs them. So they are made for this format alone. A request only gives
    its values; the lines are made of many at once, which costs less than half of the time.
    Nobody can forge a line: texts are escaped, unless all of them have only characters
    that cannot change a line.

    :param parts: the texts and the names of fields in turn.
    :param sources: the Python that computes each field.
    """
    names = {name: f'v{number}' for number, name in enumerate(sources)}
    texts = [names[name] for name in sources if name not in _OWN]
    bare = [one for one in texts if one in {names[name] for name in _bare(parts)}]
    row = ''.join(f'{one}, ' for one in names.values())
    made = [
        f'{{{names[part]}}}'
        if number % 2
        else part.replace('{', '{{').replace('}', '}}')
        for number, part in enumerate(parts)
    ]
    line = f'f{"".join([*made, chr(10)])!r}'

    def together(some: list[str]) -> str:
        return 'f"' + ''.join(f'{{{one}}}' for one in some) + '"'

    code = f"""
def values(x, now, end):
    log, get = x.log, x.environ.get
    return ({''.join(f'{source}, ' for source in sources.values())})

def text(batch):
    if is_plain(''.join([{together(texts)} for {row} in batch]), MANY) and ' ' not in (
            ''.join([{together(bare)} for {row} in batch])):
        return ''.join([{line} for {row} in batch])
    return ''.join([one_line(*one) for one in batch])

def one_line({row}):
    if not is_plain({together(texts)}, LONGEST) or ' ' in {together(bare)}:
        {'; '.join(f'{one} = escaped({one}, {one in bare})' for one in texts) or 'pass'}
    return {line}
"""
    known = _names_known(is_json)
    exec(code, known)
    return known['values'], known['text']


def _names_known(is_json: bool) -> dict[str, Any]:
    """Return what the functions of a format use."""
    return {
        'LONGEST': LONGEST,
        'MANY': LONGEST * 8,
        'none': '' if is_json else '-',
        'unknown': 'null' if is_json else '-',
        'escaped': _escaped_json if is_json else _escaped,
        'is_plain': _is_plain,
        'codes': _codes,
        'code_of': _code_of,
        'header_of': header_of,
        'milliseconds': _MILLISECONDS,
        'uri_of': _uri_of,
        'waited_by': _waited_by,
    }


def _is_plain(text: str, longest: int) -> bool:
    """Whether a text has only characters that cannot change a line, and is not too long."""
    if len(text) > longest:
        return False
    data = text.encode('utf-8', 'backslashreplace')
    return len(data.translate(None, _CHANGING)) == len(text)


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
    if not (len(code) == 3 and code.isascii() and code.isdecimal()):
        return None
    if len(_codes) < _MOST_CODES:
        _codes[status] = code
    return code


def _waited_by(exchange: Exchange, now: float, unknown: str) -> int | str:
    """Return the microseconds since a proxy had the request; else, since the server had it."""
    get, waited = exchange.environ.get, exchange.waited
    header = get('HTTP_X_REQUEST_START')
    if header is not None and get('REMOTE_ADDR') in exchange.log.proxies:
        began = time.time() - (now - exchange.since)
        by_proxy = waited_since(header, began)
        waited = waited if by_proxy is None else by_proxy
    return unknown if waited is None else int(waited * 1e6)


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
