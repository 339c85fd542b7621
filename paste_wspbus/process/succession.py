"""The succession of two processes: one hands its sockets and its PID file to the other."""

from __future__ import annotations

import os
import signal

from paste_wspbus.process.inheritance import Inheritance
from paste_wspbus.streams import fill_numbers

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from paste_wspbus.bus import Bus
    from paste_wspbus.listening.sockets import ListeningSocket
    from paste_wspbus.process.process import Process


class Succession:
    """Keeps what ``process`` hands to its successor or its own next program: see `bequeathing`."""

    def __init__(self, process: Process) -> None:
        self.process = process
        self.bus: Bus | None = None
        self._sockets: list[ListeningSocket] = []
        self._owned = True
        self._origins: list[Any] = []

    def ride(self, bus: Bus) -> None:
        """Attach to the bus as its first 'stop' listener: the server stops after that."""
        self.bus = bus
        bus.subscribe('stop', self.keep_sockets, priority=float('-inf'))

    def keep_sockets(self) -> None:
        """Keep the sockets open if another process or program will serve from them."""
        bus, process, answers = self.bus, self.process, self.process.answers
        assert bus is not None
        # Under --reload, if the site does not start, its traceback is served next.
        is_shown = process.options.reload and not bus.was_started
        if not (bus.execv or (answers and answers.successor) or is_shown):
            return
        fill_numbers()
        if process.lock is not None:
            process.lock.stays = True
        self.keep_open()
        if bus.execv and (process.renewal is None or process.renewal.took is not None):
            from paste_wspbus.process.renewal import Renewal

            process.renewal = Renewal(getattr(bus, 'asked_by', None))

    def keep_open(self) -> None:
        """Take the sockets from the server: it would close them when it stops."""
        server = self.process.server
        if server is not None and not self._sockets:
            self._owned = all(listening.owned for listening in server.sockets)
            self._origins = [listening.origin for listening in server.sockets]
            self._sockets = server.bequeath()

    def repeat_stop(self) -> None:
        """Send this process SIGTERM again if it came too late for this program.

        The system holds the signal until the next program unblocks it.
        """
        signals = self.bus and self.bus.plugins.get('signals')
        if getattr(signals, 'asked_to_leave', 0):
            os.kill(os.getpid(), signal.SIGTERM)

    def inheritance(self, lock: int | None) -> Inheritance:
        """Return what the other process gets; ``lock`` is that of the PID file."""
        process = self.process
        return Inheritance(
            where=process.server.where if process.server is not None else {},
            sockets=[listening.sock.detach() for listening in self._sockets],
            origins=self._origins,
            pid_file=lock,
            owned=self._owned,
        )
