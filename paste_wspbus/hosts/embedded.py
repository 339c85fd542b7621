"""The last resort: the bus of a process whose server knows of none, one per process."""

from __future__ import annotations

import os
import sys
import threading
from importlib import import_module

from paste_wspbus.bus import Bus
from paste_wspbus.handoff import KEY
from paste_wspbus.hosts import EMBEDDED
from paste_wspbus.hosts.site import HostedSite, plug_in, stand_down
from paste_wspbus.loader import Config, Site

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

#: Modules that only these servers' processes have, and the module here that knows the
#: server: ``this_host()`` is its Host, or None where it is another thing of that name;
#: ``take(site)`` gives it the HostedSite, to start and stop by the server's own events.
SERVERS = {
    'uwsgi': 'uwsgi',
    'mod_wsgi': 'mod_wsgi',
    'paste_wspbus.hosts.gunicorn': 'gunicorn',
}

_site: HostedSite | None = None
#: The .ini files whose plugins ride it.
_files: set[str] = set()
_making = threading.RLock()


def bus_for(global_conf: Mapping[str, Any]) -> Bus:
    """The embedded bus, with the plugins of the .ini that ``global_conf`` names.

    :raises ConfigError: if [wspbus:main] is wrong there.
    :raises FactoryError: if a factory of a plugin fails.
    """
    global _site
    with _making:
        config = _config(global_conf)
        site = _site or _make(config)
        if config is not None:
            _plug_in(site, config)
        _site = site
        return site.bus


def _config(global_conf: Mapping[str, Any]) -> Config | None:
    """That of an .ini that was not seen yet."""
    file = global_conf.get('__file__')
    if not isinstance(file, str) or os.path.realpath(file) in _files:
        return None
    if not os.path.isfile(file):
        return None
    own = ('here', '__file__', KEY)
    vars = {key: str(value) for key, value in global_conf.items() if key not in own}
    return Config(f'config:{file}', vars, os.getcwd())


def _make(config: Config | None) -> HostedSite:
    bus = Bus() if config is None else config.make_bus()
    host, module = EMBEDDED, None
    for name in SERVERS:
        if name in sys.modules:
            module = import_module(f'paste_wspbus.hosts.{SERVERS[name]}')
            host = module.this_host() or EMBEDDED
    stand_down(bus, host)
    site = HostedSite(Site(config.file if config else None, bus, None))
    if module is not None and host is not EMBEDDED:
        module.take(site)
    return site


def _plug_in(site: HostedSite, config: Config) -> None:
    if 'sitelog' not in site.bus.plugins:
        plug_in(site.bus, config, 'paste_wspbus')
    site.add_plugins(config)
    _files.add(os.path.realpath(str(config.file)))
