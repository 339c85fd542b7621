"""The Bus: its channels, its lifespans, and what moves it from state to state.

It has the API of `cherrypy.process.wspbus` (CherryPy 18), so that plugins made for that
bus work on this one. It needs only the standard library.
"""

from __future__ import annotations

import contextlib
import functools
import os
import sys
import threading
from _queue import SimpleQueue  # `queue` imports what its other queues need
from collections import deque

from paste_wspbus.bus import ending
from paste_wspbus.bus.broadcasting import Broadcasting
from paste_wspbus.bus.calls import Call, Calls
from paste_wspbus.bus.channels import (
    STATE_CHANNELS,
    Channel,
    ChannelFailures,
    Listener,
    is_priority,
)
from paste_wspbus.bus.deadlines import Deadline, with_rlock
from paste_wspbus.bus.host import OWN, Host, host_of
from paste_wspbus.bus.interrupts import Interrupts, in_main_thread, inside
from paste_wspbus.bus.lifespans import Lifespans
from paste_wspbus.bus.places import trace_of
from paste_wspbus.bus.states import State, states, states_of
from paste_wspbus.bus.transitions import Transitions
from paste_wspbus.bus.turn import LEAVING, Turn, is_interrupt
from paste_wspbus.bus.waiting import Block, Waiting
from paste_wspbus.errors import (
    IllegalTransition,
    RestartImpossible,
    WouldDeadlock,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from typing import Any, NoReturn, TypeVar

    from paste_wspbus.bus.lifespan import Lifespan
    from paste_wspbus.bus.server_run import ServerRun

    F = TypeVar('F', bound='Callable[..., Any]')
    T = TypeVar('T')

try:
    # A relative sys.executable or script is relative to this, also after os.chdir().
    _startup_cwd = os.getcwd()
except FileNotFoundError:
    _startup_cwd = ''


class Bus(Broadcasting):
    """The state machine of a web site's process, and the channels between its parts.

    Parts of the site subscribe to channels: 'start', 'stop', 'exit', 'graceful', 'log',
    'main', and any other. The methods start, stop, exit and graceful move the bus from
    state to state, and publish the channel of their name.

    One thread at a time runs transitions. While a thread is in `block`, that thread
    runs them: if another thread, a listener or a signal handler calls start, stop,
    exit, restart or graceful, the call is queued for the thread in `block`, and returns
    at once. `wait` waits for the result. If no thread is in `block`, the caller runs
    the transition.
    """

    #: The states of the bus: `State`.
    states = states
    #: Whether the process replaces itself when the bus has exited.
    execv = False
    #: Whether a signal has asked for a restart; then 'graceful' is published before it.
    restarting = False
    #: Whether this process only tries whether the site can be loaded: nothing starts here.
    trial = False
    #: Whether an operator wants no new requests here (`drain`): health checks read it.
    drained = False
    #: Called for a restart that a signal asks for, in place of `restart`; it returns at once.
    try_restart: Callable[[], object] | None = None
    #: If 0, files that were made inheritable stay open over a restart in place.
    max_cloexec_files = 1

    #: The file descriptors that stay open over a restart in place in any case.
    kept_files: Iterable[int] = ()
    #: It is called before this process replaces itself, and returns more such descriptors.
    before_execv: Callable[[], Iterable[int]] | None = None
    #: It is called before each stop, in the thread that carries the stop out.
    before_stop: Callable[[], object] | None = None
    #: It is called to end the process if its main thread cannot do that.
    end_process: Callable[[], object] | None = None
    #: It is called before a forced end; if it returns true, the process does not end.
    before_force: Callable[[str], object] | None = None
    #: The folder in which the next program starts; if it is a link, it is resolved then.
    startup_folder = _startup_cwd
    #: The program that owns the process, its promises, and its own actions.
    host: Host = OWN
    #: Who has asked for the graceful restart or the restart that comes, for `status`.
    asked_by: str | None = None
    #: The `cluster.lease.Lease` of this process, if it has one.
    lease: Any = None
    #: The reason why the process ends, if its host gives one: for listeners.
    stop_reason: str | None = None
    #: The same, until it is logged.
    untold_reason: str | None = None

    #: Seconds that drain, stop and exit may take together; then the process ends with
    #: exit code 70. None stands for no limit.
    stop_timeout: float | None = None
    stop_reserve: float | None = None  #: the part of it for what stops after the server
    #: Seconds that all start listeners may take together; then start() fails. None
    #: stands for no limit.
    start_timeout: float | None = None
    #: Seconds between 'drain', when the site stops being ready, and 'stop'.
    drain_delay: float = 0
    #: Seconds that `block` waits at its end for threads that are not daemons.
    join_timeout: float = 5
    #: The class of the queues that threads sleep in. It has the methods put, empty and
    #: get(timeout=seconds) of a SimpleQueue. Signal handlers call put(), too.
    queue_class: type[SimpleQueue[Any]] = SimpleQueue
    #: A context manager around each sleep: it lets signals end it.
    interrupts_class: Callable[..., contextlib.AbstractContextManager[Any]] = Interrupts

    def __init__(self) -> None:
        self.execv = False
        self.state = State.STOPPED
        self.listeners: dict[str, Any] = {
            name: Channel(name)
            for name in ('start', 'stop', 'exit', 'graceful', 'log', 'main')
        }
        self._new_channel = threading.RLock()
        #: The default plugins by name; a site may unsubscribe and replace them.
        self.plugins: dict[str, Any] = {}
        #: They are called before a restart; each may raise RestartImpossible to refuse it.
        self.restart_checks: list[Callable[[], object]] = []
        #: From the name of each entered lifespan to the value that it has yielded.
        self.resources: dict[str, Any] = {}
        #: All lifespans by name.
        self.lifespans = Lifespans()
        #: The exit code for the end of the process: 0, 1, or that of a SystemExit.
        self.exit_code = 0
        #: The ID of the process that the bus belongs to. In a forked child it is still
        #: that of the parent.
        self.pid = os.getpid()

        def log(*args: Any, **kwargs: Any) -> None:
            self.log(*args, **kwargs)  # looked up now, because it may be replaced

        #: The queue of commands, and the turn: the right of one thread to run them.
        self._transitions = Transitions(self)
        self.turn = Turn(self.queue_class(), self._transitions.carry_out)
        #: The threads that wait for a state.
        self.waiting = Waiting(
            self.turn,
            state=lambda: self.state,
            publish=lambda channel: self.publish(channel),
            is_heard=lambda channel: bool(self.listeners.get(channel or '')),
            log=log,
            make_queue=lambda: self.queue_class(),
        )
        #: The run of a server that blocks the thread of the start, while it runs.
        self.serving: ServerRun | None = None
        self.calls = Calls(log, may_cut=lambda: host_of(self).owns_alarm)
        self.deadline = Deadline()  # the deadline of the present stop
        #: It is set during a stop: wspbus.draining.
        self.draining = with_rlock(threading.Event())

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
        """Call ``callback`` whenever ``channel`` is published.

        :param callback: any callable. Without it, `subscribe` returns a decorator.
        :param args: the first arguments of each call, before those that are published:
            ``bus.subscribe('start', server, app)``. A single number or None is a
            priority instead, as in CherryPy.
        :param priority: a lower one is called earlier; ``callback.priority`` or 50 if None.
        :param timeout: seconds that a call may take, on state channels;
            ``callback.timeout`` if None.
        :param blocking: on 'start': whether it is a server that runs until the site
            stops.
        :raises NotCallable: (a TypeError) if the callback is not callable.
        :raises BadPriority: (a TypeError) if priority or timeout is not a number.
        """
        if len(args) == 1 and priority is None and is_priority(args[0]):
            priority, args = args[0], ()

        def add(function: F) -> F:
            known = self.channel(channel)  # this numbers older ones first
            known.subscribe(Listener(function, args, priority, timeout, blocking))
            self.waiting.wake()
            return function

        if callback is None:
            return add
        add(callback)
        return None

    def unsubscribe(self, channel: str, callback: Any) -> None:
        """Do not call ``callback`` any more. If it is not subscribed, nothing happens."""
        if self.listeners.get(channel) is not None:
            self.channel(channel).unsubscribe(callback)

    def publish(self, channel: str | None, *args: Any, **kwargs: Any) -> list[Any]:
        """Call the listeners of ``channel`` in order.

        All are called, even if some fail. Each failure is logged.

        :param args: together with ``kwargs``, the arguments of each call.
        :returns: the results of the listeners.
        :raises ChannelFailures: at the end, if some failed.
        :raises SystemExit, KeyboardInterrupt: if a listener raises it: at once, but on
            'stop' and 'exit' after the calls of the others.
        """
        try:
            calls = self.listeners[channel].order.calls  # type: ignore[index]
        except KeyError:
            return []
        except AttributeError:  # a plain set, which CherryPy's plugins put there
            calls = None
        if calls is None:
            if channel in STATE_CHANNELS:
                ordered = self.channel(channel).ordered
                return self.calls.call_all(channel, deque(ordered), args, kwargs)
            calls = self.channel(str(channel)).work_out().calls or ()
        output: list[Any] = []
        try:
            for call in calls:
                output.append(call(*args, **kwargs))
        except Exception:
            # Call the listeners after the one that has just failed.
            self.calls.call_rest(str(channel), calls[len(output) :], args, kwargs)
        return output

    def post(self, channel: str, *args: Any) -> None:
        """Let the thread in `block` publish ``channel``. If there is none, publish it now.

        It is for signal handlers, which should not run listeners. Failures are logged.
        """
        self.turn.put('publish', channel, *args)
        self.turn.run_if_nobody_will()

    def channel(self, name: str) -> Channel:
        """Return the `Channel` of that name; make it if there is none.

        If ``listeners`` has a plain set under that name, a Channel replaces it.
        """
        channel = self.listeners.get(name)
        if isinstance(channel, Channel):
            return channel
        with self._new_channel:
            channel = self.listeners.get(name)
            if isinstance(channel, Channel):
                return channel
            made = Channel(name, channel or ())
            made.update(self.listeners.get(name) or ())
            self.listeners[name] = made
            return made

    def log(self, msg: str = '', level: int = 20, traceback: bool = False) -> None:
        """Publish a message on 'log'.

        Failures of 'log' listeners are ignored: a full disk must not keep a site from
        stopping.

        :param level: as in `logging`: 20 is INFO, 30 WARNING, 40 ERROR, 50 CRITICAL.
        :param traceback: whether to append the exception that is being handled.
        """
        if traceback:
            msg += f'\n{trace_of(sys.exc_info()[1])}'
        try:
            self.publish('log', msg, level)
        except BaseException as error:  # such as asyncio's CancelledError
            if is_interrupt(error):
                raise

    @property
    def timeline(self) -> list[Call]:
        """The last 1,000 calls on state channels, the oldest first; see `Calls.record`."""
        return [*self.calls.load, *self.calls.timeline]

    @property
    def calling(self) -> tuple[str, str, float] | None:
        """The listener of a state channel that runs now, and that a transition waits for.

        It is (channel, name, time.monotonic() of its start), or None.
        """
        return self.calls.calling

    # -- lifespans --------------------------------------------------------

    def lifespan(
        self,
        function: Callable[[], Iterator[Any]] | None = None,
        *,
        priority: float | None = None,
        name: str | None = None,
        timeout: float | None = None,
        needs: str | Iterable[str] | None = None,
        after: str | Iterable[str] | None = None,
    ) -> Any:
        """Make a lifespan of a generator function; it can be used as a decorator.

        The code before its ``yield`` runs at start, the code after it at stop. Stops run
        in the reverse order of the starts. If the bus is started already, or the start
        has passed the lifespan's place, it is entered at once.

        :param priority: that of its start, 50 if None; its stop has 100 - priority.
        :param name: its name in ``bus.resources``; the name of the function if None.
        :param timeout: seconds for its start, and for its stop.
        :param needs: names of lifespans and plugins: it starts after them and stops before
            them, whatever the priorities are. ``after`` may name some that do not exist.
        :returns: the function; without one, a decorator.
        :raises LifespanRefused: while the bus is stopping.
        :raises NameTaken: (a ValueError) if another lifespan has this name.
        :raises NeedError: if the bus is started, and what it needs is not.
        """
        if function is None:
            return functools.partial(
                self.lifespan,
                priority=priority,
                name=name,
                timeout=timeout,
                needs=needs,
                after=after,
            )
        make = contextlib.contextmanager(function)
        default = function.__name__
        self._add_lifespan(make, name, default, priority, timeout, needs, after)
        return function

    def enter(
        self,
        context: contextlib.AbstractContextManager[T],
        *,
        priority: float | None = None,
        name: str | None = None,
        timeout: float | None = None,
        needs: str | Iterable[str] | None = None,
        after: str | Iterable[str] | None = None,
    ) -> T | None:
        """Enter a context manager at each start, and leave it at stop, as `lifespan` does.

        The arguments and errors are those of `lifespan`.

        :returns: what it yields if the bus is started already, else None.
        """
        # A context of contextlib can be entered only once. _recreate_cm makes a new one.
        renew = getattr(context, '_recreate_cm', lambda: context)
        default = getattr(getattr(context, 'func', None), '__name__', None)
        default = default or type(context).__name__
        added = self._add_lifespan(
            renew, name, default, priority, timeout, needs, after
        )
        return self.resources.get(added.name)

    def _add_lifespan(
        self, make: Callable[[], contextlib.AbstractContextManager[Any]], *words: Any
    ) -> Lifespan:
        from paste_wspbus.bus.lifespan import add

        return add(self, self._transitions.line, make, *words)

    # -- asking for transitions -------------------------------------------

    def start(self) -> None:
        """Start all parts of the site: STOPPED → STARTING → STARTED.

        :raises ChannelFailures: if a listener failed; ``__cause__`` is its error. The
            parts that had started were stopped in reverse order; the bus is STOPPED.
        :raises IllegalTransition: if the bus is STARTED already.
        """
        if self.state is State.STARTED and not self.command and not self.leaving:
            raise IllegalTransition(self.state, State.STARTING)
        self._submit('start')

    def stop(self) -> None:
        """Stop all parts of the site: → STOPPING → STOPPED.

        If they were stopped since the last start, nothing happens. A host that owns the
        process may end the process instead.

        :raises ChannelFailures: at the end, if listeners failed.
        """
        if not host_of(self).leave(self, 'stop'):
            self._submit('stop')

    def exit(self) -> None:
        """Stop all parts of the site, unless they are stopped, and move to EXITING.

        If a restart was asked for and no thread is in `block` to carry it out,
        'restart' is published. A host that owns the process may end the process instead.

        :raises ChannelFailures: at the end, if listeners failed.
        """
        if host_of(self).leave(self, 'exit'):
            return
        try:
            self._submit('exit')
        except ChannelFailures:
            self._restart_if_alone()
            raise
        self._restart_if_alone()

    def restart(self) -> None:
        """Exit, and let the thread in `block` replace the process.

        If 'restart' has no listeners, a host that restarts sites itself does it instead.

        :raises RestartImpossible: if the site cannot be restarted; nothing is stopped
            then. If a thread is in `block`, the error is logged and not raised, because a
            signal handler may call this in the middle of other code.
        """
        if not self.listeners.get('restart') and host_of(self).restart(self):
            return
        try:
            self.check_restart()
        except RestartImpossible as error:
            self.restarting = False
            if self.turn.blocker is None and self.state is not State.EXITING:
                raise
            self.log(str(error), level=40)
            self.post('reload_failed', str(error))
            return
        self.execv = True
        self._submit('exit')

    def graceful(self) -> None:
        """Publish 'graceful', which asks the parts of this process to reload.

        :raises ChannelFailures: at the end, if listeners failed.
        """
        self._submit('graceful')

    def hurry(self) -> None:
        """Skip every wait: for the drain delay, for requests in flight, for threads to end.

        :raises KeyboardInterrupt: if the main thread calls this (in a signal handler)
            while it runs a start: the start is interrupted.
        """
        self._transitions.hurries.put(None)
        if self.state is State.STARTING and self.turn.is_mine and in_main_thread():
            raise KeyboardInterrupt

    @property
    def hurried(self) -> bool:
        """Whether `hurry` was called since the last start."""
        return not self._transitions.hurries.empty()

    @property
    def leaving(self) -> bool:
        """Whether a stop or an exit is queued and has not begun."""
        return bool(self.turn.leaving)

    @property
    def is_told_to_leave(self) -> bool:
        """Whether a stop or exit is queued or has begun, or the bus has exited."""
        return self.leaving or self.command in LEAVING or self.state is State.EXITING

    @property
    def command(self) -> str | None:
        """The name of the command that runs now: 'start', 'graceful', …; None if there is none."""
        return self.turn.current

    @property
    def was_started(self) -> bool:
        """Whether the bus has been STARTED since the last start began."""
        return State.STARTED in self.waiting.visited

    def claim_process(self) -> None:
        """Make the bus belong to this process: a forked child that runs the site calls this."""
        self.pid = os.getpid()

    def _submit(self, name: str) -> None:
        """Queue a command, and run it unless another thread does."""
        turn = self.turn
        if name == turn.current and (name != 'graceful' or turn.is_mine):
            return  # but 'graceful' of another thread is queued: more may have changed
        command = turn.put(name)
        server = self.serving
        if server is not None and name in LEAVING:
            server.end(self)
            return
        turn.run_if_nobody_will()
        if command.error is not None:
            raise command.error

    def has_moved(self, old: State, new: State) -> None:
        """React to a move from state to state. It does nothing; subclasses override it."""

    def make_server_run(self, must_end: Callable[[], bool]) -> ServerRun:
        """Return the `ServerRun` that makes a blocking server return; subclasses override it.

        :param must_end: returns whether a stop or an exit was asked for.
        """
        from paste_wspbus.bus.server_run import ServerRun

        return ServerRun(must_end)

    def force_exit(self, why: str) -> None:
        """Log ``why``, what does not end, all stacks and the status; exit with code 70."""
        if not (self.before_force and self.before_force(why)):
            ending.force_exit(self, why, runs_handlers=self.deadline.is_over)

    # -- waiting ------------------------------------------------------------

    def wait(
        self, state: Any, interval: float = 0.1, channel: str | None = None
    ) -> State:
        """Wait until the bus is in ``state``, or was in it for a moment meanwhile.

        The thread sleeps until then, without polling.

        :param state: a state, or several.
        :param interval: seconds between publications of ``channel``.
        :param channel: is published meanwhile, as long as it has listeners.
        :returns: the state that was reached.
        :raises WouldDeadlock: if a listener of the present transition calls this.
        """
        wanted = states_of(state)
        turn, waiting = self.turn, self.waiting
        if turn.is_mine and self.command is not None:
            if self.state not in wanted:
                raise WouldDeadlock('wait()')
            return self.state
        if threading.get_ident() == turn.blocker:
            return waiting.run_commands(wanted, interval, channel)
        if (now := self.state) in wanted:
            return now
        with waiting.watching(wanted) as watcher:
            sleep = functools.partial(waiting.sleep, watcher, interval, channel)
            return inside(self.interrupts_class(wake=watcher.wake), sleep)

    def block(self, interval: float = 0.1, states: Any = None) -> None:
        """Run the site from this thread: sleep, and carry out the commands of all threads.

        Without ``states``, it waits until EXITING. After KeyboardInterrupt it exits the
        bus. After SystemExit it exits the bus and raises the SystemExit again. At the
        end it joins the threads that are not daemons, and replaces the process if a
        restart was asked for.

        With ``states`` (such as ``State.STOPPED``), it waits until the bus has been in
        one of them since start(), or in EXITING. After KeyboardInterrupt or SystemExit
        it stops the bus; the exit code is in ``bus.exit_code``. Then it returns, and
        the caller must call exit().

        :param interval: seconds between publications of 'main', as long as it has
            listeners.
        :raises SystemExit: see above.
        :raises WouldDeadlock: if a listener of the present transition calls this.
        """
        if self.turn.is_mine:
            raise WouldDeadlock('block()')
        ending.import_rest()
        goal = states_of(states or ()) | {State.EXITING}
        if not states and self._transitions.server_ended:
            self.turn.put('exit')
        run = Block(
            self.turn,
            wait=lambda: self.wait(tuple(goal), interval=interval, channel='main'),
            is_reached=lambda: self.waiting.is_reached(goal),
            log=self.log,
            leave='stop' if states else 'exit',
            pid=lambda: self.pid,
        )
        takes_turn = getattr(self.wait, '__func__', None) is Bus.wait
        interrupts = self.interrupts_class(wake=self.turn.wake)
        exited = inside(interrupts, lambda: run.run(takes_turn))
        if states:
            if exited is not None:
                self._transitions.keep_exit_code(exited)
            return
        if exited is not None:
            raise exited
        with contextlib.suppress(KeyboardInterrupt):
            self.log('Waiting for child threads to terminate...')
        self.join_threads()
        if self.execv and not self._publish_restart():
            self.replace_process()

    def join_threads(self) -> list[threading.Thread]:
        """Wait until all threads that are not daemons have ended.

        They have ``join_timeout`` seconds together. The log names each of them. A
        KeyboardInterrupt ends the wait.

        :returns: the threads that still run.
        """
        return ending.join_threads(self)

    def start_with_callback(
        self,
        func: Callable[..., object],
        args: tuple[Any, ...] | None = None,
        kwargs: dict[str, Any] | None = None,
    ) -> threading.Thread:
        """Start the bus, and call ``func`` in a new thread as soon as it is STARTED.

        If the start fails, ``func`` is not called.

        :returns: the thread.
        :raises ChannelFailures, IllegalTransition: as `start` does.
        """
        from paste_wspbus.bus.callback import start_and_call

        call = functools.partial(func, *(args or ()), **(kwargs or {}))
        return start_and_call(self.waiting, self.start, call)

    # -- restart --------------------------------------------------------------

    def _restart_if_alone(self) -> None:
        if self.execv and self.state is State.EXITING and self.turn.owner is None:
            self._publish_restart()

    def _publish_restart(self) -> bool:
        """Publish 'restart' if it has listeners; return whether it has any."""
        if not self.listeners.get('restart'):
            return False
        self.execv = False
        self._transitions.call_listeners('restart')
        return True

    def check_restart(self) -> None:
        """Check that the site can be restarted.

        It calls all ``restart_checks``, and `check_execv` if 'restart' has no listeners.

        :raises RestartImpossible: if the site cannot be restarted.
        """
        for check in list(self.restart_checks):
            check()
        if not self.listeners.get('restart'):  # a listener would restart in its own way
            self.check_execv()

    def check_execv(self) -> None:
        """Check that this process can replace itself.

        :raises RestartImpossible: if it cannot.
        """
        from paste_wspbus.bus.replacing import check_replaceable

        check_replaceable(self.startup_folder, _startup_cwd)

    def replace_process(self) -> NoReturn:
        """Replace this process with one that starts as this one did.

        :raises OSError: if that fails.
        """
        from paste_wspbus.bus import replacing

        words = replacing.command_line(self.startup_folder, _startup_cwd)
        self.log('Re-spawning %s' % ' '.join(words))
        kept = [*self.kept_files, *(self.before_execv() if self.before_execv else ())]
        replacing.replace(
            self.startup_folder, words, kept, close_others=bool(self.max_cloexec_files)
        )
