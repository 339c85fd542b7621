"""The backlog of a listening socket: whether connections wait, and how to refuse new ones."""

from __future__ import annotations

import array
import contextlib
import errno
import os
import select
import socket
import struct
import sys

#: <linux/filter.h>: SO_ATTACH_FILTER. The socket module does not name it.
SO_ATTACH_FILTER = 26

SO_DETACH_FILTER = 27

#: Classic BPF (code, jt, jf, k): drop a segment whose flags are SYN alone. For a
#: listening TCP socket offset 0 is the TCP header, whose byte 13 are the flags.
#: The handshakes in progress continue, because their segments carry ACK.
_DROP_SYN = (
    (0x30, 0, 0, 13),  # ldb [13]
    (0x54, 0, 0, 0x12),  # and #SYN|ACK
    (0x15, 0, 1, 0x02),  # jeq #SYN, next, one further
    (0x06, 0, 0, 0),  # ret #0
    (0x06, 0, 0, 0xFFFFFFFF),  # ret #-1
)

#: struct tcp_info, <linux/tcp.h>: on a listening socket tcpi_unacked is the
#: length of the accept queue, and tcpi_sacked, which follows it, its limit.
_TCPI_UNACKED = slice(24, 28)
_TCPI_UNACKED_AND_SACKED = slice(24, 32)

#: The state of a half-open connection in /proc/net/tcp (TCP_SYN_RECV).
_SYN_RECV = '03'

#: <linux/netlink.h>, <linux/sock_diag.h>.
_NETLINK_SOCK_DIAG, _SOCK_DIAG_BY_FAMILY, _NLMSG_ERROR = 4, 20, 2
_NLM_F_REQUEST_DUMP = 0x301


def refuse_new(sock: socket.socket) -> None:
    """Refuse new TCP connections; those that came before keep waiting.

    Only Linux can do that; on other systems this does nothing.
    """
    if sys.platform != 'linux':
        return
    program = array.array('B', b''.join(struct.pack('HBBI', *op) for op in _DROP_SYN))
    address, _ = program.buffer_info()
    with contextlib.suppress(OSError):
        sock.setsockopt(
            socket.SOL_SOCKET,
            SO_ATTACH_FILTER,
            struct.pack('HP', len(_DROP_SYN), address),
        )
        # A full accept queue drops the last ACK of a handshake: make room for these.
        sock.listen(socket.SOMAXCONN)


def take_new(sock: socket.socket) -> None:
    """Undo `refuse_new`."""
    if sys.platform == 'linux':
        with contextlib.suppress(OSError):
            sock.setsockopt(socket.SOL_SOCKET, SO_DETACH_FILTER, 0)


def is_empty(sock: socket.socket) -> bool:
    """Return whether no connection waits to be accepted."""
    if not _tells_length(sock):
        return not readable(sock) or _is_ended(sock)
    if _has_half_open(sock):  # check this first: later, the connection is in the queue
        return False
    return not _length(sock)


def length(sock: socket.socket) -> int | None:
    """Return how many connections wait to be accepted.

    :returns: None if the system does not say it: of a Unix socket, and elsewhere than on
        Linux; or if the socket does not listen.
    """
    try:
        if not _tells_length(sock):
            return None
        listens = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
        return _length(sock) if listens else None
    except OSError:  # it was closed
        return None


def is_filling(sock: socket.socket) -> bool | None:
    """Return whether more than a quarter of the backlog's places are taken.

    :returns: None if the system does not say it; see `length`.
    """
    try:
        if not _tells_length(sock):
            return None
        info = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 104)
    except OSError:  # it was closed
        return None
    queued, limit = struct.unpack('II', info[_TCPI_UNACKED_AND_SACKED])
    return bool(queued * 4 > limit)


def _tells_length(sock: socket.socket) -> bool:
    is_tcp = sock.family in (socket.AF_INET, socket.AF_INET6)
    return is_tcp and sys.platform == 'linux'


def _length(sock: socket.socket) -> int:
    info = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 104)
    (queued,) = struct.unpack('I', info[_TCPI_UNACKED])
    return int(queued)


def _is_ended(sock: socket.socket) -> bool:
    """Whether another process has shut down the socket: then it is readable for ever."""
    if not hasattr(select, 'poll'):
        return False
    poll = select.poll()
    poll.register(sock, 0)
    return any(flags & select.POLLHUP for _, flags in poll.poll(0))


def _has_half_open(sock: socket.socket) -> bool:
    family, port = sock.family, sock.getsockname()[1]
    try:
        return _is_half_open(family, port)
    except OSError:
        pass  # this kernel has no sock_diag(7), or no descriptor is free
    table = 'tcp6' if family == socket.AF_INET6 else 'tcp'
    # A stop must not fail here because no descriptor is free.
    with contextlib.suppress(OSError), open(f'/proc/self/net/{table}') as lines:
        for line in lines:
            _, local, _, state, *_ = line.split(None, 4)
            if state == _SYN_RECV and local.endswith(f':{port:04X}'):
                return True
    return False


def _is_half_open(family: int, port: int) -> bool:
    """Whether a connection to a port is half open: sock_diag(7).

    /proc/net/tcp has the same information, but with many connections, reading all of
    it takes a tenth of a second.

    :raises OSError: if the kernel cannot answer.
    """
    states = 1 << int(_SYN_RECV, 16)
    sport_and_zeros = struct.pack('!H46x', port)
    request = struct.pack('BBxxI', family, socket.IPPROTO_TCP, states) + sport_and_zeros
    header = struct.pack(
        'IHHII', 16 + len(request), _SOCK_DIAG_BY_FAMILY, _NLM_F_REQUEST_DUMP, 0, 0
    )
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, _NETLINK_SOCK_DIAG) as sock:
        sock.settimeout(1)
        sock.send(header + request)
        # The header of the first message: one without a connection is of another kind.
        (kind,) = struct.unpack_from('H', sock.recv(16), 4)
    if kind == _NLMSG_ERROR:
        raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))
    return bool(kind == _SOCK_DIAG_BY_FAMILY)


def readable(sock: socket.socket, within: float = 0) -> bool:
    """Whether a read (for a listening socket: an accept) would return at once.

    :param within: seconds to wait for that.
    """
    if not hasattr(select, 'poll'):
        return bool(select.select([sock], [], [], within)[0])
    poll = select.poll()  # select() takes no descriptor above 1023
    poll.register(sock, select.POLLIN)
    return bool(poll.poll(within * 1000))
