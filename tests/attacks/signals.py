"""Signals to stop at random moments: ``python -m tests.attacks.signals --count 1000``.

Each trial starts a site, and sends it SIGTERM or SIGINT at a random moment from the first line
of `main` to the end of the process. Often it sends a second signal soon after. Then it checks
the exit code, the output, and that no process and no file remains.
"""

import argparse
import contextlib
import os
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tests.kit.places import ROOT
from tests.kit.processes import processes_of_session

#: Seconds within which a site must end, on a machine that is busy with other tests.
LIMIT = 30

#: The command, which prints when `main` has begun. `main` first sets its signal handlers,
#: and then registers an atexit handler: at this moment the command prints. Before that,
#: Python itself handles the signals.
COMMAND = """
import atexit, os, sys
from paste_wspbus.__main__ import main

def begins(function):
    atexit.register = register
    register(function)
    os.write(1, b'begins\\n')

register, atexit.register = atexit.register, begins
sys.exit(main())
"""

#: A site whose load runs code in finalizers and callbacks half of the time: Python drops an
#: exception that a signal handler raises there.
FILES = {
    'site.ini': """
[app:main]
use = call:webapp:make
[server:main]
use = egg:waitress
listen = 127.0.0.1:0
[wspbus:main]
soak = 300ms
plugins = db
stop_timeout = 20
[plugin:db]
use = call:webapp:db
""",
    'webapp.py': """
import os
import time
import weakref


class Busy:
    def __del__(self):
        spin(0.001)


def spin(seconds):
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        pass


def churn(seconds):
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        Busy()
        kept = Busy()
        callback = weakref.ref(kept, lambda _: spin(0.001))
        del kept
        spin(0.001)


def make(global_conf):
    churn(0.05)

    def app(environ, start_response):
        start_response('200 OK', [('Content-Length', '2')])
        return [b'hi']
    return app


def db(bus, global_conf):
    path = f'open.{os.getpid()}'
    open(path, 'x').close()
    yield
    os.unlink(path)
""",
}

#: The arguments of each mode, and what happens to the site before the signal.
MODES = {
    'single': ([], None),
    'restart': ([], 'hangup'),
    'workers': (['--workers', '2'], None),
    'graceful': (['--workers', '2'], 'hangup'),
    'fork': (['--reload', '--reloader=fork'], 'save'),
    'child': (['--reload', '--reloader=child'], 'save'),
    'execv': (['--reload', '--reloader=execv'], 'save'),
    'daemon': (['--daemon', '--log-file=site.log'], None),
}


class Trial:
    """One site, started and stopped; `run` returns what is wrong, or ''."""

    def __init__(self, mode, seed):
        self.mode, self.seed = mode, seed
        self.dice = random.Random(f'{mode} {seed}')
        self.args, self.before = MODES[mode]
        self.first = self.dice.choice([signal.SIGTERM, signal.SIGINT])
        #: Seconds from the first signal to the end.
        self.took = 0.0

    def run(self):
        with tempfile.TemporaryDirectory() as folder:
            self.folder = Path(folder)
            for name, text in FILES.items():
                (self.folder / name).write_text(text)
            return self._run()

    def _run(self):
        with (self.folder / 'err').open('wb') as err:
            process = subprocess.Popen(
                [
                    sys.executable,
                    '-c',
                    COMMAND,
                    'site.ini',
                    '--pid-file=site.pid',
                    *self.args,
                ],
                cwd=self.folder,
                env={**os.environ, 'PYTHONPATH': str(ROOT)},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=err,
                start_new_session=True,
            )
        try:
            return self._attack(process)
        finally:
            for pid in {process.pid, *self._pids(process)}:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            process.wait()
            process.stdout.close()

    def _attack(self, process):
        out = Lines(process.stdout)
        out.wait_for('begins')
        if self.before and self.dice.random() < 0.8:
            out.wait_for('Serving on')
            self._disturb(process)
            time.sleep(self.dice.uniform(0, 0.4))
        else:
            time.sleep(self.dice.uniform(0, 0.5))
        self._send(process, self.first)
        sent, began = {self.first}, time.monotonic()
        if self.dice.random() < 0.5:
            second = self.dice.choice([signal.SIGTERM, signal.SIGINT])
            time.sleep(self.dice.uniform(0, 0.4))
            # On a busy machine, the second signal may count as one: it ends a start with 130.
            sent |= {second, signal.SIGINT}
            self._send(process, second)
        try:
            code = process.wait(LIMIT)
        except subprocess.TimeoutExpired:
            return self._tell('does not end', process)
        if self.mode == 'daemon':
            code = self._end_daemon(code)
        self.took = time.monotonic() - began
        return self._judge(code, sent, process)

    def _disturb(self, process):
        if self.before == 'hangup':
            process.send_signal(signal.SIGHUP)
        else:
            path = self.folder / 'webapp.py'
            path.write_text(path.read_text() + '\n# saved\n')

    def _send(self, process, signum):
        if self.dice.random() < 0.5 and self.mode != 'daemon':
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signum)
        else:
            process.send_signal(signum)

    def _end_daemon(self, code):
        """If the command has returned, its daemon runs: send the signal to the daemon."""
        if code != 0:
            return code
        try:
            pid = int((self.folder / 'site.pid').read_text())
        except FileNotFoundError:
            return code  # it was stopped at the moment when it was ready
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, self.first)
        until = time.monotonic() + LIMIT
        while os.path.exists(f'/proc/{pid}') and time.monotonic() < until:
            time.sleep(0.01)
        return code

    def _judge(self, code, sent, process):
        allowed = {0, *(128 + signum for signum in sent)}
        if self.mode not in ('single', 'daemon'):
            allowed.add(143)  # a loading worker, or the next program, gets SIGTERM
        if code not in allowed:
            return self._tell(f'exit code {code}', process)
        err = (self.folder / 'err').read_text()
        if 'Traceback' in err or 'Exception ignored' in err:
            return self._tell(f'traceback, exit code {code}', process)
        until = time.monotonic() + LIMIT
        while (pids := self._pids(process)) and time.monotonic() < until:
            time.sleep(0.01)
        if pids:
            return self._tell(f'processes are left: {pids}', process)
        left = {*os.listdir(self.folder)} - {*FILES, 'err', 'site.log', '__pycache__'}
        if left:
            return self._tell(f'files are left: {sorted(left)}', process)
        return ''

    def _pids(self, process):
        """Return the living processes of this trial; a daemon has its own session."""
        found = set(processes_of_session(process.pid))
        for stat in Path('/proc').glob('[0-9]*'):
            with contextlib.suppress(OSError):
                if os.readlink(stat / 'cwd') == str(self.folder):
                    found.add(int(stat.name))
        return sorted(found)

    def _tell(self, what, process):
        err = (self.folder / 'err').read_text()
        return f'{self.mode} {self.seed} ({self.first.name}): {what}\n{err}'


class Lines:
    """The text that a process writes; a thread reads it."""

    def __init__(self, pipe):
        self.text = ''
        self._came = threading.Condition()
        threading.Thread(target=self._read, args=(pipe,), daemon=True).start()

    def _read(self, pipe):
        with contextlib.suppress(ValueError, OSError):
            while came := os.read(pipe.fileno(), 4096):
                with self._came:
                    self.text += came.decode()
                    self._came.notify_all()

    def wait_for(self, text):
        with self._came:
            assert self._came.wait_for(lambda: text in self.text, LIMIT), self.text


def attack(mode, count, first=0, jobs=2):
    """Run ``count`` trials; return a text for each failure, and the longest time."""
    trials = [Trial(mode, seed) for seed in range(first, first + count)]
    with ThreadPoolExecutor(jobs) as pool:
        results = [result for result in pool.map(Trial.run, trials) if result]
    return results, max(trial.took for trial in trials)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--count', type=int, default=40, help='trials in each mode')
    parser.add_argument('--first', type=int, default=0, help='the first seed')
    parser.add_argument('--jobs', type=int, default=2)
    parser.add_argument('--mode', choices=MODES, action='append')
    options = parser.parse_args()
    wrong = 0
    for mode in options.mode or MODES:
        began = time.monotonic()
        results, longest = attack(mode, options.count, options.first, options.jobs)
        wrong += len(results)
        print(
            f'{mode}: {options.count - len(results)} of {options.count} ended well, '
            f'{time.monotonic() - began:.0f} s; the slowest took {longest:.1f} s',
            flush=True,
        )
        for result in results:
            print(result, flush=True)
    return bool(wrong)


if __name__ == '__main__':
    sys.exit(main())
