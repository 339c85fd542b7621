"""How a process writes its own stack: a signal has `faulthandler` do it, without the GIL."""

from __future__ import annotations

import functools
import os
import signal
import sys
import time
from typing import NamedTuple

from paste_wspbus.requests.stacks import innermost, parse

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from paste_wspbus.requests.stacks import Frame

#: The signal: a realtime signal that neither the system nor Python nor known libraries
#: use. None: this system has no such signals, and stacks cannot be asked for.
SIGNAL: int | None = int(signal.SIGRTMAX) - 3 if hasattr(signal, 'SIGRTMAX') else None


def register(fd: int) -> None:
    """Have this process write its stacks to a file when it gets `SIGNAL`.

    :param fd: a descriptor of the file; it is written from where the file ends.
    """
    if SIGNAL is not None:
        faulthandler = import_faulthandler()
        faulthandler.register(SIGNAL, file=fd, all_threads=False, chain=False)


@functools.cache
def import_faulthandler() -> Any:
    """Return the module, and leave `sys.modules` as it was.

    If it is in there, `plugins.handlers_in_c` looks for the site's own handlers in C.
    """
    was_there = 'faulthandler' in sys.modules
    import faulthandler

    if not was_there:
        del sys.modules['faulthandler']
    return faulthandler


class State(NamedTuple):
    """What the system says of a thread and `SIGNAL` (proc(5))."""

    handles: bool
    blocks: bool
    waits: bool


def state_of(pid: int, thread: int) -> State | None:
    """Return the state of a thread; None if it has ended, or is not known."""
    try:
        with open(f'/proc/{pid}/task/{thread}/status', errors='replace') as file:
            lines = file.read().splitlines()
    except OSError:
        return None
    fields = dict(line.split(':\t', 1) for line in lines if ':\t' in line)
    bit = 1 << ((SIGNAL or 1) - 1)

    def has(name: str) -> bool:
        return bool(int(fields.get(name, '0'), 16) & bit)

    waits = has('SigPnd') or has('ShdPnd')
    return State(has('SigCgt'), has('SigBlk'), waits)


#: Seconds that the main thread of a process has to write its stack, and between two looks.
PATIENCE, LOOK = 0.3, 0.005

#: The number of bytes of a stack that are read at most.
MOST = 1 << 20


class StackFile:
    """A file to which a process writes where its main thread is, and another one reads it.

    Make it before the other process begins; if the system cannot, the place is not known.
    """

    def __init__(self) -> None:
        try:
            self.fd = os.memfd_create('wspbus-stacks')
        except (AttributeError, OSError):
            self.fd = -1

    def begin(self) -> None:
        """Write the place to the file, from now on, whenever it is asked for.

        This does not end: if the signal came just after that, it would end the process.
        """
        if self.fd != -1:
            register(self.fd)

    def of(self, pid: int) -> str:
        """Ask a process, and return 'FILE:LINE in NAME', or '' if nobody knows it."""
        place = innermost(self.frames(pid))
        return f'{place.file}:{place.line} in {place.name}' if place else ''

    def frames(self, pid: int) -> list[Frame]:
        """Ask a process, and return the stack of its main thread; [] if nobody knows it."""
        state = state_of(pid, pid) if self.fd != -1 else None
        if SIGNAL is None or state is None or state.blocks or not state.handles:
            return []
        try:
            os.truncate(self.fd, 0)
            os.lseek(self.fd, 0, os.SEEK_SET)
            os.kill(pid, SIGNAL)
            return self._read(pid)
        except (OSError, MemoryError):
            return []

    def _read(self, pid: int) -> list[Frame]:
        until = time.monotonic() + PATIENCE
        while time.monotonic() < until:
            time.sleep(LOOK)
            state = state_of(pid, pid)
            if state is None or not (state.waits or state.blocks):  # it has written
                break
        return parse(os.pread(self.fd, MOST, 0).decode('ascii', 'replace'))

    def close(self) -> None:
        """Close the file in this process."""
        if self.fd != -1:
            os.close(self.fd)
            self.fd = -1
