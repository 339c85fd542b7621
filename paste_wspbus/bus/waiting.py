"""Waiting for a state: meanwhile the thread in `Bus.block` runs commands, and others sleep."""

from __future__ import annotations

import contextlib
import os
import threading
import time
from _queue import Empty

from paste_wspbus.bus.channels import ChannelFailures
from paste_wspbus.bus.states import State
from paste_wspbus.bus.turn import is_interrupt
from paste_wspbus.errors import IllegalTransition, WSPBusError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Generator
    from queue import SimpleQueue
    from typing import Any

    from paste_wspbus.bus.turn import Turn


class Watcher:
    """One thread that waits: the states that it wants, and the queue that it sleeps in.

    The queue gets the state that was reached, or None, which only wakes the thread.
    """

    __slots__ = ('reached', 'wanted')

    def __init__(
        self, wanted: frozenset[State], reached: SimpleQueue[State | None]
    ) -> None:
        self.wanted, self.reached = wanted, reached

    def wake(self) -> None:
        """Wake the thread that waits, so that it checks the state and timeout again."""
        self.reached.put(None)


class Waiting:
    """The states that a bus was in, and the threads that wait for a state.

    Why no thread misses a state, although nothing here takes a lock. A thread that waits
    first puts its watcher into the list, and then checks the state. The thread that
    moves the bus first sets the state, and then reads the list. The thread that comes
    second sees what the first has done. So the waiting thread sees the state, or finds it
    in its queue, or both, which does no harm. A state that lasts only for a moment is in
    the queue, too. The thread in `Bus.block` needs no watcher. It moves the bus itself,
    and checks after each command which states were `visited`. It sleeps in the queue of
    commands, so a command that comes between its check and its sleep wakes it.

    `has_moved` and `wake` use a copy of the list, because other threads change it
    meanwhile.

    :param turn: has the queue that the thread in `Bus.block` sleeps in.
    :param state: returns the state that the bus is in.
    :param publish: is called as `Bus.publish`.
    :param is_heard: returns whether a channel has listeners.
    :param log: is called as `Bus.log`.
    :param make_queue: makes the queue that a watcher sleeps in.
    """

    def __init__(
        self,
        turn: Turn,
        state: Callable[[], State],
        publish: Callable[[str | None], object],
        is_heard: Callable[[str | None], bool],
        log: Callable[..., object],
        make_queue: Callable[[], SimpleQueue[Any]],
    ) -> None:
        self._turn, self._state, self._publish = turn, state, publish
        self._is_heard, self._log, self._make_queue = is_heard, log, make_queue
        #: The states that the bus was in since the last start.
        self.visited: set[State] = set()
        self._watchers: list[Watcher] = []
        #: The thread in `Bus.block` calls these after each command that it carries out.
        self.after_command: list[Callable[[], object]] = []

    def has_moved(self, new: State) -> None:
        """Note the state that the bus has moved to, and wake the threads that want it."""
        if new is State.STARTING:
            self.visited = set()
        self.visited.add(new)
        for watcher in tuple(self._watchers):
            if new in watcher.wanted:
                watcher.reached.put(new)

    def wake(self) -> None:
        """Wake all threads that wait: the channel that they publish may have a listener now."""
        for watcher in tuple(self._watchers):
            watcher.wake()
        if self._turn.blocker is not None:
            self._turn.wake()

    def watch(self, wanted: frozenset[State]) -> Watcher:
        """Return a watcher whose queue gets each of these states when the bus reaches it.

        :param wanted: the states; `forget` ends the watching.
        """
        watcher = Watcher(wanted, self._make_queue())
        self._watchers.append(watcher)
        return watcher

    def forget(self, watcher: Watcher) -> None:
        """Put no more states into the watcher's queue."""
        self._watchers.remove(watcher)

    @contextlib.contextmanager
    def watching(self, wanted: frozenset[State]) -> Generator[Watcher]:
        """Watch for these states inside the ``with`` block."""
        watcher = self.watch(wanted)
        try:
            yield watcher
        finally:
            self.forget(watcher)

    def sleep(self, watcher: Watcher, interval: float, channel: str | None) -> State:
        """Wait for one of the watcher's states, in any thread.

        :param interval: seconds between publications of ``channel``.
        :param channel: is published meanwhile, if it has listeners.
        :returns: the state that was reached.
        """
        while (state := self._state()) not in watcher.wanted:
            try:
                timeout = interval if self._is_heard(channel) else None
                reached = watcher.reached.get(timeout=timeout)
            except Empty:
                self._publish(channel)
                continue
            if reached is not None:
                return reached
        return state

    def run_commands(
        self, wanted: frozenset[State], interval: float, channel: str | None
    ) -> State:
        """Carry out commands in `Bus.block` until the bus has been in one of these states.

        :param interval: seconds between publications of ``channel``.
        :returns: the state that was reached.
        :raises KeyboardInterrupt, SystemExit: when a command has raised it.
        """
        due = time.monotonic() + interval
        while not (reached := self._reached(wanted)):
            try:
                timeout = None
                if self._is_heard(channel):
                    timeout = max(due - time.monotonic(), 0)
                command = self._turn.commands.get(timeout=timeout)
            except Empty:
                with contextlib.suppress(ChannelFailures):  # the log has each error
                    self._publish(channel)
                due = time.monotonic() + interval
                self._look()
                continue
            self._turn.perform(command)
            self._look()
            if command.error is not None and is_interrupt(command.error):
                raise command.error
            # The thread that sent the command does not wait for its error.
            if isinstance(command.error, WSPBusError):
                self._log(f'{command.error}', level=40)
        return reached

    def is_reached(self, wanted: frozenset[State]) -> bool:
        """Whether the bus is in one of these states, or was since the last start."""
        return self._reached(wanted) is not None

    def _look(self) -> None:
        for look in self.after_command:
            look()

    def _reached(self, wanted: frozenset[State]) -> State | None:
        """Return the wanted state that the bus is in, or was in since the last start."""
        state = self._state()
        if state in wanted:
            return state
        return next(iter(self.visited & wanted), None)


class Block:
    """One call of `Bus.block`: it waits, and stops or exits the bus after an interrupt.

    Why an interrupt is safe wherever it comes. It stands for a command to stop or exit,
    and two places trap it. `_hold` traps it while this thread has the turn: it queues
    the command, keeps the turn and waits again. So no other thread carries out the
    command in between. `run` traps an interrupt that comes while this thread waits for
    the turn, takes it or gives it back: then this thread takes the turn again, unless
    the goal is reached already.

    :param wait: waits for the goal, and publishes 'main' meanwhile.
    :param is_reached: returns whether the bus has reached the goal.
    :param log: is called as `Bus.log`.
    :param leave: the command that an interrupt stands for: 'stop' or 'exit'.
    :param pid: returns the ID of the process that the bus belongs to.
    """

    def __init__(
        self,
        turn: Turn,
        wait: Callable[[], object],
        is_reached: Callable[[], bool],
        log: Callable[..., object],
        leave: str,
        pid: Callable[[], int],
    ) -> None:
        self._turn, self._wait, self._log = turn, wait, log
        self._is_reached = is_reached
        self._leave, self._pid = leave, pid
        self._notice = ''
        self._is_told = self._is_trapped = self._is_over = False
        #: The first SystemExit that was trapped.
        self.exited: SystemExit | None = None

    def run(self, takes_turn: bool) -> SystemExit | None:
        """Wait until the goal is reached.

        :param takes_turn: False for a bus whose ``wait`` does not read the queue. Then the
            thread that asks for a transition also runs it.
        :returns: the first SystemExit that was trapped; None if there was none.
        """
        while not self._is_over:
            try:
                if takes_turn:
                    self._turn.hold(self._hold)
                else:
                    self._wait_elsewhere()
            except (KeyboardInterrupt, SystemExit, IllegalTransition) as error:
                self._trap(error)
        self._turn.run()
        return self.exited

    def _hold(self) -> None:
        self._turn.blocker = threading.get_ident()
        while not self._is_over:
            try:
                self._wait_once()
            except (KeyboardInterrupt, SystemExit, IllegalTransition) as error:
                self._trap(error)

    def _wait_once(self) -> None:
        self._log_notice()
        self._wait()
        self._is_over = True

    def _wait_elsewhere(self) -> None:
        """Wait in the ``wait`` of a subclass, which may raise interrupts again and again."""
        is_trapped, self._is_trapped = self._is_trapped, False
        self._log_notice()
        self._turn.run()
        if is_trapped:  # another thread may carry out what this one has asked for
            self._turn.wait_until_free()
        if not (is_trapped and self._is_reached()):
            self._wait()
        self._is_over = True

    def _log_notice(self) -> None:
        if self._notice:
            notice, self._notice = self._notice, ''
            self._log(notice)

    def _trap(self, error: BaseException) -> None:
        self._is_trapped = True
        if isinstance(error, IllegalTransition):
            self._notice = str(error)  # a signal handler raised it; the site still runs
            return
        if os.getpid() != self._pid():
            raise error  # a listener has forked, and this is the child, which ends
        self._turn.put(self._leave)
        # Only once: a listener of 'log' may be what raises.
        if not self._is_told:
            self._is_told = True
            self._notice = 'Keyboard Interrupt: shutting down bus'
            if isinstance(error, SystemExit):
                self._notice = 'SystemExit raised: shutting down bus'
        if isinstance(error, SystemExit):
            # The frames in its traceback have commands that nobody will carry out.
            self.exited = self.exited or error.with_traceback(None)
