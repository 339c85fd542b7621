"""The plugins that [wspbus:main] lists: in each worker, in the site, in all machines."""

from __future__ import annotations

from paste_wspbus.errors import ConfigError
from paste_wspbus.ini.factories import SERVER
from paste_wspbus.ini.settings import PLUGINS, section_of
from paste_wspbus.values import nearest, value_hint

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from paste_wspbus.ini.config import Config
    from paste_wspbus.ini.file import ConfigLoader
    from paste_wspbus.servers.server import Server


#: The package of the server whose own workers run cluster plugins: see `hosts.leased`.
GUNICORN = 'gunicorn.'

#: The names in ``bus.plugins`` that no section may have, because a site needs these
#: plugins; each with the end of the message.
OWN = {
    'requests': '',
    'signals': ', or set the key signals, which replaces the default plugin',
}


def check_plugins(loader: ConfigLoader, section: str, settings: dict[str, Any]) -> None:
    """Check that each plugin that [wspbus:main] lists is listed once, and has a section.

    :raises ConfigError: if one is not, has none, or has a name that it cannot have.
    """
    known = [
        one.partition(':')[2].strip()
        for one in loader.parser.sections()
        if one.startswith('plugin:')
    ]
    seen: dict[str, str] = {}
    for key in PLUGINS:
        names = settings[key]
        for name in names:
            if names.count(name) > 1:
                problem = f'the plugin {name} is listed twice'
            elif (other := seen.setdefault(name, key)) != key:
                problem = f'the plugin {name} is also listed in {other}'
                problem += ': to have it in both, write a second section'
            elif name not in known:
                from paste_wspbus.ini.hints import indented  # only an error needs it

                line = indented(loader.value(section, key))
                hint = f'; {line}' if line else nearest(name, known)
                hint = hint or value_hint(f' {name}')
                problem = f'there is no section [plugin:{name}]{hint}'
            elif ':' in name or '#' in name:  # PasteDeploy reads them as parts of a URI
                problem = f'{name!r} cannot be the name of a plugin: it has a : or #'
            elif name in OWN:
                problem = f'the name {name} is taken by wspserve: choose another one'
                problem += OWN[name]
            else:
                continue
            raise ConfigError(loader.filename, problem, section=section, key=key)


def check_cluster_plugins(
    config: Config, workers: int, server: Server | None, name: str | None
) -> None:
    """Refuse cluster plugins in a site without workers of wspserve, or of gunicorn.

    :param workers: the number of workers of wspserve.
    :param server: the server; None if it is none of `servers.registry`.
    :param name: ``[server:NAME]`` instead of ``[server:main]``.
    :raises ConfigError: if it has none.
    """
    if workers or not config.settings['cluster_plugins']:
        return
    factory = config.loader.factory_name(SERVER, name) or ''
    if server is None and factory.startswith(GUNICORN):
        return
    raise ConfigError(
        config.loader.filename,
        'these plugins need a process of their own, which a supervisor can end in time: set '
        'workers = 1',
        section=section_of(config.loader),
        key='cluster_plugins',
    )


def is_clustered(config: Config) -> bool:
    """Whether the .ini has cluster plugins, or a section [cluster:main]."""
    if config.file is None:
        return False
    sections = config.loader.parser.sections()
    has_section = any(one in sections for one in ('cluster:main', 'cluster'))
    return has_section or bool(config.settings['cluster_plugins'])
