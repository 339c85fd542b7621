"""What the command prints with ``log_format = json``."""

from __future__ import annotations

from paste_wspbus.command import terminal
from paste_wspbus.ini.logging import load_json

TYPE_CHECKING = False
if TYPE_CHECKING:
    from paste_wspbus.ini.config import Config


def use_json(config: Config, prints: bool) -> None:
    """Check that JSON can be made, and let the command print it from now on.

    :param prints: whether it prints for a log, and not only for people.
    :raises ConfigError: if python-json-logger is not installed.
    """
    made = load_json(config).one_object
    if prints:
        terminal.as_json = made
