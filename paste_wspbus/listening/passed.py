"""Sockets that another process has bound: it has passed their descriptors to this one."""

from __future__ import annotations

import errno
import os
import socket

from paste_wspbus.errors import BindError, SettingError
from paste_wspbus.listening.sockets import ListeningSocket

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable


def inherited(number: int, labels: Iterable[str] = ()) -> ListeningSocket:
    """Return the socket of file descriptor ``number``, which another process has bound.

    :param labels: further names under which ``--listen`` knows it.
    :raises BindError: if it is not a stream socket.
    """
    try:
        # Use a copy: the number belongs to its owner, and must stay open.
        copy = os.dup(number)
        try:
            sock = socket.socket(fileno=copy)
        except OSError:
            os.close(copy)
            raise
        if sock.type != socket.SOCK_STREAM:
            sock.close()
            raise OSError(errno.EINVAL, 'it is not a stream socket')
    except (OSError, OverflowError) as error:
        reason = getattr(error, 'strerror', None) or 'there is no such descriptor'
        raise BindError(f'fd://{number}', reason) from None
    return ListeningSocket(sock, owned=False, labels=[f'fd://{number}', *labels])


def take(place: str, offered: list[ListeningSocket], key: str) -> list[ListeningSocket]:
    """Return the sockets for fd://N or fd://NAME, and remove them from ``offered``.

    :param place: the number or the name.
    :param offered: the sockets that nobody uses yet.
    :param key: the option or setting that names them.
    :raises BindError: if no socket was passed, or the descriptor is no stream socket.
    :raises SettingError: if no socket of that name was passed.
    """
    label, passed = f'fd://{place}', [one for one in offered if one.is_passed]
    found = [one for one in passed if label in one.labels]
    for listening in found:
        offered.remove(listening)
    if found:
        return found
    if place.isascii() and place.isdigit():
        return [inherited(int(place))]
    if not passed:
        raise BindError(
            label,
            'no socket was passed under a name; start the site by its systemd socket '
            'unit, or write the number of a descriptor: fd://3',
        )
    names = dict.fromkeys(name[5:] for one in passed for name in one.labels[1:])
    raise SettingError(
        key,
        f'{label}: no socket of that name was passed; the names that were passed: '
        f'{", ".join(names) or "none"}',
    )


def received(fd: int, *, owned: bool, labels: Iterable[str] = ()) -> ListeningSocket:
    """Return the socket of a descriptor that another process has sent.

    An attacker may control that process. So until `ListeningSocket.claim`, this process
    does not touch the file to which the socket's name leads.

    :param owned: whether `ListeningSocket.claim` makes this process its owner.
    :param labels: see `ListeningSocket`.
    :raises BindError: if it is not a TCP or Unix stream socket that listens; then the
        descriptor is closed.
    """
    problem = what_is_wrong_with(fd)
    if problem:
        os.close(fd)
        raise BindError(f'descriptor {fd}', problem)
    sock = socket.socket(fileno=fd)
    listening = ListeningSocket(sock, owned=False, labels=labels)
    listening.is_to_be_owned = owned
    return listening


def what_is_wrong_with(fd: int, *, listening: bool = True) -> str:
    """Return why no server can use a descriptor; '' if it is a TCP or Unix stream socket.

    :param listening: whether the socket must listen already.
    """
    try:
        sock = socket.socket(fileno=fd)
    except OSError as error:
        return error.strerror or str(error)
    try:
        families = [socket.AF_INET, socket.AF_INET6, getattr(socket, 'AF_UNIX', None)]
        if sock.family not in families or sock.type != socket.SOCK_STREAM:
            return 'it is neither a TCP socket nor a Unix stream socket'
        if listening and not sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
            return 'it does not listen'
    except OSError as error:
        return error.strerror or str(error)
    finally:
        sock.detach()
    return ''
