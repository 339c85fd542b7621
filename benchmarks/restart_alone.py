"""Measures a site of one process under load: `restart`, and `graceful`."""

from __future__ import annotations

import contextlib
import statistics
import subprocess
import tempfile
import time
from collections.abc import Iterator

import restart_servers
import rounds
from restart_load import Load, Result

#: Seconds that the load of the site takes.
LOAD = 2.0

#: What the clients must at least ask in each measurement.
REQUESTS = 2000

#: How much longer than usual the slowest request may take during `restart`, and how much
#: longer than the load of the site during `graceful`.
SLOWEST, WAIT = 3, 1.5


class Daemon:
    """A site of one process that runs in the background."""

    def __init__(self, site: restart_servers.Site, words: list[str]) -> None:
        self.site, self._words = site, words

    def run(self, subcommand: str) -> None:
        """Run a subcommand.

        :raises rounds.Unavailable: if it fails.
        """
        said = subprocess.run(
            [*self._words, subcommand],
            cwd=self.site.folder,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=rounds.PATIENCE * 3,
            text=True,
        )
        if said.returncode:
            raise rounds.Unavailable(f'{subcommand} failed: {said.stderr.strip()}')


@contextlib.contextmanager
def serving(server: restart_servers.Wspserve) -> Iterator[Daemon]:
    """Run a site in the background until the block ends."""
    with tempfile.TemporaryDirectory() as folder:
        site = restart_servers.Site(folder, 0)
        site.deploy(restart_servers.page_of('1', composition=LOAD))
        command, ini, _, pid_file = server.command(site)
        log_file = f'--log-file={site.folder / "log"}'
        daemon = Daemon(site, [command, ini, pid_file, log_file])
        daemon.run('start')
        try:
            yield daemon
        finally:
            daemon.run('stop')


def under_load(daemon: Daemon, subcommand: str | None, seconds: float) -> Result:
    """Return the results of the clients during a subcommand, or during so many seconds."""
    with Load(daemon.site.port) as load:
        time.sleep(0.3)
        if subcommand is not None:
            daemon.run(subcommand)
        else:
            time.sleep(seconds)
        until = time.monotonic() + rounds.PATIENCE
        while load.so_far().asked < REQUESTS and time.monotonic() < until:
            time.sleep(0.05)
        time.sleep(0.3)
        return load.end()


def measure_one(server: restart_servers.Wspserve, times: int) -> dict[str, list]:
    """Return the results during each subcommand, and the usual ones."""
    found: dict[str, list] = {'usual': [], 'restart': [], 'graceful': []}
    with serving(server) as daemon:
        for _ in range(times):
            for subcommand in ('restart', 'graceful'):
                began = time.monotonic()
                found[subcommand].append(under_load(daemon, subcommand, 0))
                seconds = time.monotonic() - began
                if subcommand == 'restart':  # as long as that took
                    found['usual'].append(under_load(daemon, None, seconds))
    return found


def measure_alone(options) -> None:
    """Print what clients notice of `restart` and `graceful` of one process."""
    servers = [
        one for one in options.servers if isinstance(one, restart_servers.Wspserve)
    ]
    print(f'\nOne process under load; the site takes {LOAD:g} s to load')
    heads = ('requests', 'refused', 'lost', 'slowest ms')
    print(f'  {"":<32}{"".join(f"{head:>12}" for head in heads)}')
    for server in servers:
        try:
            found = measure_one(server, options.alone)
        except rounds.Unavailable as why:
            print(f'{server.name} is left out: {why}')
            continue
        slowest = {}
        for name, results in found.items():
            slowest[name] = statistics.median(max(one.latencies) for one in results)
            asked = sum(one.asked + one.kept.total() for one in results)
            refused = sum(one.failed('refused') for one in results)
            lost = sum(one.failed() for one in results) - refused
            cells = (asked, refused, lost)
            line = ''.join(f'{cell:>12}' for cell in cells)
            title = f'{server.name}, {name}'
            print(f'  {title:<32}{line}{slowest[name] * 1000:>12.4g}')
        for name in ('restart', 'graceful'):
            failed = sum(one.failed() for one in found[name])
            rounds.judge(f'requests failed, {name}, {server.name}', failed, at_most=0)
        rounds.judge(
            f'slowest ÷ usual slowest, restart, {server.name}',
            slowest['restart'] / slowest['usual'],
            at_most=SLOWEST,
        )
        rounds.judge(
            f'longest wait ÷ load, graceful, {server.name}',
            slowest['graceful'] / LOAD,
            at_most=WAIT,
        )
