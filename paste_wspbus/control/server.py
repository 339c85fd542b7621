"""The server of the control socket: it checks who may ask, and answers."""

from __future__ import annotations

import contextlib
import errno
import functools
import json
import os
import selectors
import socket
import sys
import threading
import time

from paste_wspbus.bus.interrupts import threads_are_greenlets
from paste_wspbus.control import VERSION
from paste_wspbus.errors import BindError, WSPBusError, shortage
from paste_wspbus.forks import close_in_child
from paste_wspbus.listening.sockets import Selector
from paste_wspbus.listening.unix_sockets import bind_with_mode
from paste_wspbus.streams import restore_deleted
from paste_wspbus.unix import exposed
from paste_wspbus.unix.numbers import above, copy_above
from paste_wspbus.unix.paths import address_of, listens, locked, remove_socket
from paste_wspbus.unix.peers import peer_of
from paste_wspbus.values import real_path

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Any

    from paste_wspbus.bus import Bus

    Handler = Callable[['Connection'], 'dict[str, Any] | None']

#: The number of bytes that a request has at most.
MAX_REQUEST = 4096

#: The number of connections without a complete request at most. The next connection
#: closes the oldest one.
MAX_CONNECTIONS = 32

#: The number of requests that wait for an answer at most. The next one closes the oldest.
MAX_WAITING = 256

#: Seconds that a client has to send its whole request, and to read its whole answer.
REQUEST_TIME, ANSWER_TIME = 5.0, 30.0

#: Seconds that a thread keeps the GIL at most while a client gets its answer.
SHORT_TURN = 0.0005

#: Seconds to sleep when a connection cannot be accepted.
REST = 0.05


class Connection:
    """A client, whose request may not be complete yet."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.buffer = b''
        #: The time.monotonic() until which the client must send its request, or read its
        #: answer.
        self.until = time.monotonic() + REQUEST_TIME
        #: The parsed request, whose ``command`` is known.
        self.request: dict[str, Any] = {}
        #: The process and the user of the client, if the system says so.
        self.peer: tuple[int, int] | None = None
        #: Sends the rest of an answer as soon as there is room for it.
        self.send_later: Callable[[Connection], None] | None = None
        # A forked child must not keep the connections of its parent open.
        close_in_child(self, Connection.disown)

    @property
    def client(self) -> str:
        """The client, such as 'alice (PID 4711)', as the system names it; else 'a client'."""
        if self.peer is None:
            return 'a client'
        pid, uid = self.peer
        try:
            name = user_name(uid)
        except Exception:  # such as no descriptor for a look-up or an import
            name = f'user {uid}'
        # The process ID is 0 if the client is in another container.
        return f'{name} (PID {pid})' if pid else name

    def who(self, command: str) -> str:
        """Return who has sent a command, such as '`wspserve graceful` by alice (PID 4711)'."""
        return f'`wspserve {command}` by {self.client}'

    def answer(self, message: dict[str, Any]) -> None:
        """Send the answer, and close; never wait for a client that does not read."""
        self.buffer = json.dumps({'version': VERSION, **message}).encode() + b'\n'
        if self.send() or self.send_later is None:
            self.close()
        else:
            self.send_later(self)

    def send(self) -> bool:
        """Send as much as there is room for; return whether everything was sent."""
        try:
            sent = self.sock.send(self.buffer, socket.MSG_DONTWAIT)
        except BlockingIOError:
            sent = 0
        except OSError:  # the client has ended
            sent = len(self.buffer)
        self.buffer = self.buffer[sent:]
        return not self.buffer

    def close(self) -> None:
        """Close the connection, with or without an answer."""
        self.sock.close()

    def disown(self) -> None:
        """Close the connection in a forked child, because the parent answers."""
        self.send_later = None
        self.close()


def failure(error: Exception) -> dict[str, Any]:
    """Return the answer to a request that has failed."""
    error = shortage(error) or error
    kind = '' if isinstance(error, WSPBusError) else f'{type(error).__name__}: '
    return {'error': f'{kind}{error}'}


class Control:
    """The server of the control socket. It never waits for a client.

    :param commands: a handler for each command. It gets the connection, with the
        ``request``, and returns the answer; or it returns None, and answers later.
    """

    def __init__(self, path: str, commands: Mapping[str, Handler]) -> None:
        self.path, self.commands = path, commands
        self.sock: socket.socket | None = None
        self.identity: tuple[int, int] | None = None
        #: Where its file is, also if a deployment changes a link in the path.
        self.place = path
        self._selector: selectors.BaseSelector | None = None
        self._connections: list[Connection] = []
        self._sending: list[Connection] = []
        #: The connections whose answers come later.
        self._waiting: list[Connection] = []
        #: Calls a function once, later. None: the thread that selects calls `drop_late`.
        self._call_later: Callable[[float, Callable[[], None]], object] | None = None
        self._is_timed = False
        #: A descriptor in whose place a client is accepted when no other one is free.
        self._reserve: int | None = None

    def open(self, *, shared: bool = False) -> None:
        """Bind with the mode 0600 and listen; replace the socket of a site that has ended.

        If this object has a socket already, which nobody can reach, this replaces it.

        :param shared: whether another site may listen there; if not, the caller holds a
            lock that belongs to the path.
        :raises OSError: if that fails; EADDRINUSE if another site listens there.
        """
        if not hasattr(socket, 'AF_UNIX'):
            raise OSError(errno.EAFNOSUPPORT, 'this system has no Unix sockets')
        if not shared:
            self._open()
            return
        with locked(os.path.dirname(self.path)):
            if listens(self.path):
                problem = 'another site listens there'
                raise OSError(errno.EADDRINUSE, problem)
            self._open()

    def _open(self) -> None:
        sock = above(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM))
        try:
            remove_socket(self.path)
            with address_of(self.path, makes=True) as address:
                bind_with_mode(sock, address, 0o600)
            sock.listen(MAX_CONNECTIONS)
        except BaseException:
            sock.close()
            raise
        self._use(sock)

    def adopt(self, fd: int) -> None:
        """Use the socket that the predecessor of this process has opened."""
        exposed.keep_folder(self.path)
        self._use(socket.socket(fileno=fd))

    def _use(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        before, self.sock = self.sock, sock
        if self._selector is not None:
            if before is not None:
                self._selector.unregister(before)
            self._selector.register(sock, selectors.EVENT_READ, self._accept)
        if before is not None:
            before.close()
        # Clients must not reach a forked child in the place of the site.
        close_in_child(self, Control.disown)
        self.place = real_path(self.path)
        with contextlib.suppress(OSError):
            status = os.lstat(self.path)
            self.identity = status.st_dev, status.st_ino

    def chown(self, uid: int, gid: int) -> None:
        """Give the socket to the user to which the process is going to change.

        :raises BindError: if another file is there now.
        """
        try:
            exposed.give_away(self.path, uid, gid)
        except OSError as error:
            raise BindError(self.path, error.strerror or str(error)) from None

    def serve(self, bus: Bus, at_once: bool = False) -> None:
        """Answer from the start of ``bus`` on: in its loop if it has one, else in a thread.

        :param at_once: whether the bus has started.
        """
        events = getattr(bus, 'events', None)
        if events is not None:
            self._call_later = events.call_later
            with contextlib.suppress(Exception):
                for uid in (0, os.geteuid()):  # later, a look-up in LDAP could hang
                    user_name(uid)
            self.register(events.selector)
        else:
            thread = ControlThread(self, bus)
            if at_once:
                thread.start()
            bus.subscribe('start', thread.start, priority=float('-inf'))

    def register(self, selector: selectors.BaseSelector) -> None:
        """Answer from now on: the thread that selects calls the ``data`` of each key."""
        assert self.sock is not None
        self._selector = selector
        self._open_reserve()
        selector.register(self.sock, selectors.EVENT_READ, self._accept)

    def _accept(self) -> None:
        assert self._selector is not None
        if self.sock is None:
            return  # it was closed meanwhile
        try:
            sock, _ = self.sock.accept()
        except OSError as error:
            if error.errno not in (errno.EMFILE, errno.ENFILE):
                return
            accepted = self._accept_in_place()
            if accepted is None:
                time.sleep(REST)  # select(2) reports the client again and again
                self._open_reserve()
                return
            sock = accepted
        try:
            self._begin(above(sock))
        finally:
            self._open_reserve()

    def _accept_in_place(self) -> socket.socket | None:
        """Accept a client in the place of the reserve, because no descriptor is free.

        `stop` and `status` must work then, too: one client after the other. If a client has
        the place of the reserve, and the site waits for it, that client loses it.
        """
        assert self.sock is not None
        if self._reserve is not None:
            os.close(self._reserve)
            self._reserve = None
        elif waited_for := [*self._connections, *self._sending]:
            self._end_sending(waited_for[0])
            self._drop(waited_for[0])
        else:
            return None
        with contextlib.suppress(OSError):  # other code may have used it
            return self.sock.accept()[0]
        return None

    def _begin(self, sock: socket.socket) -> None:
        """Check who the client is, and read its request."""
        assert self._selector is not None
        # The site may have set a default timeout. The socket of a greenlet waits in spite of
        # MSG_DONTWAIT, and with it the only greenlet that answers here.
        sock.settimeout(0 if threads_are_greenlets() else None)
        peer = peer_of(
            sock
        )  # if it is unknown, the socket's mode, 0600, must be enough
        if peer is not None and peer[1] not in (0, os.geteuid()):
            sock.close()  # only root and the user of this process may ask
            return
        connection = Connection(sock)
        connection.peer = peer
        connection.send_later = self._send_later
        # Most requests are there already, so read at once. While the site's threads
        # compute, this thread waits for the GIL after each system call: make few of them.
        if self._read(connection):
            return
        if len(self._connections) >= MAX_CONNECTIONS:
            self._drop(self._connections[0])
        self._connections.append(connection)
        self._selector.register(
            sock, selectors.EVENT_READ, lambda: self._read(connection)
        )
        self._set_timer()

    def drop_late(self) -> float | None:
        """Drop clients that are too slow.

        :returns: the seconds until the next call of this method; None if no client has to
            do anything.
        """
        now = time.monotonic()
        for connection in [*self._connections, *self._sending]:
            if connection.until <= now:
                # Another thread may have closed it at this moment.
                with contextlib.suppress(KeyError, ValueError, OSError):
                    self._end_sending(connection)
                    self._drop(connection)
        remaining = [*self._connections, *self._sending]
        return min((one.until - now for one in remaining), default=None)

    def _set_timer(self) -> None:
        if self._call_later is None:
            return  # the thread that selects calls `drop_late` itself
        seconds = self.drop_late()
        if self._is_timed or seconds is None:
            return
        self._is_timed = True

        def look() -> None:
            self._is_timed = False
            self._set_timer()

        self._call_later(seconds, look)

    def _open_reserve(self) -> None:
        if self._reserve is None and self.sock is not None:
            # Other code may have used the last one.
            with contextlib.suppress(OSError):
                self._reserve = os.open(os.devnull, os.O_RDONLY)

    def _read(self, connection: Connection) -> bool:
        """Read and answer; return whether the request is complete or the connection closed."""
        try:
            came = connection.sock.recv(MAX_REQUEST, socket.MSG_DONTWAIT)
        except BlockingIOError:
            return False
        except OSError:
            came = b''
        connection.buffer += came
        if b'\n' in connection.buffer:
            self._forget(connection)
            self._answer(connection)
        elif not came or len(connection.buffer) > MAX_REQUEST:
            self._drop(connection)
        else:
            return False
        return True

    def _answer(self, connection: Connection) -> None:
        try:
            request = json.loads(connection.buffer.partition(b'\n')[0])
            version, command = request['version'], request['command']
        except (ValueError, KeyError, TypeError, RecursionError):
            connection.answer({'error': 'the line that came is not a request'})
            return
        known_one = isinstance(command, str) and command in self.commands
        if version != VERSION or not known_one:
            known = ', '.join(self.commands)
            problem = f'this site speaks version {VERSION}, with the commands {known}'
            connection.answer({'error': problem})
            return
        connection.request = request
        try:
            answer = self.commands[command](connection)
        except Exception as error:
            answer = failure(error)
        if answer is not None:
            connection.answer(answer)
        else:
            self._keep(connection)

    def _keep(self, connection: Connection) -> None:
        """Note that an answer comes later; if too many wait, close the oldest connection."""
        self._waiting = [one for one in self._waiting if one.sock.fileno() >= 0]
        if len(self._waiting) >= MAX_WAITING:
            self._waiting.pop(0).close()
        if connection.sock.fileno() >= 0:
            self._waiting.append(connection)

    def _send_later(self, connection: Connection) -> None:
        if self._selector is None or self.sock is None:
            connection.close()
            return
        if len(self._sending) >= MAX_CONNECTIONS:
            self._end_sending(self._sending[0])
        connection.until = time.monotonic() + ANSWER_TIME
        self._sending.append(connection)
        self._selector.register(
            connection.sock, selectors.EVENT_WRITE, lambda: self._send(connection)
        )
        self._set_timer()

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
        """Return a copy of the socket's descriptor for the next program; see `forget`."""
        return None if self.sock is None else copy_above(self.sock.fileno())

    def forget(self) -> None:
        """Close everything, but do not remove the file, which belongs to the successor now."""
        self.identity = None
        self.close()

    def disown(self) -> None:
        """Close everything in a forked child; the parent keeps the file and the selector."""
        self._selector = None  # the parent has the same epoll(7), which must not change
        self.forget()

    def close(self) -> None:
        """Close everything, and remove the socket's file if it is still that of this socket."""
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
            if self.identity:
                exposed.remove(self.path, self.identity)
        self.sock.close()
        self.sock = None


class ControlThread:
    """A thread that serves a `Control`, while the main thread sleeps in block()."""

    def __init__(self, control: Control, bus: Bus) -> None:
        self._control, self._bus = control, bus
        self._thread: threading.Thread | None = None
        self._turns = ShortTurns()

    def start(self) -> None:
        """Start the thread."""
        if self._thread is not None:
            return
        # gevent and eventlet replace it with one for greenlets, which a thread cannot use.
        kind = selectors.DefaultSelector if threads_are_greenlets() else Selector
        self._selector = kind()
        self._control.register(self._selector)
        restore_deleted()  # a request may have deleted them since the start
        self._thread = threading.Thread(
            target=self._run, name='control socket', daemon=True
        )
        self._thread.start()

    def _run(self) -> None:
        while True:
            try:
                ready = self._selector.select(self._control.drop_late())
            except OSError:  # eventlet wakes who waits for a socket that is closed
                if self._control.sock is None:
                    return
                raise
            with self._turns:
                for key, _ in ready:
                    try:
                        key.data()
                    except Exception:  # no client may end this thread
                        self._bus.log('The control socket failed', 40, traceback=True)


class ShortTurns:
    """The turns of threads with the GIL are short in a ``with`` block.

    While the threads of a site compute, another thread waits for the GIL after each system
    call: by Python's default 5 ms for each of them.
    """

    def __init__(self) -> None:
        self._before: float | None = None
        close_in_child(self, ShortTurns.end)

    def __enter__(self) -> None:
        self._before = sys.getswitchinterval()
        sys.setswitchinterval(SHORT_TURN)

    def __exit__(self, *exc_info: object) -> None:
        self.end()

    def end(self) -> None:
        """Restore the interval, also in a child that was forked meanwhile."""
        before, self._before = self._before, None
        # The site may have set another one meanwhile.
        if before is not None and abs(sys.getswitchinterval() - SHORT_TURN) < 1e-6:
            sys.setswitchinterval(before)


@functools.cache
def user_name(uid: int) -> str:
    """Return the name of a user; if the user has none, 'user' and the number."""
    from paste_wspbus.unix.users import name_of

    name = name_of(uid)
    return f'user {name}' if name.isdecimal() else name
