"""The succession of two processes: one hands its sockets and its PID file to the other."""

from __future__ import annotations

import contextlib
import os
import signal
import time

from paste_wspbus.process.inheritance import Inheritance

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from paste_wspbus.bus import Bus
    from paste_wspbus.control.server import Connection
    from paste_wspbus.errors import WSPBusError
    from paste_wspbus.listening.sockets import ListeningSocket
    from paste_wspbus.process.process import Process
    from paste_wspbus.unix.pid_lock import PIDLock
    from paste_wspbus.unix.users import Identity

#: Seconds that a site has to answer before it is stopped by signals.
ANSWER = 2.0

#: Seconds that a process has to end when it has handed everything over.
ENDING = 10.0


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
        process = self.process
        lock = None if process.lock is None else process.lock.copy()
        inheritance = self._inheritance(lock)
        process.close_control()  # before the successor opens its own one there
        if process.ops is not None:
            process.ops.close()
        try:
            inheritance.send(successor.sock)
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


# -- taking over ------------------------------------------------------------------


def take_over(
    lock: PIDLock, identity: Identity | None, awaits_the_end: bool = False
) -> Inheritance | WSPBusError | None:
    """Stop the running site, and take over everything that it holds.

    :param lock: the lock of the PID file that the running site holds.
    :param identity: the user to which this process will change; None if it does not.
    :param awaits_the_end: whether to wait for the end of its process, which may hold a lock
        for as long as it is there.
    :returns: what the site hands over; if it ends without that, the result of
        `PIDLock.acquire`.
    :raises AlreadyRunning: if another site holds the PID file afterwards.
    """
    from paste_wspbus.control.stop import patience, stop_site
    from paste_wspbus.unix.processes import OtherProcess

    status = _status_of(lock)
    if status:
        old = OtherProcess(pid) if awaits_the_end and (pid := lock.read()) else None
        came = _ask_for_all(lock, patience(status), identity)
        if came is not None:
            if old is not None:
                old.is_gone_within(ENDING)
                old.close()
            return came
    stop_site(lock)
    return lock.acquire()


def _ask_for_all(
    lock: PIDLock, seconds: float, identity: Identity | None
) -> Inheritance | None:
    """Return what the running site hands over when it has stopped.

    If an attacker controls the site, it can send any descriptor that it can open. So root
    receives them as the user of the site. The PID file counts only if it is the file that
    this process would open itself. `Opening` checks the sockets.

    :returns: None if the site refuses, has ended, or hands over something else.
    """
    from paste_wspbus.control.client import NoAnswer, connect, send
    from paste_wspbus.unix.pid_lock import PIDFileError

    acting = identity.borrowed() if identity is not None else contextlib.nullcontext()
    try:
        with connect(lock.control, seconds) as sock, acting:
            send(sock, 'replace')
            came = Inheritance.receive(sock)
    except (NoAnswer, OSError):
        return None
    if came is None:
        return None
    try:
        if came.pid_file is not None:
            lock.receive(came.pid_file)
            return came
    except PIDFileError:
        pass
    came.forget()
    return None


def _status_of(lock: PIDLock) -> dict[str, Any]:
    """Return the status that the site reports; {} if it does not answer for a while.

    A site that has just taken over may not listen yet.
    """
    from paste_wspbus.control.client import NoAnswer, ask

    until = time.monotonic() + ANSWER
    while True:
        with contextlib.suppress(NoAnswer):
            return ask(lock.control, 'status')
        if time.monotonic() > until:
            return {}
        time.sleep(0.02)
