"""The WSGI filter: it puts the bus into environ and counts the requests in flight."""

from __future__ import annotations

from _thread import get_ident  # the original, before a site patches Python
from itertools import count
from threading import enumerate as living_threads
from time import monotonic

from paste_wspbus.bus import State
from paste_wspbus.bus.host import host_of
from paste_wspbus.reference import DRAINING_KEY, ENVIRON_KEY, REQUEST_ID_KEY

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from typing import Any

    from paste_wspbus.bus import Bus
    from paste_wspbus.requests.scoreboard import Scoreboard

    WSGIApp = Callable[[dict[str, Any], Callable[..., Any]], Iterable[bytes]]


#: This is faster than `State.STARTED`, which is a slow look-up in each request.
STARTED = State.STARTED


#: The number of characters of a path that are shown at most.
MAX_PATH = 200


def _path(environ: dict[str, Any]) -> str:
    """Return the path of a request; middleware moves parts of it between the two keys."""
    path = f'{environ.get("SCRIPT_NAME", "")}{environ.get("PATH_INFO", "")}'
    return path if len(path) <= MAX_PATH else f'{path[:MAX_PATH]}...'


def _id(environ: dict[str, Any]) -> str | None:
    found = environ.get(REQUEST_ID_KEY)
    return None if found is None else ascii(str(found)[:MAX_PATH])[1:-1]


class RequestsInFlight(dict):  # type: ignore[type-arg]
    """The requests in flight: {id: (environ, monotonic seconds, ident of the thread)}.

    A request ends when the server has closed the body of its response.
    """

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self._numbers = count()
        #: It is called for each request that begins; no thread waits for another there.
        self.begin = self._numbers.__next__
        #: The filters of this bus.
        self.filters: list[BusFilter] = []
        #: How many of them no user has made: those of warm_up and smoke, and health checks.
        self.not_counted = 0

    def finish(self, key: int) -> bool:
        """End a request; False if it has ended: some servers close a body twice.

        :param key: the id() of its environ, which the caller still has.
        """
        return self.pop(key, None) is not None

    @property
    def served(self) -> int:
        """The number of requests that have ended, without those that are ``not_counted``."""
        # count(7): nothing else shows the number.
        begun = int(repr(self._numbers)[6:-1])
        return max(begun - len(self) - self.not_counted, 0)

    def describe(self) -> list[dict[str, Any]]:
        """Return what `status` shows of each request, the oldest first.

        This makes no system call: while threads compute, each one costs the time until
        another thread gives the GIL away.

        :returns: dictionaries of ``method``, ``path``, ``age`` in seconds, ``thread``, the
            name of the thread that has begun the request (None if it has ended), and
            ``id`` (None if requests are not watched).
        """
        now, names = monotonic(), {one.ident: one.name for one in living_threads()}
        requests = sorted(list(self.values()), key=lambda request: request[1])
        return [
            {
                'method': ascii(str(environ.get('REQUEST_METHOD'))[:20])[1:-1],
                'path': ascii(_path(environ))[1:-1],
                'age': round(now - since, 3),
                'thread': names.get(ident),
                'id': _id(environ),
            }
            for environ, since, ident, *_ in requests
        ]

    def report(self) -> dict[str, Any]:
        """Return, for the 'status' channel, each request's method, path and age in seconds."""
        now = monotonic()
        return {
            'requests_in_flight': [
                f'{str(environ.get("REQUEST_METHOD"))[:20]!a} {_path(environ)!a} {now - since:.1f} s'
                for environ, since, *_ in list(self.values())
            ]
        }


class _Body:
    """A response body whose close() ends its request."""

    __slots__ = ('_body', '_environ', '_filter')
    closes_response = True  # `cutting.Stack` looks for it

    def __init__(
        self, body: Iterable[bytes], environ: dict[str, Any], filter: BusFilter
    ) -> None:
        self._body, self._environ, self._filter = body, environ, filter

    def __iter__(self) -> Iterator[bytes]:
        return iter(self._body)

    def close(self) -> None:
        try:
            close = getattr(self._body, 'close', None)
            if close is not None:
                close()
        finally:
            self._filter.end(self._environ)


class _SizedBody(_Body):
    """A `_Body` with len(), from which a server makes Content-Length (PEP 3333)."""

    __slots__ = ()

    def __len__(self) -> int:
        return len(self._body)  # type: ignore[arg-type]


class _ListBody(list):  # type: ignore[type-arg]
    """A list whose close() ends its request; no Python code runs between its items.

    Under load this served about 2 % more requests than `_SizedBody`
    (benchmarks/throughput.py); perhaps because less code runs after the response.
    """

    __slots__ = ('environ', 'requests')

    environ: dict[str, Any]
    requests: RequestsInFlight

    def close(self) -> None:
        self.requests.finish(id(self.environ))


class BusFilter:
    """Wraps ``app``: ``environ['wspbus.bus']`` is the bus, in every request.

    ``environ['wspbus.draining']`` is an Event, which is set when the site stops: a
    stream can wait for it, and then end.

    It publishes 'before_request' and 'after_request' (each with environ) if they have
    listeners. Inside another BusFilter on the same bus it does nothing.
    """

    #: The scoreboard that shows the requests.
    board: Scoreboard | None = None
    closes_response = True

    _kinds: tuple[type[_Body], type[_SizedBody]] = _Body, _SizedBody

    def __init__(self, app: WSGIApp, bus: Bus) -> None:
        self.app, self.bus = app, bus
        requests = bus.plugins.get('requests')
        if requests is None:
            requests = bus.plugins['requests'] = RequestsInFlight()
            bus.subscribe('status', requests.report)
        self.requests: RequestsInFlight = requests
        requests.filters.append(self)
        self._count = requests.begin

    def __call__(
        self, environ: dict[str, Any], start_response: Callable[..., Any]
    ) -> Iterable[bytes]:
        """Answer one request (PEP 3333)."""
        bus = self.bus
        if environ.get(ENVIRON_KEY) is bus:
            return self.app(environ, start_response)
        if bus.state is not STARTED:
            host_of(bus).start(bus)
        environ[ENVIRON_KEY] = bus
        environ[DRAINING_KEY] = bus.draining
        place = self._begin(environ)
        try:
            if bus.listeners.get('before_request'):
                bus.publish('before_request', environ)
            body = self.app(environ, start_response)
        except BaseException:
            self.end(environ)
            raise
        if type(body) is list and not bus.listeners.get('after_request'):
            if self.board is not None:
                self.board.sends(place)
            listed = _ListBody(body)
            listed.environ, listed.requests = environ, self.requests
            return listed
        file_wrapper = environ.get('wsgi.file_wrapper')
        if isinstance(file_wrapper, type) and isinstance(body, file_wrapper):
            if self.board is not None:
                self.board.sends(place)
            return self._ending(body, environ)
        return self._kinds[hasattr(body, '__len__')](body, environ, self)

    def _begin(self, environ: dict[str, Any]) -> int:
        """Note that a request begins; return its place on the scoreboard."""
        self._count()
        self.requests[id(environ)] = environ, monotonic(), get_ident()
        return 0

    @classmethod
    def around(cls, app: WSGIApp, bus: Bus) -> BusFilter:
        """Wrap ``app`` in the filter that ``bus.plugins['requests']`` asks for."""
        if (meter := bus.plugins.get('wspbus.meter')) is not None:
            app = meter.around(app)
        kind = getattr(bus.plugins.get('requests'), 'filter_class', cls)
        return kind(app, bus)

    def record_first(self) -> None:
        """Record the first request in `Bus.timeline`; the others cost nothing."""
        app, bus = self.app, self.bus

        def first(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
            if self.app is first:
                self.app = app
            since = monotonic()
            try:
                return app(environ, start_response)
            finally:
                # One segment is enough: the others may be private.
                path = '/'.join(_path(environ).split('/')[:2])
                name = f'{environ.get("REQUEST_METHOD")} {path}'
                bus.calls.record('request', name, since, monotonic() - since)

        self.app = first

    def end(self, environ: dict[str, Any]) -> None:
        """End a request; the server has closed the body of the response."""
        is_done = self.requests.finish(id(environ))
        if is_done and self.bus.listeners.get('after_request'):
            self.bus.publish('after_request', environ)

    def _ending(self, body: Any, environ: dict[str, Any]) -> Iterable[bytes]:
        """Make the close() of a file end its request; its type must stay, for the server."""
        close = getattr(body, 'close', None)

        def close_and_end() -> None:
            try:
                if close is not None:
                    close()
            finally:
                self.end(environ)

        body.close = close_and_end
        return body  # type: ignore[no-any-return]
