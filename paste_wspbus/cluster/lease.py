"""The lease as the site sees it: ``bus.lease`` in the process of the cluster plugins."""

from __future__ import annotations

import os
import struct
import threading

from paste_wspbus.unix.kernel_timer import boot_clock

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

#: The fence, the time at which the guard kills, and the seconds before it at which the
#: process is asked to stop.
_LAYOUT = 'Qdd'


def write_lease(fd: int, fence: int, until: float, danger: float) -> None:
    """Write what `Lease` reads."""
    os.pwrite(fd, struct.pack(_LAYOUT, fence, until, danger), 0)


class Lease:
    """The right of this process to do what only one process of all machines may do.

    The process is killed when the lease ends: see ``remaining``. Something that it has
    begun before may still take effect later, such as a write that is on its way to a
    database. A store that keeps the highest ``fence`` that it has seen, and refuses a lower
    one, excludes that, too.

    :param fd: the descriptor of the memory that the guard writes.
    """

    def __init__(self, fd: int) -> None:
        self._fd = fd

    def read(self) -> tuple[int, float, float]:
        """Return the fence, and the times of `boot_clock` at which it ends and is in danger."""
        data = os.pread(self._fd, struct.calcsize(_LAYOUT), 0)
        fence, until, danger = struct.unpack(_LAYOUT, data)
        return fence, until, until - danger

    @property
    def fence(self) -> int:
        """A number that is higher than that of each earlier holder, on any machine."""
        return self.read()[0]

    @property
    def remaining(self) -> float:
        """The seconds until this process is killed if nobody renews the lease; 0 or more."""
        return max(self.read()[1] - boot_clock(), 0.0)

    def __repr__(self) -> str:
        return f'<Lease {self.fence}, {self.remaining:.1f} s>'


class Watch:
    """Asks the process to stop when its lease is about to end, in a thread.

    It wakes up once in the time of a lease. If the site holds the GIL, nobody can ask it:
    then the guard kills it at the end.

    :param ask: asks the process to stop; it gets the remaining seconds.
    """

    def __init__(self, lease: Lease, ask: Callable[[float], object]) -> None:
        self.lease, self._ask = lease, ask
        self._ended = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Start the thread, if it does not run yet."""
        if self._thread is None:
            self._thread = threading.Thread(
                target=self._run, name='cluster lease', daemon=True
            )
            self._thread.start()

    def end(self) -> None:
        """End the thread."""
        self._ended.set()

    def _run(self) -> None:
        while True:
            wait = self.lease.read()[2] - boot_clock()
            if wait <= 0:
                self._ask(self.lease.remaining)
                return
            if self._ended.wait(wait):
                return
