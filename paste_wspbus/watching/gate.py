"""The gate of a server under --reload: it is shut as soon as a file has changed."""

from __future__ import annotations

import fcntl
import sys
import termios
import threading

from paste_wspbus.forks import close_in_child

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from paste_wspbus.watching.files import Files
    from paste_wspbus.watching.inotify import Inotify

#: What the kernel answers if there are no notices.
_NONE = bytes(4)


class Gate:
    """Says whether the files of a site are as this process has read them.

    The watcher learns of a change some milliseconds after it, and the old code stops
    later still. A server asks the gate before it accepts a connection. The kernel queues
    a notice before the system call of the writer returns. So the question is whether the
    queue is empty (inotify(7), FIONREAD): that takes as long for one file as for all.

    :param files: the files of the site, as this process has read them.
    :param outdated: is called with the paths that have changed, when the gate shuts: the
        site must be restarted, even if the files are soon as they were.
    """

    def __init__(self, files: Files, outdated: Callable[[list[str]], object]) -> None:
        self.files, self._outdated = files, outdated
        self._notices: Inotify | None = None
        self._followed: set[str] = set()
        self._lock = threading.Lock()
        #: Whether a thread takes notices out of the queue, and has not judged them yet.
        self._is_looking = False
        self._is_shut = False
        close_in_child(self, Gate.close)

    def prepare(self) -> None:
        """Follow the folders of the files that are known now.

        Files that are read after this need not be checked in `look`. On a system without inotify, and if no inotify instance is free, the gate is
        always open.
        """
        if sys.platform != 'linux':
            return
        from paste_wspbus.watching.inotify import Inotify

        try:
            # The watcher logs what cannot be watched.
            self._notices = Inotify(lambda _: None)
            self._follow(self._notices)
        except (OSError, AttributeError):
            self.close()

    def close(self) -> None:
        """Open the gate for ever."""
        notices, self._notices = self._notices, None
        if notices is not None:
            notices.close()

    def is_shut(self) -> bool:
        """Whether a file has changed since this process read it."""
        notices = self._notices
        if notices is None:
            return False
        if self._is_shut:
            return True
        try:
            queued = fcntl.ioctl(notices.fileno(), termios.FIONREAD, _NONE)
        except (OSError, ValueError):  # another thread has closed it
            return False
        # The order matters: a thread that has emptied the queue is looking since before.
        if queued != _NONE or self._is_looking:
            self.look()
        return self._is_shut

    def begin(self, *, at_all: bool = False, insists: bool = False) -> bool:
        """Look, before the server begins to accept; return whether the gate is open.

        :param at_all: whether to check all files: those that were read before `prepare`
            may have changed before it.
        :param insists: whether to open the gate in any case, until the next change. If
            each start were outdated by the next save, the site would never answer.
        """
        if insists:
            self.reopen(at_all=at_all)
        else:
            self.look(at_all=at_all)
        return not self._is_shut

    def look(self, *, at_all: bool = False) -> None:
        """Follow the files that are new, and shut the gate if a file has changed.

        :param at_all: as for `begin`.
        """
        with self._lock:
            self._is_looking = True
            try:
                changed = self._changed(at_all)
                is_news = bool(changed) and not self._is_shut
                self._is_shut |= is_news
            finally:
                self._is_looking = False
        if is_news:
            self._outdated(list(changed))

    def reopen(self, *, at_all: bool = False) -> None:
        """Open the gate: the files count as read, as they are now.

        :param at_all: as for `begin`.
        """
        with self._lock:
            self._changed(at_all)
            self._is_shut = False

    def _changed(self, at_all: bool = False) -> dict[str, object]:
        """Return the files that have changed since the last call."""
        changed: dict[str, object] = {}
        notices = self._notices
        while notices is not None:
            try:
                touched = notices.read()
                new = self._follow(notices)
            except OSError:  # no more folders can be watched
                self.close()
                return {}
            # First follow the folders, then check the files: so no change is missed.
            if touched is None or at_all:
                changed |= self.files.changed()
            else:
                changed |= self.files.changed(touched | self.files.known_in(new))
            if not new and touched is not None and not touched:
                break
            at_all = False
        return changed

    def _follow(self, notices: Inotify) -> set[str]:
        """Follow the folders that are new; return them."""
        new = self.files.folders - self._followed
        self._followed |= new
        notices.follow(set(self._followed))
        return new
