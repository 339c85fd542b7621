"""Listening sockets: addresses, binding, and emptying a backlog without resetting anybody."""

from __future__ import annotations

import array
import contextlib
import errno
import os
import select
import socket
import stat
import struct
import sys

from paste_wspbus.errors import BindError, SettingError

#: <linux/filter.h>: SO_ATTACH_FILTER. The socket module does not name it.
SO_ATTACH_FILTER = 26

SO_DETACH_FILTER = 27

#: Classic BPF (code, jt, jf, k): drop a segment whose flags are SYN alone. For a
#: listening TCP socket offset 0 is the TCP header, whose byte 13 are the flags.
#: The handshakes in progress go on, for their segments carry ACK.
_DROP_SYN = (
    (0x30, 0, 0, 13),  # ldb [13]
    (0x54, 0, 0, 0x12),  # and #SYN|ACK
    (0x15, 0, 1, 0x02),  # jeq #SYN, next, one further
    (0x06, 0, 0, 0),  # ret #0
    (0x06, 0, 0, 0xFFFFFFFF),  # ret #-1
)

#: struct tcp_info, <linux/tcp.h>: on a listening socket tcpi_unacked is the
#: length of the accept queue.
_TCPI_UNACKED = slice(24, 28)

#: The state of a half-open connection in /proc/net/tcp (TCP_SYN_RECV).
_SYN_RECV = '03'

#: <linux/netlink.h>, <linux/sock_diag.h>.
_NETLINK_SOCK_DIAG, _SOCK_DIAG_BY_FAMILY, _NLMSG_ERROR = 4, 20, 2
_NLM_F_REQUEST_DUMP = 0x301

#: sun_path has 108 bytes and ends with a zero one: unix(7).
UNIX_PATH_MAX = 107

_REASONS = {
    errno.EADDRINUSE: 'the port is taken: another process listens there',
    errno.EACCES: 'permission denied (ports below 1024 are for root)',
    errno.EADDRNOTAVAIL: 'this machine has no such address',
}


class ListeningSocket:
    """A socket to listen on, and whether nobody else accepts from it.

    ``owned``: this process bound it, so what waits in its backlog when it is
    closed would be reset. A socket that was inherited lives on elsewhere.
    """

    def __init__(self, sock: socket.socket, *, owned: bool = True) -> None:
        self.sock, self.owned = sock, owned
        # The flag is that of all processes that have the socket, and who loses the
        # race for a connection must not wait in accept(). From the first, because
        # Python sets it again in each copy, as it believes it to be.
        sock.setblocking(False)
        self.name = sock.getsockname()
        self._path = _path_of(sock) if owned else None

    @property
    def is_unix(self) -> bool:
        """Whether it is a Unix domain socket."""
        return hasattr(socket, 'AF_UNIX') and self.sock.family == socket.AF_UNIX

    def url(self, scheme: str = 'http') -> str:
        """Where a browser finds it, such as http://127.0.0.1:8080 or unix:/path."""
        name = self.name
        if self.is_unix:
            return f'unix:{os.fsdecode(name)}'
        host = f'[{name[0]}]' if ':' in name[0] else name[0]
        return f'{scheme}://{host}:{name[1]}'

    def copy(self) -> ListeningSocket:
        """The same socket in a descriptor of its own."""
        return ListeningSocket(self.sock.dup(), owned=False)

    @property
    def is_reachable(self) -> bool:
        """Whether its address leads to it: a Unix socket's file may be gone."""
        return not self.is_unix or os.path.exists(self.sock.getsockname())

    def is_at(self, family: int, address: tuple[str, int] | str) -> bool:
        """Whether it is bound to (host, port), or to a path."""
        if self.sock.family != family:
            return False
        name = self.sock.getsockname()
        if not isinstance(name, str):
            return [*name[:2]] == [*address]
        return os.path.abspath(name) == os.path.abspath(str(address))

    def refuse_new(self) -> None:
        """Turn away whoever connects from now on; those who did wait on."""
        if self.is_unix:
            self._unlink()
        elif sys.platform == 'linux':
            program = array.array(
                'B', b''.join(struct.pack('HBBI', *op) for op in _DROP_SYN)
            )
            address, _ = program.buffer_info()
            with contextlib.suppress(OSError):
                self.sock.setsockopt(
                    socket.SOL_SOCKET,
                    SO_ATTACH_FILTER,
                    struct.pack('HP', len(_DROP_SYN), address),
                )
                # Room for the ACKs that a full accept queue turned away.
                self.sock.listen(socket.SOMAXCONN)

    def take_new(self) -> None:
        """Undo `refuse_new`: it is another process's turn to accept."""
        if sys.platform == 'linux' and not self.is_unix:
            with contextlib.suppress(OSError):
                self.sock.setsockopt(socket.SOL_SOCKET, SO_DETACH_FILTER, 0)

    def chown(self, uid: int, gid: int) -> None:
        """Give a Unix socket's file to another user (-1: as it is)."""
        if self._path is not None:
            os.chown(self._path[0], uid, gid, follow_symlinks=False)

    def is_empty(self) -> bool:
        """Whether nobody waits to be accepted."""
        if self.is_unix or sys.platform != 'linux':
            return not readable(self.sock) or self._is_ended()
        info = self.sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 104)
        (queued,) = struct.unpack('I', info[_TCPI_UNACKED])
        return not queued and not self._half_open()

    def _is_ended(self) -> bool:
        """Whether another process did `end` it: it is readable for ever."""
        if not hasattr(select, 'poll'):
            return False
        poll = select.poll()
        poll.register(self.sock, 0)
        return any(flags & select.POLLHUP for _, flags in poll.poll(0))

    def _half_open(self) -> bool:
        family, port = self.sock.family, self.sock.getsockname()[1]
        try:
            return _is_half_open(family, port)
        except OSError:
            pass  # no sock_diag(7) in this kernel, or no descriptor is free
        table = 'tcp6' if family == socket.AF_INET6 else 'tcp'
        # Without a descriptor that is free, a stop is not to fail for this.
        with contextlib.suppress(OSError), open(f'/proc/self/net/{table}') as lines:
            for line in lines:
                _, local, _, state, *_ = line.split(None, 4)
                if state == _SYN_RECV and local.endswith(f':{port:04X}'):
                    return True
        return False

    def end(self) -> None:
        """Close it for every process that has it."""
        with contextlib.suppress(OSError):
            self.sock.shutdown(socket.SHUT_RDWR)
        self.sock.close()

    def close(self) -> None:
        """Close it; of a Unix socket that is ours, remove the file."""
        self._unlink()
        self.sock.close()

    def _unlink(self) -> None:
        if self.owned and self._path is not None:
            path, identity = self._path
            self._path = None
            with contextlib.suppress(OSError):
                if _identity(path) == identity:
                    os.unlink(path)


def _is_half_open(family: int, port: int) -> bool:
    """Whether a connection to a port is half open: sock_diag(7).

    /proc/net/tcp tells the same, but where there are many connections, reading
    all of it takes a tenth of a second.

    :raises OSError: if the kernel does not tell.
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
        # Of connections, one message each; at the end another one, of another kind.
        (kind,) = struct.unpack_from('H', sock.recv(65536), 4)
    if kind == _NLMSG_ERROR:
        raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))
    return bool(kind == _SOCK_DIAG_BY_FAMILY)


def readable(sock: socket.socket, within: float = 0) -> bool:
    """Whether a read (of a listening socket: an accept) would find something, or the end.

    :param within: seconds to wait for that.
    """
    if not hasattr(select, 'poll'):
        return bool(select.select([sock], [], [], within)[0])
    poll = select.poll()  # select() takes no descriptor above 1023
    poll.register(sock, select.POLLIN)
    return bool(poll.poll(within * 1000))


def _path_of(sock: socket.socket) -> tuple[str, tuple[int, int]] | None:
    name = sock.getsockname()
    if not isinstance(name, str) or not name:
        return None
    try:
        return os.path.abspath(name), _identity(name)
    except FileNotFoundError:
        return None  # it was inherited, and somebody has removed its file


def _identity(path: str) -> tuple[int, int]:
    status = os.stat(path)
    return status.st_dev, status.st_ino


def parse_port(text: str | int, key: str = 'port') -> int:
    """A port number.

    :raises SettingError: if ``text`` is not a number from 0 to 65535.
    """
    try:
        port = int(text)
    except ValueError:
        port = -1
    if not 0 <= port <= 65535:
        raise SettingError(key, f'{text!r} is not a port: a number from 0 to 65535')
    return port


def parse_address(text: str) -> tuple[str, str | int, int]:
    """The parts of ``--listen``: ('tcp', host, port), ('unix', path, 0) or ('fd', n, 0).

    :raises SettingError: if it is none of HOST:PORT, unix:PATH, fd://N.
    """
    if text.startswith('unix:'):
        return 'unix', text.removeprefix('unix:').removeprefix('//'), 0
    if text.startswith('fd://'):
        number = text.removeprefix('fd://')
        if not number.isdigit():
            raise SettingError('--listen', f'{text!r}: fd:// takes a number')
        return 'fd', int(number), 0
    host, colon, port = text.rpartition(':')
    if not colon and not text.isdigit():
        raise SettingError(
            '--listen', f'{text!r} is none of HOST:PORT, unix:PATH, fd://N'
        )
    return 'tcp', host.strip('[]') or '127.0.0.1', parse_port(port, '--listen')


def resolve(
    host: str, port: int, family: int = socket.AF_UNSPEC
) -> list[tuple[int, tuple[str, int]]]:
    """The (family, address) pairs to listen on for a host name.

    :raises BindError: if the name does not resolve.
    """
    try:
        found = socket.getaddrinfo(
            host,
            port,
            family,
            socket.SOCK_STREAM,
            socket.IPPROTO_TCP,
            socket.AI_PASSIVE,
        )
    except (socket.gaierror, UnicodeError) as error:
        reason = getattr(error, 'strerror', None) or str(error)
        raise BindError(
            f'{host}:{port}', f'the host name does not resolve ({reason})'
        ) from None
    return [(entry[0], entry[4][:2]) for entry in found]  # type: ignore[misc]


def bind_tcp(family: int, address: tuple[str, int]) -> ListeningSocket:
    """A bound socket that does not listen yet.

    :raises BindError: with the reason in words.
    """
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        if os.name == 'posix':  # on Windows it would share the port
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if family == socket.AF_INET6:
            # Waitress and Paste ask for IPv4 by itself; dual stack would take its port.
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        sock.bind(address)
    except OSError as error:
        sock.close()
        raise _bind_error('%s:%s' % address, error) from error
    return ListeningSocket(sock)


def bind_unix(
    path: str, mode: int = 0o600, key: str = 'unix_socket'
) -> ListeningSocket:
    """A bound Unix socket, its file's permissions ``mode``; a stale one is replaced.

    :raises SettingError: if the path is too long or empty.
    :raises BindError: if something else is there, or the folder is missing.
    """
    if not path or len(os.fsencode(path)) > UNIX_PATH_MAX:
        raise SettingError(
            key,
            f'{path!r} has {len(os.fsencode(path))} bytes; '
            f'a socket path has 1 to {UNIX_PATH_MAX}',
        )
    address = f'unix:{path}'
    if not hasattr(socket, 'AF_UNIX'):
        raise BindError(address, 'Python has no Unix sockets on this system')
    with contextlib.suppress(FileNotFoundError):
        if not stat.S_ISSOCK(os.lstat(path).st_mode):
            raise BindError(address, 'a file is there that is not a socket')
        if _answers(path):
            raise BindError(address, 'another process listens there')
        os.unlink(path)
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        # Nobody can connect before listen(), so the permissions are in time.
        sock.bind(path)
        os.chmod(path, mode)
    except OSError as error:
        sock.close()
        raise _bind_error(address, error) from error
    return ListeningSocket(sock)


def _answers(path: str) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(1)
        try:
            probe.connect(path)
        except ConnectionRefusedError:
            return False
        except OSError:
            return True
    return True


def inherited(number: int) -> ListeningSocket:
    """The socket of file descriptor ``number``, which somebody else bound.

    :raises BindError: if that is no stream socket.
    """
    try:
        # A copy, because closing it must not take the owner's number away.
        sock = socket.socket(fileno=os.dup(number))
        if sock.type != socket.SOCK_STREAM:
            raise OSError(errno.EINVAL, 'it is not a stream socket')
    except OSError as error:
        raise BindError(f'fd://{number}', error.strerror or str(error)) from None
    return ListeningSocket(sock, owned=False)


def _bind_error(address: str, error: OSError) -> BindError:
    reason = _REASONS.get(error.errno or 0, error.strerror or str(error))
    return BindError(address, reason)
