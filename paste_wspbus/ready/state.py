"""What a job remembers over restarts: a small file, and the lock of the process that runs it."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import threading

from paste_wspbus.bus.interrupts import threads_are_greenlets
from paste_wspbus.errors import WSPBusError
from paste_wspbus.forks import close_in_child
from paste_wspbus.unix import locks

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

#: The bytes of a state that are read: it has some hundred.
MOST = 1 << 16

#: Seconds between two tries to get the lock, in a process whose threads are greenlets.
AGAIN = 1.0


class BadState(WSPBusError):
    """A state file has something else than a state; ``problem`` says what."""

    def __init__(self, path: str, problem: str) -> None:
        super().__init__(f'{path}: {problem}')
        self.path, self.problem = path, problem


class StateFile:
    """A file of JSON, and the lock beside it, which one process at a time has.

    :param path: the file; its folder must exist.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        self._fd = -1
        self._write_lock = threading.Lock()

    def open(self) -> None:
        """Open the lock, without taking it.

        :raises OSError: if the file cannot be made or opened.
        """
        flags = os.O_RDWR | os.O_CREAT | getattr(os, 'O_NOFOLLOW', 0)
        self._fd = os.open(f'{self.path}.lock', flags, 0o600)
        # A child of the site must not keep the lock after the end of this process.
        close_in_child(self, StateFile.close)

    def take(self) -> bool:
        """Take the lock, if no other process has it; return whether this process has it."""
        return locks.lock(self._fd)

    def wait(self, stops: threading.Event) -> bool:
        """Wait until this process has the lock; return False if ``stops`` is set then.

        The call may outlast that, until the lock is free or the process ends.
        """
        if self.take():
            return not stops.is_set()
        if threads_are_greenlets() or os.name == 'nt':
            # A call of C would stop all greenlets, and Windows has no such call.
            while not self.take():
                if stops.wait(AGAIN):
                    return False
        else:
            import fcntl

            fcntl.flock(self._fd, fcntl.LOCK_EX)
        return not stops.is_set()

    def close(self) -> None:
        """Give up the lock, if this process has it."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)

    def read(self) -> dict[str, Any]:
        """Return the state; {} if there is none yet.

        :raises BadState: if the file has something else.
        :raises OSError: if it cannot be read.
        """
        try:
            fd = os.open(self.path, os.O_RDONLY | getattr(os, 'O_NONBLOCK', 0))
        except FileNotFoundError:
            return {}
        with open(fd, 'rb') as file:
            text = file.read(MOST)
        try:
            state = json.loads(text)
        except (ValueError, RecursionError):
            raise BadState(self.path, 'it is no JSON') from None
        last: Any = state.get('last') if isinstance(state, dict) else None
        if type(last) not in (int, float) or not 0 <= last < 1e11:
            raise BadState(self.path, 'it has no time of the last run')
        return dict(state)

    def write(self, state: dict[str, Any]) -> None:
        """Replace the state: after a crash, the file has the old state or the new one.

        :raises OSError: if it cannot be written.
        """
        new = f'{self.path}.new'
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, 'O_NOFOLLOW', 0)
        with self._write_lock:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(new)
            with open(os.open(new, flags, 0o600), 'w') as file:
                json.dump(state, file)
                file.flush()
                os.fsync(file.fileno())
            os.replace(new, self.path)


def default_path(kind: str, file: str | None, name: str) -> str | None:
    """Return the state file of a part of the site in the runtime folder of this user.

    :param kind: the name of the plugin, such as 'cron'.

    :param file: the .ini that has it.
    :returns: None if this system has no such folder.
    :raises UnsafeFolder: if others can write to each possible folder.
    """
    from paste_wspbus.unix.paths import runtime_folder

    folder = runtime_folder()
    if folder is None:
        return None
    # The path as it was given: behind a link, each deployment has another one.
    own = f'{os.path.abspath(file or "")}\0{name}'
    site = hashlib.sha256(os.fsencode(own)).hexdigest()[:12]
    safe = ''.join(one if one.isalnum() or one in '-_' else '_' for one in name)[:40]
    return os.path.join(folder, f'{kind}-{safe}-{site}.json')
