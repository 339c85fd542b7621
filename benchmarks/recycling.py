"""Measures what clients notice while all four workers of a site are recycled."""

from __future__ import annotations

import contextlib
import json
import statistics
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import restart_servers
import rounds
from restart_load import Load, Result

#: The number of workers, and the requests after which each is replaced.
WORKERS, REQUESTS = 4, 1500

#: How much longer than usual the slowest request may take.
SLOWEST = 3

_INI = """
[app:main]
use = call:deployed:make_app

[server:main]
use = egg:waitress
host = 127.0.0.1
port = 0

[wspbus:main]
workers = {workers}
preload = {preload}
max_requests = {requests}
"""


class Daemon:
    """A site in the background."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._words = [rounds.command('wspserve'), 'site.ini']

    def run(self, *words: str) -> str:
        """Run a subcommand, and return what it prints.

        :raises rounds.Unavailable: if it fails.
        """
        said = subprocess.run(
            [*self._words, *words, '--pid-file=site.pid'],
            cwd=self.folder,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=rounds.PATIENCE * 3,
            text=True,
        )
        if said.returncode:
            raise rounds.Unavailable(f'{words[0]} failed: {said.stderr.strip()}')
        return said.stdout

    def recycled(self) -> list[int]:
        """Return how often each worker was recycled."""
        status = json.loads(self.run('status', '--json'))
        return [one['recycled'] for one in status['workers'] if one['number']]


@contextlib.contextmanager
def serving(preload: str, requests: int) -> Iterator[tuple[Daemon, int]]:
    """Run a site in the background until the block ends; yield it, and its port."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        ini = _INI.format(workers=WORKERS, preload=preload, requests=requests)
        (folder / 'site.ini').write_text(ini)
        (folder / 'deployed.py').write_text(
            restart_servers.page_of('1', composition=0.5)
        )
        daemon = Daemon(folder)
        said = daemon.run('start', f'--log-file={folder / "log"}')
        try:
            yield (
                daemon,
                int(said.split('Serving on ')[1].split()[0].rpartition(':')[2]),
            )
        finally:
            daemon.run('stop')


def until_all_are_recycled(preload: str) -> tuple[Result, float]:
    """Return the results of the clients, and the seconds that it took."""
    with serving(preload, REQUESTS) as (daemon, port), Load(port) as load:
        began = time.monotonic()
        while min(daemon.recycled()) < 1:
            if time.monotonic() - began > 3 * rounds.PATIENCE:
                raise rounds.Unavailable('not all workers were recycled')
            time.sleep(0.2)
        return load.end(), time.monotonic() - began


def as_usual(preload: str, seconds: float) -> Result:
    """Return the results of the clients in so many seconds, with nobody recycled."""
    with serving(preload, 0) as (daemon, port), Load(port) as load:
        began = time.monotonic()
        while time.monotonic() - began < seconds:
            daemon.recycled()  # as the other measurement does
            time.sleep(0.2)
        return load.end()


def main() -> None:
    """Print the table and the targets."""
    options = rounds.options(__doc__, times=3)
    heads = ('requests', 'failed', 'repeatable', 'slowest ms')
    print(f'  {"":<24}{"".join(f"{head:>12}" for head in heads)}')
    for preload in ('true', 'false'):
        found: dict[str, list[Result]] = {'recycling': [], 'usual': []}
        for _ in range(max(int(options.times), 1)):
            result, seconds = until_all_are_recycled(preload)
            found['recycling'].append(result)
            found['usual'].append(as_usual(preload, seconds))
        slowest = {}
        for name, results in found.items():
            slowest[name] = statistics.median(max(one.latencies) for one in results)
            asked = sum(one.asked + one.kept.total() for one in results)
            failed = sum(one.failed() for one in results)
            again = sum(one.lost for one in results) - failed
            line = ''.join(f'{cell:>12}' for cell in (asked, failed, again))
            title = f'preload {preload}, {name}'
            print(f'  {title:<24}{line}{slowest[name] * 1000:>12.4g}')
        failed = sum(one.failed() for one in found['recycling'])
        rounds.judge(f'requests failed, preload {preload}', failed, at_most=0)
        ratio = slowest['recycling'] / slowest['usual']
        rounds.judge(f'slowest ÷ usual, preload {preload}', ratio, at_most=SLOWEST)


if __name__ == '__main__':
    main()
