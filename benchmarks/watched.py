"""Counts what other clients lose while workers are replaced because of overdue requests."""

from __future__ import annotations

import argparse
import contextlib
import http.client
import os
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import rounds

SERVERS = {
    'waitress': 'egg:waitress',
    'cheroot': 'egg:paste_wspbus#cheroot',
    'paste': 'egg:Paste#http',
    'wsgiref': 'egg:paste_wspbus#wsgiref',
}

INI = """
[app:main]
use = call:watched_site:make

[server:main]
use = {use}
host = 127.0.0.1
port = {port}

[wspbus:main]
workers = {workers}
slow_request = off
{keys}
"""

#: What has the worker replaced; and, if the request holds the GIL, what has it killed.
DEADLINE = 'request_deadline = 60\n    /stuck 1'
HUNG = 'hung_after = 1'

SITE = """
import re
import threading

def app(environ, start_response):
    if environ['PATH_INFO'] == '/stuck':
        threading.Event().wait()
    if environ['PATH_INFO'] == '/gil':
        re.match('(a*)*b', 'a' * 100)
    start_response('200 OK', [('Content-Length', '2')])
    return [b'ok']

def make(global_conf):
    return app
"""


class Client(threading.Thread):
    """Sends requests until it is stopped, each on a new connection or on one that is kept."""

    def __init__(self, port: int, keeps: bool) -> None:
        super().__init__(daemon=True)
        self.port, self.keeps = port, keeps
        self.is_done = False
        self.answers, self.failures = 0, []

    def run(self) -> None:
        """Send requests; a kept connection that the server has closed is opened anew."""
        connection = self.connect()
        while not self.is_done:
            is_fresh = connection.sock is None
            try:
                connection.request('GET', '/')
                response = connection.getresponse()
                if (response.status, response.read()) != (200, b'ok'):
                    raise OSError(f'status {response.status}')
                self.answers += 1
                if not self.keeps:
                    connection.close()
            except (OSError, http.client.HTTPException) as error:
                connection.close()
                if is_fresh or not isinstance(error, ConnectionError):
                    self.failures.append(repr(error))
        connection.close()

    def connect(self) -> http.client.HTTPConnection:
        """Return a connection, which is not open yet."""
        return http.client.HTTPConnection('127.0.0.1', self.port, timeout=30)


def answer_to_stuck(port: int, path: str) -> str:
    """Send a request that never ends by itself; return the status, or 'closed'."""
    connection = http.client.HTTPConnection('127.0.0.1', port, timeout=60)
    with contextlib.closing(connection):
        try:
            connection.request('GET', path)
            return str(connection.getresponse().status)
        except (OSError, http.client.HTTPException):
            return 'closed'


def is_alive(pid: int) -> bool:
    """Whether a process runs."""
    return Path(f'/proc/{pid}').exists()


@contextlib.contextmanager
def site(use: str, workers: int, keys: str):
    """Start the site in a new folder; yield its port, its process and the path of its log."""
    port = rounds.free_port()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / 'site.ini').write_text(
            INI.format(use=use, port=port, workers=workers, keys=keys)
        )
        (folder / 'watched_site.py').write_text(SITE)
        log = folder / 'log'
        command = [sys.executable, '-m', 'paste_wspbus', 'site.ini']
        with open(log, 'wb') as output:
            process = subprocess.Popen(
                command,
                cwd=folder,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
        try:
            until = time.monotonic() + 60
            while b'Workers in' not in log.read_bytes():
                if process.poll() is not None or time.monotonic() > until:
                    sys.exit(log.read_text())
                time.sleep(0.01)
            yield port, process, log
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def measure(name: str, workers: int, clients: int, least: int, path: str) -> bool:
    """Have one worker replaced under load; return whether nobody lost anything."""
    keys = HUNG if path == '/gil' else DEADLINE
    with site(SERVERS[name], workers, keys) as (port, process, log):
        busy = [Client(port, keeps=bool(number % 2)) for number in range(clients)]
        for client in busy:
            client.start()
        begun = time.monotonic()
        status = answer_to_stuck(port, path)
        took = time.monotonic() - begun
        said = r'\(process (\d+)\)(?:: GET /stuck| hangs)'
        old = int(re.findall(said, log.read_text())[0])
        until = time.monotonic() + 60
        while is_alive(old) or sum(one.answers for one in busy) < least:
            if time.monotonic() > until:
                break
            time.sleep(0.05)
        for client in busy:
            client.is_done = True
        for client in busy:
            client.join(30)
        failures = [failure for client in busy for failure in client.failures]
        answers = sum(client.answers for client in busy)
        process.send_signal(signal.SIGTERM)
        process.wait(60)
    print(
        f'{name:10}{clients:>8}{answers:>10}{len(failures):>8}'
        f'{status:>10}{took:>8.2f} s   {"; ".join(failures[:3])}',
        flush=True,
    )
    return not failures and answers >= least


def main() -> None:
    """Measure each server."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('servers', nargs='*', help=', '.join(SERVERS))
    parser.add_argument('--clients', type=int, default=15)
    parser.add_argument('--workers', type=int, default=2)
    parser.add_argument('--requests', type=int, default=5_000, help='at least so many')
    parser.add_argument(
        '--gil',
        action='store_true',
        help='the request holds the GIL: it hangs the worker',
    )
    options = parser.parse_args()
    path = '/gil' if options.gil else '/stuck'
    print(
        f'{"server":10}{"clients":>8}{"answers":>10}{"failed":>8}{"overdue":>10}{"after":>10}'
    )
    fine = [
        measure(name, options.workers, options.clients, options.requests, path)
        for name in options.servers or SERVERS
    ]
    met = 'met' if all(fine) else 'missed'
    print(f'Target: 0 failed of {options.requests} or more with each server: {met}.')


if __name__ == '__main__':
    main()
