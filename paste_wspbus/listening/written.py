"""Addresses as ``--listen`` writes them: HOST:PORT, unix:PATH, fd://N, fd://NAME."""

from __future__ import annotations

from paste_wspbus.errors import SettingError
from paste_wspbus.listening.addresses import (
    has_port,
    parse_mode,
    parse_port,
)
from paste_wspbus.listening.interfaces import check_interface
from paste_wspbus.values import boolean, split_list, value_hint

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any


class Address:
    """What a value of ``--listen`` says.

    ``kind`` is 'tcp', 'unix' or 'fd'. ``place`` is a host, a path (that of an abstract
    socket begins with a zero byte), or the text behind fd://. ``mode`` and ``group`` are
    those of the file of a Unix socket. ``ipv6only`` says whether [::] accepts IPv6 only.
    What the value does not say is None.
    """

    def __init__(
        self,
        kind: str,
        place: str,
        port: int = 0,
        mode: int | None = None,
        group: str | None = None,
        ipv6only: bool | None = None,
    ) -> None:
        self.kind, self.place, self.port = kind, place, port
        self.mode, self.group, self.ipv6only = mode, group, ipv6only


#: What may follow a question mark, for each kind of address.
_OPTIONS: dict[str, dict[str, Callable[[str], Any]]] = {
    'unix': {'mode': parse_mode, 'group': str},
    'tcp': {'ipv6only': boolean},
    'fd': {},
}

#: The descriptions of the values of these options, for messages.
_WANTED = {
    'mode': 'the mode of a file (octal, such as 660)',
    'ipv6only': 'true or false',
}


def parse_address(text: str, key: str = '--listen', takes_fd: bool = True) -> Address:
    """Read a value of ``--listen``.

    :param key: the option or setting that has this value.
    :param takes_fd: whether it may be a descriptor.
    :raises SettingError: if ``text`` is none of HOST:PORT, unix:PATH, fd://N, fd://NAME.
    """
    where, question, query = text.partition('?')
    kind = next((one for one in ('unix', 'fd') if where.startswith(f'{one}:')), 'tcp')
    options = _options(text, kind, query, key) if question else {}
    place = where.removeprefix(f'{kind}:').removeprefix('//')
    if kind == 'unix':
        return Address(kind, _path(text, place, key), **options)
    if kind == 'fd' and takes_fd:
        if not place:
            raise SettingError(
                key,
                f'{text!r}: fd:// takes the number of a descriptor, or the name of a '
                'socket that systemd passes',
            )
        return Address(kind, place)
    host, colon, port = where.rpartition(':')
    if (not colon and not where.isdigit()) or '/' in where:
        forms = 'none of HOST:PORT, unix:PATH, fd://N, fd://NAME'
        if not takes_fd:
            forms = 'neither HOST:PORT nor unix:PATH'
        raise SettingError(key, f'{text!r} is {forms}{_hint(where, key, takes_fd)}')
    host = _host(text, host, key)
    return Address(kind, host, parse_port(port, key), **options)


def _path(text: str, place: str, key: str) -> str:
    if not place.strip('@'):  # the system would choose a name, unix(7)
        raise SettingError(key, f'{text!r} has no path')
    return f'\0{place[1:]}' if place.startswith('@') else place


def _host(text: str, host: str, key: str) -> str:
    if host.startswith('[') and host.endswith(']'):
        host = host[1:-1]
    elif '[' in host or ']' in host:
        raise SettingError(key, f'{text!r} has no pair of brackets')
    if not {*', \t\n'}.isdisjoint(host):
        problem = f'{text!r} is more than one address'
        hint = 'write --listen before each of them'
        raise SettingError(key, f'{problem}; {hint}' if key == '--listen' else problem)
    host = host or '127.0.0.1'
    check_interface(host, key)
    return host


def _hint(where: str, key: str, takes_fd: bool) -> str:
    """Return a hint for the end of a message: a URL or a path as an address, or ''."""
    scheme, slashes, rest = where.rpartition('://')
    rest = rest.rstrip('/')
    if rest.startswith('/'):
        rest = f'unix:{rest}'
    elif not slashes or scheme == 'fd':
        return ''
    try:
        parse_address(rest, key, takes_fd)
    except SettingError:
        return f'; write HOST:PORT, without {scheme}://' if scheme else ''
    return f'; write {rest}'


def addresses(text: str) -> list[str]:
    """Read values of ``--listen`` with spaces, lines or commas between them.

    :raises SettingError: if one is wrong, or is there twice.
    """
    found = split_list(text)
    for number, word in enumerate(found):
        parse_address(word, 'listen')
        if word in found[:number]:
            raise SettingError('listen', f'{word!r} is listed twice')
    return found


def _options(text: str, kind: str, query: str, key: str) -> dict[str, Any]:
    known, found = _OPTIONS[kind], {}
    for pair in query.split('&'):
        name, equals, value = pair.partition('=')
        if name not in known or not equals:
            takes = ', '.join(f'{one}=' for one in known) or 'nothing'
            raise SettingError(key, f'{text!r}: {takes} may follow the question mark')
        try:
            found[name] = known[name](value)
        except ValueError:
            raise SettingError(
                key, f'{text!r}: {value!r} is not {_WANTED[name]}'
            ) from None
    return found


def host_hint(text: str) -> str:
    """Return a hint for the end of a message: what may be meant by a wrong host, or ''."""
    if not text:
        return '; write 127.0.0.1 for this machine alone, or 0.0.0.0 for all networks'
    if text.startswith('unix:'):
        return '; write unix_socket = PATH, without host and port'
    if '://' in text:
        return '; write it without the scheme; the port has a key of its own'
    if has_port(text):
        return '; the port has a key of its own'
    return value_hint(text)
