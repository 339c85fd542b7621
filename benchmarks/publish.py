"""Measures how long a publish to 1 and 10 listeners takes, and the order of parts with needs."""

from __future__ import annotations

import random
import timeit

import rounds

LOOPS = {1: 40_000, 10: 10_000}
#: How many parts are put in order.
PARTS = 200

OURS, CHERRYPY, MAGICBUS = 'paste_wspbus', 'CherryPy', 'magicbus'


def listeners(count):
    return [lambda *args: None for _ in range(count)]


def on_a_bus(bus, count):
    for listener in listeners(count):
        bus.subscribe('measured', listener)
    return lambda: bus.publish('measured')


def ours(count):
    from paste_wspbus.bus import Bus

    return on_a_bus(Bus(), count)


def cherrypy(count):
    from cherrypy.process.wspbus import Bus

    return on_a_bus(Bus(), count)


def magicbus(count):
    from magicbus.base import Bus

    return on_a_bus(Bus(), count)


def blinker(count):
    from blinker import Signal

    signal, receivers = Signal(), listeners(count)
    for receiver in receivers:
        signal.connect(receiver, weak=False)
    return lambda: signal.send('measured')


def pluggy(count):
    from pluggy import HookimplMarker, HookspecMarker, PluginManager

    class Spec:
        @HookspecMarker('benchmark')
        def measured(self):
            pass

    class Plugin:
        @HookimplMarker('benchmark')
        def measured(self):
            pass

    manager = PluginManager('benchmark')
    manager.add_hookspecs(Spec)
    for _ in range(count):
        manager.register(Plugin())
    return lambda: manager.hook.measured()


def plain_loop(count):
    callables = listeners(count)

    def publish():
        output = []
        for call in callables:
            output.append(call())
        return output

    return publish


def order_of(count):
    """Return a function that works out the order of so many parts with three needs each."""
    from paste_wspbus.bus.needs import in_order

    chance = random.Random(1)
    names = [f'part{number}' for number in range(count)]
    wishes = {
        name: (tuple(chance.sample(names[:place], min(place, 3))), ())
        for place, name in enumerate(names)
    }
    return lambda: in_order(dict(chance.sample([*wishes.items()], count)))


def microseconds(publish, count):
    timer = timeit.Timer(publish)
    return lambda: timer.timeit(LOOPS[count]) / LOOPS[count] * 1e6


def main():
    options = rounds.options(__doc__)
    peers = {
        OURS: ('paste_wspbus', ours),
        CHERRYPY: ('cherrypy', cherrypy),
        MAGICBUS: ('magicbus', magicbus),
        '(blinker)': ('blinker', blinker),
        '(pluggy)': ('pluggy', pluggy),
        '(a plain loop)': ('timeit', plain_loop),
    }
    there = {name: make for name, (module, make) in peers.items() if rounds.has(module)}
    for count in LOOPS:
        samples = rounds.alternate(
            {name: microseconds(make(count), count) for name, make in there.items()},
            options.rounds,
        )
        title = f'publish to {count} listener{"s" if count > 1 else ""}'
        faster = rounds.table(title, 'µs', samples, OURS, rounds.TIMES_AS_FAST)
        for peer in (CHERRYPY, MAGICBUS):
            rounds.judge(f'times as fast as {peer}', faster.get(peer), at_least=3)
    order = timeit.Timer(order_of(PARTS))
    took = {OURS: [order.timeit(1) * 1e3 for _ in range(options.rounds)]}
    rounds.table(f'the order of {PARTS} parts with three needs each', 'ms', took, OURS)
    rounds.judge('milliseconds', rounds.median(took, OURS), at_most=20)


if __name__ == '__main__':
    main()
