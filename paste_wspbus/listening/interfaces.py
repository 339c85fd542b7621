"""Network interfaces in IPv6 addresses: RFC 4007, fe80::1%eth0."""

from __future__ import annotations

import socket

from paste_wspbus.errors import SettingError


def check_interface(host: str, key: str) -> None:
    """Raise SettingError if a host is a link-local IPv6 address without its interface.

    Each interface has a network fe80::/10 of its own: RFC 4007, section 6.
    """
    first = host.strip('[]').lower().partition(':')[0]
    if len(first) != 4 or first[:3] not in ('fe8', 'fe9', 'fea', 'feb'):
        return
    if ':' in host and '%' not in host:
        # In an .ini a percent sign is doubled.
        sign = '%' if key.startswith('--') else '%%'
        problem = f'{host!r} is a link-local address, which needs its network interface'
        raise SettingError(key, f'{problem}: write it as {host.strip("[]")}{sign}eth0')


def missing_interface(host: str) -> str | None:
    """Return the interface in a host if this machine does not have it."""
    name = host.partition('%')[2]
    try:
        is_there = not name or name.isdigit() or bool(socket.if_nametoindex(name))
    except OSError:
        is_there = False
    return None if is_there else name


def with_interface(host: str, number: int) -> str:
    """Return a host with the name of an interface, or with its number if that is gone."""
    try:
        return f'{host}%{socket.if_indextoname(number)}'
    except OSError:
        return f'{host}%{number}'
