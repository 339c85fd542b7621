"""Locks on files, and how to ask the system which process holds a lock."""

from __future__ import annotations

import os
import struct
import sys
import time

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

#: Whether the system names the holder of a lock. Only Linux does it here: on other
#: systems, flock(2) and fcntl(2) may be one kind of lock, and a process that takes both
#: would wait for itself.
NAMES_HOLDERS = sys.platform == 'linux'

#: struct flock of Linux, <asm-generic/fcntl.h>: l_type, l_whence, l_start, l_len, l_pid.
_STRUCT_FLOCK = 'hhqqi0q'

#: Windows locks bytes, which no other process can read then: lock a byte behind the end.
_LOCKED_BYTE = 2**30


def lock(fd: int, shared: bool = False, patience: float = 0) -> bool:
    """Lock an open file: shared for a reader, exclusive for its owner (flock(2)).

    The lock belongs to the open file: a process that gets the descriptor has the lock.

    :param patience: seconds to try; a process that reads the file locks it for a moment.
    :returns: whether the file is locked now.
    :raises OSError: if this file cannot be locked at all.
    """
    until = time.monotonic() + patience
    while True:
        try:
            _try_to_lock(fd, shared)
            return True
        except BlockingIOError:
            if time.monotonic() >= until:
                return False
            time.sleep(0.005)


def _try_to_lock(fd: int, shared: bool) -> None:
    """Lock the file, or raise BlockingIOError if another process has locked it."""
    if fcntl is not None:
        kind = fcntl.LOCK_SH if shared else fcntl.LOCK_EX
        fcntl.flock(fd, kind | fcntl.LOCK_NB)
        return
    import msvcrt

    os.lseek(fd, _LOCKED_BYTE, os.SEEK_SET)
    try:
        msvcrt.locking(fd, msvcrt.LK_NBLCK, 1)
    except OSError as error:  # EACCES, or EDEADLOCK
        raise BlockingIOError(*error.args) from None


def sign(fd: int, patience: float = 0) -> bool:
    """Sign an open file: the system names this process as its holder (fcntl(2)).

    It does so until this process ends, or closes any descriptor of the file.

    :param patience: seconds to try, because another process may have signed the file.
    :returns: False if another process has signed it.
    """
    if not NAMES_HOLDERS:
        return True
    until = time.monotonic() + patience
    while True:
        try:
            fcntl.lockf(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        except (BlockingIOError, PermissionError):
            if time.monotonic() >= until:
                return False
            time.sleep(0.005)
        except OSError:
            return True  # this file system has no such locks, and names no process


def signer_of(fd: int) -> int | None:
    """Return the ID of the other process that has signed an open file.

    :returns: None if there is none. 0 if the system does not name it: on NFS, if the
        process is outside this container, or if `NAMES_HOLDERS` is False.
    """
    if not NAMES_HOLDERS:
        return 0
    asked = struct.pack(_STRUCT_FLOCK, fcntl.F_RDLCK, os.SEEK_SET, 0, 0, 0)
    try:
        answer = fcntl.fcntl(fd, fcntl.F_GETLK, asked)
    except OSError:
        return 0
    kind, _, _, _, pid = struct.unpack(_STRUCT_FLOCK, answer)
    return None if kind == fcntl.F_UNLCK else max(int(pid), 0)


def signer_at(status: os.stat_result) -> int | None:
    """Return the ID of the process that has signed a file that this user must not open.

    :param status: the status of the file.
    :returns: None if the system does not name it.
    """
    try:
        with open('/proc/locks') as file:
            lines = [line.split() for line in file]
    except OSError:
        return None
    device = f'{os.major(status.st_dev):02x}:{os.minor(status.st_dev):02x}'
    for _, *kind, pid, name, _, _ in (words for words in lines if len(words) == 8):
        is_it = name == f'{device}:{status.st_ino}'
        if is_it and kind == ['POSIX', 'ADVISORY', 'WRITE']:
            return int(pid) if int(pid) > 0 else None
    return None
