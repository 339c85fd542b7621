"""Measures how time grows with listeners, connections, sections, workers and modules."""

from __future__ import annotations

import argparse
import contextlib
import http.client
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import rounds

SIZES = {
    'listeners': (10, 100, 1_000, 10_000),
    'connections': (10, 100, 1_000, 10_000),
    'sections': (10, 100, 1_000),
    'workers': (1, 2, 4, 8, 16),
    'modules': (100, 1_000, 10_000),
}

#: Times as long as n log n may take, between two sizes: small sizes are mostly noise.
MARGIN = 2.0

#: Steps that are no times of the whole, and so must not grow: the unit, and the limit.
FLAT = {
    'memory of each': ('kB', 16.0),
    'memory of each, 2 workers': ('kB', 24.0),
    'CPU of a second': ('s', 0.05),
    'CPU of a second, 2 workers': ('s', 0.05),
}

#: Seconds until a site that had thousands of new connections does nothing any more.
SETTLES = 3.0

#: Clients that keep connections open, in a process of their own: its descriptors are not
#: those of the site.
CLIENTS = """
import socket, sys
port, count = map(int, sys.argv[1:])
opened = []
for _ in range(count):
    client = socket.create_connection(('127.0.0.1', port), 30)
    client.sendall(b'GET / HTTP/1.1\\r\\nHost: a\\r\\n\\r\\n')
    answer = b''
    while not answer.endswith(b'served'):
        answer += client.recv(4096) or sys.exit('closed')
    opened.append(client)
print('opened', flush=True)
sys.stdin.read()
"""

INI = """
[server:main]
use = egg:waitress
host = 127.0.0.1
port = {port}
connection_limit = 20000

[wspbus:main]
workers = {workers}
soak = 0

[{kind}:main]
use = call:growth_site:make
"""

SITE = """
import pages

def app(environ, start_response):
    start_response('200 OK', [('Content-Length', str(len(pages.BODY)))])
    return [pages.BODY]

def make(loader, global_conf=None, apps=''):
    for name in apps.split():
        loader.get_app(name)
    return app

def make_part(global_conf):
    return app
"""


# -- listeners -------------------------------------------------------------------


def cpu_seconds(step):
    """Return the seconds of CPU: with 10,000 listeners, other processes run in between."""
    begun = time.process_time()
    step()
    return time.process_time() - begun


def listeners(count):
    """Yield each step of a bus with so many listeners, and its seconds."""
    from paste_wspbus.bus import Bus

    bus = Bus()
    functions = [lambda: None for _ in range(count)]
    contexts = [contextlib.nullcontext() for _ in range(count)]
    steps = {
        'subscribe': lambda: [bus.subscribe('measured', one) for one in functions],
        'publish once': lambda: bus.publish('measured'),
        'unsubscribe': lambda: [bus.unsubscribe('measured', one) for one in functions],
        'enter': lambda: [bus.enter(context) for context in contexts],
        'start': bus.start,
        'stop': bus.stop,
    }
    for step, function in steps.items():
        yield step, cpu_seconds(function)
    bus.exit()


# -- sites -----------------------------------------------------------------------


@contextlib.contextmanager
def site(*options, workers=0, kind='app', more='', modules=0):
    """Serve a site; yield its process, its port, its folder, and the seconds of its start."""
    with tempfile.TemporaryDirectory() as folder:
        path, port = Path(folder), rounds.free_port()
        pages = path / 'pages'
        pages.mkdir()
        imports = ''.join(f'from pages import m{n}\n' for n in range(modules))
        (pages / '__init__.py').write_text(f"BODY = b'served'\n{imports}")
        for number in range(modules):
            (pages / f'm{number}.py').write_text(f'NUMBER = {number}\n')
        (path / 'growth_site.py').write_text(SITE)
        ini = INI.format(port=port, workers=workers, kind=kind) + more
        (path / 'site.ini').write_text(ini)
        # The first start compiles the modules; that is not what is measured.
        subprocess.run([sys.executable, '-m', 'compileall', '-q', folder], check=True)
        command = [rounds.command('wspserve'), str(path / 'site.ini'), *options]
        begun = time.perf_counter()
        with rounds.child(command) as process:
            rounds.wait_for_response(port, process)
            yield process, port, path, time.perf_counter() - begun


def seconds_to_end(process):
    """Send SIGTERM; return the seconds until the process has ended with 0."""
    begun = time.perf_counter()
    process.terminate()
    rounds.wait_for_end(process)
    taken = time.perf_counter() - begun
    if process.returncode:
        raise rounds.Unavailable(f'it exited with {process.returncode}')
    return taken


def get(connection):
    """Return the body of a response over a connection that stays open."""
    connection.request('GET', '/')
    return connection.getresponse().read()


def connections(count):
    """Yield what so many idle connections cost one process and two workers: memory, CPU, a stop."""
    for workers, of in ((0, ''), (2, ', 2 workers')):
        with site(workers=workers) as (process, port, _, _):
            pids = processes(process.pid)
            before = private_memory(pids)
            command = [sys.executable, '-c', CLIENTS, str(port), str(count)]
            pipes = {'stdin': subprocess.PIPE, 'stdout': subprocess.PIPE}
            with rounds.child(command, **pipes) as clients:
                if clients.stdout.readline() != b'opened\n':
                    raise rounds.Unavailable(f'{count} connections cannot be opened')
                time.sleep(min(SETTLES, count / 300))
                taken = (private_memory(pids) - before) / count
                yield f'memory of each{of}', taken
                begun = sum(map(cpu_of, pids))
                time.sleep(1)
                yield f'CPU of a second{of}', sum(map(cpu_of, pids)) - begun
                yield f'stop{of}', seconds_to_end(process)


def processes(pid):
    """Return the ID of a process, and those of its children, and so on."""
    children = Path(f'/proc/{pid}/task/{pid}/children').read_text().split()
    return [pid, *(one for child in children for one in processes(int(child)))]


def private_memory(pids):
    """Return the kB that these processes share with nobody."""
    lines = (
        line
        for pid in pids
        for line in Path(f'/proc/{pid}/smaps_rollup').read_text().splitlines()
    )
    return sum(int(line.split()[1]) for line in lines if line.startswith('Private_'))


def cpu_of(pid):
    """Return the seconds of CPU that a process has taken."""
    fields = Path(f'/proc/{pid}/stat').read_text().rpartition(')')[2].split()
    return sum(map(int, fields[11:13])) / os.sysconf('SC_CLK_TCK')


def sections(count):
    """Yield the seconds of ``--check`` and of a start with so many applications."""
    names = [f'part{number}' for number in range(count)]
    more = f'apps = {" ".join(names)}\n'
    more += ''.join(
        f'[app:{name}]\nuse = call:growth_site:make_part\n' for name in names
    )
    with site(kind='composite', more=more) as (_, _, path, taken):
        yield 'start', taken
        begun = time.perf_counter()
        command = [rounds.command('wspserve'), str(path / 'site.ini'), '--check']
        subprocess.run(command, check=True, capture_output=True)
        yield '--check', time.perf_counter() - begun


def cpu_of_group(pid):
    """Return the seconds of CPU of a process and of its children that have ended."""
    fields = Path(f'/proc/{pid}/stat').read_text().rpartition(')')[2].split()
    return sum(map(int, fields[11:15])) / os.sysconf('SC_CLK_TCK')


def workers(count):
    """Yield the seconds of CPU of a start and a graceful restart of so many workers."""
    with site('--pid-file', 'growth.pid', workers=count) as (process, _, path, _):
        command = [rounds.command('wspserve'), str(path / 'site.ini'), 'graceful']
        command += ['--pid-file', 'growth.pid']
        begun = time.perf_counter()
        subprocess.run(command, check=True, capture_output=True, timeout=120)
        yield 'graceful', time.perf_counter() - begun
        yield 'stop', seconds_to_end(process)


def modules(count):
    """Yield the seconds of a start with ``--reload``, and of two edits, with so many modules."""
    with site('--reload', modules=count) as (_, port, path, taken):
        yield 'start', taken
        for step in 'first edit', 'second edit':
            begun = time.perf_counter()
            body = step.encode()
            page = path / 'pages' / '__init__.py'
            text = page.read_text().splitlines(keepends=True)[1:]
            page.write_text(f'BODY = {body!r}\n{"".join(text)}')
            while True:
                connection = http.client.HTTPConnection('127.0.0.1', port, timeout=60)
                with contextlib.suppress(OSError, http.client.HTTPException):
                    if get(connection) == body:
                        break
                connection.close()
                if time.perf_counter() - begun > 2 * rounds.PATIENCE:
                    raise rounds.Unavailable('the edit was never served')
            yield step, time.perf_counter() - begun


# -- tables ------------------------------------------------------------------------


def compare(what, measure, options):
    """Print a table for each step, and how much longer the largest size takes."""
    sizes = [size for size in SIZES[what] if size <= options.most]
    samples = {}
    for number in range(options.rounds + 1):
        for size in sizes:
            for step, taken in measure(size):
                if number:  # the first round warms up
                    samples.setdefault(step, {}).setdefault(size, []).append(taken)
    for step, of_sizes in samples.items():
        named = {f'{size:,} {what}': values for size, values in of_sizes.items()}
        first, before = next(iter(named)), list(named)[-2]
        if step in FLAT:
            unit, limit = FLAT[step]
            rounds.table(f'{what}: {step}', unit, named, first, rounds.DIFFERENCE)
            value = rounds.median(named, list(named)[-1])
            rounds.judge(f'{list(named)[-1]}: {step}, {unit}', value, at_most=limit)
            continue
        rounds.table(f'{what}: {step}', 's', named, first, rounds.TIMES_AS_FAST)
        rounds.judge(
            f'{list(named)[-1]}: times as long as {before}',
            rounds.median(named, list(named)[-1]) / rounds.median(named, before),
            at_most=MARGIN * steeper(*list(of_sizes)[-2:]),
        )


def steeper(few, many):
    """Return how many times n log n is as much for many as for few."""
    return many / few * max((many - 1).bit_length() / max((few - 1).bit_length(), 1), 1)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        'what', nargs='*', help=f'any of {", ".join(SIZES)}; default: all'
    )
    parser.add_argument('--rounds', type=int, default=3, help='default 3')
    parser.add_argument('--most', type=int, default=10_000, help='the largest size')
    options = parser.parse_args()
    options.rounds = max(2, options.rounds)  # percentiles need two
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # end the children, too
    measures = {
        'listeners': listeners,
        'connections': connections,
        'sections': sections,
        'workers': workers,
        'modules': modules,
    }
    for what in options.what or SIZES:
        try:
            compare(what, measures[what], options)
        except rounds.Unavailable as why:
            print(f'{what} are left out: {why}')


if __name__ == '__main__':
    main()
