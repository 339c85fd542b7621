"""Requests a second through wspserve and each server alone; the processor time and switches of each."""

from __future__ import annotations

import argparse
import functools
import os
import re
import shutil
import subprocess
from pathlib import Path

import rounds

#: {what: the connections, whether each has one request, the least ratio to waitress-serve}.
#: cheroot and Paste#http must be no slower than alone.
CASES = {
    '1 connection': (1, False, 1.0),
    '4 connections': (4, False, 1.5),  # as many as waitress has threads
    '16 connections': (16, False, 1.7),
    'a connection for each request': (4, True, 1.1),
}

#: The cases of other servers. Paste#http speaks HTTP/1.0: each request has a connection.
OTHERS = {
    'cheroot': ('1 connection', '4 connections', 'a connection for each request'),
    'paste': ('a connection for each request',),
}

#: The tables: waitress by the number of connections; cheroot and Paste#http; all peers.
WHAT = ('waitress', 'others', 'peers')

#: The most processor time of a request over kept-alive connections, as a part of waitress-serve's.
MOST_CPU = 0.65


def wrk(port, connections, closes, seconds):
    """Run wrk; return how many requests were answered, and how many a second."""
    words = ['wrk', '-t1', f'-c{connections}', f'-d{seconds:.0f}s']
    words += ['-H', 'Connection: close'] if closes else []
    done = subprocess.run(
        [*words, f'http://127.0.0.1:{port}/'],
        capture_output=True,
        text=True,
        timeout=seconds + rounds.PATIENCE,
    )
    rate = re.search(r'Requests/sec: *([\d.]+)', done.stdout)
    count = re.search(r'(\d+) requests in', done.stdout)
    if not (rate and count) or re.search('Non-2xx|Socket errors', done.stdout):
        said = re.search('(Non-2xx|Socket errors).*', done.stdout) or [
            'it has counted none'
        ]
        raise rounds.Unavailable(f'wrk: {done.stderr.strip() or said[0]}')
    return int(count[1]), float(rate[1])


def family(pid):
    """The process, and all that it has started."""
    tasks = Path(f'/proc/{pid}/task').glob('*/children')
    children = [child for task in tasks for child in task.read_text().split()]
    return [pid, *(one for child in children for one in family(child))]


def processor_time(pid):
    """The processor time that a process and its children have had, in seconds."""
    ticks = 0
    for one in family(pid):
        fields = Path(f'/proc/{one}/stat').read_text().rpartition(')')[2].split()
        ticks += int(fields[11]) + int(fields[12])
    return ticks / os.sysconf('SC_CLK_TCK')


def switches(pid):
    """How often the threads of a process and of its children have gone to sleep so far."""
    return sum(
        int(re.search(r'^voluntary_ctxt_switches:\s*(\d+)', task.read_text(), re.M)[1])
        for one in family(pid)
        for task in Path(f'/proc/{one}/task').glob('*/status')
    )


def requests_a_second(serve, case, seconds, times, sleeps):
    """Return a function that measures one server.

    It adds a request's microseconds to ``times``, and its voluntary switches to ``sleeps``.
    """
    connections, closes, _ = CASES[case]

    def measure():
        port = rounds.free_port()
        with rounds.child(serve(port)) as server:
            rounds.wait_for_response(port, server)
            # The first requests import and allocate more than later ones.
            wrk(port, connections, closes, 1)
            before, slept = processor_time(server.pid), switches(server.pid)
            count, rate = wrk(port, connections, closes, seconds)
            times.append((processor_time(server.pid) - before) / count * 1e6)
            sleeps.append((switches(server.pid) - slept) / count)
            return rate

    return measure


def compare_all(options):
    """Print how wspserve and all peers do: each with four threads, or as many as it takes."""
    servers = {
        'wspserve': rounds.wspserve,
        'waitress-serve': rounds.waitress_serve,
        'pserve': rounds.pserve,
        'paster serve': rounds.paster_serve,
        'gunicorn, sync': rounds.gunicorn_sync,
        'gunicorn, gthread': rounds.gunicorn_threads,
        'uWSGI': rounds.uwsgi_threads,
        'granian': rounds.granian,
        'CherryPy (cheroot)': functools.partial(rounds.alone, server='cheroot'),
        'uvicorn (a2wsgi)': rounds.uvicorn,
    }
    times, sleeps = ({name: [] for name in servers} for _ in range(2))
    case = '4 connections'
    measures = {
        name: requests_a_second(serve, case, options.seconds, times[name], sleeps[name])
        for name, serve in servers.items()
    }
    rates = rounds.alternate(measures, options.rounds)
    times = {name: values[1:] for name, values in times.items() if name in rates}
    rounds.table(f'requests a second, peers, {case}', '1/s', rates, 'wspserve')
    rounds.table(f'processor time of a request, peers, {case}', 'µs', times, 'wspserve')


def compare(case, options, server='waitress'):
    alone = 'waitress-serve' if server == 'waitress' else f'{server} alone'
    servers = {
        'wspserve': rounds.wspserve,
        alone: rounds.waitress_serve,
        '(gunicorn, gthread)': rounds.gunicorn_threads,
        '(uWSGI)': rounds.uwsgi_threads,
    }
    if server != 'waitress':
        servers = {
            'wspserve': functools.partial(rounds.wspserve, server=server),
            alone: functools.partial(rounds.alone, server=server),
        }
    times = {name: [] for name in servers}
    sleeps = {name: [] for name in servers}
    rates = rounds.alternate(
        {
            name: requests_a_second(
                serve, case, options.seconds, times[name], sleeps[name]
            )
            for name, serve in servers.items()
        },
        options.rounds,
    )
    what = f'{server}, {case}'
    # The first round warms up.
    times = {name: values[1:] for name, values in times.items() if name in rates}
    ratio = rounds.table(f'requests a second, {what}', '1/s', rates, 'wspserve')
    cpu = rounds.table(f'processor time of a request, {what}', 'µs', times, 'wspserve')
    sleeps = {name: values[1:] for name, values in sleeps.items() if name in rates}
    rounds.table(f'voluntary switches of a request, {what}', '', sleeps, 'wspserve')
    _, closes, least = CASES[case]
    rounds.judge(
        f'wspserve ÷ {alone}, {case}',
        ratio.get(alone),
        at_least=least if server == 'waitress' else 1.0,
    )
    if server == 'waitress' and not closes:
        rounds.judge(
            f'processor time of a request, {case}', cpu.get(alone), at_most=MOST_CPU
        )


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        'what', nargs='*', help=f'any of {", ".join(WHAT)}; default: all'
    )
    parser.add_argument('--rounds', type=int, default=15, help='default 15')
    parser.add_argument('--seconds', type=float, default=3, help='default 3')
    options = parser.parse_args()
    options.rounds = max(2, options.rounds)  # percentiles need two
    what = options.what or WHAT
    if shutil.which('wrk') is None:
        print('wrk is not installed: nothing is measured')
        return
    print(
        'Each round starts each server afresh, one at a time: the luck that a process '
        'has with its memory counts once, not in every round.'
    )
    if 'waitress' in what:
        for case in CASES:
            compare(case, options)
    if 'others' in what:
        for server, cases in OTHERS.items():
            for case in cases:
                compare(case, options, server)
    if 'peers' in what:
        compare_all(options)


if __name__ == '__main__':
    main()
