"""How a process hands its inheritance to another process, over a Unix socket."""

from __future__ import annotations

import json
import os
import socket

from paste_wspbus.errors import BindError
from paste_wspbus.listening.passed import received
from paste_wspbus.process.inheritance import Inheritance
from paste_wspbus.process.inherited_fields import is_origin

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

    from paste_wspbus.listening.sockets import ListeningSocket

#: The number of descriptors that sendmsg(2) takes (SCM_MAX_FD).
MAX_DESCRIPTORS = 253


def send(inheritance: Inheritance, connection: socket.socket) -> None:
    """Send the sockets and the PID file to another process (SCM_RIGHTS, unix(7)).

    The other process opens its own control socket: from a descriptor, it could not
    know which clients can connect to it.
    """
    fields: dict[str, Any] = {
        'where': inheritance.where,
        'sockets': len(inheritance.sockets),
        'origins': inheritance.origins,
        'pid_file': inheritance.pid_file is not None,
        'control': False,  # earlier versions handed it over
        'owned': inheritance.owned,
    }
    fds = [
        *inheritance.sockets,
        *([] if inheritance.pid_file is None else [inheritance.pid_file]),
    ]
    socket.send_fds(connection, [json.dumps(fields).encode()], fds)


def receive(connection: socket.socket) -> Inheritance | None:
    """Wait for the inheritance from the other process; None if it hands nothing over.

    Its descriptors are not checked yet. Its text is not trusted: it only says which
    descriptor is which.
    """
    text, fds, _, _ = socket.recv_fds(connection, 65536, MAX_DESCRIPTORS)
    for fd in fds:
        os.set_inheritable(fd, False)
    try:
        fields = json.loads(text)
        # Without 'sockets', it is an error: the site does not stop, or hands over to
        # another process.
        count = fields['sockets']
        if type(count) is not int or count < 0:
            raise TypeError(count)
        files = [fields[key] is True for key in ('pid_file', 'control')]
        if len(fds) != count + sum(files):
            raise ValueError(count)
    except (ValueError, LookupError, TypeError, RecursionError):
        for fd in fds:
            os.close(fd)
        return None
    if files[1]:
        os.close(fds.pop())
    pid_file = fds.pop() if files[0] else None
    came = Inheritance({}, fds, pid_file, owned=fields.get('owned') is True)
    origins = fields.get('origins')
    if isinstance(origins, list) and all(map(is_origin, origins)):
        came.origins = [(labels, None) for labels, _ in origins]
    came.came_from_another = True
    return came


def received_sockets(
    inheritance: Inheritance, fds: list[int], origins: list[Any]
) -> Iterator[ListeningSocket]:
    """Yield the listening sockets among descriptors that another process has sent.

    The others are closed, and ``inheritance.rejected`` gets the reason.

    :param origins: see `Inheritance`.
    """
    for fd, (labels, _) in zip(fds, origins, strict=True):
        try:
            yield received(fd, owned=inheritance.owned and not labels, labels=labels)
        except BindError as error:
            inheritance.rejected.append(error.reason)
