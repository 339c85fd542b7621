"""The loop of a process with one thread; it serves requests, descriptors, timers, signals."""

from __future__ import annotations

import contextlib
import heapq
import itertools
import selectors
import signal
import socket
import time
from collections import deque
from queue import Empty

from paste_wspbus.bus.turn import is_interrupt

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    #: The time.monotonic() at which it is due, a number, and the function.
    Timer = tuple[float, int, Callable[[], None]]


class Events:
    """A bus's queue (put, get, empty) whose get() also serves descriptors, timers, signals.

    It is for a process with one thread, which may fork at any time. The ``data`` of each
    key in ``selector`` is called when its descriptor is ready.
    """

    def __init__(self) -> None:
        self.selector = selectors.DefaultSelector()
        #: It is called with what a function of the loop raises, and with the function, while
        #: that is handled. None: what a function raises ends the loop.
        self.failed: Callable[[BaseException, Callable[..., object]], None] | None = (
            None
        )
        #: It is called after each signal.
        self.woken: Callable[[], None] = lambda: None
        #: They are called before each sleep.
        self.before_sleep: list[Callable[[], None]] = []
        #: What is called again and again.
        self.repeats: list[Repeat] = []
        self.requests: deque[Any] = deque()
        self._timers: list[Timer] = []
        self._numbers = itertools.count()
        self._entered = False
        self._reader, self._writer = socket.socketpair()
        self._reader.setblocking(False)
        self._writer.setblocking(False)
        self.selector.register(self._reader, selectors.EVENT_READ, self._drain)

    def put(self, request: Any) -> None:
        """Queue a request; signal handlers may call this."""
        self.requests.append(request)
        with contextlib.suppress(OSError):  # a full socket wakes the loop, too
            self._writer.send(b'.')

    def empty(self) -> bool:
        """Whether there is no request."""
        return not self.requests

    def get(self, timeout: float | None = None) -> Any:
        """Wait for a request; raise queue.Empty after ``timeout`` seconds."""
        until = None if timeout is None else time.monotonic() + timeout
        while not self.requests:
            remaining = None if until is None else until - time.monotonic()
            if remaining is not None and remaining <= 0:
                raise Empty
            self.step(remaining)
        return self.requests.popleft()

    def step(self, timeout: float | None = None) -> None:
        """Sleep until something happens, at most ``timeout`` seconds, and handle it."""
        self.run(self._step, timeout)

    def _step(self, timeout: float | None) -> None:
        self.about_to_sleep()
        if self._timers:
            due = max(self._timers[0][0] - time.monotonic(), 0)
            timeout = due if timeout is None else min(timeout, due)
        self.run(self._serve, timeout)
        while self._timers and self._timers[0][0] <= time.monotonic():
            self.run(heapq.heappop(self._timers)[2])

    def _serve(self, timeout: float | None) -> None:
        for key, _ in self.selector.select(timeout):
            # The function before may have closed this descriptor.
            if (self.selector.get_map() or {}).get(key.fd) is key:
                self.run(key.data)

    def run(self, function: Callable[..., object], *args: Any) -> None:
        """Call a function whose failure must not end the loop, if there is `failed`.

        An interrupt (`is_interrupt`) is raised in any case.
        """
        try:
            function(*args)
        except BaseException as error:
            if self.failed is None or is_interrupt(error):
                raise
            self.failed(error, function)

    def about_to_sleep(self) -> None:
        """Call all functions that are called before each sleep."""
        for function in self.before_sleep:
            self.run(function)

    def call_later(self, seconds: float, function: Callable[[], None]) -> Timer:
        """Make `step` call ``function`` after ``seconds``; return the timer for `cancel`."""
        timer = time.monotonic() + seconds, next(self._numbers), function
        heapq.heappush(self._timers, timer)
        return timer

    def cancel(self, timer: Timer) -> None:
        """Cancel a timer; do nothing if its function was called already."""
        with contextlib.suppress(ValueError):
            self._timers.remove(timer)
            heapq.heapify(self._timers)

    def awaits(self, timer: Timer) -> bool:
        """Whether the function of a timer is still to be called."""
        return timer in self._timers

    def _drain(self) -> None:
        with contextlib.suppress(BlockingIOError):
            while self._reader.recv(4096):
                pass
        self.woken()

    def __enter__(self) -> Events:
        """Make signals wake `step` from now on."""
        signal.set_wakeup_fd(self._writer.fileno(), warn_on_full_buffer=False)
        self._entered = True
        return self

    def __exit__(self, *_: object) -> None:
        if self._entered:
            self._entered = False
            signal.set_wakeup_fd(-1)

    def close(self) -> None:
        """Close the descriptors; signals are no longer written to them."""
        self.__exit__()
        self.selector.close()
        self._reader.close()
        self._writer.close()


class Repeat:
    """Calls ``function`` every ``seconds`` in the loop, until it returns False or `end`.

    If it fails once, it is called again, too.
    """

    def __init__(
        self, events: Events, seconds: float, function: Callable[[], bool]
    ) -> None:
        self._events, self._seconds, self._function = events, seconds, function
        self._timer: Timer | None = None
        events.repeats.append(self)
        self.wait()

    def wait(self) -> None:
        """Wait for the next call, if nothing does: its timer may have been lost in a failure."""
        waits = self._timer is not None and self._events.awaits(self._timer)
        if self in self._events.repeats and not waits:
            self._timer = self._events.call_later(self._seconds, self._call)

    def _call(self) -> None:
        if self not in self._events.repeats:
            return
        goes_on = True
        try:
            goes_on = self._function()
        finally:
            if goes_on:
                self.wait()
            else:
                self.end()

    def end(self) -> None:
        """End the repetition."""
        with contextlib.suppress(ValueError):
            self._events.repeats.remove(self)
