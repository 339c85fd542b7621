"""The check that a host promises what a component needs."""

from __future__ import annotations

from paste_wspbus.bus.host import CAPABILITIES, Host, host_of
from paste_wspbus.errors import WSPBusError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


class HostCannot(WSPBusError):
    """A component needs ``missing``, which this host does not promise.

    ``missing`` are keys of CAPABILITIES.
    """

    def __init__(self, host: Host, missing: list[str], component: str) -> None:
        what = '; '.join(f'{word!r} ({CAPABILITIES[word]})' for word in missing)
        super().__init__(f'{component} cannot run under {host}, which lacks {what}')
        self.host, self.missing, self.component = host, missing, component


def require(bus: Any, *capabilities: str, component: str = 'This component') -> None:
    """Check that the host of a bus promises what a component needs.

    :param bus: the bus of the component.
    :param capabilities: keys of CAPABILITIES.
    :param component: the name of the component in the message.
    :raises HostCannot: if the host lacks one of them.
    :raises ValueError: if CAPABILITIES does not have one of them.
    """
    unknown = [word for word in capabilities if word not in CAPABILITIES]
    if unknown:
        raise ValueError(f'There is no capability {unknown[0]!r}')
    host = host_of(bus)
    missing = [word for word in capabilities if word not in host.capabilities]
    if missing:
        raise HostCannot(host, missing, component)
