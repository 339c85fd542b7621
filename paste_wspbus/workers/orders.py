"""The orders of the supervisor: a worker reads them from its connection and obeys them."""

from __future__ import annotations

import _socket
import contextlib
import fcntl
import os
import signal
import socket
import sys
import threading
from collections import deque

from paste_wspbus.bus import Bus
from paste_wspbus.bus.interrupts import in_main_thread, threads_are_greenlets
from paste_wspbus.bus.supervised import supervised
from paste_wspbus.control.timeline import describe_calls
from paste_wspbus.errors import RestartImpossible
from paste_wspbus.exits import FAILED
from paste_wspbus.plugins.daemon import IsSupervised
from paste_wspbus.process.load import load_of, log_stacks
from paste_wspbus.requests.examining import examine, give_up
from paste_wspbus.wire.lines import read_order
from paste_wspbus.wire.words import MESSAGES

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from types import FrameType
    from typing import Any

    from paste_wspbus.listening.sockets import ListeningSocket
    from paste_wspbus.process.supervised_report import SupervisedReport

#: Seconds that a worker waits for the supervisor's consent to its stop.
ANSWER = 2.0

#: The bytes and descriptors of one recvmsg(2).
MAX_BYTES, MAX_FDS = 65536, 64

#: Seconds that the supervisor takes to end, at most, when its connections are closed.
ENDS = 1.0


class Courier:
    """The way of messages from the bus of a process to its supervisor.

    :param report: sends them.
    """

    __slots__ = ('reader', 'report')

    def __init__(self, report: SupervisedReport) -> None:
        self.report = report
        #: The thread that reads what the supervisor sends; None before it runs.
        self.reader: threading.Thread | None = None


class Orders:
    """Carries out the supervisor's orders, in a thread.

    :param owned: those of the supervisor's listening sockets that belong to this site
        alone.
    """

    def __init__(
        self,
        bus: Bus,
        connection: socket.socket,
        report: SupervisedReport,
        owned: list[ListeningSocket],
    ) -> None:
        self.bus, self.connection, self.report = bus, connection, report
        self._owned = owned
        self._listens = False
        #: Whether to report to the supervisor a stop that the site itself begins.
        self.announces = True
        self._is_ordered = threading.Event()
        self._orders: Mapping[str, Callable[..., object]] = {
            # The site stops: empty the sockets first, because nobody accepts afterwards.
            'stop': self._stop,
            # The site stops, but another program has the sockets, too.
            'release': self.leave,
            # Another worker takes the place of this one.
            'make_way': self._make_way,
            # The site is restarted; the listener of 'restart' decides how.
            'restart': self._restart,
            'hurry': bus.hurry,
            'force': lambda: bus.force_exit('Asked to stop three times'),
            'status': self._report_status,
            'timeline': lambda: self._report_calls(ends=False),
            'drain': lambda: setattr(bus, 'drained', True),
            'undrain': lambda: setattr(bus, 'drained', False),
            'stacks': self._log_stacks,
            'message': self._receive('receive'),
            'question': self._receive('receive'),
            'answered': self._receive('receive_answer'),
            'heard': self._receive('receive_all'),
            'missed': self._receive('receive_missed'),
            'examine': self._examine,
            'give_up': lambda number: give_up(bus, number),
            'take': self._take,
        }
        #: The descriptors that have come along with orders.
        self._fds: deque[int] = deque()

    def _receive(self, method: str) -> Callable[..., None]:
        def receive(content: Any = ()) -> None:
            # There are none if the program before this one had messages, and this one
            # has none.
            if self.bus.messages is not None:
                getattr(self.bus.messages, method)(*content)

        return receive

    def subscribe(self) -> None:
        """Read the supervisor's orders from the start of the site on."""
        self.bus.subscribe('start', self.start, priority=66)
        self.bus.subscribe('stop', self.announce, priority=float('-inf'))
        self.bus.subscribe('exit', self.report_last_calls, priority=float('inf'))
        supervised(self.bus).tell_style = self.report.restarts
        self.bus.subscribe('requests_cut', self.report.cut)
        self.bus.subscribe('ask_to_leave', self.report.leave)
        self.bus.subscribe('ask_for_successor', self.report.succeed)
        self.bus.courier = Courier(self.report)
        # The server starts after this, at 75.
        self.bus.subscribe('start', self.catch_up, priority=74)
        if self.bus.messages is not None:
            self.bus.messages.announce(self.bus.messages.accepted)

    def catch_up(self) -> None:
        """Wait for the messages that the site must have before it accepts connections."""
        if self.bus.messages is not None:
            self.bus.messages.catch_up()

    def start(self) -> None:
        """Start the thread.

        :raises IsSupervised: if this is not the process that the supervisor forked.
        """
        if self._listens:
            return
        if self.connection.fileno() < 0:
            raise IsSupervised
        self._listens = True
        # Made now, because the site may have patched the class.
        self._is_ordered = threading.Event()
        if in_main_thread():
            watch_for_the_end(self.connection, None)
        reader = threading.Thread(target=self._run, name='supervisor', daemon=True)
        reader.start()
        if self.bus.courier is not None:
            self.bus.courier.reader = reader

    def announce(self) -> None:
        """Report a stop that the site itself began, and wait until the supervisor orders it."""
        if self._is_ordered.is_set() or self.bus.execv or not self._listens:
            return
        if not self.announces:
            return
        if not self.report.outcome_sent:
            return  # the start has failed, which is reported instead
        self.report.leave()
        self._is_ordered.wait(ANSWER)

    def _run(self) -> None:
        # With the stream, the descriptor stays open when this process closes its end.
        with contextlib.suppress(OSError), self.connection.makefile('rb') as stream:
            lines = self._lines()
            if threads_are_greenlets():
                from paste_wspbus.bus import greenlets

                lines = greenlets.lines(stream)
            for line in lines:
                word, carried = read_order(line)
                if word in self._orders:
                    self._orders[word](*carried)
        # Stop before the log, which may hang.
        if _is_supervisor_gone(self.connection):
            self._stop()
            self.bus.log('The supervisor is gone: the site stops', 40)
        else:  # another process serves: the listening sockets must stay as they are
            self.bus.exit_code = self.bus.exit_code or FAILED
            self.leave()
            why = 'The connection to the supervisor is closed: this process stops'
            self.bus.log(why, 40)

    def _lines(self) -> Iterator[bytes]:
        """Yield the lines that the supervisor sends; their descriptors come before them."""
        rest = b''
        while True:
            came, fds, _, _ = socket.recv_fds(self.connection, MAX_BYTES, MAX_FDS)
            for fd in fds:
                os.set_inheritable(fd, False)
            self._fds.extend(fds)
            if not came:
                return
            *whole, rest = (rest + came).split(b'\n')
            yield from (line + b'\n' for line in whole)

    def _take(self, inode: int) -> None:
        # Greenlets get no descriptors. If none was free here, this one is missing, and the
        # next one belongs to the next order.
        if not self._fds or os.fstat(self._fds[0]).st_ino != inode:
            return
        from paste_wspbus.servers.untouched import take

        try:
            take(self.bus.plugins.get('server'), self._fds.popleft())
        except Exception:  # later orders must be read
            self.bus.log('A connection of another worker is lost', 40, traceback=True)

    def _stop(self) -> None:
        for listening in self._owned:
            listening.owned = True
        self.leave()

    def _make_way(self) -> None:
        # The delay is for load balancers, which need not notice: the site stays up.
        self.bus.drain_delay = 0
        self.bus.graceful()
        self.leave()

    def _restart(self) -> None:
        self.bus.drain_delay = 0
        self._is_ordered.set()
        try:
            self.bus.check_restart()
        except RestartImpossible:  # the supervisor starts another process in its place
            self.bus.exit()
        else:
            self.bus.restart()

    def leave(self) -> None:
        """Stop the site of this process, as the supervisor orders it."""
        self._is_ordered.set()
        self.bus.execv = False  # a worker that must stop does not replace itself
        self.bus.exit()

    def _log_stacks(self) -> None:
        log_stacks(self.bus)

    def _examine(self, number: int) -> None:
        self.report.examined(number, examine(self.bus, number))

    def report_last_calls(self) -> None:
        """Report the calls of listeners, because nobody can ask this process much longer."""
        self._report_calls(ends=True)

    def _report_calls(self, ends: bool) -> None:
        described = describe_calls(self.bus)
        self.report.timeline(described['calls'], described['left_out'], ends)

    def _report_status(self) -> None:
        calling = self.bus.calling
        self.report.status(
            {
                'state': self.bus.state.name,
                **load_of(self.bus),
                'calling': calling and [*calling],
                'debugger': _debugger(),
            }
        )


def _debugger() -> str:
    """Return what may stop threads of this process to debug them; '' if nothing is known.

    A debugger stops the threads that it watches. Python can say only of this thread
    whether it is watched, so this looks at the frames of all threads.
    """
    if 'pydevd' in sys.modules:  # debugpy, PyCharm
        return 'pydevd'
    if threading.gettrace() or any(map(_is_traced, sys._current_frames().values())):
        return 'sys.settrace'
    monitoring = getattr(sys, 'monitoring', None)  # since Python 3.12
    tool = monitoring and monitoring.get_tool(monitoring.DEBUGGER_ID)
    return f'sys.monitoring: {tool}'[:100] if tool else ''


def _is_traced(innermost: FrameType) -> bool:
    frame: FrameType | None = innermost
    while frame is not None:
        if frame.f_trace is not None:
            return True
        frame = frame.f_back
    return False


def _is_supervisor_gone(connection: socket.socket) -> bool:
    """Whether the supervisor has ended, and not only the connection to it.

    Code of the site can close the connection, too. If this is not known, the supervisor has
    ended.
    """
    try:
        from paste_wspbus.unix.peers import peer_of
        from paste_wspbus.unix.processes import OtherProcess

        peer = peer_of(connection)
        return peer is None or OtherProcess(peer[0], fd=-1).is_gone_within(ENDS)
    except Exception:  # another system, or no descriptor for the import
        return True


def _ignore(signum: int, frame: object) -> None:
    pass


def watch_for_the_end(
    connection: socket.socket, function: Callable[[], object] | None
) -> None:
    """Call ``function`` in the main thread when the supervisor has ended.

    It is for a process that must not start a thread: the system sends SIGIO when there
    is something to read (fcntl(2), O_ASYNC).

    :param function: None stops the watching, if there was any.
    """
    fd = connection.fileno()
    flags = fcntl.fcntl(fd, fcntl.F_GETFL)
    if function is None:
        if not flags & os.O_ASYNC:  # the handler may be the site's own
            return
        fcntl.fcntl(fd, fcntl.F_SETFL, flags & ~os.O_ASYNC)
        # Not SIG_DFL: a signal that is on its way would end the process.
        signal.signal(signal.SIGIO, _ignore)
        return
    call = function

    def look(*_: object) -> None:
        if _is_at_end(connection):
            call()

    signal.signal(signal.SIGIO, look)
    fcntl.fcntl(fd, fcntl.F_SETOWN, os.getpid())
    fcntl.fcntl(fd, fcntl.F_SETFL, flags | os.O_ASYNC)
    look()  # the supervisor may have ended already


def _is_at_end(connection: socket.socket) -> bool:
    """Whether the other end is closed; do not wait, and leave what came."""
    if not threads_are_greenlets():
        return _reads_the_end(connection)
    # A socket of gevent or eventlet would wait in spite of the flag. With a default timeout
    # of the site's, a new object would make the connection non-blocking for all.
    timeout = _socket.getdefaulttimeout()
    _socket.setdefaulttimeout(None)
    try:
        bare = _socket.socket(fileno=connection.fileno())
    except (OSError, ValueError):  # this process has closed it
        return False
    finally:
        _socket.setdefaulttimeout(timeout)
    try:
        return _reads_the_end(bare)
    finally:
        bare.detach()


def _reads_the_end(connection: _socket.socket) -> bool:
    try:
        return not connection.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT)
    except ConnectionResetError:
        return True
    except OSError:  # there is nothing to read, or this process has closed it
        return False


def wait_to_go(connection: socket.socket) -> bool:
    """Wait for an order; return whether it is 'go', and False if the supervisor has ended.

    Messages for a program that this one has replaced may come first.
    """
    while True:
        line = b''
        while not line.endswith(b'\n'):
            try:
                # The thread of `Orders` reads the later orders.
                came = connection.recv(1)
            except ConnectionResetError:
                # The supervisor ended before it read everything.
                return False
            if not came:
                return False
            line += came
        word, _ = read_order(line)
        if word not in MESSAGES:
            return word == 'go'
