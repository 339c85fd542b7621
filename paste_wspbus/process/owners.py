"""Who owns what a process has opened, when it changes its user."""

from __future__ import annotations

import os
import stat

TYPE_CHECKING = False
if TYPE_CHECKING:
    from paste_wspbus.process.process import Process
    from paste_wspbus.unix.users import Identity


def change_owner(process: Process, identity: Identity) -> None:
    """Give the open files to the user of the site."""
    if os.geteuid() != 0:
        return
    if identity.is_current:
        if process.lock is not None:  # the site of another user may have handed it over
            process.lock.chown(os.geteuid(), os.getegid())
        return
    uid = -1 if identity.uid is None else identity.uid
    gid = -1 if identity.gid is None else identity.gid
    if process.lock is not None:
        process.lock.chown(uid, gid)
    if process.control is not None:
        process.control.chown(uid, gid)
    if process.entry is not None:
        process.entry.chown(uid, gid)
    if process.log_file is not None:
        _chown_log(process, process.log_file, uid, gid)
    for holder in (process.server, process.ops):
        for listening in holder.sockets if holder is not None else ():
            if listening.owned:
                listening.chown(uid, gid)


def _chown_log(process: Process, path: str, uid: int, gid: int) -> None:
    """Give the log file away, but only if it is a safe file.

    A file to which a link leads is not safe. In a folder where others can write, an
    older file that they cannot read is not safe, either: they may have moved it there.
    """
    from paste_wspbus.unix.exposed import is_exposed

    log, there = os.fstat(1), os.lstat(path)
    same = (log.st_dev, log.st_ino) == (there.st_dev, there.st_ino)
    is_plain = stat.S_ISREG(log.st_mode) and log.st_nlink == 1
    is_readable = process.made_log or log.st_mode & stat.S_IROTH
    if same and is_plain and (is_readable or not is_exposed(path)):
        os.fchown(1, uid, gid)
