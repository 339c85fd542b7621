"""The Web Site Process Bus: states, transitions, channels, lifespans, timeline.

Written against the API of `cherrypy.process.wspbus` (CherryPy 18), so that
plugins made for that bus ride on this one. Standard library only.
"""

from __future__ import annotations

import _thread
import atexit
import contextlib
import enum
import os
import signal
import sys
import threading
import time
from collections import deque
from queue import Empty, SimpleQueue

from paste_wspbus.channels import (
    STATE_CHANNELS,
    Channel,
    ChannelFailures,
    Listener,
    name_of,
)
from paste_wspbus.deadlines import Cut, TimeLimit, call_after, stack_of, stacks
from paste_wspbus.errors import (
    IllegalTransition,
    LifespanRefused,
    NameTaken,
    RestartImpossible,
    TimedOut,
    WouldDeadlock,
    WSPBusError,
)
from paste_wspbus.interrupts import Interrupts

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable, Iterator
    from typing import Any, NoReturn, TypeVar

    F = TypeVar('F', bound='Callable[..., Any]')
    T = TypeVar('T')

__all__ = [
    'TRANSITIONS',
    'Bus',
    'Call',
    'ChannelFailures',
    'Lifespan',
    'State',
    'states',
]


class State(enum.Enum):
    """What the process is doing."""

    STOPPED = 'STOPPED'
    STARTING = 'STARTING'
    STARTED = 'STARTED'
    DRAINING = 'DRAINING'
    STOPPING = 'STOPPING'
    EXITING = 'EXITING'

    def __repr__(self) -> str:
        return f'states.{self.name}'

    def __eq__(self, other: object) -> bool:
        """Also equal to CherryPy's state of the same name."""
        if isinstance(other, State):
            return self is other
        return (
            type(other).__name__ == 'State' and getattr(other, 'name', '') == self.name
        )

    def __hash__(self) -> int:
        return hash(self.name)


states = State

#: From each state, the states that may follow it.
TRANSITIONS: dict[State, frozenset[State]] = {
    State.STOPPED: frozenset({State.STARTING, State.STOPPING, State.EXITING}),
    State.STARTING: frozenset({State.STARTED, State.STOPPING}),
    State.STARTED: frozenset({State.DRAINING, State.STOPPING}),
    State.DRAINING: frozenset({State.STOPPING}),
    State.STOPPING: frozenset({State.STOPPED}),
    State.EXITING: frozenset({State.STARTING}),
}

#: sysexits.h's EX_SOFTWARE, which CherryPy's bus leaves with, too.
EX_SOFTWARE = 70

#: Seconds between two KeyboardInterrupts in a server that blocks.
INTERRUPT_AGAIN = 1.0

#: How many calls `Bus.timeline` remembers.
TIMELINE_LENGTH = 1000

#: The commands that end a start, or a server that blocks.
LEAVING = frozenset({'stop', 'exit'})

#: The commands whose failure is the process's.
STATE_COMMANDS = LEAVING | {'start'}

try:
    # A relative sys.executable or script is found from here, wherever the site went.
    _startup_cwd = os.getcwd()
except FileNotFoundError:
    _startup_cwd = ''


class Call:
    """One call of a listener, as `Bus.timeline` keeps it.

    ``channel`` and ``name`` of the listener; ``start``, seconds since the
    epoch; ``duration`` in seconds; ``outcome``: 'ok', 'failed' or 'timed out';
    ``thread``, its name.
    """

    __slots__ = ('channel', 'duration', 'name', 'outcome', 'start', 'thread')

    def __init__(
        self, channel: str, name: str, start: float, duration: float, outcome: str
    ) -> None:
        self.channel, self.name, self.outcome = channel, name, outcome
        self.start, self.duration = start, duration
        self.thread = threading.current_thread().name

    def __repr__(self) -> str:
        return (
            f'<{self.channel} {self.name}: {self.outcome}'
            f' in {self.duration * 1000:.1f} ms>'
        )


class Lifespan:
    """Something that is entered at start and left at stop.

    Two listeners: start at ``priority``, stop at 100 - ``priority``, the
    second subscribed by the success of the first.
    """

    def __init__(
        self,
        bus: Bus,
        name: str,
        make: Callable[[], contextlib.AbstractContextManager[Any]],
        priority: float | None,
        timeout: float | None,
    ) -> None:
        self.bus, self.name, self._make = bus, name, make
        self.start_listener = Listener(
            self.start, priority=priority, timeout=timeout, name=name
        )
        self.stop_listener = Listener(
            self.stop,
            priority=100 - self.start_listener.priority,
            timeout=timeout,
            name=name,
            order=self.start_listener.order,
        )
        # A list, because taking the last thing out of it is one step: of two
        # threads that want to leave, one does.
        self._entered: list[contextlib.AbstractContextManager[Any]] = []
        self._entering = threading.RLock()

    def start(self, *args: object, **kwargs: object) -> None:
        """Enter; what it yields becomes ``bus.resources[name]``."""
        with self._entering:  # a start may find it being entered by another thread
            if self._entered:
                return
            context = self._make()
            self.bus.resources[self.name] = context.__enter__()
            self._entered.append(context)
            self.bus._channel('stop').subscribe(self.stop_listener)

    def stop(self, *args: object, **kwargs: object) -> None:
        """Leave, if it was entered."""
        try:
            context = self._entered.pop()
        except IndexError:
            return
        self.bus._channel('stop').unsubscribe(self.stop)
        self.bus.resources.pop(self.name, None)
        context.__exit__(None, None, None)

    def unsubscribe(self) -> None:
        """Do not start again; if it is started now, it will still be stopped."""
        self.bus._channel('start').unsubscribe(self.start)
        self.bus.lifespans.pop(self.name, None)


class _Request:
    """A command for the thread that runs transitions, and what came of it."""

    __slots__ = ('args', 'command', 'error')

    def __init__(self, command: str, args: tuple[Any, ...] = ()) -> None:
        self.command, self.args = command, args
        self.error: BaseException | None = None


class _Watcher:
    """Somebody in `Bus.wait`: the states wanted, and a queue that brings them."""

    __slots__ = ('reached', 'wanted')

    def __init__(
        self, wanted: frozenset[State], reached: SimpleQueue[State | None]
    ) -> None:
        self.wanted, self.reached = wanted, reached


class _Deferred:
    """What goes wrong in a sequence of steps of which every one is to be taken."""

    def __init__(self) -> None:
        self._failures = ChannelFailures()
        self._interrupt: BaseException | None = None

    @contextlib.contextmanager
    def step(self) -> Generator[None]:
        try:
            yield
        except ChannelFailures as failures:
            self._failures.add(failures)
        except (KeyboardInterrupt, SystemExit) as error:
            self._interrupt = self._interrupt or error

    @property
    def interrupted(self) -> bool:
        return self._interrupt is not None

    def raise_interrupt(self) -> None:
        if self._interrupt is not None:
            raise _not_zero(self._interrupt) if self._failures else self._interrupt

    def raise_it(self) -> None:
        self.raise_interrupt()
        if self._failures:
            raise self._failures


#: A request that asks for nothing: the thread in `Bus.block` looks around.
_WAKE = _Request('')


class Bus:
    """Process state machine and messenger of a web site.

    Parts of the site subscribe to channels ('start', 'stop', 'exit',
    'graceful', 'log', 'main', and any other); the methods of the same names
    move the bus from state to state and publish.

    One thread at a time runs transitions. While a thread is in `block`, it is
    that one: start, stop, exit, restart and graceful of anybody else, listeners
    and signal handlers too, are queued for it and return at once; `wait` is
    for the result. With nobody in `block`, the caller runs them.
    """

    states = states
    execv = False
    #: Whether a signal has asked for a restart, of which 'graceful' tells first.
    restarting = False
    #: 0: files that were made inheritable stay open over a restart by execv.
    max_cloexec_files = 1

    #: Descriptors that stay open over a restart by execv all the same.
    kept_files: Iterable[int] = ()
    #: Called before this process replaces itself; what it returns is kept open, too.
    before_execv: Callable[[], Iterable[int]] | None = None
    #: Who owns the process, and what it promises: a `paste_wspbus.hosts.Host`.
    host: Any = None
    #: Why the process ends, if its host says so.
    stop_reason: str | None = None
    #: Called by the filter where a request finds the bus not started: a host's.
    starter: Callable[[], object] | None = None
    #: Called by the filter when it is made: a host's.
    composed: Callable[[], object] | None = None

    #: Seconds for a whole stop and exit; then the process leaves with 70. None: no limit.
    stop_timeout: float | None = None
    #: Seconds for all start listeners together; then start() fails. None: no limit.
    start_timeout: float | None = None
    #: Seconds between 'drain' (not ready any more) and 'stop'.
    drain_delay: float = 0
    #: Seconds that `block` waits at its end for threads that are not daemons.
    join_timeout: float = 5
    #: Whether signals are this bus's to handle; not so under Apache, for one.
    owns_signals = True
    #: Whether SIGALRM is this bus's, to cut listeners that are late.
    owns_alarm = True
    #: Whether the end of the process is this bus's ordinary exit, not worth a warning.
    exits_with_process = False
    #: What threads sleep on: put, get(timeout=seconds) and empty of a SimpleQueue.
    #: put() is called in signal handlers, too.
    queue_class: type[SimpleQueue[Any]] = SimpleQueue
    #: A context manager around what sleeps in `block`: it sees to it that signals
    #: are handled meanwhile.
    interrupts_class: Callable[..., contextlib.AbstractContextManager[Any]] = Interrupts

    def __init__(self) -> None:
        self.execv = False
        self.state = State.STOPPED
        self.listeners: dict[str, Any] = {
            name: Channel(name)
            for name in ('start', 'stop', 'exit', 'graceful', 'log', 'main')
        }
        #: Asked for a restart in this process's place: a supervisor.
        self.restarter: Callable[[], object] | None = None
        #: Of a process that has a supervisor: tells that how the next one is made.
        self.succession: Callable[[str], object] | None = None
        self._new_channel = threading.RLock()
        #: The default plugins by name, to unsubscribe and replace.
        self.plugins: dict[str, Any] = {}
        #: Called before a restart by execv; they raise RestartImpossible.
        self.restart_checks: list[Callable[[], object]] = []
        #: What each lifespan yielded, by its name, while it is started.
        self.resources: dict[str, Any] = {}
        #: All lifespans by name.
        self.lifespans: dict[str, Lifespan] = {}
        #: What the process should exit with (see DESIGN: 0, 1, or a SystemExit's).
        self.exit_code = 0
        #: The listener of a state channel that runs now: (channel, name, seconds
        #: since the epoch), for whoever asks what a transition waits for.
        self.calling: tuple[str, str, float] | None = None
        self._timeline: deque[Call] = deque(maxlen=TIMELINE_LENGTH)

        # Requests for transitions, the lock that one thread holds while it
        # runs them, and who that is. Nothing here blocks a signal handler.
        self._requests: SimpleQueue[_Request] = self.queue_class()
        self._leaving: list[_Request] = []
        self._turn = threading.Lock()
        #: The thread (its ident) that will be in `block`, if that is known: others
        #: do not run transitions in its place before it is there.
        self.home: int | None = None
        self._owner: int | None = None
        self._blocker: int | None = None
        self._current: str | None = None
        self._serving: int | None = None
        self._server_ended = False
        self._server_told = False
        self._server_gone: threading.Event | None = None
        self._interrupts: Interrupts | None = None

        self._visited: set[State] = set()
        self._watchers: list[_Watcher] = []
        self._stop_told = False
        self._failed = False
        self._position: tuple[float, int] | None = None
        self._arrivals: list[Lifespan] = []
        self._start_until: float | None = None
        self._cancel_deadline: Callable[[], None] | None = None
        self._hurried: SimpleQueue[None] = self.queue_class()
        self._pid = os.getpid()

    # -- channels ---------------------------------------------------------

    def subscribe(
        self,
        channel: str,
        callback: Any = None,
        *args: Any,
        priority: float | None = None,
        timeout: float | None = None,
        blocking: bool = False,
    ) -> Any:
        """Have ``callback`` called when ``channel`` is published.

        What follows the callback is passed to it, before what is published
        (``bus.subscribe('start', server, app)``); a lone number or None there
        is CherryPy's positional priority. Without a callback: a decorator.

        :param priority: lower is earlier; ``callback.priority`` or 50 if None.
        :param timeout: seconds, on state channels; ``callback.timeout`` if None.
        :param blocking: on 'start': a server that runs until the site stops.
        :raises NotCallable: (a TypeError) if the callback is not callable.
        :raises BadPriority: (a TypeError) if priority or timeout is no number.
        """
        if len(args) == 1 and priority is None and _is_priority(args[0]):
            priority, args = args[0], ()
        if callback is None:

            def decorate(function: F) -> F:
                self.subscribe(
                    channel,
                    function,
                    priority=priority,
                    timeout=timeout,
                    blocking=blocking,
                )
                return function

            return decorate
        self._channel(channel).subscribe(
            Listener(
                callback, args, priority=priority, timeout=timeout, blocking=blocking
            )
        )
        self._wake_waiters()
        return None

    def unsubscribe(self, channel: str, callback: Any) -> None:
        """Do not call ``callback`` any more; nothing happens if it is not subscribed."""
        if self.listeners.get(channel) is not None:
            self._channel(channel).unsubscribe(callback)

    def publish(self, channel: str | None, *args: Any, **kwargs: Any) -> list[Any]:
        """Call the listeners of ``channel`` in order; return their results.

        All are called, even if some fail; each failure is logged.

        :raises ChannelFailures: at the end, if some failed.
        :raises SystemExit, KeyboardInterrupt: at once, if a listener raises
            it, but on 'stop' and 'exit' after the others were called.
        """
        try:
            calls = self.listeners[channel].calls  # type: ignore[index]
        except KeyError:
            return []
        except AttributeError:  # somebody put a plain set there
            calls = self._channel(str(channel)).calls
        if calls is None:
            return self._tell(str(channel), args, kwargs)
        output: list[Any] = []
        try:
            for call in calls:
                output.append(call(*args, **kwargs))
        except Exception:
            return self._publish_rest(str(channel), calls, output, args, kwargs)
        return output

    def post(self, channel: str, *args: Any) -> None:
        """Have ``channel`` published by the thread in `block`; at once if there is none.

        For whoever must not run listeners: signal handlers. Failures are logged.
        """
        self._requests.put(_Request('publish', (channel, *args)))
        self._run_if_nobody_will()

    def _publish_posted(self, channel: str, *args: Any) -> None:
        with contextlib.suppress(ChannelFailures):  # each is in the log
            self.publish(channel, *args)

    def _publish_rest(
        self,
        channel: str,
        calls: tuple[Callable[..., Any], ...],
        output: list[Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> NoReturn:
        """Go on behind the listener that just failed: the one at ``len(output)``."""
        failures = ChannelFailures()
        failed = len(output)
        self._note_failure(channel, name_of(calls[failed]), failures)
        for call in calls[failed + 1 :]:
            try:
                call(*args, **kwargs)
            except SystemExit as error:
                raise _not_zero(error) from None
            except Exception:
                self._note_failure(channel, name_of(call), failures)
        raise failures

    def _note_failure(self, channel: str, name: str, failures: ChannelFailures) -> None:
        failures.handle_exception()
        self._failed = self._failed or channel in STATE_CHANNELS
        if channel != 'log':  # whoever cannot log cannot log that either
            self.log(f'Error in {channel!r} listener {name}', level=40, traceback=True)

    def _channel(self, name: str) -> Channel:
        channel = self.listeners.get(name)
        if isinstance(channel, Channel):
            return channel
        with self._new_channel:
            channel = self.listeners.get(name)
            if isinstance(channel, Channel):
                return channel
            # A channel that is new, or a plain set that somebody assigned.
            made = Channel(name, channel or ())
            made.update(self.listeners.get(name) or ())
            self.listeners[name] = made
            return made

    def log(self, msg: str = '', level: int = 20, traceback: bool = False) -> None:
        """Publish ``msg`` and its ``level`` (as in `logging`) on 'log'.

        With ``traceback``, the exception being handled is appended. A failing
        'log' listener is ignored: a full disk must not keep a site running.
        """
        if traceback:
            from traceback import format_exception

            msg += '\n' + ''.join(format_exception(*sys.exc_info()))
        with contextlib.suppress(Exception):
            self.publish('log', msg, level)

    @property
    def timeline(self) -> list[Call]:
        """The last 1,000 calls of state channels' listeners, oldest first."""
        return list(self._timeline)

    # -- lifespans --------------------------------------------------------

    def lifespan(
        self,
        function: Callable[[], Iterator[Any]] | None = None,
        *,
        priority: float | None = None,
        name: str | None = None,
        timeout: float | None = None,
    ) -> Any:
        """Decorate a generator function: what stands before its ``yield`` runs
        at start, what follows runs at stop, in reverse order of the starts.

        Added after its turn in a start, it is entered at once.

        :param priority: of its start; its stop has 100 - priority. 50 if None.
        :param name: its place in ``bus.resources``; the function's name if None.
        :param timeout: seconds for its start, and for its stop.
        :raises LifespanRefused: while the bus is stopping.
        :raises NameTaken: if another lifespan was given this name.
        """
        if function is None:
            return lambda function: self.lifespan(
                function, priority=priority, name=name, timeout=timeout
            )
        make = contextlib.contextmanager(function)
        self._add_lifespan(make, name, function.__name__, priority, timeout)
        return function

    def enter(
        self,
        context: contextlib.AbstractContextManager[T],
        *,
        priority: float | None = None,
        name: str | None = None,
        timeout: float | None = None,
    ) -> T | None:
        """Enter a context manager at each start, leave it at stop, as `lifespan` does.

        :returns: what it yields if the bus is started already, else None.
        """
        # contextlib's own are good for one use; this is how its ContextDecorator renews them.
        renew = getattr(context, '_recreate_cm', lambda: context)
        default = getattr(getattr(context, 'func', None), '__name__', None)
        added = self._add_lifespan(
            renew, name, default or type(context).__name__, priority, timeout
        )
        return self.resources.get(added.name)

    def _add_lifespan(
        self,
        make: Callable[[], contextlib.AbstractContextManager[Any]],
        name: str | None,
        default_name: str,
        priority: float | None,
        timeout: float | None,
    ) -> Lifespan:
        wanted = name or default_name
        if self._is_stopping():
            raise LifespanRefused(wanted, self.state)
        if name is None:
            number = 1
            while wanted in self.lifespans:
                number += 1
                wanted = f'{default_name}-{number}'
        lifespan = Lifespan(self, wanted, make, priority, timeout)
        if self.lifespans.setdefault(wanted, lifespan) is not lifespan:
            raise NameTaken(wanted)
        self._channel('start').subscribe(lifespan.start_listener)
        try:
            self._enter_if_late(lifespan)
        except BaseException:
            lifespan.unsubscribe()
            raise
        return lifespan

    def _enter_if_late(self, lifespan: Lifespan) -> None:
        listener = lifespan.start_listener
        if self.state is State.STARTING:
            position = self._position
            if position is None or position < (listener.priority, listener.order):
                self._arrivals.append(lifespan)  # its turn is to come
                if self.state is State.STARTING or not self._take_arrival(lifespan):
                    return
        alive = (State.STARTING, State.STARTED)
        if self.state in alive:
            self._call('start', listener, (), {})
            if self.state not in alive:  # a stop came meanwhile, and may have missed it
                lifespan.stop()
                raise LifespanRefused(lifespan.name, self.state)

    def _take_arrival(self, lifespan: Lifespan) -> bool:
        try:
            self._arrivals.remove(lifespan)
        except ValueError:
            return False  # the start took it
        return True

    def _is_stopping(self) -> bool:
        return (
            self.state in (State.DRAINING, State.STOPPING) or self._current in LEAVING
        )

    # -- asking for transitions -------------------------------------------

    def start(self) -> None:
        """Start all services: STOPPED → STARTING → STARTED.

        :raises ChannelFailures: if a listener failed; ``__cause__`` is its
            error. What had started was stopped in reverse, the bus is STOPPED.
        :raises IllegalTransition: if the bus is STARTED already.
        """
        if self.state is State.STARTED and not self._current and not self._leaving:
            raise IllegalTransition(self.state, State.STARTING)
        self._submit('start')

    def stop(self) -> None:
        """Stop all services: → STOPPING → STOPPED. No-op where that was done.

        :raises ChannelFailures: at the end, if listeners failed.
        """
        self._submit('stop')

    def exit(self) -> None:
        """Stop all services, if they are not, and prepare to exit the process.

        If a restart was asked for and nobody is in `block` to carry it out,
        'restart' is published.

        :raises ChannelFailures: at the end, if listeners failed.
        """
        try:
            self._submit('exit')
        except ChannelFailures:
            self._restart_if_alone()
            raise
        self._restart_if_alone()

    def restart(self) -> None:
        """Exit, and have the thread in `block` replace the process; or ask the supervisor.

        :raises RestartImpossible: before anything is stopped. While a thread
            is in `block`, that is logged: the caller may be a signal handler,
            in the midst of anything.
        """
        if self.restarter is not None and not self.listeners.get('restart'):
            self.restarter()
            return
        try:
            self._check_restart()
        except RestartImpossible as error:
            self.restarting = False
            if self._blocker is None and self.state is not State.EXITING:
                raise
            self.log(str(error), level=40)
            return
        self.execv = True
        self._submit('exit')

    def graceful(self) -> None:
        """Advise all services to reload: logs, and publishes 'graceful'.

        :raises ChannelFailures: at the end, if listeners failed.
        """
        self._submit('graceful')

    def hurry(self) -> None:
        """Skip every wait: the drain delay, requests in flight, threads that linger.

        A start under way in the main thread, if called there (by a signal
        handler), is interrupted.

        :raises KeyboardInterrupt: in that case.
        """
        self._hurried.put(None)
        if (
            self.state is State.STARTING
            and self._owner == threading.get_ident()
            and threading.current_thread() is threading.main_thread()
        ):
            raise KeyboardInterrupt

    @property
    def hurried(self) -> bool:
        """Whether `hurry` was called since the last start."""
        return not self._hurried.empty()

    @property
    def leaving(self) -> bool:
        """Whether a stop or exit was asked for, and has not begun."""
        return bool(self._leaving)

    @property
    def is_told_to_leave(self) -> bool:
        """Whether a stop or exit was asked for, has begun, or has been."""
        return self.leaving or self._current in LEAVING or self.state is State.EXITING

    def _submit(self, command: str) -> None:
        """Queue a command, and run it unless somebody else does."""
        if command == self._current and (
            command != 'graceful' or self._owner == threading.get_ident()
        ):
            return  # another thread's graceful: what it is about may have changed since
        request = self._enqueue(command)
        if self._serving is not None and command in LEAVING:
            self._end_server()
            return
        self._run_if_nobody_will()
        if request.error is not None:
            raise request.error

    def _enqueue(self, command: str) -> _Request:
        request = _Request(command)
        if command in LEAVING:
            self._leaving.append(request)
        self._requests.put(request)
        return request

    def _run_if_nobody_will(self) -> None:
        """Leave what is queued to the thread that is going to be in `block`."""
        if self._serving is not None or self.home in (None, threading.get_ident()):
            self._run_requests()

    def _run_requests(self) -> None:
        # Looks again after giving up its turn: what was queued in between,
        # its sender could not run.
        interrupt: BaseException | None = None
        held: list[_Request] = []
        while not self._requests.empty() and self._turn.acquire(blocking=False):
            self._owner = threading.get_ident()
            try:
                while not self._requests.empty():
                    request = self._requests.get()
                    if self._serving is not None and request.command in LEAVING:
                        held.append(request)  # for when the server that blocks is gone
                        continue
                    self._perform(request)
                    if _is_interrupt(request.error):
                        interrupt = interrupt or request.error
            finally:
                self._owner = None
                self._turn.release()
            if held:
                for request in held:
                    self._requests.put(request)
                break
        if interrupt is not None:
            raise interrupt

    def _perform(self, request: _Request) -> None:
        if request is _WAKE:
            return
        if request in self._leaving:
            self._leaving.remove(request)
        self._current, self._failed = request.command, False
        try:
            _PERFORMERS[request.command](self, *request.args)
        except BaseException as error:
            request.error = _not_zero(error) if self._failed else error
            if isinstance(error, SystemExit) and request.command in STATE_COMMANDS:
                self._keep_exit_code(error)
        finally:
            if self._failed and request.command in STATE_COMMANDS:
                self.exit_code = self.exit_code or 1
            self._current = None

    def _keep_exit_code(self, error: SystemExit) -> None:
        self.exit_code = self.exit_code or exit_code_of(error)

    # -- transitions; only the thread whose turn it is comes here ----------

    def _move(self, new: State) -> None:
        if new not in TRANSITIONS[self.state]:
            raise IllegalTransition(self.state, new)
        if new is State.STARTING:
            self._visited = set()
        self.state = new
        self._visited.add(new)
        for watcher in tuple(self._watchers):
            if new in watcher.wanted:
                watcher.reached.put(new)

    def _start(self) -> None:
        self._move(State.STARTING)
        _stop_at_exit(self)
        self._stop_told = self._server_ended = False
        self.exit_code = 0
        while self.hurried:
            self._hurried.get()
        started: set[int] = set()
        try:
            self.log('Bus STARTING')
            servers = self._run_start_listeners(started)
            if servers is not None:
                self._move(State.STARTED)
        except BaseException as error:
            if os.getpid() != self._pid:
                raise  # a listener forked, and the child leaves
            later = _Deferred()
            with later.step():
                if not _is_interrupt(error):
                    self.log(
                        f'Shutting down due to error in start listener: {error}', 40
                    )
            with later.step():
                self._roll_back(started)
            if not _is_interrupt(error):
                later.raise_interrupt()
            raise
        if servers is None:  # stop() or exit() came in the midst of it
            self._roll_back(started)
            return
        self.log('Bus STARTED')
        while self._arrivals:  # they came between the last listener and STARTED
            self._call('start', self._arrivals.pop(0).start_listener, (), {})
        for server in servers:
            if self.state is State.STARTED:
                self._run_blocking(server)

    def _run_start_listeners(self, started: set[int]) -> list[Listener] | None:
        """Call them in order; return those that block, or None if cut short.

        ``started`` collects the ids of the owners of those that succeeded.
        """
        ordered = self._channel('start').ordered
        pending = [listener for listener in ordered if not listener.blocking]
        self._start_until = (
            None
            if self.start_timeout is None
            else time.monotonic() + self.start_timeout
        )
        self._position = None
        try:
            while pending and not self._leaving:
                listener = pending.pop(0)
                self._position = (listener.priority, listener.order)
                try:
                    self._call('start', listener, (), {})
                except (KeyboardInterrupt, SystemExit):
                    raise
                except BaseException as error:
                    if os.getpid() != self._pid:
                        raise  # a listener forked, and the child leaves
                    failures = ChannelFailures()
                    self._note_failure('start', listener.name, failures)
                    failures.listener = listener.name
                    raise failures from error
                started.add(id(listener.owner))
                self._pid = os.getpid()  # a Daemonizer forked: the bus is the child's
                while self._arrivals:
                    pending.append(self._arrivals.pop(0).start_listener)
                    pending.sort(
                        key=lambda listener: (listener.priority, listener.order)
                    )
        finally:
            self._position = (float('inf'), 0)
            self._start_until = None
        if self._leaving:
            return None
        return [listener for listener in ordered if listener.blocking]

    def _roll_back(self, started: set[int]) -> None:
        """Tell 'stop' listeners, but not those whose own start did not succeed."""
        failed = {
            id(listener.owner)
            for listener in self._channel('start').ordered
            if id(listener.owner) not in started
            # A lifespan is told only if it was entered, and a function that
            # listens to both is two listeners, not a plugin.
            and not isinstance(listener.owner, Lifespan)
            and not hasattr(listener.owner, '__code__')
        }
        self._arrivals.clear()
        later = _Deferred()
        with self._stop_limit():
            self._move(State.STOPPING)
            with later.step():
                self.log('Bus STOPPING')
            with later.step():
                self._tell('stop', (), {}, skip=failed)
            self._stop_told = True
            self._move(State.STOPPED)
            with later.step():
                self.log('Bus STOPPED')
        later.raise_interrupt()  # of failures, the start's own is the one to raise

    def _run_blocking(self, server: Listener) -> None:
        """Run a server in this thread until it returns, which means stop.

        The turn is free meanwhile: another thread can publish 'graceful'. Who
        asks for stop or exit raises KeyboardInterrupt in here.
        """
        error: BaseException | None = None
        blocker, self._blocker = self._blocker, None
        self._serving, self._owner, self._current = self._owner, None, None
        self._turn.release()
        try:
            with self._interruptible():
                if not self._leaving:
                    server.call()
        except KeyboardInterrupt:
            pass
        except SystemExit as left:
            self._keep_exit_code(left)
        except Exception as failure:
            self.log(f"Error in 'start' listener {server.name}", 40, traceback=True)
            error = failure
        owner, self._serving = self._serving, None
        if self._server_gone is not None:
            self._server_gone.set()
            self._server_gone = None
        self._turn.acquire()
        self._owner, self._blocker, self._current = owner, blocker, 'start'
        self._server_ended = True
        try:
            self._stop()
        finally:
            if error is not None:
                self._failed = True
                failures = ChannelFailures()
                failures.add(error)
                failures.listener = server.name
                raise failures from error

    def _end_server(self) -> None:
        """Raise KeyboardInterrupt, once, in the thread of a server that blocks."""
        if self._interrupts is not None and self._server_gone is None:
            self._server_gone = threading.Event()
            # Not a Thread: its start() takes locks, and this may be a signal handler.
            _thread.start_new_thread(self._interrupt_again, (self._server_gone,))
        if threading.get_ident() == self._serving:
            self._interrupt_server()

    def _interrupt_again(self, gone: threading.Event) -> None:
        """A server may swallow KeyboardInterrupt: raise it until it is gone."""
        until = None
        if self.stop_timeout is not None:
            until = time.monotonic() + self.stop_timeout
        while not gone.is_set():
            self._poke_server()
            if gone.wait(INTERRUPT_AGAIN):
                return
            if until is not None and time.monotonic() > until:
                self.force_exit(
                    f'The server did not stop within {self.stop_timeout:g} s'
                )
            self._server_told = False

    def _poke_server(self) -> None:
        interrupts = self._interrupts  # which another thread may take away
        if interrupts is not None:
            interrupts.poke()

    def _interrupt_server(self) -> None:
        if self._serving is not None and not self._server_told:
            self._server_told = True
            raise KeyboardInterrupt

    def _urgent(self) -> None:
        if self._leaving:
            self._interrupt_server()

    @contextlib.contextmanager
    def _interruptible(self) -> Generator[None]:
        """Let SIGINT raise KeyboardInterrupt in here, but not a moment later.

        Only where Python's own handler would; a handler of the site's stays.
        """
        self._server_told = False
        in_main = threading.current_thread() is threading.main_thread()
        usual = (
            in_main and signal.getsignal(signal.SIGINT) is signal.default_int_handler
        )
        if usual:
            signal.signal(signal.SIGINT, lambda *_: self._interrupt_server())
        try:
            with Interrupts(self._urgent) as self._interrupts:
                yield
        finally:
            self._interrupts = None
            if usual:
                signal.signal(signal.SIGINT, signal.default_int_handler)

    def _stop(self) -> None:
        if self.state is State.EXITING or self._stop_told:
            return
        later = _Deferred()
        with self._stop_limit():
            if self.state is State.STARTED:
                with later.step():
                    self._drain()
            self._move(State.STOPPING)
            with later.step():
                self.log('Bus STOPPING')
            with later.step():
                self._tell('stop', (), {})
            self._stop_told = True
            self._move(State.STOPPED)
            with later.step():
                self.log('Bus STOPPED')
        later.raise_it()

    def _drain(self) -> None:
        if not self.drain_delay and not self.listeners.get('drain'):
            return
        self._move(State.DRAINING)
        later = _Deferred()
        with later.step():
            self._tell('drain', (), {})
        if self.drain_delay > 0 and not (self.hurried or later.interrupted):
            with later.step(), contextlib.suppress(Empty):
                self._hurried.get(timeout=self.drain_delay)
                self._hurried.put(None)
        later.raise_it()

    def _exit(self) -> None:
        if self.state is State.EXITING:
            return
        later = _Deferred()
        with self._stop_limit():
            with later.step():
                self._stop()
            self._move(State.EXITING)
            with later.step():
                self.log('Bus EXITING')
            with later.step():
                self._tell('exit', (), {})
            with later.step():
                self.log('Bus EXITED')
        _running.discard(self)  # its end is no concern of the process's any more
        later.raise_it()

    def _graceful(self) -> None:
        self.log('Bus graceful')
        self._tell('graceful', (), {})

    # -- calling listeners of state channels --------------------------------

    def _tell(
        self,
        channel: str,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        skip: Iterable[int] = (),
    ) -> list[Any]:
        """Publish on a state channel; ``skip`` holds ids of owners."""
        output: list[Any] = []
        failures = ChannelFailures()
        interrupt: KeyboardInterrupt | SystemExit | None = None
        for listener in self._channel(channel).ordered:
            if skip and id(listener.owner) in skip:
                continue
            try:
                output.append(self._call(channel, listener, args, kwargs))
            except (KeyboardInterrupt, SystemExit) as error:
                if channel not in LEAVING:
                    raise
                interrupt = interrupt or error
            except BaseException:
                try:
                    self._note_failure(channel, listener.name, failures)
                except (KeyboardInterrupt, SystemExit) as error:
                    if channel not in LEAVING:
                        raise
                    interrupt = interrupt or error
        if interrupt is not None:
            raise _not_zero(interrupt) if failures else interrupt
        if failures:
            raise failures
        return output

    def _call(
        self,
        channel: str,
        listener: Listener,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> Any:
        start, clock, outcome = time.time(), time.perf_counter(), 'failed'
        outer, self.calling = self.calling, (channel, listener.name, start)
        try:
            seconds = self._time_for(channel, listener)
            if seconds is None:
                result = listener.call(*args, **kwargs)
            else:
                result = self._call_within(seconds, channel, listener, args, kwargs)
            outcome = 'ok'
        except TimedOut:
            outcome = 'timed out'
            raise
        finally:
            self.calling = outer
            duration = time.perf_counter() - clock
            self._timeline.append(
                Call(channel, listener.name, start, duration, outcome)
            )
        return result

    def _time_for(self, channel: str, listener: Listener) -> float | None:
        if channel != 'start' or self._start_until is None:
            return listener.timeout
        left = self._start_until - time.monotonic()
        return left if listener.timeout is None else min(left, listener.timeout)

    def _call_within(
        self,
        seconds: float,
        channel: str,
        listener: Listener,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> Any:
        late = f'{channel!r} listener {listener.name} takes longer than {seconds:.3g} s'

        def cannot_cut(stack: str) -> None:
            self.log(
                f'{late} and cannot be cut here (not the main thread of a POSIX '
                f'process, or the site uses SIGALRM itself):\n{stack}',
                level=40,
            )

        result = error = None
        limit = TimeLimit(seconds, cannot_cut, may_cut=self.owns_alarm)
        try:
            with limit:
                result = listener.call(*args, **kwargs)
        except Cut:
            pass
        except Exception as raised:
            error = raised
        if limit.expired:
            if limit.stack:
                self.log(f'{late}; cut here:\n{limit.stack}', level=40)
            raise TimedOut(channel, listener.name, seconds) from error
        if error is not None:
            raise error
        return result

    @contextlib.contextmanager
    def _stop_limit(self) -> Generator[None]:
        """Leave with 70 if what stands inside takes longer than ``stop_timeout``."""
        if self.stop_timeout is None or self._cancel_deadline is not None:
            yield
            return
        why = f'The site did not stop within {self.stop_timeout:g} s'
        self._cancel_deadline = call_after(
            self.stop_timeout, lambda: self.force_exit(why), self.owns_alarm
        )
        try:
            yield
        finally:
            self._cancel_deadline()
            self._cancel_deadline = None

    def force_exit(self, why: str) -> None:
        """Log ``why``, every thread's stack and what 'status' listeners tell; leave with 70."""
        # The log may wait for a lock that the thread which hangs holds.
        call_after(2, lambda: os._exit(EX_SOFTWARE))
        try:
            self.log(f'{why}; leaving now. Stacks:\n{stacks()}', level=50)
            for listener in self._channel('status').ordered:
                with contextlib.suppress(Exception):
                    self.log(f'Status: {listener.call()}', level=50)
            for stream in (sys.stdout, sys.stderr):
                with contextlib.suppress(Exception):
                    stream.flush()
        finally:
            os._exit(EX_SOFTWARE)

    # -- waiting ------------------------------------------------------------

    def wait(
        self, state: Any, interval: float = 0.1, channel: str | None = None
    ) -> State:
        """Wait until the bus is, or was meanwhile, in ``state`` (or one of several).

        If somebody listens to ``channel``, it is published every ``interval``
        seconds; otherwise nothing wakes up before the state comes.

        :returns: the state reached.
        :raises WouldDeadlock: in a listener of the transition under way.
        """
        wanted = _states(state)
        if threading.get_ident() == self._owner and self._current is not None:
            if self.state not in wanted:
                raise WouldDeadlock('wait()')
            return self.state
        if threading.get_ident() == self._blocker:
            return self._wait_as_blocker(wanted, interval, channel)
        if (now := self.state) in wanted:
            return now
        watcher = self._watch(wanted)
        try:
            with self.interrupts_class(wake=lambda: watcher.reached.put(None)):
                return self._wait_for(watcher, interval, channel)
        finally:
            self._watchers.remove(watcher)

    def _watch(self, wanted: frozenset[State]) -> _Watcher:
        watcher = _Watcher(wanted, self.queue_class())
        self._watchers.append(watcher)
        return watcher

    def _wait_for(
        self, watcher: _Watcher, interval: float, channel: str | None
    ) -> State:
        while (state := self.state) not in watcher.wanted:
            try:
                timeout = interval if self.listeners.get(channel or '') else None
                reached = watcher.reached.get(timeout=timeout)
            except Empty:
                self.publish(channel)
                continue
            if reached is not None:
                return reached
        return state

    def _wait_as_blocker(
        self, wanted: frozenset[State], interval: float, channel: str | None
    ) -> State:
        due = time.monotonic() + interval
        while not (reached := self._reached(wanted)):
            try:
                timeout = None
                if self.listeners.get(channel or ''):
                    timeout = max(due - time.monotonic(), 0)
                request = self._requests.get(timeout=timeout)
            except Empty:
                with contextlib.suppress(
                    ChannelFailures
                ):  # in the log; the site goes on
                    self.publish(channel)
                due = time.monotonic() + interval
                continue
            self._perform(request)
            if _is_interrupt(request.error):
                raise request.error  # type: ignore[misc]
            if isinstance(request.error, WSPBusError):  # who asked has gone on
                self.log(f'{request.error}', level=40)
        return reached

    def _reached(self, wanted: frozenset[State]) -> State | None:
        """The wanted state that the bus is in, or was in since the last start."""
        if self.state in wanted:
            return self.state
        return next(iter(self._visited & wanted), None)

    def _wake_waiters(self) -> None:
        """Have whoever waits look again: there may be a first listener to 'main'."""
        for watcher in tuple(self._watchers):
            watcher.reached.put(None)
        if self._blocker is not None:
            self._requests.put(_WAKE)

    def block(self, interval: float = 0.1, states: Any = None) -> None:
        """Run the site from this thread: sleep, and carry out what is asked for.

        Without ``states``: until EXITING. KeyboardInterrupt is trapped with
        exit(), SystemExit with exit() and raised again; then threads that are
        not daemons are joined, and a restart that was asked for is carried out.

        With ``states`` (``State.STOPPED``): until one of them was visited since
        start(), or EXITING. KeyboardInterrupt and SystemExit are trapped with
        stop(); the exit code is ``bus.exit_code``. It returns; call exit().

        :param interval: seconds between publications of 'main', where
            somebody subscribed to it.
        :raises WouldDeadlock: in a listener of the transition under way.
        """
        if self._owner == threading.get_ident():
            raise WouldDeadlock('block()')
        goal = _states(states or ()) | {State.EXITING}
        with self.interrupts_class(wake=lambda: self._requests.put(_WAKE)):
            left = self._block_until(goal, 'stop' if states else 'exit', interval)
        if states:
            if left is not None:
                self._keep_exit_code(left)
            return
        if left is not None:
            raise left
        with contextlib.suppress(KeyboardInterrupt):
            self.log('Waiting for child threads to terminate...')
        self.join_threads()
        if self.execv and not self._publish_restart():
            self._do_execv()

    def _block_until(
        self, goal: frozenset[State], leave: str, interval: float
    ) -> SystemExit | None:
        """Hold the turn until the goal is reached; return a SystemExit that came.

        A subclass's own ``wait`` knows of no queue: then callers run transitions.
        """
        notice, left, mine = '', None, False
        if leave == 'exit' and self._server_ended:
            self._enqueue('exit')
        while True:
            try:
                if not mine and type(self).wait is Bus.wait:
                    mine = self._turn.acquire()
                    self._owner = self._blocker = threading.get_ident()
                if notice:
                    self.log(notice)
                    notice = ''
                if not mine:
                    self._run_requests()
                self.wait(tuple(goal), interval=interval, channel='main')
                break
            except (KeyboardInterrupt, SystemExit) as error:
                if os.getpid() != self._pid:
                    raise  # a listener forked, and the child leaves
                self._enqueue(leave)
                notice = 'Keyboard Interrupt: shutting down bus'
                if isinstance(error, SystemExit):
                    notice, left = 'SystemExit raised: shutting down bus', left or error
            except IllegalTransition as error:
                notice = str(error)  # raised by a signal handler; the site goes on
            except BaseException:
                self._leave_block(mine)
                raise
        self._leave_block(mine)
        self._run_requests()
        return left

    def _leave_block(self, mine: bool) -> None:
        if mine:
            self._owner = self._blocker = None
            self._turn.release()

    def join_threads(self) -> list[threading.Thread]:
        """Wait for threads that are not daemons, ``join_timeout`` seconds in all.

        Names each in the log. A KeyboardInterrupt ends the wait.

        :returns: those that still run.
        """
        until = time.monotonic() + self.join_timeout
        waited = [
            thread
            for thread in threading.enumerate()
            if thread is not threading.current_thread()
            and thread is not threading.main_thread()
            and not thread.daemon
        ]
        with contextlib.suppress(KeyboardInterrupt):
            for thread in waited:
                self.log(f'Waiting for thread {thread.name}.')
                while (
                    thread.is_alive() and time.monotonic() < until and not self.hurried
                ):
                    thread.join(min(0.1, max(0, until - time.monotonic())))
        running = [thread for thread in waited if thread.is_alive()]
        for thread in running:
            self.log(
                f'Thread {thread.name} did not end within {self.join_timeout:g} s:\n'
                f'{stack_of(thread)}',
                level=30,
            )
        return running

    def start_with_callback(
        self,
        func: Callable[..., object],
        args: tuple[Any, ...] | None = None,
        kwargs: dict[str, Any] | None = None,
    ) -> threading.Thread:
        """Start, and call ``func`` in a new thread once the bus is STARTED.

        It is not called if the start fails.

        :returns: the thread.
        """
        watcher = self._watch(_states((State.STARTED, State.STOPPING)))

        def callback() -> None:
            while (reached := watcher.reached.get()) is None:
                pass
            self._watchers.remove(watcher)
            if reached is State.STARTED:
                func(*(args or ()), **(kwargs or {}))

        thread = threading.Thread(target=callback)
        thread.name = 'Bus Callback ' + thread.name
        thread.start()
        try:
            self.start()
        except BaseException:
            watcher.reached.put(State.STOPPING)
            raise
        return thread

    # -- restart --------------------------------------------------------------

    def _restart_if_alone(self) -> None:
        if self.execv and self.state is State.EXITING and self._owner is None:
            self._publish_restart()

    def _publish_restart(self) -> bool:
        """Leave the restart to whoever listens for it; whether there is anybody."""
        if not self.listeners.get('restart'):
            return False
        self.execv = False
        self._tell('restart', (), {})
        return True

    def _check_restart(self) -> None:
        for check in list(self.restart_checks):
            check()
        if not self.listeners.get('restart'):  # how is the listener's concern
            self.check_execv()

    def check_execv(self) -> None:
        """Whether this process can replace itself.

        :raises RestartImpossible: if it cannot.
        """
        main = getattr(sys.modules.get('__main__'), '__file__', None)
        if main == '<stdin>':
            raise RestartImpossible('its program was read from standard input')
        if not sys.executable or not os.access(sys.executable, os.X_OK):
            raise RestartImpossible(f'cannot execute {sys.executable!r}')
        if not os.path.isdir(_startup_cwd):
            raise RestartImpossible('the directory it was started in is gone')
        if main and not _is_there(os.path.join(_startup_cwd, main)):
            raise RestartImpossible(f'{main} is gone')

    def _do_execv(self) -> None:
        """Replace this process by one started as this one was."""
        args = [sys.executable, *sys.orig_argv[1:]]
        self.log('Re-spawning %s' % ' '.join(args))
        kept = [*self.kept_files, *(self.before_execv() if self.before_execv else ())]
        os.chdir(_startup_cwd)
        if self.max_cloexec_files:
            self._set_cloexec()
        for fd in kept:
            os.set_inheritable(fd, True)
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(Exception):
                stream.flush()
        os.execv(sys.executable, args)

    def _set_cloexec(self) -> None:
        """Have open files but stdin, stdout and stderr closed by execv."""
        try:
            open_files = os.listdir('/dev/fd')
        except OSError:
            return  # not POSIX, and Python's own files are not inherited (PEP 446)
        for fd in map(int, open_files):
            if fd > 2:
                with contextlib.suppress(OSError):
                    os.set_inheritable(fd, False)


_PERFORMERS: dict[str, Callable[..., None]] = {
    'start': Bus._start,
    'stop': Bus._stop,
    'exit': Bus._exit,
    'graceful': Bus._graceful,
    'publish': Bus._publish_posted,
}


def _is_there(path: str) -> bool:
    """Whether a program is at ``path``, which may lead into a zip file."""
    while path and not os.path.exists(path):
        path = os.path.dirname(path)
    return bool(getattr(sys, 'frozen', False)) or os.path.isfile(path)


def _is_priority(value: object) -> bool:
    return value is None or (
        isinstance(value, (int, float)) and not isinstance(value, bool)
    )


def _is_interrupt(error: BaseException | None) -> bool:
    return isinstance(error, (KeyboardInterrupt, SystemExit))


def _states(state: Any) -> frozenset[State]:
    """One state or several, ours or CherryPy's, as ours."""
    several = state if isinstance(state, (tuple, list, set, frozenset)) else (state,)
    return frozenset(State[one.name] for one in several)


def exit_code_of(error: SystemExit) -> int:
    """What the process exits with if ``error`` gets out of it (``sys.exit``)."""
    if error.code is None:
        return 0
    return error.code if isinstance(error.code, int) else 1


def _not_zero(error: BaseException) -> BaseException:
    """Listeners failed before this SystemExit: it must not claim success."""
    if isinstance(error, SystemExit) and not error.code:
        error.code = 1
    return error


# -- the end of the process ---------------------------------------------------

_running: set[Bus] = set()
_at_exit_registered = False


def _stop_at_exit(bus: Bus) -> None:
    """Have ``bus`` stopped if the main thread ends while it is started."""
    global _at_exit_registered
    bus._pid = os.getpid()
    _running.add(bus)
    if _at_exit_registered:
        return
    _at_exit_registered = True
    try:
        # atexit's own handlers run after all threads that are not daemons
        # ended: never, while a server's thread waits for us to stop it.
        threading._register_atexit(_exit_all)  # type: ignore[attr-defined]
    except (AttributeError, RuntimeError):
        atexit.register(_exit_all)


def _exit_all() -> None:
    for bus in list(_running):
        _running.discard(bus)
        if bus._pid != os.getpid() or bus.state is State.EXITING:
            continue  # a forked child's end is no concern of its parent's bus
        _exit_late(bus)


def _exit_late(bus: Bus) -> None:
    import warnings

    try:
        if not bus.exits_with_process and bus.state is not State.STOPPED:
            warnings.warn(
                f'The main thread is exiting, but the Bus is in the {bus.state!r} '
                'state; shutting it down automatically now. You must either call '
                'bus.block() after start(), or call bus.exit() before the main '
                'thread exits.',
                RuntimeWarning,
                stacklevel=1,
            )
    finally:
        bus.execv = False
        watcher = bus._watch(_states(State.EXITING))
        with contextlib.suppress(ChannelFailures, WSPBusError):  # each is in the log
            bus.exit()
        with contextlib.suppress(Empty):  # a thread in block() may be at it
            watcher.reached.get(timeout=bus.stop_timeout or 30)
