"""A PID file and its lock, which say whether the site runs, and in which process."""

from __future__ import annotations

import contextlib
import errno
import os
import stat

from paste_wspbus.errors import WSPBusError, shortage
from paste_wspbus.exits import FAILED, USAGE
from paste_wspbus.forks import close_in_child
from paste_wspbus.unix import locks
from paste_wspbus.unix.exposed import is_exposed, place_of
from paste_wspbus.unix.processes import is_alive, program_of, users_of

#: The number of bytes that a PID file may have at most: a number and the end of the line.
_MAX_BYTES = 32

_FLAGS = (
    getattr(os, 'O_NOFOLLOW', 0)
    | getattr(os, 'O_CLOEXEC', 0)
    | getattr(os, 'O_NONBLOCK', 0)  # a FIFO would wait for its other end
    | getattr(os, 'O_NOCTTY', 0)
    | getattr(os, 'O_BINARY', 0)
    | getattr(os, 'O_NOINHERIT', 0)
)

#: The number of attempts to make the lock, if its owner removes it at that moment.
_ATTEMPTS = 100

#: Seconds that a predecessor has to close the lock that it has handed over.
_CLOSING = 2.0

#: What to do about a file in the place of the lock: a site that runs is found by its entry.
_REMOVE = '; if nothing uses it, remove it'

#: The locks that this process holds, by device and inode.
_held: dict[tuple[int, int], PIDLock] = {}

#: Programs that serve a site and write PID files, but do not lock them.
_SERVERS = frozenset({'paster', 'pserve', 'gearbox', 'runwsgi', 'zdaemon', 'gunicorn'})


class PIDFileError(WSPBusError):
    """The PID file at ``path`` has a ``problem``."""

    exit_code = USAGE

    def __init__(self, path: str, problem: str) -> None:
        super().__init__(f'PID file {path}: {problem}')
        self.path, self.problem = path, problem


class UnreadablePIDFile(PIDFileError):
    """The PID file or its lock is not a regular file, or cannot be opened (errno ``code``)."""

    def __init__(self, path: str, problem: str, code: int = 0) -> None:
        super().__init__(path, problem)
        self.code = code


class GarbagePIDFile(PIDFileError):
    """The file does not contain a process ID: it may be a file of another kind."""


class StalePIDFile(PIDFileError):
    """The process ``pid``, which wrote the PID file, is gone."""

    def __init__(self, path: str, pid: int) -> None:
        super().__init__(path, f'process {pid}, which wrote it, is gone')
        self.pid = pid


class ForeignPIDFile(PIDFileError):
    """The process ``pid`` is another program now: ``program``, if that is known."""

    def __init__(self, path: str, pid: int, program: str) -> None:
        super().__init__(
            path, f'process {pid} is another program{program and f" ({program})"}'
        )
        self.pid, self.program = pid, program


class AlreadyRunning(PIDFileError):
    """A running site holds the PID file. ``pid`` is None if its process is not known."""

    exit_code = FAILED

    def __init__(self, path: str, pid: int | None) -> None:
        problem = f'the site is running already: process {pid} holds it'
        if pid is None:
            problem = (
                'a process holds its lock, but nobody can find out which: a site that is '
                'starting, or another program'
            )
        super().__init__(path, problem)
        self.pid = pid


class UnlockedSite(PIDFileError):
    """A site listens at the socket ``control``, but the lock of its PID file is free."""

    exit_code = FAILED

    def __init__(self, path: str, control: str) -> None:
        problem = f'a site listens at {control}, although its lock was removed: stop it'
        super().__init__(path, problem)
        self.control = control


def _signer_behind(lock_path: str, error: UnreadablePIDFile) -> int | None:
    """Return the process that has signed a lock that this user must not open."""
    if error.code == errno.EACCES:
        with contextlib.suppress(OSError):
            return locks.signer_at(os.stat(lock_path, follow_symlinks=False))
    return None


def _is_owners(pid: int, fd: int) -> bool:
    """Whether root may take a process that has signed the lock for the site's.

    A user who owns the lock can sign it, and then turn the process into one of another
    user: by a setuid program, or by sudo(8), which keeps standard input open. Root would
    signal that process. A lock of root's was signed by a process that was root's.
    """
    if not hasattr(os, 'geteuid') or os.geteuid() != 0:
        return True
    owner = os.fstat(fd).st_uid
    return owner == 0 or users_of(pid) in (None, {owner})


class PIDLock:
    """A PID file, and beside it the lock that says whether the site runs.

    The PID file has the mode 0644: it is for people and scripts. A user who can write it
    could write any number, and a user who can read a file can lock it (flock(2)). So this
    class does not trust the number, and the lock is another file, ``PATH.lock``, which
    only its owner and root can open. The process that runs the site holds two locks on
    it. flock(2) says that the site runs; a successor gets it with the descriptor.
    fcntl(2) says which process holds it, because the system names that process. The
    process takes it when it writes its number into the PID file.

    :param path: the path of the PID file.
    :param control: the path of the control socket; None stands for ``PATH.sock``.
    """

    def __init__(self, path: str, control: str | None = None) -> None:
        self.path = os.path.abspath(path)
        self.lock_path = f'{self.path}.lock'
        #: The path of the control socket of the site.
        self.control = control or f'{self.path}.sock'
        #: The descriptor of the lock, while this process holds it.
        self.fd: int | None = None
        #: A process that the system names as the site's otherwise, too: by its entry.
        self.known_holder: int | None = None
        #: Whether `release` does nothing: the successor will get the lock.
        self.stays = False
        self._file: int | None = None  # the PID file
        self._owner = 0
        self._was_handed_over = False

    @property
    def exists(self) -> bool:
        """Whether there is a PID file, or a lock."""
        return os.path.lexists(self.path) or os.path.lexists(self.lock_path)

    def acquire(self) -> WSPBusError | None:
        """Open the PID file, and take its lock; `write` writes the number later.

        :returns: StalePIDFile or ForeignPIDFile if the file belonged to a site that has
            ended, else None.
        :raises AlreadyRunning: if a running site holds the lock.
        :raises UnreadablePIDFile: if a file cannot be opened or made, or is a
            symbolic link or not a regular file.
        :raises GarbagePIDFile: if it contains something else than a process ID.
        """
        for _ in range(_ATTEMPTS):
            if (holder := self._held_here()) is not None:
                raise AlreadyRunning(self.path, holder or None)
            try:
                fd = self._open_lock(os.O_CREAT)
            except UnreadablePIDFile as error:
                signer = _signer_behind(self.lock_path, error)
                # A stranger may have made the lock, and signed it.
                if signer is None or users_of(signer) != {os.geteuid()}:
                    raise
                raise AlreadyRunning(self.path, signer) from None
            try:
                if not self._lock(fd, patience=0.2):
                    raise AlreadyRunning(self.path, self._holder(fd) or None)
                if not _is_at(self.lock_path, fd):  # its owner removed it meanwhile
                    continue
                found = self._take_file(fd)
                self._take(fd)
                fd = -1
                return found
            finally:
                if fd != -1:
                    os.close(fd)
        problem = f'{self.lock_path} is replaced by another file again and again'
        raise UnreadablePIDFile(self.path, problem)

    def adopt(self, fd: int) -> None:
        """Take the lock over from the program that this process has replaced."""
        self._was_handed_over = True
        self._take(fd)

    def receive(self, fd: int) -> None:
        """Take the lock over from another process, which has sent its descriptor.

        :raises UnreadablePIDFile: if it is not a descriptor of the lock, or does not hold
            the lock. An attacker may control the other process, and this process will
            give the file to the user of the site.
        """
        try:
            own = self._open_lock()
            try:
                is_lock = os.path.sameopenfile(own, fd)
                if is_lock and not self._lock(own) and self._lock(fd):
                    self.adopt(fd)
                    return
            finally:
                os.close(own)
        except FileNotFoundError:
            pass
        raise UnreadablePIDFile(
            self.path,
            'the running site did not hand over its lock, but another file',
        )

    def _take_file(self, fd: int) -> StalePIDFile | ForeignPIDFile | None:
        """Open the PID file, and return what is wrong with it; ``fd`` is that of the lock."""
        file = -1
        try:
            file = self._open(self.path, os.O_RDWR | os.O_CREAT, 0o644)
            number = _number(self.path, file)
            # In a container, a process gets the number of its predecessor again.
            found = None if number == os.getpid() else self._judge(number)
            if isinstance(found, ForeignPIDFile) and found.program in _SERVERS:
                raise found
        except (OSError, PIDFileError):
            if file != -1:
                os.close(file)
            with contextlib.suppress(OSError):
                _remove(self.lock_path, fd)
            raise
        self._file = file
        return found

    def _take(self, fd: int) -> None:
        self.fd, self._owner = fd, os.getpid()
        _held[_identity(os.fstat(fd))] = self
        # A forked child must not keep its parent's lock alive.
        close_in_child(self, PIDLock.forget)

    def read(self) -> int | None:
        """Return the process ID of the site that holds the lock; 0 while that site starts.

        :returns: None if there is no PID file, or if it is empty.
        :raises StalePIDFile, ForeignPIDFile: if no site holds it.
        :raises GarbagePIDFile, UnreadablePIDFile: if nobody can know which site holds it.
        """
        holder = self._held_here()
        if holder is None:
            holder = self._held_elsewhere()
        if holder is not None:
            return holder
        number = self._written_number()
        found = self._judge(number)
        if found is not None:
            raise found
        return None

    def write(self) -> None:
        """Write this process's ID; from now on the file belongs to this process.

        :raises PIDFileError: if that fails, for example on a full disk.
        """
        assert self.fd is not None
        self._owner = os.getpid()
        self._sign()
        text = b'%d\n' % os.getpid()
        try:
            if self._file is None:
                self._file = self._open_own(os.getpid())
            if self._file is None:
                return
            os.ftruncate(self._file, 0)
            os.lseek(self._file, 0, os.SEEK_SET)
            if os.write(self._file, text) != len(text):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        except OSError as error:
            raise PIDFileError(self.path, error.strerror or str(error)) from None

    def check(self) -> None:
        """Raise UnreadablePIDFile or OSError if who gets this lock could not write its ID."""
        if os.path.lexists(self.path):  # else `write` makes it
            fd = self._open_own(os.getpid())
            if fd is not None:
                os.close(fd)

    def chown(self, uid: int, gid: int) -> None:
        """Give the files to the user to which the process is going to change."""
        for fd in (self.fd, self._file):
            if fd is not None:
                os.fchown(fd, uid, gid)

    def release(self) -> None:
        """Remove the files, or empty the PID file if its folder does not allow that.

        Only the process that took the lock does this; a forked child does nothing.
        """
        if self.stays:
            return
        if self.fd is not None and self._owner == os.getpid():
            with contextlib.suppress(OSError):
                if _is_at(self.lock_path, self.fd):
                    self._remove()
        self.forget()

    def _remove(self) -> None:
        assert self.fd is not None
        if os.name == 'nt':  # Windows cannot remove an open file
            if self._file is not None:
                os.ftruncate(self._file, 0)
            self.forget()
            os.unlink(self.path)
            os.unlink(self.lock_path)
            return
        with contextlib.suppress(OSError, PIDFileError):
            if self._file is None:
                self._file = self._open(self.path, os.O_RDWR)
            try:
                _remove(self.path, self._file)
            except OSError:
                os.ftruncate(self._file, 0)
        _remove(self.lock_path, self.fd)

    def copy(self) -> int | None:
        """Return another descriptor of the lock."""
        return None if self.fd is None else os.dup(self.fd)

    def forget(self) -> None:
        """Close the files without a change, because they belong to the successor now."""
        fds, self.fd, self._file = (self.fd, self._file), None, None
        for identity in [one for one, lock in _held.items() if lock is self]:
            del _held[identity]
        for fd in fds:
            if fd is not None:
                os.close(fd)

    # -- the lock ---------------------------------------------------------------

    def _open_lock(self, create: int = 0) -> int:
        fd = self._open(self.lock_path, os.O_RDWR | create, 0o600)
        status = os.fstat(fd)
        # Root gives the lock to the site's user: it must not be a file with a secret.
        if status.st_size:
            os.close(fd)
            raise GarbagePIDFile(
                self.path,
                f'{self.lock_path} is not a lock file of wspserve: it is not empty'
                f'{_REMOVE}',
            )
        if hasattr(os, 'geteuid') and os.geteuid() not in (0, status.st_uid):
            os.close(fd)
            problem = f'{self.lock_path} belongs to another user (UID {status.st_uid})'
            raise UnreadablePIDFile(self.path, problem, errno.EACCES)
        if create and status.st_mode & 0o077 and hasattr(os, 'fchmod'):
            with contextlib.suppress(OSError):
                os.fchmod(fd, 0o600)
        return fd

    def _lock(self, fd: int, shared: bool = False, patience: float = 0) -> bool:
        try:
            return locks.lock(fd, shared, patience)
        except OSError as error:
            raise UnreadablePIDFile(
                self.path, f'{self.lock_path} cannot be locked: {error.strerror}'
            ) from None

    def _sign(self) -> None:
        """Sign the lock: the system names this process as its holder.

        :raises PIDFileError: if the predecessor, which handed the lock over, keeps it.
        """
        assert self.fd is not None
        patience = _CLOSING if self._was_handed_over else 0
        # If no predecessor handed it over, this is NFS, where both locks are of one kind.
        if not locks.sign(self.fd, patience) and self._was_handed_over:
            problem = 'the process that ran the site before has not released its lock: stop it'
            raise PIDFileError(self.path, problem)

    def _held_here(self) -> int | None:
        """Return what `read` returns if this process holds the lock, else None.

        This must not open the lock again: the system drops the fcntl(2) locks of a
        process as soon as the process closes any descriptor of that file.
        """
        if not _held:
            return None
        try:
            with place_of(self.lock_path) as (name, folder):
                status = os.stat(name, dir_fd=folder, follow_symlinks=False)
        except OSError:
            return None
        lock = _held.get(_identity(status))
        if lock is None:
            return None
        with contextlib.suppress(PIDFileError):
            return os.getpid() if self._written_number() == os.getpid() else 0
        return 0

    def _held_elsewhere(self) -> int | None:
        try:
            fd = self._open_lock()
        except FileNotFoundError:
            return None
        except UnreadablePIDFile as error:
            if (signer := _signer_behind(self.lock_path, error)) is not None:
                return signer
            raise
        try:
            return None if self._lock(fd, shared=True) else self._holder(fd)
        finally:
            os.close(fd)

    def _holder(self, fd: int) -> int:
        """Return the ID of the process that holds the lock; 0 if it is not known."""
        signer = locks.signer_of(fd)
        if signer is None:
            return 0  # its holder is about to sign it
        if signer:
            is_sites = signer == self.known_holder or _is_owners(signer, fd)
            return signer if is_sites else 0
        return self._number_if_trusted()

    def _number_if_trusted(self) -> int:
        """Return the number in the PID file, because the system does not name the holder.

        With a wrong number, a plain user can signal only its own processes. But root
        could signal any process, so root trusts the number only if no other user can have
        written it.
        """
        with contextlib.suppress(OSError, PIDFileError):
            if hasattr(os, 'geteuid') and os.geteuid() == 0:
                status = os.stat(self.path, follow_symlinks=False)
                is_roots = status.st_uid == 0 and not status.st_mode & 0o022
                if not is_roots or is_exposed(self.path):
                    return 0
            return self._written_number() or 0
        return 0

    # -- the PID file -----------------------------------------------------------

    def _open(self, path: str, flags: int, mode: int = 0o600) -> int:
        """Open a file of this folder, which must be a regular file with one name.

        :raises FileNotFoundError: if there is no file, and ``flags`` does not make one.
        :raises UnreadablePIDFile: if it cannot be opened.
        :raises OSError: if no descriptor is free.
        """
        which = '' if path == self.path else f'{path}: '
        hint = '' if path == self.path else _REMOVE
        try:
            makes = bool(flags & os.O_CREAT)
            with place_of(path, makes) as (name, folder):
                fd = os.open(name, _FLAGS | flags, mode, dir_fd=folder)
        except FileNotFoundError:
            if not flags & os.O_CREAT:
                raise
            problem = f'there is no folder {os.path.dirname(path)}'
            if os.path.isdir(os.path.dirname(path)):  # such as /proc
                problem = 'the system makes no file there'
            raise UnreadablePIDFile(self.path, problem) from None
        except OSError as error:
            if shortage(error) is not None:
                raise
            linked = error.errno in (errno.ELOOP, errno.EMLINK)
            problem = error.strerror or str(error)
            if linked and os.path.islink(path):
                problem = 'it is a symbolic link, which is not followed'
            elif error.errno == errno.EISDIR:
                problem = 'it is a directory'
            else:
                hint = ''
            raise UnreadablePIDFile(
                self.path, f'{which}{problem}{hint}', error.errno or 0
            ) from None
        problem = ''
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            problem = 'it is not a regular file'
        elif os.fstat(fd).st_nlink > 1:
            # A file of another user could have a second name (a hard link) in this folder.
            problem = 'it has other names (hard links)'
        if problem:
            os.close(fd)
            raise UnreadablePIDFile(self.path, f'{which}{problem}{hint}')
        return fd

    def _open_own(self, pid: int) -> int | None:
        """Open the PID file of the predecessor; None if it contains ``pid`` already.

        A process that has replaced its program (execve(2)) may have another user now than
        when it made the file, and may be unable to open it.
        """
        try:
            return self._open(self.path, os.O_RDWR | os.O_CREAT, 0o644)
        except UnreadablePIDFile:
            if self._written_number() == pid:
                return None
            raise

    def _written_number(self) -> int | None:
        """Return the number in the PID file; None if there is no number."""
        try:
            fd = self._open(self.path, os.O_RDONLY)
        except FileNotFoundError:
            return None
        try:
            return _number(self.path, fd)
        finally:
            os.close(fd)

    def _judge(self, pid: int | None) -> StalePIDFile | ForeignPIDFile | None:
        """Return what is wrong with a PID file whose lock is free; None if it is empty."""
        if pid is None:
            return None
        if not is_alive(pid):
            return StalePIDFile(self.path, pid)
        return ForeignPIDFile(self.path, pid, program_of(pid))


def _number(path: str, fd: int) -> int | None:
    """Return the number in the open PID file at a path; None if the file is empty."""
    os.lseek(fd, 0, os.SEEK_SET)
    text = os.read(fd, _MAX_BYTES + 1).strip()
    if not text:
        return None
    if len(text) > 10 or not text.isdigit() or not 0 < int(text) < 2**31:
        raise GarbagePIDFile(path, 'it does not contain a process ID')
    return int(text)


def _identity(status: os.stat_result) -> tuple[int, int]:
    return status.st_dev, status.st_ino


def _is_at(path: str, fd: int) -> bool:
    """Whether the open file is the one at the path.

    :raises OSError: if no descriptor is free to find out.
    """
    try:
        with place_of(path) as (name, folder):
            there = os.stat(name, dir_fd=folder, follow_symlinks=False)
    except OSError as error:
        if error.errno in (errno.EMFILE, errno.ENFILE):
            raise
        return False
    return _identity(os.fstat(fd)) == _identity(there)


def _remove(path: str, fd: int) -> None:
    """Remove the open file, if it is the one at the path."""
    with place_of(path, removes=True) as (name, folder):
        there = os.stat(name, dir_fd=folder, follow_symlinks=False)
        if _identity(os.fstat(fd)) == _identity(there):
            os.unlink(name, dir_fd=folder)
