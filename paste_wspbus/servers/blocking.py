"""The requests of a server that nobody knows: which are open, and whether its thread answers one."""

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
    from types import FrameType
    from typing import Any, NoReturn

    from paste_wspbus.bus import Bus

#: Seconds between two looks at the requests in flight.
LOOK = 0.005

#: The number of looks that find the thread of the server in one place if it waits for a
#: connection. On a busy machine, a thread that works may not move for a while, either.
STILL = 5

#: The number of looks for a moment in which the thread waits; then it is interrupted
#: anyway, for it may never wait.
LOOKS = 50

#: Seconds of a stop after which a new request in the thread of the server gets a 503:
#: under load, that thread would answer one after the other.
REFUSE_AFTER = 1.0

#: Seconds that a stop waits in silence.
PATIENCE = 2

#: The modules of what an application raises by itself. Other BaseExceptions belong to the
#: machinery of a server, such as gevent's GreenletExit.
_PLAIN = frozenset({'builtins', 'asyncio.exceptions', 'concurrent.futures._base'})


class Answering(Contained):
    """The application as the server sees it: it knows whether the server's thread answers.

    A request counts from the call of the application until its response is closed. To be
    interrupted, the thread must be between two requests.
    """

    wraps_lists = True

    def __init__(self, app: Any, bus: Bus) -> None:
        super().__init__(app)
        self._bus = bus
        self._thread = threading.get_ident()
        #: For the id() of each environ in this thread, that of the frame that calls us.
        self._callers: dict[int, int] = {}
        # The innermost frame at the last look, and the instruction there; the number of
        # looks, and of the last ones that found it there.
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
        if hasattr(body, '__next__'):  # it is ours, and says when it has ended
            self._returned.add(key)
        else:
            self._callers.pop(key, None)
        return body

    def has_ended(self, environ: dict[str, Any]) -> None:
        """Forget a response that was closed or dropped."""
        self._callers.pop(id(environ), None)
        self._returned.discard(id(environ))

    def refuse(self, error: BaseException, environ: dict[str, Any]) -> NoReturn:
        """Raise `RaisedInRequest`, but raise on what the application did not raise by itself."""
        if type(error).__module__ not in _PLAIN or _is_of_a_signal(error):
            raise error
        super().refuse(error, environ)

    def is_busy(self, frame: FrameType | None, is_inside: bool) -> bool:
        """Whether an interrupt here could cost a request.

        So it is while the thread answers one, and while it moves: it may have accepted a
        connection a moment ago. A thread that waits is where it was at the last looks.

        :param frame: where the thread of the server is.
        :param is_inside: whether a signal handler in that thread asks.
        """
        if not is_inside and self._refuses_from == float('inf'):
            self._refuses_from = time.monotonic() + REFUSE_AFTER
        if self._answers(frame):
            return True
        if is_inside:
            while frame is not None and id(frame) != self._place[0]:
                frame = frame.f_back  # the frames of the signal handler
        place = (id(frame), frame.f_lasti) if frame is not None else (0, 0)
        if not is_inside:
            self._looks += 1
            self._still = self._still + 1 if place == self._place else 0
            self._place = place
        is_waiting = place == self._place and self._still >= STILL
        return not is_waiting and self._looks < LOOKS

    def _answers(self, frame: FrameType | None) -> bool:
        """Whether a request is being answered in this frame of the server's thread.

        A server of greenlets may have many requests in flight in its thread while it waits
        for others: what counts is the stack of the greenlet that runs.
        """
        if threads_are_greenlets():
            return bool(self._callers)  # of one greenlet, whose stack nobody can see
        callers = set(self._callers.values())
        while callers and frame is not None:
            if id(frame) in callers:
                return True
            frame = frame.f_back
        return False

    def wait_until_answered(self) -> None:
        """Wait until no request is open, or the time for that is over; then name them."""
        requests = self._bus.plugins.get('requests')
        if requests is None:
            return
        gc.collect()  # closes what a server has dropped: see `Body`
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
            for environ, since in list(self._bus.plugins.get('requests', {}).values())
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
    """Whether a signal handler has raised it: ours, which ends the server, or the site's."""
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
