"""The user of the site that `restart` replaces: the kernel says it, the site is not trusted."""

from __future__ import annotations

import contextlib
import os
import time

from paste_wspbus.control.client import NoAnswer, connect
from paste_wspbus.errors import UsageError
from paste_wspbus.unix.peers import peer_of
from paste_wspbus.unix.pid_lock import (
    AlreadyRunning,
    ForeignPIDFile,
    PIDLock,
    StalePIDFile,
)
from paste_wspbus.unix.users import Identity

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from paste_wspbus.process.options import Options

#: Seconds that a starting site has to write its process ID, and seconds between two checks.
BEGINNING, LOOK = 5.0, 0.02


def keep_user(options: Options) -> str:
    """Keep the user and group of the running site, if root restarts it without --user.

    Without this, the new site would silently run as root, with all of root's rights.

    :returns: a line for the log; '' if nothing is changed.
    :raises UsageError: if nobody can find out to which user the site belongs.
    :raises PIDFileError: if the PID file cannot be read.
    """
    if not hasattr(os, 'geteuid') or os.geteuid() != 0 or options.user is not None:
        return ''
    owner = _owner(PIDLock(str(options.pid_file), options.control))
    if owner is None:
        return ''
    uid, gid = owner
    if (uid, gid) == (0, os.getegid()):
        return ''
    if uid:
        options.user = str(uid)
    if options.group is None:
        options.group = str(gid)
    options.identity = Identity(options.user, options.group)
    return (
        f'Restarted without --user: the site keeps the user and group of the process '
        f'that it replaces (uid {uid}, gid {options.identity.gid})'
    )


def keep_user_of_workers(options: Options, settings: dict[str, Any]) -> None:
    """Keep the user of gunicorn's workers, if root restarts the site without --user.

    gunicorn's master process stays root, and there is no control socket.

    :param settings: gunicorn's settings; this sets ``user`` and ``group`` in them.
    :raises UsageError: if nobody can find out to which user the workers belong.
    :raises PIDFileError: if the PID file cannot be read.
    """
    if not hasattr(os, 'geteuid') or os.geteuid() != 0 or options.user is not None:
        return
    lock = PIDLock(str(options.pid_file), options.control)
    try:
        pid = _number(lock)
    except (StalePIDFile, ForeignPIDFile):
        return
    if pid is None or not os.path.exists('/proc/self/status'):
        return
    workers = {_ids(child) for child in _children(pid)}
    if (
        not _is_roots(lock.path)
        or not _has_open(pid, lock.lock_path)
        or None in workers
    ):
        raise _uncertain(pid)
    for ids in workers:
        if ids is not None and ids[0] != 0:
            settings['user'] = str(ids[0])
            settings.setdefault('group', str(ids[1]))


def _uncertain(pid: int) -> UsageError:
    return UsageError(
        f'restart: it cannot be found out as which user process {pid} runs the site; '
        'add --user NAME (or --user root)'
    )


def _children(pid: int) -> list[int]:
    with contextlib.suppress(OSError), open(f'/proc/{pid}/task/{pid}/children') as file:
        return [int(word) for word in file.read().split()]
    return []


def _owner(lock: PIDLock) -> tuple[int, int] | None:
    """Return the user and group of the running site; None if it does not run."""
    try:
        pid = _number(lock)
    except (StalePIDFile, ForeignPIDFile):
        pid = None
    if pid is None:
        _check_file(lock)
        return None
    if not os.path.exists('/proc/self/status'):  # BSD, macOS
        _check_file(lock)
        return 0, os.getegid()
    ids = _ids(pid)
    # The site's user could make a process of another user hold the lock (by a setuid
    # program), or make the path lead to the socket of another service. But it cannot do
    # both with one process.
    is_certain = _answering(lock) == pid or (
        (ids or [1])[0] == 0 and _is_roots(lock.path)
    )
    if ids is None or not is_certain or not _has_open(pid, lock.lock_path):
        raise _uncertain(pid)
    return ids


def _number(lock: PIDLock) -> int | None:
    until = time.monotonic() + BEGINNING
    while (pid := lock.read()) == 0:  # the starting site is about to write it
        if time.monotonic() > until:
            raise AlreadyRunning(lock.path, None)
        time.sleep(LOOK)
    return pid


def _check_file(lock: PIDLock) -> None:
    """Refuse to start the site as root if the old PID file belongs to another user."""
    try:
        uid = os.stat(lock.path, follow_symlinks=False).st_uid
    except OSError:
        return
    if uid:
        name = Identity(uid, 0).name or str(uid)
        raise UsageError(
            f'restart: the PID file {lock.path} belongs to {name}, and without --user '
            f'the site would run as root: add --user {name} (or --user root)'
        )


def _ids(pid: int) -> tuple[int, int] | None:
    """Return a process's user and group; None if it has several, like a setuid program."""
    ids = []
    try:
        with open(f'/proc/{pid}/status') as lines:
            for line in lines:
                if line.startswith(('Uid:', 'Gid:')):
                    ids.append({int(word) for word in line.split()[1:]})
    except OSError:
        return None
    if [len(each) for each in ids] != [1, 1]:
        return None
    (uid,), (gid,) = ids
    return uid, gid


def _has_open(pid: int, path: str) -> bool:
    """Whether a process has a file open."""
    folder = f'/proc/{pid}/fd'
    with contextlib.suppress(OSError):
        there = os.stat(path, follow_symlinks=False)
        for name in os.listdir(folder):
            with contextlib.suppress(OSError):
                if os.path.samestat(os.stat(f'{folder}/{name}'), there):
                    return True
    return False


def _is_roots(path: str) -> bool:
    """Whether only root can write a file, or put another one in its place."""
    for one in (path, os.path.dirname(path)):
        status = os.stat(one, follow_symlinks=False)
        if status.st_uid != 0 or status.st_mode & 0o022:
            return False
    return True


def _answering(lock: PIDLock) -> int | None:
    """Return the ID of the process that listens on the site's control socket."""
    try:
        with connect(lock.control, 2) as sock:
            peer = peer_of(sock)
    except (NoAnswer, OSError):
        return None
    return None if peer is None else peer[0]
