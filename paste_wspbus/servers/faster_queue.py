"""A `ThreadQueue` in the place of a queue.Queue without bounds, which is Python."""

from __future__ import annotations

import queue
import threading

from paste_wspbus.servers.thread_queue import ThreadQueue

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


class _Items(ThreadQueue):
    """Threads may be killed in `get`: Paste raises SystemExit in those that hang."""

    def leave(self, lock: threading.Lock) -> None:
        """Wait no longer for a thread, and wake another one in its place.

        :param lock: that of the thread.
        """
        try:
            self._idle.remove(lock)
        except ValueError:  # it was being woken, or had something already
            self._is_waking = False
            if self._items:
                self._wake()


class Queue:
    """Takes the place of the queue.Queue of a server's threads."""

    def __init__(self) -> None:
        self._items = _Items()
        self._own = threading.local()

    def put(self, item: Any, block: bool = True, timeout: float | None = None) -> None:
        """Put something at the end; ``block`` and ``timeout`` are ignored."""
        self._items.put(item)

    def get(self, block: bool = True) -> Any:
        """Return what was put first; wait until there is something.

        :raises queue.Empty: if there is nothing, and ``block`` is false.
        """
        if not block:
            try:
                return self._items.take()
            except IndexError:
                raise queue.Empty from None
        try:
            lock = self._own.lock
        except AttributeError:
            lock = self._own.lock = threading.Lock()
            lock.acquire()
        try:
            return self._items.get(lock)
        except BaseException:
            self._items.leave(lock)
            raise

    def qsize(self) -> int:
        """Return how many items wait."""
        return len(self._items)
