"""What the command prints with ``log_format = json``."""

from __future__ import annotations

from paste_wspbus.command import terminal
from paste_wspbus.errors import ConfigError
from paste_wspbus.ini.settings import section_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from paste_wspbus.ini.config import Config


def use_json(config: Config, prints: bool) -> None:
    """Check that JSON can be made, and let the command print it from now on.

    :param prints: whether it prints for a log, and not only for people.
    :raises ConfigError: if python-json-logger is not installed.
    """
    try:
        from paste_wspbus.plugins.json_log import one_object
    except ModuleNotFoundError as error:
        if (error.name or '').partition('.')[0] != 'pythonjsonlogger':
            raise
        how = "pip install 'paste_wspbus[json]'"
        problem = f'json needs python-json-logger 3 or newer: {how}'
        section = section_of(config.loader)
        raise ConfigError(
            config.file, problem, section=section, key='log_format'
        ) from None
    if prints:
        terminal.as_json = one_object
