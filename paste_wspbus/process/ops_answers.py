"""The answers that the ops listener gets from the site: one of each kind, now or later."""

from __future__ import annotations

from paste_wspbus.control.stacks import limited as limited_stacks
from paste_wspbus.ops.status import limited
from paste_wspbus.process.answers import Answers
from paste_wspbus.process.load import describe_stacks

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from paste_wspbus.bus import Bus
    from paste_wspbus.process.process import Process

    Answer = Callable[[Any], object]

#: The number of frames, and of calls in timelines, that an answer has at most.
MAX_FRAMES, MAX_CALLS = 3000, 3000


class OpsAnswers:
    """Asks the site of a process, or the supervisor of a site.

    :param process: the process that holds the ops listener.
    """

    def __init__(self, process: Process) -> None:
        self._process = process
        self._kinds: dict[str, Callable[[Answers, Answer], object]] = {
            'status': self._status,
            'numbers': self._numbers,
            'stacks': self._stacks,
            'timeline': self._timeline,
        }

    def ask(self, kind: str, bus: Bus, answer: Answer) -> None:
        """Call ``answer`` with what the site answers; never, if there is no such kind."""
        if kind in self._kinds:
            answers = self._process.answers or Answers(self._process)
            answers.bus = bus
            self._kinds[kind](answers, answer)

    def _numbers(self, answers: Answers, answer: Answer) -> None:
        self._status(answers, answer, machines=False)

    def _status(self, answers: Answers, answer: Answer, machines: bool = True) -> None:
        supervisor = answers.bus.plugins.get('supervisor')
        if supervisor is None:
            answer(limited(answers.describe()))
        else:
            answers.describe_all(
                supervisor, lambda make: answer(limited(make())), machines=machines
            )

    def _stacks(self, answers: Answers, answer: Answer) -> None:
        supervisor = answers.bus.plugins.get('supervisor')
        if supervisor is None:
            answer(limited_stacks([describe_stacks(answers.bus)], MAX_FRAMES))
        else:
            supervisor.describe_stacks(
                lambda make: answer(limited_stacks(make(), MAX_FRAMES))
            )

    def _timeline(self, answers: Answers, answer: Answer) -> None:
        supervisor = answers.bus.plugins.get('supervisor')
        if supervisor is None:
            answer(answers.timelines(MAX_CALLS))
        else:
            supervisor.history.ask(lambda: answer(answers.timelines(MAX_CALLS)))
