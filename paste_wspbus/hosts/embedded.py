"""The embedded bus: the bus of a process whose server makes none."""

from __future__ import annotations

import os
import sys
import threading
from importlib import import_module

from paste_wspbus.bus import Bus
from paste_wspbus.bus.interrupts import threads_are_greenlets
from paste_wspbus.hosts import EMBEDDED
from paste_wspbus.hosts.site import HostedSite, Program, plug_in, stand_down
from paste_wspbus.ini.config import Config, Site
from paste_wspbus.reference import KEY

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

#: From a module that only the processes of one server have to the module here that knows
#: this server: its ``this_host()`` returns the Host, or None if the server is not there.
SERVERS = {
    'uwsgi': 'uwsgi',
    'mod_wsgi': 'mod_wsgi',
    'paste_wspbus.hosts.gunicorn': 'gunicorn',
}


class Embedded(Program):
    """The Host for a server without a bus: a request starts the site, and `atexit` stops it."""

    def __init__(self) -> None:
        lacks = {'cluster'} if threads_are_greenlets() else set()
        promises = EMBEDDED.capabilities - lacks
        super().__init__(EMBEDDED.name, EMBEDDED.version, promises)


_site: HostedSite | None = None
#: The .ini files whose plugins the embedded bus has.
_files: set[str] = set()
_making = threading.RLock()


def bus_for(global_conf: Mapping[str, Any]) -> Bus:
    """Return the embedded bus, with the plugins of the .ini that ``global_conf`` names.

    :param global_conf: the ``global_conf`` that PasteDeploy passes to a factory.
    :raises ConfigError: if [wspbus:main] of that .ini is wrong.
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
    """Read the .ini that ``global_conf`` names; None if there is none or it was read before."""
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
    host: Program = Embedded()
    for name in SERVERS:
        if name in sys.modules:
            module = import_module(f'paste_wspbus.hosts.{SERVERS[name]}')
            host = module.this_host() or Embedded()
    stand_down(bus, host)
    site = HostedSite(Site(config.file if config else None, bus, None))
    host.take(site)
    return site


def _plug_in(site: HostedSite, config: Config) -> None:
    if 'sitelog' not in site.bus.plugins:
        plug_in(site.bus, config, 'paste_wspbus')
    site.add_plugins(config)
    _files.add(os.path.realpath(str(config.file)))
