"""Who owns the process, and what its bus can therefore promise.

Every bus has a Host: wspserve, Apache's mod_wsgi, gunicorn, uWSGI, zdaemon, or, as the
last resort, the embedded one. ``bus.host.capabilities`` says which promises it keeps,
and `require` is how a component refuses to run where one that it needs is missing.
docs/wsgi-lifecycle.md is the convention. A site under another program's process is
made by `paste_wspbus.hosts.site.compose`; each of those programs has a module here.
"""

from __future__ import annotations

from paste_wspbus.errors import WSPBusError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    from paste_wspbus.bus import Bus

#: What a host may promise; each word's meaning.
CAPABILITIES: dict[str, str] = {
    'start': "'start' listeners have run before the application gets a request",
    'drain': "'stop' listeners run after the last request was answered",
    'stop': "'stop' listeners run before the process ends, also when it is told by a signal",
    'reload': "'graceful' is published before the process leaves for one with new code",
    'signals': "signals are the bus's: those of [wspbus:main] hold",
    'per-worker': 'every process that serves has a bus of its own, started in it',
    'main thread': "'start' and 'stop' listeners run in the process's main thread",
}


class Host:
    """Who owns the process of a site: its name, its version, and what it can promise.

    :param name: such as 'gunicorn'.
    :param version: as text; empty if there is none.
    :param capabilities: words of CAPABILITIES.
    :raises ValueError: if there is another word among them.
    """

    __slots__ = ('capabilities', 'name', 'version')

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


class HostCannot(WSPBusError):
    """A component needs what this host does not promise: ``missing``, words of CAPABILITIES."""

    def __init__(self, host: Host, missing: list[str], component: str) -> None:
        what = '; '.join(f'{word!r} ({CAPABILITIES[word]})' for word in missing)
        super().__init__(f'{component} cannot run under {host}, which lacks {what}')
        self.host, self.missing, self.component = host, missing, component


#: Of a bus that whoever made it starts, blocks on and stops: a script, a test.
OWN = Host('its own program', '', {'start', 'stop'})

#: The last resort: started by the first request, stopped by the process's end.
EMBEDDED = Host('the embedded bus', '', {'start', 'stop', 'per-worker'})

#: What `wspserve` promises: all of it.
WSPSERVE = Host('wspserve', '', CAPABILITIES)

#: `paste_wspbus.testing`: all of it but the signals, which are the tests'.
TESTING = Host('paste_wspbus.testing', '', CAPABILITIES.keys() - {'signals'})


def host_of(bus: Bus) -> Host:
    """The Host of a bus; OWN if nobody gave it one."""
    return getattr(bus, 'host', None) or OWN


def require(bus: Bus, *capabilities: str, component: str = 'This component') -> None:
    """Refuse to run where the host does not promise what is needed.

    :param capabilities: words of CAPABILITIES.
    :param component: what the message calls whoever asks.
    :raises HostCannot: if one of them is missing.
    :raises ValueError: if one is no such word.
    """
    unknown = [word for word in capabilities if word not in CAPABILITIES]
    if unknown:
        raise ValueError(f'There is no capability {unknown[0]!r}')
    host = host_of(bus)
    missing = [word for word in capabilities if word not in host.capabilities]
    if missing:
        raise HostCannot(host, missing, component)
