"""The stacks of a worker without its help: a signal has `faulthandler` write them.

No thread of the worker needs the GIL for this. So it works while the worker is in a call
of C, in a loop, or waits for a lock. Each thread gets a signal of its own, and writes its own
stack: a thread that reads the frames of another one, which runs, ends the process by SIGSEGV
sooner or later.
"""

from __future__ import annotations

import contextlib
import os
import time

from paste_wspbus.requests.scoreboard import SIZE
from paste_wspbus.requests.stacks import parse
from paste_wspbus.requests.written_stacks import SIGNAL, state_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from paste_wspbus.requests.stacks import Frame
    from paste_wspbus.watching.loop import Events
    from paste_wspbus.workers.handle import WorkerHandle

    #: It is called with {native id of a thread: its frames, the innermost first}; with
    #: None if the process cannot be asked, or no thread has answered. It lacks threads that
    #: run no Python, and those that have not answered in time.
    Answer = Callable[[dict[int, list[Frame]] | None], object]

#: Seconds that a process has to write the stacks that it was asked for.
PATIENCE = 1.0

#: Seconds until the first look whether a thread has written its stack; each further wait
#: is longer.
LOOK, LONGER, LONGEST = 0.001, 1.5, 0.05

#: The number of bytes of stacks that are read at most.
MOST = 1 << 20


class Stacks:
    """Asks processes for their stacks; it never waits: the loop calls ``answer`` later.

    Use it so, in the supervisor: ``supervisor.stacks.ask(worker, answer)``. The scoreboard
    says which thread has a request: `Entry.native` is the key of its stack.
    """

    def __init__(self, events: Events) -> None:
        self._events = events
        #: The questions to each process; the first one is being answered.
        self._asked: dict[WorkerHandle, list[_Question]] = {}

    def ask(
        self, worker: WorkerHandle, answer: Answer, thread: int | None = None
    ) -> None:
        """Ask a process for its stacks; ``answer`` is called once, and never at once.

        This takes some milliseconds for each thread, and PATIENCE seconds at most, after
        earlier questions to the process.

        :param thread: the native id of the only thread to ask; None stands for all.
        """
        questions = self._asked.setdefault(worker, [])
        questions.append(_Question(worker, answer, thread))
        if len(questions) == 1:
            self._go_on(worker, 0)

    def _go_on(self, worker: WorkerHandle, wait: float) -> None:
        """Take the next step of the first question to a process later."""

        def step() -> None:
            question = self._asked[worker][0]
            is_done = True  # also if that fails: the next question has its turn
            try:
                is_done = question.is_done()
            finally:
                if is_done:
                    self._end(worker)
                else:
                    self._go_on(worker, min(max(wait * LONGER, LOOK), LONGEST))

        self._events.call_later(wait, step)

    def _end(self, worker: WorkerHandle) -> None:
        """Answer the first question to a process, and begin the next one."""
        question = self._asked[worker].pop(0)
        if self._asked[worker]:
            self._go_on(worker, 0)
        else:
            del self._asked[worker]
        question.answer(question.stacks or None)


class _Question:
    """A question for the stacks of a process: it asks one thread after the other.

    Those that have a request come first.
    """

    def __init__(
        self, worker: WorkerHandle, answer: Answer, thread: int | None
    ) -> None:
        self.worker, self.answer, self._thread = worker, answer, thread
        self.stacks: dict[int, list[Frame]] = {}
        self._threads: list[int] | None = None
        self._until = 0.0
        #: The threads that must have handled the signal before the next one gets it.
        self._waits_for: list[int] = []
        #: The thread that writes its stack; 0 if none does.
        self._asks = 0

    def is_done(self) -> bool:
        """Take a step, without waiting; return whether nothing more is to be done."""
        worker = self.worker
        if SIGNAL is None or worker.ended or not worker.pid:
            return True
        if self._threads is None:
            self._until = time.monotonic() + PATIENCE
            only, all_threads = self._thread, _threads(worker.pid)
            # On a busy machine, the time may be over before all have answered.
            busy = {entry.native for entry in worker.board.read()}
            all_threads.sort(key=lambda one: one not in busy)
            self._threads = all_threads if only is None else [only]
            # An earlier question may have given up: its signals still wait.
            self._waits_for = all_threads
        if time.monotonic() >= self._until:
            return True
        if any(_is_at_it(worker.pid, thread) for thread in self._waits_for):
            return False
        while self._threads:
            self._take()
            if self._signal(self._threads.pop(0)):
                return False
        self._take()
        return True

    def _signal(self, thread: int) -> bool:
        """Have a thread write its stack; return whether it will."""
        state = state_of(self.worker.pid, thread)
        if SIGNAL is None or state is None or state.blocks or not state.handles:
            return False
        with contextlib.suppress(OSError):
            os.truncate(self.worker.board.fd, SIZE)
        self.worker.signal(SIGNAL, thread)
        self._waits_for = [thread]
        self._asks = thread
        return True

    def _take(self) -> None:
        """Take the stack that the last thread has written."""
        if self._asks:
            # Without memory, the stack is not known, and the supervisor goes on.
            with contextlib.suppress(OSError, MemoryError):
                written = os.fstat(self.worker.board.fd).st_size - SIZE
                text = os.pread(self.worker.board.fd, min(max(written, 0), MOST), SIZE)
                if frames := parse(text.decode('ascii', 'replace')):
                    self.stacks[self._asks] = frames
            self._asks = 0


def _threads(pid: int) -> list[int]:
    """Return the threads of a process that do not block `SIGNAL`; the main thread is first."""
    try:
        threads = sorted(map(int, os.listdir(f'/proc/{pid}/task')))
    except OSError:
        return []
    return [
        one for one in threads if (state := state_of(pid, one)) and not state.blocks
    ]


def _is_at_it(pid: int, thread: int) -> bool:
    """Whether a thread handles the signal, or has yet to handle it.

    While a thread handles a signal, it blocks it (signal(7)).
    """
    state = state_of(pid, thread)
    return state is not None and (state.waits or state.blocks)
