"""The filter of requests that are watched: each has an id and a place on the scoreboard."""

from __future__ import annotations

from _thread import get_ident  # the original, before a site patches Python
from functools import partial
from itertools import chain
from time import monotonic

from paste_wspbus.bus.host import host_of
from paste_wspbus.reference import DRAINING_KEY, ENVIRON_KEY
from paste_wspbus.requests.filter import (
    STARTED,
    BusFilter,
    RequestsInFlight,
    _Body,
    _ListBody,
    _SizedBody,
)
from paste_wspbus.requests.ids import REQUEST_ID_KEY, Ids, request_id
from paste_wspbus.requests.marks import decoded
from paste_wspbus.requests.reporting import Counts
from paste_wspbus.requests.scoreboard import Phase, Scoreboard

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from typing import Any

    from paste_wspbus.bus import Bus
    from paste_wspbus.requests.filter import WSGIApp
    from paste_wspbus.requests.marks import Seconds

#: The key in ``environ`` of the time.monotonic() at which a request is overdue.
DEADLINE_KEY = 'wspbus.deadline'

#: Numbers are faster than the members of an enum.
_STREAM, _SENDING = int(Phase.STREAM), int(Phase.SENDING)


class WatchedRequests(RequestsInFlight):
    """The requests in flight, on a scoreboard, too.

    The tuples also have the place of the request there, and its number.

    Who plugs this in as ``bus.plugins['requests']`` before the application is composed
    has it wrapped in a `WatchedFilter`.
    """

    def __init__(self, board: Scoreboard | None = None) -> None:
        super().__init__()
        self.board = board or Scoreboard()
        self.ids, self.counts = Ids(), Counts()
        #: Seconds by path: what ``environ['wspbus.deadline']`` is made of.
        self.deadline: Seconds | None = None
        self.filter_class = WatchedFilter

    def finish(self, key: int, request: tuple[Any, ...] | None) -> bool:
        """End a request, unless it has ended.

        Some servers close a body twice: the second time, the key may be that of another
        request, because the environ of the first one is gone.

        :param key: the id() of its environ.
        :param request: what this dictionary has there.
        """
        if request is None:
            return False
        ident, place = request[2], request[3]
        if self.get(key) is not request or self.pop(key, None) is None:
            return False
        self.board.end(place)
        if ident == get_ident():  # else another request may run in this thread
            request_id.set('')
        return True


class WatchedFilter(BusFilter):
    """A `BusFilter` whose requests have ``environ['wspbus.request_id']``, and are watched."""

    requests: WatchedRequests

    def __init__(self, app: WSGIApp, bus: Bus) -> None:
        super().__init__(app, bus)
        requests = self.requests
        self._enters, self._finish = requests.board.enters, requests.finish

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
        key = id(environ)
        request = self._begin(environ, key)
        try:
            if bus.listeners.get('before_request'):
                bus.publish('before_request', environ)
            body = self.app(environ, start_response)
        except BaseException:
            self.end(environ)
            raise
        if type(body) is list and not bus.listeners.get('after_request'):
            self._enters(request[3], _SENDING)
            listed = _ListBody(body)
            listed.close = partial(self._finish, key, request)
            return listed
        file_wrapper = environ.get('wsgi.file_wrapper')
        if isinstance(file_wrapper, type) and isinstance(body, file_wrapper):
            self._enters(request[3], _SENDING)
            return self._ending(body, environ)
        kind = _WatchedSizedBody if hasattr(body, '__len__') else _WatchedBody
        return kind(body, environ, self)

    def _begin(self, environ: dict[str, Any], key: int) -> Any:
        """Note that a request begins; return what is noted of it."""
        requests = self.requests
        number, since, ident = self._count(), monotonic(), get_ident()
        name = environ[REQUEST_ID_KEY] = requests.ids.of(environ)
        path = f'{environ.get("SCRIPT_NAME", "")}{environ.get("PATH_INFO", "")}'
        if requests.deadline is not None:
            seconds = requests.deadline.of(decoded(path))
            if seconds:
                environ[DEADLINE_KEY] = since + seconds
        method = environ.get('REQUEST_METHOD', '')
        place = requests.board.begin(number, since, ident, method, name, path)
        requests[key] = request = environ, since, ident, place, number
        request_id.set(name)
        return request

    def end(self, environ: dict[str, Any]) -> None:
        """End a request; the server has closed the body of the response."""
        key = id(environ)
        is_done = self._finish(key, self.requests.get(key))
        if is_done and self.bus.listeners.get('after_request'):
            self.bus.publish('after_request', environ)

    def stream(self, environ: dict[str, Any]) -> None:
        """Note that the first part of a response is on its way."""
        request = self.requests.get(id(environ))
        if request is not None:
            self._enters(request[3], _STREAM)


class _WatchedBody(_Body):
    """A body that notes its first part."""

    __slots__ = ()
    _filter: WatchedFilter

    def __iter__(self) -> Iterator[bytes]:
        parts = iter(self._body)
        # After the first part, no code of ours runs between the parts.
        return chain(self._first(parts), parts)

    def _first(self, parts: Iterator[bytes]) -> Iterator[bytes]:
        for part in parts:
            if part:
                self._filter.stream(self._environ)
                yield part
                return
            yield part


class _WatchedSizedBody(_WatchedBody, _SizedBody):
    """The same, with len()."""

    __slots__ = ()
