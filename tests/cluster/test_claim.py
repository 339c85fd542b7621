"""The decision when a member may take a lease, with clocks of the test's own."""

import random

import pytest

from paste_wspbus.cluster.claim import MARGIN, Claim, Held
from paste_wspbus.cluster.engine import Answer, Record, Wish, version_of

TTL = 10.0


class Engine:
    """An engine in the test: its clock, its run, and one record."""

    def __init__(self):
        self.step, self.run, self.record, self.at, self.fence = 0.0, 1, None, 0.0, 0

    def ask(self, member, wish, now):
        """Do what the script of Redis does, at the true time ``now``."""
        clock, epoch = now + self.step, f'run{self.run}'
        record = self.record and self.record._replace(age=clock - self.at)
        new = None
        if wish.act == 'take' and wish.version == version_of(record, epoch):
            self.fence = max(self.fence, wish.fence, int(clock * 1e6)) + 1
            new = Record(member, self.fence, 0, epoch, 0, 0, member)
        elif wish.act == 'renew':
            if record and (record.holder, record.fence) == (member, wish.fence):
                new = record._replace(renewals=record.renewals + 1, epoch=epoch, age=0)
            elif record is None or (
                record.epoch != epoch and record.fence < wish.fence
            ):
                new = Record(member, wish.fence, 0, epoch, 0, 0, member)
        elif wish.act == 'free' and record and record.holder == member:
            new = Record('', record.fence, record.renewals + 1, epoch, 0, 0, '')
        if new is not None:
            self.record, self.at = new, clock
        return Answer(new is not None, new or record, epoch, clock)

    def restart(self, *, empty=True):
        self.run += 1
        if empty:
            self.record, self.fence = None, 0


class Member:
    def __init__(self, name, engine):
        self.name, self.engine, self.claim = name, engine, Claim(name, TTL)

    def look(self, now, wants=True, took=0.01):
        wish = self.claim.wish(now, wants)
        answer = self.engine.ask(self.name, wish, now + took / 2)
        self.claim.heard(wish, answer, now, now + took)
        return wish.act

    def free(self, now):
        wish = self.claim.wish(now, True)._replace(act='free')
        self.claim.heard(wish, self.engine.ask(self.name, wish, now), now, now)

    def holds(self, now):
        return self.claim.holds(now)


@pytest.fixture
def engine():
    return Engine()


@pytest.fixture
def pair(engine):
    """A member that holds the lease since time 100, and one that looks on since time 80."""
    one, two = Member('one', engine), Member('two', engine)
    two.look(80, wants=False)
    one.look(80)
    one.look(100)
    assert one.holds(100.1)
    two.look(101)
    return one, two


def test_the_first_member_waits_for_a_ttl_and_then_takes_it(engine):
    member = Member('one', engine)
    assert member.look(50) == 'look'
    assert member.claim.next_look(50.1, 99, True) == pytest.approx(60.01 + MARGIN)
    assert member.look(60) == 'look'
    assert member.look(60.5) == 'take'
    assert member.claim.held == Held(engine.record.fence, 60.5 + TTL)


def test_the_time_of_a_holder_counts_from_before_the_question(engine):
    member = Member('one', engine)
    member.look(50)
    member.look(61, took=3)
    assert member.claim.held.until == 71
    assert member.holds(70.9) and not member.holds(71)


def test_a_renewal_extends_it_and_keeps_the_fence(pair, engine):
    one, _ = pair
    fence = one.claim.held.fence
    assert one.look(105) == 'renew'
    assert one.claim.held == Held(fence, 115)


def test_another_takes_it_a_ttl_after_the_last_renewal(pair):
    one, two = pair
    one.look(105)
    two.look(107)  # it has seen the renewal late, and knows from when it is
    assert two.look(114.9) == 'look'
    assert two.look(115 + MARGIN + 0.1) == 'take'
    assert two.holds(115.5)
    assert two.claim.held.fence > one.claim.highest - 1
    one.look(116)  # it wants it back, but the record is not what it has seen
    assert not one.holds(116)


def test_the_longer_ttl_of_the_holder_counts(pair, engine):
    one, two = pair
    one.claim.ttl = 30
    one.look(105)
    engine.record = engine.record._replace(ttl=30)
    two.look(106)
    assert two.look(116) == 'look'
    assert two.look(134.9) == 'look'
    assert two.look(135.5) == 'take'
    engine.restart()  # then nobody knows how long the holder's ttl was
    one = Member('one', engine)
    one.claim.longest = 30
    one.look(140)
    assert one.look(169) == 'look'
    assert one.look(170.5) == 'take'


def test_a_released_lease_is_taken_at_once(pair):
    one, two = pair
    one.free(105)
    assert not one.holds(105)
    two.look(105.1)
    assert two.look(105.2) == 'take'


def test_a_record_of_before_a_member_has_come_is_not_dated_by_the_engine(pair, engine):
    engine.step = 9  # between the renewal and the look of the third member
    third = Member('third', engine)
    third.look(101)
    assert third.look(103) == 'look'
    assert third.look(111) == 'look'
    assert third.look(111.5) == 'take'


@pytest.mark.parametrize('step', [-3600, -5, 5, 3600])
def test_setting_the_clock_of_the_engine_gives_nobody_the_lease(pair, engine, step):
    one, two = pair
    one.look(105)
    engine.step = step
    two.look(105.5)
    for now in (106, 110, 114.9):
        assert two.look(now) == 'look'
    assert two.look(116) == 'take'


def test_an_engine_that_restarts_empty_gives_nobody_the_lease(pair, engine):
    one, two = pair
    one.look(105)
    engine.restart()
    two.look(105.2)
    assert two.look(115) == 'look'
    assert two.look(115.6) == 'take'
    assert two.claim.held.fence > one.claim.highest


def test_the_holder_keeps_it_over_an_empty_restart_and_its_fence(pair, engine):
    one, two = pair
    fence = one.claim.held.fence
    engine.restart()
    two.look(102)
    assert one.look(103) == 'renew'
    assert one.claim.held == Held(fence, 113)
    two.look(104)
    assert two.look(112.9) == 'look'


def test_a_release_of_another_run_does_not_count(pair, engine):
    """The engine has come back with old data: somebody may hold the lease since."""
    one, two = pair
    one.free(102)
    engine.restart(empty=False)
    two.look(103)
    assert two.look(104) == 'look'
    assert two.look(113.5) == 'take'


def test_a_holder_that_was_refused_does_not_hold_it_any_more(pair, engine):
    one, _ = pair
    engine.record = engine.record._replace(holder='other', fence=engine.fence + 1)
    assert one.look(105) == 'renew'
    assert not one.holds(105)


def test_it_takes_what_it_has_asked_for_without_an_answer(engine):
    member = Member('one', engine)
    member.look(50)
    engine.ask('one', member.claim.wish(61, True), 61)  # and the answer is lost
    member.look(62)  # the record is not what it has seen
    assert not member.holds(62.1)
    member.look(62.1)
    assert member.holds(62.2)


def test_who_does_not_want_it_does_not_take_it(engine):
    member = Member('one', engine)
    member.look(50, wants=False)
    assert member.look(70, wants=False) == 'look'


def test_never_two_whatever_happens_to_the_engine():
    """Random looks of five members; the engine restarts, forgets, and its clock is set."""
    chance = random.Random(19)
    most = taken = 0
    for _ in range(60):
        engine, now, set_at = Engine(), 1000.0, 0.0
        members = [Member(f'm{number}', engine) for number in range(5)]
        for _ in range(400):
            now += chance.expovariate(3)
            what = chance.random()
            if what < 0.01:
                engine.restart(empty=chance.random() < 0.5)
            # Not forth and back between two looks.
            elif what < 0.03 and now > set_at + TTL:
                engine.step, set_at = engine.step + chance.choice([-20, -9, 9, 20]), now
            elif what < 0.04:  # another process takes the place of one
                number = chance.randrange(5)
                old = members[number].claim
                members[number] = Member(f'm{number}-{now}', engine)
                members.append(Member('dead', engine))
                members[-1].claim.held = old.held
            member = chance.choice(members[:5])
            if what > 0.98 and member.holds(now):
                member.free(now)
            elif chance.random() < 0.9:  # else the engine does not answer it
                taken += member.look(now, took=chance.random() / 10) == 'take'
            most = max(most, sum(one.holds(now + 0.1) for one in members))
    assert taken > 200
    assert most == 1


def test_what_has_ended_is_not_renewed():
    claim = Claim('a', TTL, Held(3, until=10.0))
    assert claim.wish(9.9, wants=False).act == 'renew'
    assert claim.wish(10.0, wants=False).act == 'look'
    assert claim.held is None


def test_a_look_that_asks_for_nothing_takes_nothing_away():
    claim = Claim('a', TTL, Held(3, until=10.0))
    record = Record('a', 3, 0, 'run1', 0, 0, 'a')
    claim.heard(Wish(), Answer(False, record, 'run1', 1.0), 1.0, 1.0)
    assert claim.holds(2.0)


def test_the_highest_fence_and_the_longest_ttl_are_kept():
    claim = Claim('a', TTL)
    assert (claim.highest, claim.longest) == (0, TTL)
    record = Record('b', 7, 0, 'run1', 0, 0, 'b')._replace(ttl=3 * TTL)
    claim.heard(Wish(), Answer(False, record, 'run1', 1.0), 1.0, 1.0)
    assert (claim.highest, claim.longest) == (7, 3 * TTL)


def test_a_fence_that_nobody_has_seen_is_lower_than_the_next_one(engine, pair):
    one, two = pair
    engine.step = -3600  # its clock is set back: fences are no times any more
    one.free(110)
    two.look(111)
    one.look(114)
    one.look(126)  # it waits for a ttl: the clock was set
    unseen = one.claim.held.fence
    engine.restart()  # nobody has seen that one
    two.look(127)
    two.look(140)
    assert two.claim.held.fence > unseen


def test_who_wants_nothing_looks_at_the_usual_time():
    claim = Claim('a', TTL)
    claim.free_at = 1.0
    assert claim.next_look(0.0, 5.0, wants=False) == 5.0
    assert claim.next_look(0.0, 5.0, wants=True) == 1.0
    claim.free_at = None
    assert claim.next_look(0.0, 5.0, wants=True) == 5.0


def test_who_could_not_release_a_lease_holds_it():
    claim = Claim('a', TTL, Held(3, until=10.0))
    record = Record('a', 3, 0, 'run1', 0, 0, 'a')
    claim.heard(Wish('free', '', 3), Answer(False, record, 'run1', 1.0), 1.0, 1.0)
    assert claim.holds(2.0)


def test_a_clock_that_differs_by_the_time_of_an_answer_was_not_set():
    claim = Claim('a', TTL)
    claim.heard(Wish(), Answer(False, None, 'run1', 1001.0), 1.0, 1.0)
    claim.heard(Wish(), Answer(False, None, 'run1', 1002.25), 1.9, 2.0)
    assert claim._steady_since == 1.0
    claim.heard(Wish(), Answer(False, None, 'run1', 1003.6), 2.9, 3.0)
    assert claim._steady_since == 3.0
