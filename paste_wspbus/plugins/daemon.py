"""The plugins that make the process a daemon, and that change its user."""

from __future__ import annotations

import os

from paste_wspbus.bus.host import host_of
from paste_wspbus.errors import WSPBusError
from paste_wspbus.plugins import Plugin, on
from paste_wspbus.plugins.log_files import append_to
from paste_wspbus.report import Report
from paste_wspbus.unix.daemonizing import ThreadsAlive as ThreadsAlive
from paste_wspbus.unix.daemonizing import daemonize as daemonize
from paste_wspbus.unix.daemonizing import wait_for_start as wait_for_start
from paste_wspbus.unix.processes import NotPermitted as NotPermitted
from paste_wspbus.unix.processes import OtherProcess as OtherProcess
from paste_wspbus.unix.users import Identity as Identity
from paste_wspbus.unix.users import PrivilegesKept as PrivilegesKept

TYPE_CHECKING = False
if TYPE_CHECKING:
    from paste_wspbus.bus import Bus


class IsSupervised(WSPBusError):
    """A site under a supervisor cannot become a daemon: that would run it in a forked child."""

    def __init__(self) -> None:
        super().__init__(
            'a site that has a supervisor cannot become a daemon by itself: '
            'start it with --daemon instead'
        )


class Daemonizer(Plugin):
    """Makes the process a daemon at 'start'.

    Its arguments and its priority are those of `cherrypy.process.plugins.Daemonizer`.
    Parts that start before it (priority below 65) must not start threads. The first
    process exits when the bus is STARTED (exit code 0), or when the start fails (1).

    :param stdin: the path of the file that becomes standard input.
    :param stdout: the path of the file that standard output is appended to.
    :param stderr: the path of the file that standard error is appended to.
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
        """Fork, once; the child becomes the daemon.

        :raises ThreadsAlive: if other threads run.
        :raises IsSupervised: if the site has a supervisor, which would think that this
            process has ended.
        :raises OSError: if a file cannot be opened.
        """
        if self.finalized:
            self.bus.log('Already deamonized.')
            return
        if host_of(self.bus).is_supervised:
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
        """Report that the site has started: the command in the shell ends now."""
        self._report.ready()

    @on('stop', priority=0)
    def tell_of_failure(self) -> None:
        """Report that the start has failed, if the site stops before it has started."""
        self._report.failed(1, 'The site did not start.')
        self._report.close()


class DropPrivileges(Plugin):
    """Changes user, group and umask at 'start', after the server has bound its port.

    Its arguments are those of `cherrypy.process.plugins.DropPrivileges`. None stands for
    no change.

    :param umask: a number.
    :param uid: a user's name or number.
    :param gid: a group's name or number.
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
        """Change user, group and umask, once.

        :raises UsageError: if the user or group does not exist, or this user is not root.
        :raises PrivilegesKept: if the change has no effect.
        """
        if self.finalized:
            return
        if self.umask is not None:
            os.umask(self.umask)
        if self.uid is not None or self.gid is not None:
            Identity(self.uid, self.gid).take()
            self.bus.log(f'Now uid {os.getuid()}, gid {os.getgid()}.')
        self.finalized = True
