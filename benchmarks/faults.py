"""Measures what a hung worker and a crash loop cost: two workers of each server, under load."""

from __future__ import annotations

import argparse
import contextlib
import re
import socket
import time
from pathlib import Path

import restart_servers
import rounds
from restart_load import Load

#: Seconds without an answer after which each server is to give a worker up.
HUNG_AFTER = 2

#: Seconds that are measured after the hang: a worker starts in one of them.
HUNG_FOR = 12

#: The regular expression takes longer than anybody waits, and does not release the GIL.
SITE = """
import os, re, threading, time

HERE = os.path.dirname(__file__)
with open(os.path.join(HERE, 'starts'), 'a') as starts:
    starts.write('%d\\n' % os.getpid())

def crash():
    while not os.path.exists(os.path.join(HERE, 'crash')):
        time.sleep(0.05)
    time.sleep(0.3)
    os._exit(1)

threading.Thread(target=crash, daemon=True).start()

def app(environ, start_response):
    if environ['PATH_INFO'] == '/hang':
        re.match('(a+)+$', 'a' * 60 + 'b')
    body = b'1 %d\\n' % os.getpid()
    start_response('200 OK', [('Content-Length', str(len(body)))])
    return [body]

def make_app(global_conf):
    return app
"""


class Wspserve(restart_servers.Wspserve):
    """wspserve, which asks its workers whether they are there."""

    def command(self, site):
        command = super().command(site)
        with open(command[1], 'a') as ini:
            ini.write(f'hung_after = {HUNG_AFTER}\n')
        return command


class Gunicorn(restart_servers.Gunicorn):
    """gunicorn, whose workers must give signs of life."""

    def command(self, site):
        command = super().command(site)
        return [*command[:-1], f'--timeout={HUNG_AFTER}', command[-1]]


class UWSGI(restart_servers.UWSGI):
    """uWSGI with a time limit for requests: it knows no other sign of a hang."""

    def command(self, site):
        return [*super().command(site), f'--harakiri={HUNG_AFTER}']


SERVERS = [
    Wspserve('waitress'),
    Wspserve('cheroot'),
    Gunicorn('sync'),
    Gunicorn('gthread'),
    UWSGI(chain=False),
    restart_servers.Granian(),  # it looks for no worker that hangs
]


def hang(port):
    """Send the request that hangs; return its connection."""
    connection = socket.create_connection(('127.0.0.1', port), rounds.PATIENCE)
    connection.sendall(b'GET /hang HTTP/1.1\r\nHost: localhost\r\n\r\n')
    return connection


def hung(server):
    """Hang one of two workers under load.

    :returns: the seconds until a new worker was there (None: none was), the result of the
        other clients, and whether the log has the line of the code that hangs.
    """
    with server.serves(SITE, 2) as running, Load(running.site.port) as load:
        before, begun, after = running.workers(), time.monotonic(), None
        with contextlib.closing(hang(running.site.port)):
            while time.monotonic() < begun + HUNG_FOR:
                here = running.workers()
                if after is None and here - before:
                    after = time.monotonic() - begun
                time.sleep(0.02)
        line = SITE[: SITE.index('re.match(')].count('\n') + 1
        names_line = re.search(f'deployed.py"?,? line {line}', running.log) is not None
        return after, load.end(), names_line


def measure_hung(options):
    print(f'\nOne of 2 workers holds the GIL for ever, under load, {HUNG_FOR} s')
    heads = ('lost', 'timeout', 'successor', 'max ms')
    print(
        f'  {"":<22}{"".join(f"{head:>11}" for head in heads)}  the log names the line'
    )
    lost, took = {}, {}
    for server in options.servers:
        try:
            after, result, names_line = hung(server)
        except rounds.Unavailable as why:
            print(f'{server.name} is left out: {why}')
            continue
        name = server.name
        lost[name], took[name] = result.failed(), after
        cells = [result.failed(), result.failed('timeout')]
        cells += ['never' if after is None else f'{after:.2f} s']
        cells += [f'{max(result.latencies, default=0) * 1000:.3g}']
        line = ''.join(f'{cell:>11}' for cell in cells)
        print(f'  {name:<22}{line}  {"yes" if names_line else "no"}')
    for name, after in took.items():
        if name.startswith('wspserve'):
            rounds.judge(
                f'seconds until a hung worker has a successor, {name}',
                HUNG_FOR * 10 if after is None else after,
                at_most=HUNG_AFTER + 1,
            )


def crash_loop(server, seconds, workers):
    """Let each worker crash 0.3 s after its start; return the numbers of starts.

    First those of the workers that serve before the loop, then those in the loop.
    """
    with server.serves(SITE, workers) as running:
        folder = Path(running.site.folder)
        before = len((folder / 'starts').read_text().splitlines())
        (folder / 'crash').touch()
        until = time.monotonic() + seconds
        while time.monotonic() < until and running.process.poll() is None:
            time.sleep(0.1)
        ended = '' if running.process.poll() is None else ', and it has ended'
        count = len((folder / 'starts').read_text().splitlines()) - before
        return before, count, ended


def measure_crashes(options):
    what = f'Each of {options.workers} workers crashes 0.3 s after its start'
    print(f'\n{what}, {options.seconds:g} s')
    for server in options.servers:
        try:
            before, count, ended = crash_loop(server, options.seconds, options.workers)
        except rounds.Unavailable as why:
            print(f'{server.name} is left out: {why}')
            continue
        print(f'  {server.name:<22}{count:>8} starts, after {before} first ones{ended}')
        if server.name.startswith('wspserve'):
            rounds.judge(f'starts in the loop, {server.name}', count, at_most=12)


FIGURES = {'hung': measure_hung, 'crashes': measure_crashes}


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('what', nargs='*', help='hung, crashes; default: both')
    parser.add_argument('--seconds', type=float, default=60, help='of the crash loop')
    parser.add_argument(
        '--servers', default='', help='names, or parts of them, by commas'
    )
    parser.add_argument('--workers', type=int, default=2, help='of the crash loop')
    options = parser.parse_args()
    names = [name.strip() for name in options.servers.split(',')]
    options.servers = [
        one for one in SERVERS if any(one.name.startswith(name) for name in names)
    ]
    for what in options.what or FIGURES:
        FIGURES[what](options)


if __name__ == '__main__':
    main()
