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

#: How many bytes of the .ini's name the socket's name has: its path must stay short.
_NAME_BYTES = 32

#: Seconds to wait for other processes that open a socket in the same folder.
PATIENCE = 5.0


class UnsafeFolder(WSPBusError):
    """A folder for control sockets is not this user's alone: the ``problem``."""

    exit_code = IS_UNKNOWN

    def __init__(self, folder: str, problem: str) -> None:
        super().__init__(f'{folder} cannot have control sockets: {problem}')
        self.folder, self.problem = folder, problem


def path_for(pid_file: str) -> str:
    """Return where the control socket of the site with this PID file is."""
    return f'{os.path.abspath(pid_file)}.sock'


def runtime_paths(config: str) -> list[str]:
    """Return where the control socket of a site without a PID file may be, likeliest first.

    Sessions of one user differ in it: cron's knows of no $XDG_RUNTIME_DIR,
    and the folder in /run/user is there while somebody is logged in.

    :param config: the .ini's path.
    """
    if not hasattr(os, 'geteuid'):
        return []
    from _blake2 import blake2b  # hashlib would load OpenSSL: ten times the time

    # As it was given first: a deployment may have moved a link that the path leads over.
    given = os.path.normpath(os.path.join(working_folder(), config))
    names = []
    for path in map(os.fsencode, dict.fromkeys([given, os.path.realpath(config)])):
        name = os.fsdecode(os.path.basename(path)[:_NAME_BYTES])
        names.append(f'{name}-{blake2b(path, digest_size=8).hexdigest()}.sock')
    return [f'{folder}/{name}' for folder in _runtime_folders() for name in names]


def runtime_path(config: str) -> str | None:
    """Return where a site without a PID file is to open its control socket.

    The folder is made if it is not there.

    :param config: the .ini's path.
    :returns: None if this system has no such sockets.
    :raises UnsafeFolder: if the folder is not this user's alone, or cannot be made.
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
    """Check that only this user may write to the folder, which is no link.

    In a folder of another user's, anybody could answer in the place of the site.

    :raises UnsafeFolder: if it is not so.
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
    """Tell whether only this user may write to the folder, which is no link."""
    try:
        check_private(folder)
    except (OSError, UnsafeFolder):
        return False
    return True


def _runtime_folders() -> Iterator[str]:
    uid = os.geteuid()
    for base in (os.environ.get('XDG_RUNTIME_DIR', ''), f'/run/user/{uid}'):
        # su and sudo keep the variable of the user who called them.
        if os.path.isabs(base) and is_private(base.rstrip('/')):
            yield f'{base.rstrip("/")}/paste_wspbus'
    base = os.environ.get('TMPDIR', '')
    yield f'{base.rstrip("/") if os.path.isabs(base) else "/tmp"}/paste_wspbus-{uid}'


@contextlib.contextmanager
def address_of(path: str) -> Generator[str]:
    """Yield an address that bind(2) and connect(2) accept, however long the path is.

    Root follows no link where others can write (see `exposed`).

    :raises OSError: if there is no such folder, or a link where others can write.
    """
    with place_of(path) as (name, folder):
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
    """Remove the file of a site that is gone, if it is a socket.

    :raises OSError: if that is not allowed.
    """
    with contextlib.suppress(FileNotFoundError):
        exposed.remove(path)


@contextlib.contextmanager
def locked(folder: str) -> Generator[None]:
    """Keep other processes from opening a socket in the folder meanwhile.

    :raises OSError: if another process keeps this one from it for too long.
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
    """Tell whether a process listens there, however slow it is."""
    with socket.socket(socket.AF_UNIX) as sock, address_of(path) as address:
        sock.setblocking(False)
        try:
            sock.connect(address)
        except BlockingIOError:  # others wait there
            return True
        except (ConnectionRefusedError, FileNotFoundError):
            return False
    return True
