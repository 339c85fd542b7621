"""The keys of the ops listener: what each accepts."""

from __future__ import annotations

import re

from paste_wspbus.errors import SettingError
from paste_wspbus.listening.written import parse_address
from paste_wspbus.values import split_list

#: A Bearer token, without its padding (RFC 6750, section 2.1), of a length that nobody guesses.
_TOKEN = re.compile(r'[A-Za-z0-9._~+/-]{16,}=*')

#: A host name as it stands in a Host header, without the port.
_HOST = re.compile(r'[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?')


def addresses(text: str, key: str = 'ops') -> list[str]:
    """Read the values of ``ops``: HOST:PORT and unix:PATH.

    :param key: the key or option that has them.
    :raises SettingError: if one is neither.
    """
    words = split_list(text)
    for number, word in enumerate(words):
        parse_address(word, key, takes_fd=False)
        if word in words[:number]:
            raise SettingError(key, f'{word!r} is listed twice')
    return words


def token(text: str) -> str:
    """Read ``ops_token``.

    :raises SettingError: if it is no token; the message does not show it.
    """
    word = text.strip()
    if not _TOKEN.fullmatch(word):
        problem = (
            'it is empty'
            if not word
            else 'it must have 16 characters or more, of A-Z a-z 0-9 . _ ~ + / -'
        )
        raise SettingError('ops_token', problem)
    return word


def hosts(text: str) -> list[str]:
    """Read ``ops_hosts``: the names that a Host header may have.

    :raises SettingError: if one cannot be the name of a host.
    """
    words = split_list(text)
    for word in words:
        if not _HOST.fullmatch(word):
            problem = f'{word!r} is not the name of a host, without a port'
            raise SettingError('ops_hosts', problem)
    return [word.lower() for word in words]
