"""Socket activation: the listening sockets that systemd passes, sd_listen_fds(3)."""

from __future__ import annotations

import os
import socket
from typing import NamedTuple

from paste_wspbus.errors import BindError, UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import MutableMapping

#: SD_LISTEN_FDS_START, <systemd/sd-daemon.h>.
FIRST_FD = 3

#: The name that systemd gives to a socket without a name.
UNNAMED = 'unknown'


class Activated(NamedTuple):
    """A listening socket that was passed to this process.

    ``fd``: its descriptor, which stays open. ``name``: the unit's
    FileDescriptorName=, which is the socket unit's own name by default.
    """

    fd: int
    name: str


def activated(
    environ: MutableMapping[str, str] | None = None, pid: int | None = None
) -> list[Activated]:
    """Return the sockets that were passed to process ``pid``; [] if they are for another one.

    This removes LISTEN_PID, LISTEN_FDS and LISTEN_FDNAMES from ``environ``: children and
    servers that read these variables themselves must not see them. The descriptors are
    closed on exec.

    :param environ: os.environ if None.
    :param pid: the ID of this process if None.
    :raises UsageError: if a variable is malformed, or there are more or fewer
        names than descriptors.
    :raises BindError: if a descriptor is not a stream socket that listens.
    """
    environ = os.environ if environ is None else environ
    if not environ.get('LISTEN_PID'):
        return []
    if _number('LISTEN_PID', environ['LISTEN_PID']) != (pid or os.getpid()):
        return []
    del environ['LISTEN_PID']
    count_text = environ.pop('LISTEN_FDS', '0')
    names_text = environ.pop('LISTEN_FDNAMES', None)
    count = _number('LISTEN_FDS', count_text)
    if count > (limit := os.sysconf('SC_OPEN_MAX')):
        raise UsageError(
            f'LISTEN_FDS={_short(count_text)} is more than the {limit} descriptors '
            'that a process may have'
        )
    found = []
    for fd in range(FIRST_FD, FIRST_FD + count):  # _check raises if one is not open
        _check(fd, count)
        os.set_inheritable(fd, False)
        found.append(fd)
    names = [UNNAMED] * count if names_text is None else names_text.split(':')
    if len(names) != count:
        raise UsageError(
            f'LISTEN_FDNAMES={_short(names_text or "")} has {len(names)} names for the '
            f'{count} sockets of LISTEN_FDS'
        )
    return [Activated(fd, name) for fd, name in zip(found, names, strict=True)]


def _number(variable: str, text: str) -> int:
    try:
        if text.isdigit():
            return int(text)
    except ValueError:
        pass  # it is longer than sys.set_int_max_str_digits allows
    raise UsageError(f'{variable}={_short(text)} is not a number')


def _short(text: str) -> str:
    return text if len(text) < 40 else f'{text[:40]}…'


def _check(fd: int, count: int) -> None:
    address = f'descriptor {fd} of LISTEN_FDS={count}'
    try:
        sock = socket.socket(fileno=os.dup(fd))
    except OSError as error:
        raise BindError(address, error.strerror or str(error)) from None
    with sock:
        if sock.type != socket.SOCK_STREAM:
            raise BindError(address, 'it is not a stream socket')
        if not sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
            raise BindError(address, 'it does not listen')
