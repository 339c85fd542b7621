"""Compares this checkout with another one, in the same run: start, memory, publish.

    python benchmarks/versus.py OTHER/.venv/bin/python

Both have the package installed in editable form, so that each Python runs its own checkout.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from pathlib import Path

import rounds

PUBLISH = """
import timeit
from paste_wspbus.bus import Bus
bus = Bus()
for _ in range({listeners}):
    bus.subscribe('news', lambda: None)
bus.publish('news')
print(min(timeit.repeat(lambda: bus.publish('news'), number=2000, repeat=5)) / 2000)
"""

NOW, BEFORE = 'this checkout', 'the other one'


def start(python: str, measure: str) -> float:
    """Serve the small site until its first response, and return a figure.

    :param measure: 'wall' and 'cpu' are in milliseconds, 'memory' is in MB.
    """
    port = rounds.free_port()
    command = [python, str(Path(python).with_name('wspserve')), rounds.SITE]
    began = time.perf_counter()
    with rounds.child([*command, f'http_port={port}']) as server:
        rounds.wait_for_response(port, server)
        took = (time.perf_counter() - began) * 1000
        if measure == 'wall':
            return took
        folder = Path('/proc', str(server.pid))
        if measure == 'cpu':  # nanoseconds: proc_pid_schedstat
            return int((folder / 'schedstat').read_text().split()[0]) / 1e6
        lines = (folder / 'smaps_rollup').read_text().splitlines()
        return (
            int(next(one for one in lines if one.startswith('Pss:')).split()[1]) / 1e3
        )


def publish(python: str, listeners: int) -> float:
    """Return the microseconds that a publish to this number of listeners takes."""
    program = PUBLISH.format(listeners=listeners)
    done = subprocess.run(
        [python, '-P', '-c', program], check=True, capture_output=True, text=True
    )
    return float(done.stdout) * 1e6


def compare(title: str, unit: str, measure, python: str, count: int, at_most: float):
    """Measure both in turn; print the table, and whether the ratio meets its target."""
    samples = rounds.alternate(
        {NOW: lambda: measure(sys.executable), BEFORE: lambda: measure(python)}, count
    )
    rounds.table(title, unit, samples, NOW)
    ratio = rounds.median(samples, NOW) / rounds.median(samples, BEFORE)
    rounds.judge(f'{NOW} ÷ {BEFORE}', ratio, at_most=at_most)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition('\n')[0])
    parser.add_argument('python', help="the other checkout's Python")
    parser.add_argument('--rounds', type=int, default=25, help='default 25')
    options = parser.parse_args()
    for title, unit, measure in (
        ('from exec to the first response', 'ms', 'wall'),
        ('CPU until the first response, main thread', 'ms', 'cpu'),
        ('memory of a site that has answered (Pss)', 'MB', 'memory'),
    ):
        compare(
            title,
            unit,
            lambda python, measure=measure: start(python, measure),
            options.python,
            options.rounds,
            at_most=1.05,
        )
    for listeners in (1, 10):
        compare(
            f'publish to {listeners} listeners',
            'µs',
            lambda python, listeners=listeners: publish(python, listeners),
            options.python,
            options.rounds,
            at_most=1.1,
        )


if __name__ == '__main__':
    main()
