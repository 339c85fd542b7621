"""How waitress serves faster in our adapter: each way replaces one part of waitress, and can be switched off."""

from __future__ import annotations

import contextlib
import os
import queue
from threading import get_ident

from waitress.task import ThreadedTaskDispatcher, WSGITask

from paste_wspbus.bus.interrupts import threads_are_greenlets
from paste_wspbus.errors import SettingError
from paste_wspbus.values import nearest

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

#: The environment variable that names the ways which are switched off.
WITHOUT = 'WSPBUS_WAITRESS_WITHOUT'

#: The names of the ways.
ONE_SEND, QUEUE = 'one-send', 'queue'
WAYS = (ONE_SEND, QUEUE)

#: The major version of waitress whose parts are replaced here.
MAJOR = 3

#: Bytes. A longer first chunk is not copied to join it to the head of its response.
LONGEST_JOINED = 32768


def switched_off() -> frozenset[str]:
    """Return the ways that `WITHOUT` names, separated by commas or spaces; ``all`` is all of them.

    :raises SettingError: if it names anything else.
    """
    words = os.environ.get(WITHOUT, '').replace(',', ' ').split()
    for word in words:
        if word not in (*WAYS, 'all'):
            hint = nearest(word, [*WAYS, 'all'])
            raise SettingError(None, f'{WITHOUT}: there is no {word!r}{hint}')
    return frozenset(WAYS if 'all' in words else words)


def ways() -> frozenset[str]:
    """Return the names of the ways to use: those for which all is as they expect it.

    :raises SettingError: if the environment variable `WITHOUT` names an unknown way.
    """
    used = set(WAYS) - switched_off()
    if _major() != MAJOR:
        used.clear()
    # What gevent and eventlet patch is not the C that these ways are fast by.
    if threads_are_greenlets() or queue.SimpleQueue.__module__ != '_queue':
        used.discard(QUEUE)
    return frozenset(used)


def _major() -> int | None:
    """Return the major version of the waitress that is installed, or None if nothing says it."""
    from importlib.metadata import PackageNotFoundError, distribution

    try:
        found = distribution('waitress')
    except PackageNotFoundError:
        return None
    # Not `found.version`: for one line, that loads Python's parser of e-mails.
    text = found.read_text('METADATA') or found.read_text('PKG-INFO') or ''
    for line in text.splitlines():
        if line.startswith('Version:'):
            major = line.removeprefix('Version:').strip().partition('.')[0]
            return int(major) if major.isdecimal() else None
    return None


class OneSend(WSGITask):  # type: ignore[misc]
    """A request whose head and first chunk leave in one send(2); waitress makes two of them."""

    def write(self, data: Any) -> None:
        """Write a chunk, the first one together with the head.

        waitress's own method says what is written, and in which order: for the first
        chunk, what it writes is collected, and given to the channel at once. Only the
        thread that runs this request writes to the channel meanwhile. What is not bytes
        is not joined: waitress sends the head before it refuses such a chunk.
        """
        if (
            self.wrote_header
            or type(data) is not bytes
            or not 0 < len(data) <= LONGEST_JOINED
        ):
            super().write(data)
            return
        channel, pieces = self.channel, []  # type: ignore[var-annotated]
        channel.write_soon = pieces.append
        try:
            super().write(data)
        finally:
            del channel.write_soon  # its class's own again
            if pieces:
                channel.write_soon(b''.join(pieces))


class QueueDispatcher(ThreadedTaskDispatcher):  # type: ignore[misc]
    """Threads that get their requests from a `queue.SimpleQueue`, which is C.

    waitress has a Condition, which is Python: each request makes a lock and waits for
    another one, and a thread that wakes up has to wait for the lock of whoever woke it.
    """

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        #: The channels whose request waits for a thread. None has a thread look at
        #: `stop_count`.
        self._waiting: queue.SimpleQueue[Any] = queue.SimpleQueue()
        #: What each thread serves: {its ident: (channel, its first request)}.
        self._served: dict[int, tuple[Any, list[Any]]] = {}

    def add_task(self, task: Any) -> None:
        """Queue the request of a channel; warn, as waitress does, if no thread is free for it."""
        self._waiting.put(task)
        waiting = self._waiting.qsize()
        if waiting > len(self.threads) - len(self._served):
            depth = waiting - len(self.threads) + self._busy()
            if depth > 0:
                self.queue_logger.warning('Task queue depth is %d', depth)

    def _busy(self) -> int:
        """Return how many threads have a request to answer.

        When a channel has another first request than the one that a thread began with,
        or none, that thread has answered and is on its way to the queue. waitress takes
        it for busy, and warns of a queue although each request has its thread.
        """
        served = list(self._served.values())
        return sum(channel.requests[:1] == first for channel, first in served)

    def handler_thread(self, thread_no: int) -> None:
        """Serve requests until `set_thread_count` stops this thread."""
        own, served, get = get_ident(), self._served, self._waiting.get
        while True:
            channel = get()
            if self.stop_count and self._stops(thread_no):
                self._waiting.put(channel)  # for `pending`
                return
            if channel is None:
                continue
            served[own] = channel, channel.requests[:1]
            try:
                channel.service()
            except BaseException:
                self.logger.exception('Exception when servicing %r', channel)
            del served[own]

    def _stops(self, thread_no: int) -> bool:
        with self.lock:
            if not self.stop_count:
                return False
            self.stop_count -= 1
            self.threads.discard(thread_no)
            self.thread_exit_cv.notify()
            return True

    def set_thread_count(self, count: int) -> None:
        """Start or stop threads until there are ``count``."""
        super().set_thread_count(count)
        for _ in range(self.stop_count):
            self._waiting.put(None)

    def pending(self) -> Iterator[Any]:
        """Take each request that waits for a thread; yield its channel."""
        with contextlib.suppress(queue.Empty):
            while True:
                channel = self._waiting.get_nowait()
                if channel is not None:
                    yield channel
        for _ in range(self.stop_count):  # for threads that still serve
            self._waiting.put(None)
