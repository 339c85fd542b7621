"""How a start opens its PID file: it locks the file, or takes it over from the old site."""

from __future__ import annotations

import time

from paste_wspbus.process.inheritance import Inheritance
from paste_wspbus.process.taking_over import take_over
from paste_wspbus.unix.paths import is_heard, remove_socket
from paste_wspbus.unix.pid_lock import (
    AlreadyRunning,
    ForeignPIDFile,
    PIDLock,
    StalePIDFile,
    UnlockedSite,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from paste_wspbus.errors import WSPBusError
    from paste_wspbus.process.process import Process

#: Seconds that a site whose process ends has from the end of its lock to that of its socket.
ENDING = 2.0


def open_pid_file(process: Process, path: str | None) -> bool:
    """Lock the PID file of a process, unless it has inherited the lock.

    :param path: the file; None stands for that of the inheritance.
    :returns: whether the site before has ended without removing its PID file.
    :raises AlreadyRunning: if the site runs, and this start does not replace it.
    :raises UnlockedSite: if a site runs whose lock somebody has removed: this start would
        replace its files.
    """
    launch, options = process.launch, process.options
    make = PIDLock
    if 'pidfile' in process.config.settings['defaults']:
        from paste_wspbus.ini.defaults import pid_lock

        make = pid_lock(process.config, PIDLock)
    process.lock = process.inheritance.lock(path, make)
    if process.lock is not None or path is None:
        return False
    process.lock = lock = make(path, options.control)
    with launch.talking():  # the old site may take long to stop
        if options.control is None:
            _refuse_unlocked(lock)
        try:
            stale: object = lock.acquire()
        except AlreadyRunning:
            if not options.replaces:
                raise
            lock.check()  # check before the old site stops: otherwise no site would run
            stale = _take_over(process, lock)
    if isinstance(stale, Inheritance):
        process.inheritance, launch.took_over = stale, True
        return False
    if stale is None:
        return False
    process.notes.append(f'{stale}; this site uses the file now')
    remove_socket(lock.control)
    return True


def _take_over(process: Process, lock: PIDLock) -> Inheritance | WSPBusError | None:
    with process.launch.early.raising():
        return take_over(lock, process.options.identity, process.awaits_the_end)


def _refuse_unlocked(lock: PIDLock) -> None:
    """Raise UnlockedSite if the process of the PID file lives and listens, without the lock."""
    until = time.monotonic() + ENDING
    while _is_unlocked(lock) and is_heard(lock.control):
        if time.monotonic() > until:
            raise UnlockedSite(lock.path, lock.control)
        time.sleep(0.02)


def _is_unlocked(lock: PIDLock) -> bool:
    try:
        lock.read()
    except ForeignPIDFile:
        return True
    except StalePIDFile:
        pass
    return False
