"""n listeners cost n times what one costs (n log n), not n * n."""

import contextlib
import gc
import threading
import time
from functools import partial

import pytest

from paste_wspbus.bus import Bus
from paste_wspbus.bus.channels import Channel, Listener

FEW, MANY = 1_000, 10_000

#: 10 times as many may take so many times as long: 13 by their logarithms, 100 if each
#: cost were proportional to their number. The rest is for a machine that does more.
AT_MOST = 40


def listeners(count):
    return [lambda: None for _ in range(count)]


def subscribing(count):
    bus = Bus()
    for listener in listeners(count):
        bus.subscribe('news', listener)
    bus.publish('news')


def subscribing_one_callback(count):
    bus = Bus()
    for number in [object() for _ in range(count)]:
        bus.subscribe('news', dict.fromkeys, [number])
    bus.unsubscribe('news', dict.fromkeys)


def unsubscribing(count):
    bus, ours = Bus(), listeners(count)
    for listener in ours:
        bus.subscribe('news', listener)
    for listener in ours:
        bus.unsubscribe('news', listener)


def entering(count):
    bus = Bus()
    for _ in range(count):
        bus.enter(contextlib.nullcontext())
    bus.start()
    bus.exit()


def entering_late(count):
    bus = Bus()
    bus.start()
    for _ in range(count):
        bus.enter(contextlib.nullcontext())
    bus.exit()


def arriving_in_the_start(count):
    bus = Bus()

    def add():
        for _ in range(count):
            bus.enter(contextlib.nullcontext(), priority=60)

    bus.subscribe('start', add)
    bus.start()
    bus.exit()


def treating_it_as_a_set(count):
    channel = Channel('news', listeners(count))
    while channel:
        channel.pop()


def seconds(function, count):
    """Of this thread alone, the better of two."""
    times = []
    for _ in range(2):
        gc.collect()
        before = time.thread_time()
        function(count)
        times.append(time.thread_time() - before)
    return min(times)


@pytest.mark.parametrize(
    'function',
    [
        subscribing,
        subscribing_one_callback,
        unsubscribing,
        entering,
        entering_late,
        arriving_in_the_start,
        treating_it_as_a_set,
    ],
)
def test_ten_times_as_many_take_about_ten_times_as_long(function):
    seconds(function, 10)  # what is imported and compiled is so once
    assert seconds(function, MANY) < AT_MOST * seconds(function, FEW)


# -- the order, worked out late -----------------------------------------------------------------


def test_the_order_is_worked_out_once_for_all_changes(monkeypatch):
    counted = []
    work_out = Channel.work_out
    monkeypatch.setattr(
        Channel, 'work_out', lambda self: counted.append(self.name) or work_out(self)
    )
    bus = Bus()
    for listener in listeners(100):
        bus.subscribe('news', listener)
    assert counted == []
    for _ in range(3):
        bus.publish('news')
    assert counted == ['news']


def test_an_order_that_a_change_has_overtaken_is_not_kept():
    channel = Channel('news')
    first, second = Listener(lambda: 1), Listener(lambda: 2)
    channel.subscribe(first)

    class Priority(float):
        """While the order is sorted, another listener is subscribed."""

        def __lt__(self, other):
            if second.callback not in channel:
                channel.subscribe(second)
            return float.__lt__(self, other)

    slow = Listener(lambda: 3, priority=Priority(10))
    channel.subscribe(slow)
    assert set(channel.work_out().listeners) == {first, slow}
    assert set(channel.ordered) == {first, second, slow}


def test_a_listener_whose_subscribe_has_returned_is_called_by_every_publish():
    bus, stop, wrong = Bus(), threading.Event(), []

    def come_and_go():
        while not stop.is_set():
            for listener in ours:
                bus.subscribe('news', listener)
            for listener in ours:
                bus.unsubscribe('news', listener)

    ours = listeners(10)
    others = [threading.Thread(target=come_and_go) for _ in range(2)]
    for thread in others:
        thread.start()
    try:
        for number in range(300):
            said = []
            listener = partial(said.append, number)
            bus.subscribe('news', listener)
            bus.publish('news')
            bus.unsubscribe('news', listener)
            bus.publish('news')
            if said != [number]:
                wrong.append(said)
    finally:
        stop.set()
        for thread in others:
            thread.join()
    assert not wrong
