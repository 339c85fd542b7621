"""The guard: the parent of the process that needs a lease, which the kernel ends in time."""

from __future__ import annotations

import contextlib
import os
import resource
import select
import signal
import socket

from paste_wspbus.cluster.lease import write_lease
from paste_wspbus.unix.kernel_timer import IS_POSSIBLE, KillTimer, die_with_parent

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NoReturn

    from paste_wspbus.cluster.claim import Held

#: The part of the ttl before its end at which the job is killed, and how many seconds that
#: are at least: on a busy machine, a process takes a moment to end.
KILLS, LEAST = 1 / 10, 0.25

#: The part of the ttl before that at which the job is asked to stop.
ASKS = 1 / 4


def end_of(held: Held, ttl: float) -> float:
    """Return when a lease ends for the process that needs it: a little before its end."""
    return held.until - max(ttl * KILLS, LEAST)


def stand_guard(words: socket.socket, held: Held, ttl: float) -> int:
    """Make this process the guard of a child, the job; return in the job alone.

    The guard carries a timer of the kernel that kills it at the end of the lease, also if
    it is stopped. Each line from the supervisor moves the timer. If the guard ends, the
    kernel kills the job (PR_SET_PDEATHSIG). So the job ends in time, whichever process is
    stopped, killed, or holds the GIL. If the job ends, the guard ends in the same way. The
    guard has one thread, and runs no code of the site.

    :param words: the end of the connection on which the supervisor says the `end_of` the
        lease, a line each.
    :param held: the lease as it is now.
    :param ttl: seconds of the lease after a renewal.
    :returns: the descriptor of the memory that `Lease` reads.
    """
    until, danger = end_of(held, ttl), ttl * ASKS
    memory = os.memfd_create('wspbus lease', os.MFD_CLOEXEC) if IS_POSSIBLE else -1
    if memory < 0:  # another Unix: a file that has no name any more
        import tempfile

        with tempfile.TemporaryFile() as file:
            memory = os.dup(file.fileno())
    write_lease(memory, held.fence, until, danger)
    timer = KillTimer() if IS_POSSIBLE else None
    if timer is not None:
        timer.set(until)
    guard = os.getpid()
    job = os.fork()
    if not job:
        die_with_parent(guard)
        os.setpgid(0, 0)
        words.close()
        return memory
    try:
        _watch(job, words, memory, timer, held.fence, danger)
    finally:
        os._exit(1)


def _watch(
    job: int,
    words: socket.socket,
    memory: int,
    timer: KillTimer | None,
    fence: int,
    danger: float,
) -> NoReturn:
    signal.set_wakeup_fd(-1)
    # A signal to the whole process group is meant for the supervisor, which orders the
    # job to stop.
    signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    close_others({0, 1, 2, words.fileno(), memory})
    ended = os.pidfd_open(job) if hasattr(os, 'pidfd_open') else -1
    poll = select.poll()
    poll.register(words, select.POLLIN)
    if ended >= 0:
        poll.register(ended, select.POLLIN)
    while True:
        for fd, _ in poll.poll(None if ended >= 0 else 100):
            if fd == ended:
                continue
            said = words.recv(4096)
            if not said:  # the supervisor has ended; the timer stays
                poll.unregister(words)
                continue
            until = float(said.split(b'\n')[-2])
            if timer is not None:
                timer.set(until)
            write_lease(memory, fence, until, danger)
        pid, status = os.waitpid(job, os.WNOHANG)
        if pid:
            _end_as(job, status)


def _end_as(job: int, status: int) -> NoReturn:
    """Kill what still runs in the job's process group, and end as the job has ended."""
    with contextlib.suppress(OSError):
        os.killpg(job, signal.SIGKILL)
    code = os.waitstatus_to_exitcode(status)
    if code < 0:
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        with contextlib.suppress(OSError, ValueError):
            signal.signal(-code, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, [-code])
        os.kill(os.getpid(), -code)
    os._exit(code if code >= 0 else 1)


def close_others(kept: set[int]) -> None:
    """Close all descriptors but some: whoever waits for their end must not wait for this."""
    try:
        fds = [int(name) for name in os.listdir('/proc/self/fd')]
    except FileNotFoundError:
        fds = [*range(3, 1024)]
    for fd in fds:
        if fd not in kept:
            with contextlib.suppress(OSError):
                os.close(fd)
