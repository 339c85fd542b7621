"""A queue between the loop of a server and the threads that answer its requests."""

from __future__ import annotations

from collections import deque

TYPE_CHECKING = False
if TYPE_CHECKING:
    import threading
    from typing import Any


class ThreadQueue:
    """A queue in which each thread waits on a lock of its own.

    The last thread that has begun to wait is woken first: its memory is still in the
    processor's cache. One thread at a time is being woken, and wakes the next one if
    there is more: often a thread that has just finished takes it before that.
    (`queue.SimpleQueue` has one lock for all threads before Python 3.13. Each thread that
    gets something releases it, and that wakes another thread in vain.)

    Why no thread sleeps while an item waits. A thread looks once more after
    its lock is in `_idle`: either it sees what was put, or that came later, and `put`
    finds the lock. A thread that is being woken says so no longer before it looks:
    what was put without waking anybody came before that, and it sees it. Each step is
    one operation on a list, a deque or an attribute, which is atomic.
    """

    def __init__(self) -> None:
        self._items: deque[Any] = deque()
        self._idle: list[threading.Lock] = []
        self._is_waking = False

    def __len__(self) -> int:
        return len(self._items)

    def put(self, item: Any) -> None:
        """Put something at the end, and wake a thread that waits."""
        self._items.append(item)
        if not self._is_waking:
            self._wake()

    def _wake(self) -> None:
        try:
            lock = self._idle.pop()
        except IndexError:
            return  # all threads are busy: the first that is free looks here
        self._is_waking = True
        lock.release()

    def take(self) -> Any:
        """Return what was put first, without waiting.

        :raises IndexError: if there is nothing.
        """
        return self._items.popleft()

    def get(self, lock: threading.Lock) -> Any:
        """Return what was put first; wait until there is something.

        :param lock: the lock of this thread, which it has acquired.
        """
        items, idle = self._items, self._idle
        was_woken = False
        while True:
            try:
                item = items.popleft()
            except IndexError:
                idle.append(lock)
            else:
                if was_woken and items and not self._is_waking:
                    self._wake()
                return item
            if items:
                try:
                    idle.remove(lock)
                    continue
                except ValueError:
                    pass  # `_wake` has taken the lock, and releases it
            lock.acquire()
            self._is_waking, was_woken = False, True
