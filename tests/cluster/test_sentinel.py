"""The engine behind Redis Sentinel: who asks it finds the master, also after a failover."""

import contextlib
import threading
import time

import pytest

from paste_wspbus.cluster.claim import Claim
from paste_wspbus.cluster.engine import EngineAway, Member, Wish
from paste_wspbus.cluster.redis import RedisEngine
from paste_wspbus.cluster.settings import Settings
from paste_wspbus.unix.kernel_timer import boot_clock
from tests.kit import eventually
from tests.kit.redis_servers import Sentinel, released

ONE = Member('one-1', 'one')

#: Seconds for which the members of a failover hold a lease.
TTL = 2


@pytest.fixture
def sentinel(tmp_path):
    with Sentinel(tmp_path) as sentinel:
        yield sentinel


class Candidate(threading.Thread):
    """A member that wants the lease all the time; while it has it, it writes to a store."""

    def __init__(self, name, url, store):
        super().__init__(daemon=True)
        self.member, self.store = Member(f'{name}-1', name), store
        self.engine = RedisEngine(Settings(url, 'shop', name, ttl=TTL))
        self.claim = Claim(self.member.id, TTL)
        self.ends, self.epochs = threading.Event(), []

    def run(self):
        while not self.ends.wait(0.02):
            asked, wish = boot_clock(), self.claim.wish(boot_clock(), True)
            with contextlib.suppress(EngineAway):
                answer = self.engine.lease('plugins', self.member, wish)
                self.claim.heard(wish, answer, asked, boot_clock())
            held = self.claim.held
            if held is not None and self.claim.holds(boot_clock()):
                self.store.write(self.member.id, *held)
                self.epochs.append(self.claim.record.epoch)
        self.engine.close()


class Store:
    """It refuses old fences; ``overlaps`` are writes before the end of another's lease."""

    def __init__(self):
        self._lock, self.writes, self.overlaps, self.refused = (
            threading.Lock(),
            0,
            [],
            0,
        )
        self._last = '', 0, 0.0

    def write(self, who, fence, until):
        with self._lock:
            before, highest, end = self._last
            if fence < highest:
                self.refused += 1
                return
            if who != before and (boot_clock() < end or fence == highest):
                self.overlaps.append((before, highest, who, fence))
            self._last, self.writes = (who, fence, until), self.writes + 1


def test_a_failover_under_a_lease_gives_it_to_no_two_members(sentinel):
    master, replica, url = sentinel.master, sentinel.replica, sentinel.url
    released(RedisEngine(Settings(master.url, 'shop', 'nobody', ttl=TTL)))
    store = Store()
    both = [Candidate(name, url, store) for name in ('one', 'two')]
    for one in both:
        one.start()
    eventually(lambda: store.writes)
    eventually(lambda: replica.client().exists('wspbus:{shop}:lease:plugins'))
    before = {epoch for one in both for epoch in one.epochs}
    master.kill()
    eventually(lambda: any({*one.epochs} - before for one in both))
    for one in both:
        one.ends.set()
        one.join()
    assert (store.overlaps, store.refused) == ([], 0)


def test_a_failover_is_another_run_of_the_engine(sentinel):
    master, replica, url = sentinel.master, sentinel.replica, sentinel.url
    engine = RedisEngine(Settings(url, 'shop', 'one', ttl=5))
    until = time.monotonic() + 20
    while True:  # the sentinel starts
        try:
            before = engine.lease('plugins', ONE, Wish())
            break
        except EngineAway:
            assert time.monotonic() < until
            time.sleep(0.05)
    taken = engine.lease('plugins', ONE, Wish('take', before.version))
    assert taken.granted
    eventually(lambda: replica.client().exists('wspbus:{shop}:lease:plugins'))
    master.kill()
    answers = []
    eventually(lambda: _answers_of_another_run(engine, taken.epoch, answers))
    (after,) = answers
    assert after.record.holder == 'one-1'
    assert after.version != taken.version
    renewed = engine.lease('plugins', ONE, Wish('renew', '', taken.record.fence))
    assert renewed.granted
    engine.close()


def _answers_of_another_run(engine, epoch, answers):
    with contextlib.suppress(EngineAway):
        answer = engine.lease('plugins', ONE, Wish())
        if answer.epoch != epoch:
            answers.append(answer)
    return bool(answers)
