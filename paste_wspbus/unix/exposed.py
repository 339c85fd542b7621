"""How root opens files where others can write: it follows no link, and opens no wrong file."""

from __future__ import annotations

import contextlib
import errno
import os
import stat

from paste_wspbus.values import real_path

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Generator

#: How many symbolic links a path may lead over, <linux/namei.h>.
_MAX_LINKS = 40

_FOLDER = (
    getattr(os, 'O_PATH', os.O_RDONLY)
    | getattr(os, 'O_DIRECTORY', 0)
    | getattr(os, 'O_NOFOLLOW', 0)
    | getattr(os, 'O_CLOEXEC', 0)
)

#: The flags for the file. A FIFO that another user puts there must not block this process.
_FILE = (
    getattr(os, 'O_NOFOLLOW', 0)
    | getattr(os, 'O_NONBLOCK', 0)
    | getattr(os, 'O_NOCTTY', 0)
    | getattr(os, 'O_CLOEXEC', 0)
)

#: The folders in which root has made files: {path: (descriptor, what fstat(2) says of it,
#: names of the files)}. Root keeps them open until the files are removed: a process that
#: has used all other descriptors must still be able to do that. A descriptor that is closed
#: to make room for the way to the folder could be taken by another thread.
_kept: dict[str, tuple[int, os.stat_result, set[str]]] = {}

_IS_LINK = 'it is a symbolic link, in a folder that others than root can write to'


@contextlib.contextmanager
def place_of(
    path: str, makes: bool = False, removes: bool = False
) -> Generator[tuple[str, int | None]]:
    """Find the folder of a file, as root, and yield a safe name of the file.

    Others may be able to write to a folder of the path, and may put a link there at any
    moment. So this opens the folders one by one, and follows no link after such a folder.

    :param makes: whether the caller makes the file; then it can remove the file later,
        even if no descriptor is free.
    :param removes: whether the caller removes a file that it has made.
    :returns: the file's name, and a descriptor of its folder (``dir_fd``). It is (path,
        None) if this process is not root, or if only root can write to all folders
        that the path leads through: then the path is safe as it is.
    :raises OSError: if there is no such folder, or if there is a link in a folder that
        others can write to.
    """
    if not hasattr(os, 'geteuid') or os.geteuid() != 0:
        yield path, None
        return
    kept = -1
    try:
        name, folder = _walk(path)
    except OSError as error:
        is_short = error.errno in (errno.EMFILE, errno.ENFILE)
        kept = (
            -1
            if makes or not is_short
            else _kept_folder(os.path.dirname(os.path.abspath(path)))
        )
        if kept == -1:
            raise
        name, folder = os.path.basename(path), kept
    try:
        if makes:
            _keep(path, None if name is None else folder)
        yield (path, None) if name is None else (name, folder)
    finally:
        if kept == -1:
            os.close(folder)
        if removes:
            _let_go(path)


def _walk(path: str) -> tuple[str | None, int]:
    """Return the file's name, as `_Walk.run` does, and the descriptor of its folder."""
    walk = _Walk(path)
    try:
        return walk.run(), walk.folder
    except BaseException:
        os.close(walk.folder)
        raise


def keep_folder(path: str) -> None:
    """Keep the folder of a file that another process has made, and this one will remove."""
    with contextlib.suppress(OSError), place_of(path, makes=True):
        pass


def _keep(path: str, folder: int | None) -> None:
    """Keep the folder of a file for the time when no descriptor is free.

    :param folder: a descriptor of it; None if only root can write to all folders of the
        path: then the links in it are root's.
    :raises OSError: if no descriptor is free now.
    """
    where, name = os.path.split(os.path.abspath(path))
    flags = _FOLDER & ~getattr(os, 'O_NOFOLLOW', 0)
    fd = os.open(where, flags) if folder is None else os.dup(folder)
    there = os.fstat(fd)
    before = _kept_folder(where)
    if before != -1 and os.path.samestat(_kept[where][1], there):
        os.close(fd)
        _kept[where][2].add(name)
        return
    _kept[where] = fd, there, {name}
    if before != -1:
        os.close(before)


def _let_go(path: str) -> None:
    """Keep a file's folder no longer, unless another file of this process is there."""
    where, name = os.path.split(os.path.abspath(path))
    names = _kept[where][2] if where in _kept else set()
    names.discard(name)
    if not names:
        _forget(where)


def _kept_folder(where: str) -> int:
    """Return the descriptor that is kept of a folder; -1 if there is none.

    Other code may have closed its number, which may be that of another file now.
    """
    fd, status, _ = _kept.get(where, (-1, None, None))
    try:
        return fd if status and os.path.samestat(os.fstat(fd), status) else -1
    except OSError:
        return -1


def _forget(where: str) -> None:
    fd = _kept_folder(where)
    _kept.pop(where, None)
    if fd != -1:
        os.close(fd)


def forget_folders() -> None:
    """Close the folders that are kept: another user than root must not have them."""
    for where in list(_kept):
        _forget(where)


def is_exposed(path: str) -> bool:
    """Whether this process is root, and others can put another file at the path.

    :raises OSError: as `place_of` does.
    """
    with place_of(path) as (_, folder):
        return folder is not None


def settled(path: str) -> str:
    """Return an absolute path without links in its folders: a deployment may move them.

    If others than root can make such links, root does not follow them.
    """
    try:
        return os.path.abspath(path) if is_exposed(path) else real_path(path)
    except OSError:  # whoever opens the file reports it
        return os.path.abspath(path)


def open_file(path: str, flags: int, mode: int = 0o666) -> int:
    """Open a file as `os.open` does; root never opens another file in its place.

    If others than root can write to a folder of the path (see `place_of`), it must be a
    regular file without another name; with O_CREAT, it must not be there yet. In other
    folders, this opens links, FIFOs and devices, too.

    :raises OSError: if it cannot be opened, or if another user has put something else
        there.
    """
    with place_of(path) as (name, folder):
        if folder is None:
            return os.open(path, flags, mode)
        if flags & os.O_CREAT:
            flags |= os.O_EXCL
        try:
            fd = os.open(name, flags | _FILE, mode, dir_fd=folder)
        except OSError as error:
            if error.errno in (errno.ELOOP, errno.EMLINK):
                raise OSError(errno.ELOOP, _IS_LINK, path) from None
            if error.errno == errno.ENXIO:  # it is a FIFO without a reader, or a socket
                raise _not_regular(path) from None
            raise
    status = os.fstat(fd)
    if stat.S_ISREG(status.st_mode) and status.st_nlink == 1:
        return fd
    os.close(fd)
    if stat.S_ISREG(status.st_mode):
        problem = (
            'it has other names (hard links), in a folder that others can write to'
        )
        raise OSError(errno.EPERM, problem, path)
    raise _not_regular(path)


def open_or_make(path: str, flags: int, mode: int = 0o666) -> tuple[int, bool]:
    """Open a file by `open_file`, and make it if it is not there; say whether it was made.

    Several processes of a site may do so at the same time.

    :raises OSError: as `open_file`.
    """
    with contextlib.suppress(FileNotFoundError):
        return open_file(path, flags), False
    with contextlib.suppress(FileExistsError):  # another process has just made it
        return open_file(path, flags | os.O_CREAT, mode), True
    return open_file(path, flags), False


def give_away(path: str, uid: int, gid: int) -> None:
    """Give the socket that this process has bound at a path to another user and group.

    :param uid: the user; -1 changes nothing. The same is true for ``gid``, the group.
    :raises OSError: if another file is there now.
    """
    with place_of(path) as (name, folder):
        if folder is None or not hasattr(os, 'O_PATH'):
            os.chown(name, uid, gid, dir_fd=folder, follow_symlinks=False)
            return
        fd = os.open(name, os.O_PATH | _FILE, dir_fd=folder)
        try:
            status = os.fstat(fd)
            is_ours = stat.S_ISSOCK(status.st_mode) and status.st_uid == 0
            if not is_ours or status.st_nlink != 1:
                raise OSError(errno.EPERM, 'it was exchanged for another file', path)
            os.chown(f'/proc/self/fd/{fd}', uid, gid)
        finally:
            os.close(fd)


def remove(path: str, identity: tuple[int, int] | None = None) -> bool:
    """Remove a socket file; do nothing if another file is there.

    :param identity: its device and inode; None stands for any socket.
    :returns: whether it was removed.
    :raises OSError: if it cannot be removed, or if there is no file.
    """
    with place_of(path, removes=True) as (name, folder):
        status = os.stat(name, dir_fd=folder, follow_symlinks=False)
        is_wanted = identity in (None, (status.st_dev, status.st_ino))
        if not (stat.S_ISSOCK(status.st_mode) and is_wanted):
            return False
        os.unlink(name, dir_fd=folder)
        return True


def _not_regular(path: str) -> OSError:
    problem = 'it is not a regular file, in a folder that others than root can write to'
    return OSError(errno.EPERM, problem, path)


class _Walk:
    """The way to a file, folder by folder, from the root of the file system.

    ``folder`` is a descriptor of the folder that it has reached. ``is_safe`` says whether
    only root can write to that folder, and to all folders before it. ``is_sticky`` says
    whether others can make files there, but cannot rename or remove root's files (/tmp).
    """

    def __init__(self, path: str) -> None:
        self._path = path
        self._remaining = os.path.abspath(path).split('/')
        self._links = 0
        self.folder = -1
        self._begin()

    def _begin(self) -> None:
        root = os.open('/', _FOLDER)
        if self.folder != -1:
            os.close(self.folder)
        self.folder, self._text = root, ''
        self.is_safe, self.is_sticky = True, False
        self._judge()

    def run(self) -> str | None:
        """Walk to the file's folder.

        :returns: the file's name there; None if the path is safe as it is.
        """
        while True:
            name = self._remaining.pop(0)
            if name in ('', '.') and self._remaining:
                continue
            if self.is_safe and self._is_in_proc():
                return None  # /proc/self/fd/1 may lead to a file without a path
            link = self._read_link(name) if self.is_safe else None
            if link is not None:
                self._follow(link)
            elif self._remaining:
                self._enter(name)
            else:
                return None if self.is_safe else name

    def _is_in_proc(self) -> bool:
        return self._text == '/proc' or self._text.startswith('/proc/')

    def _read_link(self, name: str) -> str | None:
        try:
            return os.readlink(name, dir_fd=self.folder)
        except OSError:
            return None

    def _follow(self, link: str) -> None:
        self._links += 1
        if self._links > _MAX_LINKS:
            raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), self._path)
        self._remaining = link.split('/') + self._remaining
        if link.startswith('/'):
            self._begin()

    def _enter(self, name: str) -> None:
        try:
            inner = os.open(name, _FOLDER, dir_fd=self.folder)
        except OSError as error:
            is_link = self._read_link(name) is not None
            problem = f'{name}: {_IS_LINK[6:]}' if is_link else error.strerror
            raise OSError(error.errno, problem, self._path) from None
        os.close(self.folder)
        self.folder, self._text = inner, os.path.normpath(f'{self._text}/{name}')
        self._judge()

    def _judge(self) -> None:
        """Find out who can write to the folder that it has reached."""
        status = os.fstat(self.folder)
        is_roots = status.st_uid == 0
        others_write = bool(status.st_mode & 0o022)
        # Others cannot move root's files out of a sticky folder.
        could_be_exchanged = not (self.is_safe or (self.is_sticky and is_roots))
        self.is_safe = is_roots and not others_write and not could_be_exchanged
        self.is_sticky = (
            is_roots
            and others_write
            and not could_be_exchanged
            and bool(status.st_mode & stat.S_ISVTX)
        )
