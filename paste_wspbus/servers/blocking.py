"""A server without an adapter: its open requests, and whether its thread answers one."""

from __future__ import annotations

import gc
import signal
import sys
import threading
import time

from paste_wspbus.bus.interrupts import threads_are_greenlets
from paste_wspbus.servers.containing import Contained
from paste_wspbus.servers.cutting import RequestInFlight, WaitsFor, describe

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from types import FrameType
    from typing import Any, NoReturn

    from paste_wspbus.bus import Bus

#: Seconds between two checks of the requests in flight.
LOOK = 0.005

#: The number of checks in a row that must find the thread of the server in one place: then
#: it waits for a connection. Fewer are not enough: on a busy machine, a thread that
#: answers a request may not move for a while, either.
STILL = 5

#: The number of checks after which the thread is interrupted although it seems busy: it
#: may never wait.
LOOKS = 50

#: Seconds of a stop after which a new request in the thread of the server gets a 503:
#: under load, that thread would answer one request after the other.
REFUSE_AFTER = 1.0

#: Seconds that a stop waits before it logs what it waits for.
PATIENCE = 2

#: An application itself raises BaseExceptions of these modules. All others belong to the
#: mechanism of a server, such as gevent's GreenletExit.
_PLAIN = frozenset({'builtins', 'asyncio.exceptions', 'concurrent.futures._base'})


class BlockingServer:
    """Any other ``server(app)``.

    The bus starts it last. It runs in the main thread until the site stops.
    """

    blocking = True
    passes_connections = False
    priority = 100
    urls: tuple[str, ...] = ()

    def __init__(self, server: Callable[[Any], object], name: str) -> None:
        self.server = server
        #: It is called with the application when the bus is STARTED, before the server;
        #: it returns whether to serve.
        self.before: Callable[[Any], bool] = lambda app: True
        self._answering: Answering | None = None
        # The log shows the name that the .ini uses.
        self.__qualname__, self.__module__ = name, '__main__'

    def __call__(self, app: Any) -> None:
        """Serve ``app`` until the server returns."""
        if not self.before(app):
            return
        self._answering = Answering(app, self.bus)
        self.server(self._answering)

    def plug_in(self, bus: Bus) -> None:
        """Attach to ``bus``, which raises KeyboardInterrupt in the server's thread to stop it.

        The bus does this between two requests.
        """
        self.bus = bus
        bus.subscribe('stop', self.stop, priority=25)

    def stop(self) -> None:
        """Wait for the requests in other threads; the server itself has returned."""
        if self._answering is not None:
            self._answering.wait_until_answered()

    def is_busy(self, frame: FrameType | None, is_inside: bool) -> bool:
        """Whether an interrupt of the server's thread could cost a request."""
        answering = self._answering
        return answering is not None and answering.is_busy(frame, is_inside)

    def cut(self) -> None:
        """Log the requests that are cut, because the time for them is over."""
        if self._answering is not None:
            self._answering.name_open_requests()


class Answering(Contained):
    """The application as the server sees it; it knows whether the server's thread answers.

    A request counts from the call of the application until its response is closed. The
    thread may be interrupted only between two requests.
    """

    wraps_lists = True

    def __init__(self, app: Any, bus: Bus) -> None:
        super().__init__(app)
        self._bus = bus
        self._thread = threading.get_ident()
        #: From the id() of each environ in this thread to the id() of the frame that
        #: calls the application.
        self._callers: dict[int, int] = {}
        # `_place`: the id() of the innermost frame at the last check, and its
        # instruction. `_looks` counts all checks; `_still` counts the last ones that
        # found the thread at this place.
        self._place, self._looks, self._still = (0, 0), 0, 0
        self._refuses_from = float('inf')
        #: The id() of each environ whose application has returned.
        self._returned: set[int] = set()

    def __call__(self, environ: dict[str, Any], start_response: Any) -> Any:
        """Answer one request (PEP 3333)."""
        key = id(environ)
        if threading.get_ident() == self._thread:
            if time.monotonic() > self._refuses_from:
                return _refuse(start_response)
            self._callers[key] = id(sys._getframe(1))
        try:
            body = super().__call__(environ, start_response)
        except BaseException:
            self._callers.pop(key, None)
            raise
        if hasattr(body, '__next__'):  # it is a `Body`, which calls `has_ended`
            self._returned.add(key)
        else:
            self._callers.pop(key, None)
        return body

    def has_ended(self, environ: dict[str, Any]) -> None:
        """Forget a response that was closed or dropped."""
        self._callers.pop(id(environ), None)
        self._returned.discard(id(environ))

    def refuse(self, error: BaseException, environ: dict[str, Any]) -> NoReturn:
        """Raise `RaisedInRequest`, or ``error`` if it is a signal handler's or the server's."""
        if type(error).__module__ not in _PLAIN or _is_of_a_signal(error):
            raise error
        super().refuse(error, environ)

    def is_busy(self, frame: FrameType | None, is_inside: bool) -> bool:
        """Whether an interrupt here could cost a request.

        It could while the thread answers a request, and while the thread moves: it may
        have accepted a connection a moment ago. A thread that waits is at the same place
        as at the last checks.

        :param frame: where the thread of the server is.
        :param is_inside: whether a signal handler in that thread calls this.
        """
        if not is_inside and self._refuses_from == float('inf'):
            self._refuses_from = time.monotonic() + REFUSE_AFTER
        if self._answers(frame):
            return True
        if is_inside:
            while frame is not None and id(frame) != self._place[0]:
                frame = frame.f_back  # skip the frames of the signal handler
        place = (id(frame), frame.f_lasti) if frame is not None else (0, 0)
        if not is_inside:
            self._looks += 1
            self._still = self._still + 1 if place == self._place else 0
            self._place = place
        is_waiting = place == self._place and self._still >= STILL
        return not is_waiting and self._looks < LOOKS

    def _answers(self, frame: FrameType | None) -> bool:
        """Whether a request is being answered in this frame of the server's thread.

        A server with greenlets may have many requests in flight in its thread while it
        waits for others: only the stack of the running greenlet counts.
        """
        if threads_are_greenlets():
            return bool(self._callers)  # the stacks of the other greenlets are not here
        callers = set(self._callers.values())
        while callers and frame is not None:
            if id(frame) in callers:
                return True
            frame = frame.f_back
        return False

    def wait_until_answered(self) -> None:
        """Wait until no request is open or the time is over; log those that are cut."""
        requests = self._bus.plugins.get('requests')
        if requests is None:
            return
        gc.collect()  # closes responses that the server has dropped: see `Body`
        patience = time.monotonic() + PATIENCE
        while requests and not self._bus.hurried:
            now = time.monotonic()
            if now > self._bus.deadline.cut_at:
                break
            if now > patience:
                patience = float('inf')
                self._bus.log(f'Stopping: requests in flight: {len(requests)}', 30)
            time.sleep(LOOK)
        self.name_open_requests()

    def name_open_requests(self) -> None:
        """Log the requests that the stop cuts.

        The exit code is 1 if an application was still computing, and nobody has hurried
        the stop.
        """
        requests = [
            self._describe(environ, since)
            for environ, since, *_ in list(
                self._bus.plugins.get('requests', {}).values()
            )
        ]
        if not requests:
            return
        is_computing = any(one.waits_for is WaitsFor.APPLICATION for one in requests)
        self._bus.log(describe(requests), level=40 if is_computing else 30)
        if is_computing and not self._bus.hurried:
            self._bus.exit_code = self._bus.exit_code or 1

    def _describe(self, environ: dict[str, Any], since: float) -> RequestInFlight:
        has_returned = id(environ) in self._returned
        path = f'{environ.get("SCRIPT_NAME", "")}{environ.get("PATH_INFO", "")}'
        return RequestInFlight(
            str(environ.get('REQUEST_METHOD', '')),
            path,
            since,
            WaitsFor.STREAM if has_returned else WaitsFor.APPLICATION,
        )


def _refuse(start_response: Any) -> list[bytes]:
    text = b'The site is stopping.\n'
    headers = [('Content-Type', 'text/plain'), ('Content-Length', str(len(text)))]
    start_response('503 Service Unavailable', headers)
    return [text]


def _is_of_a_signal(error: BaseException) -> bool:
    """Whether a signal handler raised the error.

    The handler of wspserve does it to end the server; the site may have handlers, too.
    """
    handlers = [signal.getsignal(number) for number in signal.valid_signals()]
    codes = {
        getattr(getattr(handler, '__func__', handler), '__code__', None)
        for handler in handlers
    } - {None}
    traceback = error.__traceback__
    while traceback is not None:
        if traceback.tb_frame.f_code in codes:
            return True
        traceback = traceback.tb_next
    return False
