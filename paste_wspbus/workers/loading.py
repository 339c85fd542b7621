"""A load that takes long, under ``--reload``: what the terminal says, and what browsers show."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import time

# The originals, before a site patches Python.
from _thread import allocate_lock, get_ident, start_new_thread

from paste_wspbus.bus.interrupts import in_main_thread
from paste_wspbus.bus.places import place_in_site
from paste_wspbus.role import LOADING, Role
from paste_wspbus.workers.children import WorkerFailed

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Generator
    from types import FrameType
    from typing import Any

    from paste_wspbus.process.supervised_report import SupervisedReport
    from paste_wspbus.watching.loop import Timer
    from paste_wspbus.workers.handle import WorkerHandle
    from paste_wspbus.workers.supervisor import Supervisor

#: Seconds of a load after which the terminal and browsers say that it is not over.
LONG = 2.0

#: Seconds before that at which the supervisor first asks for the place; and seconds
#: between two such questions.
BEFORE, EVERY = 0.1, 1.0

#: By this signal the supervisor asks a process where its load is. A process that has no
#: handler ignores it, and few sites have one.
ASKS = getattr(signal, 'SIGWINCH', None)


def line(place: str) -> str:
    """Return what the terminal says of a load that takes long; ``place`` is '' or a line."""
    where = f', and is at {place}' if place else ''
    return f'The site has been loading for {LONG:g} s{where}'


@contextlib.contextmanager
def told_by_itself(show: Callable[[str], object]) -> Generator[None]:
    """Print that the load in the ``with`` block takes long: nobody watches this process.

    A thread does that, and not a signal: SIGALRM may be the site's.

    :param show: prints a line for the developer.
    """
    over, loads = allocate_lock(), get_ident()
    over.acquire()

    def watch() -> None:
        if not over.acquire(timeout=LONG):
            show(line(place_in_site(sys._current_frames().get(loads))))

    with contextlib.suppress(RuntimeError):  # the system starts no more threads
        start_new_thread(watch, ())
    try:
        yield
    finally:
        over.release()


class Loading:
    """Watches the load of the site; if it takes long, another process answers browsers.

    :param show: prints a line for the developer.
    """

    def __init__(self, supervisor: Supervisor, show: Callable[[str], object]) -> None:
        self._supervisor, self._show = supervisor, show
        self._events = supervisor.events
        #: The time.monotonic() at which the load has begun, and the line where it is.
        self._since, self._place = 0.0, ''
        self._page: WorkerHandle | None = None
        self._timers: list[Timer] = []
        supervisor.children.hear('loads', self._hear)
        supervisor.children.hear('ready', self._is_ready)

    @contextlib.contextmanager
    def watched(self) -> Generator[None]:
        """Watch the load that the ``with`` block waits for."""
        self._since, self._place = time.monotonic(), ''
        self._timers = [
            self._events.call_later(LONG - BEFORE, self._ask),
            self._events.call_later(LONG, self._tell),
        ]
        try:
            yield
        finally:
            if self._supervisor.bus.pid == os.getpid():  # not in a process forked here
                self._end()

    def _end(self) -> None:
        for timer in self._timers:
            self._events.cancel(timer)
        page, self._page = self._page, None
        if page is not None and not page.ended:
            page.is_asked_to_leave()
            page.tell('make_way')

    def _ask(self) -> None:
        if ASKS is None:
            return
        for worker in self._supervisor.current.values():
            if not worker.was_ready:
                worker.signal(ASKS)

    def _ask_again(self) -> None:
        self._ask()
        self._timers[0] = self._events.call_later(EVERY, self._ask_again)

    def _hear(self, worker: WorkerHandle, message: dict[str, Any]) -> None:
        if self._supervisor.current.get(worker.name) is worker:
            self._place = message['loads']
            self._update()

    def _update(self) -> None:
        if self._page is not None:
            self._page.tell('show', self._since, self._place)

    def _tell(self) -> None:
        """Say that the load takes long, and start the process that shows it."""
        server = self._supervisor.server
        if server is None or not server.sockets:
            self._show(self._line)
            return
        self._ask_again()
        try:
            self._page = self._supervisor.children.spawn(
                Role(LOADING), None, self._supervisor.plan.start_timeout
            )
        except WorkerFailed as failed:
            self._supervisor.bus.log(str(failed), 40)
        self._update()

    @property
    def _line(self) -> str:
        return line(self._place)

    def _is_ready(self, worker: WorkerHandle, message: dict[str, Any]) -> None:
        if worker is self._page:
            self._show(f'{self._line}. Browsers show where it is; other requests wait')


class Whereabouts:
    """Answers, in the process that loads the site, the supervisor's question where it is.

    The answer comes from a signal handler. It runs while the code of the site waits or
    computes, but not inside a call of C code that does not return.
    """

    def __init__(self, report: SupervisedReport) -> None:
        self._report = report
        self._listens = ASKS is not None and signal.getsignal(ASKS) == signal.SIG_DFL
        if self._listens:
            signal.signal(ASKS, self._answer)  # type: ignore[arg-type]

    def _answer(self, signum: int, frame: FrameType | None) -> None:
        if self._listens:
            self._report.loads(place_in_site(frame))

    def end(self) -> None:
        """Answer no more, because the site is about to serve.

        A server that runs in the main thread has another thread call this. Then the
        handler stays, and does nothing.
        """
        was, self._listens = self._listens, False
        is_there = was and signal.getsignal(ASKS) == self._answer  # type: ignore[arg-type]
        if is_there and in_main_thread():
            signal.signal(ASKS, signal.SIG_DFL)  # type: ignore[arg-type]
