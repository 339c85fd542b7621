"""The runner of the process of the ops listener, which runs nothing of the site."""

from __future__ import annotations

from paste_wspbus.command.leaving import end_at_once
from paste_wspbus.exits import DONE

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NoReturn

    from paste_wspbus.process.process import Process


class OpsRunner:
    """Answers the requests of the ops listener, until the supervisor orders an end."""

    def __init__(self, process: Process) -> None:
        self._process = process

    def run(self) -> NoReturn:
        """Answer, and end the process: what it has inherited belongs to the supervisor."""
        if self._process.worker is not None:
            self._process.worker.answer_requests()
        end_at_once(DONE)
