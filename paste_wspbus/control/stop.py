"""The stop of a site by another process: it asks, waits until the deadline, and then kills."""

from __future__ import annotations

import contextlib
import errno
import os
import select
import signal
import socket
import sys
import time

from paste_wspbus.control.client import NoAnswer, ask, connect, receive, send
from paste_wspbus.control.progress import ProgressLine
from paste_wspbus.control.status import number, what_it_waits_for
from paste_wspbus.errors import WSPBusError
from paste_wspbus.exits import DOES_NOT_DIE, EX_SOFTWARE, of_signal
from paste_wspbus.unix.paths import is_heard, remove_socket
from paste_wspbus.unix.pid_lock import (
    AlreadyRunning,
    ForeignPIDFile,
    PIDLock,
    StalePIDFile,
)
from paste_wspbus.unix.processes import (
    OtherProcess,
    listener_of,
    used_up_descriptors,
)
from paste_wspbus.values import printable

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from paste_wspbus.control.register import Entry

    Heard = Callable[[dict[str, Any]], object]

#: Seconds from the site's own deadline until it is killed.
MARGIN = 5.0

#: The status that is assumed if the site does not answer: the default of the .ini.
UNKNOWN = {'deadline': 25.0}

#: Seconds to wait for a site that reports that it has no deadline.
NO_DEADLINE = 86400.0

#: The signal that kills. Windows has no SIGKILL, but os.kill ends a process with any signal.
KILL = getattr(signal, 'SIGKILL', signal.SIGTERM)

#: The number of attempts to find the process of a site, if it changes all the time.
_ATTEMPTS = 100
#: The number of processes of one site that are stopped, if each takes over from the last.
SUCCESSORS = 5

#: Seconds to wait for an answer before SIGTERM is sent: of any site, and of one that has no
#: free descriptor, which either answers at once or not at all.
PATIENCE, LESS_PATIENCE = 2.0, 0.3

#: Seconds to wait for the end of a process after SIGKILL.
DYING = 10.0


class DoesNotDie(WSPBusError):
    """A process does not end, not even after SIGKILL."""

    exit_code = DOES_NOT_DIE


class NotNamed(WSPBusError):
    """The system does not say which process runs a site."""


def patience(status: dict[str, Any]) -> float:
    """Return the seconds to wait for a site's end: its own deadline and MARGIN."""
    deadline = number(status, 'deadline')
    if deadline is None or deadline > NO_DEADLINE:
        deadline = NO_DEADLINE
    return max(deadline, 0) + MARGIN


class Stop:
    """One stop of one site, by another process.

    :param control: the path of its control socket.
    :param heard: gets the answer, with the timeline of the stop. None: nobody wants it.
    """

    def __init__(
        self, control: str, process: OtherProcess, heard: Heard | None = None
    ) -> None:
        self.control, self.process, self.pid = control, process, process.pid
        self._heard = heard
        self.progress = ProgressLine()
        self.status: dict[str, Any] = dict(UNKNOWN)
        self.exit_code: int | None = None
        #: Whether another process has taken over: it serves now.
        self.replaced = False
        self._said = False
        self._began = time.monotonic()

    def run(self) -> int | None:
        """Stop the site.

        :returns: its exit code; None if it is not known.
        :raises NotPermitted, DoesNotDie: if it cannot be stopped.
        """
        try:
            connection = self._ask()
            if not self._wait(connection):
                self._kill()
            if connection is not None:
                connection.close()
        finally:
            self.progress.end()
            self.process.close()
        return self.exit_code

    def _ask(self) -> socket.socket | None:
        """Ask over the control socket; send SIGTERM if the site does not answer there (yet)."""
        seconds = LESS_PATIENCE if used_up_descriptors(self.pid) else PATIENCE
        try:
            self.status.update(ask(self.control, 'status', seconds))
            connection = connect(self.control, PATIENCE)
            send(connection, 'stop', **({'timeline': True} if self._heard else {}))
        except NoAnswer:
            _ask_to_stop(self.process)
            return None
        return connection

    def _wait(self, connection: socket.socket | None) -> bool:
        """Wait until the site's own deadline; return whether the process has ended."""
        until = self._began + patience(self.status)
        others = [] if connection is None else [connection]
        look = time.monotonic() + 1
        while (now := time.monotonic()) < until:
            if self.process.is_gone_within(min(look, until) - now, others):
                self._hear(others)
                return True
            if others and select.select(others, [], [], 0)[0]:
                self._hear(others)
            if time.monotonic() >= look:
                self._progress()
                look += 1
        return False

    def _hear(self, others: list[socket.socket]) -> None:
        """Read the exit code that the site sends when it has stopped."""
        with contextlib.suppress(NoAnswer):
            for connection in others:
                answer = receive(connection)
                # Without an answer, the process was ended by force, or killed.
                code = (answer or {}).get('exit_code')
                is_code = type(code) is int and 0 <= code < 256
                self.exit_code = code if is_code else EX_SOFTWARE
                self.replaced = (answer or {}).get('replaced') is True
                if self._heard is not None and answer is not None:
                    self._heard(answer)
        others.clear()

    def _progress(self) -> None:
        seconds = time.monotonic() - self._began
        try:
            waits = what_it_waits_for(ask(self.control, 'status', 1))
        except NoAnswer as error:
            has_stopped = error.code in (errno.ENOENT, errno.ECONNREFUSED)
            waits = 'it does not answer'
            if has_stopped:
                waits = 'the site has stopped, its process is ending'
        waits = printable(waits)
        self.progress.show(f'Stopping process {self.pid}, {seconds:.0f} s: {waits}')
        if not (self._said or self.progress.is_seen):
            print(f'Stopping process {self.pid}: {waits}', file=sys.stderr, flush=True)
        self._said = True

    def _kill(self) -> None:
        self.progress.end()
        print(
            f'Process {self.pid} did not stop within {patience(self.status):g} s: '
            'it is killed',
            file=sys.stderr,
        )
        self.exit_code = of_signal(KILL)
        self.process.signal(KILL)
        until = time.monotonic() + DYING
        while (remaining := until - time.monotonic()) > 0:
            if self.process.is_gone_within(remaining, []):
                return
        raise DoesNotDie(f'process {self.pid} does not end, even after SIGKILL')


def _ask_to_stop(process: OtherProcess) -> None:
    """Send SIGTERM; on Windows, where that kills, send a command to the process's win32 bus.

    :raises WSPBusError: if this process cannot ask it.
    """
    if os.name == 'nt':
        from paste_wspbus.plugins.win32 import signal_child

        signal_child(process.pid, 'exit')
    else:
        process.signal(signal.SIGTERM)


def stop_site(lock: PIDLock, heard: Heard | None = None) -> int | None:
    """Stop the site that holds this PID file.

    If a restart was in progress, this also stops the process that has taken over.

    :param heard: see `Stop`.
    :returns: its exit code; None if it is not known, or if the site had ended before.
    :raises PIDFileError: if the file cannot be read.
    :raises NotPermitted, DoesNotDie: if it cannot be stopped.
    """
    code = None
    with contextlib.suppress(StalePIDFile, ForeignPIDFile):
        replaced = 0
        for _ in range(_ATTEMPTS):
            pid = _wait_for_number(lock)
            if pid is None:
                return code
            stop = Stop(lock.control, OtherProcess(pid), heard)
            # It has released the lock: the ID may belong to another process now.
            if lock.read() != pid:
                stop.process.close()
                continue
            code = stop.run()
            replaced += stop.replaced
            if not stop.replaced or replaced == SUCCESSORS:
                return code
        raise AlreadyRunning(lock.path, None)
    return code


def stop_process(
    control: str, pid: int, entry: Entry | None = None, heard: Heard | None = None
) -> int | None:
    """Stop the site without a PID file that answers at ``control``, as process ``pid``.

    :param entry: its entry: if nobody listens there, the system names who holds the entry.
        The same counts if the socket is beside a PID file, where others may put another one.
    :param heard: see `Stop`.
    :returns: its exit code; None if it is not known, or if the site had ended before.
    :raises NoAnswer: if it listens, but does not answer.
    :raises NotPermitted, DoesNotDie, NotNamed: if it cannot be stopped.
    """
    if entry is not None and entry.pid_file is not None:
        process = _holder_of(entry)
        return None if process is None else Stop(control, process, heard).run()
    try:
        with connect(control, 2) as sock:
            process = listener_of(sock)
    except NoAnswer as error:
        if error.listens:
            raise
        process = None if entry is None else _holder_of(entry)
        return None if process is None else Stop(control, process, heard).run()
    if not hasattr(socket, 'SO_PEERCRED'):
        process = OtherProcess(pid)
    if process is None:  # an answer could name any process, and root would kill it
        raise NotNamed(
            f'{control}: a site answers, but the system does not name its process: '
            'it runs in another container, or has ended and left a child behind'
        )
    return Stop(control, process, heard).run()


def _holder_of(entry: Entry) -> OtherProcess | None:
    """Return the process that holds an entry; None if there is none, or it is unknown."""
    if not entry.holder:
        return None
    process = OtherProcess(entry.holder)
    if entry.is_held_by() != process.pid:  # it has ended: another one may have its ID
        process.close()
        return None
    return process


def _wait_for_number(lock: PIDLock) -> int | None:
    """Return the ID of the process that holds the lock; None if no process holds it.

    :raises AlreadyRunning: if a process holds it, but nobody can find out its ID.
    """
    until = time.monotonic() + MARGIN
    while (pid := lock.read()) == 0:  # the starting site is about to write it
        if time.monotonic() > until:
            raise AlreadyRunning(lock.path, None)
        time.sleep(0.02)
    return pid


def clean_up(lock: PIDLock) -> bool:
    """Remove the files of a site that has ended; a running site keeps its files.

    :returns: whether there is no PID file now.
    """
    # A site whose lock was removed still answers.
    if lock.exists and not is_heard(lock.control):
        with contextlib.suppress(WSPBusError):
            lock.acquire()
            with contextlib.suppress(OSError):
                remove_socket(lock.control)
            lock.release()
    return not lock.exists
