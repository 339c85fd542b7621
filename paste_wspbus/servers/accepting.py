"""How a server accepts connections and stops accepting: `Pauses`, `Courtesy`, `Backlogs`."""

from __future__ import annotations

import contextlib
import enum
import errno
import os
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Iterable
    from typing import Any

    from paste_wspbus.listening.sockets import ListeningSocket


class Stage(enum.Enum):
    """Where a connection is: before its first request, between two requests, in the head of a request, or after the head."""

    NEW = 'new'
    IDLE = 'idle'
    HEAD = 'head'
    BUSY = 'busy'


#: Seconds without a byte after which a draining server closes a connection. A new
#: connection gets more time than an idle one: its client wants to send a request, and a
#: busy machine may delay it. Half a head gets most: the rest is probably on its way.
GRACE = {Stage.NEW: 0.2, Stage.IDLE: 0.03, Stage.HEAD: 1.0}

#: A process that has connections waits before it accepts another one, so that a process
#: with fewer connections may be faster. The numbers: seconds of waiting for each
#: connection; seconds at most; the largest part of its whole time that a process waits;
#: the seconds of this time that it may use in one burst.
COURTESY, MOST_COURTESY, COURTESY_SHARE, COURTESY_SAVED = 0.00005, 0.0005, 0.05, 0.05

#: Seconds that the server ignores the listening socket after accept() failed: the socket
#: is readable all the time, and the server would try without end.
PAUSE = 0.5

#: Seconds, at least, between two log lines about pauses.
REPEAT = 10.0


class Pauses:
    """The pauses that a server makes when accept() fails, for example without free descriptors."""

    def __init__(self) -> None:
        self._end = self._complained = float('-inf')

    def accept(
        self, sock: socket.socket, log: Callable[..., object]
    ) -> tuple[socket.socket, Any]:
        """Accept a connection; if that fails, begin a pause.

        :param log: is called with a line and its level if no connection can be accepted.
        :raises BlockingIOError: if another process was faster, or accept() failed.
        :raises ConnectionAbortedError: if the client has gone.
        """
        try:
            client, address = sock.accept()
            if client.fileno() < 3:
                from paste_wspbus.unix.numbers import above

                client = above(client)
            return client, address
        except (BlockingIOError, ConnectionAbortedError):
            raise
        except OSError as error:
            self._begin(error, log)
            raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN)) from error

    def _begin(self, error: OSError, log: Callable[..., object]) -> None:
        now = time.monotonic()
        self._end = now + PAUSE
        if error.errno == errno.EINVAL:
            return  # another process has shut the socket down: the site stops
        if now - self._complained > REPEAT:
            self._complained = now
            log(
                f'No connection can be accepted: {error.strerror}; '
                'open connections are still served',
                level=40,
            )

    @property
    def are_on(self) -> bool:
        """Whether a pause is in progress."""
        return time.monotonic() < self._end


class Courtesy:
    """Among processes that share a socket, let the one with the fewest connections accept first.

    All these processes wake up for a new connection. Without this class, one process may
    get a whole burst of connections, and keep them as long as the clients do.
    """

    def __init__(self) -> None:
        self._saved, self._since = COURTESY_SAVED, time.monotonic()

    def wait(self, connections: int) -> None:
        """Wait before accept(): the more connections this process has, the longer."""
        began = time.monotonic()
        earned = (began - self._since) * COURTESY_SHARE
        self._saved, self._since = min(self._saved + earned, COURTESY_SAVED), began
        if connections and self._saved > 0:
            time.sleep(min(connections * COURTESY, MOST_COURTESY))
            self._saved -= time.monotonic() - began


class Backlogs:
    """The backlogs of a stopping server, which answers what waits there and then ends them.

    From now on, new connections are refused. Sockets that this process does not own stay
    as they are: another process accepts what waits there.
    """

    def __init__(self, sockets: Iterable[ListeningSocket]) -> None:
        self._sockets = [listening for listening in sockets if listening.owned]
        for listening in self._sockets:
            listening.refuse_new()
        # `end` needs copies, because the sockets are closed then. If no descriptor is
        # free, some copies are missing.
        self._copies: list[ListeningSocket] = []
        with contextlib.suppress(OSError):
            for listening in self._sockets:
                self._copies.append(listening.copy())

    def __bool__(self) -> bool:
        return bool(self._sockets)

    def are_empty(self) -> bool:
        """Return whether nobody waits to be accepted."""
        return all(one.is_empty() for one in self._sockets)

    def free_descriptors(self) -> None:
        """Close the copies: accept() needs their descriptors."""
        while self._copies:
            self._copies.pop().close()

    def end(self, hurried: bool) -> None:
        """End the backlogs: a client that connects from now on is refused at once.

        :param hurried: refuse also the connections that wait in the backlog.
        """
        while self._copies:
            copy = self._copies.pop()
            # Another process that has this socket accepts the connections that wait.
            if hurried or copy.is_empty():
                copy.end()
            else:
                copy.close()
