"""The register of running sites: each site has an entry, in a folder where commands look."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import re
import stat
import time

from paste_wspbus.control.paths import SYSTEM, UnsafeFolder, is_private, own_folders
from paste_wspbus.forks import close_in_child
from paste_wspbus.unix import locks

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any

#: The end of an entry's name; that of the control socket beside it ends with ``.sock``.
SUFFIX = '.json'

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
    """The entry of this process's site. It exists as long as the site runs.

    The process signs it (see `locks`): so everybody who can see the entry can ask the
    system whether its process lives.

    :param folder: a folder of this user's alone.
    :param file: the real path of the .ini.
    :raises OSError: if the entry cannot be made.
    """

    def __init__(self, folder: str, file: str) -> None:
        name = _name_for(file)
        _remove_dead(folder, name)
        self.owner_pid = os.getpid()
        for number in itertools.count():
            # A process of another container may have the same ID, and the same folder.
            stem = f'{folder}/{name}-{self.owner_pid}{f"-{number}" if number else ""}'
            self.path, self.control = stem + SUFFIX, f'{stem}.sock'
            self.fd = os.open(self.path, os.O_RDWR | os.O_CREAT | _READ, 0o644)
            # Another process may remove it before it is signed.
            is_free = locks.signer_of(self.fd) in (None, 0) and locks.sign(self.fd)
            if is_free and self._is_there():
                break
            os.close(self.fd)
        close_in_child(self, Registration.forget)

    @classmethod
    def adopt(cls, fd: int) -> Registration | None:
        """Take over the entry of the program before this one, in the same process.

        :returns: None if it is not an entry.
        """
        registration = cls.__new__(cls)
        registration.fd = fd
        registration.owner_pid = os.getpid()
        try:
            registration.path = os.readlink(f'/proc/self/fd/{fd}')
        except OSError:
            registration.path = ''
        registration.control = registration.fields.get('control', '')
        close_in_child(registration, Registration.forget)
        return registration if registration.control else None

    @property
    def fields(self) -> dict[str, Any]:
        """What the entry says; {} if it says nothing."""
        return _parsed(self.fd) or {}

    def write(self, **fields: Any) -> None:
        """Write what the entry says of the site.

        :raises OSError: if the disk is full.
        """
        os.fchmod(self.fd, 0o644)  # whatever the umask is
        os.ftruncate(self.fd, 0)
        os.pwrite(self.fd, json.dumps(fields).encode(), 0)

    def close(self) -> None:
        """Remove the entry; empty it if this process may not remove it any more."""
        if self.fd == -1:
            return
        if self.owner_pid == os.getpid():
            with contextlib.suppress(OSError):
                os.ftruncate(self.fd, 0)
            with contextlib.suppress(OSError):
                if self._is_there():
                    os.unlink(self.path)
        self.forget()

    def _is_there(self) -> bool:
        with contextlib.suppress(FileNotFoundError):
            return os.path.samestat(os.fstat(self.fd), os.lstat(self.path))
        return False

    def forget(self) -> None:
        """Close the entry, and do not remove it, because it belongs to another process."""
        fd, self.fd = self.fd, -1
        if fd != -1:
            os.close(fd)


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
    none. ``owner`` is the user who owns the entry and its folder, and could have written
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
        self.pid_file, self.log_file = (
            _path(fields, key) for key in ('pid_file', 'log_file')
        )
        if not self.control:
            raise ValueError('control')

    def is_held_by(self) -> int | None:
        """Return what ``holder`` would be now."""
        try:
            fd = os.open(self.path, os.O_RDONLY | _READ)
        except OSError:
            return None
        try:
            return locks.signer_of(fd)
        finally:
            os.close(fd)

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
        return [Entry(fields, f'{folder}/{name}', owner, locks.signer_of(fd))]
    except (OSError, ValueError, KeyError):
        return []
    finally:
        os.close(fd)


def socket_out_of_sight(file: str) -> str | None:
    """Return the path of a control socket that listens where this process cannot see it.

    The system lists it (proc(5), /proc/net/unix), although its folder is another user's,
    or is in another mount namespace, as with PrivateTmp=yes of systemd.exec(5).

    :param file: the real path of the .ini.
    """
    places = rf'({SYSTEM}(/[^/]+)?|/run/user/\d+/paste_wspbus|/tmp/paste_wspbus-\d+)'
    name = rf'/{re.escape(_name_for(file))}-[\d-]+\.sock'
    try:
        with open('/proc/net/unix', errors='surrogateescape') as lines:
            listening = [line.split(None, 7) for line in lines if ' 00010000 ' in line]
    except OSError:
        return None
    for words in listening:
        path = words[7].rstrip('\n') if len(words) == 8 else ''
        if re.fullmatch(places + name, path) and not os.path.lexists(path):
            return path
    return None


def _parsed(fd: int) -> dict[str, Any] | None:
    try:
        fields = json.loads(os.pread(fd, MAX_BYTES, 0))
    except (OSError, ValueError, RecursionError):
        return None
    return fields if isinstance(fields, dict) else None


def _remove_dead(folder: str, name: str) -> None:
    """Remove the entries and sockets of sites of this .ini's name that were killed."""
    with contextlib.suppress(OSError), os.scandir(folder) as files:
        for file in itertools.islice(files, MAX_FILES):
            if file.name.startswith(f'{name}-') and file.name.endswith(SUFFIX):
                with contextlib.suppress(OSError):
                    _remove_if_dead(file.path)


def _remove_if_dead(path: str) -> None:
    fd = os.open(path, os.O_RDWR | _READ)
    try:
        if locks.NAMES_HOLDERS and locks.signer_of(fd) is None:
            os.unlink(path)
            with contextlib.suppress(OSError):
                os.unlink(f'{path.removesuffix(SUFFIX)}.sock')
    finally:
        os.close(fd)
