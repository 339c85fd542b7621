"""Threads that ride the bus: callbacks at intervals, and the threads that answer requests."""

from __future__ import annotations

import contextlib
import itertools
import sys
import threading
import weakref
from time import monotonic

from paste_wspbus.bus import State
from paste_wspbus.channels import ChannelFailures, name_of
from paste_wspbus.deadlines import stack_of
from paste_wspbus.plugins import Plugin, on

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable, Mapping
    from typing import Any

    from paste_wspbus.bus import Bus


class PerpetualTimer(threading.Timer):
    """A `threading.Timer` that calls its function again and again, until `cancel`.

    Turns come every ``interval`` seconds, however long the function takes; a
    turn that it sleeps through is left out. A failure is logged on the bus (by
    `threading.excepthook` where there is none) and counted in ``failures``.

    :param stop_on_error: whether the first failure ends it.
    """

    def __init__(
        self,
        interval: float,
        function: Callable[..., object],
        args: Iterable[Any] | None = None,
        kwargs: Mapping[str, Any] | None = None,
        bus: Bus | None = None,
        *,
        stop_on_error: bool = False,
    ) -> None:
        super().__init__(interval, function, args, kwargs)
        self.name = name_of(function)
        self.bus, self.stop_on_error = bus, stop_on_error
        self.failures = 0

    @property
    def running(self) -> bool:
        """Whether there will be another turn."""
        return self.is_alive() and not self.finished.is_set()

    def run(self) -> None:
        """Take turns until `cancel`, which may have come before."""
        due = monotonic()
        try:
            while True:
                due = next_turn(due, self.interval, monotonic())
                if self.finished.wait(due - monotonic()):
                    return
                self._take_turn()
        finally:
            self.finished.set()

    def _take_turn(self) -> None:
        try:
            self.function(*self.args, **self.kwargs)
        except SystemExit:
            self.finished.set()  # in any thread, it ends that thread
        except Exception:
            self.failures += 1
            if self.stop_on_error:
                self.finished.set()
            self._report()

    def _report(self) -> None:
        if self.bus is None:
            threading.excepthook(threading.ExceptHookArgs((*sys.exc_info(), self)))
            return
        outcome = 'it ends' if self.stop_on_error else 'it goes on'
        self.bus.log(f'Error in thread {self.name!r}: {outcome}', 40, traceback=True)


class BackgroundTask(PerpetualTimer):
    """A `PerpetualTimer` that does not keep the process alive."""

    def __init__(
        self,
        interval: float,
        function: Callable[..., object],
        args: Iterable[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
        bus: Bus | None = None,
        *,
        stop_on_error: bool = False,
    ) -> None:
        super().__init__(
            interval, function, args, kwargs, bus, stop_on_error=stop_on_error
        )
        self.daemon = True


def next_turn(due: float, interval: float, now: float) -> float:
    """When the turn after the one at ``due`` comes, all in seconds of one clock.

    If that is past already: when the next one in the same rhythm does.
    """
    due += interval
    if due < now and interval > 0:
        due += ((now - due) // interval + 1) * interval
    return due


class Monitor(Plugin):
    """Calls ``callback`` every ``frequency`` seconds, in a thread of its own.

    ``failures``: how many calls failed; each is logged. ``thread``: a
    `BackgroundTask`, or None. ``callback`` may be changed at any time,
    ``frequency`` takes effect at the next start or graceful.

    :param frequency: seconds between calls; 0 or less: do not run.
    :param name: of the thread; the callback's name if None.
    :param stop_on_error: whether the first failure ends it.
    """

    #: Seconds that `stop` waits for a call that is under way.
    join_timeout: float = 5

    def __init__(
        self,
        bus: Bus,
        callback: Callable[[], object],
        frequency: float = 60,
        name: str | None = None,
        *,
        stop_on_error: bool = False,
    ) -> None:
        super().__init__(bus)
        self.callback, self.frequency, self.name = callback, frequency, name
        self.stop_on_error = stop_on_error
        self.failures = 0
        self.thread: BackgroundTask | None = None
        self._lock = threading.RLock()

    @on('start', priority=70)
    def start(self) -> None:
        """Start the thread, if it does not run.

        :raises RuntimeError: if the system gives no thread.
        """
        if self.frequency <= 0:
            return
        name = self.name or name_of(self.callback)
        with self._lock:
            # One that failed, or that a fork left behind, has ended.
            if self.thread is not None and self.thread.is_alive():
                self.bus.log(f'Monitor thread {name!r} already started.')
                return
            self.thread = self._begin(name)

    def _begin(self, name: str) -> BackgroundTask | None:
        task = BackgroundTask(
            self.frequency, self._call, bus=self.bus, stop_on_error=self.stop_on_error
        )
        task.name = name
        try:
            task.start()
        except RuntimeError as error:
            # Python 3.12 and later give no thread to a process that ends.
            if 'shutdown' not in str(error):
                raise
            self.bus.log(f'Monitor thread {name!r} not started: {error}.')
            return None
        self.bus.log(f'Started monitor thread {name!r}.')
        return task

    def _call(self) -> None:
        try:
            self.callback()
        except Exception:
            self.failures += 1
            raise

    @on('stop')
    def stop(self) -> None:
        """Stop the thread; wait for a call that is under way, unless this is it.

        One that takes longer than ``join_timeout`` is logged with its stack.
        """
        with self._lock:
            task, self.thread = self.thread, None
        if task is None:
            return
        task.cancel()
        if task is not threading.current_thread():
            task.join(0 if self.bus.hurried else self.join_timeout)
            if task.is_alive():
                self.bus.log(
                    f'Thread {task.name!r} does not end; it is left behind here:\n'
                    f'{stack_of(task)}',
                    level=40,
                )
                return
        self.bus.log(f'Stopped thread {task.name!r}.')

    @on('graceful')
    def graceful(self) -> None:
        """Stop the thread and start a new one."""
        with self._lock:  # the callback may ask for it while start() is at work
            wanted = self.thread is not None or self.bus.state is State.STARTED
        self.stop()
        if wanted:
            self.start()


class _Mark:
    """Lies in one thread's own storage, and ends with that thread.

    Idents are used again, and a thread that was not made by Python has no
    Thread object of its own (`threading.current_thread`).
    """

    __slots__ = ('__weakref__',)


class ThreadManager(Plugin):
    """Knows the threads that answer requests, and tells each one's begin and end.

    Servers publish 'acquire_thread' in each thread, once or before every
    request, and 'release_thread' in it when it ends. Of these, 'start_thread'
    and 'stop_thread' are made, once a thread, with its index: the lowest that
    is free, from 1. What was not released is told at 'stop' and 'graceful';
    after 'graceful', a thread is acquired anew with its next request.

    ``threads``: {ident: index}.
    """

    def __init__(self, bus: Bus) -> None:
        super().__init__(bus)
        self.threads: dict[int, int] = {}
        self._marks: dict[int, weakref.ref[_Mark]] = {}
        # An index is free again when 'stop_thread' was told.
        self._used: set[int] = set()
        self._again: weakref.WeakSet[_Mark] = weakref.WeakSet()
        self._own = threading.local()
        self._lock = threading.RLock()
        # CherryPy's SimplePlugin subscribes to channels that it finds.
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
                with self._lock:  # not before: nobody is to tell its end first
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
        """Publish 'stop_thread' for all that were not released.

        On 'exit' for those that came later than 'stop'.

        :raises ChannelFailures: if listeners failed.
        """
        with self._lock:
            self._again.clear()
            taken = self._take(list(self.threads))
        self._tell_stopped(taken)

    @on('graceful')
    def graceful(self) -> None:
        """Publish 'stop_thread' for all, and 'start_thread' in each that goes on.

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
        # A listener only until the threads of before 'graceful' came by.
        mark = self._mark()
        with self._lock:
            wanted = mark in self._again
            self._again.discard(mark)
            if not self._again:
                self.bus.unsubscribe('before_request', self._acquire_again)
        if wanted:
            with contextlib.suppress(ChannelFailures):  # each is in the log
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
        """Indexes of threads that ended without 'release_thread'."""
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
    """A server's thread, from its begin to its end, as the bus is told of it.

    Publishes 'acquire_thread' first and 'release_thread' last. What a listener
    raises is logged and stays in here: the server counts on its thread.
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
        pass  # each is in the log
    except (Exception, SystemExit):
        bus.log(f'Error in {channel!r} listener', level=40, traceback=True)
