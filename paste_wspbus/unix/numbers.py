"""Descriptors of ours keep off 0, 1 and 2, also if the site has closed these."""

from __future__ import annotations

import os

from paste_wspbus.streams import fill_numbers

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

TYPE_CHECKING = False
if TYPE_CHECKING:
    import socket


def copy_above(fd: int) -> int:
    """Return a copy of a descriptor with a number above 2, also if 0, 1 or 2 is free."""
    if fcntl is None:
        return os.dup(fd)
    return fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 3)


def lift(fd: int) -> int:
    """Return a descriptor with a number above 2; if the site has closed 0, 1 or 2, fill them.

    :param fd: is closed if its number is one of these.
    :raises OSError: if no descriptor is free.
    """
    if fd > 2:
        return fd
    try:
        return copy_above(fd)
    finally:
        os.close(fd)
        fill_numbers()


def above(sock: socket.socket) -> socket.socket:
    """Return a socket with a number above 2: what the site prints must not go to a client.

    :param sock: is closed if it has another number: see `lift`.
    :raises OSError: if no descriptor is free.
    """
    if sock.fileno() > 2:
        return sock
    timeout = sock.gettimeout()
    copy = type(sock)(fileno=lift(sock.detach()))
    copy.settimeout(timeout)
    return copy
