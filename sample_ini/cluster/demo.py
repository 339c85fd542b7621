"""Three machines on one: what they show, a release that rolls, a leader that is killed.

    python demo.py

It needs redis-server, and wspserve beside the Python that runs it. It makes folders as a
deployment tool does, with a link to the release, and ends what it has started.
"""

import argparse
import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
WSPSERVE = Path(sys.executable).with_name('wspserve')

#: Seconds that nothing here should take.
PATIENCE = 60.0


def free_port() -> int:
    """Return a port that nobody uses now."""
    with socket.socket() as sock:
        sock.bind(('127.0.0.1', 0))
        return int(sock.getsockname()[1])


def wait_for(what: str, condition: Callable[[], Any]) -> Any:
    """Return what a condition returns as soon as that is true."""
    until = time.monotonic() + PATIENCE
    while time.monotonic() < until:
        with contextlib.suppress(
            OSError, ValueError, KeyError
        ):  # it does not answer yet
            if found := condition():
                return found
        time.sleep(0.1)
    sys.exit(f'This has not happened within {PATIENCE:.0f} s: {what}')


class Machine:
    """One of the machines: a folder with releases, and a site of its own."""

    def __init__(self, folder: Path, web: int, words: list[str]) -> None:
        self.name, self.folder = f'web{web}', folder / f'web{web}'
        for release in ('1', '2'):
            shutil.copytree(
                HERE,
                self.folder / release,
                ignore=shutil.ignore_patterns('*.pid', '__*'),
            )
        self.deploy('1')
        self.port, self.ops = free_port(), free_port()
        self.words = [str(self.folder / 'current' / 'site.ini'), f'web={web}', *words]
        self.words += [f'http_port={self.port}', f'ops_port={self.ops}']
        with open(self.folder / 'log', 'w') as log:
            self.process = subprocess.Popen(
                [WSPSERVE, *self.words], cwd=folder, stdout=log, stderr=log
            )

    def deploy(self, release: str) -> None:
        """Change the link to the release, as deployment tools do."""
        new = self.folder / 'new'
        new.symlink_to(release)
        os.replace(new, self.folder / 'current')

    def run(self, *words: str) -> None:
        """Print a subcommand of wspserve, and run it."""
        print(f'\n$ wspserve site.ini {" ".join(words)}', flush=True)
        subprocess.run([WSPSERVE, self.words[0], *words, *self.words[1:]])

    def cluster(self) -> dict[str, Any]:
        """Return what it knows of the cluster, as its ops listener says."""
        with urllib.request.urlopen(f'http://127.0.0.1:{self.ops}/status') as page:
            cluster: dict[str, Any] = json.load(page)['status']['cluster']
        return cluster


def say(text: str) -> None:
    """Print what comes next."""
    print(f'\n{text}', flush=True)


@contextlib.contextmanager
def running(ttl: float) -> Iterator[list[Machine]]:
    """Run an engine and three machines until the block ends."""
    program = shutil.which('redis-server')
    if program is None:
        sys.exit('redis-server is not installed: apt-get install redis-server')
    started: list[subprocess.Popen[Any]] = []
    with tempfile.TemporaryDirectory(prefix='cluster-') as name:
        folder, port = Path(name), free_port()
        words = [program, '--port', str(port), '--bind', '127.0.0.1', '--save', '']
        try:
            started.append(
                subprocess.Popen([*words, '--dir', name], stdout=subprocess.DEVNULL)
            )
            more = [f'engine=redis://127.0.0.1:{port}/0', f'lease={ttl}']
            machines = []
            for web in (1, 2, 3):
                machines.append(Machine(folder, web, more))
                started.append(machines[-1].process)
            yield machines
        finally:
            for process in reversed(started):  # the engine last
                process.terminate()
                process.wait()


@contextlib.contextmanager
def load(machines: list[Machine]) -> Iterator[dict[str, int]]:
    """Ask all sites again and again until the block ends; yield the counts."""
    counts, ended = {'requests': 0, 'failed': 0}, threading.Event()

    def ask() -> None:
        while not ended.wait(0.02):
            for one in machines:
                counts['requests'] += 1
                try:
                    urllib.request.urlopen(f'http://127.0.0.1:{one.port}/').close()
                except OSError:
                    counts['failed'] += 1

    thread = threading.Thread(target=ask)
    thread.start()
    try:
        yield counts
    finally:
        ended.set()
        thread.join()


def leader_of(machines: list[Machine]) -> Machine | None:
    """Return the machine on which the plugins run, as the first one that answers says."""
    runs = [one for one in machines if one.process.poll() is None]
    if len(runs) < len(machines) - 1:
        sys.exit(''.join((one.folder / 'log').read_text() for one in machines))
    for seen in runs[0].cluster().get('machines') or ():
        if seen['leads'] and not seen['is_silent']:
            return next((one for one in runs if one.name == seen['machine']), None)
    return None


def show(ttl: float, stay: float, soak: bool) -> None:
    """Run the whole demonstration."""
    say('Three machines and a Redis start; the first lease is taken after a ttl.')
    with running(ttl) as machines:
        first = machines[0]
        leader = wait_for('a machine leads', lambda: leader_of(machines))
        first.run('status', '--cluster')
        say('The console of each machine:')
        for one in machines:
            print(f'  {one.name}  http://127.0.0.1:{one.ops}/')

        say('The link of each machine leads to release 2 now. It rolls, under load:')
        for one in machines:
            one.deploy('2')
        with load(machines) as counts:
            first.run('graceful', '--cluster', *(['--no-soak'] if not soak else []))
        print('{failed} of {requests} requests have failed.'.format(**counts))
        first.run('status', '--cluster')

        leader = wait_for('a machine leads', lambda: leader_of(machines))
        say(f'The supervisor of {leader.name}, which leads, is killed:')
        leader.process.send_signal(signal.SIGKILL)
        began = time.monotonic()
        leader.process.wait()
        successor = wait_for(
            'another machine leads',
            lambda: (found := leader_of(machines)) is not leader and found,
        )
        took = time.monotonic() - began
        print(f'{successor.name} leads, {took:.1f} s later. The ttl is {ttl:g} s.')
        successor.run('status', '--cluster')
        if stay:
            say(f'All of it ends in {stay:g} s, or with Ctrl-C.')
            time.sleep(stay)


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--ttl', type=float, default=5, help='seconds of a lease')
    parser.add_argument(
        '--stay',
        type=float,
        default=0,
        help='seconds to look at the console at the end',
    )
    parser.add_argument(
        '--no-soak', action='store_true', help='roll without watching each new worker'
    )
    options = parser.parse_args()
    if not WSPSERVE.exists():
        sys.exit(f'There is no wspserve beside {sys.executable}')
    with contextlib.suppress(KeyboardInterrupt):
        show(options.ttl, options.stay, not options.no_soak)


if __name__ == '__main__':
    main()
