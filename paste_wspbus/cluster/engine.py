"""The interface of an engine, and the data that go through it: members, leases, messages."""

from __future__ import annotations

import hmac
import json
from typing import NamedTuple, Protocol

from paste_wspbus.errors import WSPBusError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    from paste_wspbus.cluster.settings import Settings

#: The number of messages that are received at once.
BATCH = 100

#: The number of characters of the id of a member at most: a name of at most 64, and a number.
MAX_ID = 100

#: The number of bytes that a message has at most: 64 kB of the site, a channel, and a head.
MAX_MESSAGE = (1 << 16) + (1 << 12)

#: The numbers of messages are below this, so that no sum of them gets too long for
#: JSON.
MAX_NUMBER = 1 << 53

#: How many messages an engine keeps at most, and the number of their bytes.
MAX_MESSAGES, MAX_KEPT = 10_000, 1 << 23

#: Seconds by which the clocks of two machines may differ.
SKEW = 60.0

#: The number of characters of a note in a lease at most.
MAX_NOTE = 8000

#: The types of the fields of a message's head: sender, kind, number, time, signature.
_HEAD = [str, str, int, float, str]

#: The time after which a silent member is forgotten, in multiples of the ttl.
FORGOTTEN = 10


class EngineAway(WSPBusError):
    """The engine does not do what it was asked: ``reason`` says why, in a few words."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class Member(NamedTuple):
    """A member: the supervisor of one site on one machine.

    ``id`` is ``machine``, the name that is shown, and a random number: several sites of one
    name on one machine are several members.
    """

    id: str
    machine: str


class Seen(NamedTuple):
    """What the engine knows of a member.

    ``age`` is the number of seconds since its last heartbeat. ``facts`` is what it has
    recorded of itself (`Engine.record`).
    """

    member: Member
    age: float
    facts: Mapping[str, Any]


class Record(NamedTuple):
    """What the engine has of a lease.

    ``holder`` is the id of a member; '' if the holder has released it. ``fence`` grows with
    each holder. ``renewals`` counts how often this holder has renewed it. ``epoch`` is the
    run of the engine that has written the record. ``age`` is the number of seconds since
    then, and ``held_for`` since this holder has the lease, both by the engine's clock.
    ``ttl`` is the number of seconds for which the holder has renewed it: the .ini of another
    machine may have another one. ``note`` is the holder's report on its work, and
    ``entered`` the id of the last member that has entered it: see `Wish`.
    """

    holder: str
    fence: int
    renewals: int
    epoch: str
    age: float
    held_for: float
    machine: str
    ttl: float = 0.0
    note: str = ''
    entered: str = ''


def version_of(record: Record | None, epoch: str) -> str:
    """Return `Answer.version` of a record, in a run of the engine."""
    if record is None:
        return f'@{epoch}'
    return f'{record.holder} {record.fence} {record.renewals} {record.epoch}@{epoch}'


class Answer(NamedTuple):
    """The answer to `Engine.lease`.

    ``granted`` says whether the wish was granted. ``record`` is the record after that; None
    if there is none. ``epoch`` is the run of the engine: it changes if the engine was
    restarted, or if another one has taken its place, which may have lost the last writes.
    ``now`` is the engine's clock, in seconds. ``members`` is what `Engine.join` returns; 0 if
    the engine does not know the member, or has lost what it has said of itself.
    """

    granted: bool
    record: Record | None
    epoch: str
    now: float
    members: int = 0

    @property
    def leader(self) -> Record | None:
        """The record if, as far as the engine knows, its holder has the lease now."""
        record = self.record
        if record is None or not record.holder or record.epoch != self.epoch:
            return None
        return record if record.age <= record.ttl else None

    @property
    def version(self) -> str:
        """A text that differs after each change of the record, and in each run of the engine."""
        return version_of(self.record, self.epoch)


class Wish(NamedTuple):
    """What a member wants of a lease.

    ``act`` is 'look', 'take' (if `Answer.version` would still be ``version``), 'renew' or
    'free' (if this member holds it with ``fence``), or 'enter' (if any member holds it now
    with ``fence``). ``fence`` is, for 'take', the highest that this member has seen.

    'enter' writes this member into `Record.entered`. So if one member enters while the
    holder releases the lease, the engine knows which came first. ``note`` becomes
    `Record.note` by 'take', and, if it is not '', by 'renew' and 'free': at most MAX_NOTE
    characters.
    """

    act: str = 'look'
    version: str = ''
    fence: int = 0
    note: str = ''


class Message(NamedTuple):
    """A message: the id of the member that has sent it, its kind, and its text.

    ``number`` counts the messages of this kind of the sender, from 1; 0 if nobody counts
    them. ``at`` is the time.time() of the sender.
    """

    sender: str
    kind: str
    text: str
    number: int = 0
    at: float = 0.0

    def is_current(self, keep: float, now: float) -> bool:
        """Whether it is young enough: an old message may be a copy that somebody else has sent.

        :param keep: seconds for which the engine keeps messages.
        :param now: the time.time() of this machine.
        """
        return abs(now - self.at) <= keep + SKEW


def encoded(message: Message, name: str, secret: str) -> bytes:
    """Return a message as an engine keeps it, with a signature if there is a secret.

    It is a line of JSON, the head, and the text.

    :param name: the name of the cluster, for which alone the signature counts.
    :raises ValueError: if it has more than MAX_MESSAGE bytes.
    """
    sender, kind, text, number, at = message
    head = [sender, kind, number, at, _signature(message, name, secret)]
    data = f'{json.dumps(head)}\n{text}'.encode()
    if len(data) > MAX_MESSAGE:
        raise ValueError(
            f'a message of {len(data):,} bytes: it may have {MAX_MESSAGE:,}, with its head'
        )
    return data


def decoded(data: bytes, name: str, secret: str) -> Message | None:
    """Return what `encoded` has made; None if the data is anything else.

    With a secret, a message without the right signature gives None, too: anybody who
    can write to the engine may have written it.
    """
    if len(data) > MAX_MESSAGE:
        return None
    head, _, text = data.partition(b'\n')
    try:
        sender, kind, number, at, signature = json.loads(head)
        message = Message(sender, kind, text.decode(), number, at)
    except (ValueError, TypeError, RecursionError):
        return None
    if [*map(type, (sender, kind, number, at, signature))] != _HEAD:
        return None
    if not 0 <= number < MAX_NUMBER or len(sender) > MAX_ID:
        return None
    if not secret:
        return message
    right = _signature(message, name, secret)
    # Of texts, it takes only ASCII.
    is_right = hmac.compare_digest(right.encode(), signature.encode(errors='replace'))
    return message if is_right else None


def _signature(message: Message, name: str, secret: str) -> str:
    if not secret:
        return ''
    data = json.dumps([name, *message]).encode()
    key = secret.encode(errors='surrogateescape')  # as the environment may give it
    return hmac.digest(key, data, 'sha256').hex()


class Received(NamedTuple):
    """What `Engine.receive` returns.

    ``missed`` says whether messages before it were lost. ``refused`` is the number of
    messages that `decoded` refuses: they have another signature, or are nonsense.
    """

    messages: list[Message]
    missed: bool = False
    refused: int = 0


def received(came: list[bytes], settings: Settings, missed: bool = False) -> Received:
    """Decode the data that have come; return the messages."""
    name, secret = settings.name, settings.secret
    read = [decoded(data, name, secret) for data in came]
    messages = [one for one in read if one is not None]
    return Received(messages, missed, len(read) - len(messages))


class Engine(Protocol):
    """What the members of a cluster share.

    Each method may wait for the time-out of the engine, and raises `EngineAway` if the
    engine does not do what it should. `receive` is called in a thread of its own, and
    `send` in several.
    """

    def join(
        self,
        member: Member,
        fences: Mapping[str, int],
        facts: Mapping[str, Any] | None = None,
    ) -> int:
        """Say that a member is there, the first time and again and again.

        For a member that has joined, each `lease` says it, too.

        :param fences: from the name of each lease to the highest fence that it has seen:
            no later fence is lower.
        :param facts: what it says of itself, as for `record`; None changes nothing.
        :returns: the number of members that have joined within the ttl.
        """

    def members(self) -> list[Seen]:
        """Return all members that were there lately, by machine and id."""

    def leave(self, member: Member) -> None:
        """Say that a member is not there any more."""

    def lease(self, name: str, member: Member, wish: Wish) -> Answer:
        """Look at a lease, take, renew or release it, in one step that nothing interrupts."""

    def send(self, *messages: Message) -> None:
        """Send messages, in this order, to all members that receive; also to this one.

        A member that does not receive for a while gets them later, if the engine keeps them
        so long: for `Settings.keep` seconds, and at most MAX_MESSAGES of MAX_KEPT bytes
        together.

        :raises ValueError: if one is too long; then none is sent.
        """

    def receive(self, timeout: float) -> Received:
        """Wait for messages that are sent since the engine was made; return all that have come.

        An engine that keeps no messages returns those that are sent after the first call.
        """

    def record(self, member: Member, facts: Mapping[str, Any]) -> None:
        """Keep what a member says of itself, for `members`."""

    def warnings(self) -> list[str]:
        """Return what is wrong with the settings of the engine, one sentence each."""

    def close(self) -> None:
        """Close all connections; a `receive` in another thread ends soon."""
