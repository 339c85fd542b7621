"""The WSGI filter: puts the bus in environ and counts the requests in flight."""

from __future__ import annotations

import time

from paste_wspbus.bus import State
from paste_wspbus.handoff import KEY, get_bus, start_embedded

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from typing import Any

    from paste_wspbus.bus import Bus

    WSGIApp = Callable[[dict[str, Any], Callable[..., Any]], Iterable[bytes]]


class RequestsInFlight(dict):  # type: ignore[type-arg]
    """The requests that are being answered: {id: (environ, monotonic seconds)}.

    A request ends when its response's body was closed.
    """

    def report(self) -> dict[str, Any]:
        """What the 'status' channel gets: method, path and age of each, in seconds."""
        now = time.monotonic()
        return {
            'requests_in_flight': [
                f'{environ.get("REQUEST_METHOD")!a} '
                f'{environ.get("PATH_INFO")!a} {now - since:.1f} s'
                for environ, since in list(self.values())
            ]
        }


class _Body:
    """A response body whose close() ends its request."""

    __slots__ = ('_body', '_end')

    def __init__(self, body: Iterable[bytes], end: Callable[[], None]) -> None:
        self._body, self._end = body, end

    def __iter__(self) -> Iterator[bytes]:
        return iter(self._body)

    def close(self) -> None:
        try:
            close = getattr(self._body, 'close', None)
            if close is not None:
                close()
        finally:
            self._end()


class _SizedBody(_Body):
    """The same for a body whose len() a server makes Content-Length of (PEP 3333)."""

    __slots__ = ()

    def __len__(self) -> int:
        return len(self._body)  # type: ignore[arg-type]


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

    def __call__(
        self, environ: dict[str, Any], start_response: Callable[..., Any]
    ) -> Iterable[bytes]:
        """Answer one request (PEP 3333)."""
        bus = self.bus
        if environ.get(KEY) is bus:
            return self.app(environ, start_response)
        if bus.state is State.STOPPED:
            start_embedded(bus)
        environ[KEY] = bus
        key = id(environ)
        self.requests[key] = environ, time.monotonic()

        def end() -> None:
            if self.requests.pop(key, None) and bus.listeners.get('after_request'):
                bus.publish('after_request', environ)

        try:
            if bus.listeners.get('before_request'):
                bus.publish('before_request', environ)
            body = self.app(environ, start_response)
        except BaseException:
            end()
            raise
        return _wrapped(body, environ.get('wsgi.file_wrapper'), end)


def _wrapped(
    body: Iterable[bytes], file_wrapper: object, end: Callable[[], None]
) -> Iterable[bytes]:
    if isinstance(file_wrapper, type) and isinstance(body, file_wrapper):
        # The server looks for its own type, to send the file by itself.
        close = getattr(body, 'close', None)

        def close_and_end() -> None:
            try:
                if close is not None:
                    close()
            finally:
                end()

        body.close = close_and_end  # type: ignore[attr-defined]
        return body
    return (_SizedBody if hasattr(body, '__len__') else _Body)(body, end)


def make_filter(
    global_conf: dict[str, Any], **local_conf: str
) -> Callable[[WSGIApp], BusFilter]:
    """``use = egg:paste_wspbus#bus`` (paste.filter_factory); takes no settings.

    :raises TypeError: if the section has other keys.
    """
    if local_conf:
        raise TypeError(f'the bus filter takes no settings: {", ".join(local_conf)}')
    bus = get_bus(global_conf)
    return lambda app: BusFilter(app, bus)
