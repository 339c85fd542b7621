"""Greenlets in the place of threads: how a bus sleeps if gevent or eventlet patched Python.

`gevent.monkey.patch_all()` and `eventlet.monkey_patch()` replace the functions of the
standard library that wait. Code that waits in a replaced function lets another greenlet
of the same thread run; code that waits in a function of C stops all greenlets. A site may
patch Python in its first line, but the bus is made before that. So `adapt` is called
after the site was loaded: it also replaces the functions in which the bus sleeps.
"""

from __future__ import annotations

import collections
import contextlib
import functools
import os
import select
import signal
import socket
import sys
import threading
import time
from queue import Empty
from types import BuiltinFunctionType

from paste_wspbus.bus.interrupts import in_main_thread, threads_are_greenlets
from paste_wspbus.errors import WSPBusError

# eventlet replaces os.read and os.write with functions that wait.
try:
    import posix as system
except ImportError:
    import os as system  # type: ignore[no-redef]

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import IO, Any, TypeVar

    from paste_wspbus.bus.bus import Bus

    T = TypeVar('T')


def thread_class(cls: type[T]) -> type[T]:
    """Return a class of threads that works after the site has patched Python.

    gevent replaces `threading.Thread`, and only threads of its class can be joined. A
    class that was made before the site patched Python does not inherit from that class.
    """
    if issubclass(cls, threading.Thread):
        return cls
    return type(cls.__name__, (cls, threading.Thread), {})


def _is_select_patched() -> bool:
    return not isinstance(select.select, BuiltinFunctionType)


def _has_sockets_of_gevent() -> bool:
    return socket.socket.__module__.startswith('gevent')


def wake(fd: int) -> None:
    """Write a byte; eventlet's `os.write` would let other greenlets run first."""
    system.write(fd, b'.')


class SelectQueue:
    """A queue whose `get` sleeps in `select.select`: if that is patched, other greenlets run.

    It has the methods of a `queue.SimpleQueue` that the bus uses. Any thread, greenlet
    and signal handler may call `put`. One greenlet at a time calls `get`.
    """

    def __init__(self) -> None:
        self._items: collections.deque[Any] = collections.deque()
        self._reader, self.writer = os.pipe()
        os.set_blocking(self._reader, False)
        os.set_blocking(self.writer, False)

    def __del__(self) -> None:
        os.close(self._reader)
        os.close(self.writer)

    def put(self, item: Any) -> None:
        """Add an item, and wake the greenlet that sleeps in `get`."""
        self._items.append(item)
        with contextlib.suppress(BlockingIOError):  # a full pipe wakes it, too
            wake(self.writer)

    def get(self, timeout: float | None = None) -> Any:
        """Remove and return the first item; sleep until there is one.

        :param timeout: seconds; None stands for no limit.
        :raises Empty: if there is no item within that time.
        """
        due = None if timeout is None else time.monotonic() + timeout
        while True:
            with contextlib.suppress(BlockingIOError):
                system.read(self._reader, 512)
            if self._items:
                return self._items.popleft()
            rest = None if due is None else due - time.monotonic()
            if rest is not None and rest <= 0:
                raise Empty
            select.select([self._reader], [], [], rest)

    def empty(self) -> bool:
        """Whether there is no item."""
        return not self._items


class Wakeups:
    """``with Wakeups():`` takes the place of `Interrupts`: a signal ends the sleep of the hub.

    The hub is the loop in which all greenlets wait. Each signal writes a byte to the
    pipe of the queue that the main greenlet sleeps in. So the hub wakes up, whichever
    thread the kernel delivers the signal to, and Python runs the handlers.

    :param queue: the queue in which the main greenlet sleeps.
    :param wake: is not used, because the byte wakes the greenlet.
    """

    def __init__(self, queue: SelectQueue, wake: object = None) -> None:
        self._queue = queue
        self._is_set = False

    def __enter__(self) -> Wakeups:
        if in_main_thread():
            previous = signal.set_wakeup_fd(
                self._queue.writer, warn_on_full_buffer=False
            )
            if previous != -1:  # the site has set it, or an outer `Wakeups`
                signal.set_wakeup_fd(previous)
            self._is_set = previous == -1
        return self

    def __exit__(self, *_: object) -> None:
        if self._is_set:
            signal.set_wakeup_fd(-1)


def lines(stream: IO[bytes]) -> Iterator[bytes]:
    """Yield the lines of a stream; other greenlets run while this waits for a line.

    :param stream: the file of a socket that was made before the site patched Python.
    """
    rest = b''
    while True:
        select.select([stream], [], [])
        came = stream.read1()  # type: ignore[attr-defined]
        if not came:
            return
        *whole, rest = (rest + came).split(b'\n')
        yield from (line + b'\n' for line in whole)


class Interruption:
    """``with Interruption(urgent):`` takes the place of `Interrupts` around a blocking server.

    :param urgent: is called in the hub after each `poke`; if it raises
        KeyboardInterrupt, this is raised in the greenlet of the ``with`` block.
    :param unheard: is not used, because the hub runs signal handlers.
    """

    def __init__(self, urgent: Callable[[], None], unheard: object = None) -> None:
        self._urgent = urgent

    def __enter__(self) -> Interruption:
        from greenlet import getcurrent

        self._greenlet = getcurrent()
        return self

    def __exit__(self, *_: object) -> None:
        self._greenlet = None

    def poke(self) -> bool:
        """Let the hub call ``urgent``, and wait for that; another greenlet calls this."""
        self._has_looked = threading.Event()
        if 'gevent' in sys.modules:
            from gevent import get_hub

            get_hub().loop.run_callback(self._look)
        else:
            from eventlet import hubs

            hubs.get_hub().schedule_call_global(0, self._look)
        self._has_looked.wait()
        return True

    def _look(self) -> None:
        self._has_looked.set()
        try:
            self._urgent()
        except KeyboardInterrupt as error:
            if self._greenlet is not None:
                self._greenlet.throw(error)


def adapt(bus: Bus, passes_connections: bool) -> None:
    """Make the bus sleep in the patched functions, if the site has patched Python.

    The main thread calls this when the site is loaded, before the start.

    :param passes_connections: whether the server accepts connections in one thread, and
        reads from them in another.
    :raises PartlyPatched: if the site has patched parts of Python that do not work together.
    """
    if threads_are_greenlets() and not _is_select_patched():
        raise PartlyPatched(
            'threading, but not select: each thread would stop all others'
        )
    if not threads_are_greenlets() and passes_connections and _has_sockets_of_gevent():
        raise PartlyPatched(
            'sockets, but not threading: this server accepts a connection in one thread '
            'and reads from it in another, and gevent forbids that'
        )
    if not _is_select_patched():
        return
    commands: Any = SelectQueue()
    bus.turn.sleep_in(commands)
    if threads_are_greenlets():
        make: Any = SelectQueue
        bus.queue_class = make
        bus.draining = threading.Event()  # requests wait for it
        bus.interrupts_class = functools.partial(Wakeups, commands)


class PartlyPatched(WSPBusError):
    """The site has patched only a part of Python, and cannot be served like this."""

    def __init__(self, what: str) -> None:
        super().__init__(what)
        self.what = what

    def __str__(self) -> str:
        return (
            f'The site has patched {self.what}. '
            'Call gevent.monkey.patch_all() or eventlet.monkey_patch()'
        )
