"""The decision when a member may take a lease, and whether it holds it: no input or output."""

from __future__ import annotations

from typing import NamedTuple

from paste_wspbus.cluster.engine import Wish

TYPE_CHECKING = False
if TYPE_CHECKING:
    from paste_wspbus.cluster.engine import Answer, Record

#: Seconds between the end of a lease for its holder and for the others: the clocks of two
#: machines do not run equally fast, and a process that is killed takes a moment to end.
MARGIN = 0.25

#: Seconds by which the engine's clock may differ from this machine's between two looks,
#: besides the time that the answer took. A larger difference means that it was set.
STEP = 0.2


class Held(NamedTuple):
    """A lease that this member holds: its fence, and the time at which it ends."""

    fence: int
    until: float


class Claim:
    """Follows one lease for one member, by the clock of this machine alone.

    The rule: a member takes a lease at once only if its holder has released it under the
    same run of the engine. Else it waits until the holder's time has certainly ended: the
    holder counts its ttl from before each renewal, so it has ended a ttl after the renewal,
    by any clock. Each of these makes the member wait for a ttl from the moment at which it
    has seen it: a record whose renewal this member cannot date, no record, a record of
    another run of the engine. So neither an engine that restarts empty nor an engine whose
    clock is set gives two members one lease.

    The ttl is the holder's, if that is longer than the member's own. If nobody knows it, it
    is the longest that this member has seen.

    A member that takes the lease asks for a fence that is higher than the highest that it has
    seen by the microseconds since then. So each fence is higher than that of the holder
    before, though this member has never seen that one: if the engine lost its data at once,
    and its clock was set back. The holder has taken it at least a ttl earlier.

    All times are in seconds of `unix.kernel_timer.boot_clock`.

    :param member: the id of this member.
    :param ttl: seconds for which a lease lasts after a renewal.
    :param held: what it holds already.
    """

    def __init__(self, member: str, ttl: float, held: Held | None = None) -> None:
        self.member, self.ttl, self.held = member, ttl, held
        #: The last record that was seen; None if there was none.
        self.record: Record | None = None
        #: The highest fence that this member has seen.
        self.highest = held.fence if held else 0
        self._highest_at: float | None = None
        #: The longest ttl that this member has seen: that of another machine may be longer.
        self.longest = ttl
        #: When this member may take the lease; None before the first look.
        self.free_at: float | None = None
        #: The version of the last answer.
        self.version = ''
        #: The engine's clock minus this one, and since when they run alike.
        self._offset: float | None = None
        self._steady_since = 0.0

    def holds(self, now: float) -> bool:
        """Whether this member holds the lease."""
        return self.held is not None and now < self.held.until

    def wish(self, now: float, wants: bool, may_renew: bool = True) -> Wish:
        """Return what to ask the engine for.

        :param wants: whether this member wants the lease.
        :param may_renew: whether it may renew what it holds.
        """
        if self.held is not None and not self.holds(now):
            self.held = None
        if self.held is not None:
            return Wish('renew', '', self.held.fence) if may_renew else Wish()
        if wants and self.free_at is not None and now >= self.free_at:
            since = now if self._highest_at is None else self._highest_at
            return Wish('take', self.version, self.highest + int((now - since) * 1e6))
        return Wish()

    def heard(self, wish: Wish, answer: Answer, asked: float, answered: float) -> None:
        """Take note of an answer.

        :param asked: the time before the question was sent.
        :param answered: the time after the answer had come.
        """
        self._compare_clocks(answer.now, asked, answered)
        record = self.record = answer.record
        if record is not None:
            if record.fence > self.highest or self._highest_at is None:
                self.highest, self._highest_at = max(self.highest, record.fence), asked
            self.longest = max(self.longest, record.ttl)
        if answer.granted and wish.act in ('take', 'renew') and record is not None:
            self.held = Held(record.fence, asked + self.ttl)
        elif wish.act == 'renew' or (answer.granted and wish.act == 'free'):
            self.held = None
        if answer.version != self.version:
            self.version = answer.version
            self.free_at = self._end_of(record, answer.epoch, asked, answered)

    def _compare_clocks(self, now: float, asked: float, answered: float) -> None:
        offset, before = now - answered, self._offset
        self._offset = offset
        if before is None:
            self._steady_since = asked
        elif abs(offset - before) > STEP + (answered - asked):
            self._steady_since = answered

    def _end_of(
        self, record: Record | None, epoch: str, asked: float, answered: float
    ) -> float:
        """Return when the time of a record's holder has certainly ended."""
        if record is None or record.epoch != epoch:
            return answered + self.longest + MARGIN
        if not record.holder or record.holder == self.member:
            return answered  # what this member has asked for itself has ended, too
        latest = answered + max(self.ttl, record.ttl) + MARGIN
        age = max(record.age, 0.0)
        if asked - age < self._steady_since:
            return latest
        return latest - age

    def next_look(self, now: float, every: float, wants: bool) -> float:
        """Return when to ask again.

        :param every: seconds between two looks if nothing is due earlier.
        """
        due = now + every
        if wants and self.held is None and self.free_at is not None:
            due = min(due, max(self.free_at, now))
        return due
