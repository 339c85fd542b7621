"""The PID file: locked by the site that runs, removed by nobody else."""

from __future__ import annotations

import contextlib
import errno
import os
import stat
import time
import weakref

from paste_wspbus.errors import WSPBusError
from paste_wspbus.plugins import Plugin, on

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from paste_wspbus.bus import Bus

#: The longest text that can be a PID file: a number, a line's end.
_MAX_BYTES = 32

_FLAGS = (
    os.O_RDWR
    | getattr(os, 'O_NOFOLLOW', 0)
    | getattr(os, 'O_CLOEXEC', 0)
    | getattr(os, 'O_NONBLOCK', 0)  # a FIFO would wait for its other end
    | getattr(os, 'O_NOCTTY', 0)
    | getattr(os, 'O_BINARY', 0)
    | getattr(os, 'O_NOINHERIT', 0)
)

#: Windows locks bytes, which nobody else can read then: one that no file has.
_LOCKED_BYTE = 2**30

#: Programs that serve a site and write PID files, but do not lock them.
_SERVERS = frozenset({'paster', 'pserve', 'gearbox', 'runwsgi', 'zdaemon', 'gunicorn'})


class PIDFileError(WSPBusError):
    """Something is wrong with a PID file: its ``path``, and what."""

    exit_code = 2

    def __init__(self, path: str, problem: str) -> None:
        super().__init__(f'PID file {path}: {problem}')
        self.path, self.problem = path, problem


class UnreadablePIDFile(PIDFileError):
    """It cannot be opened, or is no regular file."""


class GarbagePIDFile(PIDFileError):
    """It does not hold a process ID: it may be a file of another kind."""


class StalePIDFile(PIDFileError):
    """Its process is gone: ``pid``."""

    def __init__(self, path: str, pid: int) -> None:
        super().__init__(path, f'process {pid}, which wrote it, is gone')
        self.pid = pid


class ForeignPIDFile(PIDFileError):
    """Its number is now another program's: ``pid``, and its ``program`` if known."""

    def __init__(self, path: str, pid: int, program: str) -> None:
        super().__init__(
            path, f'process {pid} is another program{program and f" ({program})"}'
        )
        self.pid, self.program = pid, program


class AlreadyRunning(PIDFileError):
    """A site that runs holds it: ``pid``, None while that site starts."""

    exit_code = 1

    def __init__(self, path: str, pid: int | None) -> None:
        what = 'the site that is starting' if pid is None else f'process {pid}'
        super().__init__(path, f'the site is running already: {what} holds it')
        self.pid = pid


_held: weakref.WeakSet[PIDLock] = weakref.WeakSet()
_forks_watched = False


class PIDLock:
    """A PID file and the lock on it (flock(2)), which ends with the process.

    The lock says whether the site runs, the number which process it is: a
    number alone may have gone to another program.
    """

    def __init__(self, path: str) -> None:
        self.path = os.path.abspath(path)
        self.fd: int | None = None
        #: Whether `release` does nothing: a successor is to get it.
        self.stays = False
        self._owner = 0

    def acquire(self) -> WSPBusError | None:
        """Open and lock the file; nothing is written yet.

        :returns: StalePIDFile or ForeignPIDFile if the file was of a site that
            is gone, else None.
        :raises AlreadyRunning: if a running site holds it.
        :raises UnreadablePIDFile: if it cannot be opened or made, or is a
            symbolic link or no file.
        :raises GarbagePIDFile: if it holds something else than a process ID.
        """
        while True:
            fd = self._open(os.O_CREAT)
            try:
                if not self._lock(fd, patience=0.2):
                    raise AlreadyRunning(self.path, self._number(fd))
                if not self._is_at_path(fd):  # its owner removed it meanwhile
                    continue
                found = self._judge(self._number(fd))
                if isinstance(found, ForeignPIDFile) and found.program in _SERVERS:
                    raise found
                self._take(fd)
                fd = -1
                return found
            finally:
                if fd != -1:
                    os.close(fd)

    def adopt(self, fd: int) -> None:
        """Go on with the lock of the process before this one: its descriptor."""
        self._take(fd)

    def _take(self, fd: int) -> None:
        global _forks_watched
        self.fd, self._owner = fd, os.getpid()
        _held.add(self)
        if not _forks_watched and hasattr(os, 'register_at_fork'):
            _forks_watched = True
            os.register_at_fork(after_in_child=_close_in_child)

    def read(self) -> int | None:
        """The process ID of the site that holds it.

        :returns: None if there is no file, or nothing in it.
        :raises StalePIDFile, ForeignPIDFile: if no site holds it.
        :raises GarbagePIDFile, UnreadablePIDFile: if it cannot be known.
        """
        try:
            fd = self._open(0)
        except FileNotFoundError:
            return None
        try:
            if not self._lock(fd, shared=True):
                return self._number(fd) or 0
            found = self._judge(self._number(fd))
        finally:
            os.close(fd)
        if found is not None:
            raise found
        return None

    def write(self) -> None:
        """Write this process's ID; the file is its from now on.

        :raises PIDFileError: if that fails, on a full disk.
        """
        assert self.fd is not None
        self._owner = os.getpid()
        text = b'%d\n' % os.getpid()
        try:
            os.ftruncate(self.fd, 0)
            os.lseek(self.fd, 0, os.SEEK_SET)
            if os.write(self.fd, text) != len(text):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        except OSError as error:
            raise PIDFileError(self.path, error.strerror or str(error)) from None

    def chown(self, uid: int, gid: int) -> None:
        """Give the file to whom the process is going to be."""
        assert self.fd is not None
        os.fchown(self.fd, uid, gid)

    def release(self) -> None:
        """Remove the file, or empty it where its folder does not allow that.

        Only the process that took it does; a forked child does nothing.
        """
        if self.stays:
            return
        fd, self.fd = self.fd, None
        _held.discard(self)
        if fd is None:
            return
        if self._owner == os.getpid():
            with contextlib.suppress(OSError):
                if fcntl is None:  # Windows removes no open file
                    os.ftruncate(fd, 0)
                    os.close(fd)
                    fd = -1
                    os.unlink(self.path)
                elif self._is_at_path(fd):
                    try:
                        os.unlink(self.path)
                    except OSError:
                        os.ftruncate(fd, 0)
        if fd != -1:
            os.close(fd)

    def copy(self) -> int | None:
        """Another descriptor of the locked file."""
        return None if self.fd is None else os.dup(self.fd)

    def forget(self) -> None:
        """Close it without a change: it is the successor's now."""
        fd, self.fd = self.fd, None
        _held.discard(self)
        if fd is not None:
            os.close(fd)

    def _open(self, create: int) -> int:
        try:
            try:
                fd = os.open(self.path, _FLAGS | create, 0o644)
            except PermissionError:
                if create:
                    raise
                fd = os.open(self.path, _FLAGS & ~os.O_RDWR | os.O_RDONLY)
        except FileNotFoundError:
            if not create:
                raise
            raise UnreadablePIDFile(
                self.path, f'there is no folder {os.path.dirname(self.path)}'
            ) from None
        except OSError as error:
            linked = error.errno in (errno.ELOOP, errno.EMLINK)
            problem = 'it is a symbolic link, which is not followed'
            raise UnreadablePIDFile(
                self.path, problem if linked else error.strerror or str(error)
            ) from None
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            os.close(fd)
            raise UnreadablePIDFile(self.path, 'it is not a file')
        if os.fstat(fd).st_nlink > 1:  # another's file, by a name in this folder
            os.close(fd)
            raise UnreadablePIDFile(self.path, 'it has other names (hard links)')
        return fd

    def _lock(self, fd: int, shared: bool = False, patience: float = 0) -> bool:
        """Lock it; ``patience``: seconds, for one that reads it holds it a moment."""
        until = time.monotonic() + patience
        try:
            while True:
                try:
                    _try_to_lock(fd, shared)
                    return True
                except BlockingIOError:
                    if time.monotonic() >= until:
                        return False
                    time.sleep(0.005)
        except OSError as error:
            raise UnreadablePIDFile(
                self.path, f'it cannot be locked: {error.strerror}'
            ) from None

    def _is_at_path(self, fd: int) -> bool:
        mine = os.fstat(fd)
        try:
            there = os.stat(self.path, follow_symlinks=False)
        except FileNotFoundError:
            return False
        return (mine.st_dev, mine.st_ino) == (there.st_dev, there.st_ino)

    def _number(self, fd: int) -> int | None:
        os.lseek(fd, 0, os.SEEK_SET)
        text = os.read(fd, _MAX_BYTES + 1).strip()
        if not text:
            return None
        if len(text) > 10 or not text.isdigit() or not 0 < int(text) < 2**31:
            raise GarbagePIDFile(self.path, 'what is in there is not a process ID')
        return int(text)

    def _judge(self, pid: int | None) -> StalePIDFile | ForeignPIDFile | None:
        """What a file is that nobody has locked."""
        if pid is None:
            return None
        if not is_alive(pid):
            return StalePIDFile(self.path, pid)
        return ForeignPIDFile(self.path, pid, _program(pid))


class PIDFile(Plugin):
    """Holds a PID file from start to exit; CherryPy's priorities.

    :param pidfile: its path, or a `PIDLock`.
    """

    def __init__(self, bus: Bus, pidfile: str | os.PathLike[str] | PIDLock) -> None:
        super().__init__(bus)
        self.lock = (
            pidfile if isinstance(pidfile, PIDLock) else PIDLock(os.fspath(pidfile))
        )
        self.pidfile = self.lock.path

    @on('start', priority=70)
    def start(self) -> None:
        """Lock the file and write this process's ID."""
        if self.lock.fd is None:
            left = self.lock.acquire()
            if left is not None:
                self.bus.log(f'{left}; taken over.')
        self.lock.write()
        self.bus.log(f'PID {os.getpid()} written to {self.pidfile!r}.')

    @on('exit')
    def exit(self) -> None:
        """Remove the file."""
        if self.lock.fd is not None and not self.lock.stays:
            self.lock.release()
            done = 'emptied' if os.path.lexists(self.pidfile) else 'removed'
            self.bus.log(f'PID file {done}: {self.pidfile!r}.')


def _try_to_lock(fd: int, shared: bool) -> None:
    """Lock an open file, for its readers or for its owner.

    :raises BlockingIOError: if somebody else has it locked.
    """
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


def _close_in_child() -> None:
    """A forked child must not keep its parent's lock alive."""
    for lock in list(_held):
        lock.forget()


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
    try:
        with open(f'/proc/{pid}/stat') as file:
            return file.read().rpartition(')')[2].split()[0] != 'Z'
    except OSError:
        return True


def _is_alive_on_windows(pid: int) -> bool:
    # os.kill(pid, 0) would send it Ctrl-C: CTRL_C_EVENT is 0.
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


def _program(pid: int) -> str:
    """The name of its program: of a script, not of the interpreter; '' if not known."""
    try:
        with open(f'/proc/{pid}/cmdline', 'rb') as file:
            words: list[Any] = file.read().split(b'\0')
    except OSError:
        return ''
    names = [os.path.basename(os.fsdecode(word)) for word in words[:2]]
    return names[1] if names[0].startswith('python') and names[1:] else names[0]
