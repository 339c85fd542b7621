"""The ways to restart a site: each is a plugin, and most of them listen to 'restart'.

'restart' is published when the site has stopped. The default plugin of a site is
``bus.plugins['restart']``; a site may unsubscribe it, and subscribe another plugin or
its own function.
"""

from __future__ import annotations

from paste_wspbus.bus.host import host_of
from paste_wspbus.errors import RestartImpossible
from paste_wspbus.plugins import Plugin, on


class ExecvRestarter(Plugin):
    """The process replaces itself (execve(2)): same PID, same command line.

    The new program inherits the listening sockets, the PID file and the control socket,
    and is a daemon if this one is a daemon. All other descriptors are closed.
    """

    def subscribe(self) -> None:
        """Plug in. From now on, a restart is refused if the process cannot replace itself."""
        super().subscribe()
        self.bus.restart_checks.append(self.bus.check_execv)

    def unsubscribe(self) -> None:
        """Unplug."""
        super().unsubscribe()
        if self.bus.check_execv in self.bus.restart_checks:
            self.bus.restart_checks.remove(self.bus.check_execv)

    @on('restart', priority=100)
    def restart(self) -> None:
        """Replace the process; this does not return.

        :raises OSError: if that fails.
        """
        self.bus.replace_process()


class _Succession(Plugin):
    """This process ends, and the supervisor starts another one in its place."""

    style: str

    def subscribe(self) -> None:
        """Plug in. From now on, a restart is refused if the site has no supervisor."""
        super().subscribe()
        self.bus.restart_checks.append(self._check)

    def unsubscribe(self) -> None:
        """Unplug."""
        super().unsubscribe()
        if self._check in self.bus.restart_checks:
            self.bus.restart_checks.remove(self._check)

    def _check(self) -> None:
        if not host_of(self.bus).is_supervised:
            raise RestartImpossible(
                f'restart = {self.style} needs a supervisor: start the site with '
                '--reload, or write that line into [wspbus:main]'
            )

    @on('restart', priority=100)
    def restart(self) -> None:
        """Report to the supervisor how to start the next process."""
        host_of(self.bus).succeed(self.bus, self.style)


class ChildRestarter(_Succession):
    """The next process is a fresh interpreter."""

    style = 'child'


class ForkRestarter(_Succession):
    """The next process is forked from a process that has imported the site's packages."""

    style = 'fork'
