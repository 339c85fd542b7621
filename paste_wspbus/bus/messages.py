"""The messages between the processes of a site: those that come in, and those that go out."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import threading
import time
from _queue import Empty
from collections import deque
from typing import NamedTuple

from paste_wspbus.bus.channels import STATE_CHANNELS, ChannelFailures
from paste_wspbus.bus.host import host_of
from paste_wspbus.bus.states import State
from paste_wspbus.errors import WSPBusError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from typing import Any

    from paste_wspbus.bus.bus import Bus

#: The number of messages that wait at most until this process publishes them.
MOST = 1000

#: The number of bytes, as JSON, that the arguments of a message and an answer have at most.
MOST_BYTES = 1 << 16

#: The number of characters that are sent of an error, and that a channel's name has, at most.
MOST_OF_ERROR, MOST_OF_NAME = 1000, 200

#: The longest time, in seconds, for which `ask` waits.
MOST_SECONDS = 3600.0

#: Seconds that `ask` waits longer than the supervisor: the supervisor's answer may be
#: on its way.
GRACE = 0.5

#: Seconds that a start waits for the retained messages; and that a stop waits for a
#: listener that is still called.
CATCH_UP, JOIN = 2.0, 1.0

#: The states of the bus in which messages are sent.
SENDING = frozenset({State.STARTING, State.STARTED, State.DRAINING, State.STOPPING})

#: The channels that messages may not use: the bus and its plugins publish on them.
RESERVED = STATE_CHANNELS | {
    *('log', 'main', 'missed', 'reload_failed', 'reopen_logs', 'status', 'watch'),
    *('start_thread', 'stop_thread', 'acquire_thread', 'release_thread'),
    *('before_request', 'after_request', 'requests_cut'),
    *('ask_to_leave', 'ask_for_successor', 'add_worker', 'remove_worker'),
    *('worker_started', 'worker_ready', 'worker_died', 'generation_serves'),
    *('systemd_ready', 'watchdog', 'hangup', 'stacks'),
}

_STOPPING = 'it is stopping'
_FULL = f'{MOST:,} messages wait there already'


class ChannelRefused(WSPBusError, ValueError):
    """Messages cannot have the channel ``channel``: it is one of the bus's own."""

    def __init__(self, channel: str) -> None:
        super().__init__(
            f'{channel!r} is a channel of the bus itself: messages from other processes '
            'need a channel of the site'
        )
        self.channel = channel


class NotJSON(WSPBusError, TypeError):
    """JSON cannot hold the arguments of a message; nothing was sent."""

    def __init__(self, channel: str, error: Exception) -> None:
        super().__init__(f'A message on {channel!r} takes only JSON values: {error}')
        self.channel = channel


class TooLong(WSPBusError, ValueError):
    """The arguments of a message have ``size`` bytes; nothing was sent."""

    def __init__(self, channel: str, size: int) -> None:
        super().__init__(
            f'A message on {channel!r} has {size:,} bytes as JSON; at most '
            f'{MOST_BYTES:,} are allowed'
        )
        self.channel, self.size = channel, size


class NotStarted(WSPBusError, RuntimeError):
    """A message was sent before the start of the site, or after its stop."""

    def __init__(self, what: str, why: str) -> None:
        super().__init__(f'{what} needs a site that runs: {why}')


class AskedInListener(WSPBusError, RuntimeError):
    """`ask` was called in the thread that has to receive the answers, or to give one."""

    def __init__(self, channel: str) -> None:
        super().__init__(
            f'ask({channel!r}) was called by a listener of a message: it would wait for '
            'itself. Ask in another thread'
        )
        self.channel = channel


class Answer(NamedTuple):
    """The answer of one process to `Bus.ask`.

    ``worker`` is its name, such as 'worker 2'; 'site' if the site has one process.
    ``value`` is the first result of its listeners that is not None. ``error`` is None, or
    a text that says why there is no value.
    """

    worker: str
    value: Any = None
    error: str | None = None


class _Message(NamedTuple):
    channel: str
    text: str
    #: It is called with the value, as JSON, and the error; None if nobody waits for an
    #: answer.
    reply: Callable[[str | None, str | None], object] | None = None


class _Missed:
    """The place of messages that were lost, among those that were not."""

    def __init__(self, count: int) -> None:
        self.count = count


class Messages:
    """The messages of one process.

    What comes in is published in a thread of its own, in order. Without a courier, the
    process is alone: what it sends comes in here.
    """

    def __init__(self, bus: Bus) -> None:
        self.bus = bus
        self.accepted: set[str] = set()
        self._lock = threading.RLock()  # a signal handler may send a message, too
        self._items: deque[Any] = deque()
        self._bell: Any = None
        self._thread: threading.Thread | None = None
        self._has_ended = False
        self._tokens = itertools.count(1)
        #: The questions of this process that are open.
        self._questions: dict[int, Any] = {}
        #: The number of requests for messages that the supervisor has not answered yet.
        self._hearing = 0
        self._caught_up: Any = None
        self._warns = True
        bus.subscribe('stop', self.end, priority=26)  # the server has answered by then

    # -- what this process hears ------------------------------------------------------

    def accept(self, channels: Iterable[str]) -> None:
        """See `Bus.accept`."""
        channels = [*channels]
        for channel in channels:
            check_channel(channel)
        new = [one for one in channels if one not in self.accepted]
        self.accepted.update(new)
        if new:
            self.announce(new)

    def announce(self, channels: Iterable[str]) -> None:
        """Let the supervisor send the messages on these channels, if there is a supervisor."""
        courier = self.bus.courier
        if courier is not None and self.bus.pid == os.getpid():
            with self._lock:
                self._hearing += 1
            courier.report.hears(sorted(channels))

    def catch_up(self) -> None:
        """Wait until the retained messages were published, at most `CATCH_UP` seconds."""
        with self._lock:
            if not self._hearing:
                return
            self._caught_up = self.bus.queue_class()
        try:
            self._caught_up.get(timeout=CATCH_UP)
        except Empty:
            late = f'The retained messages have not come within {CATCH_UP:g} s'
            self.bus.log(f'{late}: the site starts without them', 30)

    # -- what this process sends ------------------------------------------------------

    def broadcast(
        self, channel: str, args: tuple[Any, ...], retain: bool, cluster: bool
    ) -> None:
        """See `Bus.broadcast`."""
        check_channel(channel)
        text = _encode(channel, [*args])
        self._check_state(f'broadcast({channel!r})')
        courier = self.bus.courier
        if courier is not None:
            courier.report.broadcast(channel, text, bool(retain), bool(cluster))
        else:
            self._warn_of_others()
            self.receive(channel, text)

    def _warn_of_others(self) -> None:
        """Log once that the other workers of this host do not get messages."""
        host = host_of(self.bus)
        has_others = 'per-worker' in host.capabilities
        if self._warns and has_others and 'messages' not in host.capabilities:
            self._warns = False
            self.bus.log(
                f'A message reaches this process alone: {host} passes none on', 30
            )

    def ask(self, channel: str, args: tuple[Any, ...], timeout: float) -> list[Answer]:
        """See `Bus.ask`."""
        check_channel(channel)
        is_number = isinstance(timeout, int | float)
        if not is_number or not 0 < timeout <= MOST_SECONDS:
            kind = ValueError if is_number else TypeError
            raise kind(
                f'The timeout must be more than 0 and at most {MOST_SECONDS:g} seconds, '
                f'not {timeout!r}'
            )
        text = _encode(channel, [*args])
        self._check_state(f'ask({channel!r})')
        courier, thread = self.bus.courier, threading.current_thread()
        if thread is self._thread or (courier and thread is courier.reader):
            raise AskedInListener(channel)
        if courier is None:
            return self._ask_this_process(channel, text, timeout)
        if courier.reader is None:
            why = (
                "its 'start' listeners of priority 66 and less run before it can listen"
            )
            raise NotStarted(f'ask({channel!r})', why)
        token, answers = next(self._tokens), self.bus.queue_class()
        self._questions[token] = answers
        try:
            courier.report.ask(token, channel, text, timeout)
            return _collect(answers, timeout)
        finally:
            del self._questions[token]

    def _ask_this_process(
        self, channel: str, text: str, timeout: float
    ) -> list[Answer]:
        if channel not in self.accepted:
            return []
        answers = self.bus.queue_class()
        message = _Message(channel, text, lambda *answer: answers.put(answer))
        if not self._put(message):
            return [Answer('site', None, self._why_not)]
        try:
            value, error = answers.get(timeout=timeout)
        except Empty:
            return [Answer('site', None, no_answer(timeout))]
        return [_answer('site', value, error)]

    def _check_state(self, what: str) -> None:
        bus = self.bus
        if bus.pid != os.getpid():
            raise NotStarted(what, f'this is a child of its process {bus.pid}')
        if bus.state not in SENDING:
            raise NotStarted(what, f'the bus is {bus.state.name}')

    # -- what comes in; the thread that reads it must not wait --------------------------

    def receive(self, channel: str, text: str, token: int | None = None) -> None:
        """Take a message.

        :param text: its arguments, as JSON.
        :param token: the number of a question; its answer is reported.
        """
        courier = self.bus.courier
        reply = None
        if token is not None and courier is not None:
            report = courier.report

            def reply(value: str | None, error: str | None) -> None:
                report.answer(token, value, error)

        if channel not in self.accepted:
            return
        if self._put(_Message(channel, text, reply)):
            return
        if reply is not None:
            reply(None, self._why_not)
        elif not self._is_over:
            self.receive_missed(1)

    def receive_answer(
        self, token: int, count: int, index: int, answer: list[Any] | None
    ) -> None:
        """Take an answer to a question of this process.

        :param count: how many answers there will be; ``index`` is the place of this one.
        :param answer: the name of the process, the value as JSON, and the error.
        """
        answers = self._questions.get(token)
        if answers is not None:
            answers.put((count, index, answer))

    def receive_missed(self, count: int) -> None:
        """Note that so many messages were lost here."""
        with self._lock:
            if self._items and isinstance(self._items[-1], _Missed):
                self._items[-1].count += count
                return
        self._put(_Missed(count), is_bounded=False)

    def receive_all(self) -> None:
        """Note that all retained messages of a channel have come."""
        self._put(None, is_bounded=False)

    @property
    def _is_over(self) -> bool:
        return self._has_ended and self.bus.state not in (State.STARTING, State.STARTED)

    @property
    def _why_not(self) -> str:
        return _STOPPING if self._is_over else _FULL

    def _put(self, item: Any, is_bounded: bool = True) -> bool:
        """Queue an item; return False if it cannot be published."""
        with self._lock:
            if self._is_over or (is_bounded and len(self._items) >= MOST):
                return False
            new = None
            if self._thread is None:
                self._has_ended = False
                self._items, self._bell = deque(), self.bus.queue_class()
                new = self._thread = threading.Thread(
                    target=self._run,
                    args=(self._items, self._bell),
                    name='wspbus messages',
                    daemon=True,
                )
            self._items.append(item)
            self._bell.put(True)
        return new is None or self._start(new)

    def _start(self, thread: threading.Thread) -> bool:
        # Start it without the lock: gevent lets other greenlets run meanwhile.
        try:
            thread.start()
        except RuntimeError:  # the system starts no more threads
            with self._lock:
                self._thread = None
            return False
        return True

    # -- publishing -------------------------------------------------------------------

    def _run(self, items: deque[Any], bell: Any) -> None:
        while bell.get():
            with self._lock:
                if not items:
                    continue
                item = items.popleft()
            try:
                self._handle(item)
            except BaseException:
                self.bus.log('Error in the thread of the messages', 40, traceback=True)

    def _handle(self, item: Any) -> None:
        if isinstance(item, _Message):
            self._publish(item)
        elif isinstance(item, _Missed):
            self.bus.log(
                f'Messages that were lost on the way to this process: {item.count:,}',
                30,
            )
            with contextlib.suppress(ChannelFailures):  # the log has each error
                self.bus.publish('missed', item.count)
        else:
            with self._lock:
                self._hearing = max(self._hearing - 1, 0)
                if not self._hearing and self._caught_up is not None:
                    self._caught_up.put(True)

    def _publish(self, message: _Message) -> None:
        value = error = None
        try:
            results = self.bus.publish(message.channel, *json.loads(message.text))
            if message.reply is not None:
                value = _first(message.channel, results)
        except ChannelFailures as failures:  # the log has each error
            error = _in_words(failures.get_instances()[0])
        except BaseException as raised:
            what = f'Error in a listener of a message on {message.channel!r}'
            if not isinstance(raised, (NotJSON, TooLong)):
                self.bus.log(what, 40, traceback=True)
            error = _in_words(raised)
        if message.reply is not None:
            message.reply(value, error)

    def end(self) -> None:
        """Publish no more: drop waiting messages, and end the thread. 'stop' calls this."""
        with self._lock:
            self._has_ended = True
            waiting = [*self._items]
            self._items.clear()
            thread, self._thread = self._thread, None
            if thread is not None:
                self._bell.put(False)
        for item in waiting:
            if isinstance(item, _Message) and item.reply is not None:
                item.reply(None, _STOPPING)
        if thread is None or thread is threading.current_thread():
            return
        remaining = max(self.bus.deadline.until - time.monotonic(), 0) / 4
        with contextlib.suppress(RuntimeError):  # it has not begun yet
            thread.join(min(JOIN, remaining))
        if thread.is_alive():
            self.bus.log(
                'A listener of a message still runs: the stop waits for it no longer',
                30,
            )


def check_channel(channel: str) -> None:
    """Check that messages may have this channel.

    :raises TypeError: if it is not a text.
    :raises ValueError: if it is empty, longer than 200 characters, or one of the bus's own.
    """
    if not isinstance(channel, str):
        raise TypeError(f'A channel is a text, not {channel!r}')
    if not channel or len(channel) > MOST_OF_NAME:
        raise ValueError(f'A channel has 1 to {MOST_OF_NAME} characters')
    if channel in RESERVED or channel.startswith('SIG'):
        raise ChannelRefused(channel)


def no_answer(seconds: float) -> str:
    """Return the error of an answer that did not come in time."""
    return f'no answer within {seconds:g} s'


def _encode(channel: str, value: Any) -> str:
    """Return a value as JSON.

    :raises NotJSON: (a TypeError) if JSON cannot hold it.
    :raises TooLong: (a ValueError) if it is too long.
    """
    try:
        text = json.dumps(value, allow_nan=False, separators=(',', ':'))
    except (TypeError, ValueError, RecursionError) as error:
        raise NotJSON(channel, error) from None
    if len(text) > MOST_BYTES:  # it is ASCII
        raise TooLong(channel, len(text))
    return text


def _first(channel: str, results: list[Any]) -> str | None:
    value = next((one for one in results if one is not None), None)
    return None if value is None else _encode(channel, value)


def _in_words(error: BaseException) -> str:
    try:
        text = str(error)
    except Exception:  # an error of the site
        text = ''
    name = type(error).__name__
    return (f'{name}: {text}' if text else name)[:MOST_OF_ERROR]


def _answer(worker: str, value: str | None, error: str | None) -> Answer:
    try:
        return Answer(worker, None if value is None else json.loads(value), error)
    except (ValueError, RecursionError) as wrong:
        return Answer(worker, None, _in_words(wrong))


def _collect(answers: Any, timeout: float) -> list[Answer]:
    """Wait for the answers of all processes."""
    until = time.monotonic() + timeout + GRACE
    found: dict[int, Answer] = {}
    count: int | None = None
    try:
        while count is None or len(found) < count:
            remaining = until - time.monotonic()
            count, index, answer = answers.get(timeout=max(remaining, 0))
            if answer is not None:
                found[index] = _answer(*answer)
    except Empty:
        found[len(found)] = Answer('supervisor', None, no_answer(timeout + GRACE))
    return [found[index] for index in sorted(found)]
