"""servers/thread_queue.py: what is put is taken once, whatever the order of the steps."""

import itertools
import sys
import threading
from collections import deque

import pytest

from paste_wspbus.servers.thread_queue import ThreadQueue
from tests.kit import TIMEOUT
from tests.kit.stepped import Stepped


class SteppedLock:
    """A lock of a thread that another one may run while it waits for."""

    def __init__(self, step):
        self.step, self.is_free = step, False

    def acquire(self):
        for _ in range(1000):
            if self.is_free:
                self.is_free = False
                return
            self.step()
        raise AssertionError('nobody wakes this thread')

    def release(self):
        self.step()
        self.is_free = True


def stepping(kind, step):
    """A list or a deque: another thread may run before each of its steps."""

    class Stepping(kind):
        def __len__(self):
            step()
            return super().__len__()

    def method(name):
        def call(self, *args):
            step()
            return getattr(kind, name)(self, *args)

        return call

    for name in ('append', 'pop', 'popleft', 'remove'):
        if hasattr(kind, name):
            setattr(Stepping, name, method(name))
    return Stepping()


def taken_in_this_order(schedule, threads, puts):
    """What threads take from a queue while another thread puts so many things."""
    queue, taken = ThreadQueue(), []

    def step():
        stepped.step()

    queue._items, queue._idle = stepping(deque, step), stepping(list, step)

    def take():
        lock = SteppedLock(step)
        while (item := queue.get(lock)) is not None:
            taken.append(item)

    def put():
        for item in (*range(puts), *[None] * threads):
            queue.put(item)

    stepped = Stepped(put, *[take] * threads)
    stepped.run(schedule)
    return taken


@pytest.mark.parametrize(
    ('threads', 'puts', 'length'), [(1, 1, 9), (1, 2, 9), (2, 1, 6), (2, 2, 6)]
)
def test_what_is_put_is_never_left_beside_a_thread_that_sleeps(threads, puts, length):
    for schedule in itertools.product(range(threads + 1), repeat=length):
        taken = taken_in_this_order(schedule, threads, puts)
        assert sorted(taken) == [*range(puts)], schedule


def test_what_is_put_at_once_is_taken_side_by_side():
    queue, together = ThreadQueue(), threading.Barrier(4)

    def take():
        lock = threading.Lock()
        lock.acquire()
        while queue.get(lock) is not None:
            together.wait(TIMEOUT)

    takers = [threading.Thread(target=take, daemon=True) for _ in range(4)]
    for thread in takers:
        thread.start()
    for item in (*range(4 * 200), *[None] * 4):
        queue.put(item)
    for thread in takers:
        thread.join(TIMEOUT)
        assert not thread.is_alive()
    assert not together.broken


def test_many_threads_take_each_thing_once():
    switch = sys.getswitchinterval()
    queue, taken, count = ThreadQueue(), [], 20_000

    def take():
        lock = threading.Lock()
        lock.acquire()
        own = []
        while (item := queue.get(lock)) is not None:
            own.append(item)
        taken.append(own)

    def put(part):
        for number in range(part, count, 2):
            queue.put(number)

    takers = [threading.Thread(target=take, daemon=True) for _ in range(4)]
    putters = [threading.Thread(target=put, args=(part,)) for part in range(2)]
    try:
        sys.setswitchinterval(1e-6)
        for thread in (*takers, *putters):
            thread.start()
        for thread in putters:
            thread.join(TIMEOUT)
        for _ in takers:
            queue.put(None)
        for thread in takers:
            thread.join(TIMEOUT)
            assert not thread.is_alive()
    finally:
        sys.setswitchinterval(switch)
    assert sorted(itertools.chain(*taken)) == [*range(count)]
