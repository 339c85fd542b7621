"""The control socket: a local socket beside the PID file that answers status and stop."""

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

from paste_wspbus.errors import WSPBusError
from paste_wspbus.sockets import UNIX_PATH_MAX

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Mapping
    from typing import Any

    from paste_wspbus.bus import Bus

    Handler = Callable[['Connection'], 'dict[str, Any] | None']

#: Of the protocol: one line of JSON each way.
VERSION = 1

#: The longest request, in bytes.
MAX_REQUEST = 4096

#: The most connections at a time; one more closes the oldest that asked for nothing.
MAX_CONNECTIONS = 32


class NoAnswer(WSPBusError):
    """Nobody answers on a control socket: ``path``."""

    def __init__(self, path: str, reason: str) -> None:
        super().__init__(f'{path}: {reason}')
        self.path = path


def path_for(pid_file: str) -> str:
    """Where the control socket of the site with this PID file is."""
    return f'{os.path.abspath(pid_file)}.sock'


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
        #: Whether it was answered, or will be later.
        self.asked = False

    def answer(self, message: dict[str, Any]) -> None:
        """Send the answer, and close; a client that does not read gets less."""
        with contextlib.suppress(OSError):
            line = json.dumps({'version': VERSION, **message}) + '\n'
            self.sock.send(line.encode())
        self.sock.close()


class Control:
    """The answering end. It never waits for a client.

    :param commands: what it can be asked for; a handler gets the connection
        and returns the answer, or None and answers later.
    """

    def __init__(self, path: str, commands: Mapping[str, Handler]) -> None:
        self.path, self.commands = path, commands
        self.sock: socket.socket | None = None
        self._identity: tuple[int, int] | None = None
        self._selector: selectors.BaseSelector | None = None
        self._connections: list[Connection] = []

    def open(self) -> None:
        """Bind and listen, mode 0600; a socket that is left there is replaced.

        The caller holds the PID file's lock: nobody else listens there.

        :raises OSError: if it cannot be.
        """
        if not hasattr(socket, 'AF_UNIX'):
            raise OSError(errno.EAFNOSUPPORT, 'this system has no Unix sockets')
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

    def adopt(self, fd: int) -> None:
        """Go on with the socket of the process before this one."""
        self._use(socket.socket(fileno=fd))

    def _use(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        self.sock = sock
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
        selector.register(self.sock, selectors.EVENT_READ, self._accept)

    def _accept(self) -> None:
        assert self._selector is not None
        if self.sock is None:
            return  # closed meanwhile
        try:
            sock, _ = self.sock.accept()
        except OSError:
            return
        if not _may_ask(sock):
            sock.close()
            return
        sock.setblocking(False)
        idle = [one for one in self._connections if not one.asked]
        if len(idle) >= MAX_CONNECTIONS:
            self._drop(idle[0])
        connection = Connection(sock)
        self._connections.append(connection)
        self._selector.register(
            sock, selectors.EVENT_READ, lambda: self._read(connection)
        )

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
        connection.asked = True
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
        try:
            answer = self.commands[command](connection)
        except Exception as error:
            answer = {'error': f'{type(error).__name__}: {error}'}
        if answer is not None:
            connection.answer(answer)

    def _forget(self, connection: Connection) -> None:
        assert self._selector is not None
        self._connections.remove(connection)
        self._selector.unregister(connection.sock)

    def _drop(self, connection: Connection) -> None:
        self._forget(connection)
        connection.sock.close()

    def bequeath(self) -> int | None:
        """A copy of the socket's descriptor, for the successor; see `forget`."""
        return None if self.sock is None else self.sock.dup().detach()

    def forget(self) -> None:
        """Close all, and leave the file: in a forked child, or for the successor."""
        self._identity = None
        self.close()

    def close(self) -> None:
        """Close all, and remove the socket's file if it is still ours."""
        for connection in self._connections:
            connection.sock.close()
        self._connections.clear()
        if self.sock is None:
            return
        if self._selector is not None:
            with contextlib.suppress(KeyError, ValueError, OSError):
                self._selector.unregister(self.sock)
        with contextlib.suppress(OSError):
            status = os.lstat(self.path)
            if (status.st_dev, status.st_ino) == self._identity:
                os.unlink(self.path)
        self.sock.close()
        self.sock = None


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
        raise NoAnswer(path, error.strerror or str(error)) from None
    return sock


def send(sock: socket.socket, command: str) -> None:
    """Ask for ``command``.

    :raises NoAnswer: if the other end is gone.
    """
    try:
        sock.sendall(
            json.dumps({'version': VERSION, 'command': command}).encode() + b'\n'
        )
    except OSError as error:
        raise NoAnswer('', error.strerror or str(error)) from None


def receive(sock: socket.socket) -> dict[str, Any] | None:
    """Wait for the answer; None if the other end left without one."""
    line = b''
    try:
        while not line.endswith(b'\n'):
            came = sock.recv(65536)
            if not came:
                return None
            line += came
        answer = json.loads(line)
    except TimeoutError:
        raise NoAnswer('', 'no answer in time') from None
    except (OSError, ValueError):
        return None
    return answer if isinstance(answer, dict) else None


def ask(path: str, command: str, timeout: float = 2) -> dict[str, Any]:
    """Ask for ``command`` and wait for the answer.

    :param timeout: seconds.
    :raises NoAnswer: if there is none.
    """
    with connect(path, timeout) as sock:
        send(sock, command)
        answer = receive(sock)
    if answer is None:
        raise NoAnswer(path, 'it closed the connection')
    if 'error' in answer:
        raise NoAnswer(path, answer['error'])
    return answer
