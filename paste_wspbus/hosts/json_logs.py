"""``log_format = json`` in a process that another program owns."""

from __future__ import annotations

import logging

from paste_wspbus.hosts import host_of
from paste_wspbus.ini.logging import JSON, load_json

TYPE_CHECKING = False
if TYPE_CHECKING:
    from paste_wspbus.bus import Bus
    from paste_wspbus.ini.config import Config


def begin(bus: Bus, config: Config, owns_log: bool) -> None:
    """Let the log be JSON, or warn that the host decides how its lines look.

    :param owns_log: whether the .ini decides that. Its logging sections were read before;
        if it has none, a handler of this package writes to standard error, unless the
        process has a handler already.
    :raises ConfigError: if python-json-logger is not installed.
    """
    if not owns_log:
        bus.log(
            f'log_format = json does nothing here, because {host_of(bus)} makes the lines '
            f'of the log. A formatter that has the class {JSON} makes JSON anywhere',
            logging.WARNING,
        )
        return
    json_log = load_json(config)
    root = logging.getLogger()
    if not root.handlers:
        from paste_wspbus.plugins.sitelog import Console
        from paste_wspbus.requests.records import add_request_ids

        add_request_ids()
        handler = Console()
        handler.setFormatter(json_log.JsonFormatter())
        root.addHandler(handler)
        logging.getLogger('paste_wspbus').setLevel(logging.INFO)
    json_log.begin(bus.plugins['sitelog'])
