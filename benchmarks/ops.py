"""Measures how long probes of the ops listener take while a site is idle, and while it is not."""

from __future__ import annotations

import argparse
import contextlib
import mmap
import os
import signal
import socket
import statistics
import struct
import sys
import tempfile
import time
from pathlib import Path

import rounds
from busy import LONG

from paste_wspbus.control.client import ask

WORKERS, THREADS = 3, 4

#: What the threads do.
KINDS = 'sleeping', 'computing'

#: Probes for each second.
RATE = 200

INI = """
[wspbus:main]
workers = {workers}
plugins = checks
stop_timeout = {stop}
soak = 0
ops = 127.0.0.1:{ops}

[plugin:checks]
use = call:ops:checks

[app:main]
use = call:busy:make_{kind}

[server:main]
use = egg:waitress
host = 127.0.0.1
port = {port}
threads = {threads}
"""

#: Runs wspserve, and writes to a file how long its loop was busy at once for the listener.
PROGRAM = """
import sys
import ops
ops.time_the_loop(sys.argv.pop(1))
from paste_wspbus.__main__ import main
sys.exit(main())
"""

#: Seconds that an old worker has to stop, more than the measurement takes: so the graceful
#: restart is in progress all the time.
MORE = 3

#: By how many times the slowest 1 of 100 probes may take longer; and milliseconds.
TIMES, LATE = 3, 50


# -- the site --------------------------------------------------------------------------


def checks(bus, global_conf):
    """Two health checks, of which one hangs."""
    bus.health('works')(lambda: None)
    bus.health('hangs', group='health')(lambda: time.sleep(LONG))


def time_the_loop(path):
    """Write the longest time of one call for the listener, in seconds, to a file."""
    from paste_wspbus.workers.inquiries import Inquiries
    from paste_wspbus.workers.ops_feed import OpsFeed

    with open(path, 'r+b') as file:
        longest = mmap.mmap(file.fileno(), 8)
    for kind, name in (
        (OpsFeed, 'look'),
        (OpsFeed, '_is_asked'),
        (Inquiries, '_end'),  # it makes the answer, when all workers have reported
    ):
        call = getattr(kind, name)

        def timed(self, *args, call=call):
            began = time.perf_counter()
            try:
                return call(self, *args)
            finally:
                took = time.perf_counter() - began
                if took > struct.unpack('d', longest[:])[0]:
                    longest[:] = struct.pack('d', took)

        setattr(kind, name, timed)


# -- the probes ------------------------------------------------------------------------


def probe(port, path):
    """Return the milliseconds that a probe takes, and its status."""
    began = time.perf_counter()
    with socket.create_connection(('127.0.0.1', port), 10) as client:
        client.sendall(f'GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n'.encode())
        answer = b''
        while came := client.recv(65536):
            answer += came
    return (time.perf_counter() - began) * 1000, int(answer.split()[1])


def probes(ports, seconds):
    """Probe several listeners in turn.

    :returns: for each port {path: milliseconds of each probe}, and the statuses of /ready.
    """
    took = {port: {'/ready': [], '/health': []} for port in ports}
    statuses = set()
    began = time.monotonic()
    for number in range(int(seconds * RATE)):
        path = '/ready' if number % 2 else '/health'
        time.sleep(max(began + number / RATE - time.monotonic(), 0))
        for port in ports:
            milliseconds, status = probe(port, path)
            took[port][path].append(milliseconds)
            if path == '/ready':
                statuses.add(status)
    return took, statuses


def slowest(samples):
    """Return what 99 of 100 samples are below."""
    return statistics.quantiles(samples, n=100, method='inclusive')[-1]


def wait_for(condition):
    until = time.monotonic() + rounds.PATIENCE
    while not condition():
        if time.monotonic() > until:
            raise rounds.Unavailable('the site does not come to what is measured')
        time.sleep(0.05)


def keep_busy(port, pid_file, stack):
    """Give each thread of the site a request."""
    for _ in range(WORKERS * THREADS):
        client = stack.enter_context(socket.create_connection(('127.0.0.1', port), 10))
        client.sendall(b'GET /busy HTTP/1.1\r\nHost: here\r\n\r\n')
    wait_for(lambda: status_of(pid_file).get('in_flight') == WORKERS * THREADS)


def status_of(pid_file):
    return ask(f'{pid_file}.sock', 'status', timeout=10)


@contextlib.contextmanager
def served(kind, folder, stop):
    """Run a site; yield its process, its ports, its PID file and the file of its loop's time."""
    folder.mkdir()
    port, ops = rounds.free_port(), rounds.free_port()
    pid_file, longest = str(folder / 'site.pid'), folder / 'longest'
    longest.write_bytes(bytes(8))
    (folder / 'site.ini').write_text(
        INI.format(
            kind=kind, port=port, ops=ops, workers=WORKERS, threads=THREADS, stop=stop
        )
    )
    arguments = [sys.executable, '-c', PROGRAM, str(longest), str(folder / 'site.ini')]
    with rounds.child([*arguments, f'--pid-file={pid_file}']) as site:
        rounds.wait_for_response(port, site)
        wait_for(lambda: status_of(pid_file).get('serving') == WORKERS)
        yield site, port, ops, pid_file, longest


def measure(kind, seconds, folder):
    """Run two sites, one of which has nothing to do.

    :returns: the samples of the site without work, of the other one before it has work, and
        while it has; and the longest time of its loop, in milliseconds.
    """
    stop = seconds + MORE
    with (
        served('sleeping', folder / 'idle', stop) as (_, _, idle, *_),
        served(kind, folder / 'busy', stop) as (site, port, ops, pid_file, longest),
        contextlib.ExitStack() as stack,
    ):
        probes([idle, ops], 0.5)  # it warms up
        before, ready = probes([idle, ops], seconds)
        keep_busy(port, pid_file, stack)
        hung = status_of(pid_file)['workers'][WORKERS - 1]['pid']
        os.kill(hung, signal.SIGSTOP)
        stack.callback(resume, hung)
        os.kill(site.pid, signal.SIGHUP)
        then, ready_then = probes([idle, ops], seconds)
        resume(hung)
        site.send_signal(signal.SIGTERM)
        if ready | ready_then != {200}:
            raise rounds.Unavailable(f'/ready has answered {ready | ready_then}')
        milliseconds = struct.unpack('d', longest.read_bytes())[0] * 1000
        return then[idle], before[ops], then[ops], milliseconds


def resume(pid):
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGCONT)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--seconds', type=float, default=5, help='default 5')
    parser.add_argument('kinds', nargs='*', help=f'default {" ".join(KINDS)}')
    options = parser.parse_args()
    seconds = options.seconds
    print(
        f'{RATE} probes a second of each of two sites; {WORKERS} workers, {THREADS} threads'
    )
    print(
        '  milliseconds                                           median      99 of 100'
    )
    for kind in options.kinds or KINDS:
        what = f'threads {kind}, one worker stopped, a graceful restart'
        try:
            with tempfile.TemporaryDirectory() as name:
                *samples, longest = measure(kind, seconds, Path(name))
        except rounds.Unavailable as why:
            print(f'  {what}: left out: {why}')
            continue
        labels = 'site without work', '[before it has work]', f'all threads {kind}'
        ratios = {}
        for path in ('/ready', '/health'):
            for label, of_site in zip(labels, samples, strict=True):
                middle, most = statistics.median(of_site[path]), slowest(of_site[path])
                print(f'  {path:<9} {label:<40} {middle:>10.3f} {most:>14.3f}')
            ratios[path] = slowest(samples[2][path]) / slowest(samples[0][path])
        for path, ratio in ratios.items():
            rounds.judge(f'times as long for {path}, {what}', ratio, at_most=TIMES)
        rounds.judge(f'milliseconds of the loop at once, {what}', longest, at_most=LATE)


if __name__ == '__main__':
    main()
