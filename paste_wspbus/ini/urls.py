"""The parts of a URL that names a service; it may have several hosts."""

from __future__ import annotations

import re
from typing import NamedTuple
from urllib.parse import unquote

#: RFC 3986, appendix B. `urllib.parse.urlsplit` refuses several hosts of IPv6.
_parts = re.compile(
    r'([a-z][a-z0-9+.-]*)://(?:([^/?#]*)@)?([^/?#]*)([^?#]*)', re.ASCII | re.IGNORECASE
).match


class Parts(NamedTuple):
    """The parts: texts, '' where the URL has none; ``user`` and ``password`` without %XX."""

    scheme: str = ''
    user: str = ''
    password: str = ''
    hosts: str = ''
    path: str = ''

    @property
    def shown(self) -> str:
        """The URL as messages show it: without user, password and query."""
        return f'{self.scheme}://{self.hosts}{self.path}'


def split(url: str) -> Parts:
    """Split a URL; a text that is none has no scheme."""
    match = _parts(url.strip())
    if match is None:
        return Parts()
    scheme, login, hosts, path = match.groups('')
    user, _, password = login.partition(':')
    return Parts(scheme.lower(), unquote(user), unquote(password), hosts, path)
