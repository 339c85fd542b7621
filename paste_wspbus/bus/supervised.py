"""The host of a bus whose process has a supervisor, which starts the next process."""

from __future__ import annotations

from paste_wspbus.bus.host import Host, host_of, note_caller

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any


class SupervisedHost(Host):
    """The host of a process that has a supervisor.

    :param host: the host whose name, version and capabilities it takes.
    """

    __slots__ = ('renew', 'tell_style')

    def __init__(self, host: Host) -> None:
        super().__init__(host.name, host.version, host.capabilities)
        #: Asks the supervisor for a new process that replaces this one; None if it cannot ask.
        self.renew: Callable[[], object] | None = None
        #: Reports to the supervisor how to start the next process; None if it cannot report.
        self.tell_style: Callable[[str], object] | None = None

    @property
    def is_supervised(self) -> bool:  # type: ignore[override]
        """Whether there is a supervisor that starts the next process as `succeed` says."""
        return self.tell_style is not None

    @property
    def restarts(self) -> bool:  # type: ignore[override]
        """Whether a restart is a request to the supervisor."""
        return self.renew is not None

    def restart(self, bus: Any) -> bool:
        """Ask the supervisor for a new process that replaces this one."""
        if self.renew is None:
            return False
        self.renew()
        return True

    def leave(self, bus: Any, command: str) -> bool:
        """Log that the site itself stops the bus; the bus carries it out."""
        note_caller(bus, command)
        return False

    def succeed(self, bus: Any, style: str) -> None:
        """Report to the supervisor how to start the process that follows this one."""
        if self.tell_style is not None:
            self.tell_style(style)


def supervised(bus: Any) -> SupervisedHost:
    """Return the host of a bus; if it is not a SupervisedHost, make it one."""
    host = host_of(bus)
    if not isinstance(host, SupervisedHost):
        host = bus.host = SupervisedHost(host)
    return host
