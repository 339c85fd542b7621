"""The signal handlers of a supervised process."""

from __future__ import annotations

from paste_wspbus.bus import State
from paste_wspbus.plugins.signals import SignalHandler

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

    from paste_wspbus.plugins.signals import Target


class WorkerSignals(SignalHandler):
    """Handles the signals of a worker; the supervisor decides about its stop.

    Only the supervisor counts repeated signals: Ctrl-C and systemd signal a whole process
    group, and then the supervisor orders the stop, too.
    """

    decides = False
    wishes: Mapping[Target, str] = {}
    #: Whether a SIGTERM is meant for this process alone; then it gets a successor.
    one_of_several = False

    def _meaning_of_hangup(self) -> str:
        return 'none'  # the supervisor handles it, also for the whole group

    def _count(self, signum: int) -> int:
        return 1

    def _leave(self, command: str, count: int) -> None:
        # Before it is READY, the supervisor stops it by SIGTERM.
        if self.bus.state is not State.STARTED or self.rehearses:
            self._ask(command)
        elif self.one_of_several:
            self.bus.post('ask_for_successor')
        else:
            self.bus.post('ask_to_leave')


class NumberedSignals(WorkerSignals):
    """Handles the signals of one of several workers, which asks for a successor."""

    one_of_several = True
