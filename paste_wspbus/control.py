"""The control socket: a local one, beside the PID file, that answers status, graceful, stop."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import selectors
import socket
import stat
import struct
import threading
import time
import weakref

from paste_wspbus.errors import WSPBusError
from paste_wspbus.settings import working_folder
from paste_wspbus.sockets import UNIX_PATH_MAX

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator, Mapping
    from typing import Any

    from paste_wspbus.bus import Bus

    Handler = Callable[['Connection'], 'dict[str, Any] | None']

#: Of the protocol: one line of JSON each way.
VERSION = 1

#: The longest request, in bytes.
MAX_REQUEST = 4096

#: The most connections at a time; one more closes the oldest that asked for nothing.
MAX_CONNECTIONS = 32


#: Seconds for others who open a socket in the same folder.
PATIENCE = 5.0

#: Seconds of rest when connections can be neither accepted nor refused.
REST = 0.05

#: How many bytes of the .ini's name the socket's name has: its path must stay short.
_NAME_BYTES = 32


class NoAnswer(WSPBusError):
    """Nobody answers on a control socket: ``path``, ``reason``, and ``code``, an errno.

    ETIMEDOUT: the site starts, or hangs; ECONNRESET: it closed the connection;
    EPROTO: it did not understand.
    """

    def __init__(self, path: str, reason: str, code: int = 0) -> None:
        super().__init__(f'{path}: {reason}')
        self.path, self.reason, self.code = path, reason, code

    @property
    def listens(self) -> bool:
        """Whether a process has the socket open."""
        return self.code in (errno.ETIMEDOUT, errno.ECONNRESET, errno.EPROTO)


def path_for(pid_file: str) -> str:
    """Where the control socket of the site with this PID file is."""
    return f'{os.path.abspath(pid_file)}.sock'


def runtime_paths(config: str) -> list[str]:
    """Where the control socket of a site without a PID file may be, likeliest first.

    Sessions of one user differ in it: cron's knows of no $XDG_RUNTIME_DIR,
    and the folder in /run/user is there while somebody is logged in.

    :param config: the .ini's path.
    """
    if not hasattr(os, 'geteuid'):
        return []
    from _blake2 import blake2b  # hashlib would load OpenSSL: ten times the time

    # As it was given first: a deployment may have moved a link that the path leads over.
    given = os.path.normpath(os.path.join(working_folder(), config))
    names = []
    for path in map(os.fsencode, dict.fromkeys([given, os.path.realpath(config)])):
        name = os.fsdecode(os.path.basename(path)[:_NAME_BYTES])
        names.append(f'{name}-{blake2b(path, digest_size=8).hexdigest()}.sock')
    return [f'{folder}/{name}' for folder in _runtime_folders() for name in names]


def runtime_path(config: str) -> str | None:
    """Where a site without a PID file is to open its control socket.

    The folder is made if it is not there.

    :param config: the .ini's path.
    :returns: None if there is no folder that is this user's alone.
    """
    for path in runtime_paths(os.path.realpath(config))[:1]:
        folder = os.path.dirname(path)
        with contextlib.suppress(OSError):
            os.mkdir(folder, 0o700)
        if is_private(folder):
            return path
    return None


def is_private(folder: str) -> bool:
    """Whether it is a folder of this user's that nobody else may write to; no link."""
    try:
        status = os.lstat(folder)
    except OSError:
        return False
    ours = status.st_uid == os.geteuid() and not status.st_mode & 0o022
    return stat.S_ISDIR(status.st_mode) and ours


def _runtime_folders() -> Iterator[str]:
    uid = os.geteuid()
    for base in (os.environ.get('XDG_RUNTIME_DIR', ''), f'/run/user/{uid}'):
        # One of another user's is left there by su and sudo.
        if os.path.isabs(base) and is_private(base.rstrip('/')):
            yield f'{base.rstrip("/")}/paste_wspbus'
    base = os.environ.get('TMPDIR', '')
    yield f'{base.rstrip("/") if os.path.isabs(base) else "/tmp"}/paste_wspbus-{uid}'


@contextlib.contextmanager
def _address(path: str) -> Generator[str]:
    """What bind(2) and connect(2) take for a path of any length."""
    if len(os.fsencode(path)) <= UNIX_PATH_MAX:
        yield path
        return
    folder = os.open(os.path.dirname(path), os.O_RDONLY)
    try:
        yield f'/proc/self/fd/{folder}/{os.path.basename(path)}'
    finally:
        os.close(folder)


def remove_socket(path: str) -> None:
    """Remove what a site that is gone has left there, if it is a socket.

    :raises OSError: if that is not allowed.
    """
    with contextlib.suppress(FileNotFoundError):
        if stat.S_ISSOCK(os.lstat(path).st_mode):
            os.unlink(path)


class Connection:
    """A client's request, perhaps not whole yet."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.buffer = b''
        #: What was asked, parsed; its ``command`` is known.
        self.request: dict[str, Any] = {}
        #: Sees to it that the rest of an answer is sent when there is room for it.
        self.send_later: Callable[[Connection], None] | None = None
        _watch_forks(self)

    def answer(self, message: dict[str, Any]) -> None:
        """Send the answer, and close; never wait for a client that does not read."""
        self.buffer = json.dumps({'version': VERSION, **message}).encode() + b'\n'
        if self.send() or self.send_later is None:
            self.close()
        else:
            self.send_later(self)

    def send(self) -> bool:
        """Send what there is room for; whether there is no more to send."""
        try:
            sent = self.sock.send(self.buffer)
        except BlockingIOError:
            sent = 0
        except OSError:  # nobody reads it
            sent = len(self.buffer)
        self.buffer = self.buffer[sent:]
        return not self.buffer

    def close(self) -> None:
        """Close it, answered or not."""
        self.sock.close()

    def disown(self) -> None:
        """In a forked child: the parent answers."""
        self.send_later = None
        self.close()


class Control:
    """The answering end. It never waits for a client.

    :param commands: what it can be asked for; a handler gets the connection,
        with the ``request``, and returns the answer, or None and answers later.
    """

    def __init__(self, path: str, commands: Mapping[str, Handler]) -> None:
        self.path, self.commands = path, commands
        self.sock: socket.socket | None = None
        self._identity: tuple[int, int] | None = None
        self._link: str | None = None
        self._selector: selectors.BaseSelector | None = None
        self._connections: list[Connection] = []
        self._sending: list[Connection] = []
        #: A descriptor to give up where there is none left.
        self._reserve: int | None = None

    def open(self, *, shared: bool = False) -> None:
        """Bind and listen, mode 0600; a socket that is left there is replaced.

        :param shared: whether another site may listen there, as in
            `runtime_path`; else the caller holds the PID file's lock.
        :raises OSError: if it cannot be; EADDRINUSE if another site listens.
        """
        if not hasattr(socket, 'AF_UNIX'):
            raise OSError(errno.EAFNOSUPPORT, 'this system has no Unix sockets')
        if not shared:
            self._open()
            return
        with _locked(os.path.dirname(self.path)):
            if _listens(self.path):
                problem = 'another site of this file answers there'
                raise OSError(errno.EADDRINUSE, problem)
            self._open()

    def _open(self) -> None:
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            remove_socket(self.path)
            with _address(self.path) as address:
                sock.bind(address)
            os.chmod(self.path, 0o600)  # nobody can connect before listen()
            sock.listen(MAX_CONNECTIONS)
        except BaseException:
            sock.close()
            raise
        self._use(sock)

    def link(self, path: str) -> None:
        """Be found at another path of the same folder, too, unless another site is."""
        target = os.path.basename(self.path)
        if path == self.path:
            return
        with contextlib.suppress(OSError), _locked(os.path.dirname(path)):
            is_link = os.path.islink(path)
            if _listens(path) and not (is_link and os.readlink(path) == target):
                return
            if is_link:
                os.unlink(path)
            remove_socket(path)
            os.symlink(target, path)
            self._link = path

    def adopt(self, fd: int) -> None:
        """Go on with the socket of the process before this one."""
        self._use(socket.socket(fileno=fd))

    def _use(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        self.sock = sock
        _watch_forks(self)
        with contextlib.suppress(OSError):
            status = os.lstat(self.path)
            self._identity = status.st_dev, status.st_ino

    def chown(self, uid: int, gid: int) -> None:
        """Give it to whom the process is going to be."""
        os.chown(self.path, uid, gid, follow_symlinks=False)

    def serve(self, bus: Bus) -> None:
        """Answer from the start of ``bus`` on: in its loop if it has one, else in a thread."""
        events = getattr(bus, 'events', None)
        if events is not None:
            self.register(events.selector)
        else:
            thread = ControlThread(self, bus)
            bus.subscribe('start', thread.start, priority=float('-inf'))

    def register(self, selector: selectors.BaseSelector) -> None:
        """Answer from now on: whoever selects calls each key's ``data``."""
        assert self.sock is not None
        self._selector = selector
        self._open_reserve()
        selector.register(self.sock, selectors.EVENT_READ, self._accept)

    def _accept(self) -> None:
        assert self._selector is not None
        if self.sock is None:
            return  # closed meanwhile
        try:
            sock, _ = self.sock.accept()
        except OSError as error:
            if error.errno in (errno.EMFILE, errno.ENFILE):
                self._refuse()
            return
        if not _may_ask(sock):
            sock.close()
            return
        sock.setblocking(False)
        if len(self._connections) >= MAX_CONNECTIONS:
            self._drop(self._connections[0])
        connection = Connection(sock)
        connection.send_later = self._send_later
        self._connections.append(connection)
        self._selector.register(
            sock, selectors.EVENT_READ, lambda: self._read(connection)
        )

    def _refuse(self) -> None:
        """Close who comes while no descriptor is free: select() would tell of it for ever."""
        assert self.sock is not None
        if self._reserve is None:
            time.sleep(REST)
        else:
            os.close(self._reserve)
            self._reserve = None
            with contextlib.suppress(OSError):
                self.sock.accept()[0].close()
        self._open_reserve()

    def _open_reserve(self) -> None:
        with contextlib.suppress(OSError):  # others may have taken the last one
            self._reserve = os.open(os.devnull, os.O_RDONLY)

    def _read(self, connection: Connection) -> None:
        try:
            came = connection.sock.recv(MAX_REQUEST)
        except BlockingIOError:
            return
        except OSError:
            came = b''
        connection.buffer += came
        if b'\n' in connection.buffer:
            self._forget(connection)
            self._answer(connection)
        elif not came or len(connection.buffer) > MAX_REQUEST:
            self._drop(connection)

    def _answer(self, connection: Connection) -> None:
        try:
            request = json.loads(connection.buffer.partition(b'\n')[0])
            version, command = request['version'], request['command']
        except (ValueError, KeyError, TypeError, RecursionError):
            connection.answer({'error': 'what was asked is not a request'})
            return
        known_one = isinstance(command, str) and command in self.commands
        if version != VERSION or not known_one:
            known = ', '.join(self.commands)
            problem = f'version {VERSION} is spoken here, and knows: {known}'
            connection.answer({'error': problem})
            return
        connection.request = request
        try:
            answer = self.commands[command](connection)
        except Exception as error:
            answer = {'error': f'{type(error).__name__}: {error}'}
        if answer is not None:
            connection.answer(answer)

    def _send_later(self, connection: Connection) -> None:
        if self._selector is None or self.sock is None:
            connection.close()
            return
        if len(self._sending) >= MAX_CONNECTIONS:
            self._end_sending(self._sending[0])
        self._sending.append(connection)
        self._selector.register(
            connection.sock, selectors.EVENT_WRITE, lambda: self._send(connection)
        )

    def _send(self, connection: Connection) -> None:
        if connection.send():
            self._end_sending(connection)

    def _end_sending(self, connection: Connection) -> None:
        if self._selector is not None and connection in self._sending:
            self._sending.remove(connection)
            self._selector.unregister(connection.sock)
        connection.close()

    def _forget(self, connection: Connection) -> None:
        if self._selector is not None and connection in self._connections:
            self._connections.remove(connection)
            self._selector.unregister(connection.sock)

    def _drop(self, connection: Connection) -> None:
        self._forget(connection)
        connection.close()

    def bequeath(self) -> int | None:
        """A copy of the socket's descriptor, for the successor; see `forget`."""
        return None if self.sock is None else self.sock.dup().detach()

    def forget(self) -> None:
        """Close all, and leave the file: it is the successor's now."""
        self._identity = self._link = None
        self.close()

    def disown(self) -> None:
        """In a forked child: close all, and leave file and selector to the parent."""
        self._selector = None  # its epoll(7) is the parent's, too
        self.forget()

    def close(self) -> None:
        """Close all, and remove the socket's file if it is still ours."""
        for connection in [*self._connections, *self._sending]:
            connection.close()
        self._connections.clear()
        self._sending.clear()
        if self._reserve is not None:
            os.close(self._reserve)
            self._reserve = None
        if self.sock is None:
            return
        if self._selector is not None:
            with contextlib.suppress(KeyError, ValueError, OSError):
                self._selector.unregister(self.sock)
        with contextlib.suppress(OSError):
            status = os.lstat(self.path)
            if (status.st_dev, status.st_ino) == self._identity:
                os.unlink(self.path)
                if self._link and os.readlink(self._link) == os.path.basename(
                    self.path
                ):
                    os.unlink(self._link)
        self.sock.close()
        self.sock = None


@contextlib.contextmanager
def _locked(folder: str) -> Generator[None]:
    """Whoever opens a socket in the folder does it alone.

    :raises OSError: if another does not come to an end with it.
    """
    import fcntl

    fd = os.open(folder, os.O_RDONLY)
    until = time.monotonic() + PATIENCE
    try:
        while True:
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > until:
                    raise
                time.sleep(0.01)
        yield
    finally:
        os.close(fd)


def _listens(path: str) -> bool:
    """Whether a process listens there, however slow it is."""
    with socket.socket(socket.AF_UNIX) as sock, _address(path) as address:
        sock.setblocking(False)
        try:
            sock.connect(address)
        except BlockingIOError:  # others wait there
            return True
        except (ConnectionRefusedError, FileNotFoundError):
            return False
    return True


_open: weakref.WeakSet[Control | Connection] = weakref.WeakSet()
_forks_watched = False


def _watch_forks(one: Control | Connection) -> None:
    """A forked child must not seem to be the site, nor keep its clients waiting."""
    global _forks_watched
    _open.add(one)
    if not _forks_watched and hasattr(os, 'register_at_fork'):
        _forks_watched = True
        os.register_at_fork(after_in_child=_close_in_child)


def _close_in_child() -> None:
    for one in list(_open):
        one.disown()


class ControlThread:
    """A thread that serves a `Control`, where the main thread sleeps in block()."""

    def __init__(self, control: Control, bus: Bus) -> None:
        self._control, self._bus = control, bus
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Start it."""
        if self._thread is not None:
            return
        self._selector = selectors.DefaultSelector()
        self._control.register(self._selector)
        self._thread = threading.Thread(
            target=self._run, name='control socket', daemon=True
        )
        self._thread.start()

    def _run(self) -> None:
        while True:
            for key, _ in self._selector.select():
                try:
                    key.data()
                except Exception:  # no client may end it
                    self._bus.log('The control socket failed', 40, traceback=True)


def _may_ask(sock: socket.socket) -> bool:
    """Whether the other end is root's, or of this process's user."""
    if not hasattr(socket, 'SO_PEERCRED'):
        return True  # the socket's mode, 0600, has to do
    credentials = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
    _, uid, _ = struct.unpack('iII', credentials)
    return uid in (0, os.geteuid())


# -- asking ------------------------------------------------------------------------


def connect(path: str, timeout: float | None) -> socket.socket:
    """A connection to a control socket.

    :param timeout: seconds for each step.
    :raises NoAnswer: if nobody listens there.
    """
    if not hasattr(socket, 'AF_UNIX'):
        raise NoAnswer(path, 'this system has no Unix sockets')
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        until = None if timeout is None else time.monotonic() + timeout
        sock.settimeout(timeout)
        with _address(path) as address:
            while True:
                try:
                    sock.connect(address)
                    break
                except BlockingIOError:  # others wait there: connect(2), EAGAIN
                    if until is not None and time.monotonic() > until:
                        raise
                    time.sleep(0.01)
    except OSError as error:
        sock.close()
        busy = isinstance(error, (BlockingIOError, TimeoutError))
        code = errno.ETIMEDOUT if busy else error.errno or 0
        raise NoAnswer(path, error.strerror or str(error), code) from None
    return sock


def send(sock: socket.socket, command: str, **more: Any) -> None:
    """Ask for ``command``.

    :param more: further keys of the request.
    :raises NoAnswer: if the other end is gone.
    """
    request = {'version': VERSION, 'command': command, **more}
    try:
        sock.sendall(json.dumps(request).encode() + b'\n')
    except OSError as error:
        raise NoAnswer('', error.strerror or str(error), errno.ECONNRESET) from None


def receive(sock: socket.socket) -> dict[str, Any] | None:
    """Wait for the answer; None if the other end left without one."""
    line = b''
    try:
        while not line.endswith(b'\n'):
            came = sock.recv(65536)
            if not came:
                return None
            line += came
        # JSON has no Infinity, but Python writes it: a deadline that never comes.
        answer = json.loads(line, parse_constant=lambda _: None)
    except TimeoutError:
        raise NoAnswer('', 'no answer in time', errno.ETIMEDOUT) from None
    except (OSError, ValueError):
        return None
    return answer if isinstance(answer, dict) else None


def ask(path: str, command: str, timeout: float = 2, **more: Any) -> dict[str, Any]:
    """Ask for ``command`` and wait for the answer.

    :param timeout: seconds for each step.
    :param more: further keys of the request.
    :raises NoAnswer: if there is none.
    """
    with connect(path, timeout) as sock:
        try:
            send(sock, command, **more)
            answer = receive(sock)
        except NoAnswer as error:
            raise NoAnswer(path, error.reason, error.code) from None
    if answer is None:
        raise NoAnswer(path, 'it closed the connection', errno.ECONNRESET)
    if 'error' in answer:
        raise NoAnswer(path, str(answer['error']), errno.EPROTO)
    return answer
