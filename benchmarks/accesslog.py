"""What the access log costs: requests a second, processor time and instructions of each request."""

from __future__ import annotations

import re
import shutil
import subprocess
import tempfile
from pathlib import Path

import rounds
import throughput

#: {what: the least ratio of requests a second to the same site without an access log}.
LEAST = {'combined': 0.97, 'json': 0.95}

#: Connections, as many as waitress has threads in all processes.
CONNECTIONS = {0: 4, 2: 8}

INI = """
[app:main]
use = call:small_site:make_app

[server:main]
use = egg:waitress
host = 127.0.0.1
port = %(http_port)s
threads = 4

[wspbus:main]
workers = {workers}
{plugins}

[plugin:accesslog]
use = egg:paste_wspbus#accesslog
file = access.log
format = {format}
"""


def instructions(pids):
    """Start to count the instructions of processes; return the function that ends it."""
    if shutil.which('perf') is None:
        return lambda: None
    command = [
        'perf',
        'stat',
        '-x,',
        '-e',
        'instructions:u',
        '-p',
        ','.join(map(str, pids)),
    ]
    counter = subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )

    def end():
        counter.send_signal(2)
        said = counter.communicate(timeout=rounds.PATIENCE)[1]
        found = re.search(r'^(\d+),', said, re.M)
        return int(found[1]) if found else None

    return end


def processes(pid):
    """The process and its children."""
    children = Path(f'/proc/{pid}/task/{pid}/children').read_text().split()
    return [pid, *map(int, children)]


def contender(folder, name, workers, seconds, times, counts):
    """Return a function that measures one site."""
    ini = folder / f'{name}{workers}.ini'
    plugins = '' if name == 'without' else 'plugins = accesslog'
    form = 'combined' if name == 'without' else name
    ini.write_text(INI.format(workers=workers, plugins=plugins, format=form))
    connections = CONNECTIONS[workers]

    def measure():
        port = rounds.free_port()
        command = [rounds.command('wspserve'), str(ini), f'http_port={port}']
        with rounds.child(command) as server:
            rounds.wait_for_response(port, server)
            throughput.wrk(port, connections, False, 1)
            pids = processes(server.pid)
            before = sum(map(throughput.processor_time, pids))
            end = instructions(pids)
            count, rate = throughput.wrk(port, connections, False, seconds)
            counted = end()
            used = sum(map(throughput.processor_time, pids)) - before
            times.append(used / count * 1e6)
            counts.append(counted / count / 1000 if counted else 0)
        (folder / 'access.log').unlink(missing_ok=True)
        return rate

    return measure


def compare(folder, workers, options):
    """Measure the site with no access log, with one, and with one in JSON."""
    names = ['without', *LEAST]
    times, counts = {n: [] for n in names}, {n: [] for n in names}
    rates = rounds.alternate(
        {
            name: contender(
                folder, name, workers, options.seconds, times[name], counts[name]
            )
            for name in names
        },
        options.rounds,
    )
    what = f'{workers} workers' if workers else 'one process'
    for samples in (times, counts):
        for name in names:
            samples[name] = samples[name][1:]  # the first round warms up
    turned = ('÷ without', lambda ours, peer: peer / ours)
    ratio = rounds.table(f'requests a second, {what}', '1/s', rates, 'without', turned)
    rounds.table(f'processor time of a request, {what}', 'µs', times, 'without', turned)
    if all(map(all, counts.values())):
        title = f'instructions of a request in user mode, {what}'
        rounds.table(title, '1,000', counts, 'without', turned)
    for name, least in LEAST.items():
        judged = f'requests a second with {name} ÷ without, {what}'
        rounds.judge(judged, ratio.get(name), at_least=least)


def main():
    options = rounds.options(__doc__, seconds=3)
    if shutil.which('wrk') is None:
        print('wrk is not installed: nothing is measured')
        return
    with tempfile.TemporaryDirectory() as name:
        for workers in CONNECTIONS:
            compare(Path(name), workers, options)


if __name__ == '__main__':
    main()
