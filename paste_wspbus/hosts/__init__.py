"""The hosts: the programs that can own the process of a site. Each has a module here.

Every bus has a Host: wspserve, Apache's mod_wsgi, gunicorn, uWSGI, zdaemon, or the
embedded bus if there is no other. ``bus.host.capabilities`` says what the host promises,
and a component calls `require` to refuse a host that lacks what it needs. The convention
is in docs/wsgi-lifecycle.md, the class `Host` in `paste_wspbus.bus.host`. In the process
of another program, `paste_wspbus.hosts.site.compose` makes the site.
"""

from __future__ import annotations

from paste_wspbus.bus.host import (
    CAPABILITIES,
    EMBEDDED,
    OWN,
    TESTING,
    WSPSERVE,
    Host,
    host_of,
)
from paste_wspbus.bus.promises import HostCannot, require

__all__ = [
    'CAPABILITIES',
    'EMBEDDED',
    'OWN',
    'TESTING',
    'WSPSERVE',
    'Host',
    'HostCannot',
    'host_of',
    'require',
]
