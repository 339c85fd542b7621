"""Measures what a site costs with 1 to 16 workers, and with 1 to 1,000 plugins and listeners."""

from __future__ import annotations

import argparse
import contextlib
import statistics
import subprocess
import tempfile
import time
from pathlib import Path

import rounds
from throughput import family

SIZES = {'workers': (1, 2, 4, 8, 16), 'plugins': (1, 10, 100, 1_000)}

#: How a size compares with the smallest one.
PER_FIRST = ('÷ the first', lambda ours, peer: peer / ours)

#: Seconds that the site of the workers takes to load.
LOAD = 1.0

INI = """
[server:main]
use = egg:waitress
host = 127.0.0.1
port = {port}

[app:main]
use = call:scaling_site:make

[wspbus:main]
{more}
"""

SITE = """
import time

def make(global_conf):
    time.sleep({load})
    def app(environ, start_response):
        start_response('200 OK', [('Content-Length', '6')])
        return [b'served']
    return app

def plugin(bus, global_conf):
    bus.subscribe('measured', lambda: None)
    yield
"""


@contextlib.contextmanager
def site(more, sections='', load=0.0):
    """Serve a site; yield its process, its .ini, and the seconds to its first response."""
    with tempfile.TemporaryDirectory() as folder:
        path, port = Path(folder), rounds.free_port()
        (path / 'scaling_site.py').write_text(SITE.format(load=load))
        ini = path / 'site.ini'
        ini.write_text(INI.format(port=port, more=more) + sections)
        begun = time.perf_counter()
        with rounds.child([rounds.command('wspserve'), str(ini)]) as process:
            rounds.wait_for_response(port, process)
            yield process, ini, time.perf_counter() - begun


def private_memory(pid):
    """Return the private memory of a process in MB."""
    lines = Path(f'/proc/{pid}/smaps_rollup').read_text().splitlines()
    sizes = [int(line.split()[1]) for line in lines if line.startswith('Private_')]
    return sum(sizes) / 1024


def seconds_of(ini, subcommand):
    """Return the seconds of a subcommand that must succeed."""
    begun = time.perf_counter()
    command = [rounds.command('wspserve'), str(ini), subcommand]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    if done.returncode:
        raise rounds.Unavailable(done.stderr.strip() or f'{subcommand} failed')
    return time.perf_counter() - begun


def seconds_to_end(process):
    """Send SIGTERM; return the seconds until the process has ended."""
    begun = time.perf_counter()
    process.terminate()
    rounds.wait_for_end(process)
    return time.perf_counter() - begun


def wait_for_workers(ini, count):
    """Wait until so many workers serve: the first response needs one only."""
    command = [rounds.command('wspserve'), str(ini), 'status']
    until = time.monotonic() + rounds.PATIENCE
    while time.monotonic() < until:
        done = subprocess.run(command, capture_output=True, text=True, timeout=60)
        if f', {count} worker' in done.stdout:
            return
    raise rounds.Unavailable(f'{count} workers do not serve: {done.stdout}')


def workers(count):
    """Yield each step of a site with so many preloaded workers, its unit and its value."""
    more = f'workers = {count}\npreload = true\nsoak = 0'
    with site(more, load=LOAD) as (process, ini, taken):
        wait_for_workers(ini, count)
        yield 'start to first response', 's', taken
        yield 'status', 's', seconds_of(ini, 'status')
        # Workers are children of the process that has loaded the site.
        memory = sum(private_memory(pid) for pid in family(process.pid))
        yield 'private memory of all', 'MB', memory
        yield 'graceful', 's', seconds_of(ini, 'graceful')
        yield 'stop', 's', seconds_to_end(process)


def plugins(count):
    """Yield each step of a site of one process with so many plugins, a listener each."""
    names = [f'p{number}' for number in range(count)]
    more = f'plugins = {" ".join(names)}'
    sections = ''.join(
        f'[plugin:{name}]\nuse = call:scaling_site:plugin\n' for name in names
    )
    with site(more, sections) as (process, ini, taken):
        yield 'start to first response', 's', taken
        yield 'status', 's', seconds_of(ini, 'status')
        yield 'private memory', 'MB', private_memory(process.pid)
        yield 'stop', 's', seconds_to_end(process)


def compare(what, measure, options):
    """Print a table for each step; return {step: {size: the median}}."""
    sizes = [size for size in SIZES[what] if size <= options.most]
    samples, units = {}, {}
    for number in range(options.rounds + 1):
        for size in sizes:
            for step, unit, value in measure(size):
                units[step] = unit
                if number:  # the first round warms up
                    samples.setdefault(step, {}).setdefault(size, []).append(value)
    for step, of_sizes in samples.items():
        named = {
            f'{size:,} {what if size > 1 else what[:-1]}': values
            for size, values in of_sizes.items()
        }
        rounds.table(
            f'{what}: {step}', units[step], named, next(iter(named)), PER_FIRST
        )
    return {
        step: {size: statistics.median(values) for size, values in of_sizes.items()}
        for step, of_sizes in samples.items()
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        'what', nargs='*', help=f'any of {", ".join(SIZES)}; default: all'
    )
    parser.add_argument('--rounds', type=int, default=5, help='default 5')
    parser.add_argument('--most', type=int, default=1_000, help='the largest size')
    options = parser.parse_args()
    options.rounds = max(2, options.rounds)
    for what in options.what or SIZES:
        if what == 'plugins':
            compare(what, plugins, options)
            continue
        print(f'The site takes {LOAD:g} s to load; its workers are preloaded.')
        found = compare(what, workers, options)['graceful']
        most = max(found)
        rounds.judge(
            f'a graceful restart of {most} preloaded workers, in compositions',
            found[most] / LOAD,
            at_most=2.0,
        )


if __name__ == '__main__':
    main()
