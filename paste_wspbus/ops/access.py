"""Who may see what: the checks of a request before any page is made."""

from __future__ import annotations

import hmac
import ipaddress
from typing import NamedTuple

TYPE_CHECKING = False
if TYPE_CHECKING:
    from paste_wspbus.ops.requests import Request


class Refusal(NamedTuple):
    """Why a request gets no page: a status, a line, and further headers."""

    status: int
    why: str
    headers: tuple[tuple[str, str], ...] = ()


class Access(NamedTuple):
    """What the .ini allows.

    ``token`` is ``ops_token``, '' if there is none; ``hosts`` are the names that a Host
    header may have; ``pages`` says whether everybody who reaches the TCP address, which is
    a loopback address then, sees all pages.
    """

    token: str = ''
    hosts: frozenset[str] = frozenset()
    pages: bool = False

    def refuse(self, request: Request) -> Refusal | None:
        """Return why a request is refused, whichever page it asks for; None if it is not."""
        if request.method not in ('GET', 'HEAD'):
            return Refusal(405, 'only GET and HEAD', (('Allow', 'GET, HEAD'),))
        if not (request.is_local_socket or self._is_known(request.host)):
            return Refusal(421, 'ops_hosts in [wspbus:main] does not have this host')
        return None

    def _is_known(self, host: str | None) -> bool:
        """Whether a Host header names this listener.

        A page of another site, whose name leads to this address, could otherwise read
        what is here with the browser of somebody who can reach it (DNS rebinding). Browsers
        always send the header.
        """
        if host is None:
            return True
        name = _without_port(host).lower().rstrip('.')
        if name == 'localhost' or name in self.hosts:
            return True
        try:
            ipaddress.ip_address(name.strip('[]'))
        except ValueError:
            return False
        return True

    def sees_all(self, request: Request) -> bool:
        """Whether a request may see the pages that say more than yes or no."""
        if request.is_local_socket or self.pages:
            return True
        kind, _, token = (request.authorization or '').partition(' ')
        if not self.token or kind.lower() != 'bearer':
            return False
        given = token.strip().encode('utf-8', 'surrogateescape')
        return hmac.compare_digest(given, self.token.encode())

    def demand(self) -> Refusal:
        """Return the answer for somebody who may not see a page."""
        if self.token:
            more = (('WWW-Authenticate', 'Bearer'),)
            return Refusal(401, 'this page takes the ops_token', more)
        return Refusal(
            403,
            'this page is shown at ops = unix:PATH, or with ops_token, or with '
            'ops_pages = true at a loopback address',
        )


def _without_port(host: str) -> str:
    if host.startswith('['):
        return host.partition(']')[0] + ']'
    return host.partition(':')[0]
