"""Rolls a broken release over machines behind haproxy, under load, and counts what fails."""

from __future__ import annotations

import collections
import contextlib
import http.client
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import rounds
from cluster import Engine, Site

_INI = """
[app:main]
use = call:release:make

[server:main]
use = egg:waitress
listen = 127.0.0.1:{listen}

[wspbus:main]
workers = 2
pid_file = {folder}/site.pid

[cluster:main]
use = redis://127.0.0.1:{port}/0
name = shop
machine = {name}
ttl = 5
secret = sesame
"""

_RELEASE = """
import time
{broken}

def make(global_conf):
    def app(environ, start_response):
        time.sleep(0.005)
        start_response('200 OK', [('Content-Type', 'text/plain')])
        return [b'{name} {release}']
    return app
"""

_HAPROXY = """
global
    maxconn 1000
defaults
    mode http
    timeout connect 5s
    timeout client 30s
    timeout server 30s
    retries 3
frontend site
    bind 127.0.0.1:{listen}
    default_backend machines
backend machines
    balance roundrobin
"""


class Machine(Site):
    """One machine of the site, whose link ``current`` leads to a release."""

    def __init__(self, folder: Path, name: str, port: int) -> None:
        self.home, self.name, self.port = folder / name, name, port
        self.listen = rounds.free_port()
        self.deploy('1')
        text = (self.home / 'current' / 'site.ini').read_text()
        self.serve(self.home / 'current', text)

    def deploy(self, release: str, broken: bool = False) -> None:
        """Let the link lead to another release."""
        folder = self.home / 'releases' / release
        folder.mkdir(parents=True)
        line = 'raise ImportError("this release is broken")' * broken
        text = _RELEASE.format(name=self.name, release=release, broken=line)
        (folder / 'release.py').write_text(text)
        keys = {'listen': self.listen, 'port': self.port, 'folder': self.home}
        (folder / 'site.ini').write_text(_INI.format(name=self.name, **keys))
        link = self.home / 'current'
        link.unlink(missing_ok=True)
        link.symlink_to(folder)


class Balancer:
    """haproxy before the machines, with nothing but its defaults and a round robin."""

    def __init__(self, folder: Path, machines: list[Machine]) -> None:
        program = shutil.which('haproxy') or shutil.which('/usr/sbin/haproxy')
        if program is None:
            raise rounds.Unavailable('haproxy is not installed')
        self.port = rounds.free_port()
        text = _HAPROXY.format(listen=self.port)
        for one in machines:
            text += f'    server {one.name} 127.0.0.1:{one.listen}\n'
        (folder / 'haproxy.cfg').write_text(text)
        words = [program, '-db', '-q', '-f', str(folder / 'haproxy.cfg')]
        self.process = subprocess.Popen(words)

    def close(self) -> None:
        """End it."""
        self.process.kill()
        self.process.wait()


class Load:
    """Clients that send one request after the other, each on a new connection or on one."""

    def __init__(self, port: int, clients: int) -> None:
        self.port, self.ended = port, threading.Event()
        self.answers: collections.Counter[str] = collections.Counter()
        self.failures: list[str] = []
        self._lock = threading.Lock()
        self._threads = [
            threading.Thread(target=self._run, args=(number % 2 == 0,))
            for number in range(clients)
        ]

    def start(self) -> None:
        """Begin."""
        for thread in self._threads:
            thread.start()

    def _run(self, keeps_connection: bool) -> None:
        client = http.client.HTTPConnection('127.0.0.1', self.port, timeout=60)
        while not self.ended.is_set():
            try:
                client.request('GET', '/')
                response = client.getresponse()
                body = response.read().decode()
                if response.status != 200:
                    raise OSError(f'{response.status} {body}')
            except (OSError, http.client.HTTPException) as error:
                client.close()
                with self._lock:
                    self.failures.append(f'{type(error).__name__}: {error}')
                continue
            with self._lock:
                self.answers[body] += 1
            if not keeps_connection:
                client.close()
        client.close()

    def stop(self) -> None:
        """Send no more, and wait for the last answers."""
        self.ended.set()
        for thread in self._threads:
            thread.join()


def wait_until_joined(engine: Engine, count: int) -> None:
    """Wait until so many machines have joined."""
    until = time.monotonic() + rounds.PATIENCE
    while engine.client.zcard('wspbus:{shop}:seen') < count:
        if time.monotonic() > until:
            raise rounds.Unavailable('the machines do not join')
        time.sleep(0.05)


def main() -> None:
    """Print what the roll says, and what the clients have got."""
    options = rounds.options(__doc__ or '', clients=8)
    with tempfile.TemporaryDirectory() as name, contextlib.ExitStack() as stack:
        folder = Path(name)
        engine = Engine(folder)
        stack.callback(engine.process.wait)
        stack.callback(engine.process.kill)
        stack.callback(engine.client.close)
        machines = []
        for number in (1, 2, 3):
            machines.append(Machine(folder, f'web{number}', engine.port))
            stack.callback(machines[-1].close)
        balancer = Balancer(folder, machines)
        stack.callback(balancer.close)
        wait_until_joined(engine, 3)
        load = Load(balancer.port, int(options.clients))
        load.start()
        stack.callback(load.stop)
        time.sleep(1)
        for one in machines:
            one.deploy('2', broken=one.name == 'web2')
        broken = roll(machines[0])
        after_broken = release_of_each(load)
        machines[1].deploy('3')
        mended = roll(machines[0], '--from', 'web2')
        after_mended = release_of_each(load)
        load.stop()
        count = sum(load.answers.values())
    print(f'  answered requests: {count}')
    for failure in sorted(set(load.failures)):
        print(f'  {load.failures.count(failure)} requests: {failure}')
    rounds.judge('failed requests', len(load.failures), at_most=0)
    rounds.judge('exit code of the broken roll', broken, at_least=1)
    rounds.judge('exit code of the mended roll', mended, at_most=0)
    is_right = after_broken == ['web1 2', 'web2 1', 'web3 1']
    is_right &= after_mended == ['web1 2', 'web2 3', 'web3 2']
    print(f'  releases: {", ".join(after_broken)}; then {", ".join(after_mended)}')
    rounds.judge('machines with the right release', 3 * is_right, at_least=3)


def roll(machine: Machine, *options: str) -> int:
    """Ask for a roll there, and show what that says; return its exit code."""
    words = [rounds.command('wspserve'), 'site.ini', 'graceful', '--cluster', *options]
    return subprocess.run(words, cwd=machine.home / 'current').returncode


def release_of_each(load: Load) -> list[str]:
    """Return what the machines answer from now on, for a second."""
    before = load.answers.copy()
    time.sleep(1)
    return sorted(load.answers - before)


if __name__ == '__main__':
    os.environ.setdefault('PYTHONUNBUFFERED', '1')
    try:
        main()
    except rounds.Unavailable as why:
        sys.exit(str(why))
