"""Notices from the package watchfiles, for macOS and Windows."""

from __future__ import annotations

import os

from paste_wspbus.watching.notices import Notices

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any


class Watchfiles(Notices):
    """Gets notices from the package ``watchfiles``, on systems without inotify.

    :raises ImportError: if it is not installed.
    """

    def __init__(self) -> None:
        from watchfiles._rust_notify import RustNotify

        # It has no descriptor to wait for, so it must be asked from time to time.
        super().__init__(0.05)
        self.pid = os.getpid()
        self._make: Callable[..., Any] = RustNotify
        self._there: set[str] = set()
        self._notify: Any = None

    def follow(self, folders: set[str]) -> bool:
        """Follow these folders; if one is missing, follow the next folder above it."""
        there = {_next_above(folder) for folder in folders}
        if there == self._there:
            return False
        self.close()
        self._there = there
        self._notify = self._make(sorted(there), False, False, 0, False, True)
        return True

    def read(self) -> set[str] | None:
        """Return None if anything was touched, else an empty set."""
        # The reported paths are those of the system: links are resolved, and upper and
        # lower case may differ. So they cannot be compared with those of the site.
        if self._notify is None:
            return set()
        return None if isinstance(self._notify.watch(1, 1, 1, None), set) else set()

    def close(self) -> None:
        """End the thread of watchfiles."""
        if self._notify is not None and self.pid == os.getpid():
            self._notify.close()
        self._notify = None


def _next_above(folder: str) -> str:
    while not os.path.isdir(folder) and folder != os.path.dirname(folder):
        folder = os.path.dirname(folder)
    return folder
