"""How a site is restarted: each answers 'restart', which is published when the site has stopped.

The one that a site has by default is ``bus.plugins['restart']``, to be
unsubscribed, and replaced by another one or a function of the site's own.
"""

from __future__ import annotations

from paste_wspbus.errors import RestartImpossible
from paste_wspbus.plugins import Plugin, on

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from paste_wspbus.bus import Bus


class ExecvRestarter(Plugin):
    """The process replaces itself: the same PID, arguments and flags of the interpreter.

    Listening sockets, PID file, control socket and whether it is a daemon go
    over to the new program; all other descriptors are closed.
    """

    def subscribe(self) -> None:
        """Plug in; from now on a restart is refused where this is not possible."""
        super().subscribe()
        self.bus.restart_checks.append(self.bus.check_execv)

    def unsubscribe(self) -> None:
        """Unplug."""
        super().unsubscribe()
        if self.bus.check_execv in self.bus.restart_checks:
            self.bus.restart_checks.remove(self.bus.check_execv)

    @on('restart', priority=100)
    def restart(self) -> None:
        """Replace the process; returns only if that fails.

        :raises OSError: then.
        """
        self.bus._do_execv()


class _Succession(Plugin):
    """This process ends, and the supervisor starts another one in its place."""

    style: str

    def subscribe(self) -> None:
        """Plug in; from now on a restart is refused where there is no supervisor."""
        super().subscribe()
        self.bus.restart_checks.append(self._check)

    def unsubscribe(self) -> None:
        """Unplug."""
        super().unsubscribe()
        if self._check in self.bus.restart_checks:
            self.bus.restart_checks.remove(self._check)

    def _check(self) -> None:
        if self.bus.succession is None:
            raise RestartImpossible(
                f'restart = {self.style} takes a supervisor: --reload, or that line '
                'in [wspbus:main]'
            )

    @on('restart', priority=100)
    def restart(self) -> None:
        """Tell the supervisor how the next process is to be made."""
        if self.bus.succession is not None:
            self.bus.succession(self.style)


class ChildRestarter(_Succession):
    """The next process is a fresh interpreter."""

    style = 'child'


class ForkRestarter(_Succession):
    """The next process is forked from one that has imported the packages that the site uses."""

    style = 'fork'


class GracefulRestarter(Plugin):
    """The supervisor starts a new worker in this one's place, and then has this one stop.

    It does not listen to 'restart': the site goes on until the new worker is ready.

    :param ask: asks the supervisor.
    """

    def __init__(self, bus: Bus, ask: Callable[[], object]) -> None:
        super().__init__(bus)
        self.ask = ask

    def subscribe(self) -> None:
        """Plug in."""
        super().subscribe()
        self.bus.restarter = self.ask

    def unsubscribe(self) -> None:
        """Unplug."""
        super().unsubscribe()
        self.bus.restarter = None
