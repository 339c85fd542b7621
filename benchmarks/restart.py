"""Measures workers: restarts, broken deploys, kill -9 under load; scaling, memory, idleness."""

from __future__ import annotations

import argparse
import contextlib
import functools
import json
import os
import random
import signal
import statistics
import subprocess
import sys
import time
import urllib.request
from collections import Counter
from pathlib import Path

import restart_servers
import rounds
from restart_alone import measure_alone
from restart_load import KINDS, Load
from restart_servers import UWSGI, Granian, Gunicorn, Wspserve

OURS = [Wspserve('waitress'), Wspserve('cheroot')]
SERVERS = [
    *OURS,
    Gunicorn('sync'),
    Gunicorn('gthread'),
    UWSGI(chain=False),
    UWSGI(chain=True),
    Granian(),
]

#: Milliseconds within which 999 of 1,000 requests must be answered.
SLOWEST = 250

#: Seconds of CPU that a request takes in the site that computes.
COMPUTING = 0.005

#: Seconds to watch a peer after a broken deploy, because it does not report the result.
WATCH = 5.0

MACHINE = '(machine)'

COMPUTE = """
def compute():
    for _ in range({loops}):
        pass

"""

#: A typical site: most of its memory is imported modules. Its page may ask a database.
HEAVY = """
import os

import django.contrib.auth.hashers
import django.core.handlers.wsgi
import django.db.models
import django.forms
import jinja2
import pyramid.config
import pyramid.response
import sqlalchemy.orm

template = jinja2.Template('{{{{ version }}}} {{{{ pid }}}}\\n')
engine = sqlalchemy.create_engine('sqlite://')


def page(request):
    version = 1
    if {asks}:
        with engine.connect() as connection:
            version = connection.scalar(sqlalchemy.select(1))
    text = template.render(version=version, pid=os.getpid())
    return pyramid.response.Response(text, content_type='text/plain')


with pyramid.config.Configurator() as config:
    config.add_route('page', '/')
    config.add_view(page, route_name='page')
    app = config.make_wsgi_app()


def make_app(global_conf):
    return app
"""

#: A site whose page lists the threads of the process, with the package in which each sleeps.
THREADS = """
import json
import os
import sys
import sysconfig
import threading

STANDARD = sysconfig.get_path('stdlib') + os.sep


def owner(frame):
    while frame is not None:
        path = frame.f_code.co_filename
        if 'site-packages' in path:
            return path.partition('site-packages' + os.sep)[2].split(os.sep)[0]
        if not path.startswith((STANDARD, '<')):
            return os.path.basename(os.path.dirname(path))
        frame = frame.f_back
    return 'the standard library'


def app(environ, start_response):
    frames = sys._current_frames()
    frames[threading.get_ident()] = sys._getframe().f_back
    threads = {}
    for one in threading.enumerate():
        # After a fork, Python 3.11 has the parent's ID for the main thread.
        is_main = one is threading.main_thread()
        number = os.getpid() if is_main else one.native_id
        if number:  # else it is about to start
            threads[number] = [one.name, owner(frames.get(one.ident))]
    body = json.dumps({'pid': os.getpid(), 'threads': threads}).encode()
    headers = [('Content-Type', 'text/plain'), ('Content-Length', str(len(body)))]
    start_response('200 OK', headers)
    return [body]


def make_app(global_conf):
    return app
"""


def left_out(server, why):
    print(f'{server.name} is left out: {why}')


def judge_all(options, what, values, **bound):
    """Call `rounds.judge` for each server of ours; the keys of ``values`` are their names."""
    for server in options.servers:
        if server in OURS:
            rounds.judge(f'{what}, {server.name}', values.get(server.name), **bound)


# -- graceful -------------------------------------------------------------------------


def restart_once(server, running, load):
    """Restart gracefully, and return the seconds until each new worker has answered."""
    before, began = running.workers(), time.perf_counter()
    code, said = server.restart(running)
    if code:
        raise rounds.Unavailable(f'the restart failed, exit code {code}: {said}')

    def are_new():
        now = running.workers()
        new = len(now) == running.site.workers and not now & before
        return new and now <= load.so_far().pids.keys()

    running.wait_until('restarted', are_new)
    return time.perf_counter() - began


def restart_under_load(server, workers, options):
    """Restart a server again and again under load.

    :returns: the result, the seconds of each restart, and what went wrong (or None).
    """
    took, why = [], None
    with (
        server.serves(restart_servers.page_of('1'), workers) as running,
        Load(running.site.port) as load,
    ):
        try:
            while (
                len(took) < options.restarts or load.so_far().asked < options.requests
            ):
                time.sleep(0.1 + random.random() / 5)
                took.append(restart_once(server, running, load))
        except rounds.Unavailable as gave_up:
            why = str(gave_up)
        return load.end(), took, why


def measure_graceful(options):
    for workers in (1, 2):
        measured = {}
        for server in options.servers:
            try:
                measured[server.name] = restart_under_load(server, workers, options)
            except rounds.Unavailable as why:
                left_out(server, why)
        noun = 'worker' if workers == 1 else 'workers'
        print_graceful(options, f'{workers} {noun}', measured)


def print_graceful(options, what, measured):
    heads = ('restarts', 's each', 'p50 ms', 'p99.9', 'max', 'CPU')
    print(f'\nGraceful restarts under load, {what}')
    print(f'  {"":<22}{"".join(f"{head:>10}" for head in heads)}')
    for name, (result, took, _) in measured.items():
        times = latencies(result)
        each = f'{statistics.median(took):.2f}' if took else '-'
        line = f'  {name:<22}{len(took):>10}{each:>10}'
        line += ''.join(f'{time:>10.3g}' for time in times)
        print(f'{line}{result.cpu:>10.0%}')
    print('  CPU: what the clients took of one processor')
    print_kinds({name: result for name, (result, _, _) in measured.items()})
    for name, (_, _, why) in measured.items():
        if why:
            print(f'  note: {name}: {why}')
    results = {name: result for name, (result, _, why) in measured.items() if not why}
    failed = {name: result.failed() for name, result in results.items()}
    judge_all(options, f'requests failed, {what}', failed, at_most=0)
    slowest = {name: latencies(result)[1] for name, result in results.items()}
    judge_all(options, f'ms of 999 requests in 1000, {what}', slowest, at_most=SLOWEST)


def latencies(result):
    """Return milliseconds: the median, the 99.9th percentile and the maximum."""
    ordered = sorted(result.latencies)
    if not ordered:
        return [float('nan')] * 3
    at = [len(ordered) // 2, int(len(ordered) * 0.999), len(ordered) - 1]
    return [ordered[one] * 1000 for one in at]


def print_kinds(results):
    """Print the failures of each kind, on fresh connections and on kept-alive ones."""
    print(f'  {"fresh + kept alive":<22}{"".join(f"{kind:>15}" for kind in KINDS)}')
    for name, result in results.items():
        cells = [f'{result.fresh[kind]} + {result.kept[kind]}' for kind in KINDS]
        print(f'  {name:<22}{"".join(f"{cell:>15}" for cell in cells)}')


# -- broken ---------------------------------------------------------------------------


def deploy_broken(server):
    """Deploy broken code, then good code.

    :returns: the result of the clients, the exit code of the restart, and the faults.
    """
    good, broken = restart_servers.page_of, 'raise RuntimeError("broken deploy")\n'
    with (
        server.serves(good('1'), 2) as running,
        Load(running.site.port) as load,
    ):
        time.sleep(0.3)
        running.site.deploy(broken)
        code, said = server.restart(running)
        if code is None:
            time.sleep(WATCH)
        middle = load.so_far()
        time.sleep(0.5)
        still_old = load.so_far().pages['1'] - middle.pages['1']
        running.site.deploy(good('2'))
        mended = mend(server, running, load)
        result = load.end()
    faults = {
        'exits with 0': code == 0,
        'does not say why': code is not None and 'broken deploy' not in said,
        'the old code does not answer': not still_old,
        f'not mended: {mended}': mended is not None,
    }
    return result, code, [fault for fault, is_so in faults.items() if is_so]


def mend(server, running, load):
    """Restart with good code, until only that answers; return None, or what went wrong."""
    if running.process.poll() is not None:
        return f'the site is gone, exit code {running.process.returncode}'
    code, said = server.restart(running)
    if code:
        return f'exit code {code}: {said}'

    def is_served():
        before = load.so_far().pages
        time.sleep(0.3)
        after = load.so_far().pages
        return after['2'] > before['2'] and after['1'] == before['1']

    try:
        running.wait_until('mended', is_served)
    except rounds.Unavailable as why:
        return str(why)
    return None


def measure_broken(options):
    measured = {}
    for server in options.servers:
        try:
            measured[server.name] = deploy_broken(server)
        except rounds.Unavailable as why:
            left_out(server, why)
    print('\nBroken deploy, graceful; mended, graceful; under load, 2 workers')
    print_kinds({name: result for name, (result, _, _) in measured.items()})
    for name, (result, code, faults) in measured.items():
        exits = 'tells nothing' if code is None else f'exit code {code}'
        pages = f'{result.pages["1"]} old pages, {result.pages["2"]} new ones'
        print(f'  {name:<22}{exits}; {pages}; {", ".join(faults) or "as it should"}')
    failed = {name: one[0].failed() for name, one in measured.items()}
    faults = {name: len(one[2]) for name, one in measured.items()}
    judge_all(options, 'requests failed at a broken deploy', failed, at_most=0)
    judge_all(options, 'faults of a broken deploy', faults, at_most=0)


# -- kill -----------------------------------------------------------------------------


def connections_of(pid, port):
    """Return how many of the port's connections this process holds."""
    held = set()
    for descriptor in Path(f'/proc/{pid}/fd').iterdir():
        with contextlib.suppress(OSError):
            held.add(os.readlink(descriptor))
    local = f':{port:04X}'
    lines = map(str.split, Path('/proc/net/tcp').read_text().splitlines()[1:])
    return sum(
        line[1].endswith(local) and line[3] != '0A' and f'socket:[{line[9]}]' in held
        for line in lines
    )


def kill_one(running):
    """Kill a worker; return how many connections it held, or None if there is no worker."""
    pids = list(running.workers())
    if not pids:
        return None
    pid = random.choice(pids)
    try:
        os.kill(pid, signal.SIGSTOP)  # its connections must not change now
        running.wait_until('stopped', lambda: state(pid) in 'TZX')
        held = connections_of(pid, running.site.port)
        os.kill(pid, signal.SIGKILL)
    except OSError:
        return None  # it has ended itself
    return held


def state(pid):
    """Return the state of a process, as in proc(5): T is stopped; X if it has ended."""
    try:
        return Path(f'/proc/{pid}/stat').read_text().rpartition(')')[2].split()[0]
    except OSError:
        return 'X'


def kill_under_load(server, seconds):
    """Kill workers again and again under load.

    :returns: the result, (lost, held) for each kill, and what went wrong (or None).
    """
    kills, why = [], None
    with (
        server.serves(restart_servers.page_of('1'), 2) as running,
        Load(running.site.port) as load,
    ):
        try:
            until = time.monotonic() + seconds
            while time.monotonic() < until:
                before = load.so_far().lost
                held = kill_one(running)
                time.sleep(1)
                if running.process.poll() is not None:
                    raise rounds.Unavailable(
                        f'it exited with {running.process.returncode}'
                    )
                if held is not None:
                    kills.append((load.so_far().lost - before, held))
        except rounds.Unavailable as gave_up:
            why = str(gave_up)
        return load.end(), kills, why


def measure_kill(options):
    measured = {}
    for server in options.servers:
        if server.name == 'uWSGI, chain reload':
            continue  # a kill is the same as with SIGHUP
        try:
            measured[server.name] = kill_under_load(server, options.seconds)
        except rounds.Unavailable as why:
            left_out(server, why)
    print('\nkill -9 of one of 2 workers every second under load')
    heads = ('kills', 'lost', 'at most', 'held', 'over', 'p99.9 ms', 'max')
    print(f'  {"":<22}{"".join(f"{head:>10}" for head in heads)}')
    over = {}
    for name, (result, kills, _) in measured.items():
        over[name] = sum(lost > held for lost, held in kills)
        lost, held = zip(*kills, strict=True) if kills else ((0,), (0,))
        cells = [len(kills), sum(lost), max(lost), sum(held), over[name]]
        times = ''.join(f'{time:>10.3g}' for time in latencies(result)[1:])
        print(f'  {name:<22}{"".join(f"{cell:>10}" for cell in cells)}{times}')
    print('  at most: by one kill; held: connections of the workers killed;')
    print('  over: kills that lost more than the worker held')
    print_kinds({name: result for name, (result, _, _) in measured.items()})
    for name, (_, _, why) in measured.items():
        if why:
            print(f'  note: {name}: {why}')
    results = {name: one[0] for name, one in measured.items() if not one[2]}
    refused = {name: result.failed('refused') for name, result in results.items()}
    over = {name: over[name] for name in results}
    judge_all(options, 'kills that lost more than was in flight', over, at_most=0)
    judge_all(options, 'connections refused by kills', refused, at_most=0)


# -- scaling --------------------------------------------------------------------------


def loops_of(seconds):
    """Return the number of turns of an empty loop that take these seconds of CPU here."""
    source = 'def compute(loops):\n    for _ in range(loops):\n        pass\n'
    namespace = {}
    exec(source, namespace)
    fastest = float('inf')
    for _ in range(20):
        began = time.thread_time()
        namespace['compute'](200_000)
        fastest = min(fastest, time.thread_time() - began)
    return int(200_000 * seconds / fastest)


def requests_a_second(server, workers, text, seconds):
    def measure():
        with (
            server.serves(text, workers) as running,
            Load(running.site.port) as load,
        ):
            running.wait_until('all workers busy', lambda: all_answer(running, load))
            before = load.so_far().pages.total()
            began = time.perf_counter()
            time.sleep(seconds)
            answered = load.so_far().pages.total() - before
            return answered / (time.perf_counter() - began)

    return measure


def computations_a_second(processes, work, seconds):
    """Return how many computations a second this number of processes does without a server."""
    program = f"""{work}
import time
until, count = time.monotonic() + {seconds}, 0
while time.monotonic() < until:
    compute()
    count += 1
print(count)
"""
    with contextlib.ExitStack() as stack:
        running = [
            stack.enter_context(
                rounds.child([sys.executable, '-c', program], stdout=subprocess.PIPE)
            )
            for _ in range(processes)
        ]
        counts = [one.communicate(timeout=rounds.PATIENCE)[0] for one in running]
    return sum(map(int, counts)) / seconds


def all_answer(running, load):
    return running.workers() <= load.so_far().pids.keys()


def measure_scaling(options):
    work = COMPUTE.format(loops=loops_of(COMPUTING))
    text = restart_servers.page_of('1', work, composition=0)
    servers = [one for one in options.servers if not isinstance(one, UWSGI)]
    contenders = {
        f'{server.name}, {workers}': requests_a_second(
            server, workers, text, options.scaling_seconds
        )
        for server in servers
        for workers in (1, 2)
    }
    for processes in (1, 2):
        contenders[f'{MACHINE}, {processes}'] = functools.partial(
            computations_a_second, processes, work, options.scaling_seconds
        )
    samples = rounds.alternate(contenders, options.rounds)
    print(f'\n{COMPUTING * 1000:g} ms of CPU a request, {options.rounds} rounds')
    print(
        f'  {"requests a second, medians":<28}{"1 worker":>10}{"2 workers":>10}{"ratio":>8}'
    )
    ratios = {}
    for name in (*(server.name for server in servers), MACHINE):
        one, two = (samples.get(f'{name}, {number}') for number in (1, 2))
        if one and two:
            each = [more / less for less, more in zip(one, two, strict=True)]
            ratios[name] = statistics.median(each)
            rates = (f'{statistics.median(those):>10.1f}' for those in (one, two))
            print(f'  {name:<28}{"".join(rates)}{ratios[name]:>8.2f}')
    print(f'  {MACHINE}: what processes that only compute are given at the same time')
    judge_all(options, "2 workers' requests ÷ 1 worker's", ratios, at_least=1.5)


# -- memory ---------------------------------------------------------------------------


def private_memory(pid):
    """Return the megabytes that only this process has."""
    return megabytes(Path(f'/proc/{pid}/smaps_rollup').read_text())


def megabytes(smaps):
    """Return the private megabytes of a smaps_rollup, see proc(5)."""
    sizes = {line.split()[0]: line.split()[1] for line in smaps.splitlines() if line}
    return (int(sizes['Private_Clean:']) + int(sizes['Private_Dirty:'])) / 1024


def measure_memory(options):
    print(f'\nPrivate memory of 2 workers after {options.asked} requests each, MB')
    print(f'  {"":<48}{"first":>9}{"second":>9}{"others":>9}')
    preloaded = {True: {}, False: {}}
    for asks in (False, True):
        text = HEAVY.format(asks=asks)
        page = ', asks a database' if asks else ''
        for name, program in (('fork alone', FORK), ('fork and waitress', WAITRESS)):
            floor = memory_of_fork(program, text, options.asked)
            print(f'  {f"({name}{page})":<48}{floor:>9.1f}')
        for preload in (True, False):
            for server in options.servers:
                if isinstance(server, UWSGI) or server.name == 'gunicorn, sync':
                    continue
                name = f'{server.name}{", preload" if preload else ""}{page}'
                try:
                    mine, others = memory_of_workers(
                        server, text, preload, options.asked
                    )
                except rounds.Unavailable as why:
                    print(f'{name} is left out: {why}')
                    continue
                cells = ''.join(f'{megabytes:>9.1f}' for megabytes in mine)
                print(f'  {name:<48}{cells}{sum(others):>9.1f}')
                if preload:
                    preloaded[asks][server.name] = max(mine)
    print('  (fork alone): a child that calls the application, and no server')
    print(
        '  (fork and waitress): a child in which waitress serves it, and nothing else'
    )
    print('  others: the processes above the workers')
    what = 'MB of a second worker with preload'
    judge_all(options, what, preloaded[False], at_most=8)
    judge_all(options, f'{what}, database', preloaded[True], at_most=8)


#: The application in a child, without a server.
FORK = """
import threading
import wsgiref.util

def answer():
    for _ in range({asked}):
        environ = {{}}
        wsgiref.util.setup_testing_defaults(environ)
        b''.join(app(environ, lambda status, headers, exc_info=None: None))

if os.fork():
    sys.exit(os.waitstatus_to_exitcode(os.wait()[1]))
thread = threading.Thread(target=answer)
thread.start()
thread.join()
print(open('/proc/self/smaps_rollup').read())
"""

#: The application in a child, served by waitress with as many threads as workers have.
WAITRESS = """
import signal
import socket
import urllib.request
import waitress.server

listening = socket.create_server(('127.0.0.1', 0))
gc.freeze()
child = os.fork()
if not child:
    gc.enable()
    signal.alarm(60)  # also if nobody ends it
    waitress.serve(app, sockets=[listening], threads=4, _quiet=True)
if not (client := os.fork()):  # what this process wrote, it would share no more
    url = f'http://127.0.0.1:{{listening.getsockname()[1]}}/'
    for _ in range({asked}):
        urllib.request.urlopen(url).read()
    os._exit(0)
os.waitpid(client, 0)
print(open(f'/proc/{{child}}/smaps_rollup').read())
os.kill(child, signal.SIGKILL)
"""


def memory_of_fork(program, text, asked):
    """Return the megabytes of a forked child with nothing of ours: no worker needs less."""
    lines = 'import gc, os, sys', 'gc.disable()', text, program.format(asked=asked)
    return megabytes(rounds.output_of('\n'.join(lines)))


def memory_of_workers(server, text, preload, asked):
    """Return the megabytes of each worker after its requests, and of the other processes."""
    with server.serves(text, 2, preload) as running:
        with Load(running.site.port) as load:

            def have_answered():
                pids = load.so_far().pids
                return all(pids[pid] >= asked for pid in running.workers())

            running.wait_until('answered by all workers', have_answered)
            load.end()
        mine = running.workers()
        others = restart_servers.family(running.pid) - mine
        return (
            [private_memory(pid) for pid in sorted(mine)],
            [private_memory(pid) for pid in others],
        )


# -- idle -----------------------------------------------------------------------------


def ask_for_threads(running):
    """Return {thread: (name, package)} of each worker."""
    found = {}
    url = f'http://127.0.0.1:{running.site.port}/'

    def are_known():
        with urllib.request.urlopen(url, timeout=rounds.PATIENCE) as response:
            told = json.load(response)
        found[told['pid']] = {int(one): of for one, of in told['threads'].items()}
        return running.workers() <= found.keys()

    running.wait_until('answered by all workers', are_known)
    return found


def wake_ups(pid):
    """Return {thread: voluntary context switches} of a process."""
    found = {}
    for task in Path(f'/proc/{pid}/task').iterdir():
        status = (task / 'status').read_text()
        count = status.partition('\nvoluntary_ctxt_switches:')[2].split()[0]
        found[int(task.name)] = int(count)
    return found


def count_wake_ups(server, preload, seconds):
    """Return a list of (process, thread, package, wake-ups)."""
    with server.serves(THREADS, 2, preload) as running:
        threads = ask_for_threads(running)
        time.sleep(2)  # a server may have more to do after a request
        pids = sorted(restart_servers.family(running.pid))
        before = {pid: wake_ups(pid) for pid in pids}
        time.sleep(seconds)
        own = 'paste_wspbus' if server in OURS else 'the server'
        rows = []
        for pid in pids:
            process = 'worker' if pid in threads else 'supervisor'
            for thread, count in wake_ups(pid).items():
                name, package = threads.get(pid, {}).get(thread, (f'{thread}', own))
                rows.append(
                    (process, name, package, count - before[pid].get(thread, 0))
                )
        return rows


def measure_idle(options):
    ours, counted = {}, {}
    for server in options.servers:
        for preload in (False, True) if server in OURS else (False,):
            if not server.has_pythons_threads:
                continue
            name = f'{server.name}{", preload" if preload else ""}'
            try:
                counted[name] = count_wake_ups(server, preload, options.idle_seconds)
            except rounds.Unavailable as why:
                print(f'{name} is left out: {why}')
    print(f'\nWake-ups of an idle site with 2 workers in {options.idle_seconds:g} s')
    for name, rows in counted.items():
        by = Counter()
        for process, thread, package, count in rows:
            by[process, package, thread] += count
        mine = sum(count for _, _, package, count in rows if package == 'paste_wspbus')
        if name.startswith('wspserve'):
            ours[name] = ours.get(name, 0) + mine
        busy = [
            f'{count} {process}: {package}, thread {thread}'
            for (process, package, thread), count in by.items()
            if count
        ]
        print(f'  {name:<30}{"; ".join(busy) or "none"}')
    for name, count in ours.items():
        rounds.judge(f'wake-ups of ours, {name}', count, at_most=0)


# -- the command ----------------------------------------------------------------------

FIGURES = {
    'graceful': measure_graceful,
    'alone': measure_alone,
    'broken': measure_broken,
    'kill': measure_kill,
    'scaling': measure_scaling,
    'memory': measure_memory,
    'idle': measure_idle,
}


def parse():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        'figures', nargs='*', metavar='FIGURE', help=f'of {", ".join(FIGURES)}'
    )
    for name, default, what in (
        ('restarts', 30, 'graceful: at least so many'),
        ('alone', 5, 'alone: restarts of each kind'),
        ('requests', 40_000, 'graceful: at least so many on fresh connections'),
        ('seconds', 60, 'kill: how long'),
        ('rounds', 5, 'scaling'),
        ('scaling-seconds', 4, 'scaling: of each measurement'),
        ('asked', 200, 'memory: requests that each worker has answered'),
        ('idle-seconds', 10, 'idle: how long'),
    ):
        parser.add_argument(
            f'--{name}', type=int, default=default, help=f'{what} (default {default})'
        )
    parser.add_argument('--servers', default='', help='those only whose name begins so')
    options = parser.parse_args()
    for figure in options.figures:
        if figure not in FIGURES:
            parser.error(f'no figure {figure!r}: {", ".join(FIGURES)}')
    options.servers = [one for one in SERVERS if one.name.startswith(options.servers)]
    return options


def main():
    options = parse()
    for figure in options.figures or FIGURES:
        try:
            FIGURES[figure](options)
        except rounds.Unavailable as why:
            print(f'{figure} is left out: {why}')


if __name__ == '__main__':
    main()
