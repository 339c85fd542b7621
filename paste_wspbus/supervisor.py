"""A parent that holds the sockets and the PID file, and keeps the site's process alive."""

from __future__ import annotations

import contextlib
import functools
import heapq
import itertools
import os
import selectors
import signal
import socket
import sys
import threading
import time
from collections import deque
from queue import Empty

from paste_wspbus.bus import Bus, ChannelFailures, State
from paste_wspbus.errors import WSPBusError
from paste_wspbus.plugins.signals import SignalHandler
from paste_wspbus.report import Inbox

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Any

    from paste_wspbus.report import Report
    from paste_wspbus.servers import Server
    from paste_wspbus.sockets import ListeningSocket

#: Seconds before the first, second, … restart of a site that crashes again and again.
BACKOFF = (0.0, 1.0, 2.0, 4.0, 8.0)

#: A site that ran so many seconds is healthy: the next crash is a first one.
HEALTHY = 60.0

#: What of the signals' meanings is the supervisor's, not the worker's.
_OWN = frozenset({'exit', 'stop', 'hangup', 'restart', 'graceful'})

#: Seconds that a worker waits for the supervisor's consent to its stop.
ANSWER = 2.0

#: Seconds beyond the worker's own deadline until it is killed.
MARGIN = 5.0


class WorkerFailed(WSPBusError):
    """The worker ended before it was ready; ``told``: it has said why itself."""

    def __init__(self, code: int, line: str, told: bool) -> None:
        super().__init__(line)
        self.exit_code, self.told = code, told


class BecomeWorker(BaseException):
    """Raised in a forked child, to unwind the supervisor's stack: see `supervise`."""

    def __init__(self, connection: socket.socket) -> None:
        self.connection = connection


class Events:
    """A bus's queue (put, get, empty) whose get() also serves descriptors, timers, signals.

    For a process of a single thread, which may fork at any time. Each key's
    ``data`` in ``selector`` is called when its descriptor is readable.
    """

    def __init__(self) -> None:
        self.selector = selectors.DefaultSelector()
        #: Called after each signal.
        self.woken: Callable[[], None] = lambda: None
        self._requests: deque[Any] = deque()
        self._timers: list[tuple[float, int, Callable[[], None]]] = []
        self._numbers = itertools.count()
        self._reader, self._writer = socket.socketpair()
        self._reader.setblocking(False)
        self._writer.setblocking(False)
        self.selector.register(self._reader, selectors.EVENT_READ, self._drain)

    def put(self, request: Any) -> None:
        """Queue a request; signal handlers do, too."""
        self._requests.append(request)
        with contextlib.suppress(OSError):  # full: it wakes up anyhow
            self._writer.send(b'.')

    def empty(self) -> bool:
        """Whether there is no request."""
        return not self._requests

    def get(self, timeout: float | None = None) -> Any:
        """Wait for a request; raise queue.Empty after ``timeout`` seconds."""
        until = None if timeout is None else time.monotonic() + timeout
        while not self._requests:
            left = None if until is None else until - time.monotonic()
            if left is not None and left <= 0:
                raise Empty
            self.step(left)
        return self._requests.popleft()

    def step(self, timeout: float | None) -> None:
        """Sleep until something happens, or for ``timeout`` seconds; see to it."""
        if self._timers:
            due = max(self._timers[0][0] - time.monotonic(), 0)
            timeout = due if timeout is None else min(timeout, due)
        for key, _ in self.selector.select(timeout):
            key.data()
        while self._timers and self._timers[0][0] <= time.monotonic():
            heapq.heappop(self._timers)[2]()

    def call_later(self, seconds: float, function: Callable[[], None]) -> None:
        """Have `step` call ``function`` in so many seconds."""
        entry = time.monotonic() + seconds, next(self._numbers), function
        heapq.heappush(self._timers, entry)

    def _drain(self) -> None:
        with contextlib.suppress(BlockingIOError):
            while self._reader.recv(4096):
                pass
        self.woken()

    def __enter__(self) -> Events:
        """From now on, a signal wakes `step`."""
        signal.set_wakeup_fd(self._writer.fileno(), warn_on_full_buffer=False)
        return self

    def __exit__(self, *_: object) -> None:
        signal.set_wakeup_fd(-1)

    def close(self) -> None:
        """Close its descriptors."""
        self.selector.close()
        self._reader.close()
        self._writer.close()


class Repeat:
    """Calls ``function`` every ``seconds`` until that returns False, or `end`; no thread."""

    def __init__(
        self, events: Events, seconds: float, function: Callable[[], bool]
    ) -> None:
        self._events, self._seconds, self._function = events, seconds, function
        self._ended = False
        events.call_later(seconds, self._call)

    def _call(self) -> None:
        if not self._ended and self._function():
            self._events.call_later(self._seconds, self._call)

    def end(self) -> None:
        """End it."""
        self._ended = True


class SupervisorBus(Bus):
    """The supervisor's own bus: a process of one thread, which sleeps in select."""

    interrupts_class = staticmethod(lambda **_: contextlib.nullcontext())

    def __init__(self) -> None:
        super().__init__()
        self.events = Events()
        self._requests = self.events  # type: ignore[assignment]
        self.supervisor: Supervisor

    def repeat(self, name: str, seconds: float, function: Callable[[], bool]) -> Repeat:
        """What plugins have instead of a thread of their own."""
        return Repeat(self.events, seconds, function)

    def restart(self) -> None:
        """Restart the worker; this process stays."""
        self.graceful()

    def force_exit(self, why: str) -> None:
        """Have the worker leave at once, too."""
        self.supervisor.tell('force')
        super().force_exit(why)


class Worker:
    """The child process: its number, its reports, and whether it is ready."""

    def __init__(self, pid: int, connection: socket.socket) -> None:
        self.pid, self.connection = pid, connection
        self.inbox = Inbox(connection.fileno())
        self.since = time.monotonic()
        self.ready: list[str] | None = None
        #: The signals that it gets when it is ready.
        self.waiting: list[str] = []
        #: Whether it was asked to make way for the next one.
        self.leaving = False

    @property
    def age(self) -> float:
        """Seconds since it was forked."""
        return time.monotonic() - self.since


class Supervisor:
    """Forks the worker, waits for it to be ready, replaces it when it crashes.

    :param server: holds the listening sockets, and never serves.
    :param restarts: whether a crash is followed by a new worker; else the
        supervisor ends as the worker did.
    :param stop_timeout: the worker's own deadline, in seconds.
    """

    backoff = BACKOFF
    healthy = HEALTHY

    def __init__(
        self,
        bus: SupervisorBus,
        server: Server | None,
        restarts: bool,
        stop_timeout: float,
    ) -> None:
        self.bus, self.server, self.restarts = bus, server, restarts
        self.events = bus.events
        self.stop_timeout = stop_timeout
        self.worker: Worker | None = None
        self.code = 0
        self._line = self._death = ''
        self._lines: list[str] = []
        self._ended: tuple[Worker, int] | None = None
        self._previous: Any = signal.SIG_DFL
        self._crashes = 0
        bus.supervisor = self
        if server is not None:
            server.shared = True

    def subscribe(self, signals: SignalHandler) -> None:
        """Ride the bus; signals that mean something to the site go to the worker."""
        self.bus.subscribe('start', self.start)
        self.bus.subscribe('stop', self.stop)
        self.bus.subscribe('graceful', self.replace)
        for name, target in signals.handlers.items():
            if target not in _OWN:
                self.bus.subscribe(name, functools.partial(self.forward, name))

    def run(self, ready: Callable[[list[str]], None]) -> int:
        """Run the supervisor's bus to its end.

        :param ready: called with the worker's lines for the terminal when it is STARTED.
        :returns: the exit code.
        :raises WorkerFailed: if the first worker ends before it is ready.
        :raises BecomeWorker: in each worker.
        """
        bus = self.bus
        with bus.events:
            try:
                bus.start()
            except ChannelFailures as failures:
                bus.exit()
                raise failures.get_instances()[0] from None
            if bus.state is State.STARTED:
                ready(self._lines)
                if self._ended is not None:
                    self._succeed(*self._ended)
            bus.block(states=State.STOPPED)
            bus.exit()
        return bus.exit_code

    # What the bus says.

    def start(self) -> None:
        """Fork the worker and wait until it is ready.

        :raises WorkerFailed: if it ends before.
        """
        self.events.woken = self._reap
        # It wakes up `Events.step`.
        self._previous = signal.signal(signal.SIGCHLD, lambda *_: None)
        first = self._spawn()
        while first.ready is None and (self.worker is first or first.leaving):
            if self.bus.leaving:
                return
            if self.worker is None:  # it asked to be started again
                first = self._spawn()
            self.events.step(None)
        if first.ready is None and not self.bus.leaving:
            raise WorkerFailed(
                self.code or 1, self._line or self._death, bool(self._line)
            )
        self._lines = first.ready or []

    def stop(self) -> None:
        """Have the worker stop, and wait for its end."""
        if self.worker is None:
            return
        if self.worker.ready is None:
            self._signal(signal.SIGTERM)  # it does not listen to messages yet
        else:
            self._order_stop()
        until, hurried = time.monotonic() + self.stop_timeout + MARGIN, False
        while self.worker is not None:
            if self.bus.hurried and not hurried:
                hurried = True
                self.tell('hurry')
            left = until - time.monotonic()
            if left <= 0:
                self.bus.log(f'Process {self.worker.pid} does not stop: killed', 50)
                self._signal(signal.SIGKILL)
                until, left = float('inf'), float('inf')
            self.events.step(None if left == float('inf') else left)
        self.bus.exit_code = self.bus.exit_code or self.code

    def _order_stop(self) -> None:
        """Nobody accepts from the sockets after this worker: it is to empty them first."""
        sockets = self.server.sockets if self.server is not None else []
        self.tell('stop' if any(one.owned for one in sockets) else 'make_way')

    def replace(self) -> None:
        """Have the worker stop; a new one takes its place, on the same sockets."""
        if self.worker is not None and not self.worker.leaving:
            self.worker.leaving = True
            self.tell('make_way')

    def tell(self, message: str) -> None:
        """Send the worker a message: stop, make_way, hurry or force."""
        if self.worker is not None:
            with contextlib.suppress(OSError):
                self.worker.connection.send(f'{message}\n'.encode())

    def forward(self, name: str) -> None:
        """Pass a signal on to the worker, when it is ready: before, it would die of it."""
        if self.worker is not None and self.worker.ready is None:
            self.worker.waiting.append(name)
        else:
            self._signal(signal.Signals[name])

    def _signal(self, number: signal.Signals) -> None:
        if self.worker is not None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.worker.pid, number)

    # What becomes of the worker.

    def _spawn(self) -> Worker:
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        mine, its = socket.socketpair()
        pid = os.fork()
        if not pid:
            mine.close()
            self.events.close()
            signal.signal(signal.SIGCHLD, self._previous)
            raise BecomeWorker(its)
        its.close()
        self.worker = Worker(pid, mine)
        self._line = ''
        self.events.selector.register(mine, selectors.EVENT_READ, self._hear)
        self.bus.publish('worker_started', pid)
        return self.worker

    def _hear(self) -> None:
        worker = self.worker
        if worker is None:
            return  # its end was noticed first, and all it said was read
        try:
            messages = worker.inbox.read()
        except OSError:
            messages = None
        if messages is None:  # it closed its end; its death comes by SIGCHLD
            with contextlib.suppress(KeyError):
                self.events.selector.unregister(worker.connection)
            return
        for message in messages:
            self._understand(worker, message)

    def _understand(self, worker: Worker, message: dict[str, Any]) -> None:
        if 'ready' in message:
            worker.ready = message['ready']
            self.bus.publish('worker_ready', worker.pid)
            while worker.waiting:
                self.forward(worker.waiting.pop(0))
            if self.bus.state is State.STOPPING:
                self._order_stop()  # SIGTERM may have come too late
        elif 'failed' in message:
            self._line = message['line']
        elif 'restart' in message:
            worker.leaving = True
        elif 'leave' in message:
            if self.bus.state is State.STOPPING:
                self._order_stop()
            self.bus.exit()

    def _reap(self) -> None:
        """Take note of children that ended; as process 1, also of orphans."""
        with contextlib.suppress(ChildProcessError):
            while True:
                pid, status = os.waitpid(-1, os.WNOHANG)
                if not pid:
                    return
                if self.worker is not None and pid == self.worker.pid:
                    self._has_died(os.waitstatus_to_exitcode(status))

    def _has_died(self, code: int) -> None:
        worker = self.worker
        assert worker is not None
        with contextlib.suppress(KeyError):
            self.events.selector.unregister(worker.connection)
        worker.connection.setblocking(False)
        with contextlib.suppress(OSError):  # its last words, or none
            for message in worker.inbox.read() or ():
                self._understand(worker, message)
        worker.connection.close()
        self.worker = None
        self.code = code if code >= 0 else 128 - code
        self._death = (
            f'The site (process {worker.pid}) died while it started, {_how(code)}'
        )
        self.bus.publish('worker_died', worker.pid, code)
        if self.bus.state is State.STARTED:
            self._succeed(worker, code)
        elif self.bus.state is State.STARTING and worker.ready is not None:
            self._ended = worker, code  # it was faster than our reading of it

    def _succeed(self, worker: Worker, code: int) -> None:
        """After a worker's end: the next one, or the end of all."""
        if self.bus.state is not State.STARTED:
            return
        if worker.leaving:
            self.events.call_later(0, self._spawn_again)
        elif code == 0 or not self.restarts:
            self.bus.exit_code = self.code
            self.bus.exit()
        else:
            self._restart(worker, code)

    def _restart(self, worker: Worker, code: int) -> None:
        what = f'The site (process {worker.pid}) crashed, {_how(code)}'
        self._crashes = 1 if worker.age > self.healthy else self._crashes + 1
        if self._crashes > len(self.backoff):
            self.bus.log(f'{what}, {self._crashes} times in a row: given up', 50)
            self.bus.exit_code = 1
            self.bus.exit()
            return
        wait = self.backoff[self._crashes - 1]
        self.bus.log(f'{what}; restarting{f" in {wait:g} s" if wait else ""}', 40)
        self.events.call_later(wait, self._spawn_again)

    def _spawn_again(self) -> None:
        if self.worker is None and self.bus.state is State.STARTED:
            self._spawn()


def _how(code: int) -> str:
    """The end of a process, in words: os.waitstatus_to_exitcode's number."""
    if code >= 0:
        return f'exit code {code}'
    try:
        return f'signal {signal.Signals(-code).name}'
    except ValueError:
        return f'signal {-code}'


# -- in the worker --------------------------------------------------------------------


class WorkerSignals(SignalHandler):
    """Signals of a worker: to stop is for the supervisor to say, and to count.

    Ctrl-C and systemd signal a whole group: the worker gets it twice.
    """

    def _leave(self, command: str) -> None:
        if self.bus.state is State.STARTED:
            self.bus.post('ask_to_leave')
        else:
            getattr(self.bus, command)()


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
            'stop': self._stop,
            'make_way': self._make_way,
            'hurry': bus.hurry,
            'force': lambda: bus.force_exit('Told to stop three times'),
        }

    def subscribe(self) -> None:
        """Listen to the supervisor from the start of the site on."""
        self.bus.subscribe('start', self.start, priority=66)
        self.bus.subscribe('stop', self.announce, priority=float('-inf'))
        self.bus.subscribe('ask_to_leave', self.report.leave)

    def start(self) -> None:
        """Start the thread."""
        self._listens = True
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
                self._orders[line.strip()]()
        self.bus.log('The supervisor is gone: the site stops', 40)
        self._stop()

    def _stop(self) -> None:
        for listening in self._owned:
            listening.owned = True
        self._make_way()

    def _make_way(self) -> None:
        self._told.set()
        self.bus.exit()
