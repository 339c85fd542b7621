"""A timer of the kernel that kills this process, and the death of a child with its parent."""

from __future__ import annotations

import ctypes
import os
import signal
import struct
import sys
import time

#: <time.h> and <asm-generic/siginfo.h> of Linux.
_CLOCK_BOOTTIME, _TIMER_ABSTIME, _SIGEV_SIGNAL = 7, 1, 0

#: <linux/prctl.h>: the signal that this process gets when its parent ends.
_PR_SET_PDEATHSIG = 1

#: Whether the system has both.
IS_POSSIBLE = sys.platform == 'linux'


class KillTimer:
    """Kills this process at a time, also if it is stopped or traced (timer_create(2)).

    No code of the process runs for that: the kernel sends SIGKILL, which ends a stopped
    process, too. A child does not inherit it, and execve(2) removes it.

    :raises OSError: if the system makes no such timer.
    """

    def __init__(self) -> None:
        self._libc = _library()
        self._timer = ctypes.c_void_p()
        # struct sigevent: sigev_value, sigev_signo, sigev_notify; 64 bytes in all.
        event = ctypes.create_string_buffer(64)
        struct.pack_into('Pii', event, 0, 0, signal.SIGKILL, _SIGEV_SIGNAL)
        if self._libc.timer_create(_CLOCK_BOOTTIME, event, ctypes.byref(self._timer)):
            raise _error()

    def set(self, until: float) -> None:
        """Set the time; one that is over kills at once.

        :param until: the seconds of CLOCK_BOOTTIME, which runs on during a suspend.
        """
        nanoseconds = max(int(until * 1e9), 1)  # 0 would stop the timer
        seconds, rest = divmod(nanoseconds, 10**9)
        # struct itimerspec: it_interval, it_value.
        value = struct.pack('llll', 0, 0, seconds, rest)
        if self._libc.timer_settime(self._timer, _TIMER_ABSTIME, value, None):
            raise _error()


def die_with_parent(parent: int) -> None:
    """Have the kernel kill this process when its parent ends (prctl(2)); or do it now.

    A change of this process's user takes that back; an execve(2) does not.

    :param parent: the process ID that the parent had before it forked this process.
    """
    if IS_POSSIBLE and _library().prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0):
        raise _error()
    if os.getppid() != parent:  # it ended before that
        os.kill(os.getpid(), signal.SIGKILL)


def boot_clock() -> float:
    """Return the seconds since the boot of this machine, also those while it was suspended."""
    return time.clock_gettime(getattr(time, 'CLOCK_BOOTTIME', time.CLOCK_MONOTONIC))


def _library() -> ctypes.CDLL:
    libc = ctypes.CDLL(None, use_errno=True)
    if IS_POSSIBLE and not hasattr(libc, 'timer_create'):  # glibc before 2.34
        return ctypes.CDLL('librt.so.1', use_errno=True)
    return libc


def _error() -> OSError:
    number = ctypes.get_errno()
    return OSError(number, os.strerror(number))
