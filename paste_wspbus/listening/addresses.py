"""Hosts and ports to listen on: reading them from text, and resolving host names."""

from __future__ import annotations

import socket

from paste_wspbus.errors import BindError, SettingError
from paste_wspbus.values import split_list, value_hint

#: sun_path has 108 bytes, of which the last one is zero: unix(7).
UNIX_PATH_MAX = 107


def parse_mode(text: str) -> int:
    """Read the permissions of a file, such as 660.

    :raises ValueError: if they are not an octal number up to 777.
    """
    mode = int(text, 8)
    if not 0 <= mode <= 0o777:
        raise ValueError(text)
    return mode


def parse_port(text: str | int, key: str = 'port') -> int:
    """Read a port number.

    :raises SettingError: if ``text`` is not a number from 0 to 65535.
    """
    word = str(text).strip()
    port = int(word) if word.isascii() and word.isdigit() and len(word) < 6 else -1
    if not 0 <= port <= 65535:
        problem = f'{text!r} is not a port: a number from 0 to 65535'
        raise SettingError(key, f'{problem}{value_hint(str(text))}')
    return port


def parse_host(text: str) -> str:
    """Return the text, unless it cannot be a host name: then raise SettingError.

    An empty text is none: to some servers it means all addresses of the machine, to others
    127.0.0.1.
    """
    if len(text.split()) != 1 or has_port(text) or not {*'/"\','}.isdisjoint(text):
        from paste_wspbus.listening.written import host_hint

        problem = f'{text!r} is not a host name or address'
        raise SettingError('host', f'{problem}{host_hint(text)}')
    if ':' in text:
        from paste_wspbus.listening.interfaces import check_interface

        check_interface(text, 'host')
    return text


def has_port(text: str) -> bool:
    """Whether a text is HOST:PORT."""
    name, colon, port = text.partition(':')  # an IPv6 address has more than one colon
    return bool(name and colon) and port.isdigit()


def split_listen(text: str) -> list[str]:
    """Return the addresses in a setting, with spaces, lines or commas between them.

    :raises SettingError: if there is none.
    """
    if not split_list(text):
        problem = 'this key has no value; write HOST:PORT, such as 127.0.0.1:8080'
        raise SettingError('listen', problem)
    return split_list(text)


#: A host and a port; of IPv6 also the flow and the number of the interface: ipv6(7).
SocketAddress = tuple[str, int] | tuple[str, int, int, int]


def resolve(
    host: str, port: int, family: int = socket.AF_UNSPEC
) -> list[tuple[int, SocketAddress]]:
    """Return the (family, address) pairs to listen on for a host name.

    :raises BindError: if the name does not resolve.
    """
    try:
        found = socket.getaddrinfo(
            # For a str, Python would load its IDNA tables, which takes a millisecond.
            host.encode() if host.isascii() else host,
            port,
            family,
            socket.SOCK_STREAM,
            socket.IPPROTO_TCP,
            socket.AI_PASSIVE,
        )
    except (socket.gaierror, UnicodeError) as error:
        said = getattr(error, 'strerror', None) or str(error)
        reason = f'the host name does not resolve ({said})'
        from paste_wspbus.listening.interfaces import missing_interface

        if missing := missing_interface(host):
            reason = f'this machine has no network interface {missing!r}'
        raise BindError(as_written((host, port)), reason) from None
    return [(entry[0], entry[4]) for entry in found]  # type: ignore[misc]


def as_written(address: SocketAddress) -> str:
    """Return an address as ``--listen`` takes it: 127.0.0.1:8080, [fe80::1%eth0]:8080."""
    host, port, *more = address
    if more and more[1]:
        from paste_wspbus.listening.interfaces import with_interface

        host = with_interface(host, int(more[1]))
    return f'[{host}]:{port}' if ':' in host else f'{host}:{port}'
