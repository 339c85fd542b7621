"""Measures how long the cluster plugins of a site stand still, and what the engine has to do."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import statistics
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import rounds

#: Seconds that a failover may take longer than the ttl, the part of the ttl that a planned
#: stop may take, and the commands that an idle machine may send in a second.
LATER, PLANNED, COMMANDS = 1, 0.1, 1

_INI = """
[app:main]
use = egg:paste_wspbus#hello

[server:main]
use = egg:waitress
host = 127.0.0.1
port = 0

[wspbus:main]
workers = 1
cluster_plugins = job

[plugin:job]
use = call:job:run
notes = {notes}

[cluster:main]
use = redis://127.0.0.1:{port}/0
name = shop
machine = {name}
ttl = {ttl}
"""

_JOB = """
import json
import time


def run(bus, global_conf, notes):
    def note(what):
        line = json.dumps([what, bus.lease.fence, time.monotonic()]) + chr(10)
        with open(notes, 'a') as file:
            file.write(line)

    note('starts')
    yield
    note('stops')
"""


class Engine:
    """A redis-server that saves nothing."""

    def __init__(self, folder: Path) -> None:
        import redis

        program = shutil.which('redis-server')
        if program is None:
            raise rounds.Unavailable('redis-server is not installed')
        self.port = rounds.free_port()
        words = [program, '--port', str(self.port), '--bind', '127.0.0.1']
        words += ['--save', '', '--dir', str(folder)]
        self.process = subprocess.Popen(words, stdout=subprocess.DEVNULL)
        self.client: Any = redis.Redis(port=self.port)
        until = time.monotonic() + rounds.PATIENCE
        while True:
            with contextlib.suppress(redis.RedisError):
                self.client.ping()
                return
            if time.monotonic() > until:
                raise rounds.Unavailable('redis-server does not answer')
            time.sleep(0.05)

    def counts(self) -> dict[str, float]:
        """Return the commands that clients sent, their bytes, and the seconds of its CPU."""
        stats, cpu = self.client.info('commandstats'), self.client.info('cpu')
        commands = sum(
            one['calls']
            for name, one in stats.items()
            if name in ('cmdstat_evalsha', 'cmdstat_xread')
        )
        net = self.client.info('stats')
        return {
            'commands': commands,
            'bytes': net['total_net_input_bytes'] + net['total_net_output_bytes'],
            'cpu': cpu['used_cpu_user'] + cpu['used_cpu_sys'],
        }


class Site:
    """One machine of the site, in the foreground."""

    def __init__(self, folder: Path, name: str, port: int, ttl: float) -> None:
        self.folder = folder / name
        self.folder.mkdir(exist_ok=True)
        notes = folder / 'notes'
        (self.folder / 'job.py').write_text(_JOB)
        text = _INI.format(notes=notes, port=port, name=name, ttl=ttl)
        self.serve(self.folder, text)

    def serve(self, folder: Path, text: str) -> None:
        """Start the site of an .ini in this folder, and wait until it serves."""
        (folder / 'site.ini').write_text(text)
        self.process = subprocess.Popen(
            [rounds.command('wspserve'), 'site.ini'],
            cwd=folder,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            start_new_session=True,
        )
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if line.startswith('Workers in'):
                return
        raise rounds.Unavailable('the site does not serve')

    def end(self, number: signal.Signals) -> float:
        """Signal the supervisor; return when that was."""
        at = time.monotonic()
        self.process.send_signal(number)
        self.process.wait()
        return at

    def close(self) -> None:
        """Stop it, if it still runs."""
        if self.process.poll() is None:
            self.end(signal.SIGTERM)
        with contextlib.suppress(ProcessLookupError):  # what has lost its supervisor
            os.killpg(self.process.pid, signal.SIGKILL)
        assert self.process.stdout is not None
        self.process.stdout.close()


@contextlib.contextmanager
def machines(ttl: float, count: int) -> Iterator[tuple[Engine, Path, list[Site]]]:
    """Run an engine and so many machines of a site until the block ends."""
    with tempfile.TemporaryDirectory() as name, contextlib.ExitStack() as stack:
        folder = Path(name)
        engine = Engine(folder)
        stack.callback(engine.process.wait)
        stack.callback(engine.process.kill)
        stack.callback(engine.client.close)
        sites: list[Site] = []
        for number in range(count):
            sites.append(Site(folder, f'web{number}', engine.port, ttl))
            stack.callback(sites[-1].close)
            if not number:
                wait_for_note(folder, 'starts', 1, ttl)
        yield engine, folder, sites


def wait_for_note(folder: Path, what: str, count: int, ttl: float) -> float:
    """Wait until the plugin has started or stopped so often; return when that was."""
    until = time.monotonic() + rounds.PATIENCE + 3 * ttl
    path = folder / 'notes'
    while time.monotonic() < until:
        lines = path.read_text().splitlines() if path.exists() else []
        times = [one[2] for one in map(json.loads, lines) if one[0] == what]
        if len(times) >= count:
            return float(times[count - 1])
        time.sleep(0.005)
    raise rounds.Unavailable(f'the plugin does not note that it {what}')


def failover(ttl: float) -> float:
    """Return the seconds from SIGKILL of the leading supervisor to the start elsewhere."""
    with machines(ttl, 2) as (_, folder, sites):
        time.sleep(ttl / 2)  # the other one has seen a renewal
        at = sites[0].end(signal.SIGKILL)
        return wait_for_note(folder, 'starts', 2, ttl) - at


def planned(ttl: float) -> float:
    """Return the seconds from the stop of the plugin to its start on another machine."""
    with machines(ttl, 2) as (_, folder, sites):
        sites[0].end(signal.SIGTERM)
        started = wait_for_note(folder, 'starts', 2, ttl)
        return started - wait_for_note(folder, 'stops', 1, ttl)


def idle(ttl: float, count: int, seconds: float) -> dict[str, float]:
    """Return what one idle machine costs the engine in a second, of so many machines."""
    with machines(ttl, 0) as (engine, _, _):
        alone = in_a_second(engine, seconds)
    with machines(ttl, count) as (engine, _, _):
        time.sleep(ttl)
        cost = in_a_second(engine, seconds)
    return {key: max(cost[key] - alone[key], 0) / count for key in cost}


def in_a_second(engine: Engine, seconds: float) -> dict[str, float]:
    """Return how much the counts of the engine grow in a second."""
    before, began = engine.counts(), time.monotonic()
    time.sleep(seconds)
    after, took = engine.counts(), time.monotonic() - began
    return {key: (after[key] - before[key]) / took for key in after}


def main() -> None:
    """Print the times and the cost; `cluster_size.py` says what that means for more machines."""
    options = rounds.options(__doc__, times=3, ttl=10, machines=2, seconds=30)
    ttl, times = float(options.ttl), max(int(options.times), 1)
    for name, measure, limit in (
        ('failover after SIGKILL, s', failover, ttl + LATER),
        ('planned stop to start, s', planned, ttl * PLANNED),
    ):
        took = [measure(ttl) for _ in range(times)]
        print(f'  {name:<28}{" ".join(f"{one:8.3f}" for one in took)}')
        rounds.judge(name, statistics.median(took), at_most=limit)
    cost = idle(ttl, int(options.machines), float(options.seconds))
    name = 'commands a second, idle'
    print(f'  {name:<28}{cost["commands"]:8.3f}')
    rounds.judge(name, cost['commands'], at_most=COMMANDS)


if __name__ == '__main__':
    os.environ.setdefault('PYTHONUNBUFFERED', '1')
    main()
