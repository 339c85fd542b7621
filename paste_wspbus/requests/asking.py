"""Requests that this process makes of its own application: no server and no socket takes part."""

from __future__ import annotations

import contextlib
import io
import re
import sys
import threading
import time
from typing import NamedTuple
from urllib.parse import unquote_to_bytes, urlsplit

from paste_wspbus.bus.places import place_in_site
from paste_wspbus.errors import SettingError
from paste_wspbus.plugins.threads import acquired
from paste_wspbus.values import split_list

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from paste_wspbus.bus import Bus

#: Bytes of a response that are read at most: a stream may never end.
LONGEST = 1 << 20

#: Seconds between two looks whether the site is to stop meanwhile.
LOOK = 0.1

#: Statuses whose responses have no body, but may have a Content-Length (RFC 9110).
NO_BODY = ('204', '304')

#: The ports of the schemes that a URL may have.
PORTS = {'http': '80', 'https': '443'}


class Target(NamedTuple):
    """What a request asks for: a path; and the scheme and host of a full URL, or ''."""

    text: str
    path: str
    query: str
    scheme: str = ''
    host: str = ''

    @property
    def shown(self) -> str:
        """The text without the query and the user, in which a secret may be."""
        if self.host:
            return f'{self.scheme}://{self.host}{self.path}'
        return self.text.partition('?')[0]


def target(text: str) -> Target:
    """Read a path or a URL.

    :raises SettingError: if it is neither.
    """
    try:
        parts = urlsplit(text)
        parts.port  # noqa: B018 (it is checked only now)
    except ValueError as error:
        raise SettingError(None, f'{text!r} is not a URL: {error}') from None
    if not text.isascii() or not text.isprintable():
        problem = f'{text!r} has characters that a URL does not have: write them as %XX'
        raise SettingError(None, problem)
    if parts.scheme and parts.scheme.lower() not in PORTS and '://' in text:
        raise SettingError(None, f'{text!r} is neither an http:// nor an https:// URL')
    if text.startswith('/') and not text.startswith('//'):
        return Target(text, parts.path, parts.query)
    if parts.scheme.lower() not in PORTS or not parts.hostname:
        problem = f'{text!r} is neither a path that begins with / nor a URL'
        raise SettingError(None, f'{problem} such as https://www.example.com/health')
    scheme, host = parts.scheme.lower(), parts.netloc.rpartition('@')[2]
    return Target(text, parts.path or '/', parts.query, scheme, host)


def targets(text: str) -> tuple[Target, ...]:
    """Read paths and URLs with spaces, lines, or commas and spaces between them.

    A comma inside a URL belongs to it.

    :raises SettingError: if one is wrong.
    """
    words = (word.rstrip(',') for word in text.split())
    return tuple(map(target, filter(None, words)))


def statuses(text: str) -> tuple[str, ...]:
    """Read statuses such as ``200 301`` or ``2xx``, with spaces or commas between them.

    :raises SettingError: if one is wrong, or if there is none.
    """
    words = split_list(text.lower())
    for word in words:
        is_class = len(word) == 3 and word[1:] == 'xx'
        is_code = word.isascii() and word.isdigit() and len(word) == 3
        if not (is_class or is_code) or word[0] not in '12345':
            raise SettingError(None, f'{word!r} is not a status such as 200 or 2xx')
    if not words:
        raise SettingError(None, 'it needs a status such as 200 or 2xx')
    return tuple(words)


def is_one_of(status: str, wanted: tuple[str, ...]) -> bool:
    """Whether a status line such as '200 OK' is among the result of `statuses`."""
    return status[:3] in wanted or f'{status[:1]}xx' in wanted


def ask(app: Any, wanted: Target, bus: Bus, url: str, seconds: float) -> Answer:
    """Ask the application, in a thread such as a server has.

    :param url: where the site serves: its host is that of a path.
    :param seconds: the time that this may take, with the whole body.
    """
    answer, done = Answer(), threading.Event()
    environ = _environ(wanted, url)

    def run() -> None:
        with acquired(bus):
            try:
                answer.read(app, environ)
            except BaseException as error:
                answer.error = error
        done.set()

    thread = threading.Thread(target=run, name='smoke', daemon=True)
    thread.start()
    until = time.monotonic() + seconds
    while not done.wait(min(LOOK, max(until - time.monotonic(), 0))):
        if time.monotonic() >= until or bus.is_told_to_leave:
            answer.is_late = True
            answer.place = place_in_site(sys._current_frames().get(thread.ident or 0))
            break
    return answer


class Answer:
    """The response to one request: its status line and Location, or what went wrong.

    ``place`` says at which line a request is that takes too long.
    """

    def __init__(self) -> None:
        self.status = self.location = self.place = ''
        self.error: BaseException | None = None
        self.is_late = False
        #: The bytes of the body so far, and how many the header Content-Length promises.
        self._size, self._promised = 0, 0

    def read(self, app: Any, environ: dict[str, Any]) -> None:
        """Call the application, and read its response as a server does (PEP 3333).

        :raises TypeError, ValueError, AssertionError: if no server could send it.
        """
        body = app(environ, self._start_response)
        try:
            chunks = iter(body)
        except TypeError:
            made = type(body).__name__
            raise TypeError(
                f'the body of the response is {made}, no iterable'
            ) from None
        try:
            for chunk in chunks:
                self._write(chunk)
                if self._size > LONGEST:
                    return
        finally:
            close = getattr(body, 'close', None)
            if close is not None:
                close()
        if not self.status:
            raise AssertionError('the application did not call start_response')
        if self._size < self._promised and self.status[:3] not in NO_BODY:
            raise ValueError(
                f'Content-Length is {self._promised}, and the body has {self._size} bytes'
            )

    def _start_response(
        self, status: str, headers: list[tuple[str, str]], exc_info: Any = None
    ) -> Callable[[bytes], object]:
        if self.status and exc_info is None:
            raise AssertionError('the application has called start_response twice')
        if self._size:
            raise exc_info[1]  # as PEP 3333 says: the first headers are sent
        _check_text('the status', status)
        if not re.match(r'\d{3}( |$)', status):
            raise ValueError(f'the status is {status!r}, not such as 200 OK')
        self.status, self.location, self._promised = status, '', 0
        for name, value in headers:
            _check_text('a name of a header', name)
            _check_text(f'the header {name}', value)
            if name.lower() == 'location':
                self.location = value
            elif name.lower() == 'content-length':
                if not value.strip().isdecimal():
                    raise ValueError(f'the header {name} is {value!r}, not a number')
                self._promised = int(value)
        return self._write

    def _write(self, chunk: bytes) -> None:
        # Some servers send these three types; none sends another.
        if not isinstance(chunk, bytes | bytearray | memoryview):
            made = type(chunk).__name__
            raise TypeError(f'the body of the response is {made}, not bytes')
        if chunk and not self.status:
            raise AssertionError('the body begins before start_response is called')
        self._size += len(chunk)


def _check_text(what: str, value: object) -> None:
    """Check a status, or a part of a header.

    :raises TypeError: if it is no text.
    :raises ValueError: if it has a character that a response cannot have there.
    """
    if not isinstance(value, str):
        raise TypeError(f'{what} is {type(value).__name__}, not str')
    if found := re.search(r'[\r\n\0]|[^\0-\xff]', value):
        raise ValueError(f'{what} has the character {found[0]!r}')


def _environ(wanted: Target, url: str) -> dict[str, Any]:
    """Make the environment of a GET (PEP 3333)."""
    here = (
        urlsplit(url) if url.startswith(tuple(PORTS)) else urlsplit('http://localhost')
    )
    scheme, host = wanted.scheme or here.scheme, wanted.host or here.netloc
    named = urlsplit(f'{scheme}://{host}')
    port = PORTS[scheme]
    with contextlib.suppress(ValueError):
        port = str(named.port or port)
    return {
        'REQUEST_METHOD': 'GET',
        'SCRIPT_NAME': '',
        'PATH_INFO': unquote_to_bytes(wanted.path).decode('latin-1'),
        'QUERY_STRING': wanted.query,
        'SERVER_NAME': named.hostname or 'localhost',
        'SERVER_PORT': port,
        'SERVER_PROTOCOL': 'HTTP/1.1',
        'HTTP_HOST': host,
        'HTTP_ACCEPT': '*/*',
        'HTTP_USER_AGENT': 'wspserve',
        'REMOTE_ADDR': '127.0.0.1',
        'wsgi.version': (1, 0),
        'wsgi.url_scheme': scheme,
        'wsgi.input': io.BytesIO(),
        'wsgi.errors': sys.stderr,
        'wsgi.multithread': True,
        'wsgi.multiprocess': False,
        'wsgi.run_once': False,
    }
