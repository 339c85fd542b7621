"""The WSGI filter: puts the bus in environ and counts the requests in flight."""

from __future__ import annotations

from functools import partial
from time import monotonic

from paste_wspbus.bus import State
from paste_wspbus.frameworks import introduce
from paste_wspbus.handoff import KEY, get_bus, start_embedded

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from typing import Any

    from paste_wspbus.bus import Bus

    WSGIApp = Callable[[dict[str, Any], Callable[..., Any]], Iterable[bytes]]


#: A member of an Enum costs a slow look-up for each request.
STARTED = State.STARTED


def _path(environ: dict[str, Any]) -> str:
    """What was asked for, whoever has moved a part of it from one to the other."""
    return f'{environ.get("SCRIPT_NAME", "")}{environ.get("PATH_INFO", "")}'


class RequestsInFlight(dict):  # type: ignore[type-arg]
    """The requests that are being answered: {id: (environ, monotonic seconds)}.

    A request ends when its response's body was closed.
    """

    def report(self) -> dict[str, Any]:
        """What the 'status' channel gets: method, path and age of each, in seconds."""
        now = monotonic()
        return {
            'requests_in_flight': [
                f'{environ.get("REQUEST_METHOD")!a} {_path(environ)!a} {now - since:.1f} s'
                for environ, since in list(self.values())
            ]
        }


class _Body:
    """A response body whose close() ends its request."""

    __slots__ = ('_body', '_environ', '_filter')

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
    """The same for a body whose len() a server makes Content-Length of (PEP 3333)."""

    __slots__ = ()

    def __len__(self) -> int:
        return len(self._body)  # type: ignore[arg-type]


class _ListBody(list):  # type: ignore[type-arg]
    """The same for a list, without a line of Python between its items and its end.

    Under load this served about 2 % more requests than `_SizedBody`
    (benchmarks/throughput.py); perhaps because less runs behind the response.
    """

    __slots__ = ('close',)

    close: Callable[[], object]


class BusFilter:
    """Wraps ``app``: ``environ['wspbus']`` is the bus, in every request.

    Publishes 'before_request' and 'after_request' (each with environ) where
    somebody listens. Inside another BusFilter on the same bus it does nothing.
    """

    def __init__(self, app: WSGIApp, bus: Bus) -> None:
        self.app, self.bus = app, bus
        requests = bus.plugins.get('requests')
        if requests is None:
            requests = bus.plugins['requests'] = RequestsInFlight()
            bus.subscribe('status', requests.report)
        self.requests: RequestsInFlight = requests
        self._forget = requests.pop

    def __call__(
        self, environ: dict[str, Any], start_response: Callable[..., Any]
    ) -> Iterable[bytes]:
        """Answer one request (PEP 3333)."""
        bus = self.bus
        if environ.get(KEY) is bus:
            return self.app(environ, start_response)
        if bus.state is not STARTED:
            start_embedded(bus)
        environ[KEY] = bus
        self.requests[id(environ)] = environ, monotonic()
        try:
            if bus.listeners.get('before_request'):
                bus.publish('before_request', environ)
            body = self.app(environ, start_response)
        except BaseException:
            self.end(environ)
            raise
        if type(body) is list and not bus.listeners.get('after_request'):
            listed = _ListBody(body)
            listed.close = partial(self._forget, id(environ), None)
            return listed
        file_wrapper = environ.get('wsgi.file_wrapper')
        if isinstance(file_wrapper, type) and isinstance(body, file_wrapper):
            return self._ending(body, environ)
        return (_SizedBody if hasattr(body, '__len__') else _Body)(body, environ, self)

    def end(self, environ: dict[str, Any]) -> None:
        """The response's body was closed."""
        if self.requests.pop(id(environ), None) is None:
            return  # closed twice
        if self.bus.listeners.get('after_request'):
            self.bus.publish('after_request', environ)

    def _ending(self, body: Any, environ: dict[str, Any]) -> Iterable[bytes]:
        """A file that the server sends by itself: it looks for its own type."""
        close = getattr(body, 'close', None)

        def close_and_end() -> None:
            try:
                if close is not None:
                    close()
            finally:
                self.end(environ)

        body.close = close_and_end
        return body  # type: ignore[no-any-return]


def make_filter(
    global_conf: dict[str, Any], **local_conf: str
) -> Callable[[WSGIApp], BusFilter]:
    """``use = egg:paste_wspbus#bus`` (paste.filter_factory); takes no settings.

    :raises TypeError: if the section has other keys.
    """
    if local_conf:
        raise TypeError(f'the bus filter takes no settings: {", ".join(local_conf)}')
    bus = get_bus(global_conf)

    def wrap(app: WSGIApp) -> BusFilter:
        if getattr(bus, 'exits_with_process', False):  # no command will do it
            introduce(app, bus)
        wrapped = BusFilter(app, bus)
        composed = getattr(bus, 'composed', None)
        if composed is not None:  # of a host that starts it as soon as it can
            composed()
        return wrapped

    return wrap
