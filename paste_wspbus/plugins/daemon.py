"""Becoming a daemon, and becoming another user."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import sys
import threading
import time

from paste_wspbus.errors import UsageError, WSPBusError
from paste_wspbus.plugins import Plugin, on
from paste_wspbus.plugins.pidfile import is_alive
from paste_wspbus.plugins.sitelog import append_to
from paste_wspbus.report import Inbox, Report

TYPE_CHECKING = False
if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Iterable
    from typing import Any, NoReturn

    from paste_wspbus.bus import Bus


class ThreadsAlive(WSPBusError):
    """A process with threads cannot become a daemon: fork(2) would lose them."""

    def __init__(self, names: list[str]) -> None:
        super().__init__(
            f'cannot daemonize: threads run already: {", ".join(sorted(names))}'
        )
        self.names = names


class PrivilegesKept(WSPBusError):
    """After the change of user, the process could still become root again."""


#: Seconds that a daemon whose start failed has for cleaning up.
GOING = 10.0


# -- daemonizing ----------------------------------------------------------------


def daemonize(launch: Callable[[Inbox, int], NoReturn]) -> Report:
    """Fork twice (PEP 3143), in a session of its own, stdin on /dev/null.

    Umask and working directory are kept.

    :param launch: called in the process that was there before, with what the
        daemon reports and its first child's process ID; it does not return.
    :returns: in the daemon: where to report what came of the start.
    :raises ThreadsAlive: if threads run, naming them.
    """
    if not hasattr(os, 'fork'):
        raise UsageError('cannot daemonize: this system has no fork(2)')
    others = [
        thread.name
        for thread in threading.enumerate()
        if thread is not threading.current_thread()
    ]
    if others:
        raise ThreadsAlive(others)
    for stream in (sys.stdout, sys.stderr):
        if stream is not None:
            stream.flush()
    reader, writer = os.pipe()
    child = os.fork()
    if child:
        os.close(writer)
        launch(Inbox(reader), child)
    os.close(reader)
    os.setsid()
    if os.fork():
        os._exit(0)
    null = os.open(os.devnull, os.O_RDWR)
    os.dup2(null, 0)
    os.close(null)
    report = Report(writer)
    report.pid()
    return report


def wait_for_start(
    inbox: Inbox, child: int, clean_up: Callable[[], None] | None = None
) -> NoReturn:
    """In the process that was there before: wait for the daemon's result, exit with it.

    An interrupt (Ctrl-C) stops the daemon that starts.

    :param clean_up: called when the start has failed and the daemon is gone.
    """
    launch = _Launch()
    while launch.code is None:
        try:
            os.waitpid(child, 0)
        except (KeyboardInterrupt, SystemExit) as error:
            launch.interrupt(error)
            continue
        except ChildProcessError:
            pass  # it was waited for before the interrupt
        try:
            launch.read(inbox)
        except (KeyboardInterrupt, SystemExit) as error:
            launch.interrupt(error)
    if launch.interrupted:
        launch.wait_for_end()  # it may have been ready already
    if (launch.code or launch.interrupted) and clean_up is not None:
        clean_up()
    os._exit(launch.interrupted or launch.code)


#: Seconds until an interrupted start is told to stop a second time.
AGAIN = 1.0


class _Launch:
    """What the launching process knows of the daemon's start."""

    def __init__(self) -> None:
        #: The daemon's exit code, or 0 when it is started.
        self.code: int | None = None
        #: What the launching process exits with if it was interrupted.
        self.interrupted = 0
        self._daemon: OtherProcess | None = None

    def read(self, inbox: Inbox) -> None:
        """Read what is reported, until it is known what came of it."""
        for message in inbox:
            self._understand(message)
            if self.code is not None:
                return
        pid = self._daemon.pid if self._daemon is not None else 0
        _write(2, f'The site (process {pid}) died while it started.\n')
        self.code = 1

    def _understand(self, message: dict[str, Any]) -> None:
        if 'pid' in message:
            self._daemon = OtherProcess(message['pid'])
            if self.interrupted:
                self._daemon.signal(signal.SIGTERM)
            return
        signal.setitimer(signal.ITIMER_REAL, 0)
        if 'ready' in message:
            _write(1, ''.join(f'{line}\n' for line in message['ready']))
            self.code = 0
        elif 'failed' in message:
            if message['line']:
                _write(2, f'{message["line"]}\n')
            self.wait_for_end()
            self.code = int(message['failed'])

    def wait_for_end(self) -> None:
        """Give the daemon time for cleaning up."""
        if self._daemon is not None:
            self._daemon.is_gone_within(GOING)

    def interrupt(self, error: BaseException) -> None:
        """Ctrl-C or SIGTERM: the daemon is to stop, too."""
        self.interrupted = 128 + (2 if isinstance(error, KeyboardInterrupt) else 15)
        if self._daemon is not None:
            self._daemon.signal(signal.SIGTERM)
            # Python sees one that comes in the instant before a system call when that
            # returns: once more, if nothing is heard of the daemon until then.
            signal.signal(signal.SIGALRM, self._press)
            signal.setitimer(signal.ITIMER_REAL, AGAIN)

    def _press(self, *_: object) -> None:
        if self._daemon is not None:
            self._daemon.signal(signal.SIGTERM)


def _write(fd: int, text: str) -> None:
    with contextlib.suppress(OSError):  # nobody reads it
        os.write(fd, text.encode())


class NotPermitted(WSPBusError):
    """The process is another user's (LSB: 4)."""

    exit_code = 4


class OtherProcess:
    """A process that is not our child, to be waited for (pidfd_open(2) where there is one)."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self._fd = -1
        with contextlib.suppress(AttributeError, OSError):
            self._fd = os.pidfd_open(pid)

    def is_gone_within(
        self, seconds: float, others: Iterable[socket.socket] = ()
    ) -> bool:
        """Wait until it ends, one of ``others`` is readable, or the time is over."""
        if self._fd != -1:
            watched: list[Any] = [self._fd, *others]
            ready, _, _ = select.select(watched, [], [], max(seconds, 0))
            return self._fd in ready
        until = time.monotonic() + seconds
        while is_alive(self.pid):  # there is nothing to wait on but others
            pause = min(max(until - time.monotonic(), 0), 0.05)
            if not others:
                time.sleep(pause)
            elif select.select([*others], [], [], pause)[0]:
                return False
            if time.monotonic() >= until:
                return False
        return True

    def ask_to_stop(self) -> None:
        """SIGTERM; on Windows, where that kills, a command to its win32 bus.

        :raises WSPBusError: if it cannot be asked.
        """
        if os.name == 'nt':
            from paste_wspbus.plugins.win32 import signal_child

            signal_child(self.pid, 'exit')
        else:
            self.signal(signal.SIGTERM)

    def signal(self, number: signal.Signals) -> None:
        """Send it a signal.

        :raises NotPermitted: if it is another user's.
        """
        try:
            if self._fd != -1:
                signal.pidfd_send_signal(self._fd, number)
            else:
                os.kill(self.pid, number)
        except ProcessLookupError:
            pass
        except PermissionError:
            raise NotPermitted(
                f'process {self.pid} is not yours to stop: permission denied'
            ) from None

    def close(self) -> None:
        """Forget it."""
        if self._fd != -1:
            os.close(self._fd)


class IsSupervised(WSPBusError):
    """A site that has a supervisor becomes a daemon, or has, in a forked child."""

    def __init__(self) -> None:
        super().__init__(
            'a site that has a supervisor cannot become a daemon by itself: '
            'leave that to --daemon'
        )


class Daemonizer(Plugin):
    """Makes the process a daemon at 'start'; CherryPy's signature and priority.

    What starts before it (priority below 65) must not start threads. The
    process that was there before exits when the bus is STARTED (0), or could
    not start (1).
    """

    def __init__(
        self,
        bus: Bus,
        stdin: str = os.devnull,
        stdout: str = os.devnull,
        stderr: str = os.devnull,
    ) -> None:
        super().__init__(bus)
        self.stdin, self.stdout, self.stderr = stdin, stdout, stderr
        self.finalized = False
        self._report = Report()

    @on('start', priority=65)
    def start(self) -> None:
        """Fork; go on in the child.

        :raises ThreadsAlive: if threads run.
        :raises IsSupervised: if a supervisor would take that for this process's end.
        """
        if self.finalized:
            self.bus.log('Already deamonized.')
            return
        if getattr(self.bus, 'succession', None) is not None:
            raise IsSupervised
        self._report = daemonize(wait_for_start)
        if self.stdin != os.devnull:
            with open(self.stdin) as file:
                os.dup2(file.fileno(), 0)
        for number, path in ((1, self.stdout), (2, self.stderr)):
            try:
                append_to(path, (number,))
            except OSError as error:
                self._report.failed(1, f'{path}: {error.strerror or error}')
                raise
        self.finalized = True
        self.bus.log(f'Daemonized to PID: {os.getpid()}')

    @on('start', priority=float('inf'))
    def tell_of_start(self) -> None:
        """Everything else has started: let the shell go on."""
        self._report.ready()

    @on('stop', priority=0)
    def tell_of_failure(self) -> None:
        """If that comes before: the shell gets 1."""
        self._report.failed(1, 'The site did not start.')
        self._report.close()


# -- users ------------------------------------------------------------------------


class Identity:
    """Whom a process is to become: ``uid`` and ``gid`` (None: as it is), by name or number.

    :raises UsageError: if there is no such user or group, or only root could
        become it.
    """

    def __init__(self, user: str | int | None, group: str | int | None) -> None:
        self.uid: int | None = None
        self.gid: int | None = None
        self.name: str | None = None
        if not hasattr(os, 'setresuid') and (user, group) != (None, None):
            raise UsageError('--user and --group: this system has no setresuid(2)')
        if user is not None:
            self._find_user(user)
        if group is not None:
            self.gid = _find_group(group)
        if user is not None and self.gid is None:
            raise UsageError(f'--user {user}: it has no entry in passwd: add --group')
        self._check_root(user, group)

    def _find_user(self, user: str | int) -> None:
        import pwd

        try:
            number = _number(user)
            entry = pwd.getpwnam(str(user)) if number is None else pwd.getpwuid(number)
        except (KeyError, ValueError):
            if number is None:
                raise UsageError(f'--user {user}: there is no such user') from None
            self.uid = number
        else:
            self.uid, self.gid, self.name = entry.pw_uid, entry.pw_gid, entry.pw_name

    def _check_root(self, user: str | int | None, group: str | int | None) -> None:
        if os.geteuid() == 0 or self.is_current:
            return
        option = f'--user {user}' if user is not None else f'--group {group}'
        raise UsageError(f'{option}: only root can change that')

    @property
    def is_current(self) -> bool:
        """Whether the process is this one already."""
        return self.uid in (None, os.geteuid()) and self.gid in (None, os.getegid())

    def take(self) -> None:
        """Become it: supplementary groups, group, user, in this order; and verify it.

        :raises PrivilegesKept: if the system did not do what it was asked for.
        """
        if os.geteuid() != 0:
            return
        if self.gid is not None:
            if self.name is not None:
                os.initgroups(self.name, self.gid)
            else:
                os.setgroups([self.gid])
            os.setresgid(self.gid, self.gid, self.gid)
        if self.uid is not None:
            os.setresuid(self.uid, self.uid, self.uid)
        self._verify()

    def _verify(self) -> None:
        if self.gid is not None and set(os.getresgid()) != {self.gid}:
            raise PrivilegesKept(f'the group did not become {self.gid}')
        if self.uid is None:
            return
        if set(os.getresuid()) != {self.uid}:
            raise PrivilegesKept(f'the user did not become {self.uid}')
        if self.uid != 0:
            if 0 in os.getgroups() and self.gid != 0 and not self._is_in_group_0():
                raise PrivilegesKept('the process is in group 0 still')
            try:
                os.setuid(0)
            except PermissionError:
                return
            raise PrivilegesKept('the process can become root again')

    def _is_in_group_0(self) -> bool:
        return self.name is not None and 0 in os.getgrouplist(self.name, self.gid or 0)


def _number(text: str | int) -> int | None:
    """A user's or group's number; None if it is no number, or not a possible one."""
    word = str(text)
    if not (word.isascii() and word.isdecimal()):
        return None
    # The last one, (uid_t)-1, is 'as it is' to chown(2) and setresuid(2).
    return int(word) if len(word) <= 10 and int(word) < 2**32 - 1 else None


def _find_group(group: str | int) -> int:
    import grp

    try:
        number = _number(group)
        return grp.getgrnam(str(group)).gr_gid if number is None else number
    except (KeyError, ValueError):
        raise UsageError(f'--group {group}: there is no such group') from None


class DropPrivileges(Plugin):
    """Changes user, group and umask at 'start', after the server has its port.

    CherryPy's signature; names as well as numbers. Where nothing is asked for,
    nothing is done.
    """

    def __init__(
        self,
        bus: Bus,
        umask: int | None = None,
        uid: str | int | None = None,
        gid: str | int | None = None,
    ) -> None:
        super().__init__(bus)
        self.umask, self.uid, self.gid = umask, uid, gid
        self.finalized = False

    @on('start', priority=77)
    def start(self) -> None:
        """Change them, once.

        :raises UsageError: for an unknown user or group, and if not root.
        :raises PrivilegesKept: if the change did not take effect.
        """
        if self.finalized:
            return
        if self.umask is not None:
            os.umask(self.umask)
        if self.uid is not None or self.gid is not None:
            Identity(self.uid, self.gid).take()
            self.bus.log(f'Now uid {os.getuid()}, gid {os.getgid()}.')
        self.finalized = True
