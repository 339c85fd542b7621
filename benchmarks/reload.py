"""Measures --reload: edits, the first edit after a start, old code, idleness, 500 reloads."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import statistics
import time
import urllib.request
from collections import Counter
from pathlib import Path

import reload_servers
import restart
import restart_servers
import rounds
from reload_servers import CHILD, EXECV, FAILURES, FORK, PSERVE, RELOADERS, SITES

COLD = '(cold start)'

#: Megabytes by which a process may grow in some 450 reloads: this is about one kilobyte
#: each.
GROWTH = 0.5


def load():
    """Return the average load of the machine in the last minute, as a text."""
    return f'load average {os.getloadavg()[0]:.2f} on {os.cpu_count()} processors'


# -- edits ----------------------------------------------------------------------------


class Contender:
    """A server whose site is edited once in each round; ``failed`` and ``polls`` are sums."""

    def __init__(self, client):
        self.client = client
        self.failed, self.polls = Counter(), 0

    def __call__(self):
        took = self.client.edit()
        # Count all failures, also those of the first round, which is not timed.
        for kind in FAILURES:
            self.failed[kind] += self.client.failed(kind)
        self.polls += self.client.polls.total()
        return took


def cold_start(text):
    """Return a function that measures the milliseconds from a start to the first response.

    The server starts without --reload.
    """
    server = reload_servers.ours(COLD)

    def measure():
        began = time.perf_counter()
        with server.serves(text):
            return (time.perf_counter() - began) * 1000

    return measure


def measure_edits(options):
    for site in options.sites:
        text = SITES[site]
        before = load()
        with contextlib.ExitStack() as stack:
            contenders = {}
            for reloader in options.servers:
                try:
                    running = stack.enter_context(reloader.serves(text))
                except rounds.Unavailable as why:
                    print(f'{reloader.name} is left out: {why}')
                else:
                    client = reload_servers.Client(running)
                    contenders[reloader.name] = Contender(client)
            samples = rounds.alternate(
                {**contenders, COLD: cold_start(text)}, options.rounds
            )
        print_edits(site, options, samples, contenders)
        print(f'  {before} at first, {load()} at last')
        judge_edits(site, options, samples, contenders)


def percentile95(values):
    return statistics.quantiles(values, n=20, method='inclusive')[-1]


def print_edits(site, options, samples, contenders):
    mine = samples.get(FORK)
    print(
        f'\nEdit to first response by the new code, ms, {site} site, '
        f'{options.rounds} rounds'
    )
    heads = ('median', '95th', 'max', '÷ ours', *FAILURES, 'polls')
    print(f'  {"":<20}{"".join(f"{head:>10}" for head in heads)}')
    for name, values in samples.items():
        cells = [statistics.median(values), percentile95(values), max(values)]
        line = ''.join(f'{cell:>10.4g}' for cell in cells)
        line += f'{times_as_long(values, mine):>10.3g}' if mine else f'{"-":>10}'
        if name in contenders:
            failed = contenders[name].failed
            line += ''.join(f'{failed[kind]:>10}' for kind in FAILURES)
            line += f'{contenders[name].polls:>10}'
        print(f'  {name:<20}{line}')
    print(
        '  the failures are those of all edits; old again: after the new code answered'
    )


def times_as_long(values, mine):
    return statistics.median(v / m for v, m in zip(values, mine, strict=True))


def judge_edits(site, options, samples, contenders):
    mine, peer = samples.get(FORK), samples.get(PSERVE)
    if mine:
        failed = contenders[FORK].failed.total()
        rounds.judge(f'median ms, {site}', statistics.median(mine), at_most=50)
        rounds.judge(f'ms of 95 in 100, {site}', percentile95(mine), at_most=150)
        rounds.judge(f'polls failed, {site}', failed, at_most=0)
        if any(one.name == PSERVE for one in options.servers):
            ratio = times_as_long(peer, mine) if peer else None
            rounds.judge(f'times as fast as pserve, {site}', ratio, at_least=20)
    cold = samples.get(COLD)
    for name in (CHILD, EXECV):
        if name in samples:
            ours = statistics.median(samples[name])
            more = ours - statistics.median(cold) if cold else None
            rounds.judge(
                f'ms more than a cold start, {name}, {site}', more, at_most=100
            )
    if CHILD in samples:
        refused = contenders[CHILD].failed['refused']
        rounds.judge(f'polls refused, {CHILD}, {site}', refused, at_most=0)


# -- the first edit after a start --------------------------------------------------------


def measure_first(options):
    """Compare the edit right after a start with later edits of the same run."""
    for site in options.sites:
        print(
            f'\nThe first edit, as soon as the start has answered, ms, {site} site, '
            f'{options.starts_edited} starts; {load()}'
        )
        print(f'  {"":<20}{"first":>10}{"later":>10}{"÷ later":>10}')
        for reloader in options.servers:
            if reloader.name not in PROCESSES:
                continue
            first, later = [], []
            for _ in range(options.starts_edited):
                with reloader.serves(SITES[site]) as running:
                    client = reload_servers.Client(running)
                    first.append(client.edit_at_once())
                    client.after(reload_servers.BETWEEN)
                    later += [client.edit(), client.edit()]
            ratio = statistics.median(first) / statistics.median(later)
            cells = statistics.median(first), statistics.median(later), ratio
            line = ''.join(f'{cell:>10.3g}' for cell in cells)
            print(f'  {reloader.name:<20}{line}')
            rounds.judge(
                f'times as long as later ones, {reloader.name}', ratio, at_most=3
            )


# -- old code ----------------------------------------------------------------------------

#: Milliseconds from the return of the save to the request.
DELAYS = (0, 2, 5, 10, 20)


def measure_stale(options):
    """Count the old answers on new connections that begin after a save."""
    print(
        f'\nOld answers on a new connection that begins so many ms after a save, of '
        f'{options.saves} each; {load()}'
    )
    heads = ''.join(f'{f"{delay} ms":>10}' for delay in DELAYS)
    print(f'  {"":<28}{heads}')
    for reloader in options.servers:
        if reloader.name not in PROCESSES:
            continue
        try:
            with reloader.serves(SITES['small']) as running:
                client = reload_servers.Client(running)
                found = count_stale(client, options.saves)
        except rounds.Unavailable as why:
            print(f'{reloader.name} is left out: {why}')
            continue
        for how, counts in found.items():
            cells = ''.join(f'{counts[delay]:>10}' for delay in DELAYS)
            print(f'  {f"{reloader.name}, {how}":<28}{cells}')
        stale = sum(counts.total() for counts in found.values())
        rounds.judge(f'old answers, {reloader.name}', stale, at_most=0)


def count_stale(client, saves):
    found = {'in place': Counter(), 'rename': Counter()}
    for _ in range(saves):
        for delay in DELAYS:
            for how, counts in found.items():
                time.sleep(client.settles)
                how_it_was = client.edit_and_ask(delay / 1000, how)
                counts[delay] += how_it_was == 'old'
                if how_it_was in FAILURES:
                    raise rounds.Unavailable(f'a request failed: {how_it_was}')
    return found


# -- idle -----------------------------------------------------------------------------

WITHOUT = 'wspserve without --reload'

#: The text that wspserve prints for each reload.
RELOADED = 'served in '


def ask_for_threads(running):
    """Return {process: {thread: (name, package)}} for the process that answers."""
    url = f'http://127.0.0.1:{running.site.port}/'
    with urllib.request.urlopen(url, timeout=rounds.PATIENCE) as response:
        told = json.load(response)
    return {told['pid']: {int(one): of for one, of in told['threads'].items()}}


def count_wake_ups(running, processes, options):
    """Return a Counter of wake-ups by (process, package, thread).

    :raises rounds.Unavailable: if it was reloaded meanwhile, because a file has changed.
    """
    is_prepared(running, processes)
    reloads = running.log.count(RELOADED)
    threads = ask_for_threads(running)
    time.sleep(options.settle_seconds)
    titles = {pid: title_of(pid, running, threads) for pid in family(running)}
    before = {pid: restart.wake_ups(pid) for pid in titles}
    time.sleep(options.idle_seconds)
    found = Counter()
    for pid, title in titles.items():
        for thread, count in restart.wake_ups(pid).items():
            name, package = threads.get(pid, {}).get(thread, ('one', 'paste_wspbus'))
            found[title, package, name] += count - before[pid].get(thread, 0)
    if running.log.count(RELOADED) != reloads:
        raise rounds.Unavailable('it was reloaded meanwhile')
    return found


def title_of(pid, running, threads):
    if pid in threads:
        return 'worker'
    if pid == running.pid:
        return 'supervisor'
    return 'packages' if restart_servers.children(pid) else 'spare'


def family(running):
    return sorted(restart_servers.family(running.pid))


def is_prepared(running, processes):
    """Wait until the spare exists and the old worker has ended."""

    def is_settled():
        before = family(running)
        time.sleep(0.3)
        return len(before) == processes and family(running) == before

    running.wait_until('prepared', is_settled)


def measure_idle(options):
    """Measure each reloader after its start, and again after an edit."""
    print(f'\nWake-ups of an idle site in {options.idle_seconds:g} s; {load()}')
    with reload_servers.ours(WITHOUT).serves(restart.THREADS) as running:
        print_wake_ups(WITHOUT, count_wake_ups(running, 1, options))
    for reloader in options.servers:
        if reloader.name not in PROCESSES:
            continue
        try:
            with reloader.serves(restart.THREADS) as running:
                found = measure_idle_reloader(reloader.name, running, options)
        except rounds.Unavailable as why:
            print(f'{reloader.name} is left out: {why}')
            continue
        for name, switches in found.items():
            print_wake_ups(name, switches)
        for name, switches in found.items():
            mine = sum(n for (_, package, _), n in switches.items() if package == OURS)
            rounds.judge(f'wake-ups of ours, {name}', mine, at_most=0)


def measure_idle_reloader(name, running, options):
    found = {name: count_wake_ups(running, PROCESSES[name], options)}
    # The page does not show its version, so wait for the line on the terminal.
    before = running.log.count(RELOADED)
    running.site.edit()
    running.wait_until('reloaded', lambda: running.log.count(RELOADED) > before)
    found[f'{name}, edited'] = count_wake_ups(running, PROCESSES[name], options)
    return found


OURS = 'paste_wspbus'

#: The number of processes that each reloader has when it is idle.
PROCESSES = {FORK: 4, CHILD: 2, EXECV: 1}


def print_wake_ups(name, found):
    busy = [
        f'{count} {process}: {package}, thread {thread}'
        for (process, package, thread), count in found.items()
        if count
    ]
    print(f'  {name:<26}{"; ".join(busy) or "none"}')


# -- growth ---------------------------------------------------------------------------


def sizes(pid):
    """Return the threads, descriptors and megabytes of a process, see proc(5)."""
    process = Path(f'/proc/{pid}')
    found = {
        'threads': len(list((process / 'task').iterdir())),
        'fds': len(list((process / 'fd').iterdir())),
    }
    lines = (process / 'smaps_rollup').read_text().splitlines()[1:]
    kilobytes = {line.split()[0]: int(line.split()[1]) for line in lines}
    found['RSS'] = kilobytes['Rss:'] / 1024
    found['PSS'] = kilobytes['Pss:'] / 1024
    private = kilobytes['Private_Clean:'] + kilobytes['Private_Dirty:']
    found['private'] = private / 1024
    return found


def long_lived(running, processes):
    """Wait until the next reload is prepared; return {title: process} of lasting processes."""
    is_prepared(running, processes)
    found = {'supervisor' if processes > 1 else 'process': running.pid}
    for pid in restart_servers.children(running.pid):
        if restart_servers.children(pid):
            found['packages'] = pid
    return found


def measure_growth(options):
    for reloader in options.servers:
        if reloader.name not in PROCESSES:
            continue
        for site in options.sites if reloader.name == FORK else ['small']:
            # A fresh interpreter for each reload takes longer.
            reloads = options.reloads if reloader.name == FORK else options.starts
            try:
                with reloader.serves(SITES[site]) as running:
                    grown = reload_often(reloader, running, reloads)
            except rounds.Unavailable as why:
                print(f'{reloader.name} is left out: {why}')
            else:
                print_growth(f'{reloader.name}, {site}', grown)


def reload_often(reloader, running, reloads):
    """Reload again and again; return [(reload, {title: (process, sizes)})] ten times."""
    client = reload_servers.Client(running)
    long_lived(running, PROCESSES[reloader.name])
    step = max(1, reloads // 10)
    grown, failed = [], 0
    for number in range(1, reloads + 1):
        client.edit_at_once()
        failed += client.failed()
        if number % step == 0:
            found = long_lived(running, PROCESSES[reloader.name])
            grown.append(
                (number, {title: (pid, sizes(pid)) for title, pid in found.items()})
            )
    print(f'\n{reloads} reloads in a row, {reloader.name}: {failed} polls failed')
    return grown


def print_growth(name, grown):
    columns = ('threads', 'fds', 'RSS', 'PSS', 'private')
    print(f'  {name:<32}{"reload":>8}{"PID":>9}', end='')
    print(''.join(f'{column:>9}' for column in columns))
    first, last = grown[0][1], grown[-1][1]
    for title in first:
        for number, found in grown:
            pid, has = found[title]
            cells = ''.join(f'{has[column]:>9.4g}' for column in columns)
            print(f'  {title:<32}{number:>8}{pid:>9}{cells}')
    for title, (pid, was) in first.items():
        now_pid, now = last[title]
        what = f'of the {title}, {name}'
        rounds.judge(f'another process instead {what}', now_pid != pid, at_most=0)
        for column in ('threads', 'fds'):
            more = now[column] - was[column]
            rounds.judge(f'{column} more {what}', more, at_most=0)
        more = now['private'] - was['private']
        rounds.judge(f'MB more {what}', more, at_most=GROWTH)


# -- the command ----------------------------------------------------------------------

FIGURES = {
    'edits': measure_edits,
    'first': measure_first,
    'stale': measure_stale,
    'idle': measure_idle,
    'growth': measure_growth,
}


def parse():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        'figures', nargs='*', metavar='FIGURE', help=f'of {", ".join(FIGURES)}'
    )
    for name, default, what in (
        ('rounds', 15, 'edits: of each site under each server'),
        ('starts-edited', 5, 'first: of each site under each server'),
        ('saves', 4, 'stale: for each delay, in place and by rename'),
        ('settle-seconds', 12, 'idle: how long nothing is counted at first'),
        ('idle-seconds', 10, 'idle: how long'),
        ('reloads', 500, 'growth: by forks'),
        ('starts', 100, 'growth: by fresh interpreters'),
    ):
        parser.add_argument(
            f'--{name}', type=int, default=default, help=f'{what} (default {default})'
        )
    parser.add_argument('--servers', default='', help='those only whose name begins so')
    parser.add_argument(
        '--sites', nargs='+', choices=SITES, default=list(SITES), help='default both'
    )
    options = parser.parse_args()
    for figure in options.figures:
        if figure not in FIGURES:
            parser.error(f'no figure {figure!r}: {", ".join(FIGURES)}')
    options.rounds = max(2, options.rounds)  # percentiles need two
    options.servers = [one for one in RELOADERS if one.name.startswith(options.servers)]
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
