"""Compares this checkout with another one, in the same run: start, memory, publish, requests.

    python benchmarks/versus.py OTHER/.venv/bin/python
    python benchmarks/versus.py OTHER/.venv/bin/python requests --rounds 20

Both have the package installed in editable form, so that each Python runs its own checkout.
"""

from __future__ import annotations

import argparse
import functools
import shutil
import subprocess
import sys
import time
from pathlib import Path

import rounds
import throughput

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


#: {server: the case in throughput.py}: what a request costs in a worker, which is watched.
REQUESTS = {
    'waitress': '4 connections',
    'cheroot': '4 connections',
    'paste': 'a connection for each request',
}


def worker(port: int, python: str, server: str) -> list[str]:
    """Return the command that serves the small site in one worker."""
    named = [] if server == 'waitress' else ['--server-name', server]
    command = [python, str(Path(python).with_name('wspserve')), *named, '--workers=1']
    return [*command, rounds.SITE, f'http_port={port}']


def compare_requests(python: str, count: int, seconds: float) -> None:
    """Print what a worker of both answers a second, and the processor time of a request."""
    for server, case in REQUESTS.items():
        times, sleeps = ({NOW: [], BEFORE: []} for _ in range(2))
        measures = {
            name: throughput.requests_a_second(
                functools.partial(worker, python=one, server=server),
                case,
                seconds,
                times[name],
                sleeps[name],
            )
            for name, one in ((NOW, sys.executable), (BEFORE, python))
        }
        rates = rounds.alternate(measures, count)
        # The first round warms up.
        times = {name: values[1:] for name, values in times.items()}
        what = f'a worker, {server}, {case}'
        rate = rounds.table(f'requests a second, {what}', '1/s', rates, NOW)
        cost = rounds.table(f'processor time of a request, {what}', 'µs', times, NOW)
        title = f'{NOW} ÷ {BEFORE}, {server}'
        rounds.judge(f'requests a second, {title}', rate.get(BEFORE), at_least=0.98)
        rounds.judge(f'processor time, {title}', cost.get(BEFORE), at_most=1.02)


def compare_starts(python: str, count: int) -> None:
    """Print the start and the memory of both."""
    for title, unit, figure in (
        ('from exec to the first response', 'ms', 'wall'),
        ('CPU until the first response, main thread', 'ms', 'cpu'),
        ('memory of a site that has answered (Pss)', 'MB', 'memory'),
    ):
        measure = functools.partial(start, measure=figure)
        compare(title, unit, measure, python, count, at_most=1.05)


def compare_publish(python: str, count: int) -> None:
    """Print what a publish of both takes."""
    for listeners in (1, 10):
        title = f'publish to {listeners} listeners'
        measure = functools.partial(publish, listeners=listeners)
        compare(title, 'µs', measure, python, count, at_most=1.1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition('\n')[0])
    parser.add_argument('python', help="the other checkout's Python")
    parser.add_argument(
        'what', nargs='*', help='any of start, publish, requests; default: all'
    )
    parser.add_argument('--rounds', type=int, default=25, help='default 25')
    parser.add_argument(
        '--seconds', type=float, default=2, help='requests: of each round (default 2)'
    )
    options = parser.parse_args()
    what = options.what or ['start', 'publish', 'requests']
    if 'start' in what:
        compare_starts(options.python, options.rounds)
    if 'publish' in what:
        compare_publish(options.python, options.rounds)
    if 'requests' in what:
        if shutil.which('wrk') is None:
            print('wrk is not installed: requests are not measured')
        else:
            compare_requests(options.python, options.rounds, options.seconds)


if __name__ == '__main__':
    main()
