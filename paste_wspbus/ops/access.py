"""Who may see which page: the checks of a request before a page is made."""

from __future__ import annotations

import base64
import contextlib
import hmac
import ipaddress
from typing import NamedTuple

TYPE_CHECKING = False
if TYPE_CHECKING:
    from paste_wspbus.ops.requests import Request


#: Two headers: browsers do not read two schemes in one.
_CHALLENGES = (
    ('WWW-Authenticate', 'Bearer'),
    ('WWW-Authenticate', 'Basic realm="ops", charset="UTF-8"'),
)


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
        if not self._is_known(request.host):
            return Refusal(421, 'ops_hosts in [wspbus:main] does not have this host')
        return None

    def _is_known(self, host: str | None) -> bool:
        """Whether a Host header names this listener.

        A page of another site, whose name leads to this address, could otherwise read
        what is here with the browser of somebody who can reach it (DNS rebinding); ssh -L
        makes that possible also with a Unix socket. Browsers always send the header.
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
        """Whether a request may see the pages that show more than yes or no."""
        if request.is_local_socket or self.pages:
            return True
        given = _token_of(request.authorization or '')
        return bool(self.token) and hmac.compare_digest(given, self.token.encode())

    def demand(self) -> Refusal:
        """Return the answer to a client that may not see a page."""
        if self.token:
            return Refusal(401, 'this page takes the ops_token', _CHALLENGES)
        return Refusal(
            403,
            'this page is shown at ops = unix:PATH, or with ops_token, or with '
            'ops_pages = true at a loopback address',
        )


def _token_of(authorization: str) -> bytes:
    """Return what an Authorization header gives as a token.

    Programs send it as Bearer. A browser asks its user, and sends it as the password of
    Basic, with any name (RFC 7617).
    """
    kind, _, given = authorization.partition(' ')
    token = given.strip().encode('utf-8', 'surrogateescape')
    if kind.lower() == 'bearer':
        return token
    if kind.lower() == 'basic':
        with contextlib.suppress(ValueError):
            return base64.b64decode(token, validate=True).partition(b':')[2]
    return b''


def _without_port(host: str) -> str:
    if host.startswith('['):
        return host.partition(']')[0] + ']'
    return host.partition(':')[0]
