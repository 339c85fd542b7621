"""The thread in which the ops listener makes pages that take long: it answers others meanwhile."""

from __future__ import annotations

from _thread import allocate_lock, start_new_thread  # before a site patches Python

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Hashable
    from typing import Any

    from webob import Response


class Maker:
    """Makes one page after the other; there is a thread only while there is one to make.

    Clients that ask for a page while the same page is being made all get the next one. So
    many clients cost two pages at most.

    :param wake: any thread may call this; `take` should be called soon then.
    """

    def __init__(self, wake: Callable[[], object]) -> None:
        self._wake, self._lock = wake, allocate_lock()
        self._waiting: list[tuple[Hashable, Callable[[], Response], Any]] = []
        self._made: list[tuple[Any, Response | Exception]] = []
        self._has_thread = self._has_ended = False

    def add(self, key: Hashable, make: Callable[[], Response], client: Any) -> None:
        """Make a page; `take` returns it together with the client.

        :param key: what two pages have in common that are the same.
        """
        with self._lock:
            self._waiting.append((key, make, client))
            if self._has_thread:
                return
            self._has_thread = True
        try:
            start_new_thread(self._run, ())
        except RuntimeError:  # the system starts no more
            self._run()

    def take(self) -> list[tuple[Any, Response | Exception]]:
        """Return the clients whose page is ready, each with its page, or why there is none."""
        with self._lock:
            made, self._made = self._made, []
        return made

    def end(self) -> None:
        """Call ``wake`` no more."""
        with self._lock:
            self._has_ended = True

    def _run(self) -> None:
        while True:
            with self._lock:
                batch, self._waiting = self._waiting, []
                if not batch or self._has_ended:
                    self._has_thread = False
                    return
            pages: dict[Hashable, Response | Exception] = {}
            for key, make, _ in batch:
                if key not in pages:
                    try:
                        pages[key] = make()
                    except Exception as error:  # no page may end the listener
                        pages[key] = error
            with self._lock:
                self._made += [(client, pages[key]) for key, _, client in batch]
                if not self._has_ended:
                    self._wake()
