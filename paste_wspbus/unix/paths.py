"""Where control sockets and the entries of running sites are, and who may make them there."""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import stat
import time

from paste_wspbus.errors import WSPBusError
from paste_wspbus.exits import IS_UNKNOWN
from paste_wspbus.listening.addresses import UNIX_PATH_MAX
from paste_wspbus.unix import exposed
from paste_wspbus.unix.exposed import place_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Generator, Iterator

#: The folder of root's sites; systemd makes those of its services in it.
SYSTEM = '/run/paste_wspbus'

#: Seconds to wait for another process that opens a socket in the same folder.
PATIENCE = 5.0


class UnsafeFolder(WSPBusError):
    """Others can write to a folder for control sockets, or it has another ``problem``."""

    exit_code = IS_UNKNOWN

    def __init__(self, folder: str, problem: str) -> None:
        super().__init__(f'{folder} cannot have control sockets: {problem}')
        self.folder, self.problem = folder, problem


def runtime_folder() -> str | None:
    """Return the folder in which a site of this user registers; make it if needed.

    :returns: None if this system has no such folders.
    :raises UnsafeFolder: if others can write to each possible folder, or if none can be
        made.
    """
    problem = None
    for folder in own_folders() if hasattr(os, 'geteuid') else ():
        try:
            with contextlib.suppress(FileExistsError):
                os.mkdir(folder, 0o700)
                if folder == SYSTEM:  # systemd makes folders for users in it
                    os.chmod(folder, 0o755)
            check_private(folder)
            if os.access(folder, os.W_OK):
                return folder
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        except UnsafeFolder as error:
            problem = problem or error
        except OSError as error:
            reason = (error.strerror or str(error)).lower()
            problem = problem or UnsafeFolder(folder, f'it cannot be made: {reason}')
    if problem is not None:
        raise problem
    return None


def check_private(folder: str) -> None:
    """Check that only this user may write to the folder, and that it is not a link.

    In another folder, other users could answer in the place of the site.

    :raises UnsafeFolder: if others can write to it, or if it is not a folder.
    :raises FileNotFoundError: if there is no such folder.
    """
    status, me = os.lstat(folder), os.geteuid()
    if not stat.S_ISDIR(status.st_mode):
        raise UnsafeFolder(folder, 'it is not a folder')
    if status.st_uid != me:
        problem = f'it belongs to another user (UID {status.st_uid}, not {me})'
        raise UnsafeFolder(folder, problem)
    if status.st_mode & 0o022:
        mode = stat.S_IMODE(status.st_mode)
        raise UnsafeFolder(folder, f'others can write to it (its mode is {mode:04o})')


def is_private(folder: str) -> bool:
    """Whether only this user may write to the folder, and it is not a link."""
    try:
        check_private(folder)
    except (OSError, UnsafeFolder):
        return False
    return True


def own_folders() -> Iterator[str]:
    """Yield the folders in which this user's sites register, the most probable one first.

    There are several because the sessions of one user differ: cron does not set
    $XDG_RUNTIME_DIR, and the folder in /run/user exists only while the user is logged in.
    """
    uid, environ = os.geteuid(), os.environ
    # systemd sets it if the unit has RuntimeDirectory=, systemd.exec(5).
    for folder in environ.get('RUNTIME_DIRECTORY', '').split(':'):
        folder = folder.rstrip('/')
        with contextlib.suppress(OSError):
            if os.path.isabs(folder) and os.lstat(folder).st_uid == uid:
                yield folder
    if uid == 0:
        yield SYSTEM
    for base in (environ.get('XDG_RUNTIME_DIR', ''), f'/run/user/{uid}'):
        # su and sudo keep the variable of the user who called them: it may be unsafe.
        if os.path.isabs(base) and is_private(base.rstrip('/')):
            yield f'{base.rstrip("/")}/paste_wspbus'
    base = environ.get('TMPDIR', '')
    yield f'{base.rstrip("/") if os.path.isabs(base) else "/tmp"}/paste_wspbus-{uid}'


@contextlib.contextmanager
def address_of(path: str, makes: bool = False) -> Generator[str]:
    """Yield an address that bind(2) and connect(2) accept, even if the path is long.

    Root follows no link in a folder where others can write (see `exposed`).

    :param makes: whether the caller makes the socket, as in `exposed.place_of`.
    :raises OSError: if there is no such folder, or if there is such a link.
    """
    with place_of(path, makes) as (name, folder):
        if folder is not None and os.path.isdir('/proc/self/fd'):
            yield f'/proc/self/fd/{folder}/{name}'
            return
    if len(os.fsencode(path)) <= UNIX_PATH_MAX:
        yield path
        return
    folder = os.open(os.path.dirname(path), os.O_RDONLY)
    try:
        yield f'/proc/self/fd/{folder}/{os.path.basename(path)}'
    finally:
        os.close(folder)


def remove_socket(path: str) -> None:
    """Remove the file of a site that has ended, if it is a socket.

    :raises OSError: if this process may not remove it.
    """
    with contextlib.suppress(FileNotFoundError):
        exposed.remove(path)


@contextlib.contextmanager
def locked(folder: str) -> Generator[None]:
    """Lock the folder: inside the ``with`` block, no other process opens a socket there.

    :raises OSError: if another process holds the lock for too long.
    """
    import fcntl

    fd = os.open(folder, os.O_RDONLY)
    until = time.monotonic() + PATIENCE
    try:
        while True:
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > until:
                    raise
                time.sleep(0.01)
        yield
    finally:
        os.close(fd)


def listens(path: str) -> bool:
    """Whether a process listens there, even if it is slow."""
    with socket.socket(socket.AF_UNIX) as sock, address_of(path) as address:
        sock.setblocking(False)
        try:
            sock.connect(address)
        except BlockingIOError:  # the backlog is full, so a process listens
            return True
        except (ConnectionRefusedError, FileNotFoundError):
            return False
    return True


def is_heard(path: str) -> bool:
    """Whether a process listens there; False if this process cannot know it."""
    with contextlib.suppress(OSError):
        return os.path.lexists(path) and listens(path)
    return False
