"""Notices from the Linux kernel: inotify(7)."""

from __future__ import annotations

import contextlib
import os
import stat
import struct
from posix import read  # os.read of a site that eventlet patches waits for a notice

from paste_wspbus.watching.files import shown
from paste_wspbus.watching.notices import Notices

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

# inotify(7), sys/inotify.h
_CLOSE_WRITE, _ATTRIB, _CREATE = 0x8, 0x4, 0x100
_MOVED_FROM, _MOVED_TO, _DELETE = 0x40, 0x80, 0x200
_DELETE_SELF, _MOVE_SELF = 0x400, 0x800
_UNMOUNT, _OVERFLOW, _IGNORED = 0x2000, 0x4000, 0x8000
_ONLYDIR, _MASK_ADD = 0x01000000, 0x20000000
_SELF = _DELETE_SELF | _MOVE_SELF
_ENTRIES = _CLOSE_WRITE | _ATTRIB | _CREATE | _MOVED_FROM | _MOVED_TO | _DELETE
_EVENT = struct.Struct('iIII')


class Inotify(Notices):
    """Gets notices from the kernel: a file counts as touched when its writer has closed it.

    :param log: is called with one line about a folder that cannot be watched.
    :raises OSError: if the system has no inotify, or at the limit
        fs.inotify.max_user_instances.
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
        """Return the descriptor of inotify."""
        return self._fd

    def follow(self, folders: set[str]) -> bool:
        """Follow these folders; follow a missing one as soon as it exists.

        :raises OSError: at the system's limit (fs.inotify.max_user_watches).
        """
        stale: dict[int, set[str]] = {}
        if self._is_outdated:  # paths now name other folders
            self._is_outdated = False
            stale, self._paths = self._paths, {}
            self._parts, self._followed = set(), set()
        new = folders - self._followed
        self._followed |= new
        for folder in new:
            self._follow(folder)
        for number in stale.keys() - self._paths.keys():
            with contextlib.suppress(OSError):  # the folder was removed
                self._call('inotify_rm_watch', self._fd, number)
        return bool(new)

    def _follow(self, folder: str) -> None:
        # The kernel reports when a watched folder is removed. But it does not report that
        # a folder moved together with its parent, or that a missing folder was made. So
        # the folders above are watched, too.
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
        # The folder may have been made or moved before the folders above it were watched.
        came = missing not in self._refused and os.path.isdir(missing)
        if came or (number and self._add(there, _SELF) != number):
            self._is_outdated = True

    def _add(self, path: str, mask: int) -> int:
        """Return the number that the kernel gives this watch; 0 if it cannot be watched."""
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
        """Return the paths that were touched; None if any path may have been."""
        try:
            data = read(self._fd, 1 << 18)
        except BlockingIOError:
            return set()
        touched, at = set[str](), 0
        while at < len(data):
            number, mask, _, length = _EVENT.unpack_from(data, at)
            at += _EVENT.size + length
            name = os.fsdecode(data[at - length : at].rstrip(b'\0'))
            if mask & _OVERFLOW:  # what is lost may be that paths name other folders
                self._is_outdated = True
            for folder in self._paths.get(number, ()):
                path = os.path.join(folder, name)
                if mask & (_SELF | _UNMOUNT | _IGNORED) or path in self._parts:
                    self._is_outdated = True
                elif name and not (mask & _CREATE and _is_empty(path)):
                    touched.add(path)
        return None if self._is_outdated else touched

    def close(self) -> None:
        """Close the descriptor of inotify."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)


def _is_empty(path: str) -> bool:
    """Whether a file was just made; another notice comes when its writer closes it."""
    try:
        status = os.lstat(path)
    except OSError:
        return False
    return stat.S_ISREG(status.st_mode) and status.st_nlink == 1
