"""``needs`` and ``after`` in [plugin:NAME]: which plugins start before this one."""

from __future__ import annotations

from paste_wspbus.bus.needs import in_order
from paste_wspbus.errors import ConfigError, NeedError, WSPBusError
from paste_wspbus.ini.plugins import NEEDS
from paste_wspbus.ini.settings import PLUGINS
from paste_wspbus.values import nearest, split_list

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    from paste_wspbus.ini.composing import Site
    from paste_wspbus.ini.file import ConfigLoader

#: From each plugin to what it needs, and after what it starts.
Wishes = dict[str, tuple[tuple[str, ...], tuple[str, ...]]]


def read_wishes(loader: ConfigLoader, settings: Mapping[str, Any]) -> Wishes:
    """Read what each plugin that [wspbus:main] lists needs, and check it.

    :returns: {} if none names another one.
    :raises ConfigError: if a need is no plugin of this process, or there is a circle; the
        error names both sections.
    """
    wishes: Wishes = {}
    for key in reversed(PLUGINS):
        for name in settings[key]:
            section = section_of(loader, name)
            own = loader.parser._sections[section]
            needs, after = (
                tuple(split_list(loader.value(section, one))) if one in own else ()
                for one in NEEDS
            )
            for need in needs:
                _check(loader, settings, key, section, need)
            wishes[name] = needs, after
    try:
        in_order(wishes)
    except NeedError as error:
        # In a circle, the way begins with the plugin that this one names.
        is_need = error.need.partition(' ')[0] in wishes[error.name][0]
        key, verb = ('needs', 'it needs') if is_need else ('after', 'it starts after')
        raise ConfigError(
            loader.filename,
            f'{verb} {error.need}: {error.why}',
            section=section_of(loader, error.name),
            key=key,
        ) from None
    return wishes if any(map(any, wishes.values())) else {}


def in_its_section(site: Site, error: NeedError) -> WSPBusError:
    """Return the error of a start with the section of its plugin, if it is one's."""
    if error.name not in site.plugins:
        return error
    problem = f'it needs {error.need}: {error.why}'
    section = f'plugin:{error.name}'
    return ConfigError(site.file, problem, section=section, key='needs')


def section_of(loader: ConfigLoader, name: str) -> str:
    """Return the full name of a plugin's section, as the .ini has it."""
    found: str = next(
        one
        for one in loader.parser.sections()
        if one.startswith('plugin:') and one.partition(':')[2].strip() == name
    )
    return found


def _check(
    loader: ConfigLoader,
    settings: Mapping[str, Any],
    key: str,
    section: str,
    need: str,
) -> None:
    if need in settings[key]:
        return
    other = next((one for one in PLUGINS if need in settings[one]), None)
    if other is not None:
        problem = f'[plugin:{need}] is in {other}, which another process may run'
    elif any(one == f'plugin:{need}' for one in loader.parser.sections()):
        problem = f'[plugin:{need}] is not listed in {key} of [wspbus:main]'
    else:
        hint = nearest(need, settings[key])
        problem = f'there is no section [plugin:{need}]{hint}'
    raise ConfigError(loader.filename, problem, section=section, key='needs')
