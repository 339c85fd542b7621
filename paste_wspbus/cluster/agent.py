"""The process that talks to the engine for a supervisor, which must never wait for it."""

from __future__ import annotations

import contextlib
import json
import os
import random
import select
import socket
import threading

from paste_wspbus.cluster.claim import Claim, Held
from paste_wspbus.cluster.engine import EngineAway, Message, Wish
from paste_wspbus.cluster.facts import cut, described
from paste_wspbus.cluster.lines import Lines
from paste_wspbus.cluster.roll import ROLL
from paste_wspbus.cluster.rolled import seen_of
from paste_wspbus.unix.kernel_timer import boot_clock as clock

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from paste_wspbus.cluster.engine import Answer, Engine, Member, Record
    from paste_wspbus.cluster.mail import Mail
    from paste_wspbus.cluster.settings import Settings

#: The name of the lease of the cluster plugins.
PLUGINS = 'plugins'

#: The kind of the message that says that a lease was released.
FREED = 'freed'

#: The parts of the ttl: between two renewals, and between two heartbeats of a member that
#: holds no lease. With a ttl of 2.5 s or more, a renewal to which the engine gives no answer in
#: time can be repeated before the process of the plugins is asked to stop (`guard.ASKS`).
RENEWS, JOINS = 1 / 3, 1 / 2

#: Seconds between two records of what has changed at a member.
RECORDS = 1.0

#: Seconds that the thread that receives waits for a message at most.
RECEIVES = 5.0

#: The shortest and the longest time until the engine is asked again after it has failed.
FIRST, LAST = 0.1, 5.0

#: Seconds between two lines of the log while the engine is away.
MINUTE = 60.0

INFO, WARNING, ERROR = 20, 30, 40

#: The warning for settings without a secret.
UNSIGNED = (
    '[cluster:main] has no secret: who can write to this engine can send messages to the '
    'site, and restart it'
)


class Agent:
    """Joins the cluster, and takes, renews and releases the lease of the cluster plugins.

    It talks to its supervisor in lines of JSON, each a list. It hears:

    - ``wants``, whether: whether this member wants the lease.
    - ``heard``, fence, until: the guards know of the lease. Until then it is not renewed
      again: while the supervisor is stopped, another member gets the lease.
    - ``free``, fence: the process that needed the lease has ended.
    - ``record``, facts: what other members should see of this one.
    - ``look``, machines: somebody wants to see the engine and, perhaps, all machines.
    - ``bye``: the site stops. Without it, the lease ends by itself, for the process that
      needs it may still run.

    And it says:

    - ``held``, fence, until: this member holds the lease until then (CLOCK_BOOTTIME).
    - ``lost``, fence: it does not hold it any more.
    - ``engine``, facts: what the engine does; see `_tell_of_engine`.
    - ``looked``, machines, more: the answer to ``look``, after ``engine``; None if the engine
      is away, or if nobody wants to see them; ``more`` are not in the list.
    - ``note``, level, text: a line for the log.

    :param connection: the end of the connection to the supervisor.
    :param held: what this member holds already, if another agent has served it before.
    :param mail: passes messages on to the supervisor; None if there are no messages.
    """

    def __init__(
        self,
        settings: Settings,
        member: Member,
        engine: Engine,
        connection: socket.socket,
        held: Held | None = None,
        mail: Mail | None = None,
    ) -> None:
        self._mail = mail
        self.settings, self.member, self.engine = settings, member, engine
        self.claim = Claim(member.id, settings.ttl, held)
        self._connection, self._lines = connection, Lines(connection)
        self._wants, self._has_joined = False, False
        self._heard = held.until if held else 0.0
        #: Whether a lease has ended without an answer of the supervisor: the supervisor
        #: may be stopped, and another machine should have the lease.
        self._is_deaf = False
        #: The fence of a lease that is to be released; 0 if there is none.
        self._to_free = 0
        self._facts: Any = None
        #: Whether the facts have changed since the last heartbeat of this member, and
        #: when they may be recorded: a short change need not be.
        self._records, self._records_at = False, 0.0
        self._next = self._joins_at = 0.0
        self._members = 0
        #: Since when the engine is away; when that was logged last, and whether it was
        #: logged since then; the number of failures.
        self._away_since: float | None = None
        self._told_at, self._has_told, self._failures = -MINUTE, False, 0
        #: How often the engine was away since the last line of the log, and the last
        #: reason.
        self._untold, self._why = 0, ''
        self._last_word: float | None = None
        self._told: Any = None
        self._warnings: set[str] = set()
        #: Since when no message could be received, and when that was logged.
        self._silent_since: float | None = None
        self._silence_told_at = -MINUTE
        self._wake, self._woken = socket.socketpair()
        self._woken.setblocking(False)
        self._ended = threading.Event()
        self._words: dict[str, Callable[..., object]] = {
            'wants': self._is_wanted,
            'heard': self._is_heard,
            'free': self._is_to_free,
            'record': self._is_to_record,
            'look': self._looks,
        }

    # -- the loop -----------------------------------------------------------------------

    def run(self) -> None:
        """Work until the supervisor says ``bye``, or ends."""
        receiver = threading.Thread(target=self._receive, daemon=True)
        receiver.start()
        if self._mail is not None:
            self._mail.start()
        poll, goes = select.poll(), True
        poll.register(self._connection, select.POLLIN)
        poll.register(self._woken, select.POLLIN)
        while goes:
            for fd, _ in poll.poll(max(self._next - clock(), 0) * 1000):
                if fd == self._woken.fileno():
                    self._woken.recv(4096)
                    self._next = 0.0
                else:
                    goes = self._read()
            if goes and clock() >= self._next:
                self._beat()
        self._ended.set()

    def _read(self) -> bool:
        """Read what the supervisor sends; return whether to continue."""
        lines = self._lines.read()
        self._is_deaf = False
        for word, *carried in lines:
            if word == 'bye':
                self._leave()
                return False
            self._words[word](*carried)
        return not self._lines.has_ended

    def _say(self, *words: object) -> None:
        self._connection.sendall(json.dumps(words).encode() + b'\n')

    def _note(self, level: int, text: str) -> None:
        self._say('note', level, text)

    def _receive(self) -> None:
        """Receive messages, in a thread: the one that a lease is free makes it look at once."""
        while not self._ended.is_set():
            try:
                received = self.engine.receive(RECEIVES)
            except EngineAway as away:
                self._receives_nothing(away, clock())
                self._ended.wait(random.uniform(FIRST, 2.0))
                continue
            self._silent_since = None
            if any(one.kind == FREED for one in received.messages):
                self._wake.send(b'.')
            if self._mail is not None:
                self._mail.receive(received)

    def _receives_nothing(self, away: EngineAway, now: float) -> None:
        """Log that the engine answers, but gives no messages; once a minute."""
        if self._silent_since is None or self._away_since is not None:
            self._silent_since = now
        silent = now - self._silent_since
        if silent > self.settings.ttl and now >= self._silence_told_at + MINUTE:
            self._silence_told_at = now
            line = f'cluster: no messages of other machines for {silent:.0f} s'
            assert self._mail is not None  # any thread may call this
            self._mail.say('note', ERROR, f'{line}: {away.reason}')

    # -- what the supervisor says ---------------------------------------------------------

    def _is_wanted(self, wants: bool) -> None:
        self._wants, self._next = wants, 0.0

    def _is_heard(self, fence: int, until: float) -> None:
        if self.claim.held is not None and self.claim.held.fence == fence:
            self._heard = until

    def _is_to_free(self, fence: int) -> None:
        if self.claim.held is not None and self.claim.held.fence == fence:
            self.claim.held = None  # whether the engine hears of it or not
        self._to_free, self._next = fence, 0.0

    def _is_to_record(self, facts: dict[str, Any]) -> None:
        self._facts, self._records = facts, True
        self._next = min(self._next, self._records_at)

    def _leave(self) -> None:
        try:
            self._free()
            self.engine.leave(self.member)
        except EngineAway:
            pass  # the lease ends by itself, and the member is forgotten

    # -- one beat -------------------------------------------------------------------------

    def _beat(self) -> None:
        before = self.claim.held
        if before is not None and not self.claim.holds(clock()):
            self._loses(before)
        try:
            asked = clock()
            self._free()
            joins = asked >= self._joins_at
            if joins:
                self._join(asked)
            elif self._records and asked >= self._records_at:
                self.engine.record(self.member, self._facts)
                self._records, self._records_at = False, asked + RECORDS
            asks = clock()
            answer = self._ask()
            if answer is not None and answer.members:  # it has said that it is there
                self._members = answer.members
                self._joins_at = asks + self.settings.ttl * JOINS
            elif answer is not None and not joins:  # the engine has lost its data
                self._join(asks)
        except EngineAway as away:
            self._is_away(away, clock())
            return
        now = clock()
        self._failures, self._last_word = 0, now
        if self._away_since is not None or self._told is None:
            self._is_back(now)
        self._tell_of_untold(now)
        self._tell_of_engine('', now - asks if answer else None, answer)
        if self._mail is not None and self._mail.rolls is not None:
            self._mail.rolls.follow(self.engine)
        part = JOINS if self.claim.held is None else RENEWS
        every = self.settings.ttl * part * random.uniform(0.9, 1.0)
        if answer is None:  # it only says that it is there
            every = self._joins_at - now
        self._next = self.claim.next_look(now, every, self._wants)
        if self._records:
            self._next = min(self._next, self._records_at)

    def _join(self, now: float) -> None:
        fences = {PLUGINS: self.claim.highest}
        self._members = self.engine.join(self.member, fences, self._facts)
        self._records = False
        self._joins_at = now + self.settings.ttl * JOINS * random.uniform(0.9, 1.0)
        if not self._has_joined:
            self._has_joined = True
            self._look_for_namesakes()

    def _look_for_namesakes(self) -> None:
        for seen in self.engine.members():
            one = seen.member
            is_there = seen.age < self.settings.ttl
            if one.machine == self.member.machine and one != self.member and is_there:
                self._note(
                    WARNING,
                    f'Another member of the cluster has the name {one.machine}, too '
                    f'({one.id}; this one is {self.member.id}). Both work. Set machine in '
                    '[cluster:main] to tell them apart',
                )
                return

    def _ask(self) -> Answer | None:
        claim = self.claim
        before, now = claim.held, clock()
        if not self._wants and before is None:
            return None
        may_renew = before is not None and self._heard >= before.until
        wish = claim.wish(now, self._wants and not self._is_deaf, may_renew)
        answer = self.engine.lease(PLUGINS, self.member, wish)
        claim.heard(wish, answer, now, clock())
        if claim.held is None:
            if before is not None:
                self._loses(before)
        elif wish.act in ('take', 'renew'):
            self._say('held', *claim.held)
        return answer

    def _loses(self, held: Held) -> None:
        self.claim.held = None
        self._is_deaf = self._heard < held.until
        self._say('lost', held.fence)

    def _free(self) -> None:
        if not self._to_free:
            return
        wish = Wish('free', '', self._to_free)
        asked = clock()
        answer = self.engine.lease(PLUGINS, self.member, wish)
        self.claim.heard(wish, answer, asked, clock())
        self._to_free = 0
        if answer.granted:
            self.engine.send(Message(self.member.id, FREED, PLUGINS))

    # -- how the engine is ----------------------------------------------------------------

    def _is_away(self, away: EngineAway, now: float) -> None:
        self._failures, self._why = self._failures + 1, away.reason
        self._joins_at = 0.0  # it may have lost its data
        if self._away_since is None:
            self._away_since = now
        silent = now - (self._last_word or self._away_since)
        if now >= self._told_at + MINUTE:
            self._told_at, self._has_told, self._untold = now, True, 0
            since = f' for {silent:.0f} s' if silent >= 1 else ''
            self._note(
                ERROR,
                f'cluster: no word from {self.settings.shown}{since}: {away.reason}. '
                'The site keeps serving',
            )
        self._tell_of_engine(away.reason, None, None)
        longest = min(self.settings.ttl * RENEWS, LAST)
        if self.claim.held is not None:
            longest = min(longest, self.settings.ttl / 10)
        wait = min(FIRST * 2 ** min(self._failures, 10), longest)
        self._next = now + wait * random.uniform(0.5, 1.0)

    def _is_back(self, now: float) -> None:
        since, self._away_since = self._away_since, None
        if since is not None and not self._has_told:
            self._untold += 1
        elif since is not None:
            self._has_told, took = False, now - since
            self._note(
                INFO + 10, f'cluster: {self.settings.shown} is back after {took:.0f} s'
            )
        unsigned = [UNSIGNED] if self.settings.use and not self.settings.secret else []
        for warning in self.engine.warnings() + unsigned:
            if warning not in self._warnings:
                self._warnings.add(warning)
                self._note(WARNING, f'cluster: {self.settings.shown}: {warning}')

    def _tell_of_untold(self, now: float) -> None:
        """Log that the engine was away, if that was too soon after another line."""
        if self._untold and now >= self._told_at + MINUTE:
            times = 'once' if self._untold == 1 else f'{self._untold} times'
            self._told_at, self._untold = now, 0
            self._note(
                WARNING,
                f'cluster: {self.settings.shown} was away {times} more: {self._why}. It is '
                'back',
            )

    def _tell_of_engine(
        self,
        away: str,
        round_trip: float | None,
        answer: Answer | None,
        anew: bool = False,
    ) -> None:
        """Report changes and each failure to the supervisor; everything, if it has asked.

        ``away`` is the reason why the engine does not answer; '' if it does. ``since`` is
        the time of its last word, ``members`` the number of members, ``leader`` the machine
        that holds the lease (its id if this one has the same name; '': nobody does; None: that
        is not known), and ``leads`` since when.
        """
        record = None if answer is None else answer.leader
        leader = cut(self._name_of(record)) if record else ''
        facts = {
            'away': away,
            'members': self._members,
            'leader': None if answer is None else leader,
            'fence': record.fence if record else 0,
        }
        if facts != self._told or away or anew:
            self._told = facts
            leads = clock() - record.held_for if record else None
            more = {'since': self._last_word, 'round_trip': round_trip, 'leads': leads}
            self._say('engine', {**facts, **more})

    def _name_of(self, record: Record) -> str:
        """Return who has a lease: the id of another member that has the name of this one."""
        is_namesake = record.machine == self.member.machine
        other = is_namesake and record.holder != self.member.id
        return record.holder if other else record.machine

    def _looks(self, machines: bool) -> None:
        """Look at the engine for somebody who asks; not while it is away."""
        found = roll = None
        if self._away_since is None and self._last_word is None:
            self._beat()  # it has not begun
        if self._away_since is None:
            try:
                asked = clock()
                answer = self.engine.lease(PLUGINS, self.member, Wish())
                took = clock() - asked
                if machines:
                    found = self.engine.members()
                    with contextlib.suppress(EngineAway):  # another program has its key
                        rolls = self.engine.lease(ROLL, self.member, Wish())
                        roll = seen_of(rolls.record, rolls.leader is not None)
                self._last_word = clock()
                self._tell_of_engine('', took, answer, anew=True)
            except EngineAway as away:
                self._is_away(away, clock())
        shown = None if found is None else described(found)
        self._say('looked', shown, len(found or ()) - len(shown or ()), roll)


def run_agent(
    settings: Settings,
    member: Member,
    make: Callable[[], Engine],
    connection: socket.socket,
    letters: socket.socket,
    held: Held | None,
) -> None:
    """Run an agent in this process, which does nothing else; it never returns an error.

    :param make: makes the engine, and may import libraries.
    :param letters: the connection to the supervisor for `Mail`.
    """
    from paste_wspbus.cluster.mail import Mail
    from paste_wspbus.cluster.roll import Rolls

    threading.excepthook = _end_all
    engine = make()
    try:
        mail = Mail(settings, member, engine, letters)
        mail.rolls = Rolls(settings, member, make, mail.say)
        Agent(settings, member, engine, connection, held, mail).run()
        mail.rolls.end(engine)
    finally:
        engine.close()
        os._exit(0)


def _end_all(failed: threading.ExceptHookArgs) -> None:
    """End the agent if one of its threads fails: the supervisor starts another agent."""
    if failed.exc_type is not SystemExit:
        try:
            threading.__excepthook__(failed)
        finally:
            os._exit(1)
