"""Listening sockets: binding them to a TCP port, copying and closing them."""

from __future__ import annotations

import contextlib
import errno
import os
import selectors
import socket

from paste_wspbus.errors import BindError
from paste_wspbus.listening import backlog
from paste_wspbus.listening.addresses import as_written

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    from paste_wspbus.listening.addresses import SocketAddress

#: The selector of Python itself: this module is imported before the site, which may have
#: gevent or eventlet replace it.
Selector = selectors.DefaultSelector

_REASONS = {
    errno.EADDRINUSE: 'the port is taken: another process listens there',
    errno.EACCES: 'permission denied (ports below 1024 are for root)',
    errno.EADDRNOTAVAIL: 'this machine has no such address',
    errno.ENODEV: 'this machine has no network interface of that number',
}


class ListeningSocket:
    """A socket to listen on, and whether this process alone owns it.

    ``owned`` says whether this process has bound the socket: then no other process has
    it, and closing it would reset the connections in its backlog. An inherited socket
    stays open in another process.

    :param labels: the names that ``--listen`` has for a socket that another program has
        passed: fd://3, fd://NAME. There are none if this site has bound the socket.
    :param file: the file of a Unix socket that this site has bound, as (device,
        inode), if that is known.
    :param has_group: whether its file has the group that its address asks for.
    """

    def __init__(
        self,
        sock: socket.socket,
        *,
        owned: bool = True,
        labels: Iterable[str] = (),
        file: Iterable[int] | None = None,
        has_group: bool = False,
    ) -> None:
        self.sock, self.owned, self.labels = sock, owned, tuple(labels)
        self._has_group = has_group
        # accept() must not wait if another process takes the connection first. All
        # processes that have the socket share this flag. Set it at once: for each copy,
        # Python sets the flag again to the value that it remembers.
        sock.setblocking(False)
        self.name = sock.getsockname()
        self._path = _path_of(sock, file) if owned else None
        #: What `owned` becomes when this process claims the socket, see `passed.received`.
        self.is_to_be_owned = owned

    @property
    def is_unix(self) -> bool:
        """Whether it is a Unix domain socket."""
        return hasattr(socket, 'AF_UNIX') and self.sock.family == socket.AF_UNIX

    def url(self, scheme: str = 'http') -> str:
        """Return the URL where clients reach it: http://127.0.0.1:8080, unix:/path."""
        name = self.name
        if self.is_unix:
            return f'unix:{visible(name)}'
        return f'{scheme}://{as_written(name)}'

    def claim(self) -> None:
        """Own a received socket: from now on, this process removes its file.

        Before this, the caller compares its address with the address that the site asks
        for, and changes to the user of the site.
        """
        if self.is_to_be_owned and not self.owned:
            self.owned, self._path = True, _path_of(self.sock, None)
        if self.owned and self._path is not None:
            from paste_wspbus.unix.exposed import keep_folder

            keep_folder(self._path[0])

    def copy(self) -> ListeningSocket:
        """Return the same socket with a descriptor of its own."""
        from paste_wspbus.unix.numbers import above

        sock = above(self.sock.dup())
        return ListeningSocket(sock, owned=False, labels=self.labels)

    @property
    def file(self) -> tuple[int, int] | None:
        """The device and inode of the file of a Unix socket that this site has bound."""
        return self._path and self._path[1]

    @property
    def origin(self) -> tuple[tuple[str, ...], tuple[int, int] | None]:
        """What the next program needs to know of the socket: ``labels`` and ``file``."""
        return self.labels, self.file

    @property
    def is_local(self) -> bool:
        """Whether only programs on this machine reach it: a loopback address, or a Unix socket."""
        if self.is_unix:
            return True
        host = self.name[0].removeprefix('::ffff:')
        return bool(host == '::1' or host.startswith('127.'))

    @property
    def is_passed(self) -> bool:
        """Whether another program has bound the socket, and takes care of its address."""
        return bool(self.labels)

    @property
    def is_reachable(self) -> bool:
        """Whether clients can reach it: the file of a Unix socket may be gone or replaced.

        A socket that was passed counts as reachable. This process may be unable to see
        its file (PrivateTmp, chroot), and only the program that bound it could repair it.
        """
        if not self.is_unix or self.is_passed or is_abstract(self.name):
            return True
        if self._path is None:
            return os.path.exists(self.name)
        path, identity = self._path
        try:
            # A relative name is another path if the working directory has changed.
            return os.path.abspath(self.name) == path and _identity(path) == identity
        except OSError:
            return False

    @property
    def keeps_to_ipv6(self) -> bool | None:
        """Whether it accepts IPv6 only (ipv6(7), IPV6_V6ONLY); None if it is not IPv6."""
        if self.sock.family != socket.AF_INET6:
            return None
        return bool(self.sock.getsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY))

    def is_at(self, family: int, address: SocketAddress | str | bytes) -> bool:
        """Whether it is bound to (host, port), or to a path or an abstract name.

        The port 0 of ``address`` stands for any port.
        """
        if self.sock.family != family:
            return False
        if not self.is_unix:
            name: tuple[str, int] = self.name
            same = (name[0], *name[2:]) == (address[0], *address[2:])
            return same and address[1] in (0, name[1])
        if is_abstract(self.name) or is_abstract(address):
            return os.fsencode(self.name) == os.fsencode(address)  # type: ignore[arg-type]
        return bool(os.path.abspath(self.name) == os.path.abspath(str(address)))

    def has_port(self, port: int) -> bool:
        """Whether it is bound to a TCP port, at any host."""
        return not self.is_unix and bool(self.name[1] == port)

    def refuse_new(self) -> None:
        """Refuse new connections; those that came before keep waiting."""
        if self.is_unix:
            self._unlink()
        else:
            backlog.refuse_new(self.sock)

    def take_new(self) -> None:
        """Undo `refuse_new`, so that another process can accept."""
        if not self.is_unix:
            backlog.take_new(self.sock)

    def chown(self, uid: int, gid: int) -> None:
        """Give the file of a Unix socket to another user and group; -1 changes nothing.

        :raises BindError: if another file is there now.
        """
        if self._path is None:
            return
        gid = -1 if self._has_group else gid
        from paste_wspbus.unix.exposed import give_away

        try:
            give_away(self._path[0], uid, gid)
        except OSError as error:
            raise bind_error(f'unix:{self._path[0]}', error) from None

    def is_empty(self) -> bool:
        """Return whether no connection waits to be accepted."""
        return backlog.is_empty(self.sock)

    def end(self) -> None:
        """Shut the socket down for every process that has it, and close it."""
        with contextlib.suppress(OSError):
            self.sock.shutdown(socket.SHUT_RDWR)
        self.sock.close()

    def close(self) -> None:
        """Close the socket; if it is a Unix socket that this process owns, remove its file."""
        self._unlink()
        self.sock.close()

    def _unlink(self) -> None:
        if self.owned and self._path is not None:
            path, identity = self._path
            self._path = None
            from paste_wspbus.unix.exposed import remove

            with contextlib.suppress(OSError):
                remove(path, identity)


def is_abstract(name: object) -> bool:
    """Whether the name of a Unix socket is not a path: unix(7), "abstract"."""
    text = name.encode() if isinstance(name, str) else name
    return isinstance(text, bytes) and text[:1] in (b'', b'\0')


def visible(name: str | bytes) -> str:
    """Return a Unix socket's name as it is printed: an abstract one begins with @."""
    text = os.fsdecode(name)
    return f'@{text[1:]}' if text[:1] == '\0' else text


def _path_of(
    sock: socket.socket, file: Iterable[int] | None
) -> tuple[str, tuple[int, int]] | None:
    name = sock.getsockname()
    if not isinstance(name, str) or not name:
        return None
    if file is not None:
        device, inode = file
        return os.path.abspath(name), (device, inode)
    try:
        return os.path.abspath(name), _identity(name)
    except OSError:
        return None  # it was inherited, and its file is gone or cannot be seen


def _identity(path: str) -> tuple[int, int]:
    status = os.lstat(path)
    return status.st_dev, status.st_ino


def bind_tcp(
    family: int, address: SocketAddress, ipv6only: bool = True
) -> ListeningSocket:
    """Return a bound socket that does not listen yet.

    :param ipv6only: whether an IPv6 socket accepts IPv6 only: ipv6(7), IPV6_V6ONLY.
    :raises BindError: if the system refuses; the error has the reason as a text.
    """
    sock: socket.socket | None = None
    try:
        sock = socket.socket(family, socket.SOCK_STREAM)
        if os.name == 'posix':  # on Windows it would share the port
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, ipv6only)
        sock.bind(address)
    except OSError as error:
        if sock is not None:
            sock.close()
        raise bind_error(as_written(address), error) from error
    return ListeningSocket(sock)


def bind_error(address: str, error: OSError) -> BindError:
    """Return the error of a socket that cannot be bound, with the reason as a text."""
    reason = _REASONS.get(error.errno or 0, error.strerror or str(error))
    if error.errno == errno.EADDRINUSE:
        from paste_wspbus.unix.listeners import why_taken

        reason = why_taken(address)
    elif error.errno == errno.ENOENT and address.startswith('unix:'):
        reason = 'there is no such folder'
    return BindError(address, reason)
