"""Measures 1,000 and 10,000 listeners: subscribe, publish, unsubscribe, enter, start, stop."""

from __future__ import annotations

import contextlib
import time

import rounds

COUNTS = 1_000, 10_000
STEPS = 'subscribe', 'publish once', 'unsubscribe', 'enter', 'start', 'stop'

#: The factor by which ten times as many listeners take longer, if each one costs the
#: logarithm of their number.
LINEAR = 40 / 3


def seconds(step):
    """Return the seconds of CPU: with 10,000 listeners, other processes run in between."""
    begun = time.process_time()
    step()
    return time.process_time() - begun


def measure(count):
    """Return the seconds of each of STEPS."""
    from paste_wspbus.bus import Bus

    bus = Bus()
    listeners = [lambda: None for _ in range(count)]
    contexts = [contextlib.nullcontext() for _ in range(count)]
    steps = (
        lambda: [bus.subscribe('measured', listener) for listener in listeners],
        lambda: bus.publish('measured'),
        lambda: [bus.unsubscribe('measured', listener) for listener in listeners],
        lambda: [bus.enter(context) for context in contexts],
        bus.start,
        bus.stop,
    )
    taken = [seconds(step) for step in steps]
    bus.exit()
    return taken


def main():
    options = rounds.options(__doc__)
    samples = {(step, count): [] for step in STEPS for count in COUNTS}
    for number in range(options.rounds + 1):
        for count in COUNTS:
            for step, taken in zip(STEPS, measure(count), strict=True):
                if number:  # the first round warms up
                    samples[step, count].append(taken)
    few, many = (f'{count:,} listeners' for count in COUNTS)
    for step in STEPS:
        of_both = {few: samples[step, COUNTS[0]], many: samples[step, COUNTS[1]]}
        times = rounds.table(step, 's of CPU', of_both, few, rounds.TIMES_AS_FAST)
        rounds.judge(f'times as long as {few}', times.get(many), at_most=2 * LINEAR)


if __name__ == '__main__':
    main()
