"""The Web Site Process Bus for PasteDeploy sites, and the names that sites use most."""

TYPE_CHECKING = False
if TYPE_CHECKING:
    from paste_wspbus.bus import Bus, ChannelFailures, State
    from paste_wspbus.handoff import get_bus
    from paste_wspbus.hosts import require
    from paste_wspbus.plugins import Plugin, on

__all__ = ['Bus', 'ChannelFailures', 'Plugin', 'State', 'get_bus', 'on', 'require']

#: The room of each public name. A name is imported when it is first used (PEP 562), so
#: that the import of one module of this package does not import all the others.
_ROOMS = {
    'Bus': 'bus',
    'ChannelFailures': 'bus',
    'Plugin': 'plugins',
    'State': 'bus',
    'get_bus': 'handoff',
    'on': 'plugins',
    'require': 'hosts',
}

if not TYPE_CHECKING:  # otherwise type checkers would accept any name

    def __getattr__(name):
        """Import a public name.

        :raises AttributeError: if the name is not a public name.
        """
        if name not in _ROOMS:
            raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
        from importlib import import_module

        found = getattr(import_module(f'{__name__}.{_ROOMS[name]}'), name)
        globals()[name] = found
        return found


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
