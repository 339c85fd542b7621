"""How to become a daemon: the launching process waits until the start succeeds or fails."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import threading
import time

from paste_wspbus.errors import UsageError, WSPBusError
from paste_wspbus.exits import FAILED, of_signal
from paste_wspbus.forks import fork
from paste_wspbus.inbox import Inbox
from paste_wspbus.report import Report
from paste_wspbus.streams import flush_streams
from paste_wspbus.unix.holding import hold
from paste_wspbus.unix.processes import (
    OtherProcess,
    adopt_orphans,
    descendants,
    how,
)
from paste_wspbus.values import printable

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from typing import Any, NoReturn


class ThreadsAlive(WSPBusError):
    """A process with threads cannot become a daemon: fork(2) would lose them."""

    def __init__(self, names: list[str]) -> None:
        super().__init__(
            f'cannot daemonize: threads run already: {", ".join(sorted(names))}'
        )
        self.names = names


#: Seconds of a load after which the launching process says that it is not over.
LONG = 2.0

#: Seconds that a daemon has to clean up after its start has failed.
GOING = 10.0

#: The descriptors that the launching process needs at a time: three pipes, a module, a file.
#: Without them it would end with an error, and the daemon would start all the same.
LAUNCHER_NEEDS = 8

#: Seconds within which a process that reports nothing more must have ended.
ENDED = 1.0


def daemonize(
    launch: Callable[[Inbox, int], NoReturn], keep: Iterable[int] | None = None
) -> Report:
    """Fork twice (PEP 3143): the daemon has a new session, and /dev/null as stdin.

    It keeps the umask and the working directory.

    :param launch: is called in the launching process, with the daemon's reports and the
        process ID of its first child; it does not return.
    :param keep: the descriptors that the daemon needs; it closes all others. With None,
        it closes none, because parts of a site may have opened some.
    :returns: in the daemon, the end that reports how the start ended.
    :raises ThreadsAlive: if other threads run; the error names them.
    :raises OSError: if this process may not open enough files.
    :raises WSPBusError: if the system starts no more processes.
    """
    if not hasattr(os, 'fork'):
        raise UsageError('cannot daemonize: this system has no fork(2)')
    _check_threads()
    flush_streams()
    _check_descriptors(LAUNCHER_NEEDS)
    reader, writer = os.pipe()
    waits, adopts = os.pipe()
    child = _fork_held()
    if child:
        os.close(writer)
        os.close(waits)
        adopt_orphans()  # only the parent of the daemon learns how it ends
        os.close(adopts)
        launch(Inbox(reader), child)
    os.close(reader)
    os.close(adopts)
    os.setsid()
    if _fork_again(writer):
        os.read(waits, 1)  # the end: the launching process will be the parent
        os._exit(0)
    os.close(waits)
    null = os.open(os.devnull, os.O_RDWR)
    os.dup2(null, 0)
    os.close(null)
    if keep is not None:
        _close_all_but({*range(3), writer, *keep})
    report = Report(writer)
    report.pid()
    hold(False)
    return report


def _fork_held() -> int:
    """Fork, and hold signals until `launch` handles them, and until the daemon can report."""
    hold(True)
    try:
        return fork()
    except BaseException:
        hold(False)
        raise


def _fork_again(writer: int) -> int:
    """Fork the daemon; if that fails, report it, and end."""
    try:
        return fork()
    except WSPBusError as error:
        Report(writer).failed(error.exit_code, str(error))
        os._exit(error.exit_code)


def _check_threads() -> None:
    """Check that no other thread runs.

    :raises ThreadsAlive: if one does.
    """
    others = [
        thread.name
        for thread in threading.enumerate()
        if thread is not threading.current_thread()
    ]
    if others:
        raise ThreadsAlive(others)


def _check_descriptors(count: int) -> None:
    """Check that this process may open so many more files, or one more than that.

    :raises OSError: if it may not.
    """
    with contextlib.ExitStack() as stack:
        for _ in range(0, count, 2):
            for fd in os.pipe():
                stack.callback(os.close, fd)


def _close_all_but(kept: set[int]) -> None:
    """Close what the launching process inherited: locks of its caller would stay locked."""
    try:
        opened = [int(name) for name in os.listdir('/dev/fd')]
    except OSError:
        opened = [*range(os.sysconf('SC_OPEN_MAX'))]
    for fd in opened:
        if fd not in kept:
            with contextlib.suppress(OSError):  # listdir() has closed its own
                os.close(fd)


def wait_for_start(
    inbox: Inbox,
    child: int,
    clean_up: Callable[[bool], None] | None = None,
    log: str | None = None,
    where: Callable[[int], str] | None = None,
) -> NoReturn:
    """Wait until the daemon's start has succeeded or failed, and exit with its code.

    This runs in the launching process. An interrupt (Ctrl-C) stops the daemon.

    :param clean_up: is called at the end, with True if the start has failed and the
        daemon has ended.
    :param log: the absolute path of the daemon's log.
    :param where: returns the line where a process that loads the site is, or ''. None: it
        is not said that the start takes long.
    """
    launch = _Launch(inbox, log, where)
    launch.handle_signals()
    with contextlib.suppress(ChildProcessError):  # other code has waited for it
        os.waitpid(child, 0)
    launch.wait()
    hold(True)  # a signal that comes now is too late to change the outcome
    if launch.interrupted:
        launch.wait_for_end()  # the daemon may have been ready already
    if clean_up is not None:
        clean_up(bool(launch.code or launch.interrupted))
    os._exit(launch.interrupted or launch.code or 0)


#: Seconds until an interrupted start gets a second signal to stop.
AGAIN = 1.0


class _Launch:
    """What the launching process knows of the daemon's start.

    Its signal handler raises nothing. An exception could come between two steps of this
    process, and then the daemon would not get the signal.
    """

    def __init__(
        self,
        inbox: Inbox,
        log: str | None,
        where: Callable[[int], str] | None = None,
    ) -> None:
        self._inbox, self._log, self._where = inbox, log, where
        #: The process that loads the site, and the time.monotonic() at which it takes long.
        self._loads, self._long_at = 0, 0.0
        #: The daemon's exit code, or 0 when it is started.
        self.code: int | None = None
        #: The exit code of the launching process if it was interrupted, else 0.
        self.interrupted = 0
        self._daemon: OtherProcess | None = None
        #: The time.monotonic() at which the daemon gets a second signal.
        self._press_at: float | None = None
        self._woken = -1

    def handle_signals(self) -> None:
        """Handle signals from now on: they stop the daemon, and also wake `wait`."""
        if threading.current_thread() is threading.main_thread():
            self._woken, writer = os.pipe()
            os.set_blocking(self._woken, False)
            os.set_blocking(writer, False)
            signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
            for number in (signal.SIGTERM, signal.SIGINT):
                signal.signal(number, self._interrupt)
            for number in (signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2):
                signal.signal(number, signal.SIG_IGN)
            if _has_terminal():
                signal.signal(signal.SIGHUP, self._interrupt)
        hold(False)

    def _interrupt(self, signum: int, frame: object) -> None:
        """Stop the daemon, too, after Ctrl-C or SIGTERM."""
        if signum == signal.SIGINT and not self.interrupted:
            _write(2, 'Interrupted: the site stops.\n')
        self.interrupted = of_signal(signum)
        self._press()
        self._press_at = time.monotonic() + AGAIN

    def _press(self) -> None:
        if self._daemon is not None:
            self._daemon.signal(signal.SIGTERM)

    def wait(self) -> None:
        """Read the daemon's reports until its start has succeeded or failed."""
        while self.code is None:
            timeout = None
            if self._press_at is not None:
                timeout = max(self._press_at - time.monotonic(), 0)
            elif self._loads:
                timeout = max(self._long_at - time.monotonic(), 0)
            readers = [fd for fd in (self._inbox.fd, self._woken) if fd != -1]
            ready, _, _ = select.select(readers, [], [], timeout)
            if self._woken in ready:
                os.read(self._woken, 512)
            if not ready and self._press_at is None:
                self._tell_where()
            elif not ready:
                # The daemon does not react. If a signal comes just before a system call,
                # Python handles it only when that call returns. So send it once more.
                self._press_at = None
                self._press()
            if self._inbox.fd in ready:
                self._read()

    def _read(self) -> None:
        what = ''
        try:
            messages = self._inbox.read()
        except ValueError:  # the site has sent something that is not a report
            messages = None
            what = 'has sent something that is not a report'
        for message in messages or ():
            if self.code is None:
                self._understand(message)
        if messages is None:
            self._has_no_outcome(what)

    def _has_no_outcome(self, what: str) -> None:
        """Print how the daemon has ended, or why nobody knows how its start goes.

        :param what: what the daemon has sent instead of a report; '' if it has closed the pipe.
        """
        daemon, self.code = self._daemon, FAILED
        if self.interrupted:
            return
        if daemon is not None and daemon.is_gone_within(ENDED):
            code = _reap(daemon.pid)
            self.code = code if code is not None and code > 0 else FAILED
            end = '' if code is None else f', {how(code)}'
            log = '' if self._log is None else f': see {self._log}'
            what = f'ended before it was ready{end}{log}'
        else:
            what = what or 'reports nothing more'
            what += '; `status` says whether it runs'
        pid = 0 if daemon is None else daemon.pid
        _write(2, f'The site (process {pid}) {what}.\n')

    def _tell_where(self) -> None:
        """Print once that the start takes long, and where it is."""
        pid, self._loads = self._loads, 0
        if self._where is None:
            return
        where, self._where = self._where, None
        # The code of the site can report a process, too, but signal none of others.
        own = self._daemon.pid if self._daemon is not None else 0
        is_own = own and (pid == own or pid in descendants(own))
        place = printable(where(pid)) if is_own else ''
        at = f', and is at {place}' if place else ''
        _write(2, f'The site has been starting for {LONG:g} s{at}\n')

    def _understand(self, message: dict[str, Any]) -> None:
        if 'pid' in message:
            if self._daemon is not None:
                return  # only the first is the daemon's; the site may have sent this one
            self._daemon = OtherProcess(message['pid'])
            if self.interrupted:
                self._press()
            return
        if 'loading' in message:
            self._loads, self._long_at = message['loading'], time.monotonic() + LONG
        elif 'ready' in message:
            _write(1, ''.join(f'{printable(line)}\n' for line in message['ready']))
            self.code = 0
        elif 'failed' in message:
            if message['line']:
                _write(2, f'{printable(message["line"], lines=True)}\n')
            self.wait_for_end()
            self.code = int(message['failed'])

    def wait_for_end(self) -> None:
        """Wait for the daemon's end, because it may have to clean up."""
        if self._daemon is not None and self._daemon.is_gone_within(GOING):
            _reap(self._daemon.pid)


def _reap(pid: int) -> int | None:
    """Return how a process has ended, as os.waitstatus_to_exitcode; None if nobody says it."""
    # ChildProcessError: this system lets no process adopt another.
    with contextlib.suppress(ChildProcessError):
        _, status = os.waitpid(pid, 0)
        return os.waitstatus_to_exitcode(status)
    return None


def _has_terminal() -> bool:
    try:
        return os.isatty(0)
    except OSError:
        return False


def _write(fd: int, text: str) -> None:
    with contextlib.suppress(OSError):  # nobody reads it
        os.write(fd, text.encode())
