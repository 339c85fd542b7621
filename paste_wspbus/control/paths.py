"""Where the control socket of a site is, and who may open one there."""

from __future__ import annotations

import contextlib
import os
import socket
import stat
import time

from paste_wspbus.errors import WSPBusError
from paste_wspbus.exits import IS_UNKNOWN
from paste_wspbus.listening.addresses import UNIX_PATH_MAX
from paste_wspbus.unix import exposed
from paste_wspbus.unix.exposed import place_of
from paste_wspbus.values import working_folder

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Generator, Iterator

#: The number of bytes of the .ini's name in the socket's name: its path must be short.
_NAME_BYTES = 32

#: Seconds to wait for another process that opens a socket in the same folder.
PATIENCE = 5.0


class UnsafeFolder(WSPBusError):
    """Others can write to a folder for control sockets, or it has another ``problem``."""

    exit_code = IS_UNKNOWN

    def __init__(self, folder: str, problem: str) -> None:
        super().__init__(f'{folder} cannot have control sockets: {problem}')
        self.folder, self.problem = folder, problem


def path_for(pid_file: str) -> str:
    """Return the path of the control socket of the site with this PID file."""
    return f'{os.path.abspath(pid_file)}.sock'


def runtime_paths(config: str) -> list[str]:
    """Return the possible paths of the control socket of a site without a PID file.

    The most probable path is the first. There are several because the sessions of one
    user differ: cron does not set $XDG_RUNTIME_DIR, and the folder in /run/user exists
    only while the user is logged in.

    :param config: the .ini's path.
    """
    if not hasattr(os, 'geteuid'):
        return []
    from _blake2 import blake2b  # hashlib would load OpenSSL: ten times the time

    # The given path comes first: a deployment may have changed a link in it.
    given = os.path.normpath(os.path.join(working_folder(), config))
    names = []
    for path in map(os.fsencode, dict.fromkeys([given, os.path.realpath(config)])):
        name = os.fsdecode(os.path.basename(path)[:_NAME_BYTES])
        names.append(f'{name}-{blake2b(path, digest_size=8).hexdigest()}.sock')
    return [f'{folder}/{name}' for folder in _runtime_folders() for name in names]


def runtime_path(config: str) -> str | None:
    """Return the path at which a site without a PID file opens its control socket.

    This makes the folder if it is not there.

    :param config: the .ini's path.
    :returns: the path; None if this system has no such sockets.
    :raises UnsafeFolder: if others can write to the folder, or if it cannot be made.
    """
    for path in runtime_paths(os.path.realpath(config))[:1]:
        folder = os.path.dirname(path)
        try:
            with contextlib.suppress(FileExistsError):
                os.mkdir(folder, 0o700)
            check_private(folder)
        except OSError as error:
            reason = (error.strerror or str(error)).lower()
            raise UnsafeFolder(folder, f'it cannot be made: {reason}') from None
        return path
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


def _runtime_folders() -> Iterator[str]:
    uid = os.geteuid()
    for base in (os.environ.get('XDG_RUNTIME_DIR', ''), f'/run/user/{uid}'):
        # su and sudo keep the variable of the user who called them: it may be unsafe.
        if os.path.isabs(base) and is_private(base.rstrip('/')):
            yield f'{base.rstrip("/")}/paste_wspbus'
    base = os.environ.get('TMPDIR', '')
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
