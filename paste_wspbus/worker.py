"""A supervised process's own end: what it is for, what its supervisor says, whom signals are for."""

from __future__ import annotations

import contextlib
import fcntl
import os
import signal
import socket
import threading
import weakref
from typing import NamedTuple

from paste_wspbus.bus import Bus, State
from paste_wspbus.errors import RestartImpossible
from paste_wspbus.plugins.daemon import IsSupervised
from paste_wspbus.plugins.signals import SignalHandler

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from paste_wspbus.report import Report
    from paste_wspbus.sockets import ListeningSocket

#: What a process is for: it serves, it runs what there is once per site, or it
#: composes the site and forks those who serve; or it imports what the site imports
#: from others, and forks those who compose.
WORKER, SITE, PRELOAD, PACKAGES = 'worker', 'site plugins', 'preload', 'packages'

#: Seconds that a worker waits for the supervisor's consent to its stop.
ANSWER = 2.0


class Role(NamedTuple):
    """What a supervised process is for.

    ``number`` of a worker, from 1; 0: there is one, and nobody asked for a
    number of them. ``generation``: which deployment it belongs to. ``hold``:
    whether it waits, composed, for the word to start. ``later``: whether the
    site has been started before, so that its log is where errors are looked for.
    ``several``: whether others accept from the same sockets. ``spare``: whether
    it waits for the word before it composes. ``problem``: what it shows instead
    of the site: a traceback.
    """

    kind: str = WORKER
    number: int = 0
    generation: int = 1
    hold: bool = False
    later: bool = False
    several: bool = False
    spare: bool = False
    problem: str = ''

    @property
    def name(self) -> str:
        """Such as 'worker 2', 'site plugins', 'preload'; 'site' where there is one process."""
        if self.kind != WORKER:
            return self.kind
        return f'worker {self.number}' if self.number else 'site'

    @property
    def title(self) -> str:
        """What messages begin with."""
        return TITLES.get(self.name) or self.name.capitalize()


TITLES = {
    'site': 'The site',
    SITE: 'The process of the site plugins',
    PRELOAD: 'The process that composes the site',
    PACKAGES: 'The process that imports packages',
}


class WorkerSignals(SignalHandler):
    """Signals of a worker: to stop is for the supervisor to say, and to count.

    Ctrl-C and systemd signal a whole group: the worker gets it twice.
    """

    #: Whether somebody means this process alone, by SIGTERM.
    one_of_several = False

    def _carry_out(self, target: str) -> None:
        if target != 'hangup':  # it is for the supervisor, or a whole group
            super()._carry_out(target)

    def _leave(self, command: str) -> None:
        if self.bus.state is not State.STARTED:
            getattr(self.bus, command)()
        elif self.one_of_several:
            self.bus.post('ask_for_successor')
        else:
            self.bus.post('ask_to_leave')


class NumberedSignals(WorkerSignals):
    """The same for one of several workers: it asks for a successor, the site goes on."""

    one_of_several = True


class Orders:
    """The worker's end of its connection: a thread does what the supervisor says.

    :param owned: the supervisor's listening sockets, from which nobody else accepts.
    """

    def __init__(
        self,
        bus: Bus,
        connection: socket.socket,
        report: Report,
        owned: list[ListeningSocket],
    ) -> None:
        self.bus, self.connection, self.report = bus, connection, report
        self._owned = owned
        self._listens = False
        self._told = threading.Event()
        self._orders: Mapping[str, Callable[[], object]] = {
            # The site stops: empty the sockets first, nobody accepts after this one.
            'stop': self._stop,
            # The site stops, and somebody else has the sockets.
            'release': self._leave,
            # Another worker takes the place of this one.
            'make_way': self._make_way,
            # The site is restarted: how is for who listens to 'restart'.
            'restart': self._restart,
            'hurry': bus.hurry,
            'force': lambda: bus.force_exit('Told to stop three times'),
            'status': self._tell_status,
        }

    def subscribe(self) -> None:
        """Listen to the supervisor from the start of the site on."""
        self.bus.subscribe('start', self.start, priority=66)
        self.bus.subscribe('stop', self.announce, priority=float('-inf'))
        self.bus.succession = self.report.restarts
        self.bus.subscribe('ask_to_leave', self.report.leave)
        self.bus.subscribe('ask_for_successor', self.report.succeed)

    def start(self) -> None:
        """Start the thread.

        :raises IsSupervised: if this is not the process that the supervisor forked.
        """
        if self._listens:
            return
        if self.connection.fileno() < 0:
            raise IsSupervised
        self._listens = True
        if threading.current_thread() is threading.main_thread():
            watch_for_the_end(self.connection, None)
        threading.Thread(target=self._run, name='supervisor', daemon=True).start()

    def announce(self) -> None:
        """A stop that the site began itself: the supervisor is to refuse newcomers first."""
        if self._told.is_set() or self.bus.execv or not self._listens:
            return
        if not self.report.told:
            return  # a start that failed: that is reported instead
        self.report.leave()
        self._told.wait(ANSWER)

    def _run(self) -> None:
        with contextlib.suppress(OSError), self.connection.makefile() as lines:
            for line in lines:
                self._orders.get(line.strip(), lambda: None)()
        self._stop()  # first, for a log may hang
        self.bus.log('The supervisor is gone: the site stops', 40)

    def _stop(self) -> None:
        for listening in self._owned:
            listening.owned = True
        self._leave()

    def _make_way(self) -> None:
        self.bus.drain_delay = 0  # that is for who sends requests to a site that leaves
        self.bus.graceful()
        self._leave()

    def _restart(self) -> None:
        self.bus.drain_delay = 0
        self._told.set()
        try:
            self.bus._check_restart()
        except RestartImpossible:  # the supervisor starts another one in its place
            self.bus.exit()
        else:
            self.bus.restart()

    def _leave(self) -> None:
        self._told.set()
        self.bus.execv = False  # who is told to leave does not come back
        self.bus.exit()

    def _tell_status(self) -> None:
        requests, calling = self.bus.plugins.get('requests'), self.bus.calling
        self.report.status(
            {
                'state': self.bus.state.name,
                'requests': requests.report()['requests_in_flight'] if requests else [],
                'calling': calling and [*calling],
            }
        )


def watch_for_the_end(
    connection: socket.socket, function: Callable[[], object] | None
) -> None:
    """Have ``function`` called, in the main thread, when the supervisor is gone.

    For a process that has no thread to spare: the system sends SIGIO when
    there is something to read (fcntl(2), O_ASYNC). None: not any more.
    """
    fd = connection.fileno()
    flags = fcntl.fcntl(fd, fcntl.F_GETFL)
    if function is None:
        fcntl.fcntl(fd, fcntl.F_SETFL, flags & ~os.O_ASYNC)
        signal.signal(signal.SIGIO, signal.SIG_DFL)
        return
    call = function

    def look(*_: object) -> None:
        with contextlib.suppress(BlockingIOError):
            if not connection.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT):
                call()

    signal.signal(signal.SIGIO, look)
    fcntl.fcntl(fd, fcntl.F_SETOWN, os.getpid())
    fcntl.fcntl(fd, fcntl.F_SETFL, flags | os.O_ASYNC)
    look()  # it may be gone already


def wait_for_the_word(connection: socket.socket) -> bool:
    """Wait until the supervisor says 'go'; False if it does not want this process, or is gone."""
    line = b''
    while not line.endswith(b'\n'):
        try:
            came = connection.recv(1)  # what follows the line is not for here
        except ConnectionResetError:  # it has ended, and left something unread
            return False
        if not came:
            return False
        line += came
    return line == b'go\n'


_connections: weakref.WeakSet[socket.socket] = weakref.WeakSet()
_forks_watched = False


def close_in_children(connection: socket.socket) -> None:
    """A child of the site's must not keep it: its end tells of this process's end."""
    global _forks_watched
    _connections.add(connection)
    if not _forks_watched:
        _forks_watched = True
        os.register_at_fork(after_in_child=_after_fork)


def _after_fork() -> None:
    for connection in list(_connections):
        connection.close()
