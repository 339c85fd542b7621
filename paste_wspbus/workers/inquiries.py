"""Requests for the status: each gets its answer when all workers have reported, or are late."""

from __future__ import annotations

from paste_wspbus.control.server import failure
from paste_wspbus.role import WITHOUT_BUS
from paste_wspbus.workers.handle import PATIENCE

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from paste_wspbus.control.server import Connection
    from paste_wspbus.watching.loop import Events
    from paste_wspbus.workers.children import Children
    from paste_wspbus.workers.handle import WorkerHandle


class Inquiry:
    """One request for the status, and the workers that have not reported yet."""

    def __init__(
        self,
        connection: Connection | None,
        unanswered: set[WorkerHandle],
        answer: Callable[[], object],
    ) -> None:
        self.connection, self.answer = connection, answer
        self.unanswered = unanswered


class Inquiries:
    """Asks the workers, and answers when all have reported, or after PATIENCE seconds."""

    def __init__(self, events: Events, children: Children) -> None:
        self._events, self._children = events, children
        self._open: list[Inquiry] = []
        children.hear('status', self._is_answered)

    @staticmethod
    def answerer(connection: Connection) -> Callable[[Callable[[], Any]], object]:
        """Return what answers a request with what a function returns, or with its error.

        The error is raised, too: the loop logs it.
        """

        def answer(make: Callable[[], dict[str, Any]]) -> None:
            try:
                message = make()
            except Exception as error:
                connection.answer(failure(error))
                raise
            connection.answer(message)

        return answer

    def inquire(
        self, connection: Connection | None, answer: Callable[[], object]
    ) -> None:
        """Call ``answer`` when all workers have reported, or after PATIENCE seconds."""
        asked = [
            child
            for child in self._children.alive
            if child.is_ready and child.role.kind not in WITHOUT_BUS
        ]
        for child in asked:
            child.ask_for_status()
        # Do not wait for a worker that is stopped, nor a second time for one that hangs.
        waited_for = {
            child for child in asked if not (child.is_late or child.is_stopped)
        }
        inquiry = Inquiry(connection, waited_for, answer)
        self._open.append(inquiry)
        if waited_for:
            self._events.call_later(PATIENCE, lambda: self._end(inquiry))
        else:
            self._end(inquiry)

    def _is_answered(self, worker: WorkerHandle, message: dict[str, Any]) -> None:
        worker.reports_status(message['status'])
        self.no_need_to_wait_for(worker)

    def no_need_to_wait_for(self, worker: WorkerHandle) -> None:
        """Note that a worker has reported, or will never report."""
        for inquiry in list(self._open):
            inquiry.unanswered.discard(worker)
            if not inquiry.unanswered:
                self._end(inquiry)

    def _end(self, inquiry: Inquiry) -> None:
        if inquiry in self._open:
            self._open.remove(inquiry)
            self._events.run(inquiry.answer)
