"""The stacks of a worker without its help: a signal has `faulthandler` write them.

No thread of the worker needs the GIL for this. So it works while the worker is in a call
of C, in a loop, or waits for a lock.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys

from paste_wspbus.requests.scoreboard import SIZE
from paste_wspbus.requests.stacks import parse

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from paste_wspbus.requests.stacks import Frame
    from paste_wspbus.watching.loop import Events
    from paste_wspbus.workers.handle import WorkerHandle

    #: It is called with {ident of a thread: its frames, the innermost first}; with None
    #: if the process cannot be asked, or has not answered.
    Answer = Callable[[dict[int, list[Frame]] | None], object]

#: The signal: a realtime signal that neither the system nor Python nor known libraries
#: use. None: this system has no such signals, and stacks cannot be asked for.
SIGNAL: int | None = int(signal.SIGRTMAX) - 3 if hasattr(signal, 'SIGRTMAX') else None

#: Seconds that a process has to write its stacks.
PATIENCE = 1.0

#: Seconds until the first look whether it has written them; each further wait is longer.
LOOK, LONGER, LONGEST = 0.002, 1.5, 0.05

#: The number of bytes of stacks that are read at most.
MOST = 1 << 20


def register(fd: int) -> None:
    """Have this process write its stacks to a file when it gets `SIGNAL`.

    :param fd: a descriptor of the file of a scoreboard: the stacks follow it.
    """
    if SIGNAL is None:
        return
    was_there = 'faulthandler' in sys.modules
    import faulthandler

    faulthandler.register(SIGNAL, file=fd, all_threads=True, chain=False)
    if not was_there:
        # Where it stands, `plugins.handlers_in_c` looks for handlers of the site in C.
        del sys.modules['faulthandler']


class Stacks:
    """Asks processes for their stacks; it never waits: the loop calls ``answer`` later.

    Use it so, in the supervisor: ``supervisor.stacks.ask(worker, answer)``. The scoreboard
    says which thread has a request: `Entry.ident` is the key of its stack.
    """

    def __init__(self, events: Events) -> None:
        self._events = events
        #: The answers that each process still has to give.
        self._asked: dict[WorkerHandle, list[Answer]] = {}
        #: Those that have not handled the last signal: it still waits for them.
        self._late: set[WorkerHandle] = set()

    def ask(self, worker: WorkerHandle, answer: Answer) -> None:
        """Ask a process for its stacks; ``answer`` is called once, within PATIENCE seconds.

        Who asks while the process answers another question gets the same answer.
        """
        if worker in self._asked:
            self._asked[worker].append(answer)
            return
        self._asked[worker] = [answer]
        threads = _threads(worker.pid) if worker.pid and not worker.ended else []
        if SIGNAL is None or not threads or not all(one.handles for one in threads):
            self._events.call_later(0, lambda: self._answer(worker, None))
            return
        blocked = {one.tid for one in threads if one.blocks}
        if worker not in self._late:
            with contextlib.suppress(OSError):
                os.truncate(worker.board.fd, SIZE)
            worker.signal(SIGNAL)
        self._look_later(worker, blocked, LOOK, PATIENCE)

    def _look_later(
        self, worker: WorkerHandle, blocked: set[int], wait: float, left: float
    ) -> None:
        def look() -> None:
            if worker.ended:
                self._answer(worker, None)
            elif _has_handled(worker.pid, blocked):
                self._late.discard(worker)
                self._answer(worker, _read(worker.board.fd))
            elif left - wait <= 0:
                self._late.add(worker)
                self._answer(worker, _read(worker.board.fd))
            else:
                longer = min(wait * LONGER, LONGEST)
                self._look_later(worker, blocked, longer, left - wait)

        self._events.call_later(wait, look)

    def _answer(
        self, worker: WorkerHandle, stacks: dict[int, list[Frame]] | None
    ) -> None:
        if worker.ended:
            self._late.discard(worker)
        for answer in self._asked.pop(worker, ()):
            answer(stacks)


def _read(fd: int) -> dict[int, list[Frame]] | None:
    """Return the stacks that a process has written; None if it has written none."""
    with contextlib.suppress(OSError):
        return parse(os.pread(fd, MOST, SIZE).decode('ascii', 'replace')) or None
    return None


class _Thread:
    """What the system says of a thread and `SIGNAL` (proc(5))."""

    def __init__(self, tid: int, status: str) -> None:
        self.tid = tid
        fields = dict(
            line.split(':\t', 1) for line in status.splitlines() if ':\t' in line
        )
        bit = 1 << ((SIGNAL or 1) - 1)

        def has(name: str) -> bool:
            return bool(int(fields.get(name, '0'), 16) & bit)

        self.handles, self.blocks = has('SigCgt'), has('SigBlk')
        self.waits = has('SigPnd') or has('ShdPnd')


def _threads(pid: int) -> list[_Thread]:
    """Return the threads of a process; an empty list if it has ended, or is not known."""
    threads = []
    with contextlib.suppress(OSError):
        for tid in map(int, os.listdir(f'/proc/{pid}/task')):
            with (
                contextlib.suppress(OSError),
                open(f'/proc/{pid}/task/{tid}/status', errors='replace') as file,
            ):
                threads.append(_Thread(tid, file.read()))
    return threads


def _has_handled(pid: int, blocked: set[int]) -> bool:
    """Whether no thread handles the signal, and none has yet to handle it.

    While a thread handles a signal, it blocks it (signal(7)).

    :param blocked: the threads that have blocked it before it was sent.
    """
    return not any(
        one.waits or (one.blocks and one.tid not in blocked) for one in _threads(pid)
    )
