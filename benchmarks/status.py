"""Measures how long `status` takes while all threads are busy, or a worker is stopped."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import tempfile
import time
from pathlib import Path

import rounds

from paste_wspbus.control.client import ask
from paste_wspbus.unix.processes import is_stopped

OURS = 'the answer'

#: The number of threads of the server; each has a request.
THREADS = 4


INI = """
[app:main]
use = call:busy:make_{kind}

[server:main]
use = egg:waitress
host = 127.0.0.1
port = {port}
threads = {threads}

[wspbus:main]
stop_timeout = 2
"""

TARGET = 50  # milliseconds


@contextlib.contextmanager
def busy_site(folder, kind, workers):
    """Run a site whose threads all have a request; yield the path of its PID file."""
    port, pid_file = rounds.free_port(), str(folder / 'site.pid')
    text = INI.format(kind=kind, port=port, threads=THREADS)
    (folder / 'site.ini').write_text(text)
    args = [str(folder / 'site.ini'), f'--pid-file={pid_file}']
    args += [f'--workers={workers}'] if workers else []
    count = THREADS * max(1, workers)
    with (
        rounds.child([rounds.command('wspserve'), *args]) as site,
        contextlib.ExitStack() as stack,
    ):
        rounds.wait_for_response(port, site)
        for _ in range(count):
            client = socket.create_connection(('127.0.0.1', port), 10)
            stack.enter_context(client)
            client.sendall(b'GET /busy HTTP/1.1\r\nHost: here\r\n\r\n')
        wait_until_busy(pid_file, count)
        yield pid_file


def wait_until_busy(pid_file, count):
    """Wait until the site reports this number of requests, but 10 seconds at most."""
    until = time.monotonic() + 10
    while requests_of(pid_file) < count and time.monotonic() < until:
        time.sleep(0.1)


def requests_of(pid_file):
    answer = ask(f'{pid_file}.sock', 'status', timeout=10)
    own = answer.get('requests') or answer.get('requests_in_flight') or []
    workers = answer.get('workers') or []
    return len(own) + sum(len(one.get('requests') or []) for one in workers)


def measure(options, kind, workers):
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        with busy_site(folder, kind, workers) as pid_file:
            command = [rounds.command('wspserve'), str(folder / 'site.ini'), 'status']

            def answer():
                began = time.perf_counter()
                ask(f'{pid_file}.sock', 'status', timeout=10)
                return (time.perf_counter() - began) * 1000

            def whole():
                began = time.perf_counter()
                with rounds.child([*command, f'--pid-file={pid_file}']) as process:
                    rounds.wait_for_end(process)
                return (time.perf_counter() - began) * 1000

            busy = requests_of(pid_file)
            contenders = {OURS: answer, '(the whole command)': whole}
            samples = rounds.alternate(contenders, options.rounds)
    how = f'{workers} workers' if workers else 'one process'
    title = f'status of {how}, {busy} threads {kind}'
    rounds.table(title, 'ms', samples, OURS)
    rounds.judge('milliseconds', rounds.median(samples, OURS), at_most=TARGET)


def measure_stopped(options):
    """Measure a site of two workers, of which a signal has stopped one."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        with busy_site(folder, 'sleeping', 2) as pid_file:
            path = f'{pid_file}.sock'
            stopped = ask(path, 'status', timeout=10)['workers'][0]['pid']
            os.kill(stopped, signal.SIGSTOP)
            while not is_stopped(stopped):
                time.sleep(0.01)

            def answer():
                began = time.perf_counter()
                told = ask(path, 'status', timeout=10)
                took = (time.perf_counter() - began) * 1000
                if not told['workers'][0]['is_stopped']:
                    raise SystemExit('the answer does not say that it is stopped')
                return took

            try:
                samples = rounds.alternate({OURS: answer}, options.rounds)
            finally:
                os.kill(stopped, signal.SIGCONT)
    title = 'status of 2 workers, one of them stopped by SIGSTOP'
    rounds.table(title, 'ms', samples, OURS)
    rounds.judge('milliseconds', rounds.median(samples, OURS), at_most=TARGET)


def main() -> None:
    options = rounds.options(__doc__.partition('\n')[0])
    for kind in ('sleeping', 'computing'):
        for workers in (0, 2):
            measure(options, kind, workers)
    measure_stopped(options)


if __name__ == '__main__':
    main()
