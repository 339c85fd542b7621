"""The host of a bus: the program that owns the process, its promises, and its own actions."""

from __future__ import annotations

import sys

from paste_wspbus.bus.states import State

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any

#: The beginning of the line that says why a site stops.
REASON = 'Stopping: '

#: The promises that a host may make: each capability with its meaning.
CAPABILITIES: dict[str, str] = {
    'start': "'start' listeners have run before the application gets a request",
    'drain': "'stop' listeners run after the last request was answered",
    'stop': "'stop' listeners run before the process ends, also after a signal",
    'reload': "'graceful' is published before a process with new code replaces this one",
    'signals': 'the bus handles signals, as [wspbus:main] says',
    'per-worker': 'every process that serves requests starts a bus of its own',
    'main thread': "'start' and 'stop' listeners run in the process's main thread",
    'messages': 'broadcast() and ask() reach every process of the site',
    'cluster': 'cluster_plugins run once for all machines',
    'cluster-enforced': 'the end of their lease kills the process of cluster_plugins',
}


class Host:
    """The program that owns the process of a site: its name, its promises, its actions.

    With this class, the bus does everything itself. A program or supervisor that does
    more has a subclass, and then `bus.host` is an object for that bus alone. The bus
    itself calls the methods.

    :param name: such as 'gunicorn'.
    :param version: the version as a text; empty if there is none.
    :param capabilities: keys of CAPABILITIES.
    :raises ValueError: if CAPABILITIES does not have one of them.
    """

    __slots__ = ('capabilities', 'name', 'version')

    #: Whether the bus may handle signals; under Apache it may not, for example.
    owns_signals = True
    #: Whether the bus may use SIGALRM, which cuts listeners that are late.
    owns_alarm = True
    #: Whether the bus exits normally at the end of the process; then there is no warning.
    exits_with_process = False
    #: Whether a supervisor starts the next process: see `succeed`.
    is_supervised = False
    #: Whether no other process ends this one if its stop holds the GIL for ever.
    is_alone = False
    #: Whether the host restarts the site itself: see `restart`.
    restarts = False

    def __init__(self, name: str, version: str, capabilities: Iterable[str]) -> None:
        self.name, self.version = name, version
        self.capabilities = frozenset(capabilities)
        unknown = sorted(self.capabilities - CAPABILITIES.keys())
        if unknown:
            raise ValueError(f'A host has no capability {unknown[0]!r}')

    def __str__(self) -> str:
        return f'{self.name} {self.version}'.strip()

    def __repr__(self) -> str:
        words = ', '.join(word for word in CAPABILITIES if word in self.capabilities)
        return f'<Host {self}: {words or "nothing"}>'

    def composed(self, bus: Any) -> None:
        """React to the end of composing: the filter was made, so the application is complete."""

    def start(self, bus: Any) -> None:
        """Start the bus for a request that comes before its start, if this host starts buses.

        :raises StartFailed: if a listener failed to start.
        """

    def leave(self, bus: Any, command: str) -> bool:
        """End the process in this host's way, instead of `Bus.stop` or `Bus.exit`.

        :param command: 'stop' or 'exit'.
        :returns: True if the host ends the process; if False, the bus carries out the command.
        """
        return False

    def restart(self, bus: Any) -> bool:
        """Restart the site in this host's way, instead of `Bus.restart`.

        :returns: True if the host restarts the site; if False, the bus restarts it.
        """
        return False

    def succeed(self, bus: Any, style: str) -> None:
        """Report to the supervisor how to start the process that follows this one.

        :param style: the ``style`` of a restarter: 'child' or 'fork'.
        """


class _Command(Host):
    """The host of a process of `wspserve`; with a supervisor, `SupervisedHost` takes its place."""

    __slots__ = ()

    is_alone = True

    def leave(self, bus: Any, command: str) -> bool:
        """Log that the site itself stops the bus; the bus carries it out."""
        note_caller(bus, command)
        return False


#: The host of a bus that a script or a test itself makes, starts and stops.
OWN = Host('its own program', '', {'start', 'stop'})

#: The host of an embedded bus: the first request starts it, the end of the process stops it.
EMBEDDED = Host('the embedded bus', '', {'start', 'stop', 'per-worker', 'cluster'})

#: `wspserve` promises everything.
WSPSERVE = _Command('wspserve', '', CAPABILITIES)

#: `paste_wspbus.testing` promises everything but signals, which belong to the tests.
TESTING = Host('paste_wspbus.testing', '', CAPABILITIES.keys() - {'signals'})


def host_of(bus: Any) -> Host:
    """Return the Host of a bus, also of a bus class that has none (CherryPy's, a company's).

    :returns: ``bus.host``, or OWN if the bus has none. If another server has put an object
        there that only has the attributes of a Host, the result is a Host with the same
        name, version and capabilities.
    """
    host: Any = getattr(bus, 'host', None)
    if isinstance(host, Host):
        return host
    capabilities = getattr(host, 'capabilities', None)
    if capabilities is None:  # ``host`` of a company's bus may be a host name
        return OWN
    name, version = getattr(host, 'name', repr(host)), getattr(host, 'version', '')
    return Host(name, version, CAPABILITIES.keys() & capabilities)


def note_reason(bus: Any, why: str) -> None:
    """Log why the site stops, once, as soon as no signal handler is running.

    :param why: becomes ``bus.stop_reason``, such as 'SIGTERM'.
    """
    if getattr(bus, 'stop_reason', None) is None:
        bus.stop_reason = bus.untold_reason = why
        bus.turn.put('tell_reason')
        bus.turn.run_if_nobody_will()


def note_caller(bus: Any, command: str) -> None:
    """Note which code of the site has called ``bus.exit()`` or ``bus.stop()``."""
    frame = sys._getframe(3)  # below it are this function, `leave` and `Bus.exit`
    is_ours = str(frame.f_globals.get('__name__')).startswith('paste_wspbus.')
    if is_ours or bus.is_told_to_leave:
        return
    code = frame.f_code
    place = f'{code.co_filename}:{frame.f_lineno} in {code.co_qualname}'
    why = f'bus.{command}() was called at {place}'
    if bus.state is State.STARTED:
        note_reason(bus, why)
    elif bus.state is State.STARTING:  # the start fails, and its error names the reason
        bus.stop_reason = why
