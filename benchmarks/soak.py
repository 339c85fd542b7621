"""Measures what hours at low load leave in a site with two workers that restarts gracefully."""

from __future__ import annotations

import argparse
import os
import re
import tempfile
import threading
import time
import urllib.request
from pathlib import Path

import recycling
import rounds

#: Seconds between two requests, between two graceful restarts, and between two figures.
PAUSE, RESTARTS, LOOKS = 0.2, 20.0, 60.0

#: The part of the time after which the figures are compared with those of the end.
WARM = 1 / 5

INI = """
[app:main]
use = call:page:make_app

[server:main]
use = egg:waitress
host = 127.0.0.1
port = 0

[wspbus:main]
workers = 2
soak = 0
"""

PAGE = """
def app(environ, start_response):
    start_response('200 OK', [('Content-Length', '2')])
    return [b'hi']


def make_app(global_conf):
    return app
"""

#: From each figure of the supervisor to the number by which it may grow.
FIGURES = {'threads': 0, 'file descriptors': 0, 'MB of memory': 1}


class Client(threading.Thread):
    """Sends a request now and then; ``failed`` has the errors."""

    def __init__(self, port: int) -> None:
        super().__init__(daemon=True)
        self.url, self.is_over = f'http://127.0.0.1:{port}/', threading.Event()
        self.answered, self.failed = 0, list[str]()

    def run(self) -> None:
        while not self.is_over.wait(PAUSE):
            try:
                with urllib.request.urlopen(self.url, timeout=rounds.PATIENCE) as said:
                    self.answered += said.read() == b'hi'
            except OSError as error:
                self.failed.append(repr(error))


def figures(pid: int) -> dict[str, float]:
    """Return the figures of a process."""
    status = Path(f'/proc/{pid}/status').read_text()
    return {
        'threads': len(os.listdir(f'/proc/{pid}/task')),
        'file descriptors': len(os.listdir(f'/proc/{pid}/fd')),
        'MB of memory': int(re.findall(r'VmRSS:\s+(\d+) kB', status)[0]) / 1024,
    }


def soak(
    daemon: recycling.Daemon, seconds: float
) -> tuple[list[dict[str, float]], int]:
    """Restart gracefully again and again; return the figures, and the number of restarts."""
    pid, found, restarts = int((daemon.folder / 'site.pid').read_text()), [], 0
    began = time.monotonic()
    looked = float('-inf')
    while (now := time.monotonic()) - began < seconds:
        if now - looked >= min(LOOKS, seconds / 10):
            found.append(figures(pid))
            line = ', '.join(f'{value:.4g} {name}' for name, value in found[-1].items())
            print(f'  {(now - began) / 60:5.1f} min: {line}', flush=True)
            looked = now
        time.sleep(min(RESTARTS, seconds / 10))
        daemon.run('graceful')
        restarts += 1
    return [*found, figures(pid)], restarts


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--minutes', type=float, default=60, help='default 60')
    chosen = parser.parse_args()
    if not Path('/proc/self/task').exists():
        print('/proc has no self/task: nothing is measured')
        return
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / 'site.ini').write_text(INI)
        (folder / 'page.py').write_text(PAGE)
        daemon = recycling.Daemon(folder)
        said = daemon.run('start', f'--log-file={folder / "log"}')
        client = Client(int(said.split('Serving on ')[1].split()[0].rpartition(':')[2]))
        try:
            client.start()
            found, restarts = soak(daemon, chosen.minutes * 60)
        finally:
            client.is_over.set()
            client.join()
            daemon.run('stop')
    print(
        f'{chosen.minutes:g} minutes, {restarts} graceful restarts, '
        f'{client.answered} requests answered'
    )
    rounds.judge('requests that failed', len(client.failed), at_most=0)
    early = found[int(len(found) * WARM)]
    for figure, at_most in FIGURES.items():
        more = found[-1][figure] - early[figure]
        rounds.judge(f'{figure} more than before', more, at_most=at_most)


if __name__ == '__main__':
    main()
