"""The turns of the commands that start and restart one site: only one works at a time."""

from __future__ import annotations

import contextlib
import os
import stat
import time

from paste_wspbus.errors import WSPBusError
from paste_wspbus.unix.exposed import place_of, settled
from paste_wspbus.unix.holding import holding

try:
    import fcntl
except ImportError:  # Windows has no daemons
    fcntl = None  # type: ignore[assignment]

_FLAGS = (
    os.O_RDWR
    | os.O_CREAT
    | getattr(os, 'O_NOFOLLOW', 0)
    | getattr(os, 'O_CLOEXEC', 0)
    | getattr(os, 'O_NONBLOCK', 0)  # a FIFO would wait for its other end
)

#: Seconds between two attempts to take the turn.
LOOK = 0.05


class OtherCommand(WSPBusError):
    """Another command starts or restarts the site: process ``pid``, or None if unknown."""

    def __init__(self, path: str, pid: int | None, waited: float) -> None:
        who = 'another command' if pid is None else f'another command (process {pid})'
        super().__init__(
            f'{who} has been starting or restarting the site for {waited:g} s: nothing '
            f'was done; wait for its end, or end it (it holds {path})'
        )
        self.pid = pid


class Turn:
    """The turn of one command: a locked file beside the PID file.

    Without turns, a restart could find a site that another restart is just starting. It
    would think that this site hangs, and stop it. Only the owner can read the file, so
    other users cannot lock it.

    :param pid_file: the path of the PID file.
    """

    def __init__(self, pid_file: str) -> None:
        self.path = f'{settled(pid_file)}.turn'
        self._fd: int | None = None

    def wait(self, patience: float) -> None:
        """Take the turn, as soon as no other command has it.

        :param patience: seconds that another command may take.
        :raises OtherCommand: if it takes longer.
        """
        until = time.monotonic() + patience
        while not self.take():
            if time.monotonic() >= until:
                raise OtherCommand(self.path, self.holder(), patience)
            time.sleep(LOOK)

    def take(self) -> bool:
        """Take the turn if no other command has it.

        If nobody can know whether another command has it, for example in a folder without
        write permission, this acts as if no command had it.

        :returns: whether no other command has it.
        """
        while fcntl is not None:
            # A signal handler may raise an exception, and the file would not be removed.
            with holding():
                taken = self._try()
            if taken is not None:
                return taken
        return True

    def _try(self) -> bool | None:
        """Lock the file; return None if another command removed it meanwhile."""
        try:
            fd = self._open(_FLAGS)
        except OSError:
            return True
        try:
            status = os.fstat(fd)
            if not stat.S_ISREG(status.st_mode) or status.st_nlink != 1:
                return True
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            with place_of(self.path) as place:
                if not _is_at(place, fd):
                    return None
            with contextlib.suppress(OSError):  # a full disk: the file stays empty
                os.ftruncate(fd, 0)
                os.write(fd, b'%d\n' % os.getpid())
            self._fd, fd = fd, -1
        except BlockingIOError:
            return False
        except OSError:  # the file system has no locks
            return True
        finally:
            if fd != -1:
                os.close(fd)
        return True

    def holder(self) -> int | None:
        """Return the process ID of the command that has the turn; None if it is unknown."""
        with contextlib.suppress(OSError, ValueError):
            fd = self._open(_FLAGS & ~(os.O_RDWR | os.O_CREAT))
            with open(fd, 'rb') as file:
                text = file.read(20).strip()
            return int(text) if text.isdigit() and len(text) <= 10 else None
        return None

    def end(self) -> None:
        """End the turn."""
        with holding():
            fd, self._fd = self._fd, None
            if fd is not None:
                removing = place_of(self.path, removes=True)
                with contextlib.suppress(OSError), removing as place:
                    if _is_at(place, fd):
                        os.unlink(place[0], dir_fd=place[1])
                os.close(fd)

    def _open(self, flags: int) -> int:
        # Root must not open a file in another folder, to which a link may lead.
        makes = bool(flags & os.O_CREAT)
        with place_of(self.path, makes) as (name, folder):
            return os.open(name, flags, 0o600, dir_fd=folder)


def _is_at(place: tuple[str, int | None], fd: int) -> bool:
    """Whether a name in a folder is that of the file that is open as ``fd``."""
    name, folder = place
    with contextlib.suppress(OSError):
        there = os.stat(name, dir_fd=folder, follow_symlinks=False)
        return os.path.samestat(os.fstat(fd), there)
    return False
