"""The messages of a machine: the agent passes them on between its supervisor and the engine."""

from __future__ import annotations

import contextlib
import json
import select
import threading
import time

from paste_wspbus.cluster.engine import EngineAway, Message
from paste_wspbus.cluster.lines import Lines
from paste_wspbus.cluster.roll import ROLL, ROLLED
from paste_wspbus.unix.kernel_timer import boot_clock as clock

TYPE_CHECKING = False
if TYPE_CHECKING:
    import socket
    from typing import Any

    from paste_wspbus.cluster.engine import Engine, Member, Received
    from paste_wspbus.cluster.roll import Rolls
    from paste_wspbus.cluster.settings import Settings

#: The kind of the messages that code of the site sends; the empty text stands for one that
#: was lost on its way.
SITE = 'site'

#: Seconds after which the engine is tried again if a message did not reach it.
AGAIN = 1.0

#: The number of messages that are sent in one command at most: an engine does nothing else
#: meanwhile. What `Lines` reads at once limits the number of their bytes.
AT_ONCE = 100

#: Seconds between two lines of the log about messages that are too old.
MINUTE = 60.0

#: The number of senders whose numbers are known at most.
MOST_SENDERS = 1000


class Numbers:
    """The numbers of the messages that have come: none comes twice, and gaps are seen."""

    def __init__(self) -> None:
        #: From each sender to its last number; who was heard last is the last one.
        self._last: dict[str, int] = {}
        self._excused: set[str] = set()

    def take(self, sender: str, number: int) -> int | None:
        """Take a number.

        :returns: how many are missing before it; None if it was there already.
        """
        last = self._last.pop(sender, None)
        is_new = last is None or number > last
        self._last[sender] = number if is_new else last  # type: ignore[assignment]
        if len(self._last) > MOST_SENDERS:
            gone = next(iter(self._last))
            del self._last[gone]
            self._excused.discard(gone)
        if not is_new:
            return None
        if last is None or sender in self._excused:
            self._excused.discard(sender)
            return 0
        return number - last - 1

    def excuse(self) -> None:
        """Note that lost messages were reported: the next gaps are not reported again."""
        self._excused = {*self._last}


class Mail:
    """Sends the messages that its supervisor gives it, and gives it those that come.

    It talks to the supervisor in lines of JSON, each a list, on a connection of their own:
    a supervisor that does not read them delays no word about a lease. It hears:

    - ``send``, kind, text, number: a message for all machines.
    - ``roll``, the fields of a `roll.Asked`: an operator wants a roll.
    - ``stop_roll``: no machine should get its turn any more.
    - ``enter``, fence: this machine is about to replace its processes for the roll that has
      this fence.

    And it says:

    - ``message``, sender, text, number: one of the code of the site on another machine.
    - ``order``, text, time: one of a roll that has its lease at this time (`boot_clock`).
    - ``entered``, fence, answer: whether it may; see `roll.Rolls.enter`.
    - ``missed``: messages of other machines were lost.
    - ``dropped``, reason, count: so many messages did not reach the engine. Nothing is sent
      twice.
    - ``note``, level, text: a line for the log.
    - ``news``, token, word, …: how a roll goes that was asked for here; see `roll.Roll`.
    - ``roll``, facts: how a roll goes or has ended that some machine carries out; see
      `rolled.seen_of`.

    Messages that wait are sent together, in one round trip. For those that did not reach the
    engine, an empty one is sent before the next one; at the latest when the engine is back.

    :param rolls: what carries out rolls that are asked for here.
    """

    rolls: Rolls | None = None

    def __init__(
        self,
        settings: Settings,
        member: Member,
        engine: Engine,
        connection: socket.socket,
    ) -> None:
        self.settings, self.member, self.engine = settings, member, engine
        self._connection, self._saying = connection, threading.Lock()
        #: The number of the last message that did not reach the engine, and when it is tried
        #: again; 0 if all have reached it.
        self._owed, self._again = 0, 0.0
        #: The messages that are sent next, together.
        self._waiting: list[Message] = []
        #: The last message that was too old, until the log has a line on it, and when that was.
        self._old: Message | None = None
        self._told_at = float('-inf')
        #: How many messages were refused since the last line of the log on them, and
        #: when that was.
        self._refused, self._refused_at = 0, float('-inf')

    def start(self) -> None:
        """Begin to send, in a thread."""
        threading.Thread(target=self._run, daemon=True).start()

    def say(self, *words: object) -> None:
        """Say something to the supervisor; wait if it does not read."""
        self._say_all([words])

    def _say_all(self, lines: list[tuple[object, ...]]) -> None:
        text = ''.join(f'{json.dumps(words)}\n' for words in lines)
        with self._saying, contextlib.suppress(OSError):  # the supervisor has ended
            self._connection.sendall(text.encode())

    # -- what comes -----------------------------------------------------------------------

    def receive(self, received: Received) -> None:
        """Give the supervisor what has come; wait if it does not read."""
        if received.missed:
            self.say('missed')
        self._tell_of_refused(received.refused)
        lines: list[tuple[object, ...]] = []
        for message in received.messages:
            sender, kind, text, number, _ = message
            if kind not in (SITE, ROLL, ROLLED):
                continue
            if self._is_too_old(message):
                self._old = message
                continue
            if kind == SITE:
                if sender != self.member.id:
                    lines.append(('message', sender, text, number))
            elif self.rolls is not None:
                if kind == ROLLED:
                    self.rolls.hear(message)
                elif (seen := self.rolls.is_valid(self.engine, text)) is not None:
                    lines.append(('order', text, seen))
        self._say_all(lines)
        self._tell_of_old()

    def _tell_of_refused(self, count: int) -> None:
        """Log how many messages are refused, once a minute."""
        self._refused += count
        if self._refused and clock() > self._refused_at + MINUTE:
            why = 'they are not signed with the secret of this machine, or are nonsense'
            line = f'cluster: messages that are dropped: {self._refused:,} ({why})'
            self._refused, self._refused_at = 0, clock()
            self.say('note', 30, line)

    def _is_too_old(self, message: Message) -> bool:
        settings = self.settings
        return bool(settings.secret) and not message.is_current(
            settings.keep, time.time()
        )

    def _tell_of_old(self) -> None:
        """Report that messages were dropped because of their time, once a minute.

        Each may be a copy of one that was there before, or may have been lost with this.
        """
        old = self._old
        if old is None or clock() <= self._told_at + MINUTE:
            return
        self._old, self._told_at = None, clock()
        age = time.time() - old.at
        when = (
            f'it is {age:.0f} s old' if age > 0 else f'it will be sent in {-age:.0f} s'
        )
        line = f'cluster: a message of {old.sender} is dropped: by the clocks, {when}'
        self.say('note', 30, f'{line}. A clock is wrong, or somebody repeats it')
        self.say('missed')

    # -- what is sent ---------------------------------------------------------------------

    def _run(self) -> None:
        if self.rolls is not None:
            self.rolls.look(self.engine)
        poll, lines = select.poll(), Lines(self._connection)
        poll.register(self._connection, select.POLLIN)
        while True:
            if not poll.poll(AGAIN * 1000 if self._owed else None):
                self._send()
                continue
            for word, *carried in lines.read():
                self._hear(word, *carried)
            self._send_waiting()
            if lines.has_ended:
                return

    def _hear(self, word: str, *carried: Any) -> None:
        if word == 'send':
            self._waiting.append(Message(self.member.id, *carried))
            if len(self._waiting) == AT_ONCE:
                self._send_waiting()
            return
        self._send_waiting()  # what was said before comes first
        if self.rolls is None:
            return
        if word == 'roll':
            self.rolls.begin(*carried)
        elif word == 'enter':
            self.say('entered', *carried, self.rolls.enter(self.engine, *carried))
        else:
            self.rolls.stop()

    def _send_waiting(self) -> None:
        waiting, self._waiting = self._waiting, []
        if waiting:
            self._send(*waiting)

    def _send(self, *messages: Message) -> None:
        """Send messages together: all of them reach the engine, or nobody knows of any.

        An empty message for those that were lost goes before them. The members that have
        been told of other losses since then would not report the gap.
        """
        if self._owed and clock() < self._again:
            self._has_lost(messages, '')
            return
        gap = [Message(self.member.id, SITE, '', self._owed)] if self._owed else []
        try:
            reason = self._try(*gap, *messages)
        except ValueError as error:
            if len(messages) > 1:  # only some of them are too long
                for one in messages:
                    self._send(one)
            else:
                self._has_lost(messages, str(error))
            return
        if reason:
            self._again = clock() + AGAIN
            self._has_lost(messages, reason)
        else:
            self._owed = 0

    def _has_lost(self, messages: tuple[Message, ...], reason: str) -> None:
        """Take note of messages that did not reach the engine.

        :param reason: why; '' if that was said lately.
        """
        self._owed = max([self._owed, *(one.number for one in messages)])
        if count := sum(bool(one.text) for one in messages):
            self.say('dropped', reason, count)

    def _try(self, *messages: Message) -> str:
        """Send messages; return why they did not reach the engine.

        :raises ValueError: if one of them is too long.
        """
        now = time.time()
        try:
            self.engine.send(*(one._replace(at=now) for one in messages))
        except EngineAway as away:
            return away.reason
        return ''
