"""A known server for commands that do not know the bus, such as `paster serve`."""

from __future__ import annotations

from paste_wspbus.bus import Bus
from paste_wspbus.servers.registry import find_adapter

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Any


def standalone(
    name: str, global_conf: Mapping[str, Any], conf: dict[str, str]
) -> Callable[[Any], None]:
    """Make a ``server(app)`` for commands that do not know the bus: it makes its own bus."""

    def serve(app: Any) -> None:
        adapter = find_adapter(name)
        assert adapter is not None
        bus = Bus()
        server = adapter(conf, global_conf)
        server.plug_in(bus)
        bus.subscribe('start', server, app)
        bus.start()
        bus.block()

    return serve
