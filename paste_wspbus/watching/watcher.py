"""The watcher, which reports that files of a site have changed, once for a burst of changes."""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import selectors
import sys
from time import monotonic

from paste_wspbus.watching.loop import Repeat
from paste_wspbus.watching.notices import Notices

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from paste_wspbus.watching.files import Files, News, Signature
    from paste_wspbus.watching.loop import Events

_log = logging.getLogger(__name__)


class Watcher:
    """Calls ``changed`` with those of ``files`` that have changed, once for a burst.

    It runs in the loop ``events``, whose thread calls all its methods. With inotify it
    does not wake up while nothing changes.

    :param changed: is called with at least one path that changed, was made or was deleted.
    :param quiet: seconds without a change after which a burst of changes is over.
    :param interval: seconds between checks of all files, if there are no notices.
    :param poll: whether to check every ``interval`` seconds in any case: network folders
        send no notices.
    :param log: is called with one line about what cannot be watched as usual.
    """

    #: Seconds after which a burst of changes is reported, even if it continues.
    longest: float = 0.5

    def __init__(
        self,
        events: Events,
        files: Files,
        changed: Callable[[list[str]], object],
        *,
        quiet: float = 0.025,
        interval: float = 1,
        poll: bool = False,
        log: Callable[[str], object] = _log.warning,
    ) -> None:
        self.pid = os.getpid()
        self.events, self.files, self.changed, self.log = events, files, changed, log
        self.quiet, self.interval = quiet, interval
        self._repeat: Repeat | None = None
        self._changed: dict[str, Signature] = {}
        #: The paths of `insist`.
        self._insisted: set[str] = set()
        self._until = self._latest = 0.0
        #: The time.monotonic() at which the present or last burst was noticed.
        self.noticed = 0.0
        self._is_to_look = self._closed = False
        self._listen(Notices(interval) if poll else self._best_notices())
        self.add([])

    def add(self, news: News) -> None:
        """Watch the files of another process's `Files.news`; report those that changed since.

        :param news: those of the newest process: an older process may have read older files.
        """
        self.files.merge(news)
        self.files.search()
        if not self._is_to_look:
            self._is_to_look = True
            self.events.call_later(0, self._look_at_all)

    def insist(self, paths: Iterable[str]) -> None:
        """Report these paths when the burst is over, even if they are as they were before it.

        A server has stopped accepting because of them (see `Gate`).
        """
        self._insisted.update(paths)
        self._note({path: self.files.signatures.get(path) for path in self._insisted})

    def close(self) -> None:
        """Stop watching; in a forked child, close its copies of the descriptors."""
        self._closed = True
        self._unlisten()

    def _best_notices(self) -> Notices:
        try:
            if sys.platform == 'linux':
                from paste_wspbus.watching.inotify import Inotify

                return Inotify(self.log)
            from paste_wspbus.watching.by_watchfiles import Watchfiles

            return Watchfiles()
        except (OSError, AttributeError, ImportError) as error:
            return self._polling(error, 'instances')

    def _polling(self, error: Exception, limit: str) -> Notices:
        reason = getattr(error, 'strerror', None) or error
        if getattr(error, 'errno', None) in (errno.EMFILE, errno.ENOSPC):
            reason = f'{reason} (see fs.inotify.max_user_{limit})'
        self.log(f'Looking for changes every {self.interval:g} s: {reason}')
        return Notices(self.interval)

    def _listen(self, notices: Notices) -> None:
        self.notices = notices
        if notices.step:
            self._repeat = Repeat(self.events, notices.step, self._read)
        else:
            fd = notices.fileno()
            self.events.selector.register(fd, selectors.EVENT_READ, self._read)

    def _unlisten(self) -> None:
        if self._repeat is not None:
            self._repeat.end()
        elif self.pid == os.getpid():  # a forked child has the parent's epoll(7)
            with contextlib.suppress(KeyError, ValueError):  # it is closed already
                self.events.selector.unregister(self.notices.fileno())
        self.notices.close()

    # Finding changes

    def _read(self) -> bool:
        if self._closed:  # another function in the same step has closed it
            return False
        touched = self.notices.read()
        if touched is None or touched:
            self._look(touched)
        return True

    def _look_at_all(self) -> None:
        self._is_to_look = False
        if not self._closed:
            self._look(None)

    def _look(self, touched: set[str] | None) -> None:
        # First follow the folders, then check the files: so no change in between is missed.
        if self._follow():
            touched = None
        while True:
            self._note(self.files.changed(touched))
            if not self._follow():
                return
            touched = None

    def _follow(self) -> bool:
        try:
            return self.notices.follow(self.files.folders)
        except OSError as error:
            self._unlisten()
            self._listen(self._polling(error, 'watches'))
            return True

    def _note(self, changed: dict[str, Signature]) -> None:
        if not changed:
            return
        now = monotonic()
        if not self._changed:
            self.noticed, self._latest = now, now + self.longest
            self.events.call_later(min(self.quiet, self.longest), self._settle)
        self._until = now + self.quiet
        self._changed = {**changed, **self._changed}  # keep the first signatures

    def _settle(self) -> None:
        """Report a burst that is over, but not files that are as they were before it."""
        if self._closed:
            return
        # A change that came while this process was kept from running belongs to the burst.
        self._read()
        remaining = min(self._until, self._latest) - monotonic()
        if remaining > 0:
            self.events.call_later(remaining, self._settle)
            return
        changed, self._changed = self._changed, {}
        insisted, self._insisted = self._insisted, set()
        now = self.files.signatures
        if paths := [
            path
            for path, was in changed.items()
            if now.get(path) != was or path in insisted
        ]:
            self.changed(paths)
