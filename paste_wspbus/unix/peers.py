"""Which process is at the other end of a Unix socket, unix(7): the system says it."""

from __future__ import annotations

import socket
import struct


def peer_of(sock: socket.socket) -> tuple[int, int] | None:
    """Return the process ID and the user of the other end, which cannot lie.

    That is the process which has called connect(2), listen(2) or socketpair(2), also if it
    has ended since. The ID is 0 if the process is in another container.

    :returns: None if the system does not say it: only Linux does.
    :raises OSError: if the socket is closed.
    """
    if not hasattr(socket, 'SO_PEERCRED'):
        return None
    form = 'iII'  # struct ucred: the process, its user, its group
    size = struct.calcsize(form)
    said = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, size)
    pid, user, _ = struct.unpack(form, said)
    return pid, user
