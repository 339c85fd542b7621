"""The history of the processes: when each began, was ready and ended, and its calls."""

from __future__ import annotations

from collections import deque

from paste_wspbus.role import WITHOUT_BUS, WORKER
from paste_wspbus.unix.processes import how
from paste_wspbus.workers.handle import PATIENCE

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from paste_wspbus.watching.loop import Events
    from paste_wspbus.workers.children import Children
    from paste_wspbus.workers.handle import WorkerHandle

    Answer = Callable[[], object]

#: The number of processes that are remembered when they have ended.
ENDED = 32

#: Why the calls of a process are not known.
DIED, DIED_LATER, STARTS, HANGS, NO_BUS = (
    'its calls are not known: it ended without a report',
    'its last calls are not known: it ended without a report',
    'its calls are not known yet: it starts',
    'its calls are not known: it does not answer',
    'it calls no listeners',
)


class History:
    """Remembers the processes that have ended, and asks the others for their calls."""

    def __init__(self, events: Events, children: Children) -> None:
        self._events, self._children = events, children
        self._ended: deque[dict[str, Any]] = deque(maxlen=ENDED)
        #: The number of ended processes that are not remembered any more.
        self.forgotten = 0
        #: Each open question: the processes that have not reported yet, and the
        #: function that gets the answer.
        self._open: list[tuple[set[WorkerHandle], Answer]] = []
        children.hear('timeline', self._is_told)

    def ask(self, answer: Answer) -> None:
        """Call ``answer`` when all processes have reported their calls, or are late."""
        asked = {
            child
            for child in self._children.alive
            if child.is_ready and child.role.kind not in WITHOUT_BUS
        }
        for child in asked:
            child.tell('timeline')
        waited_for = {one for one in asked if not (one.is_late or one.is_stopped)}
        question = waited_for, answer
        self._open.append(question)
        self._events.call_later(PATIENCE, lambda: self._end(question))
        self._look()

    def describe(self) -> list[dict[str, Any]]:
        """Return all processes as far as they are known; `control.timeline.Life` reads it."""
        alive = sorted(
            self._children.alive,
            key=lambda one: (one.role.kind == WORKER, one.since, one.role.number),
        )
        return [*self._ended, *map(_described, alive)]

    def has_ended(self, worker: WorkerHandle) -> None:
        """Remember a process that has ended."""
        self.forgotten += len(self._ended) == ENDED
        self._ended.append(_described(worker))
        self._need_not_wait_for(worker)

    def _is_told(self, worker: WorkerHandle, message: dict[str, Any]) -> None:
        worker.calls, worker.left_out = message['timeline'], message['left_out']
        worker.has_told_all = message['ends']
        self._need_not_wait_for(worker)

    def _need_not_wait_for(self, worker: WorkerHandle) -> None:
        for waited_for, _ in self._open:
            waited_for.discard(worker)
        self._look()

    def _look(self) -> None:
        for question in [one for one in self._open if not one[0]]:
            self._end(question)

    def _end(self, question: tuple[set[WorkerHandle], Answer]) -> None:
        if question in self._open:
            self._open.remove(question)
            self._events.run(question[1])


def _described(worker: WorkerHandle) -> dict[str, Any]:
    problem = None
    if worker.role.kind in WITHOUT_BUS:
        problem = NO_BUS
    elif worker.ended and not worker.has_told_all:
        problem = DIED if worker.calls is None else DIED_LATER
    elif worker.calls is None:
        problem = HANGS if worker.is_ready else STARTS
    return {
        'name': worker.name,
        'pid': worker.pid,
        'generation': worker.role.generation,
        'began': worker.since,
        'ready': worker.ready_since,
        'leaves': worker.leaves_since,
        'ended': worker.ended_at,
        'how': how(worker.code) if worker.ended else None,
        'problem': problem,
        'calls': worker.calls or [],
        'left_out': worker.left_out,
    }
