"""Transitions: what the bus does to start, stop, exit and reload, in the thread with the turn."""

from __future__ import annotations

import contextlib
import functools
import os
import time
from _queue import Empty
from collections import deque

from paste_wspbus.bus import ending
from paste_wspbus.bus.calls import Deferred, not_zero
from paste_wspbus.bus.channels import ChannelFailures
from paste_wspbus.bus.host import REASON, host_of
from paste_wspbus.bus.lifespans import Line, Member
from paste_wspbus.bus.states import TRANSITIONS, State
from paste_wspbus.bus.turn import LEAVING, is_interrupt
from paste_wspbus.errors import IllegalTransition
from paste_wspbus.exits import exit_code_of
from paste_wspbus.streams import restore_deleted

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from typing import Any

    from paste_wspbus.bus.bus import Bus
    from paste_wspbus.bus.channels import Listener
    from paste_wspbus.bus.turn import Command

    Results = dict[int, list[Any]]

#: The commands whose failure gives the process a non-zero exit code.
STATE_COMMANDS = LEAVING | {'start'}


class Transitions:
    """Carries out the commands of a bus.

    Only the thread that has the turn calls `carry_out`. An interrupt may tear each of
    these methods between two lines; `_resume` goes on from what they have noted here.
    """

    def __init__(self, bus: Bus) -> None:
        self._bus = bus
        #: The 'start' listeners that were not called yet.
        self.line = Line()
        #: The 'stop' and 'exit' listeners that were not called yet; no key before that.
        self._untold: dict[str, deque[Listener]] = {}
        #: During a start: from the id of an owner to the results of its 'start' listeners.
        self._started: Results | None = None
        #: Whether a server that ran in the thread of the start has ended.
        self.server_ended = False
        #: It holds something from `Bus.hurry` to the next start.
        self.hurries = bus.queue_class()

    def carry_out(self, command: Command) -> None:
        """Call the method of the command's name; its error is in ``command.error`` then."""
        bus = self._bus
        bus.calls.failed = False
        restore_deleted()
        try:
            getattr(self, command.name)(*command.args)
        except BaseException as error:
            command.error = error
            if command.name in STATE_COMMANDS:
                if isinstance(error, SystemExit):
                    self.keep_exit_code(error)
                if os.getpid() == bus.pid:
                    self._resume(command.name, error)
            if bus.calls.failed:
                not_zero(error)
        finally:
            if bus.calls.failed and command.name in STATE_COMMANDS:
                bus.exit_code = bus.exit_code or 1

    def _resume(self, name: str, error: BaseException) -> None:
        """End a transition that ``error`` has torn: a signal handler raised it between two lines.

        If the transition has ended with this error itself, nothing happens.
        """
        with contextlib.suppress(BaseException):  # the caller raises the first error
            if not isinstance(error, ChannelFailures):
                self._move(self._bus.state)  # its watchers may not have been woken
            if name == 'start':
                self._roll_back_if_torn()
            else:
                getattr(self, name)()

    def keep_exit_code(self, error: SystemExit) -> None:
        """Let the process exit with the code of ``error``, unless it has one already."""
        self._bus.exit_code = self._bus.exit_code or exit_code_of(error)

    def _move(self, new: State) -> None:
        old = self._bus.state
        if new is not old and new not in TRANSITIONS[old]:
            raise IllegalTransition(old, new)
        self._bus.state = new
        self._bus.waiting.has_moved(new)
        self._bus.has_moved(old, new)

    # -- start --------------------------------------------------------------

    def start(self) -> None:
        """Call the 'start' listeners; undo that if one fails, or if a stop comes."""
        bus = self._bus
        self._move(State.STARTING)
        self._started, self._untold = {}, {}
        bus.claim_process()
        ending.stop_at_exit(bus)
        self.server_ended = False
        bus.exit_code, bus.stop_reason = 0, None
        bus.draining.clear()
        self.hurries = bus.queue_class()
        try:
            bus.log('Bus STARTING')
            servers = self._run_start_listeners(self._started)
            if servers is not None:
                self._move(State.STARTED)
        except BaseException as error:
            if os.getpid() != bus.pid:
                raise  # a listener has forked, and this is the child, which ends
            self._give_up(error)
            raise
        if servers is None:  # a call of stop() or exit() has ended the start early
            self._roll_back()
            return
        self._started = None
        bus.log('Bus STARTED')
        while (late := self.line.rest()) is not None:
            bus.calls.call('start', deque((late,)), [])
        for server in servers:
            if bus.state is State.STARTED:
                self._run_blocking(server)

    def _run_start_listeners(self, started: Results) -> list[Listener] | None:
        """Call the 'start' listeners in order, but not those that block.

        :param started: gets the results of the listeners, by the ids of their owners.
        :returns: the listeners that block; None if a stop or exit ended the start early.
        """
        bus = self._bus
        if bus.lifespans.groups:
            from paste_wspbus.bus.needs import arrange

            arrange(bus)
        ordered = bus.channel('start').ordered
        limit = bus.start_timeout
        bus.calls.start_until = None if limit is None else time.monotonic() + limit
        self.line.open(one for one in ordered if not one.blocking)
        try:
            while not bus.leaving and (listener := self.line.next()) is not None:
                results = started.setdefault(id(listener.owner), [])
                self._call_to_start(listener, results)
                bus.claim_process()  # this may be the child: a Daemonizer may have forked
        finally:
            self.line.close()
            bus.calls.start_until = None
        if bus.leaving:
            return None
        return [one for one in ordered if one.blocking]

    def _call_to_start(self, listener: Listener, results: list[Any]) -> None:
        calls = self._bus.calls
        try:
            calls.call('start', deque((listener,)), results)
        except (KeyboardInterrupt, SystemExit):
            raise
        except BaseException as error:
            if os.getpid() != self._bus.pid:
                raise  # a listener has forked, and this is the child, which ends
            failures = ChannelFailures()
            calls.note_failure('start', listener.name, failures)
            failures.listener = listener.name
            raise failures from error

    def _give_up(self, error: BaseException) -> None:
        """Undo a start that has failed; the caller raises the start's error."""
        later = Deferred()
        if not is_interrupt(error):
            text = f'Shutting down due to error in start listener: {error}'
            later.run(self._bus.log, text, 40)
        later.run(self._roll_back)
        if not is_interrupt(error):
            later.raise_interrupt()

    def _roll_back(self) -> None:
        """Call the 'stop' listeners, but not those whose own start has not succeeded."""
        self.line.clear()
        self._within_limit(self._to_stopped).raise_interrupt()  # but not the failures

    def _roll_back_if_torn(self) -> None:
        if self._bus.state not in (State.STOPPED, State.STARTED, State.EXITING):
            self._roll_back()

    # -- a server that blocks -------------------------------------------------

    def _run_blocking(self, server: Listener) -> None:
        """Run a server in this thread until it returns, then stop.

        No thread has the turn meanwhile, so another thread can publish 'graceful'. A
        call of stop or exit raises KeyboardInterrupt in the server.
        """
        from paste_wspbus.bus.server_run import serve

        run = functools.partial(serve, self._bus, server, self.keep_exit_code)
        error = self._bus.turn.lend(run)
        self.server_ended = True
        try:
            self.stop()
        finally:
            if error is not None:
                self._bus.calls.failed = True
                failures = ChannelFailures()
                failures.add(error)
                failures.listener = server.name
                raise failures from error

    # -- stop, exit, graceful ---------------------------------------------------

    def stop(self) -> None:
        """Drain, and call the 'stop' listeners, unless that is over."""
        state = self._bus.state
        is_over = state is State.STOPPED and 'stop' in self._untold
        if is_over or state is State.EXITING:
            return
        self._within_limit(self._drain_and_stop).raise_it()

    def _drain_and_stop(self, later: Deferred) -> None:
        if self._bus.state is State.STARTED:
            later.run(self._drain)
        self._to_stopped(later)

    def _to_stopped(self, later: Deferred) -> None:
        """Call the 'stop' listeners; go on with that if an interrupt has torn it."""
        log = self._bus.log
        self._move(State.STOPPING)
        if 'stop' not in self._untold:
            later.run(self.tell_reason)
            later.run(log, 'Bus STOPPING')
            self._untold['stop'] = deque(self._to_tell_stop())
        later.run(self._call_rest, 'stop')
        # If an interrupt has kept a lifespan from being left, it listens still.
        self._untold['stop'].extend(self._entered_lifespans())
        later.run(self._call_rest, 'stop')
        self._move(State.STOPPED)
        later.run(log, 'Bus STOPPED')

    def _to_tell_stop(self) -> Iterable[Listener]:
        """Return the 'stop' listeners, but not those whose own start has not succeeded."""
        started, ordered = self._started, self._bus.channel('stop').ordered
        if started is None:
            return ordered
        failed = {
            id(listener.owner)
            for listener in self._bus.channel('start').ordered
            if not started.get(id(listener.owner))
            # A lifespan listens to 'stop' only if it was entered. If a function listens to
            # both channels, these are two listeners, and not a plugin.
            and not isinstance(listener.owner, Member)
            and not hasattr(listener.owner, '__code__')
        }
        return (one for one in ordered if id(one.owner) not in failed)

    def _entered_lifespans(self) -> Iterable[Listener]:
        for listener in self._bus.channel('stop').ordered:
            if isinstance(listener.owner, Member) and listener.owner.is_entered:
                yield listener

    def _drain(self) -> None:
        bus = self._bus
        if not bus.drain_delay and not bus.listeners.get('drain'):
            return
        self._move(State.DRAINING)
        later = Deferred()
        later.run(self.call_listeners, 'drain')
        if bus.drain_delay > 0 and not (bus.hurried or later.interrupted):
            later.run(self._wait_for_hurry, bus.deadline.shorten(bus.drain_delay))
        later.raise_it()

    def _wait_for_hurry(self, seconds: float) -> None:
        with contextlib.suppress(Empty):
            self.hurries.get(timeout=seconds)
            self.hurries.put(None)

    def exit(self) -> None:
        """Stop, and call the 'exit' listeners, unless that is over."""
        if self._bus.state is State.EXITING and not self._untold.get('exit', True):
            return
        self._within_limit(self._stop_and_exit).raise_it()

    def _stop_and_exit(self, later: Deferred) -> None:
        bus = self._bus
        later.run(self.stop)
        later.run(self.stop)  # it goes on if an interrupt has torn the first call
        self._move(State.EXITING)
        ending.forget(bus)
        if 'exit' not in self._untold:
            later.run(bus.log, 'Bus EXITING')
            self._untold['exit'] = deque(bus.channel('exit').ordered)
        later.run(self._call_rest, 'exit')
        later.run(self._call_rest, 'exit')
        later.run(bus.log, 'Bus EXITED')

    def graceful(self) -> None:
        """Call the 'graceful' listeners."""
        self._bus.log('Bus graceful')
        self.call_listeners('graceful')

    def _within_limit(self, work: Callable[[Deferred], None]) -> Deferred:
        """Do ``work`` within ``stop_timeout``, or exit with code 70; return its errors."""
        bus = self._bus
        later = Deferred()
        if bus.before_stop is not None:
            bus.before_stop()
        bus.draining.set()
        deadline, late = bus.deadline, lambda why: bus.force_exit(why)
        limits = bus.stop_timeout, bus.stop_reserve
        deadline.within(lambda: work(later), *limits, late, host_of(bus))
        return later

    # -- calling listeners ------------------------------------------------------

    def _call_rest(self, channel: str) -> None:
        self._bus.calls.call_all(channel, self._untold[channel])

    def call_listeners(self, channel: str) -> None:
        """Call the listeners of a state channel, each within its limits."""
        self._bus.calls.call_all(channel, deque(self._bus.channel(channel).ordered))

    def publish(self, channel: str, *args: Any) -> None:
        """Publish a channel that `Bus.post` has queued."""
        with contextlib.suppress(ChannelFailures):  # the log has each error
            self._bus.publish(channel, *args)

    def tell_reason(self) -> None:
        """Log why the process ends, once."""
        bus = self._bus
        if bus.untold_reason is not None:
            why, bus.untold_reason = bus.untold_reason, None
            bus.log(f'{REASON}{why}')
