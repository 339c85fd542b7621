"""The threads that answer requests: the bus publishes when each of them begins and ends."""

from __future__ import annotations

import contextlib
import itertools
import threading
import weakref

from paste_wspbus.bus.channels import ChannelFailures
from paste_wspbus.plugins import Plugin, on

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Generator, Iterable
    from typing import Any

    from paste_wspbus.bus import Bus
    from paste_wspbus.plugins.timers import BackgroundTask as BackgroundTask
    from paste_wspbus.plugins.timers import Monitor as Monitor
    from paste_wspbus.plugins.timers import PerpetualTimer as PerpetualTimer


#: These classes were in this module and are in `timers` now: most starts do not need them.
_TIMERS = ('BackgroundTask', 'Monitor', 'PerpetualTimer')


def __getattr__(name: str) -> Any:
    """Return a class of `timers` (PEP 562)."""
    if name not in _TIMERS:
        raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
    from paste_wspbus.plugins import timers

    return getattr(timers, name)


class _Mark:
    """An object that only the `threading.local` of one thread holds: it ends with the thread.

    It identifies the thread. An ident cannot do that, because the system uses idents
    again; and a thread that Python has not made has no Thread object
    (`threading.current_thread`).
    """

    __slots__ = ('__weakref__',)


class ThreadManager(Plugin):
    """Knows the threads that answer requests, and publishes when each begins and ends.

    Servers publish 'acquire_thread' in each thread, once or before every request, and
    'release_thread' when the thread ends. From these messages, this plugin makes one
    'start_thread' and one 'stop_thread' for each thread, with the index of the thread:
    the lowest free number from 1. At 'stop' and 'graceful' it publishes 'stop_thread' for
    the threads that were not released. After 'graceful', the next request of a thread
    acquires the thread anew.

    ``threads`` is {ident: index}.
    """

    def __init__(self, bus: Bus) -> None:
        super().__init__(bus)
        self.threads: dict[int, int] = {}
        self._marks: dict[int, weakref.ref[_Mark]] = {}
        # An index is free again when 'stop_thread' has been published.
        self._used: set[int] = set()
        self._again: weakref.WeakSet[_Mark] = weakref.WeakSet()
        self._own = threading.local()
        self._lock = threading.RLock()
        # CherryPy's SimplePlugin subscribes only to channels that exist.
        for thread in (
            'acquire_thread',
            'start_thread',
            'release_thread',
            'stop_thread',
        ):
            bus.listeners.setdefault(thread, set())

    def unsubscribe(self) -> None:
        """Unplug."""
        super().unsubscribe()
        self.bus.unsubscribe('before_request', self._acquire_again)

    @on('acquire_thread')
    def acquire_thread(self) -> None:
        """Publish 'start_thread' for this thread, if it is new.

        :raises ChannelFailures: if listeners failed.
        """
        ident, mark = threading.get_ident(), self._mark()
        if self._is_known(ident, mark):
            return
        try:
            self._tell_stopped(self._take_ended())
        finally:
            with self._lock:
                index = next(i for i in itertools.count(1) if i not in self._used)
                self._used.add(index)
            try:
                self.bus.publish('start_thread', index)
            finally:
                with self._lock:  # only now: 'stop_thread' must not come first
                    self.threads[ident], self._marks[ident] = index, weakref.ref(mark)

    @on('release_thread')
    def release_thread(self) -> None:
        """Publish 'stop_thread' for this thread, if it was acquired.

        :raises ChannelFailures: if listeners failed.
        """
        ident, mark = threading.get_ident(), self._mark()
        with self._lock:
            self._again.discard(mark)
            taken = self._take([ident]) if self._is_known(ident, mark) else []
        self._tell_stopped(taken)

    @on('stop')
    @on('exit')
    def stop(self) -> None:
        """Publish 'stop_thread' for all threads that were not released.

        On 'exit', these are the threads that came after 'stop'.

        :raises ChannelFailures: if listeners failed.
        """
        with self._lock:
            self._again.clear()
            taken = self._take(list(self.threads))
        self._tell_stopped(taken)

    @on('graceful')
    def graceful(self) -> None:
        """Publish 'stop_thread' for all threads, and 'start_thread' at their next requests.

        :raises ChannelFailures: if listeners failed.
        """
        with self._lock:
            marks = [known() for known in self._marks.values()]
            self._again.update(mark for mark in marks if mark is not None)
            taken = self._take(list(self.threads))
        try:
            self._tell_stopped(taken)
        finally:
            if self._again:
                self.bus.subscribe('before_request', self._acquire_again)

    def _acquire_again(self, *args: object) -> None:
        # This listens until each thread from before 'graceful' has called it or ended.
        mark = self._mark()
        with self._lock:
            wanted = mark in self._again
            self._again.discard(mark)
            if not self._again:
                self.bus.unsubscribe('before_request', self._acquire_again)
        if wanted:
            with contextlib.suppress(ChannelFailures):  # the log has each error
                self.acquire_thread()

    def _mark(self) -> _Mark:
        mark: _Mark | None = getattr(self._own, 'mark', None)
        if mark is None:
            mark = self._own.mark = _Mark()
        return mark

    def _is_known(self, ident: int, mark: _Mark) -> bool:
        known = self._marks.get(ident)
        return known is not None and known() is mark

    def _take_ended(self) -> list[int]:
        """Return the indexes of the threads that have ended without 'release_thread'."""
        with self._lock:
            marks = list(self._marks.items())
            return self._take([ident for ident, known in marks if known() is None])

    def _take(self, idents: Iterable[int]) -> list[int]:
        for ident in idents:
            self._marks.pop(ident, None)
        return [self.threads.pop(ident) for ident in idents if ident in self.threads]

    def _tell_stopped(self, indexes: Iterable[int]) -> None:
        failures = ChannelFailures()
        for index in indexes:
            try:
                self.bus.publish('stop_thread', index)
            except ChannelFailures as failed:
                failures.add(failed)
            finally:
                with self._lock:
                    self._used.discard(index)
        if failures:
            raise failures


@contextlib.contextmanager
def acquired(bus: Bus) -> Generator[None]:
    """Publish 'acquire_thread' now, and 'release_thread' at the end of the ``with`` block.

    A server's thread runs inside the block. What a listener raises is logged, and not
    raised here, because the server needs its thread.
    """
    _tell(bus, 'acquire_thread')
    try:
        yield
    finally:
        _tell(bus, 'release_thread')


def _tell(bus: Bus, channel: str) -> None:
    try:
        bus.publish(channel)
    except ChannelFailures:
        pass  # the log has each error
    except BaseException:
        bus.log(f'Error in {channel!r} listener', level=40, traceback=True)
