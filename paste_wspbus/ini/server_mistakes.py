"""The words for mistakes in [server:main]; only an error needs this module."""

from __future__ import annotations

from paste_wspbus.errors import ConfigError, FactoryError
from paste_wspbus.ini.factories import SERVER, at_place, one_line
from paste_wspbus.ini.hints import no_package
from paste_wspbus.ini.settings import DEFAULTS, SETTINGS

TYPE_CHECKING = False
if TYPE_CHECKING:
    from paste_wspbus.errors import SettingError
    from paste_wspbus.ini.server import ServerSection


def in_import(server: ServerSection, error: Exception) -> ConfigError:
    """Return the error for the package of a server that cannot be imported.

    :returns: a FactoryError if the package is there.
    """
    file, section = server.file, None
    if file and not server.kind:
        section = server.loader.find_config_section(SERVER, server.name)
    key = 'use' if section else None
    if isinstance(error, ModuleNotFoundError):
        problem = no_package(str(error.name).partition('.')[0])
        return ConfigError(file, problem, section=section, key=key)
    problem = f'this server cannot be imported: {one_line(error)}{at_place(error)}'
    return FactoryError(file, problem, section=section, key=key)


def in_setting(
    file: str | None, section: str | None, error: SettingError
) -> ConfigError:
    """Return the error for a setting of a server, with the file and the section."""
    problem, _, meant = error.problem.partition(';')
    is_main = error.key in SETTINGS and error.key not in DEFAULTS
    if is_main and problem.endswith(' setting'):
        meant = ' it is a key of [wspbus:main]'
    problem += f';{meant}' if meant else ''
    return ConfigError(file, problem, section=section, key=error.key)
