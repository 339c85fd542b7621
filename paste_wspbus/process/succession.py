"""The succession of two processes: one hands its sockets and its PID file to the other."""

from __future__ import annotations

import os
import signal

from paste_wspbus.process.inheritance import Inheritance

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from paste_wspbus.bus import Bus
    from paste_wspbus.control.server import Connection
    from paste_wspbus.listening.sockets import ListeningSocket
    from paste_wspbus.process.process import Process


class Succession:
    """Hands what ``process`` holds to a successor, or to its own next program."""

    def __init__(self, process: Process) -> None:
        self.process = process
        self._bus: Bus | None = None
        self._sockets: list[ListeningSocket] = []
        self._owned = True
        self._origins: list[Any] = []

    def ride(self, bus: Bus) -> None:
        """Attach to the bus as its first 'stop' listener: the server stops after that."""
        self._bus = bus
        bus.subscribe('stop', self.keep_sockets, priority=float('-inf'))

    def keep_sockets(self) -> None:
        """Keep the sockets open if another process or program will serve from them."""
        bus, process, answers = self._bus, self.process, self.process.answers
        assert bus is not None
        # Under --reload, if the site does not start, its traceback is served next.
        is_shown = process.options.reload and not bus.was_started
        if not (bus.execv or (answers and answers.successor) or is_shown):
            return
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

    def leave_to(self, successor: Connection) -> None:
        """Send everything to the successor, which has asked for it."""
        from paste_wspbus.process.handing_over import send

        process = self.process
        lock = None if process.lock is None else process.lock.copy()
        inheritance = self._inheritance(lock)
        process.close_control()  # before the successor opens its own one there
        if process.ops is not None:
            process.ops.close()
        try:
            send(inheritance, successor.sock)
        except OSError:  # it has ended, so this process must remove everything
            inheritance.forget()
            return
        if process.lock is not None:
            process.lock.forget()

    def repeat_stop(self) -> None:
        """Send this process SIGTERM again if the signal came too late for this program.

        The system holds the signal until the next program unblocks it.
        """
        signals = self._bus and self._bus.plugins.get('signals')
        if getattr(signals, 'asked_to_leave', 0):
            os.kill(os.getpid(), signal.SIGTERM)

    def leave_to_next_program(self) -> list[int]:
        """Hand everything to the program that this process executes next.

        :returns: the descriptors to keep open.
        """
        process = self.process
        # Make no copy: if a copy is closed, the system no longer names this process.
        lock = None if process.lock is None else process.lock.fd
        inheritance = self._inheritance(lock)
        if process.control is not None:
            inheritance.control = process.control.bequeath()
        inheritance.daemon = process.options.daemon
        inheritance.drained = self._bus is not None and self._bus.drained
        inheritance.files = process.launch.found_files
        if process.entry is not None and process.entry.fd != -1:
            inheritance.entry = process.entry.fd
        if process.ops is not None:
            inheritance.ops = process.ops.bequeath()
        inheritance.problem = process.problem
        inheritance.reload = process.reload if process.announced else None
        if process.renewal is not None:
            inheritance.renewal = process.renewal.handed_over()
        if process.worker is not None:
            inheritance.worker = process.worker.bequeath()
        else:
            inheritance.report = process.launch.report.fd
        inheritance.to_environ(os.environ)
        return inheritance.kept

    def _inheritance(self, lock: int | None) -> Inheritance:
        process = self.process
        return Inheritance(
            where=process.server.where if process.server is not None else {},
            sockets=[listening.sock.detach() for listening in self._sockets],
            origins=self._origins,
            pid_file=lock,
            owned=self._owned,
        )
