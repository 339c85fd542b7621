"""Adapts waitress as Plone's buildout recipe and waitress_fastlisten run it."""

from __future__ import annotations

import socket

from paste_wspbus.errors import SettingError
from paste_wspbus.servers.waitress import WaitressServer

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    from paste_wspbus.listening.sockets import ListeningSocket

#: The key for addresses that clients may connect to while the site is being loaded.
FAST = 'fast-listen'

#: A key that both servers want in the section, although its value is not used.
_UNUSED = 'paste.server_factory'


class FastListening(WaitressServer):
    """The adapter for ``use = egg:plone.recipe.zope2instance#main`` and its like.

    With ``fast-listen``, the server listens as soon as it has bound: who connects while
    Zope is loaded waits, and is not refused.
    """

    def __init__(self, conf: Mapping[str, str], global_conf: Mapping[str, Any]) -> None:
        own = {key: value for key, value in conf.items() if key != _UNUSED}
        addresses = own.pop(FAST, None)
        self._is_fast = addresses is not None
        if addresses is not None and 'listen_on' not in own:
            for key in ('listen', 'host', 'port', 'unix_socket'):
                if key in own:
                    raise SettingError(FAST, f'it cannot be set together with {key}')
            own['listen'] = addresses
        super().__init__(own, global_conf)

    def make_sockets(self) -> list[ListeningSocket]:
        """Return waitress's sockets; with ``fast-listen``, they listen."""
        sockets = super().make_sockets()
        if self._is_fast:
            for one in sockets:
                one.sock.listen(socket.SOMAXCONN)
        return sockets
