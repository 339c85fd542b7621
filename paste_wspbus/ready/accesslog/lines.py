"""The lines of an access log: a format becomes a function that makes the line of a request."""

from __future__ import annotations

import re
import time
from json.encoder import encode_basestring_ascii
from math import trunc
from urllib.parse import quote

from paste_wspbus.errors import SettingError
from paste_wspbus.ready.accesslog.cached import (
    MILLISECONDS,
    Cached,
    Clock,
    OfHead,
    small_numbers,
)
from paste_wspbus.reference import REQUEST_ID_KEY
from paste_wspbus.servers.arriving import Known
from paste_wspbus.values import nearest

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from typing import Any

    from paste_wspbus.ready.accesslog.writer import Writer

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

#: Texts that come from a request, or from the application, by their keys in ``environ``.
_TEXTS = {
    'client': 'REMOTE_ADDR',
    'user': 'REMOTE_USER',
    'method': 'REQUEST_METHOD',
    'protocol': 'SERVER_PROTOCOL',
    'scheme': 'wsgi.url_scheme',
    'host': 'HTTP_HOST',
    'referer': 'HTTP_REFERER',
    'agent': 'HTTP_USER_AGENT',
}

#: Those that come from the headers of a request, by their keys there.
_OF_HEAD = {'referer': 'REFERER', 'agent': 'USER_AGENT'}

#: Those that each request has; otherwise its line is made with care.
_ALWAYS = ('client', 'method', 'protocol')

#: Texts that hardly ever come again: each one is looked at.
_OTHERS = {
    'uri': 'uri_of(environ)',
    'path': "uri_of(environ).partition('?')[0]",
    'query': "environ.get('QUERY_STRING')",
}

#: The numbers that each request has; None if one is not known.
NUMBERS = ('bytes', 'waited_us', 'spent_us')

#: How an `Exchange` has the fields of a request, see `AccessLog.log`.
EXCHANGE = Known(
    arguments='x, environ, status, sent, since, received, now, end',
    before=(),
    texts={},
    status='status',
    numbers={
        'bytes': 'sent',
        'waited_us': 'None if received is None else trunc((since - received) * 1e6)',
        'spent_us': 'trunc((now - since) * 1e6)',
    },
)

#: ``waited_us`` behind a proxy that says when a request came.
_WAITED_SINCE_PROXY = 'waited_by(x, since, received, now)'

#: What all requests of a process have in common; it is not known before the start.
CONSTANTS = ('worker', 'generation', 'pid')

#: The fields that JSON has without quotes.
_UNQUOTED = {*NUMBERS, 'status', *CONSTANTS}

#: The prefixes of fields that are headers: of the request, and of the response.
HEADER, RESPONSE = 'header.', 'response.'


#: The characters of a path that need no quoting (RFC 3986, pchar and the slash).
_SAFE = "/~!$&'()*+,;=:@"

#: The bytes that change no line: printable ASCII, without quotation marks and backslashes.
_HARMLESS = bytes(byte for byte in range(0x20, 0x7F) if byte not in b'"\\')

#: The characters of a text that each small number is joined with, at most.
_LONGEST_JOINED = 20

#: Seconds of waiting that a header may claim at most.
LONGEST_WAIT = 86400.0


class Format:
    """A format of lines: it becomes a function that makes the line of a request.

    Nobody can forge a line: each text is escaped, unless it has only characters that
    cannot change a line. So a text is looked at once, if it comes again: what the line
    shows of it is kept.

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
        if not query:
            hidden = {'uri': 'path', 'query': 'none'}
            self._parts[1::2] = [hidden.get(name, name) for name in parts[1::2]]
        self._bare = _bare(self._parts)
        self._is_query_shown, self._has_proxy = query, has_proxy
        self._none, self._unknown = ('', 'null') if is_json else ('-', '-')
        for name in self.fields:
            self._check(name)

    def compiled(
        self,
        writer: Writer,
        constants: Mapping[str, int | None],
        known: Known = EXCHANGE,
        is_careful: bool = False,
    ) -> Callable[..., None]:
        """Return the function that gives a writer the line of a request.

        Each request calls it, so it is compiled for this format alone.

        :param constants: the values of `CONSTANTS`.
        :param known: its arguments, and how it computes fields.
        :param is_careful: whether ``environ`` may have anything. Otherwise the function may
            raise one of `UNUSUAL`, and give no line.
        """
        made = _Made(writer)
        parts = self._with_constants({**constants, 'end': known.end}, known)
        if 'line' in known.texts:
            _join_line(parts)
        before = parts[0]
        for name, after in zip(parts[1::2], parts[2::2], strict=True):
            if name == 'time':
                made.time(before, after, self.is_json)
            elif name in ('status', 'end'):
                source = known.status if name == 'status' else 'end'
                made.kept(source, Cached(before, after, self._shown_word(name)))
            elif name in _OF_HEAD and known.head is not None and made.may_have_head():
                made.of_head(known.head, name, Cached(before, after, self._shown(name)))
            elif name in _TEXTS and name not in known.texts and not is_careful:
                kept = Cached(before, after, self._shown(name))
                made.from_environ(_TEXTS[name], kept, name in _ALWAYS)
            elif name in NUMBERS and len(after) <= _LONGEST_JOINED:
                made.text(before)
                made.number(*self._number(name, known), after)
            else:
                made.text(before)
                if name in NUMBERS:
                    made.number(*self._number(name, known), '')
                else:
                    made.value(self._source(made, name, known, is_careful))
                before = after
                continue
            before = ''
        made.text(before)
        return made.function(known)

    def _with_constants(
        self, constants: Mapping[str, str | int | None], known: Known
    ) -> list[str]:
        """Return texts and names of fields in turn; what has always one value is text."""
        parts = self._parts[:1]
        for name, after in zip(self._parts[1::2], self._parts[2::2], strict=True):
            if name in CONSTANTS or (name == 'end' and known.end is not None):
                value = constants.get(name)
                parts[-1] += f'{self._unknown if value is None else value}{after}'
            else:
                parts += [name, after]
        return parts

    def _check(self, name: str) -> None:
        """Check that there is a field.

        :raises SettingError: if there is none.
        """
        known = [*_TEXTS, *_OTHERS, *NUMBERS, 'time', 'status', 'end', 'request_id']
        known += CONSTANTS
        if name not in known and _source_of_header(name) is None:
            known += [f'{HEADER}NAME', f'{RESPONSE}NAME']
            raise SettingError(
                None, f'there is no field {name!r}{nearest(name, known)}'
            )

    def _shown_word(self, name: str) -> Callable[[Any], str]:
        """Return the function from a status, or an end, to what a line shows of it."""
        if name == 'status':
            return lambda status: _code_of(status) or self._unknown
        return str

    def _source(self, made: _Made, name: str, known: Known, is_careful: bool) -> str:
        """Return the Python that computes a text which is not kept."""
        if name in known.texts:
            return known.texts[name]
        if name == 'none':
            return repr(self._none)
        if name == 'request_id':  # this package makes it: it is not looked at
            if not is_careful:
                return f'environ[{REQUEST_ID_KEY!r}]'
            return f'str(environ.get({REQUEST_ID_KEY!r}) or {self._none!r})'
        if name in _TEXTS:
            source = f'environ.get({_TEXTS[name]!r})'
        else:
            source = _OTHERS.get(name) or _source_of_header(name) or ''
        return f'{made.name_of(self._shown(name))}({source})'

    def _number(self, name: str, known: Known) -> tuple[str, str | None]:
        """Return the Python that computes a number, and what is shown if it is None.

        :returns: for the latter None, if it never is.
        """
        is_by_proxy = name == 'waited_us' and self._has_proxy
        source = _WAITED_SINCE_PROXY if is_by_proxy else known.numbers[name]
        return source, self._unknown if known is EXCHANGE or is_by_proxy else None

    def _shown(self, name: str) -> Callable[[Any], str]:
        """Return the function from a value of a field to what a line shows of it."""
        is_bare, none = name in self._bare, self._none
        escaped = _escaped_json if self.is_json else _escaped
        hides_query = name == 'referer' and not self._is_query_shown

        def shown(value: Any) -> str:
            if not value:
                return none
            # The application may have put something into environ that is no text.
            text = str.__str__(value) if isinstance(value, str) else ascii(value)
            if hides_query:
                text = text.partition('?')[0]
            return text if _is_plain(text, is_bare) else escaped(text, is_bare)

        return shown


class _Made:
    """The source of a function that makes lines, and what its names stand for."""

    def __init__(self, writer: Writer) -> None:
        self._names: dict[str, Any] = {
            'writer': writer,
            'append': writer.lines.append,
            'join': ''.join,
            'monotonic': time.monotonic,
            'trunc': trunc,
            'uri_of': _uri_of,
            'header_of': header_of,
            'waited_by': _waited_by,
        }
        #: The expressions whose values make the line, and the text after them.
        self._parts: list[str] = []
        self._text = ''
        self._of_head = OfHead()

    def name_of(self, value: object) -> str:
        """Return a new name that stands for a value."""
        name = f'known{len(self._names)}'
        self._names[name] = value
        return name

    def text(self, text: str) -> None:
        """Add a text."""
        self._text += text

    def value(self, source: str) -> None:
        """Add the text that an expression makes."""
        if self._text:
            self._parts.append(repr(self._text))
            self._text = ''
        self._parts.append(source)

    def number(self, source: str, unknown: str | None, after: str) -> None:
        """Add a number and the text after it; if it may be None, that is ``unknown``."""
        small = self.name_of(small_numbers(after))
        found = f'(n := {source})' if unknown is None else 'n'
        shown = f'{small}[n] if {found} < 1000 else str(n) + {after!r}'
        if unknown is not None:
            shown = f'{unknown + after!r} if (n := {source}) is None else {shown}'
        self.value(shown)

    def kept(self, source: str, kept: Cached) -> None:
        """Add what is kept of the value of an expression."""
        self.value(f'{self.name_of(kept)}[{source}]')

    def from_environ(self, key: str, kept: Cached, is_always_there: bool) -> None:
        """Add what is kept of a value of ``environ``; a missing one is as None."""
        found = f'{self.name_of(kept)}[environ[{key!r}]]'
        if not is_always_there:
            found = f'{found} if {key!r} in environ else {kept[None]!r}'
        self.value(found)

    def may_have_head(self) -> bool:
        """Whether a field of a head can be added: they are beside each other."""
        return not self._of_head.fields or self._parts[-1] == self._of_head.source

    def of_head(self, head: str, name: str, kept: Cached) -> None:
        """Add a field of a head, to others before it."""
        of_head = self._of_head
        of_head.fields.append((_OF_HEAD[name], kept))
        if len(of_head.fields) == 1:
            own = self.name_of(of_head)
            is_own = f'(h := {head}).shown_by is {own}'
            of_head.source = f'h.shown if {is_own} else {own}.find(h)'
            self.value(of_head.source)

    def time(self, before: str, after: str, has_milliseconds: bool) -> None:
        """Add the time, with the texts around it."""
        clock = Clock(before, '' if has_milliseconds else after, has_milliseconds)
        name = self.name_of(clock)
        if has_milliseconds:
            is_new = f'{name}.since <= now < {name}.until'
            self.value(f'{name}.text if {is_new} else {name}.renew(now)')
            ends = self.name_of([f'{one}{after}' for one in MILLISECONDS])
            self.value(f'{ends}[trunc((now - {name}.since) * 1e3)]')
        else:
            self.value(f'{name}.text if now < {name}.until else {name}.renew(now)')

    def function(self, known: Known) -> Callable[..., None]:
        """Compile the function: it joins the parts, and does as `Writer.add`."""
        if self._text:
            self._parts.append(repr(self._text))
        parts = ''.join(f'        {part},\n' for part in self._parts)
        lines = [*known.before, f'append(join((\n{parts}    )))']
        lines.append('if writer.asks: writer.ring()')
        body = ''.join(f'    {line}\n' for line in lines)
        exec(f'def line({known.arguments}):\n{body}', self._names)
        return self._names['line']  # type: ignore[no-any-return]


def _join_line(parts: list[str]) -> None:
    """Let one field, ``line``, take the place of method, uri and protocol."""
    for number in range(1, len(parts) - 4, 2):
        if parts[number : number + 5] == ['method', ' ', 'uri', ' ', 'protocol']:
            parts[number : number + 5] = ['line']
            return


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


def _source_of_header(name: str) -> str | None:
    """Return the Python that computes a field which is a header; None if it is none."""
    for prefix in (HEADER, RESPONSE):
        header = name.removeprefix(prefix)
        if header != name and re.fullmatch(r"[\w!#$&'*+.^`|~-]+", header, re.ASCII):
            if prefix == RESPONSE:
                return f'header_of(x.headers, {header.lower()!r})'
            key = header.upper().replace('-', '_')
            is_cgi = key in ('CONTENT_TYPE', 'CONTENT_LENGTH')
            return f'environ.get({key if is_cgi else f"HTTP_{key}"!r})'
    return None


def _is_plain(text: str, is_bare: bool) -> bool:
    """Whether a text has only characters that cannot change a line, and is not too long."""
    if len(text) > LONGEST or not text.isascii() or (is_bare and ' ' in text):
        return False
    return not text.encode().translate(None, _HARMLESS)


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


def _uri_of(environ: Mapping[str, Any]) -> str:
    """Return the URI as the client has sent it, or made of the path and the query.

    ``environ`` has the path decoded.
    """
    get = environ.get
    uri = get('REQUEST_URI')
    if uri:
        return str(uri)
    path = quote(_bytes(f'{get("SCRIPT_NAME", "")}{get("PATH_INFO", "")}'), safe=_SAFE)
    query = get('QUERY_STRING')
    return f'{path}?{query}' if query else path


def _code_of(status: str) -> str | None:
    """Return the code of a status line; None if the application has given another text."""
    code = status[:3]
    return code if len(code) == 3 and code.isascii() and code.isdecimal() else None


def _waited_by(x: Any, since: float, received: float | None, now: float) -> int | None:
    """Return the microseconds since a proxy had the request; else, since the server had it.

    :param x: an `Exchange`, or what has the same attributes.
    """
    get, waited = x.environ.get, None if received is None else since - received
    header = get('HTTP_X_REQUEST_START')
    if header is not None and get('REMOTE_ADDR') in x.log.proxies:
        by_proxy = waited_since(header, time.time() - (now - since))
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
