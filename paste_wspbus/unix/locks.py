"""Locks on files, and which process holds one: the system says that."""

from __future__ import annotations

import os
import struct
import sys
import time

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

#: Whether the system names the holder of a lock. Where it is not Linux, flock(2) and
#: fcntl(2) may be one kind of lock, and a process would lock itself out.
NAMES_HOLDERS = sys.platform == 'linux'

#: struct flock of Linux, <asm-generic/fcntl.h>: l_type, l_whence, l_start, l_len, l_pid.
_STRUCT_FLOCK = 'hhqqi0q'

#: Windows locks bytes, and nobody else can read those: lock a byte beyond the end.
_LOCKED_BYTE = 2**30


def lock(fd: int, shared: bool = False, patience: float = 0) -> bool:
    """Lock an open file, for a reader or for its owner (flock(2)).

    The lock is the open file's: it passes to another process with the descriptor.

    :param patience: seconds to try, for a process that reads it holds it a moment.
    :returns: whether that could be done.
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
    """Lock the file, or raise BlockingIOError if somebody else has it locked."""
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
    """Have the system name this process as the holder of the file (fcntl(2)).

    It does so until this process ends, or closes any descriptor of the file.

    :param patience: seconds to try, for another process may have signed.
    :returns: False if another process has.
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
            return True  # a file system without these locks: no process is named


def signer_of(fd: int) -> int | None:
    """Return which process has signed an open file; this process itself is not seen.

    :returns: None if none has; 0 if the system does not name it: on NFS, outside of this
        container, or where `NAMES_HOLDERS` is False.
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
    """Return which process has signed a file that this user must not open.

    :param status: of the file.
    :returns: None if the system does not say.
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
