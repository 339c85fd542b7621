"""What an access log puts around an application: it follows each response to its end."""

from __future__ import annotations

import sys
from time import monotonic

from paste_wspbus.requests.filter import _ListBody
from paste_wspbus.servers.arriving import DONE, RECEIVED_KEY

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from typing import Any

    from paste_wspbus.ready.accesslog import AccessLog
    from paste_wspbus.requests.filter import WSGIApp

#: How a request ended that was not answered: the client did not get all of it; the
#: application has failed. `AccessLog` has another word, for those that the stop cut.
ABORTED, ERROR = 'aborted', 'error'


#: The beginnings of the statuses of responses without a body (RFC 9110, 6.4.1).
_WITHOUT_BODY = ('1', '204', '304')


class Logged:
    """An application whose requests get lines in an access log."""

    def __init__(self, app: WSGIApp, log: AccessLog) -> None:
        self.app, self.log, self._key = app, log, log.key

    def __call__(
        self, environ: dict[str, Any], start_response: Callable[..., Any]
    ) -> Iterable[bytes]:
        """Answer one request (PEP 3333)."""
        if self._key in environ:  # it gets its line already
            return self.app(environ, start_response)
        log = self.log
        # Not the exchange, which has environ: the collector would have to find such pairs.
        environ[self._key] = True
        exchange = Exchange(log, environ, start_response)
        log.open[exchange] = None
        if log.ids is not None:
            log.ids.give(environ)
        try:
            body: Any = self.app(environ, exchange.start_response)
            kind = type(body)
            if kind is _ListBody or kind is list:
                exchange.sent += len(body[0]) if len(body) == 1 else sum(map(len, body))
        except BaseException:
            exchange.fails()
            raise
        if kind is list or kind is _ListBody:
            if kind is _ListBody:
                exchange.closes = body.close
            listed = _Listed(body)
            listed.exchange = exchange
            return listed
        exchange.closes = getattr(body, 'close', None)
        file_wrapper = environ.get('wsgi.file_wrapper')
        if isinstance(file_wrapper, type) and issubclass(kind, file_wrapper):
            exchange.is_file = True
            body.close = exchange.close
            return body  # type: ignore[no-any-return]
        exchange.end = ABORTED  # until all of it was taken
        return (_SizedBody if hasattr(body, '__len__') else _Body)(body, exchange)


class Exchange:
    """A request and its response, as the access log needs them.

    ``since`` is the time.monotonic() of its beginning, ``received`` that at which the
    server had it, if the server says it. ``sent`` is the number of bytes of the body; None
    if it is not known.
    """

    status = ''
    headers: Iterable[tuple[str, str]] = ()
    sent: Any = 0
    closes: Callable[[], object] | None = None
    end, is_file = DONE, False

    def __init__(
        self,
        log: AccessLog,
        environ: dict[str, Any],
        start_response: Callable[..., Any],
    ) -> None:
        self.log, self.environ, self._start = log, environ, start_response
        self.since, self.received = monotonic(), environ.get(RECEIVED_KEY)

    def start_response(
        self, status: str, headers: list[tuple[str, str]], exc_info: Any = None
    ) -> Callable[[bytes], object]:
        """Start the response (PEP 3333); the status counts if the server takes it."""
        if exc_info is None:
            self._write = self._start(status, headers)
        else:
            self._write = self._start(status, headers, exc_info)
        self.status, self.headers = status, headers
        return self.write

    def write(self, data: bytes) -> None:
        """Send a part of the body, as PEP 3333 has it for old applications."""
        self._write(data)
        self.sent += len(data)

    def fails(self) -> None:
        """Note that the application has failed: the server answers 500 if it still can."""
        if not self.sent:
            self.status = '500'
        self.ends(ERROR)

    def close(self) -> None:
        """Close the body; the server calls this at the end of the response."""
        try:
            if self.closes is not None:
                self.closes()
        finally:
            end = self.end
            if end is DONE:
                error = sys.exception()
                if error is not None:
                    end = ABORTED if _is_of_client(error) else ERROR
            elif end is ABORTED and not self.sent and self._has_no_body():
                end = DONE
            if not self.status:  # start_response was not called
                self.status, end = '500', ERROR
            self.ends(end)

    def _has_no_body(self) -> bool:
        is_head = self.environ.get('REQUEST_METHOD') == 'HEAD'
        return is_head or self.status.startswith(_WITHOUT_BODY)

    def ends(self, end: str) -> None:
        """Give the request to the log."""
        if self.is_file:
            self.sent = _length(self.headers)
        if self.sent and self._has_no_body():
            self.sent = 0
        self.log.take(self, end)

    def is_begun(self) -> bool:
        """Whether the status was sent."""
        return bool(self.sent)


class _Listed(list):  # type: ignore[type-arg]
    """A list whose close() ends its exchange; no Python code runs between its items."""

    __slots__ = ('exchange',)

    exchange: Exchange

    def close(self) -> None:
        self.exchange.close()


class _Body:
    """A body whose parts are counted."""

    __slots__ = ('_body', '_exchange', 'close')

    def __init__(self, body: Iterable[bytes], exchange: Exchange) -> None:
        self._body, self._exchange = body, exchange
        self.close = exchange.close

    def __iter__(self) -> Iterator[bytes]:
        exchange = self._exchange
        try:
            for part in self._body:
                yield part
                exchange.sent += len(part)
        except GeneratorExit:
            raise
        except BaseException:
            exchange.end = ERROR
            if not exchange.sent:
                exchange.status = '500'
            raise
        exchange.end = DONE


class _SizedBody(_Body):
    """The same with len(), from which a server makes Content-Length (PEP 3333)."""

    __slots__ = ()

    def __len__(self) -> int:
        return len(self._body)  # type: ignore[arg-type]


def _is_of_client(error: BaseException) -> bool:
    """Whether a server failed because the client has gone."""
    return isinstance(error, OSError) or 'Disconnected' in type(error).__name__


def _length(headers: Iterable[tuple[str, str]]) -> int | None:
    for key, value in headers:
        if key.lower() == 'content-length' and value.isdecimal():
            return int(value)
    return None
