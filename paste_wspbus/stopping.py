"""Stopping a site from outside: asking, waiting as long as it may take, escalating last."""

from __future__ import annotations

import contextlib
import errno
import os
import select
import signal
import sys
import time

from paste_wspbus.bus import EX_SOFTWARE
from paste_wspbus.control import (
    NoAnswer,
    ask,
    connect,
    path_for,
    receive,
    remove_socket,
    send,
)
from paste_wspbus.errors import WSPBusError
from paste_wspbus.plugins.daemon import OtherProcess
from paste_wspbus.plugins.pidfile import (
    AlreadyRunning,
    ForeignPIDFile,
    PIDLock,
    StalePIDFile,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    import socket
    from typing import Any

#: Seconds beyond the site's own deadline until it is killed.
MARGIN = 5.0

#: Windows has no signal for it: os.kill ends a process by any other.
KILL = getattr(signal, 'SIGKILL', signal.SIGTERM)

#: Seconds that a process has for dying of SIGKILL.
DYING = 10.0

#: What is assumed if nobody answers: the .ini's default.
UNKNOWN = {'deadline': 25.0}

#: Seconds for a site that says it has no deadline.
NO_DEADLINE = 86400.0


class DoesNotDie(WSPBusError):
    """Not even SIGKILL ended it."""

    exit_code = 3


def patience(status: dict[str, Any]) -> float:
    """Seconds to wait for a site's end: its own deadline, and a little more."""
    deadline = number(status, 'deadline')
    return (NO_DEADLINE if deadline is None else deadline) + MARGIN


def number(status: dict[str, Any], key: str) -> float | None:
    """What a site tells, if it is a number: another version may tell other things."""
    value = status.get(key)
    return value if isinstance(value, (int, float)) else None


def texts(status: dict[str, Any], key: str) -> list[str]:
    """What a site tells, if it is a list of texts; else an empty one."""
    value = status.get(key)
    return list(map(str, value)) if isinstance(value, list) else []


class ProgressLine:
    """A line on the terminal's standard error, written over and over; else nothing."""

    def __init__(self) -> None:
        self.is_seen = sys.stderr is not None and sys.stderr.isatty()
        self._there = False

    def show(self, line: str) -> None:
        """Write it over the one before, cut where the terminal ends."""
        if self.is_seen:
            self._there = True
            columns = 0
            with contextlib.suppress(OSError):
                columns = os.get_terminal_size(2).columns
            self._write(f'\r\033[K{line[: (columns or 80) - 1]}')

    def end(self) -> None:
        """Erase it: what is printed next stands in its place."""
        if self._there:
            self._there = False
            self._write('\r\033[K')

    def _write(self, text: str) -> None:
        with contextlib.suppress(OSError):  # the terminal went away
            sys.stderr.write(text)
            sys.stderr.flush()


class Stop:
    """One stop of one site, seen from outside.

    :param control: the path of its control socket.
    """

    def __init__(self, control: str, pid: int) -> None:
        self.control, self.pid = control, pid
        self.progress = ProgressLine()
        self.process = OtherProcess(pid)
        self.status: dict[str, Any] = dict(UNKNOWN)
        self.exit_code: int | None = None
        self._said = False
        self._began = time.monotonic()

    def run(self) -> int | None:
        """Stop it; returns its exit code, None if it could not tell.

        :raises NotPermitted, DoesNotDie: if that cannot be.
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
        """Over the control socket; by SIGTERM if nobody answers there (yet)."""
        try:
            self.status.update(ask(self.control, 'status'))
            connection = connect(self.control, 2)
            send(connection, 'stop')
        except NoAnswer:
            self.process.ask_to_stop()
            return None
        return connection

    def _wait(self, connection: socket.socket | None) -> bool:
        """Wait until its own deadline; whether it is gone."""
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
        """It has stopped, and says how."""
        with contextlib.suppress(NoAnswer):
            for connection in others:
                answer = receive(connection)
                # Without an answer it was forced out, or somebody killed it.
                self.exit_code = (answer or {}).get('exit_code', EX_SOFTWARE)
        others.clear()

    def _progress(self) -> None:
        seconds = time.monotonic() - self._began
        try:
            waits = what_it_waits_for(ask(self.control, 'status', 1))
        except NoAnswer as error:
            has_stopped = error.code in (errno.ENOENT, errno.ECONNREFUSED)
            waits = 'stopped, its process ends' if has_stopped else 'it does not answer'
        self.progress.show(f'Stopping process {self.pid}, {seconds:.0f} s: {waits}')
        if not (self._said or self.progress.is_seen):
            print(f'Stopping process {self.pid}: {waits}', file=sys.stderr, flush=True)
        self._said = True

    def _kill(self) -> None:
        self.progress.end()
        print(
            f'Process {self.pid} did not stop within {patience(self.status):g} s: killed',
            file=sys.stderr,
        )
        self.exit_code = 128 + KILL
        self.process.signal(KILL)
        until = time.monotonic() + DYING
        while (left := until - time.monotonic()) > 0:
            if self.process.is_gone_within(left, []):
                return
        raise DoesNotDie(f'process {self.pid} does not even die of SIGKILL')


def what_it_waits_for(status: dict[str, Any]) -> str:
    """In words: requests in flight, the listener that runs."""
    if not status:
        return 'it does not answer'
    parts = []
    requests = texts(status, 'requests')
    if requests:
        parts.append(
            f'{len(requests)} request{"s" * (len(requests) > 1)} in flight '
            f'({", ".join(requests[:3])}{", …" * (len(requests) > 3)})'
        )
    if status.get('calling'):
        parts.append(f'the {status["calling"]}')
    parts += [f'the thread {name}' for name in texts(status, 'threads')]
    workers = status.get('workers')
    for worker in workers if isinstance(workers, list) else ():
        if isinstance(worker, dict) and worker.get('requests', 0) is None:
            parts.append(f'{worker.get("name")}, which does not answer')
    if parts:
        return f'waiting for {" and ".join(parts)}'
    return str(status.get('state', 'in an unknown state')).lower()


def stop_site(lock: PIDLock) -> int | None:
    """Stop the site that holds this PID file, and clean up behind it if it was killed.

    :returns: its exit code, None if it could not tell (or was gone already).
    :raises PIDFileError: if the file cannot be read.
    :raises NotPermitted, DoesNotDie: if it cannot be stopped.
    """
    with contextlib.suppress(StalePIDFile, ForeignPIDFile):
        pid = _read_number(lock)
        if pid:
            stop = Stop(path_for(lock.path), pid)
            if lock.read() in (pid, 0):  # held still, so its number is its own
                return stop.run()
            stop.process.close()
    return None


def stop_process(control: str, pid: int) -> int | None:
    """Stop the site without a PID file that answers at ``control``, as process ``pid``.

    :returns: its exit code, None if it could not tell (or was gone already).
    :raises NotPermitted, DoesNotDie: if it cannot be stopped.
    """
    stop = Stop(control, pid)
    try:
        there = ask(control, 'status').get('pid') == pid
    except NoAnswer as error:
        there = error.listens
    if there:  # held still, so its number is its own
        return stop.run()
    stop.process.close()
    return None


def _read_number(lock: PIDLock) -> int | None:
    """The process that holds the file; None if nobody does.

    :raises AlreadyRunning: if somebody does, and it cannot be known who.
    """
    until = time.monotonic() + MARGIN
    while (pid := lock.read()) == 0:  # its start is about to write it
        with contextlib.suppress(NoAnswer, KeyError):
            return int(ask(path_for(lock.path), 'status', 1)['pid'])
        if time.monotonic() > until:
            raise AlreadyRunning(lock.path, None)
        time.sleep(0.02)
    return pid


def clean_up(lock: PIDLock) -> bool:
    """Remove what a site that is gone left behind; another one's stays.

    :returns: whether there is no PID file now.
    """
    if os.path.lexists(lock.path):
        with contextlib.suppress(WSPBusError):
            lock.acquire()
            with contextlib.suppress(OSError):
                remove_socket(path_for(lock.path))
            lock.release()
    return not os.path.lexists(lock.path)
