"""The exchange of messages: a supervisor passes them on between the processes of its site."""

from __future__ import annotations

import itertools

from paste_wspbus.role import WORKER
from paste_wspbus.wire.checks import MAX_CHANNELS
from paste_wspbus.wire.lines import order

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from paste_wspbus.watching.loop import Events, Timer
    from paste_wspbus.workers.children import Children
    from paste_wspbus.workers.handle import WorkerHandle

#: The number of questions that a process may have open.
MAX_QUESTIONS = 100

#: The number of bytes of all retained messages together.
MAX_RETAINED = 1 << 19


class Question:
    """A question of a process, and the processes that have not answered it yet.

    :param token: the number by which the process knows its question.
    :param asked: the processes that are asked, in the order of their answers.
    """

    def __init__(
        self, asker: WorkerHandle, token: int, asked: list[WorkerHandle]
    ) -> None:
        self.asker, self.token, self.asked = asker, token, asked
        self.unanswered = set(asked)
        self.timer: Timer | None = None

    def answer(
        self, worker: WorkerHandle, value: str | None, error: str | None
    ) -> None:
        """Pass the answer of a process on, if it has not answered yet."""
        if worker not in self.unanswered:
            return
        self.unanswered.discard(worker)
        place, count = self.asked.index(worker), len(self.asked)
        answer = [worker.name, value, error]
        self.asker.send('answered', [self.token, count, place, answer])


class Exchange:
    """Passes messages on, in the order in which they come; it never waits for a process.

    :param log: is called with a line and its level.
    """

    def __init__(
        self, events: Events, children: Children, log: Callable[[str, int], object]
    ) -> None:
        self._events, self._log = events, log
        #: The channels that each process hears, from its start on.
        self._heard: dict[WorkerHandle, set[str]] = {}
        #: From each channel to the last message that is retained, as JSON.
        self._retained: dict[str, str] = {}
        self._numbers = itertools.count(1)
        self._questions: dict[int, Question] = {}
        children.hear('hears', self._hears)
        children.hear('broadcast', self._broadcasts)
        children.hear('ask', self._asks)
        children.hear('answer', self._answers)
        # A process that has replaced itself (execv) reports anew what it hears.
        children.hear('restarts', lambda worker, _: self.forget(worker))

    def _hears(self, worker: WorkerHandle, message: dict[str, Any]) -> None:
        channels = self._heard.setdefault(worker, set())
        for channel in message['hears']:
            if channel in channels or len(channels) >= MAX_CHANNELS:
                continue
            channels.add(channel)
            if channel in self._retained:
                worker.send('message', [channel, self._retained[channel]])
        worker.tell('heard')

    def _broadcasts(self, worker: WorkerHandle, message: dict[str, Any]) -> None:
        channel, args = message['broadcast'], message['args']
        self.deliver(worker.name, channel, args, message['retain'])

    def deliver(self, sender: str, channel: str, args: str, retain: bool) -> None:
        """Send a message to all processes that hear its channel.

        :param sender: its sender, as the log names it.
        :param args: its arguments, as JSON.
        :param retain: whether processes that start later get it, too.
        """
        if retain:
            self._retain(sender, channel, args)
        line = order('message', [channel, args])
        for receiver in self._receivers(channel):
            receiver.pass_on(line)

    def miss(self, count: int) -> None:
        """Let all processes that hear messages publish that so many were lost."""
        for receiver in self._heard:
            receiver.send('missed', [count])

    def _retain(self, sender: str, channel: str, args: str) -> None:
        others = (item for item in self._retained.items() if item[0] != channel)
        size = len(args) + sum(len(name) + len(text) for name, text in others)
        if size <= MAX_RETAINED:
            self._retained[channel] = args
            return
        self._retained.pop(channel, None)  # an old one must not take its place
        self._log(
            f'A message of {sender} on {channel!r} is not retained: together the '
            f'retained messages would have more than {MAX_RETAINED:,} bytes',
            30,
        )

    def _receivers(self, channel: str) -> list[WorkerHandle]:
        heard = [one for one, channels in self._heard.items() if channel in channels]
        return sorted(heard, key=lambda one: (one.role.kind != WORKER, one.role.number))

    def _asks(self, worker: WorkerHandle, message: dict[str, Any]) -> None:
        open_ones = (one.asker is worker for one in self._questions.values())
        asked = self._receivers(message['channel'])
        question = Question(worker, message['ask'], asked)
        if not asked:
            worker.send('answered', [question.token, 0, 0, None])
            return
        if sum(open_ones) >= MAX_QUESTIONS:
            for receiver in asked:
                error = f'{MAX_QUESTIONS} questions of {worker.name} are open already'
                question.answer(receiver, None, error)
            return
        number, seconds = next(self._numbers), message['timeout']
        self._questions[number] = question
        question.timer = self._events.call_later(
            seconds, lambda: self._end(number, f'no answer within {seconds:g} s')
        )
        for receiver in asked:
            content = [message['channel'], message['args'], number]
            if not receiver.send('question', content):
                question.answer(receiver, None, 'it does not read its messages')
        self._look_at(number)

    def _answers(self, worker: WorkerHandle, message: dict[str, Any]) -> None:
        question = self._questions.get(message['answer'])
        if question is not None:
            question.answer(worker, message['value'], message['error'])
            self._look_at(message['answer'])

    def _look_at(self, number: int) -> None:
        question = self._questions[number]
        if not question.unanswered:
            self._end(number, '')

    def _end(self, number: int, why: str) -> None:
        """End a question; ``why`` is the error of the answers that have not come."""
        question = self._questions.pop(number, None)
        if question is None:
            return
        if question.timer is not None:
            self._events.cancel(question.timer)
        for worker in list(question.unanswered):
            question.answer(worker, None, why)

    def forget(self, worker: WorkerHandle) -> None:
        """Note that a process has ended: it hears, asks and answers nothing any more."""
        self._heard.pop(worker, None)
        for number, question in list(self._questions.items()):
            if question.asker is worker:
                question.unanswered.clear()
            elif worker in question.unanswered:
                question.answer(worker, None, 'the process has ended')
            self._look_at(number)
