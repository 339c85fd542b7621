"""The PID file as a plugin: the running site locks it, and only that site removes it."""

from __future__ import annotations

import os

from paste_wspbus.plugins import Plugin, on
from paste_wspbus.unix.pid_lock import AlreadyRunning as AlreadyRunning
from paste_wspbus.unix.pid_lock import ForeignPIDFile as ForeignPIDFile
from paste_wspbus.unix.pid_lock import GarbagePIDFile as GarbagePIDFile
from paste_wspbus.unix.pid_lock import PIDFileError as PIDFileError
from paste_wspbus.unix.pid_lock import PIDLock as PIDLock
from paste_wspbus.unix.pid_lock import StalePIDFile as StalePIDFile
from paste_wspbus.unix.pid_lock import UnreadablePIDFile as UnreadablePIDFile
from paste_wspbus.unix.processes import is_alive as is_alive

TYPE_CHECKING = False
if TYPE_CHECKING:
    from paste_wspbus.bus import Bus


class PIDFile(Plugin):
    """Holds a PID file from start to exit.

    Its priorities are those of `cherrypy.process.plugins.PIDFile`.

    :param pidfile: the path of the file, or a `PIDLock`.
    """

    def __init__(self, bus: Bus, pidfile: str | os.PathLike[str] | PIDLock) -> None:
        super().__init__(bus)
        self.lock = (
            pidfile if isinstance(pidfile, PIDLock) else PIDLock(os.fspath(pidfile))
        )
        self.pidfile = self.lock.path

    @on('start', priority=70)
    def start(self) -> None:
        """Lock the file, and write the ID of this process to it.

        :raises AlreadyRunning: if another process holds the lock.
        :raises PIDFileError: if the file cannot be used.
        """
        if self.lock.fd is None:
            note = self.lock.acquire()
            if note is not None:
                self.bus.log(f'{note}; taken over.')
        self.lock.write()
        self.bus.log(f'PID {os.getpid()} written to {self.pidfile!r}.')

    @on('exit')
    def exit(self) -> None:
        """Remove the file, or empty it if its folder does not allow that."""
        if self.lock.fd is not None and not self.lock.stays:
            self.lock.release()
            done = 'emptied' if os.path.lexists(self.pidfile) else 'removed'
            self.bus.log(f'PID file {done}: {self.pidfile!r}.')
