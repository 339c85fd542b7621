"""The supervisor's end of the messages between machines: to the agent, and from it."""

from __future__ import annotations

import contextlib
import json
import selectors
import socket
import time

from paste_wspbus.cluster.lines import Lines
from paste_wspbus.cluster.mail import SITE, Numbers
from paste_wspbus.values import printable
from paste_wspbus.wire.checks import VALUES
from paste_wspbus.workers.outbox import Outbox

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from paste_wspbus.workers.handle import WorkerHandle
    from paste_wspbus.workers.supervisor import Supervisor

#: Seconds between two lines of the log about messages that were lost.
MINUTE = 60.0


class ClusterMail:
    """Passes messages on between the processes of this site and the agent.

    The processes of this machine get a message at once. If the agent has no room for a
    message, or the engine does not take it, it does not leave this machine; the other
    machines notice that a number is missing.
    """

    def __init__(self, supervisor: Supervisor) -> None:
        self.bus, self.events = supervisor.bus, supervisor.events
        self.exchange = supervisor.exchange
        #: The messages to other machines, those that did not reach them, those of other
        #: machines, and those that are known to be lost.
        self.counts = {'sent': 0, 'dropped': 0, 'received': 0, 'missed': 0}
        #: It is called with an order of a roll, and with the time at which that was valid.
        self.ordered: Callable[[str, float], object] = lambda *_: None
        #: It is called with how a roll goes that was asked for here; and when the agent ends.
        self.news: Callable[..., object] = lambda *_: None
        self.ended: Callable[[], object] = lambda: None
        #: It is called with how a roll of any machine goes, or has ended.
        self.rolled: Callable[[dict[str, Any] | None], object] = lambda _: None
        #: It is called with a fence, and with whether this machine may restart for that roll.
        self.entered: Callable[[int, bool | None], object] = lambda *_: None
        self._numbers = Numbers()
        self._number = 0
        #: The counts in the last line of the log about lost messages, and the time of
        #: that line.
        self._told = dict.fromkeys(('dropped', 'missed'), (0, float('-inf')))
        self._connection: socket.socket | None = None
        self._outbox: Outbox | None = None
        self._lines: Lines | None = None
        self._was_connected = False
        #: Whether messages had no room, and the agent does not know that yet.
        self._is_behind = False
        self._heard: dict[str, Callable[..., object]] = {
            'message': self._receive,
            'order': lambda text, at: self.ordered(text, at),
            'entered': lambda fence, may: self.entered(fence, may),
            'missed': self._has_missed,
            'dropped': self._has_dropped,
            'note': lambda level, text: self.bus.log(text, level),
            'news': lambda *news: self.news(*news),
            'roll': lambda roll: self.rolled(roll),
        }
        # This comes first: the way to the other machines is longer than that to the
        # processes of this one.
        supervisor.children.hear('broadcast', self._broadcasts, first=True)

    # -- the connection -------------------------------------------------------------------

    def connect(self) -> socket.socket:
        """Return the other end of a new connection, for an agent that starts."""
        mine, its = socket.socketpair()
        mine.setblocking(False)
        self._connection, self._lines = mine, Lines(mine)
        self._outbox = Outbox(mine, self._wait_for_room)
        self.events.selector.register(mine, selectors.EVENT_READ, self._serve)
        if self._was_connected:  # the messages that the previous agent had are lost
            self._is_behind = self._number > 0
            self._show_gap()
            self._has_missed()
        self._was_connected = True
        return its

    def _wait_for_room(self, waits: bool) -> None:
        events = selectors.EVENT_READ | (selectors.EVENT_WRITE if waits else 0)
        self.events.selector.modify(self._connection, events, self._serve)  # type: ignore[arg-type]
        if not waits:
            self._show_gap()

    def _serve(self) -> None:
        assert self._lines is not None and self._outbox is not None
        self._outbox.flush()
        lines = self._lines
        for word, *carried in lines.read():
            self._heard[word](*carried)
        # The agent has ended; its other connection reports that, too.
        if lines.has_ended:
            self.close()

    def close(self) -> None:
        """Close the connection to an agent that has ended."""
        if self._connection is not None and self._outbox is not None:
            self.events.selector.unregister(self._connection)
            self._outbox.close()
            self.disown()
            self.ended()

    def disown(self) -> None:
        """Close the connection in a forked child."""
        if self._connection is not None:
            self._connection.close()
            self._connection = self._outbox = None

    # -- what is sent ---------------------------------------------------------------------

    def _broadcasts(self, worker: WorkerHandle, message: dict[str, Any]) -> None:
        if not message['cluster']:
            return
        gap = [self._gap()] if self._is_behind else []
        self._number += 1
        self.counts['sent'] += 1
        head = json.dumps([message['broadcast'], message['retain']])
        text = f'{head}\n{message["args"]}'
        self._is_behind = not self._say_all([*gap, ('send', SITE, text, self._number)])
        if self._is_behind:
            self._has_dropped(
                'the process that talks to the cluster does not read them'
            )

    def _gap(self) -> tuple[object, ...]:
        """Return an empty message for those that had no room.

        It goes before the next one: the members that have been told of other losses since
        then would not report the gap.
        """
        return 'send', SITE, '', self._number

    def _show_gap(self) -> None:
        """Let the other machines notice lost messages, even if no other message follows."""
        if self._is_behind:
            self._is_behind = not self._say_all([self._gap()])

    def send(self, kind: str, text: str, number: int = 0) -> bool:
        """Send a message to all machines; return whether there was room for it."""
        return self.say('send', kind, text, number)

    def say(self, *words: object) -> bool:
        """Send the agent something else; return whether there was room for it."""
        return self._say_all([words])

    def _say_all(self, lines: list[tuple[object, ...]]) -> bool:
        """Send the agent all of these lines, or none; return whether there was room."""
        text = ''.join(f'{json.dumps(words)}\n' for words in lines).encode()
        outbox = self._outbox
        return outbox is not None and outbox.has_room(text) and outbox.put(text)

    def _has_dropped(self, reason: str, count: int = 1) -> None:
        self.counts['dropped'] += count
        if reason:
            self._log('dropped', 'messages that other machines do not get', reason)

    def _log(self, key: str, what: str, why: str) -> None:
        """Log how many messages are counted since the last line of this kind, once a minute."""
        now, (told_of, at) = time.monotonic(), self._told[key]
        if now >= at + MINUTE:
            self._told[key] = self.counts[key], now
            count = self.counts[key] - told_of
            self.bus.log(f'cluster: {what}: {count:,} ({why})', 30)

    # -- what comes -----------------------------------------------------------------------

    def _receive(self, sender: str, text: str, number: int) -> None:
        missing = self._numbers.take(sender, number)
        if missing is None:
            return
        missing += not text
        if missing:
            self._tell_of_missing(missing, 'they did not reach the engine')
        if text:
            self._publish(sender, text)

    def _has_missed(self) -> None:
        self._numbers.excuse()
        self._tell_of_missing(
            1, 'there may be more, or none: they are not kept any more'
        )

    def _tell_of_missing(self, count: int, why: str) -> None:
        self.counts['missed'] += count
        self.exchange.miss(count)
        self._log('missed', 'messages of other machines that do not come', why)

    def _publish(self, sender: str, text: str) -> None:
        head, _, args = text.partition('\n')
        with contextlib.suppress(ValueError, TypeError, RecursionError):
            channel, retain = json.loads(head)
            is_right = VALUES['broadcast'](channel) and VALUES['retain'](retain)
            if is_right and VALUES['args'](args) and type(json.loads(args)) is list:
                self.counts['received'] += 1
                self.exchange.deliver(printable(sender[:100]), channel, args, retain)
