"""What signals mean to a supervised process."""

from __future__ import annotations

from paste_wspbus.bus import State
from paste_wspbus.plugins.signals import SignalHandler


class WorkerSignals(SignalHandler):
    """Handles the signals of a worker: the supervisor decides on its stop, and counts.

    Ctrl-C and systemd signal a whole group: the worker gets it twice.
    """

    #: Whether a SIGTERM is for this process alone, which gets a successor then.
    one_of_several = False

    def _carry_out(self, target: str, signum: int) -> None:
        if target != 'hangup':  # hangup is for the supervisor, or for the whole group
            super()._carry_out(target, signum)

    def _leave(self, command: str, signum: int) -> None:
        if self.bus.state is not State.STARTED:
            self._ask(command)
        elif self.one_of_several:
            self.bus.post('ask_for_successor')
        else:
            self.bus.post('ask_to_leave')


class NumberedSignals(WorkerSignals):
    """Handles them for one of several workers, which asks for a successor."""

    one_of_several = True
