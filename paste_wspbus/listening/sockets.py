"""Listening sockets: binding, inheriting, copying and closing them."""

from __future__ import annotations

import contextlib
import errno
import os
import selectors
import socket
import stat
import threading

from paste_wspbus.errors import BindError, SettingError
from paste_wspbus.listening import backlog
from paste_wspbus.listening.addresses import UNIX_PATH_MAX

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

#: The selector of Python itself: this module is imported before the site, which may have
#: gevent or eventlet replace it.
Selector = selectors.DefaultSelector

#: A thread holds this lock while it changes the umask of the process.
_umask = threading.Lock()

_REASONS = {
    errno.EADDRINUSE: 'the port is taken: another process listens there',
    errno.EACCES: 'permission denied (ports below 1024 are for root)',
    errno.EADDRNOTAVAIL: 'this machine has no such address',
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
        #: What `owned` becomes when this process claims the socket, see `received`.
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
        host = f'[{name[0]}]' if ':' in name[0] else name[0]
        return f'{scheme}://{host}:{name[1]}'

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
        return ListeningSocket(self.sock.dup(), owned=False, labels=self.labels)

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

    def is_at(self, family: int, address: tuple[str, int] | str | bytes) -> bool:
        """Whether it is bound to (host, port), or to a path or an abstract name.

        The port 0 of ``address`` stands for any port.
        """
        if self.sock.family != family:
            return False
        if not self.is_unix:
            return bool(self.name[0] == address[0]) and address[1] in (0, self.name[1])
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
            raise _bind_error(f'unix:{self._path[0]}', error) from None

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
    family: int, address: tuple[str, int], ipv6only: bool = True
) -> ListeningSocket:
    """Return a bound socket that does not listen yet.

    :param ipv6only: whether an IPv6 socket accepts IPv6 only: ipv6(7), IPV6_V6ONLY.
    :raises BindError: if the system refuses; the error has the reason as a text.
    """
    where = f'[{address[0]}]:{address[1]}' if ':' in address[0] else '%s:%s' % address
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
        raise _bind_error(where, error) from error
    return ListeningSocket(sock)


def bind_unix(
    path: str,
    mode: int | None = None,
    key: str = 'unix_socket',
    group: str | None = None,
) -> ListeningSocket:
    """Return a bound Unix socket; it replaces the socket file of a process that has ended.

    :param path: a path, or an abstract name, which begins with a zero byte and has no
        file.
    :param mode: the permissions of the file. None stands for 0777 without the bits of
        the umask.
    :param key: the setting that has this path.
    :param group: the name or number of the group of the file. None stands for the group
        of this process.
    :raises SettingError: if the path is too long or empty, or there is no such group.
    :raises BindError: if the path is taken, or the folder is missing.
    """
    if not path or len(os.fsencode(path)) > UNIX_PATH_MAX or '\0' in path[1:]:
        raise SettingError(
            key,
            f'{visible(path)!r} has {len(os.fsencode(path))} bytes; '
            f'a socket path has 1 to {UNIX_PATH_MAX}, none of them zero',
        )
    address = f'unix:{visible(path)}'
    if not hasattr(socket, 'AF_UNIX'):
        raise BindError(address, 'Python has no Unix sockets on this system')
    if is_abstract(path) and (mode is not None or group is not None):
        raise SettingError(
            key, f'{address}: an abstract socket has no mode and no group'
        )
    gid = None if group is None else _group_number(group, key)
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        if is_abstract(path):
            sock.bind(path)
        else:
            _bind_file(sock, path, mode, address)
    except BindError:
        sock.close()
        raise
    except OSError as error:
        sock.close()
        raise _bind_error(address, error) from error
    listening = ListeningSocket(sock, has_group=gid is not None)
    if gid is not None:
        _give_to_group(listening, path, gid)
    return listening


def _bind_file(sock: socket.socket, path: str, mode: int | None, address: str) -> None:
    from paste_wspbus.unix.exposed import place_of

    _remove_stale(path, address)
    with place_of(path, makes=True):
        bind_with_mode(sock, path, mode)


def _give_to_group(listening: ListeningSocket, path: str, gid: int) -> None:
    """Change the group of the file; if that is not possible, close the socket.

    :raises BindError: if the user is not in the group, or another file is there now.
    """
    from paste_wspbus.unix.exposed import give_away

    try:
        give_away(path, -1, gid)
    except OSError as error:
        listening.close()
        reason = f'its group cannot be changed to {gid}: {error.strerror}'
        raise BindError(f'unix:{path}', reason) from error


def _remove_stale(path: str, address: str) -> None:
    """Remove the socket file of a process that has ended.

    :raises BindError: if another kind of file is there, or a process that listens.
    :raises OSError: if it cannot be removed, or if the path leads over a link that
        others than root can change (see `exposed.place_of`).
    """
    from paste_wspbus.unix.exposed import place_of, remove

    with place_of(path) as (name, folder):
        try:
            status = os.stat(name, dir_fd=folder, follow_symlinks=False)
        except FileNotFoundError:
            return
    if not stat.S_ISSOCK(status.st_mode):
        raise BindError(address, 'a file is there that is not a socket')
    if _answers(path):
        raise BindError(address, 'another process listens there')
    with contextlib.suppress(FileNotFoundError):
        remove(path, (status.st_dev, status.st_ino))


def bind_with_mode(sock: socket.socket, address: str, mode: int | None) -> None:
    """Bind a Unix socket, whose file has its permissions from the first moment.

    A later chmod(2) could change a different file: a user who can write to the folder
    could have exchanged the file.

    :param mode: the permissions. None stands for 0777 without the bits of the umask.
    """
    if mode is None:
        sock.bind(address)
        return
    with _umask:
        # The whole process has one umask. bind(2) makes the file with 0777 without it.
        before = os.umask(~mode & 0o777)
        try:
            sock.bind(address)
        finally:
            os.umask(before)


def _group_number(group: str, key: str) -> int:
    if group.isascii() and group.isdigit() and len(group) < 10:
        return int(group)
    import grp

    try:
        return grp.getgrnam(group).gr_gid
    except KeyError:
        raise SettingError(key, f'there is no group {group!r}') from None


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


def _bind_error(address: str, error: OSError) -> BindError:
    reason = _REASONS.get(error.errno or 0, error.strerror or str(error))
    if error.errno == errno.EADDRINUSE and address.startswith('unix:'):
        reason = 'another process listens there'
    return BindError(address, reason)
