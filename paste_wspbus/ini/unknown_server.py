"""How a server without an adapter is made from its section."""

from __future__ import annotations

from paste_wspbus.errors import ConfigError, FactoryError
from paste_wspbus.ini.eggs import EggLoader
from paste_wspbus.ini.factories import SERVER, name_of_factory, with_bus
from paste_wspbus.servers.blocking import BlockingServer
from paste_wspbus.servers.registry import runner_for

TYPE_CHECKING = False
if TYPE_CHECKING:
    from paste_wspbus.bus import Bus
    from paste_wspbus.ini.server import ServerSection


def make_server(section: ServerSection, bus: Bus) -> BlockingServer:
    """Make a server without an adapter: call its factory, which returns ``server(app)``.

    :raises ConfigError: if the section is wrong.
    :raises FactoryError: if the factory fails.
    """
    loader = EggLoader('PasteScript') if section.kind else section.loader
    context = loader.get_context(
        SERVER, section.kind or section.name, with_bus(section.vars, bus)
    )
    place = getattr(context, 'section', None)
    if section.listen:
        raise ConfigError(
            section.file,
            '--listen (listen in [wspbus:main]) works with waitress, Paste#http, cheroot, CherryPy and '
            'wsgiref only',
            section=place,
        )
    server = context.create()
    if not callable(server):
        raise FactoryError(
            section.file,
            f'{server!r} is not a server: it cannot be called',
            section=place,
        )
    name, runner = name_of_factory(context), runner_for(context.object)
    if runner is not None:
        return runner(server, name, context.local_conf)
    return BlockingServer(server, name)
