"""Requests that are counted: a layer between the filter and the application."""

from __future__ import annotations

import contextlib
from time import monotonic

from paste_wspbus.bus import State
from paste_wspbus.forks import close_in_child
from paste_wspbus.frameworks.routes import ROUTE_KEY
from paste_wspbus.requests.ledger import ROWS, STAND_BY, Book, Ledger

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from typing import Any

    from paste_wspbus.bus import Bus
    from paste_wspbus.frameworks.routes import Finder
    from paste_wspbus.requests.filter import WSGIApp
    from paste_wspbus.requests.ledger import Series

    #: It is called with the series of a request, and its seconds.
    Sink = Callable[[Series, float], object]

#: The name of the meter in ``bus.plugins``: no name of a section.
METER = 'wspbus.meter'

#: The route of requests that no application knows: clients can send any number of such
#: paths.
UNKNOWN = '(unknown)'

#: The first digits of the statuses whose route is UNKNOWN, if no framework knows the
#: route.
_NOT_KNOWN = ('404', '405', '501')

#: The statuses of responses without a body (RFC 9110).
_EMPTY = ('204', '304')

#: The components of this package that every worker has.
_OWN = (
    'paste_wspbus.plugins.',
    'paste_wspbus.requests.',
    'paste_wspbus.workers.',
)

#: The status that is shown if the application has failed before it called
#: start_response.
_FAILED = '500'


def meter_of(bus: Bus) -> Meter:
    """Return the meter of a bus; make one, so that the requests are counted."""
    meter = bus.plugins.get(METER)
    if not isinstance(meter, Meter):
        meter = bus.plugins[METER] = Meter(bus)
        bus.subscribe('start', meter.find_routes, priority=float('-inf'))
        bus.subscribe('start', meter.note_start, priority=float('inf'))
        for one in getattr(bus.plugins.get('requests'), 'filters', ()):
            one.app = meter.around(one.app)  # of an application that was made before
    return meter


class Meter:
    """Counts the requests of a process by method, class of status and route.

    ``sinks`` are called with each request that is counted; they must not wait.
    """

    def __init__(self, bus: Bus) -> None:
        self.bus, self.ledger = bus, Ledger()
        close_in_child(self.ledger, Ledger.detach)
        self.sinks: list[Sink] = []
        self.finders: list[Finder] = []
        #: The applications whose frameworks were not asked yet.
        self._apps: list[WSGIApp] = []
        #: The time of the last start of a component that was counted.
        self._noted = 0.0
        self._is_told = False

    def around(self, app: WSGIApp) -> Metered:
        """Return an application that counts the requests of ``app``."""
        self._apps.append(app)
        if self.bus.state is State.STARTED:
            self.find_routes()
        return Metered(app, self)

    def find_routes(self) -> None:
        """Let each framework of the site say the routes of its requests."""
        from paste_wspbus.frameworks.routes import finders

        apps, self._apps = self._apps, []
        self.finders += [find for app in apps for find in finders(app)]

    def note_start(self) -> None:
        """Count how long each component has taken to start."""
        calls = [
            call
            for call in self.bus.timeline
            if call.channel == 'start' and call.start > self._noted
        ]
        for call in calls:
            self._noted = max(self._noted, call.start)
            if not call.name.startswith(_OWN):
                self.ledger.note_start(call.name, call.duration)

    def read_all(self) -> dict[Series, list[int]]:
        """Return what all workers of the site have counted; or this process, if it is alone.

        :raises OSError: if the file of the workers is broken.
        """
        ledger = self.ledger
        return Book(ledger.fd).read() if ledger.is_shared else ledger.read()

    def count(
        self, environ: dict[str, Any], method: str, status: str, began: float
    ) -> None:
        """Count a request. This never fails: the response is on its way.

        :param began: the monotonic() of its beginning.
        """
        seconds = monotonic() - began
        try:
            route = environ[ROUTE_KEY]
            route = route[0] if route else self._route(environ, status)
            self.ledger.count(method, status, route, seconds)
            if self.sinks:
                series = self.ledger.series_of(method, status, route)
                for sink in self.sinks:
                    sink(series, seconds)
            if self.ledger.overflows:
                self._tell_overflow()
        except Exception as error:
            self._tell(error)

    def _route(self, environ: dict[str, Any], status: str) -> str:
        for find in self.finders:
            route = find(environ, status)
            if route is not None:
                return route
        if status[:3] in _NOT_KNOWN:
            return UNKNOWN
        return cut(f'{environ.get("SCRIPT_NAME", "")}{environ.get("PATH_INFO", "")}')

    def _tell_overflow(self) -> None:
        self.ledger.overflows = False
        self.bus.log(
            f'Metrics: the requests have more than {ROWS - STAND_BY} combinations of '
            "method, status and route. Further routes are counted as 'other'",
            30,
        )

    def _tell(self, error: Exception) -> None:
        if not self._is_told:
            self._is_told = True
            with contextlib.suppress(Exception):
                what = f'{type(error).__name__}: {error}'
                self.bus.log(f'Metrics: a request was not counted: {what!a}', 40)


def cut(path: str) -> str:
    """Return a path without what follows its first segment: ``/reset/TOKEN`` is a secret."""
    end = path.find('/', 1) + 1
    return path if end in (0, len(path)) else f'{path[:end]}...'


class Metered:
    """An application whose requests are counted, before their last bytes are sent.

    Why a request that a client has seen answered is counted, even if the process is
    killed at once: a response that is complete when the application returns it is
    counted then. A stream is counted before its last part, if its length is known; else
    at its end, from which the client learns it later.
    """

    def __init__(self, app: WSGIApp, meter: Meter) -> None:
        self.app, self._count = app, meter.count

    def __call__(
        self, environ: dict[str, Any], start_response: Callable[..., Any]
    ) -> Iterable[bytes]:
        """Answer one request (PEP 3333)."""
        if ROUTE_KEY in environ:  # another layer of this class counts it
            return self.app(environ, start_response)
        began = monotonic()
        method = environ.get('REQUEST_METHOD', '')  # the application may change it
        environ[ROUTE_KEY] = []
        said: tuple[str, Any] = ('', ())

        def start(status: str, headers: Any, exc_info: Any = None) -> Any:
            nonlocal said
            said = status, headers
            if exc_info is None:
                return start_response(status, headers)
            return start_response(status, headers, exc_info)

        try:
            body = self.app(environ, start)
        except BaseException:
            self._count(environ, method, _FAILED, began)
            raise
        status = said[0]
        if status and (
            hasattr(body, '__len__')
            or status[:3] in _EMPTY
            or method == 'HEAD'
            or _is_file(body, environ)
        ):
            self._count(environ, method, status, began)
            return body
        count = self._count
        return _Stream(body, lambda: said, lambda s: count(environ, method, s, began))


def _is_file(body: object, environ: dict[str, Any]) -> bool:
    wrapper = environ.get('wsgi.file_wrapper')
    return isinstance(wrapper, type) and isinstance(body, wrapper)


class _Stream:
    """The body of a response that is made while it is sent.

    :param said: returns the status line and the headers, as far as they are known.
    :param count: is called once, with the status line.
    """

    __slots__ = ('_body', '_count', '_said')

    def __init__(
        self,
        body: Iterable[bytes],
        said: Callable[[], tuple[str, Any]],
        count: Callable[[str], object],
    ) -> None:
        self._body, self._said, self._count = body, said, [count]

    def __iter__(self) -> Iterator[bytes]:
        parts = iter(self._body)
        for part in parts:
            remaining = self._length()
            if remaining is None:
                yield part
                yield from parts  # no code of ours runs between the parts
                break
            remaining -= len(part)
            if remaining <= 0:
                self._end()
            yield part
            for part in parts:
                remaining -= len(part)
                if remaining <= 0:
                    self._end()
                yield part
        self._end()

    def close(self) -> None:
        try:
            close = getattr(self._body, 'close', None)
            if close is not None:
                close()
        finally:
            self._end()

    def _length(self) -> int | None:
        for name, value in self._said()[1]:
            if name.lower() == 'content-length' and value.isdigit():
                return int(value)
        return None

    def _end(self) -> None:
        with contextlib.suppress(IndexError):  # it was counted
            self._count.pop()(self._said()[0] or _FAILED)
