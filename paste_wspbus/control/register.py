"""The register of running sites: each site has an entry, in a folder where commands look."""

from __future__ import annotations

import contextlib
import errno
import itertools
import json
import os
import re
import socket
import stat
import time

from paste_wspbus.forks import close_in_child
from paste_wspbus.unix import locks
from paste_wspbus.unix.numbers import lift
from paste_wspbus.unix.paths import SYSTEM, UnsafeFolder, is_private, own_folders
from paste_wspbus.unix.processes import users_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any

#: The ends of the names of an entry, of its lock, and of the control socket beside it.
SUFFIX, LOCK, SOCKET = '.json', '.lock', '.sock'

#: The end of the name of an entry that is not complete yet.
_NEW = '.new'

#: The beginning of the names of a `Beacon`.
_BEACON = 'paste_wspbus'

#: The number of names that are tried for the lock.
_ATTEMPTS = 100

#: The number of bytes of the .ini's name in that of the entry: the path must be short.
_NAME_BYTES = 32

#: The number of files of a folder, the bytes of an entry, and the seconds for a folder,
#: at most: another user may own the folder.
MAX_FILES, MAX_BYTES, PATIENCE = 10_000, 1 << 16, 0.5

_READ = (
    getattr(os, 'O_NOFOLLOW', 0)
    | getattr(os, 'O_CLOEXEC', 0)
    | getattr(os, 'O_NONBLOCK', 0)  # a FIFO would wait for its other end
    | getattr(os, 'O_NOCTTY', 0)
)


class Registration:
    """The entry of this process's site, and its lock. They exist as long as the site runs.

    The process signs the lock (see `locks`): so everybody who can see it can ask the
    system whether the process lives. The lock is another file than the entry, because the
    process keeps it open when it changes from root to another user: root believes what
    root has written, and the site must not be able to change that.

    :param folder: a folder of this user's alone.
    :param file: the real path of the .ini.
    :raises OSError: if the lock cannot be made.
    """

    def __init__(self, folder: str, file: str) -> None:
        name = _name_for(file)
        _remove_dead(folder, name)
        for number in range(_ATTEMPTS):
            # A process of another container may have the same ID, and the same folder.
            stem = f'{folder}/{name}-{os.getpid()}{f"-{number}" if number else ""}'
            fd = lift(os.open(stem + LOCK, os.O_RDWR | os.O_CREAT | _READ, 0o644))
            os.fchmod(fd, 0o644)  # whatever the umask is
            # Another process may remove it before it is signed.
            is_free = locks.signer_of(fd) in (None, 0) and locks.sign(fd)
            if is_free and _is_at(stem + LOCK, fd):
                self.take(fd, stem)
                return
            os.close(fd)
        raise OSError(errno.EAGAIN, f'{folder}: other processes lock all files')

    @classmethod
    def adopt(cls, fd: int) -> Registration | None:
        """Take over the entry of the program before this one, in the same process.

        :param fd: the lock.
        :returns: None if it is not a lock of an entry any more; then it is closed.
        """
        registration = cls.__new__(cls)
        with contextlib.suppress(OSError):
            path = os.readlink(f'/proc/self/fd/{fd}')
            registration.take(fd, path.removesuffix(LOCK))
            registration.control = registration.fields.get('control', '')
            if registration.control:
                registration.version = _version(os.lstat(registration.path))
                return registration
            os.close(fd)
        return None

    def take(self, fd: int, stem: str) -> None:
        """Hold the lock of the entry whose files begin with ``stem``."""
        self.fd, self.owner_pid = fd, os.getpid()
        self.path, self.control, self.lock = stem + SUFFIX, stem + SOCKET, stem + LOCK
        #: What was written last, or what a program before this one has written.
        self.version: tuple[int, ...] | None = None
        close_in_child(self, Registration.forget)

    @property
    def fields(self) -> dict[str, Any]:
        """What the entry says; {} if it says nothing, or if it is another file now."""
        try:
            fd = os.open(self.path, os.O_RDONLY | _READ)
        except OSError:
            return {}
        try:
            return _parsed(fd) or {}
        finally:
            os.close(fd)

    def write(self, **fields: Any) -> None:
        """Write what the entry says of the site.

        :raises OSError: if that fails, for example on a full disk.
        """
        new = self.path.removesuffix(SUFFIX) + _NEW
        with contextlib.suppress(FileNotFoundError):
            os.unlink(new)
        # What is at the path now may be a second name of another file: do not open it.
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | _READ
        try:
            with open(os.open(new, flags, 0o644), 'wb') as file:
                os.fchmod(file.fileno(), 0o644)  # whatever the umask is
                file.write(json.dumps(fields).encode())
                file.flush()
                self.version = _version(os.fstat(file.fileno()))
            os.rename(new, self.path)
        except OSError:
            with contextlib.suppress(OSError):
                os.unlink(new)
            raise

    def chown(self, uid: int, gid: int) -> None:
        """Give the lock to the user to which the process is going to change."""
        os.fchown(self.fd, uid, gid)

    def close(self) -> None:
        """Remove the entry, if this process may still do that, and free the lock."""
        if self.fd == -1:
            return
        if self.owner_pid == os.getpid():
            with contextlib.suppress(OSError):
                if self.version == _version(os.lstat(self.path)):
                    os.unlink(self.path)
            if _is_at(self.lock, self.fd):
                with contextlib.suppress(OSError):
                    os.unlink(self.lock)
        self.forget()

    def forget(self) -> None:
        """Close the lock, and do not remove the entry, because it is another process's."""
        fd, self.fd = self.fd, -1
        if fd != -1:
            os.close(fd)


def _version(status: os.stat_result) -> tuple[int, ...]:
    """Return what changes if another file is there: inodes alone are used again."""
    return status.st_dev, status.st_ino, status.st_mtime_ns


def _is_at(path: str, fd: int) -> bool:
    with contextlib.suppress(OSError):
        return os.path.samestat(os.fstat(fd), os.lstat(path))
    return False


def _name_for(file: str) -> str:
    """Return the beginning of the names of all entries of an .ini, by its real path."""
    from _blake2 import blake2b  # hashlib would load OpenSSL: ten times the time

    path = os.fsencode(file)
    name = os.fsdecode(os.path.basename(path)[:_NAME_BYTES])
    return f'{name}-{blake2b(path, digest_size=8).hexdigest()}'


class Entry:
    """What a site has written into its entry, and what the system says of the entry.

    ``ini`` is the .ini by the name that was given, ``file`` by its real path. ``server``
    and ``app`` are the names of its sections, ``main`` if no name was given. ``control``
    is the path of its control socket. ``pid_file`` and ``log_file`` are None if it has
    none. ``named_pid_file`` is the PID file by the name that was given. ``owner`` is the user who owns the entry and its folder, and could have written
    anything. ``holder`` is the process that holds the entry: None if the site has ended, 0
    if the system does not name it.

    :raises ValueError: if a field has the wrong type.
    """

    def __init__(
        self, fields: dict[str, Any], path: str, owner: int, holder: int | None
    ) -> None:
        self.path, self.owner, self.holder = path, owner, holder
        self.ini = _text(fields, 'ini')
        self.file = _text(fields, 'file')
        self.server = _text(fields, 'server')
        self.app = _text(fields, 'app')
        self.control = _path(fields, 'control') or ''
        self.pid_file, self.named_pid_file, self.log_file = (
            _path(fields, key) for key in ('pid_file', 'named_pid_file', 'log_file')
        )
        if not self.control:
            raise ValueError('control')

    def is_held_by(self) -> int | None:
        """Return what ``holder`` would be now."""
        return _holder_of(self.path.removesuffix(SUFFIX) + LOCK)

    @property
    def has_ended(self) -> bool:
        """Whether the system says that its process has ended."""
        return locks.NAMES_HOLDERS and self.holder is None

    @property
    def names(self) -> dict[str, str]:
        """What `Names` compares."""
        return {
            'ini': self.ini,
            'file': self.file,
            'server': self.server,
            'app': self.app,
        }

    @property
    def sections(self) -> str:
        """The names of its sections that are not ``main``: ' [server:web1]', or ''."""
        named = [('server', self.server), ('app', self.app)]
        return ''.join(f' [{kind}:{name}]' for kind, name in named if name != 'main')


def _text(fields: dict[str, Any], key: str) -> str:
    value = fields[key]
    if not isinstance(value, str) or '\0' in value:
        raise ValueError(key)
    return value


def _path(fields: dict[str, Any], key: str) -> str | None:
    if fields.get(key) is None:
        return None
    path = _text(fields, key)
    if not os.path.isabs(path):
        raise ValueError(key)
    return path


def read_entries(
    users: Iterable[int], everybody: bool = False
) -> tuple[list[Entry], list[UnsafeFolder]]:
    """Read the entries of running sites; also those of sites that were killed.

    :param users: the users whose sites count. The folders of the caller and of root are
        always read.
    :param everybody: whether the folders of all other users are read, too.
    :returns: the entries, and the folders that exist and cannot be read.
    """
    entries: list[Entry] = []
    problems = []
    for folder, (owner, is_needed) in _folders(users, everybody).items():
        try:
            entries += _read_folder(folder, owner)
        except UnsafeFolder as error:
            if is_needed:
                problems.append(error)
    return entries, problems


def _folders(
    users: Iterable[int], everybody: bool
) -> dict[str, tuple[int | None, bool]]:
    """Return folders; for each, its owner, or None; and whether it is a problem if it is unsafe.

    A folder after SYSTEM is none for root: if SYSTEM is there, all sites of root are in it.
    """
    if not hasattr(os, 'geteuid'):
        return {}
    from glob import iglob  # only the subcommands need it

    folders: dict[str, tuple[int | None, bool]] = {}
    is_needed, me = True, os.geteuid()
    for folder in own_folders():
        folders[folder] = me, is_needed
        is_needed = is_needed and not (folder == SYSTEM and is_private(SYSTEM))
    folders.setdefault(SYSTEM, (0, True))
    for uid in users:
        is_needed = uid != 0 or not os.path.isdir(SYSTEM)
        for folder in (f'/run/user/{uid}/paste_wspbus', f'/tmp/paste_wspbus-{uid}'):
            folders.setdefault(folder, (uid, is_needed))
    patterns = [f'{SYSTEM}/*/']
    if everybody:
        patterns += ['/run/user/*/paste_wspbus/', '/tmp/paste_wspbus-*/']
    for folder in itertools.chain(*map(iglob, patterns)):
        folders.setdefault(folder.rstrip('/'), (None, False))
    return folders


def _read_folder(folder: str, owner: int | None) -> list[Entry]:
    try:
        fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | _READ)
    except FileNotFoundError:
        return []
    except OSError as error:
        with contextlib.suppress(OSError):
            _check(folder, os.lstat(folder), owner)
        reason = (error.strerror or str(error)).lower()
        raise UnsafeFolder(folder, reason) from None
    try:
        status = os.fstat(fd)
        _check(folder, status, owner)
        entries, until = [], time.monotonic() + PATIENCE
        with os.scandir(fd) as files:
            for file in itertools.islice(files, MAX_FILES):
                if time.monotonic() > until:
                    break
                if file.name.endswith(SUFFIX):
                    entries += _read(fd, file.name, folder, status.st_uid)
        return entries
    finally:
        os.close(fd)


def _check(folder: str, status: os.stat_result, owner: int | None) -> None:
    if not stat.S_ISDIR(status.st_mode):
        raise UnsafeFolder(folder, 'it is not a folder')
    if owner is not None and status.st_uid != owner:
        problem = f'it belongs to another user (UID {status.st_uid}, not {owner})'
        raise UnsafeFolder(folder, problem)
    if status.st_mode & 0o022:
        mode = stat.S_IMODE(status.st_mode)
        raise UnsafeFolder(folder, f'others can write to it (its mode is {mode:04o})')


def _read(folder_fd: int, name: str, folder: str, owner: int) -> list[Entry]:
    """Return the entry as a list; [] if the file is no entry, or is empty."""
    try:
        fd = os.open(name, os.O_RDONLY | _READ, dir_fd=folder_fd)
    except OSError:
        return []
    try:
        status = os.fstat(fd)
        if not stat.S_ISREG(status.st_mode) or status.st_uid != owner:
            return []
        fields = _parsed(fd)
        if not fields:
            return []
        lock = name.removesuffix(SUFFIX) + LOCK
        return [Entry(fields, f'{folder}/{name}', owner, _holder_of(lock, folder_fd))]
    except (OSError, ValueError, KeyError):
        return []
    finally:
        os.close(fd)


class Beacon:
    """Shows that a site runs that has no folder for an entry: a socket with an abstract name.

    The system lists it for everybody (proc(5), /proc/net/unix). Nobody accepts there.

    :param file: the real path of the .ini.
    :raises OSError: if this system has no abstract names (unix(7)).
    """

    def __init__(self, file: str) -> None:
        self._socket = socket.socket(socket.AF_UNIX)
        close_in_child(self, Beacon.close)
        try:
            name = f'{_BEACON}/{_name_for(file)}-{os.getpid()}{SOCKET}'
            self._socket.bind(b'\0' + os.fsencode(name))
            self._socket.listen(1)
        except OSError:
            self.close()
            raise

    def close(self) -> None:
        """Close the socket: the system does not list it any more."""
        self._socket.close()


def socket_out_of_sight(
    file: str, users: Iterable[int], everybody: bool, entries: Iterable[Entry]
) -> str | None:
    """Return the name of a socket of a site that listens where `read_entries` does not look.

    The system lists it (proc(5), /proc/net/unix), although its folder is another user's,
    or is in another mount namespace, as with PrivateTmp=yes of systemd.exec(5), or is
    that of another $XDG_RUNTIME_DIR. ``@`` begins the name of a `Beacon`.

    :param file: the real path of the .ini.
    :param users: as in `read_entries`; so is ``everybody``.
    :param entries: those that `read_entries` has returned.
    :returns: a path; without its folder, if the process has named that by a descriptor.
    """
    name = rf'.*/{re.escape(_name_for(file))}-[\d-]+{re.escape(SOCKET)}'
    folders = _folders(users, everybody)
    seen = {os.path.basename(entry.control) for entry in entries}
    try:
        with open('/proc/net/unix', errors='surrogateescape') as lines:
            listening = [line.split(None, 7) for line in lines if ' 00010000 ' in line]
    except OSError:
        return None
    for words in listening:
        path = words[7].rstrip('\n') if len(words) == 8 else ''
        if not re.fullmatch(name, path, re.DOTALL) or os.path.basename(path) in seen:
            continue
        if os.path.dirname(path) not in folders or not os.path.lexists(path):
            return re.sub('^/proc/self/fd/[0-9]+/', '', path)
    return None


def lock_without_entry(
    file: str, users: Iterable[int], everybody: bool, entries: Iterable[Entry]
) -> str | None:
    """Return the lock that a process holds for an .ini whose entry is gone, or cannot be read.

    The arguments are those of `socket_out_of_sight`.
    """
    name = _name_for(file)
    seen = {entry.path.removesuffix(SUFFIX) + LOCK for entry in entries}
    for folder, (owner, _) in _folders(users, everybody).items():
        with contextlib.suppress(OSError, UnsafeFolder):
            _check(folder, os.lstat(folder), owner)
            with os.scandir(folder) as files:
                for one in itertools.islice(files, MAX_FILES):
                    is_lock = one.name.startswith(f'{name}-') and one.name.endswith(
                        LOCK
                    )
                    is_known = one.path in seen or not is_lock
                    if not is_known and _holder_of(one.path) is not None:
                        return one.path
    return None


def _parsed(fd: int) -> dict[str, Any] | None:
    try:
        fields = json.loads(os.pread(fd, MAX_BYTES, 0))
    except (OSError, ValueError, RecursionError):
        return None
    return fields if isinstance(fields, dict) else None


def _holder_of(path: str, folder_fd: int | None = None) -> int | None:
    """Return the process that holds the lock of an entry; see `Entry`.

    It must run as the owner of the lock, who could turn the process into one of another
    user by a setuid program.
    """
    if not locks.NAMES_HOLDERS:
        return None
    try:
        fd = os.open(path, os.O_RDONLY | _READ, dir_fd=folder_fd)
    except OSError:
        return None
    try:
        status = os.fstat(fd)
        pid = locks.signer_of(fd) if stat.S_ISREG(status.st_mode) else None
        is_owners = status.st_uid == 0 or users_of(pid or 0) in (None, {status.st_uid})
        return pid if not pid or is_owners else 0
    finally:
        os.close(fd)


def _remove_dead(folder: str, name: str) -> None:
    """Remove the files of sites of this .ini that have ended, and could not do it."""
    with contextlib.suppress(OSError), os.scandir(folder) as files:
        for file in itertools.islice(files, MAX_FILES):
            if file.name.startswith(f'{name}-') and file.name.endswith(LOCK):
                with contextlib.suppress(OSError):
                    _remove_if_dead(file.path)


def _remove_if_dead(path: str) -> None:
    fd = os.open(path, os.O_RDWR | _READ)
    try:
        if locks.NAMES_HOLDERS and locks.signer_of(fd) is None:
            for end in (LOCK, SUFFIX, _NEW, SOCKET):
                with contextlib.suppress(OSError):
                    os.unlink(path.removesuffix(LOCK) + end)
    finally:
        os.close(fd)
