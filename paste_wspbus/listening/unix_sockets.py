"""Unix sockets: binding them to a path or an abstract name, with a mode and a group."""

from __future__ import annotations

import contextlib
import os
import socket
import stat
import threading

from paste_wspbus.errors import BindError, SettingError
from paste_wspbus.listening.addresses import UNIX_PATH_MAX
from paste_wspbus.listening.sockets import (
    ListeningSocket,
    bind_error,
    is_abstract,
    visible,
)

#: A thread holds this lock while it changes the umask of the process.
_umask = threading.Lock()


def bind_unix(
    path: str,
    mode: int | None = None,
    key: str = 'unix_socket',
    group: str | None = None,
) -> ListeningSocket:
    """Return a bound Unix socket; it replaces the socket file of a process that has ended.

    :param path: a path, or an abstract name, which begins with a zero byte and has no
        file.
    :param mode: the permissions of the file. None stands for 0777 without the bits of
        the umask.
    :param key: the setting that has this path.
    :param group: the name or number of the group of the file. None stands for the group
        of this process.
    :raises SettingError: if the path is too long or empty, or there is no such group.
    :raises BindError: if the path is taken, or the folder is missing.
    """
    if not path or len(os.fsencode(path)) > UNIX_PATH_MAX or '\0' in path[1:]:
        raise SettingError(
            key,
            f'{visible(path)!r} has {len(os.fsencode(path))} bytes; '
            f'a socket path has 1 to {UNIX_PATH_MAX}, none of them zero',
        )
    address = f'unix:{visible(path)}'
    if not hasattr(socket, 'AF_UNIX'):
        raise BindError(address, 'Python has no Unix sockets on this system')
    if is_abstract(path) and (mode is not None or group is not None):
        raise SettingError(
            key, f'{address}: an abstract socket has no mode and no group'
        )
    gid = None if group is None else _group_number(group, key)
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        if is_abstract(path):
            sock.bind(path)
        else:
            _bind_file(sock, path, mode, address)
    except BindError:
        sock.close()
        raise
    except OSError as error:
        sock.close()
        raise bind_error(address, error) from error
    listening = ListeningSocket(sock, has_group=gid is not None)
    if gid is not None:
        _give_to_group(listening, path, gid)
    return listening


def _bind_file(sock: socket.socket, path: str, mode: int | None, address: str) -> None:
    from paste_wspbus.unix.exposed import place_of

    _remove_stale(path, address)
    with place_of(path, makes=True):
        bind_with_mode(sock, path, mode)


def _give_to_group(listening: ListeningSocket, path: str, gid: int) -> None:
    """Change the group of the file; if that is not possible, close the socket.

    :raises BindError: if the user is not in the group, or another file is there now.
    """
    from paste_wspbus.unix.exposed import give_away

    try:
        give_away(path, -1, gid)
    except OSError as error:
        listening.close()
        reason = f'its group cannot be changed to {gid}: {error.strerror}'
        raise BindError(f'unix:{path}', reason) from error


def check(listening: ListeningSocket) -> None:
    """Check that the address of a socket can be bound again, if that will be necessary.

    :raises BindError: if another kind of file is there now, or a process that listens.
    """
    if listening.is_unix and not listening.is_reachable:
        with contextlib.suppress(OSError):  # who binds it says so
            _stale(os.fspath(listening.name), listening.url())


def _stale(path: str, address: str) -> os.stat_result | None:
    """Return what the system says of the socket file of a process that has ended, if it is there.

    :raises BindError, OSError: see `_remove_stale`.
    """
    from paste_wspbus.unix.exposed import place_of

    with place_of(path) as (name, folder):
        try:
            status = os.stat(name, dir_fd=folder, follow_symlinks=False)
        except FileNotFoundError:
            return None
    if not stat.S_ISSOCK(status.st_mode):
        raise BindError(address, 'a file is there that is not a socket')
    if _answers(path):
        raise BindError(address, 'another process listens there')
    return status


def _remove_stale(path: str, address: str) -> None:
    """Remove the socket file of a process that has ended.

    :raises BindError: if another kind of file is there, or a process that listens.
    :raises OSError: if it cannot be removed, or if the path leads over a link that
        others than root can change (see `exposed.place_of`).
    """
    from paste_wspbus.unix.exposed import remove

    status = _stale(path, address)
    if status is None:
        return
    with contextlib.suppress(FileNotFoundError):
        remove(path, (status.st_dev, status.st_ino))


def bind_with_mode(sock: socket.socket, address: str, mode: int | None) -> None:
    """Bind a Unix socket, whose file has its permissions from the first moment.

    A later chmod(2) could change a different file: a user who can write to the folder
    could have exchanged the file.

    :param mode: the permissions. None stands for 0777 without the bits of the umask.
    """
    if mode is None:
        sock.bind(address)
        return
    with _umask:
        # The whole process has one umask. bind(2) makes the file with 0777 without it.
        before = os.umask(~mode & 0o777)
        try:
            sock.bind(address)
        finally:
            os.umask(before)


def _group_number(group: str, key: str) -> int:
    if group.isascii() and group.isdigit() and len(group) < 10:
        return int(group)
    import grp

    try:
        return grp.getgrnam(group).gr_gid
    except KeyError:
        raise SettingError(key, f'there is no group {group!r}') from None


def _answers(path: str) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(1)
        try:
            probe.connect(path)
        except ConnectionRefusedError:
            return False
        except OSError:
            return True
    return True
