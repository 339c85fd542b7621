"""The queue of commands to the bus, and the turn: the right of one thread to carry them out."""

from __future__ import annotations

import threading
from _weakref import ref

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from queue import SimpleQueue
    from typing import Any, TypeVar

    T = TypeVar('T')

#: The commands that end a start early, and end a server that blocks.
LEAVING = frozenset({'stop', 'exit'})


class Command:
    """A command to the bus, and the error that it ended with.

    :param name: 'start', 'stop', 'exit', 'graceful' or 'publish'.
    :param args: for 'publish': the channel, and what is published.
    """

    __slots__ = ('__weakref__', 'args', 'error', 'name')

    def __init__(self, name: str, args: tuple[Any, ...] = ()) -> None:
        self.name, self.args = name, args
        self.error: BaseException | None = None


#: An empty command: it only wakes the thread in `Bus.block`.
WAKE = Command('')


def is_interrupt(error: BaseException | None) -> bool:
    """Whether the error ends the program, and not only the call that raised it."""
    return isinstance(error, (KeyboardInterrupt, SystemExit))


class Turn:
    """A queue of commands, and the turn: the right of one thread to carry them out.

    The thread that puts a command into the queue also carries it out. But if another
    thread has the turn, or is going to be in `Bus.block`, that thread carries it out.

    How the turn is taken and given back. A signal handler can raise KeyboardInterrupt
    between any two steps of the main thread. Suppose that it did so between the step
    that takes a lock and the step that notes which thread has it: nobody would know
    that the lock must be released, and the site could neither stop nor restart. So the
    lock is an RLock: the step that takes it also notes in it which thread has it.
    `_give_back` asks the lock itself, and does nothing if this thread does not have it.
    So an extra call does no harm. `hold` calls it in two ``finally`` blocks, one around
    the other. If the interrupt comes before the first call, while this thread waits for
    the turn, takes it or uses it, both calls follow. If it comes in the first call, or
    just before it, the second call follows. If it comes in the second call, the first
    call is done. In each case the lock is free afterwards, and the error reaches the
    caller.

    An RLock would also let its own thread in a second time: a listener that calls
    bus.stop(), or a signal handler during a transition. So `run` asks the lock first. If
    this thread has the turn already, the command stays in the queue. The loop that runs
    further down the stack of this thread checks the queue once more after it has given
    the turn back, so no command remains in the queue. Neither `put` nor `run` waits for
    anything, because signal handlers call both.

    :param commands: a queue with the methods put, get(timeout=seconds) and empty of a
        SimpleQueue.
    :param carry_out: carries out a command, and notes in it the error that it raised.
    """

    def __init__(
        self, commands: SimpleQueue[Command], carry_out: Callable[[Command], None]
    ) -> None:
        self.commands = commands
        self._carry_out = carry_out
        #: See `leaving`. A WeakSet would swallow an interrupt that comes in its callback.
        self._leaving: list[ref[Command]] = []
        #: The ident of the thread that has the turn; None if no thread has it.
        self.owner: int | None = None
        #: The ident of the thread that is in `Bus.block`; None if there is none.
        self.blocker: int | None = None
        #: The name of the command that is being carried out.
        self.current: str | None = None
        #: Whether other threads may take the turn while a server blocks its thread.
        self.is_lent = False
        self._keeper: int | None = None
        self._lock = threading.RLock()

    @property
    def leaving(self) -> list[Command]:
        """The commands to stop or exit that have not begun.

        If an interrupt comes in the moment in which a command is in no queue, nobody has
        the command, and it is not here.
        """
        return [one for known in self._leaving[:] if (one := known()) is not None]

    def sleep_in(self, commands: SimpleQueue[Command]) -> None:
        """Use another queue. No thread may have the turn now, or sleep in the old queue."""
        while not self.commands.empty():
            commands.put(self.commands.get())
        self.commands, self._lock = commands, threading.RLock()

    @property
    def is_mine(self) -> bool:
        """Whether this thread has the turn."""
        return self.owner == threading.get_ident()

    def keep_for(self, thread: int | None) -> None:
        """Name the thread that is going to be in `Bus.block`.

        From now on, other threads only queue their commands, and that thread carries them
        out. This is so even before it is in `Bus.block`.

        :param thread: its ident; None if there is no such thread. No thread has the
            ident 0: with 0, only the thread in `Bus.block` carries out commands.
        """
        self._keeper = thread

    def put(self, name: str, *args: Any) -> Command:
        """Queue a command, which the caller or the thread that has the turn runs later.

        :returns: the command; its ``error`` is set if it fails.
        """
        command = Command(name, args)
        if name in LEAVING:
            self._leaving.append(ref(command))
        self.commands.put(command)
        return command

    def wake(self) -> None:
        """Wake the thread in `Bus.block`, so that it checks its timeout and goal again."""
        self.commands.put(WAKE)

    def run_if_nobody_will(self) -> None:
        """Carry out the queued commands, unless `keep_for` has named another thread."""
        if self.is_lent or self._keeper in (None, threading.get_ident()):
            self.run()

    def run(self) -> None:
        """Carry out the queued commands, unless a thread has the turn.

        This checks the queue again after it has given the turn back, because a thread
        that put a command there just before could not run it.

        :raises KeyboardInterrupt, SystemExit: at the end, the first one that a command
            raised.
        """
        errors: list[BaseException] = []
        held: list[Command] = []
        while not held and not self.commands.empty() and not self._is_held_here():
            if not self.hold(lambda: self._run_queue(errors, held), wait=False):
                break
            # They will be carried out when the server that blocks has returned.
            for command in held:
                self.commands.put(command)
        if errors:
            raise errors[0]

    def _run_queue(self, errors: list[BaseException], held: list[Command]) -> bool:
        while not self.commands.empty():
            command = self.commands.get()
            if self.is_lent and command.name in LEAVING:
                held.append(command)
                continue
            self.perform(command)
            if command.error is not None and is_interrupt(command.error):
                errors.append(command.error)
        return True

    def perform(self, command: Command) -> None:
        """Carry out one command; only the thread that has the turn calls this."""
        if command is WAKE:
            return
        known = ref(command)
        if known in self._leaving:
            self._leaving.remove(known)
        try:
            try:
                self.current = command.name
                self._carry_out(command)
            finally:
                self.current = None
        finally:
            self.current = None

    def hold(self, work: Callable[[], T], wait: bool = True) -> T | None:
        """Take the turn, call ``work``, and give the turn back.

        :param wait: whether to wait for a thread that has the turn.
        :returns: what ``work`` returns; None if another thread has the turn.
        """
        result = None
        try:
            try:
                if self._take(wait):
                    result = work()
            finally:
                self._give_back()
        finally:
            self._give_back()
        # The return is not in the try block: between a return and its finally, an
        # interrupt may come in CPython.
        return result

    def lend(self, call: Callable[[], T]) -> T:
        """Give the turn away, call ``call``, and take the turn back.

        If an interrupt comes while this method waits for the turn, the interrupt reaches
        the caller, which does not have the turn then. That is safe: `hold`, further down
        the stack, gives the turn back only if this thread has it.

        :returns: what ``call`` returns.
        """
        blocker, current = self.blocker, self.current
        try:
            try:
                self.current, self.is_lent = None, True
                self._give_back()
                result = call()
            finally:
                self.is_lent = False
        finally:
            self.is_lent = False
            self._take(wait=True)
            self.blocker, self.current = blocker, current
        return result

    def wait_until_free(self) -> None:
        """Wait until no thread has the turn."""
        self.hold(lambda: None)

    def _take(self, wait: bool) -> bool:
        taken = self._lock.acquire(blocking=wait)
        if taken:
            self.owner = threading.get_ident()
        return taken

    def _give_back(self) -> None:
        if self._is_held_here():
            self.owner = self.blocker = None
            self._lock.release()

    def _is_held_here(self) -> bool:
        """Whether this thread has the lock, as the lock itself says."""
        return bool(self._lock._is_owned())  # type: ignore[attr-defined]
