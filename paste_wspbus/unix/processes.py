"""Processes that are not children of this one: how to watch, wait for and signal them."""

from __future__ import annotations

import contextlib
import errno
import os
import select
import signal
import stat
import sys
import time

from paste_wspbus.errors import WSPBusError
from paste_wspbus.exits import NOT_PERMITTED

TYPE_CHECKING = False
if TYPE_CHECKING:
    import socket
    from collections.abc import Iterable
    from typing import Any


#: This number is from <asm-generic/socket.h>; Python has no name for it.
_SO_PEERPIDFD = 77


class NotPermitted(WSPBusError):
    """A process belongs to another user, and this one cannot signal it."""

    exit_code = NOT_PERMITTED


class OtherProcess:
    """A process that is not a child of this one (pidfd_open(2), if the system has it).

    :param fd: its pidfd, if the caller has one already.
    """

    def __init__(self, pid: int, fd: int | None = None) -> None:
        self.pid = pid
        self._fd = -1
        if fd is not None:
            self._fd = fd
        else:
            with contextlib.suppress(AttributeError, OSError):
                self._fd = os.pidfd_open(pid)
        self._users = users_of(pid)

    def is_gone_within(
        self, seconds: float, others: Iterable[socket.socket] = ()
    ) -> bool:
        """Wait until it ends, one of ``others`` is readable, or the time is over.

        :returns: whether the process has ended.
        """
        if self._fd != -1:
            watched: list[Any] = [self._fd, *others]
            ready, _, _ = select.select(watched, [], [], max(seconds, 0))
            return self._fd in ready
        until = time.monotonic() + seconds
        while is_alive(self.pid):  # without a pidfd, only polling shows its end
            pause = min(max(until - time.monotonic(), 0), 0.05)
            if not others:
                time.sleep(pause)
            elif select.select([*others], [], [], pause)[0]:
                return False
            if time.monotonic() >= until:
                return False
        return True

    def signal(self, number: signal.Signals) -> None:
        """Send the process a signal.

        :raises NotPermitted: if it belongs to another user. Root may signal any process,
            but not one that has changed its user since, unless it was root's.
        """
        if self._users not in (None, {0}) and users_of(self.pid) not in (
            None,
            self._users,
        ):
            raise NotPermitted(f'process {self.pid} runs as another user now')
        try:
            if self._fd != -1:
                signal.pidfd_send_signal(self._fd, number)
            else:
                os.kill(self.pid, number)
        except ProcessLookupError:
            pass
        except PermissionError:
            raise NotPermitted(
                f'process {self.pid} belongs to another user: permission denied'
            ) from None

    def close(self) -> None:
        """Close the descriptor of the process."""
        if self._fd != -1:
            os.close(self._fd)


def listener_of(sock: socket.socket) -> OtherProcess | None:
    """Return the process that listens at the other end of a Unix socket, unix(7).

    It is the process that called listen(2). The system says which one, so the other end
    cannot lie.

    :returns: None if the system does not say it, or if that process has ended.
    """
    import socket

    from paste_wspbus.unix.peers import peer_of

    try:
        peer = peer_of(sock)
    except OSError:
        return None
    if peer is None or peer[0] <= 0:
        return None  # the process is in another container
    pid, _ = peer
    try:
        fd = sock.getsockopt(socket.SOL_SOCKET, _SO_PEERPIDFD)
    except OSError as error:
        is_unknown = error.errno == errno.ENOPROTOOPT  # Linux before 6.5
        return OtherProcess(pid) if is_unknown else None
    process = OtherProcess(pid, fd)
    if process.is_gone_within(0):  # another process may have its number now
        process.close()
        return None
    return process


def state_of(pid: int) -> str:
    """Return the state of a process as in proc(5), such as 'S', 'T' or 'Z'; '' if unknown."""
    with contextlib.suppress(OSError, IndexError), open(f'/proc/{pid}/stat') as file:
        return file.read().rpartition(')')[2].split()[0]
    return ''


def tracer_of(pid: int) -> int | None:
    """Return the process that traces a process (a debugger, strace); 0 if none does.

    :returns: None if the system does not say it: without /proc, or if it has ended.
    """
    with contextlib.suppress(OSError, ValueError), open(f'/proc/{pid}/status') as lines:
        for line in lines:
            if line.startswith('TracerPid:'):
                return int(line.split()[1])
    return None


def throttled_periods(root: str = '') -> int | None:
    """Return how often the control group of this process had used up its CPU time.

    This is nr_throttled of the group and of those around it (cgroups(7), of version 2 or
    1).

    :param root: the folder in which /proc and /sys are; '' is that of the system.
    :returns: None if the system does not say it.
    """
    found = None
    with contextlib.suppress(OSError), open(f'{root}/proc/self/cgroup') as lines:
        for line in lines:
            _, controllers, path = line.rstrip('\n').split(':', 2)
            if controllers and 'cpu' not in controllers.split(','):
                continue
            groups = f'{root}/sys/fs/cgroup/{controllers}'.rstrip('/')
            while True:
                with contextlib.suppress(OSError, ValueError, IndexError):
                    with open(f'{groups}{path.rstrip("/")}/cpu.stat') as stat:
                        fields = dict(one.split(maxsplit=1) for one in stat)
                    if 'nr_throttled' in fields:
                        found = (found or 0) + int(fields['nr_throttled'])
                if path in ('/', ''):
                    break
                path = os.path.dirname(path)
    return found


def is_stopped(pid: int) -> bool:
    """Whether a signal such as SIGSTOP, or a debugger, has stopped a process."""
    return state_of(pid) in ('T', 't')


def why_stopped(pid: int) -> str:
    """Return what has stopped a process, and what lets it continue; '' if it is not stopped."""
    if not is_stopped(pid):
        return ''
    if tracer := tracer_of(pid):
        return f'{traced_by(tracer)}, and has stopped it'
    return 'a signal has stopped it; SIGCONT lets it continue'


def why_silent(pid: int) -> str:
    """Return why a process cannot answer at a socket; '' if nothing is in its way.

    A signal or a debugger has stopped it, or it has no free descriptor for a connection.
    """
    if (why := why_stopped(pid)) or not (limit := used_up_descriptors(pid)):
        return why
    return (
        f'it has no free descriptor (RLIMIT_NOFILE is {limit}); '
        f'`prlimit --pid {pid} --nofile=NUMBER` sets another limit'
    )


def used_up_descriptors(pid: int) -> int:
    """Return the limit of a process for descriptors (RLIMIT_NOFILE) if none below it is free.

    :returns: 0 if one is free, or if the system does not say it: without /proc, or to
        another user.
    """
    limit = 0
    with contextlib.suppress(OSError, ValueError, IndexError):
        with open(f'/proc/{pid}/limits') as lines:
            for line in lines:
                if line.startswith('Max open files'):
                    limit = int(line.split()[3])
        fds = [int(name) for name in os.listdir(f'/proc/{pid}/fd')]
        if sum(fd < limit for fd in fds) < limit:
            limit = 0
        return limit
    return 0


def traced_by(tracer: int) -> str:
    """Return the predicate for a process that another one traces."""
    return f'process {tracer} traces it (a debugger, or strace)'


def memory_of(pid: int) -> int | None:
    """Return the bytes of memory that a process uses now (its resident set, proc(5)).

    :returns: None if the system does not say it: without /proc, or if it has ended.
    """
    with contextlib.suppress(OSError, IndexError, ValueError):
        with open(f'/proc/{pid}/statm', 'rb') as file:
            pages = int(file.read().split()[1])
        return pages * os.sysconf('SC_PAGE_SIZE') or None  # a zombie has 0
    return None


def proportional_memory_of(pid: int) -> int | None:
    """Return the bytes of memory of a process; what several share counts in part for each.

    This is Pss of proc_pid_smaps(5). It takes longer than `memory_of`, and waits for the
    system calls of the process that change its memory.

    :returns: None if the system does not say it: without /proc, if it has ended, or if it
        belongs to another user.
    """
    path = f'/proc/{pid}/smaps_rollup'
    with contextlib.suppress(OSError, ValueError, IndexError), open(path) as lines:
        for line in lines:
            if line.startswith('Pss:'):
                return int(line.split()[1]) * 1024
    return None


def out_of_memory_kills() -> int | None:
    """Return how many processes the out-of-memory killer has ended, of this control group.

    Where the control group does not say it (cgroups(7), version 2 or 1), this counts those
    of the whole system. None if the system does not say it.
    """
    for path in [*_memory_files(), '/proc/vmstat']:
        with contextlib.suppress(OSError, ValueError, IndexError), open(path) as lines:
            for line in lines:
                if line.startswith('oom_kill '):
                    return int(line.split()[1])
    return None


def _memory_files() -> list[str]:
    """Return the files in which the kernel may count for the control group of this process."""
    found = []
    with contextlib.suppress(OSError), open('/proc/self/cgroup') as lines:
        for line in lines:
            _, controllers, group = line.rstrip('\n').split(':', 2)
            group = group.rstrip('/')
            if not controllers:
                found.append(f'/sys/fs/cgroup{group}/memory.events')
            elif 'memory' in controllers.split(','):
                # In a container, the path may be that of the host.
                folders = f'/sys/fs/cgroup/memory{group}', '/sys/fs/cgroup/memory'
                found += [f'{folder}/memory.oom_control' for folder in folders]
    return found


def has_terminal(pid: int) -> bool:
    """Whether the standard input of a process is a terminal; True if it is not known."""
    try:
        status = os.stat(f'/proc/{pid}/fd/0')
    except FileNotFoundError:
        return not os.path.isdir('/proc/self')  # it has closed it
    except OSError:
        return True
    is_memory = os.major(status.st_rdev) == 1  # null(4), zero(4), random(4)
    return stat.S_ISCHR(status.st_mode) and not is_memory


def is_alive(pid: int) -> bool:
    """Whether a process runs; a zombie does not."""
    if os.name == 'nt':
        return _is_alive_on_windows(pid)
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return state_of(pid) != 'Z'


def parent_of(pid: int) -> int | None:
    """Return the process ID of a process's parent.

    :returns: 0 if there is no such process; None if the system has no /proc.
    """
    try:
        with open(f'/proc/{pid}/stat', 'rb') as file:
            return int(file.read().rpartition(b')')[2].split()[1])
    except (OSError, ValueError, IndexError):
        return 0 if os.path.exists('/proc/self/stat') else None


#: <linux/prctl.h>: orphans of the processes below this one become its children, prctl(2).
_PR_SET_CHILD_SUBREAPER = 36


def adopt_orphans() -> bool:
    """Become the parent of each process below this one whose own parent ends (Linux).

    :returns: whether the system does that; a process has no other way to find them.
    """
    if sys.platform != 'linux':
        return False
    import ctypes

    try:
        return bool(ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) == 0)
    except (OSError, AttributeError):
        return False


def descendants(pid: int) -> list[int]:
    """Return the processes below a process, as proc(5) says; [] without /proc."""
    parents: dict[int, int] = {}
    with contextlib.suppress(OSError):
        for name in os.listdir('/proc'):
            if name.isdecimal() and (parent := parent_of(int(name))) is not None:
                parents[int(name)] = parent
    found, last = [], {pid}
    while last:
        last = {one for one, parent in parents.items() if parent in last}
        found += sorted(last)
    return found


def _is_alive_on_windows(pid: int) -> bool:
    # os.kill(pid, 0) would send Ctrl-C, because CTRL_C_EVENT is 0.
    import ctypes

    kernel32 = ctypes.WinDLL('kernel32', use_last_error=True)  # type: ignore[attr-defined]
    kernel32.OpenProcess.restype = ctypes.c_void_p
    synchronize, access_denied, wait_timeout = 0x100000, 5, 258
    process = kernel32.OpenProcess(synchronize, False, pid)
    if not process:
        return bool(ctypes.get_last_error() == access_denied)  # type: ignore[attr-defined]
    handle = ctypes.c_void_p(process)
    try:
        return bool(kernel32.WaitForSingleObject(handle, 0) == wait_timeout)
    finally:
        kernel32.CloseHandle(handle)


def users_of(pid: int) -> set[int] | None:
    """Return a process's real, effective, saved and file system user, as a set.

    A setuid program has several.

    :returns: None if the system does not say it: without /proc, or if it has ended.
    """
    with contextlib.suppress(OSError, ValueError), open(f'/proc/{pid}/status') as lines:
        for line in lines:
            if line.startswith('Uid:'):
                return {int(word) for word in line.split()[1:]}
    return None


def program_of(pid: int) -> str:
    """Return the name of a process's program: of the script, not of the interpreter.

    It is empty if nobody can find it out.
    """
    try:
        with open(f'/proc/{pid}/cmdline', 'rb') as file:
            words: list[Any] = file.read().split(b'\0')
    except OSError:
        return ''
    names = [os.path.basename(os.fsdecode(word)) for word in words[:2]]
    return names[1] if names[0].startswith('python') and names[1:] else names[0]


#: The number of tgkill(2), for a C library that has no function for it (musl).
_TGKILL = {'x86_64': 234, 'aarch64': 131}


def signal_thread(pid: int, thread: int, number: int) -> None:
    """Send a signal to one thread of another process (tgkill(2)).

    If the process or the thread has ended, or the system has no such call, this does
    nothing.

    :param thread: its native id.
    """
    try:
        import ctypes  # it takes a millisecond, and is rarely needed

        libc = ctypes.CDLL(None)
    except (ImportError, OSError):
        return
    if hasattr(libc, 'tgkill'):
        libc.tgkill(pid, thread, number)
    elif call := _TGKILL.get(os.uname().machine):
        libc.syscall(call, pid, thread, number)


def how(code: int | None) -> str:
    """Describe the end of a process by the number of os.waitstatus_to_exitcode."""
    if code is None:
        return 'for an unknown reason'
    if code >= 0:
        return f'exit code {code}'
    try:
        return f'signal {signal.Signals(-code).name}'
    except ValueError:
        return f'signal {-code}'
