"""How a known server runs on a bus: the base class of its adapter."""

from __future__ import annotations

import errno
import os
import socket
import threading
import time

from paste_wspbus.bus import Bus, State
from paste_wspbus.bus.host import host_of
from paste_wspbus.bus.interrupts import threads_are_greenlets
from paste_wspbus.errors import shortage
from paste_wspbus.forks import close_in_child
from paste_wspbus.servers.accepting import GRACE, Backlogs, Courtesy, Pauses, Stage
from paste_wspbus.servers.binding import ADDRESS, WHERE, Binding

__all__ = ['ADDRESS', 'WHERE', 'Load', 'Server']

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from typing import Any

    from paste_wspbus.listening.sockets import ListeningSocket
    from paste_wspbus.servers.cutting import RequestInFlight
    from paste_wspbus.servers.free_threads import Board, Sharing
    from paste_wspbus.servers.untouched import Untouched
    from paste_wspbus.watching.gate import Gate

#: Seconds between two checks whether a stopping server is done.
LOOK = 0.005

#: Seconds from a check that found an empty backlog to the check that confirms it: a
#: connection request may have been on its way through the kernel when the backlog was
#: closed to new ones.
CONFIRM = 0.0005

#: Seconds that a stop waits before it logs what it waits for.
PATIENCE = 2

#: The threads of the server must end within the first number of seconds. If requests
#: were cut, the second number applies. A stop with a deadline gives them less time.
JOIN, JOIN_CUT = 5.0, 0.5


class Load:
    """How busy a server is; None stands for what it does not know.

    ``threads`` is the number of its threads for requests, ``busy`` how many of them have
    a connection or a request, ``queued`` how many wait until one is free.
    """

    def __init__(
        self,
        threads: int | None = None,
        busy: int | None = None,
        queued: int | None = None,
    ) -> None:
        self.threads, self.busy, self.queued = threads, busy, queued


class Server(Binding):
    """A known HTTP server: it serves in threads of its own and stops without losing requests.

    The server binds before there is a bus. `plug_in` attaches it to a bus. Then the
    caller subscribes it with ``bus.subscribe('start', server, app)``, as the first
    description of the bus did.

    :param conf: the settings of ``[server:main]``, all strings.
    :raises SettingError: if one of them is wrong.
    """

    bus: Bus

    priority = 75  # that of CherryPy: the server starts after the parts that it needs
    scheme = 'http'
    #: Serves a connection of another worker, if it can: then it has made it its `own`.
    take: Callable[[socket.socket], object] | None = None
    blocking = False  # a start returns before the server stops
    #: Whether one thread accepts a connection, and another one reads from it.
    passes_connections = True

    def __init__(self, conf: Mapping[str, str], global_conf: Mapping[str, Any]) -> None:
        self.global_conf = global_conf
        super().__init__(self.read_settings(dict(conf)), conf)
        #: Whether a forked child keeps the sockets, too: a supervisor's worker does.
        self.shared = False
        #: Whether other processes accept from the same sockets at the same time.
        self.competes = False
        #: The places of all workers; and what a worker does with its own (`Board.share`).
        self.board: Board | None = None
        self.sharing: Sharing | None = None
        self.untouched: Untouched | None = None
        # A child that the site forks must not keep the port open: nobody accepts there
        # after the site has ended, and clients that connect would wait.
        close_in_child(self, Server.after_fork)
        self._drains = False
        self.drain_since = 0.0
        #: Under --reload, it says whether the code is still that of the files.
        self.gate: Gate | None = None
        #: Whether it listens at its start, but accepts nothing before `begin`.
        self.holds = self._is_held = False
        self.has_cut = self._has_given_up = False
        self._thread: threading.Thread | None = None
        self._pauses, self._courtesy = Pauses(), Courtesy()

    def plug_in(self, bus: Bus) -> None:
        """Subscribe to ``bus``, so that the server drains, stops and closes with the site."""
        self.bus = bus
        bus.subscribe('drain', self.drain)
        bus.subscribe('stop', self.stop, priority=25)
        bus.subscribe('exit', self.close)
        bus.plugins['server'] = self

    # What each server does in its own way.

    def read_settings(self, conf: dict[str, str]) -> dict[str, Any]:
        """Convert the settings; raise SettingError if one is wrong."""
        raise NotImplementedError

    def open(self, app: Any) -> None:
        """Make the server and listen on ``self.sockets``."""
        raise NotImplementedError

    def accepts_on(self) -> Iterable[socket.socket]:
        """Return the sockets that the server accepts on, now that it is open."""
        raise NotImplementedError

    def run(self) -> None:
        """Serve until `end`."""
        raise NotImplementedError

    def stop_accepting(self) -> None:
        """Close the listening sockets; no client waits there any more."""
        raise NotImplementedError

    def finish(self) -> bool:
        """Close idle connections; return whether no connection remains."""
        raise NotImplementedError

    def count(self) -> int:
        """Return how many connections are open."""
        raise NotImplementedError

    def requests_in_flight(self) -> list[RequestInFlight]:
        """List the requests that are not answered yet."""
        raise NotImplementedError

    def request_of(self, ident: int) -> RequestInFlight | None:
        """Return the request that a thread answers, if the server knows it."""
        for request in self.requests_in_flight():
            if request.stack is not None and request.stack.ident == ident:
                return request
        return None

    def give_up(self, request: RequestInFlight) -> bool:
        """Answer 503 to a request if nothing was sent, and close its connection.

        The thread that answers the request runs on; a stop does not wait for it.

        :param request: what `request_of` has returned.
        :returns: whether 503 was sent.
        """
        raise NotImplementedError

    def load_now(self) -> Load:
        """Return how busy the threads of the open server are; this makes no system call."""
        return Load()

    def free_threads(self) -> int | None:
        """Return how many threads have nothing to do, and no connection that they will have.

        :returns: None if the server does not know that, or has a thread for each request.
        """
        return None

    def resume(self) -> None:
        """Watch the listening sockets again, after `is_paused` became false in another thread."""

    def cut(self) -> None:
        """End the connections that remain, so that what reads or writes them fails."""
        raise NotImplementedError

    def end(self) -> None:
        """Make `run` return; drop the connections that remain.

        It waits no longer than `time_to_end` for threads.
        """
        raise NotImplementedError

    @classmethod
    def knows(cls, conf: Mapping[str, str]) -> bool:
        """Whether this adapter can do what the settings ask for."""
        return True

    # What all do alike.

    @property
    def urls(self) -> list[str]:
        """Where clients reach the server, such as ['http://127.0.0.1:8080']."""
        return [listening.url(self.scheme) for listening in self.sockets]

    def share(self, board: Board) -> None:
        """Let forked children keep the sockets: they are workers, with places on this board."""
        self.shared, self.board = True, board

    def adopt(self, sockets: list[ListeningSocket]) -> None:
        """Use these sockets, which another process has bound."""
        self.sockets = sockets

    def bequeath(self) -> list[ListeningSocket]:
        """Return copies of the listening sockets for the process that serves next.

        From now on, a stop leaves the connections in their backlogs to that process.
        """
        for listening in self.sockets:
            listening.owned = False
        return [listening.copy() for listening in self.sockets]

    def __call__(self, app: Any) -> None:
        """Serve ``app``: the bus calls this as a 'start' listener.

        :raises BindError: if the server cannot listen on an address.
        """
        self.bind()
        self._drains = False
        if threads_are_greenlets():  # they get no descriptors of another worker
            self.untouched = None
        try:
            self.open(app)
            self._check_sockets()
            self._is_held = self.holds
            if not self.holds:
                self._begin()
        except OSError as error:
            if shortage(error) is not None:
                self.close()
                raise
            from paste_wspbus.listening.sockets import bind_error

            wrong = bind_error(', '.join(self.urls), error)  # it says who listens now
            self.close()
            raise wrong from error
        except BaseException:
            self.close()
            raise

    def begin(self) -> None:
        """Accept connections, also those that wait in the backlog, after `holds`."""
        if self._is_held:
            self._is_held = False
            self._begin()

    def _begin(self) -> None:
        """Start the thread in which the server runs."""
        self._thread = threading.Thread(
            target=self._run, name='HTTP server', daemon=True
        )
        try:
            self._thread.start()
        except RuntimeError:  # the system starts no more threads
            self._thread = None
            self.end()
            raise
        if self.sharing is not None:
            self.sharing.begin()

    def _check_sockets(self) -> None:
        """Check that the server accepts on these sockets, and on no other one.

        Some servers drop a socket that they do not recognize (of a class that the site
        has patched, for example), and listen on their default address.

        :raises OSError: if the server accepts on other sockets.
        """
        ours = sorted(listening.sock.fileno() for listening in self.sockets)
        if sorted(sock.fileno() for sock in self.accepts_on()) != ours:
            self.end()
            raise OSError('the server does not use this socket')

    def _run(self) -> None:
        try:
            self.run()
        except BaseException:
            self.bus.log(
                'The HTTP server failed: this process stops', 40, traceback=True
            )
            self.bus.exit_code = 1
            self.bus.exit()

    def accept(self, sock: socket.socket) -> tuple[socket.socket, Any]:
        """Accept a connection; other processes may accept from the same socket.

        :raises BlockingIOError: if another process was faster, if accept() failed, or if
            the gate is shut. In the second and third case, `is_paused` is true.
        :raises ConnectionAbortedError: if the client has gone.
        """
        sharing = self.sharing
        if sharing is not None and sharing.leaves_it_to_others():
            raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))
        if self.competes:
            self._courtesy.wait(self.count())
        if self._is_outdated:  # the new code accepts what waits in the backlog
            raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))
        accepted = self._pauses.accept(sock, self.bus.log)
        if sharing is not None and not sharing.is_fast:
            sharing.count(accepted=1)
        return accepted

    @property
    def is_paused(self) -> bool:
        """Whether not to accept now.

        The gate is shut, accept() failed a moment ago, or connections are left to other
        workers, because all threads here are busy.
        """
        is_left = self.sharing is not None and self.sharing.is_leaving()
        return self._pauses.are_on or self._is_outdated or is_left

    @property
    def draining(self) -> bool:
        """Whether each connection is closed after its response."""
        return self._drains or self._is_outdated

    @property
    def _is_outdated(self) -> bool:
        """Whether a file has changed since this process read it (under --reload)."""
        gate = self.gate
        return gate is not None and gate.is_shut()

    def load(self) -> Load:
        """Return how busy the server is, while it is open."""
        return Load() if self._thread is None else self.load_now()

    def drain(self) -> None:
        """Close each connection after its response; keep accepting."""
        if not self._drains:
            self.drain_since = time.monotonic()
            self._drains = True
            if self.sharing is not None:
                self.sharing.end()

    def stop(self) -> None:
        """Stop accepting, then answer all requests that came, then close.

        This takes as long as the requests take, but it ends at `Deadline.cut_at`;
        ``bus.hurry()`` skips the wait. Requests that are still open then are cut.
        """
        thread = self._thread
        if thread is None:
            if self._is_held:
                self._is_held = False
                self.end()
                self.close()
            return
        self.drain()
        self.has_cut = False
        # Nobody else answers what waits there.
        if any(one.owned for one in self.sockets):
            self.gate = None
        backlogs = Backlogs(self.sockets)
        try:
            if thread.is_alive():  # else its loop has failed
                if backlogs:
                    self._wait_until(lambda: self._is_emptied(backlogs), looks=2)
                self.stop_accepting()
                backlogs.end(self.bus.hurried)
                self._wait_until(self.finish)
                if self.count():
                    from paste_wspbus.servers.cutting import cut  # rarely needed

                    self.has_cut = True
                    cut(self, self._is_outdated)
        finally:
            backlogs.end(self.bus.hurried)
            self.end()
            thread.join(self.at_most(1))
            self._thread = None
            self.close()

    def _is_emptied(self, backlogs: Backlogs) -> bool:
        if backlogs.are_empty():
            return True
        if self.is_paused:  # the copies and the idle connections use the descriptors
            backlogs.free_descriptors()
            self.finish()
        return False

    def _wait_until(self, done: Callable[[], bool], looks: int = 1) -> None:
        clean, patience = 0, time.monotonic() + PATIENCE
        while not self.bus.hurried:
            clean = clean + 1 if done() else 0
            if clean == looks:
                return
            now = time.monotonic()
            if now > self.bus.deadline.cut_at:
                return
            if now > patience:
                patience = float('inf')
                waiting = len(self.bus.plugins.get('requests', ()))
                how = '; a second signal skips the wait'
                if host_of(self.bus).is_supervised:
                    how = ''  # the supervisor prints that
                self.bus.log(f'Stopping: requests in flight: {waiting}{how}', level=30)
            time.sleep(CONFIRM if clean else LOOK)

    @property
    def time_to_end(self) -> float:
        """Seconds that `end` may wait for threads."""
        if self.bus.hurried:
            return 0.2
        is_short = self.has_cut or self._has_given_up
        return self.at_most(JOIN_CUT if is_short else JOIN)

    def at_most(self, seconds: float) -> float:
        """Return ``seconds``, or less if the stop must end before that."""
        remaining = max(self.bus.deadline.until - time.monotonic(), 0)
        return min(seconds, remaining / 4)

    def _runs(self) -> bool:
        return self._thread is not None and self._thread.is_alive()

    def close(self) -> None:
        """Close the sockets."""
        while self.sockets:
            self.sockets.pop().close()

    def after_fork(self) -> None:
        """Close the sockets in a forked child, unless the child is meant to have them."""
        if self.shared or self._may_daemonize():
            return
        while self.sockets:
            self.sockets.pop().sock.close()

    def _may_daemonize(self) -> bool:
        """Whether the Daemonizer may have made this fork: then the child is the site now."""
        bus: Bus | None = getattr(self, 'bus', None)
        return bus is not None and bus.state is State.STARTING and bus.turn.is_mine

    def may_close(self, stage: Stage, last_used: float) -> bool:
        """Whether a connection that was last used at that time may be closed.

        :param last_used: a time.monotonic()."""
        idle = time.monotonic() - max(last_used, self.drain_since)
        return stage in GRACE and idle > GRACE[stage]
