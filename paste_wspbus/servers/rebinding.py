"""Unix sockets whose file is gone are bound anew."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from paste_wspbus.listening.sockets import ListeningSocket
    from paste_wspbus.servers.server import Server


def bind_anew(server: Server) -> list[ListeningSocket]:
    """Bind the Unix sockets anew whose file is gone, or belongs to another process now.

    :returns: the sockets that no client can reach; the caller must close them.
    :raises BindError: if the server cannot bind them; then nothing has changed.
    """
    before = server.sockets
    lost = [one for one in before if not one.is_reachable]
    if lost:
        server.sockets = []
        try:
            server.bind(one for one in before if one not in lost)
        except BaseException:
            server.sockets = before
            raise
    return lost
