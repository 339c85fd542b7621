"""The filter of requests that are watched: each has an id and a place on the scoreboard."""

from __future__ import annotations

from _thread import get_ident  # the original, before a site patches Python
from itertools import chain
from time import monotonic

from paste_wspbus.reference import REQUEST_ID_KEY
from paste_wspbus.requests.filter import (
    BusFilter,
    RequestsInFlight,
    _Body,
    _SizedBody,
)
from paste_wspbus.requests.ids import Ids, request_id
from paste_wspbus.requests.marks import decoded
from paste_wspbus.requests.reporting import Counts
from paste_wspbus.requests.scoreboard import TIMED, Scoreboard

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from typing import Any

    from paste_wspbus.bus import Bus
    from paste_wspbus.requests.filter import WSGIApp
    from paste_wspbus.requests.marks import Seconds
    from paste_wspbus.requests.scoreboard import Entry

#: The key in ``environ`` of the time.monotonic() at which a request is overdue.
DEADLINE_KEY = 'wspbus.deadline'


class WatchedRequests(RequestsInFlight):
    """The requests in flight, on a scoreboard, too.

    The tuples also have the place of the request there, and its number.

    If this is ``bus.plugins['requests']`` before the application is composed, a
    `WatchedFilter` wraps the application.
    """

    def __init__(self, board: Scoreboard | None = None) -> None:
        super().__init__()
        self.board = board or Scoreboard()
        self.ids, self.counts = Ids(), Counts()
        #: The numbers of the requests in flight that are past their deadline; a `RequestWatch`
        #: notes them.
        self.overdue: set[int] = set()
        #: Seconds by path: what ``environ['wspbus.deadline']`` is made of.
        self.deadline: Seconds | None = None
        self.filter_class = WatchedFilter

    def past_deadline(self) -> list[Entry]:
        """Return the requests that still compute after their deadline, the oldest first."""
        if not self.overdue:
            return []
        return sorted(
            (
                entry
                for entry in self.board.read()
                if entry.number in self.overdue and entry.phase in TIMED
            ),
            key=lambda entry: entry.since,
        )

    def finish(self, key: int) -> bool:
        """End a request, unless it has ended: some servers close a body twice.

        :param key: the id() of its environ, which the caller still has.
        """
        request = self.pop(key, None)
        if request is None:
            return False
        self.board.end(request[3])
        return True


class _WatchedBody(_Body):
    """A body that notes its first part, and that the server closes it."""

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

    def close(self) -> None:
        self._filter.closes(self._environ)
        super().close()


class _WatchedSizedBody(_WatchedBody, _SizedBody):
    """The same, with len()."""

    __slots__ = ()


class WatchedFilter(BusFilter):
    """A `BusFilter` whose requests have ``environ['wspbus.request_id']``, and are watched."""

    requests: WatchedRequests

    _kinds = _WatchedBody, _WatchedSizedBody

    def __init__(self, app: WSGIApp, bus: Bus) -> None:
        super().__init__(app, bus)
        self.board: Scoreboard = self.requests.board

    def _begin(self, environ: dict[str, Any]) -> int:
        """Note that a request begins; return its place on the scoreboard."""
        requests = self.requests
        number, since, ident = self._count(), monotonic(), get_ident()
        if 'HTTP_X_REQUEST_ID' in environ or 'HTTP_TRACEPARENT' in environ:
            name = requests.ids.of(environ)
        else:
            name = requests.ids.new()
        environ[REQUEST_ID_KEY] = name
        path = environ.get('SCRIPT_NAME', '') + environ.get('PATH_INFO', '')
        if requests.deadline is not None:
            seconds = requests.deadline.of(decoded(path))
            if seconds:
                environ[DEADLINE_KEY] = since + seconds
        method = environ.get('REQUEST_METHOD', '')
        place = self.board.begin(number, since, f'{name} {method} {path}')
        key = id(environ)
        requests[key] = environ, since, ident, place, number
        request_id.set((requests, key, number))
        return place

    def stream(self, environ: dict[str, Any]) -> None:
        """Note that the first part of a response is on its way."""
        request = self.requests.get(id(environ))
        if request is not None:
            self.board.streams(request[3])

    def closes(self, environ: dict[str, Any]) -> None:
        """Note that the server closes a response."""
        request = self.requests.get(id(environ))
        if request is not None:
            self.board.closes(request[3])

    def _ending(self, body: Any, environ: dict[str, Any]) -> Iterable[bytes]:
        ending: Any = super()._ending(body, environ)
        close = ending.close

        def note_and_close() -> None:
            self.closes(environ)
            close()

        ending.close = note_and_close
        return ending  # type: ignore[no-any-return]
