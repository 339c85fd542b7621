"""A roll: one machine after the other restarts gracefully, and the first failure ends it."""

from __future__ import annotations

import contextlib
import json
import queue
import time
from typing import NamedTuple

from paste_wspbus.cluster.claim import MARGIN, Claim
from paste_wspbus.cluster.engine import EngineAway, Member, Message, Record, Seen, Wish
from paste_wspbus.cluster.rolled import (
    MOST_OF_TEXT,
    OVER,
    Watch,
    left_by,
    read_note,
    seen_of,
    sentences,
)
from paste_wspbus.unix.kernel_timer import boot_clock as clock
from paste_wspbus.values import printable

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from paste_wspbus.cluster.engine import Engine
    from paste_wspbus.cluster.settings import Settings

#: The name of the lease of rolls, and of the kind of message that is an order to a machine.
ROLL = 'roll'

#: The kind of the messages that answer such an order.
ROLLED = 'rolled'

#: Seconds between two orders to a machine, at most (it answers each with its progress);
#: and the part of the ttl that this is at most.
EVERY, EVERY_SHARE = 1.0, 1 / 4

#: Seconds beyond the ttl after which a silent machine counts as failed. During them it
#: gets no order: a machine does not obey an old one, so it hardly begins after it has
#: counted as failed.
LATER = 1.0

#: Seconds that the members have to record what they run when a roll has ended.
RECORDED = 2.0

#: The number of machines that a sentence names at most.
MOST_NAMES = 20

#: The states of a machine in a roll.
WAITS, IN_TURN, DONE, FAILED = 'waits', 'in turn', 'done', 'failed'


class Asked(NamedTuple):
    """What an operator has asked for.

    ``soak`` says whether the first new worker of each machine is watched. ``begin`` is the
    name of the machine with which the roll begins; '' stands for the first one. ``by`` is
    who has asked, such as 'alice (PID 4711)'.
    """

    token: str
    soak: bool = True
    begin: str = ''
    by: str = ''


class Ended(Exception):
    """The roll ends: the message says why."""


class Roll:
    """A roll, in a thread of the agent of the machine at which it was asked for.

    Each machine gets its order again and again until it has restarted or failed, and
    answers each one: so nothing depends on a single message. An order has the token of the
    roll, the id of the machine, and the fence of the lease: a machine obeys no older one.

    :param claim: follows the lease of rolls.
    :param make: makes an engine of its own.
    :param tell: is called with each piece of news: a word, and what it carries.
        ``waits``, seconds: nobody may roll yet. ``before``, line: how the roll before this
        one has ended, if not all machines have restarted. ``begins``, names of machines.
        ``turn``, name, id. ``doing``, name, text. ``done`` and ``failed``, name, line. ``stops``,
        names of machines: these do not get their turn. ``ends``, line, rows: the last
        one; the line is '' if all have restarted.
    """

    def __init__(
        self,
        settings: Settings,
        member: Member,
        claim: Claim,
        asked: Asked,
        make: Callable[[], Engine],
        tell: Callable[..., object],
    ) -> None:
        self.settings, self.member, self.claim = settings, member, claim
        self.asked, self._make, self._tell = asked, make, tell
        #: The answers of machines; None if the operator has asked for a stop.
        self.inbox: queue.SimpleQueue[dict[str, Any] | None] = queue.SimpleQueue()
        self._is_stopped = self.is_over = False
        #: Whether the lease says which machine is in its turn.
        self._has_said = True
        self._every = min(EVERY, settings.ttl * EVERY_SHARE)
        #: The machines of the roll, the state of each, and the generation that each has
        #: reported.
        self.machines: list[Seen] = []
        self.outcomes: dict[str, str] = {}
        self._generations: dict[str, int] = {}
        #: The id of the last machine that has begun to replace its processes.
        self._entered = ''
        #: The time of the last answer of the machine in its turn, and of the last failure of
        #: the engine.
        self._heard_at = self._away_at = 0.0

    # -- what others call -----------------------------------------------------------------

    def hear(self, message: Message) -> None:
        """Take an answer of a machine; the thread that receives calls this."""
        with contextlib.suppress(ValueError, RecursionError):
            answer = json.loads(message.text)
            if isinstance(answer, dict) and answer.get('token') == self.asked.token:
                self.inbox.put({**answer, 'id': message.sender})

    def stop(self) -> None:
        """Give no machine its turn any more."""
        self.inbox.put(None)

    # -- the roll -------------------------------------------------------------------------

    def run(self) -> None:
        """Roll to the end; the last news is ``ends``, in any case."""
        line = 'the process that rolls has failed'
        engine = self._make()
        try:
            line = self._run(engine)
        except EngineAway as away:
            line = f'no word from {self.settings.shown}: {away.reason}'
        finally:
            rows: list[dict[str, Any]] = []
            with contextlib.suppress(EngineAway):
                self._release(engine, line)
                rows = self._rows(engine)
            self.is_over = True
            self._tell('ends', line, rows)
            engine.close()

    def _run(self, engine: Engine) -> str:
        try:
            self._take(engine)
            # An engine that has lost its data knew only some of them before: nobody takes
            # a lease until all of them have said something.
            self.machines = self._choose(engine)
            self.outcomes = {one.member.id: WAITS for one in self.machines}
            self._tell('begins', [self._name(one.member) for one in self.machines])
            for one in self.machines:
                if self._is_stopped:
                    raise Ended('the operator has stopped it')
                self._give_turn(engine, one)
        except Ended as ended:
            return str(ended)
        return ''

    def _choose(self, engine: Engine) -> list[Seen]:
        """Return the machines of the roll, in the order of their names.

        :raises Ended: if one of them says nothing, or if there is none with the given name.
        """
        until = clock() + self.settings.ttl / 2 + LATER
        while True:
            found = engine.members()
            found = [one for one in found if not self._is_replaced(one, found)]
            silent = [one for one in found if one.age >= self._ttl_of(one)]
            if not silent or clock() >= until or self._is_stopped:
                break
            self._pause(self._every)
            if self.claim.held is not None:
                self._renew(engine)
        if silent:
            said = _listed(
                [f'{one.member.machine} for {one.age:.0f} s' for one in silent]
            )
            raise Ended(
                f'no report from {said}. Nothing was restarted: start it again, or wait '
                'until it is forgotten'
            )
        begin = self.asked.begin
        for place, one in enumerate(found):
            if begin in ('', one.member.machine, one.member.id):
                return found[place:]
        names = _listed([one.member.machine for one in found])
        raise Ended(f'there is no machine {begin}, only {names}. Nothing was restarted')

    def _name(self, one: Member) -> str:
        """Return the name of a machine; its id if others have the same name."""
        names = [other.member.machine for other in self.machines]
        return one.machine if names.count(one.machine) == 1 else one.id

    def _is_replaced(self, one: Seen, found: list[Seen]) -> bool:
        """Whether a machine has died, and was started again: its name has begun since then."""
        if one.age < self._ttl_of(one):
            return False
        died_at = time.time() - one.age
        namesakes = (
            other.facts.get('since')
            for other in found
            if other.member.machine == one.member.machine
            and other.age < self._ttl_of(other)
        )
        return any(isinstance(at, (int, float)) and at > died_at for at in namesakes)

    def _ttl_of(self, seen: Seen) -> float:
        ttl = seen.facts.get('ttl')
        own = self.settings.ttl
        return max(own, ttl) if isinstance(ttl, (int, float)) else own

    def _take(self, engine: Engine) -> None:
        """Take the lease of rolls.

        :raises Ended: if somebody else rolls.
        """
        has_told = False
        while True:
            before = self.claim.record
            wish = self.claim.wish(clock(), wants=True)
            # Its note on the previous roll stays there until this one begins.
            note = left_by(before)
            answer = self._ask(engine, wish._replace(note=note))
            if self.claim.holds(clock()):
                if before is not None and note:
                    line = sentences(seen_of(before._replace(note=note)))
                    self._tell('before', line)
                return
            record = answer.record
            if record is not None and record.holder not in ('', self.member.id):
                is_current = record.epoch == answer.epoch
                if is_current and record.age < record.ttl + MARGIN:
                    remaining = record.ttl + MARGIN - record.age
                    turn = read_note(record.note).get('turn')
                    raise Ended(
                        f'{record.machine} rolls already, for {record.held_for:.0f} s'
                        + f'; {turn} is in its turn' * bool(turn)
                        + '. Nothing was restarted. If that roll has died, another one '
                        f'can begin in {max(remaining, 1):.0f} s'
                    )
            remaining = (self.claim.free_at or clock()) - clock()
            if remaining > 1 and not has_told:
                has_told = True
                self._tell('waits', round(remaining, 1))
            self._pause(min(max(remaining, 0.01), self._every))
            if self._is_stopped:
                raise Ended('the operator has stopped it. Nothing was restarted')

    def _ask(self, engine: Engine, wish: Wish) -> Any:
        asked = clock()
        # The record names this roll to others who want to begin one.
        who = Member(self.member.id, self._who)
        answer = engine.lease(ROLL, who, wish)
        self.claim.heard(wish, answer, asked, clock())
        if answer.granted and answer.record is not None:
            self._entered = answer.record.entered or self._entered
        return answer

    @property
    def _who(self) -> str:
        return self.member.machine + (
            f' (for {self.asked.by})' if self.asked.by else ''
        )

    def _note(self, line: str | None = None) -> str:
        """Return what the lease says of this roll: see `read_note`.

        :param line: how it has ended; None if it goes on.
        """
        said = {'who': self._who, 'line': line}
        words = {'turn': IN_TURN, 'done': DONE, 'failed': FAILED, 'rest': WAITS}
        for word, outcome in words.items():
            said[word] = _listed(
                [
                    self._name(one.member)
                    for one in self.machines
                    if self.outcomes.get(one.member.id) == outcome
                ]
            )
        return json.dumps(
            {key: (text or '')[:MOST_OF_TEXT] for key, text in said.items()}
        )

    def _release(self, engine: Engine, line: str) -> bool:
        """Release the lease: no machine begins after that.

        :returns: whether this roll had it.
        """
        if self.claim.held is None:
            return False
        note = self._note(line or OVER) if self.machines else ''
        return bool(
            self._ask(engine, Wish('free', '', self.claim.held.fence, note)).granted
        )

    # -- one machine ----------------------------------------------------------------------

    def _give_turn(self, engine: Engine, one: Seen) -> None:
        """Let a machine restart, and wait for the end of that.

        :raises Ended: if it has failed.
        """
        name, id = self._name(one.member), one.member.id
        self.outcomes[id] = IN_TURN
        self._tell('turn', name, id)
        self._has_said = False
        answer = self._wait_for(engine, one.member)
        line = str(answer.get('line') or '')
        if answer.get('state') == DONE:
            self.outcomes[id] = DONE
            if type(answer.get('generation')) is int:
                self._generations[id] = answer['generation']
            self._tell('done', name, line)
            return
        self.outcomes[id] = FAILED
        self._tell('failed', name, line)
        raise Ended(f'{name} has failed')

    def _wait_for(self, engine: Engine, one: Member) -> dict[str, Any]:
        """Send a machine its order again and again; return its last answer."""
        self._heard_at = began = reached = clock()
        while True:
            try:
                self._renew(engine)
                if self._silence() <= self.settings.ttl:
                    self._order(engine, one)
                reached = clock()
            except EngineAway as away:
                self._away_at = clock()
                if (silent := self._away_at - reached) > self.settings.ttl + LATER:
                    # It renews the lease, but takes no messages.
                    raise Ended(
                        f'the engine has taken no order for {silent:.0f} s: {away.reason}'
                    ) from None
                self._tell(
                    'doing', self._name(one), f'no answer from the engine: {away}'
                )
            until = clock() + self._every
            while (remaining := until - clock()) > 0:
                answer = self._next(remaining)
                if answer is None or answer['id'] != one.id:
                    continue
                self._heard_at = clock()
                if answer.get('state') != 'running':
                    return answer
                self._tell('doing', self._name(one), str(answer.get('doing') or ''))
            silent = self._silence()
            if silent > self.settings.ttl + LATER:
                more = '' if self._heard_at > began else ' since its order was sent'
                line = f'it has not answered for {silent:.0f} s{more}'
                return {'state': FAILED, 'line': line + self._closes(engine, one)}

    def _closes(self, engine: Engine, one: Member) -> str:
        """Release the lease, so that a silent machine does not begin any more.

        :returns: whether it had begun before that, as the end of a sentence.
        """
        self.outcomes[one.id] = FAILED
        is_released, left = False, ''
        with contextlib.suppress(EngineAway):
            is_released = self._release(engine, f'{self._name(one)} has failed')
            if one not in [other.member for other in engine.members()]:
                left = '. It is no longer in the cluster'
        if self._entered == one.id:
            return f'. It had begun to replace its processes: see its log{left}'
        if is_released:
            return f'. It had replaced no process, and does not begin any more{left}'
        return '. Whether it restarts is not known'

    def _silence(self) -> float:
        """Return the seconds for which the machine in its turn could have answered."""
        return clock() - max(self._heard_at, self._away_at)

    def _renew(self, engine: Engine) -> None:
        held = self.claim.held
        if held is None or not self.claim.holds(clock()):
            raise Ended(
                'the lease of the roll is lost: the engine was away for too long. The machine '
                'in its turn continues if it had begun to replace its processes'
            )
        if held.until - clock() < self.settings.ttl * 3 / 4 or not self._has_said:
            wish = self.claim.wish(clock(), wants=True)
            # Before it begins, the note says how the roll before this one has ended.
            note = self._note() if self.machines else ''
            self._ask(engine, wish._replace(note=note))
            self._has_said = True

    def _order(self, engine: Engine, one: Member) -> None:
        held = self.claim.held
        order = {
            'token': self.asked.token,
            'to': one.id,
            'fence': held.fence if held is not None else 0,
            'soak': self.asked.soak,
            'by': f'{self.asked.by}, from {self.member.machine}',
        }
        engine.send(message(self.member, ROLL, order))

    def _next(self, seconds: float) -> dict[str, Any] | None:
        """Return the next answer that comes within some seconds."""
        try:
            answer = self.inbox.get(timeout=seconds)
        except queue.Empty:
            return None
        if answer is None and not self._is_stopped:
            self._is_stopped = True
            rest = [
                self._name(one.member)
                for one in self.machines
                if self.outcomes.get(one.member.id, WAITS) == WAITS
            ]
            self._tell('stops', rest)
        return answer

    def _pause(self, seconds: float) -> None:
        until = clock() + seconds
        while (remaining := until - clock()) > 0:
            self._next(remaining)

    # -- which machine has what -----------------------------------------------------------

    def _rows(self, engine: Engine) -> list[dict[str, Any]]:
        """Return what each machine runs, when those that have restarted say so."""
        until = clock() + RECORDED
        while True:
            found = engine.members()
            if clock() >= until or not any(map(self._is_behind, found)):
                break
            self._pause(0.05)
        there = {one.member.id: one for one in found}
        gone = [one for one in self.machines if one.member.id not in there]
        return [
            {
                'machine': one.member.machine,
                'id': one.member.id,
                'outcome': self.outcomes.get(one.member.id, ''),
                'age': round(one.age, 3) if one.member.id in there else None,
                **{
                    key: one.facts.get(key)
                    for key in ('generation', 'release', 'version')
                },
            }
            for one in sorted([*found, *gone], key=lambda one: one.member[::-1])
        ]

    def _is_behind(self, one: Seen) -> bool:
        has = one.facts.get('generation')
        return type(has) is int and has < self._generations.get(one.member.id, 0)


def _listed(names: list[str]) -> str:
    more = len(names) - MOST_NAMES
    return ', '.join(names[:MOST_NAMES]) + f' and {more} more' * (more > 0)


def message(member: Member, kind: str, content: dict[str, Any]) -> Message:
    """Make a message of this kind."""
    return Message(member.id, kind, json.dumps(content), 0, time.time())


def read_order(text: str) -> dict[str, Any] | None:
    """Read an order, which another version may have sent; None if it is none."""
    try:
        order = json.loads(text)
        kinds = {'token': str, 'to': str, 'by': str, 'fence': int, 'soak': bool}
        if all(type(order[key]) is kind for key, kind in kinds.items()):
            order['by'] = printable(order['by'][:200])
            return order  # type: ignore[no-any-return]
    except (ValueError, TypeError, KeyError, RecursionError):
        pass
    return None


class Rolls:
    """The roll of this machine, if an operator has asked for one here.

    :param say: sends a line of `mail.Mail` to the supervisor.
    """

    def __init__(
        self,
        settings: Settings,
        member: Member,
        make: Callable[[], Engine],
        say: Callable[..., object],
    ) -> None:
        self.settings, self.member, self._make, self._say = settings, member, make, say
        self._claim = Claim(member.id, settings.ttl)
        self._roll: Roll | None = None
        self._watch = Watch(settings.ttl, lambda roll: say('roll', roll))

    def follow(self, engine: Engine) -> None:
        """Let the supervisor know how a roll goes whose orders come, and that it has died."""
        with contextlib.suppress(EngineAway):  # it looks again
            self._watch.follow(clock(), lambda: engine.lease(ROLL, self.member, Wish()))

    def look(self, engine: Engine) -> None:
        """Look at the lease once: who has seen it long ago need not wait for a ttl."""
        with contextlib.suppress(EngineAway):
            asked, wish = clock(), Wish()
            answer = engine.lease(ROLL, self.member, wish)
            self._claim.heard(wish, answer, asked, clock())
            record = answer.record
            if record is not None and record.holder == self.member.id:
                # The agent before this one has rolled, and has died.
                self._abandon(engine, record, 'the process that rolled has died')
                answer = engine.lease(ROLL, self.member, wish)
            roll = seen_of(answer.record, answer.leader is not None)
            if roll is not None and (
                answer.record is not record or roll['state'] == 'died'
            ):
                self._say('roll', roll)

    def end(self, engine: Engine) -> None:
        """Release the lease of a roll that goes on, because this site ends."""
        if self._roll is None or self._roll.is_over:
            return
        with contextlib.suppress(EngineAway):
            record = engine.lease(ROLL, self.member, Wish()).record
            if record is not None and record.holder == self.member.id:
                self._abandon(engine, record, 'the site that rolled has ended')

    def _abandon(self, engine: Engine, record: Record, line: str) -> None:
        note = json.dumps({**read_note(record.note), 'line': line})
        engine.lease(ROLL, self.member, Wish('free', '', record.fence, note))

    def enter(self, engine: Engine, fence: int) -> bool | None:
        """Note that this machine is about to replace its processes for a roll.

        :returns: whether it may: the roll has its lease; None if that is not known yet.
        """
        with contextlib.suppress(EngineAway):
            answer = engine.lease(ROLL, self.member, Wish('enter', '', fence))
            record = answer.record
            if answer.granted:
                return True
            # An engine that was restarted knows of a lease when that is renewed.
            if record is not None and (
                record.epoch == answer.epoch
                or record.fence != fence
                or not record.holder
            ):
                return False
        return None

    def is_valid(self, engine: Engine, text: str) -> float | None:
        """Return when an order to this machine came from a roll that had its lease; or None.

        A machine that was cut off, or stopped, gets the orders of rolls that have ended
        since then.
        """
        order = read_order(text)
        if order is not None:
            self._watch.hear(clock())
        if order is None or order['to'] != self.member.id:
            return None
        with contextlib.suppress(EngineAway):
            asked = clock()
            leader = engine.lease(ROLL, self.member, Wish()).leader
            if leader is not None and leader.fence == order['fence']:
                return asked
        return None  # it is sent again

    def begin(self, *asked: Any) -> None:
        """Begin a roll, in a thread; the supervisor asks for one only if none is there."""
        import threading

        wanted = Asked(*asked)

        def tell(*news: object) -> None:
            self._say('news', wanted.token, *news)

        roll = Roll(self.settings, self.member, self._claim, wanted, self._make, tell)
        self._roll = roll
        threading.Thread(target=roll.run, daemon=True).start()

    def stop(self) -> None:
        """Give no machine its turn any more."""
        if self._roll is not None:
            self._roll.stop()

    def hear(self, answer: Message) -> None:
        """Take an answer of a machine."""
        if self._roll is not None:
            self._roll.hear(answer)
