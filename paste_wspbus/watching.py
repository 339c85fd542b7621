"""Tells that files have changed: the kernel, `watchfiles`, or looks from time to time."""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import selectors
import stat
import struct
import sys
from time import monotonic

from paste_wspbus.events import Repeat

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from paste_wspbus.events import Events
    from paste_wspbus.sources import Files, News, Signature

# inotify(7), sys/inotify.h
_CLOSE_WRITE, _ATTRIB, _CREATE = 0x8, 0x4, 0x100
_MOVED_FROM, _MOVED_TO, _DELETE = 0x40, 0x80, 0x200
_DELETE_SELF, _MOVE_SELF = 0x400, 0x800
_UNMOUNT, _OVERFLOW, _IGNORED = 0x2000, 0x4000, 0x8000
_ONLYDIR, _MASK_ADD = 0x01000000, 0x20000000
_SELF = _DELETE_SELF | _MOVE_SELF
_ENTRIES = _CLOSE_WRITE | _ATTRIB | _CREATE | _MOVED_FROM | _MOVED_TO | _DELETE
_EVENT = struct.Struct('iIII')

_log = logging.getLogger(__name__)


class Watcher:
    """Calls ``changed`` with the files of ``files`` that have changed: once for a burst.

    It lives in the loop ``events``, whose thread calls all of it. Where the
    kernel tells (inotify), nothing wakes up while nothing changes.

    :param changed: called with paths that changed, came or went; at least one.
    :param quiet: seconds without a change that end a burst of them.
    :param interval: seconds between looks, where nobody tells of changes.
    :param poll: look every ``interval`` seconds: network folders do not tell.
    :param log: takes one line, of what is not as it might be.
    """

    #: Seconds after which a burst of changes is told of, though it goes on.
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
        self._until = self._latest = 0.0
        self._is_to_look = self._closed = False
        self._listen(Notices(interval) if poll else self._best_notices())
        self.add([])

    def add(self, news: News) -> None:
        """Watch what another's `Files.news` tell; what has changed since is a change.

        :param news: of the site's newest process: an older one has read what was.
        """
        self.files.merge(news)
        self.files.search()
        if not self._is_to_look:
            self._is_to_look = True
            self.events.call_later(0, self._look_at_all)

    def close(self) -> None:
        """Watch no more; in a forked child, close its copies of the descriptors."""
        self._closed = True
        self._unlisten()

    def _best_notices(self) -> Notices:
        try:
            return Inotify(self.log) if sys.platform == 'linux' else Watchfiles()
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
            with contextlib.suppress(KeyError, ValueError):  # closed twice
                self.events.selector.unregister(self.notices.fileno())
        self.notices.close()

    # What changed

    def _read(self) -> bool:
        if self._closed:  # by what was called before it in the same step
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
        # Followed first and looked at then: so nothing falls between.
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
            self._latest = now + self.longest
            self.events.call_later(min(self.quiet, self.longest), self._settle)
        self._until = now + self.quiet
        self._changed = {**changed, **self._changed}  # what they were at first

    def _settle(self) -> None:
        """Tell of a burst that has ended; what is as it was has not changed."""
        if self._closed:
            return
        if self._repeat is not None:
            self._read()
        left = min(self._until, self._latest) - monotonic()
        if left > 0:
            self.events.call_later(left, self._settle)
            return
        changed, self._changed = self._changed, {}
        now = self.files.signatures
        if paths := [path for path, was in changed.items() if now.get(path) != was]:
            self.changed(paths)


class Notices:
    """Which paths in some folders were touched: nobody tells, so any may have been.

    :param step: seconds between calls of `read`; 0: when `fileno` is readable.
    """

    def __init__(self, step: float) -> None:
        self.step = step

    def fileno(self) -> int:
        """A descriptor that is readable when something was touched."""
        return -1

    def follow(self, folders: set[str]) -> bool:
        """Tell of these folders, not of those below. Whether that is new of any of them.

        :raises OSError: if the system has not enough left for it.
        """
        return False

    def read(self) -> set[str] | None:
        """Paths that were touched; None: anything may have been. It does not wait."""
        return None

    def close(self) -> None:
        """Give back what it holds; in a forked child, the child's copies."""


class Inotify(Notices):
    """The kernel tells: inotify(7). A file was touched when who wrote it has closed it.

    :param log: takes one line, of a folder that cannot be watched.

    :raises OSError: without inotify, and at its limits (fs.inotify.max_user_instances).
    """

    def __init__(self, log: Callable[[str], object]) -> None:
        import ctypes

        super().__init__(0)
        self.log = log
        self._libc = ctypes.CDLL(None, use_errno=True)
        self._errno = ctypes.get_errno
        self._refused: set[str] = set()
        self._paths: dict[int, set[str]] = {}
        self._followed: set[str] = set()
        self._parts: set[str] = set()  # the folders and those above them
        self._is_outdated = False
        self._fd = self._call('inotify_init1', os.O_CLOEXEC | os.O_NONBLOCK)

    def _call(self, name: str, *args: Any) -> int:
        result: int = getattr(self._libc, name)(*args)
        if result < 0:
            number = self._errno()
            raise OSError(number, os.strerror(number))
        return result

    def fileno(self) -> int:
        """inotify's descriptor."""
        return self._fd

    def follow(self, folders: set[str]) -> bool:
        """Tell of these folders; of one that is not there when it comes.

        :raises OSError: at the system's limit (fs.inotify.max_user_watches).
        """
        stale: dict[int, set[str]] = {}
        if self._is_outdated:  # paths are other folders than before
            self._is_outdated = False
            stale, self._paths = self._paths, {}
            self._parts, self._followed = set(), set()
        new = folders - self._followed
        self._followed |= new
        for folder in new:
            self._follow(folder)
        for number in stale.keys() - self._paths.keys():
            with contextlib.suppress(OSError):  # of one that is gone
                self._call('inotify_rm_watch', self._fd, number)
        return bool(new)

    def _follow(self, folder: str) -> None:
        # One that vanishes says so by itself; one that is moved along with
        # its parent does not, nor does one that comes.
        number, there, missing, part, below = 0, '', '', folder, ''
        while part != below:
            known = part in self._parts
            self._parts.add(part)
            if not number:
                number, there = self._add(part, _ENTRIES | _SELF), part
                missing = below
            elif known:
                break
            else:
                self._add(part, _SELF)
            part, below = os.path.dirname(part), part
        # What came, or was moved away, before those above it were followed.
        came = missing not in self._refused and os.path.isdir(missing)
        if came or (number and self._add(there, _SELF) != number):
            self._is_outdated = True

    def _add(self, path: str, mask: int) -> int:
        """The number by which the kernel tells of it; 0: it does not."""
        mask |= _ONLYDIR | _MASK_ADD
        try:
            number = self._call('inotify_add_watch', self._fd, os.fsencode(path), mask)
        except (FileNotFoundError, NotADirectoryError):
            return 0
        except PermissionError as error:
            if mask & _ENTRIES and path not in self._refused:
                self._refused.add(path)
                self.log(f'Cannot watch {shown(path)}: {error.strerror}')
            return 0
        self._paths.setdefault(number, set()).add(path)
        return number

    def read(self) -> set[str] | None:
        """Paths that were touched; None: anything may have been."""
        try:
            data = os.read(self._fd, 1 << 18)
        except BlockingIOError:
            return set()
        touched, at, is_full = set[str](), 0, False
        while at < len(data):
            number, mask, _, length = _EVENT.unpack_from(data, at)
            at += _EVENT.size + length
            name = os.fsdecode(data[at - length : at].rstrip(b'\0'))
            is_full |= bool(mask & _OVERFLOW)
            for folder in self._paths.get(number, ()):
                path = os.path.join(folder, name)
                if mask & (_SELF | _UNMOUNT | _IGNORED) or path in self._parts:
                    self._is_outdated = True
                elif name and not (mask & _CREATE and _is_empty(path)):
                    touched.add(path)
        return None if is_full or self._is_outdated else touched

    def close(self) -> None:
        """Close its descriptor."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)


def _is_empty(path: str) -> bool:
    """Whether a file was just made: it is told of again when who writes it closes it."""
    try:
        status = os.lstat(path)
    except OSError:
        return False
    return stat.S_ISREG(status.st_mode) and status.st_nlink == 1


class Watchfiles(Notices):
    """The package ``watchfiles`` tells: for systems without inotify, macOS and Windows.

    :raises ImportError: if it is not installed.
    """

    def __init__(self) -> None:
        from watchfiles._rust_notify import RustNotify

        # It has no descriptor: it is asked what it was told.
        super().__init__(0.05)
        self.pid = os.getpid()
        self._make: Callable[..., Any] = RustNotify
        self._there: set[str] = set()
        self._notify: Any = None

    def follow(self, folders: set[str]) -> bool:
        """Tell of these folders, and of the next one above each that is not there."""
        there = {_next_above(folder) for folder in folders}
        if there == self._there:
            return False
        self.close()
        self._there = there
        self._notify = self._make(sorted(there), False, False, 0, False, True)
        return True

    def read(self) -> set[str] | None:
        """None if anything was touched."""
        # The paths are the system's: without links, in its own case.
        if self._notify is None:
            return set()
        return None if isinstance(self._notify.watch(1, 1, 1, None), set) else set()

    def close(self) -> None:
        """End its thread."""
        if self._notify is not None and self.pid == os.getpid():
            self._notify.close()
        self._notify = None


def _next_above(folder: str) -> str:
    while not os.path.isdir(folder) and folder != os.path.dirname(folder):
        folder = os.path.dirname(folder)
    return folder


# -- On the terminal ------------------------------------------------------------------


def shown(path: str) -> str:
    """A path on one line, and short where it is below the working directory."""
    with contextlib.suppress(OSError, ValueError):  # it is gone; another drive
        near = os.path.relpath(path)
        path = path if near.startswith(os.pardir) else near
    return path if path.isprintable() else ascii(path)


def what_changed(paths: list[str]) -> str:
    """Such as 'site.py has changed', 'site.py and 2 others have changed'."""
    others = len(paths) - 1
    more = f' and {others} other{"s" * (others > 1)} have' if others else ' has'
    return f'{shown(paths[0])}{more} changed'
