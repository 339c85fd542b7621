"""The same site under each host: which promises held, and how often.

    python -m tests.hosts.promises [-n ROUNDS] [NAME …]

`make hosts` runs 20 rounds of each. A round starts tests/sites/hosted under the host,
sends requests without a pause from several clients, reloads, stops, and reads what the
site's lifespan and its requests have written to the file `events`. What comes out is a
Markdown table, another of what each host promises (`bus.host.capabilities`), and a line
for each promise that was made and did not hold. tests/hosts/test_hosts.py runs a few rounds.

A host is a class: a Runner, in RUNNERS by its name. Those of other files
(tests/hosts/hosted_NAME.py) are in the list RUNNERS there, which is read if the file exists.
A runner is made with the folder of a copy of the site, and has

    title           its line in the table, such as 'gunicorn, gthread'
    environment     the name in environments.RECIPES that it takes, or None
    reloads         whether it has a reload
    command()       the words of the command that serves the site on 127.0.0.1,
                    port `self.port`, in the foreground; its working directory is the folder
    start()         run it, and return when the site answers
    reload()        have the code loaded anew, and return at once
    stop()          stop it, and return its exit code, when no process is left
    close()         end whatever is left; called at the end, whatever came before
    log()           what it has logged, for whoever looks for an error

of which only `command` and `title` must be written for a host that reloads at SIGHUP and
stops at SIGTERM. `self.bin(program)` is the path of a program of its environment.
"""

import argparse
import contextlib
import importlib
import re
import shutil
import signal
import sys
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path
from typing import NamedTuple

from paste_wspbus.hosts import CAPABILITIES
from tests.environments import RECIPES, environment, is_for_this_python
from tests.kit import BIN, COMMANDS, Connection, Process, eventually, free_port
from tests.kit.places import DOCS, SITES

SITE = SITES / 'hosted'

#: Clients that ask without a pause, and what each asks for in turn.
CLIENTS = 4
PATHS = ['/', '/', '/?seconds=0.05']

#: Requests that are answered before anything is done, and between two things.
REQUESTS = 60

#: Seconds in which a reload replaces all processes.
REPLACED = 5

#: In a process that serves: what the lifespan and the requests must have written.
PROMISES = {
    'started once': 'the lifespan was entered exactly once, before the first request',
    'stopped once': 'the lifespan was left exactly once',
    'stopped last': 'no request was under way, and none came, when it was left',
    'told to reload': "'graceful' was published before a reload",
}

#: The capability that promises each.
PROMISED_BY = {
    'started once': 'start',
    'stopped once': 'stop',
    'stopped last': 'drain',
    'told to reload': 'reload',
}


class Runner:
    """A host that serves in the foreground, reloads at SIGHUP and stops at SIGTERM."""

    title = ''
    environment = None
    reloads = True

    def __init__(self, folder):
        self.folder, self.port = Path(folder), free_port()
        self.process = None

    def bin(self, program):
        return (environment(self.environment) / 'bin' if self.environment else BIN) / (
            program
        )

    def command(self):
        raise NotImplementedError

    def start(self):
        self.process = Process(self.command(), self.folder)
        eventually(self.answers)

    def answers(self):
        if self.process is not None and self.process.process.poll() is not None:
            raise AssertionError(f'{self.title} ended.\n{self.log()}')
        try:
            with Connection(('127.0.0.1', self.port)) as connection:
                return connection.get('/', connection='close').status == 200
        except OSError:
            return False

    def reload(self):
        self.process.send(signal.SIGHUP)

    def stop(self):
        self.process.send(signal.SIGTERM)
        code = self.process.wait()
        eventually(self.process.has_left_nothing)
        return code

    def close(self):
        if self.process is not None:
            self.process.__exit__()

    def log(self):
        return self.process.report()


class WSPServe(Runner):
    title = 'wspserve'
    words = COMMANDS['wspserve']

    def command(self):
        return [*self.words, 'site.ini', '--listen', f'127.0.0.1:{self.port}']


class Workers(WSPServe):
    title = 'wspserve, 2 workers'

    def command(self):
        return [*super().command(), '--workers', '2']


class Paster(WSPServe):
    title = 'paster wspserve'
    words = COMMANDS['paster']


class Gunicorn(Runner):
    title = 'gunicorn, sync'
    environment = 'gunicorn'
    options = ('--workers', '2')

    def command(self):
        config = 'python:paste_wspbus.hosts.gunicorn'
        where = f'127.0.0.1:{self.port}'
        words = [self.bin('gunicorn'), '--paste', 'site.ini', '-c', config]
        return [*words, '--no-control-socket', '--bind', where, *self.options]


class GunicornThreads(Gunicorn):
    title = 'gunicorn, gthread'
    options = ('--workers', '2', '--threads', '4')


class GunicornPreload(Gunicorn):
    title = 'gunicorn, gthread, --preload'
    options = (*GunicornThreads.options, '--preload')


class GunicornServer(Runner):
    title = "wspserve, gunicorn the .ini's server"
    environment = 'gunicorn'

    def command(self):
        return [self.bin('wspserve'), 'gunicorn.ini', f'port={self.port}']


class Example(Runner):
    title = 'the example of this page'
    reloads = False

    def command(self):
        text = (DOCS / 'wsgi-lifecycle.md').read_text()
        program = re.search(r'```python\n(import.*?)```', text, re.S)[1]
        (self.folder / 'example.py').write_text(program)
        return [sys.executable, 'example.py', 'site.ini', str(self.port)]


RUNNERS = {
    'wspserve': WSPServe,
    'workers': Workers,
    'paster': Paster,
    'gunicorn-sync': Gunicorn,
    'gunicorn-gthread': GunicornThreads,
    'gunicorn-preload': GunicornPreload,
    'gunicorn-server': GunicornServer,
    'example': Example,
}


def runners():
    """All there are, by name: these, and those of tests/hosts/hosted_NAME.py."""
    found = dict(RUNNERS)
    for file in sorted(Path(__file__).parent.glob('hosted_*.py')):
        found.update(importlib.import_module(f'tests.hosts.{file.stem}').RUNNERS)
    return {
        name: runner
        for name, runner in found.items()
        if runner.environment is None
        or (runner.environment in RECIPES and is_for_this_python(runner.environment))
    }


# -- load ------------------------------------------------------------------------


class Load:
    """Clients that ask without a pause, until the block ends."""

    def __init__(self, port):
        self.outcomes, self.processes = Counter(), set()
        self._address, self._ended = ('127.0.0.1', port), threading.Event()
        self._came = threading.Condition()
        self._threads = [
            threading.Thread(target=self._ask, daemon=True) for _ in range(CLIENTS)
        ]

    def __enter__(self):
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_):
        self._ended.set()
        for thread in self._threads:
            thread.join()

    def _ask(self):
        turn = 0
        while not self._ended.is_set():
            outcome, process = self._one(PATHS[turn % len(PATHS)])
            turn += 1
            with self._came:
                self.outcomes[outcome] += 1
                self.processes.add(process)
                self._came.notify_all()
            if outcome != 'answered':  # nobody listens: that costs nothing
                self._ended.wait(0.01)

    def _one(self, path):
        try:
            connection = Connection(self._address)
        except OSError:
            return 'refused', None
        with connection:
            try:
                response = connection.get(path, connection='close')
            except (OSError, ValueError):
                return 'lost', None
        return (
            ('answered', response.text) if response.status == 200 else ('failed', None)
        )

    def wait(self, condition):
        """Wait until it is so, as it may be after each answer."""
        with self._came:
            assert self._came.wait_for(condition, 60), self.outcomes

    def more(self, count=REQUESTS):
        """Wait for so many answers more."""
        target = self.outcomes['answered'] + count
        self.wait(lambda: self.outcomes['answered'] >= target)

    def others(self):
        """Wait for an answer of a process that has not answered yet."""
        known = set(self.processes)
        self.wait(lambda: self.processes - known - {None})


# -- what the site wrote ------------------------------------------------------------


class Report(NamedTuple):
    """Of some rounds: in how many processes each promise held, of how many; the evidence."""

    held: Counter
    processes: Counter
    outcomes: Counter
    evidence: list
    capabilities: set


def read(folder):
    """What each process wrote: {process: [(event, more), …]}, in order."""
    written = {}
    *lines, _ = (Path(folder) / 'events').read_text().split('\n')
    for line in lines:  # what follows the last line feed is half a line
        process, event, *more = line.split()
        written.setdefault(process, []).append((event, ' '.join(more)))
    return written


def judge(lines):
    """Which of the first three PROMISES one process kept: {promise: bool}."""
    names = [event for event, _ in lines]
    requests = [index for index, name in enumerate(names) if name == 'request']
    start = names.index('start') if 'start' in names else len(names)
    stop = names.index('stop') if 'stop' in names else len(names)
    open_ones = [more == 'open' for name, more in lines if name == 'request']
    return {
        'started once': names.count('start') == 1
        and (not requests or start < requests[0]),
        'stopped once': names.count('stop') == 1,
        'stopped last': all(open_ones)
        and names[stop:].count('response') == 0
        and names[:stop].count('request') == names[:stop].count('response'),
    }


def served(lines):
    """Whether it is a process that was to serve: a master composes, at most."""
    return any(event in ('start', 'request') for event, _ in lines)


def replaced(folder, processes):
    """Those of the processes that a reload has ended: a stop may be faster than the reload.

    Waits for them, but not long: some hosts end a process without a stop.
    """
    until = time.monotonic() + REPLACED
    while True:
        written = read(folder)
        stopped = {one for one in processes if 'stop' in dict(written[one])}
        serve = {one for one in processes - stopped if served(written[one])}
        if not serve or time.monotonic() > until:
            return stopped
        threading.Event().wait(0.05)


def capabilities(written):
    """What the host promises: the site wrote it down when it was composed."""
    for lines in written.values():
        for event, more in lines:
            if event == 'composed':
                said = more.split()[1].split(',')
                return {one for one in CAPABILITIES if one.replace(' ', '-') in said}
    return set()


def add(report, written, code, reloaded):
    """Count one round's."""
    report.capabilities.update(capabilities(written))
    for process, lines in written.items():
        if not served(lines):
            continue
        kept = judge(lines)
        if process in reloaded and 'reload' in report.capabilities:
            kept['told to reload'] = ('graceful', '') in lines
        for promise, held in kept.items():
            report.processes[promise] += 1
            report.held[promise] += held
            if not held and PROMISED_BY[promise] in report.capabilities:
                tail = ' '.join(event for event, _ in lines[-12:])
                report.evidence.append(f'{promise}: process {process}: … {tail}')
    if code:
        report.evidence.append(f'exit code {code}')


def run_round(runner_class, report, folder):
    """Start, load, reload, load, stop under load."""
    shutil.copytree(
        SITE, folder, dirs_exist_ok=True, ignore=shutil.ignore_patterns('events')
    )
    runner = runner_class(folder)
    reloaded = set()
    try:
        runner.start()
        with Load(runner.port) as load:
            load.more()
            if runner.reloads:
                before = set(read(folder))
                runner.reload()
                load.others()
                load.more()
                reloaded = replaced(folder, before)
            code = runner.stop()
        report.outcomes.update(load.outcomes)
        add(report, read(folder), code, reloaded)
    except BaseException:
        print(runner.log()[-3000:] if runner.process else '', file=sys.stderr)
        raise
    finally:
        runner.close()


def conform(runner_class, rounds, folder=None):
    """So many rounds of one host: a Report."""
    report = Report(Counter(), Counter(), Counter(), [], set())
    for number in range(rounds):
        with contextlib.ExitStack() as stack:
            path = folder and Path(folder) / str(number)
            if path is None:
                path = stack.enter_context(tempfile.TemporaryDirectory())
            run_round(runner_class, report, path)
    return report


# -- the table ---------------------------------------------------------------------


def row(*cells):
    return f'| {" | ".join(map(str, cells))} |'


def head(*cells):
    return f'{row(*cells)}\n|{"---|" * len(cells)}'


def measured(runner_class, report, rounds):
    """A row: in how many processes each promise held, of how many."""
    cells = []
    for promise in PROMISES:
        count = report.processes[promise]
        cells.append(f'{report.held[promise]} of {count}' if count else '–')
    lost = report.outcomes['lost'] + report.outcomes['failed']
    cells.append(f'{lost} of {report.outcomes["answered"] + lost}')
    return row(runner_class.title, rounds, *cells)


def promised(runner_class, report):
    """A row: what the host says that it can do."""
    cells = ['yes' if word in report.capabilities else '' for word in CAPABILITIES]
    return row(runner_class.title, *cells)


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition('\n')[0])
    parser.add_argument('names', nargs='*', metavar='NAME')
    parser.add_argument('-n', '--rounds', type=int, default=20)
    options = parser.parse_args()
    known, reports = runners(), {}
    print(head('host', 'rounds', *PROMISES, 'requests lost'))
    for name in options.names or known:
        reports[name] = conform(known[name], options.rounds)
        print(measured(known[name], reports[name], options.rounds), flush=True)
    print(f'\n{head("host", *CAPABILITIES)}')
    for name, report in reports.items():
        print(promised(known[name], report))
    evidence = [f'{name}: {one}' for name in reports for one in reports[name].evidence]
    print(*evidence, sep='\n')
    return 1 if evidence else 0


if __name__ == '__main__':
    sys.exit(main())
