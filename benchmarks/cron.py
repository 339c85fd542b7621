"""Counts the runs of cron jobs over a year of simulated time, and over graceful restarts."""

from __future__ import annotations

import contextlib
import json
import random
import signal
import subprocess
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import rounds

from paste_wspbus.plugins.schedule import Schedule
from paste_wspbus.ready.diary import Diary
from paste_wspbus.ready.due import Rules
from paste_wspbus.ready.state import StateFile

#: The years: in 2018, clocks went forward and back at midnight in São Paulo.
YEARS = {'Europe/Berlin': 2026, 'America/Sao_Paulo': 2018}

#: Times in and around the hours that a day has twice or not at all, and dense ones.
LINES = (
    '15 3 * * *',
    '30 2 * * *',
    '0,30 0-3 * * *',
    '59 23 * * *',
    '0 0 * * *',
    '*/20 * * * *',
    '0 */6 * * *',
    '10 * * * SUN',
    '0 12 L * *',
)

#: The number of restarts in a year of simulated time, and the longest one, in seconds.
RESTARTS, GAP = 50, 45

_JOB = """
import json, os, time

def tick(bus):
    run = bus.resources['tick'].run
    with open('runs', 'a') as file:
        file.write(json.dumps([run.time, os.getpid()]) + '\\n')

def make(conf):
    def app(environ, start_response):
        start_response('200 OK', [])
        return [b'']
    return app
"""

_INI = """
[wspbus:main]
site_plugins = tick
workers = 2
soak = 0

[plugin:tick]
use = egg:paste_wspbus#cron
when = * * * * * *
run = jobs:tick
state = state.json

[app:main]
use = call:jobs:make

[server:main]
use = egg:waitress
host = 127.0.0.1
port = 0
"""


class Counted:
    """How often runs did not come, came twice, or came although cronsim has none."""

    def __init__(self, expected: list[int], came: list[int]) -> None:
        counted, wanted = Counter(came), set(expected)
        self.expected = len(expected)
        self.lost = len(wanted - set(came))
        self.twice = sum(count - 1 for count in counted.values())
        self.wrong = len(set(came) - wanted)

    def row(self, name: str) -> str:
        """Return a line of the table."""
        numbers = (self.expected, self.lost, self.twice, self.wrong)
        return f'  {name:<40}{"".join(f"{one:>10}" for one in numbers)}'


def a_year(zone: str, line: str, restarts: int) -> Counted:
    """Run a job for a year of simulated time; the process is restarted at random moments."""
    from cronsim import CronSim

    local, year = ZoneInfo(zone), YEARS[zone]
    begin = datetime(year, 1, 1, tzinfo=local)
    end = datetime(year + 1, 1, 1, tzinfo=local).timestamp()
    expected = []
    for one in CronSim(line, begin):
        if one.timestamp() > end:
            break
        expected.append(int(one.timestamp()))
    chance = random.Random(f'{zone} {line}')
    moments = sorted(chance.uniform(begin.timestamp(), end) for _ in range(restarts))
    came: list[int] = []
    schedule, file, now = Schedule(line, local), _Memory('state'), begin.timestamp()
    for until in (*moments, end):
        if until > now:
            one_process(schedule, file, now, until, came)
            now = until + chance.uniform(0, GAP)
    return Counted(expected, came)


def one_process(
    schedule: Schedule, file: StateFile, now: float, until: float, came: list[int]
) -> None:
    """Run the job from ``now`` to ``until``; ``came`` gets the times of its runs."""
    diary = Diary(schedule, Rules(), lambda run: 0.0, file, lambda text, _: print(text))
    diary.open(now)
    while now <= until:
        while (run := diary.next_run(now)) is not None:
            came.append(run)
            ended = {'for': run, 'began': now, 'ended': now + 0.1}
            diary.ended({**ended, 'outcome': 'ok', 'error': ''})
        seconds = diary.seconds_to_next(now)
        now += 60.0 if seconds is None else max(seconds, 0.001)


class _Memory(StateFile):
    """A state in memory: a year has many runs, and each writes its file."""

    state: dict[str, Any] = {}

    def read(self) -> dict[str, Any]:
        return self.state

    def write(self, state: dict[str, Any]) -> None:
        self.state = json.loads(json.dumps(state))


@contextlib.contextmanager
def serving(folder: Path) -> Iterator[None]:
    """Run the site until the block ends."""
    (folder / 'site.ini').write_text(_INI)
    (folder / 'jobs.py').write_text(_JOB)
    words = [rounds.command('wspserve'), 'site.ini']
    with (
        open(folder / 'log', 'w') as log,
        subprocess.Popen(
            words, cwd=folder, stdout=subprocess.PIPE, stderr=log, text=True
        ) as site,
    ):
        try:
            assert site.stdout is not None
            while not site.stdout.readline().startswith('Serving on'):
                if site.poll() is not None:
                    raise rounds.Unavailable((folder / 'log').read_text())
            yield
        finally:
            site.send_signal(signal.SIGTERM)
            site.communicate(timeout=rounds.PATIENCE)


def graceful(count: int) -> Counted:
    """Restart a site so often, whose job runs each second."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        with serving(folder):
            began = json.loads((folder / 'state.json').read_text())['last']
            for _ in range(count):
                subprocess.run(
                    [rounds.command('wspserve'), 'site.ini', 'graceful'],
                    cwd=folder,
                    check=True,
                    capture_output=True,
                )
                time.sleep(random.random())
            time.sleep(1.5)
        last = int(json.loads((folder / 'state.json').read_text())['last'])
        lines = (folder / 'runs').read_text().splitlines()
        came = [int(json.loads(one)[0]) for one in lines]
        first = min(int(began) + 1, *came)
        return Counted([*range(first, last + 1)], came)


def main() -> None:
    """Print the table and the targets."""
    options = rounds.options(__doc__, restarts=RESTARTS, graceful=50, lines=len(LINES))
    heads = ('runs', 'lost', 'twice', 'wrong')
    print(f'  {"":<40}{"".join(f"{head:>10}" for head in heads)}')
    found = {}
    for zone, year in YEARS.items():
        for line in LINES[: int(options.lines)]:
            name = f'{zone} {year}, {line}'
            found[name] = a_year(zone, line, int(options.restarts))
            print(found[name].row(name))
    name = f'{int(options.graceful)} graceful restarts, each second'
    found[name] = graceful(int(options.graceful))
    print(found[name].row(name))
    for kind in ('lost', 'twice', 'wrong'):
        total = sum(getattr(one, kind) for one in found.values())
        rounds.judge(f'runs {kind}', total, at_most=0)


if __name__ == '__main__':
    main()
