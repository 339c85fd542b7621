"""Running sites that no command can ask: their control socket is gone."""

from __future__ import annotations

import os
import stat

from paste_wspbus.control.register import read_entries
from paste_wspbus.unix.processes import has_terminal, users_of
from paste_wspbus.values import real_path

#: What is wrong with a site whose control socket somebody has removed, or nobody could make.
DEAF = 'its control socket {} is missing: {}'

#: What is wrong with a site if another file has the place of its control socket.
REPLACED = 'another file is at its control socket {}: remove that file, then {}'

#: What to do about it: a restart makes it again, and SIGHUP asks for one.
HANG_UP, START_AGAIN = 'send it SIGHUP, or stop it', 'stop it, and start it again'


def problem_of_socket(control: str, pid: int, hangup: str) -> str:
    """Return what is wrong with a running site that has no control socket; '' if it starts.

    A site opens its control socket before it writes its entry, and removes its entry first.

    :param hangup: the meaning of SIGHUP in [wspbus:main].
    """
    is_root = hasattr(os, 'geteuid') and os.geteuid() == 0
    entries, _ = read_entries((), everybody=is_root)
    path = real_path(control)
    is_open = any(one.control == path and one.holder == pid for one in entries)
    if not is_open or is_socket(path):
        return ''
    # At a terminal, SIGHUP stops the site.
    restarts = hangup == 'restart' or (hangup == 'hangup' and not has_terminal(pid))
    problem = REPLACED if os.path.lexists(path) else DEAF
    what = HANG_UP if restarts and _may_make(path, pid) else START_AGAIN
    return problem.format(path, what)


def is_socket(path: str) -> bool:
    """Return whether a socket is there; True if this user may not look."""
    try:
        return stat.S_ISSOCK(os.stat(path).st_mode)
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError:
        return True


def _may_make(path: str, pid: int) -> bool:
    """Whether a process may make a file, as far as the owner of the folder says."""
    try:
        folder = os.stat(os.path.dirname(path))
    except OSError:
        return False
    users = users_of(pid) or set()
    return 0 in users or folder.st_uid in users or bool(folder.st_mode & 0o002)
