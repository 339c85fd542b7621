"""Many starts and many restarts of one site: ``python -m tests.attacks.cycles --count 260``.

`daemon`: a daemon starts, is asked, and is stopped: by `stop`, by SIGTERM, or by `restart` and
`stop`; sometimes it is killed, or a second `start` comes at the same time. Each command must
exit with the right code, and no process and no file may remain.

`graceful`: a site with workers restarts gracefully while clients send requests. No request may
fail, each generation has the next number, and the supervisor must not grow.
"""

import argparse
import contextlib
import json
import os
import random
import re
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tests.attacks.chaos import Load, rss
from tests.kit.clients import Connection
from tests.kit.places import ROOT
from tests.kit.processes import has_ended

#: Seconds that a command, and the end of a process, may take on a busy machine.
LIMIT = 60

#: The kilobytes by which the supervisor may grow in the second half.
GROWTH = 1024

FILES = {
    'site.ini': """\
[app:main]
use = call:webapp:make
[server:main]
use = egg:waitress
host = 127.0.0.1
port = 0
[wspbus:main]
soak = 0
plugins = db
[plugin:db]
use = call:webapp:db
""",
    'webapp.py': """
import os


def make(global_conf):
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


class Cycles:
    """One site in a folder. ``wrong`` has a text for each failure."""

    def __init__(self, folder, seed=0, args=()):
        self.folder, self.dice, self.wrong = Path(folder), random.Random(seed), []
        self.args = args
        for name, text in FILES.items():
            (self.folder / name).write_text(text)

    def begin(self, *words):
        return subprocess.Popen(
            [sys.executable, '-m', 'paste_wspbus', 'site.ini', *words],
            cwd=self.folder,
            env={**os.environ, 'PYTHONPATH': str(ROOT)},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(self, *words, code=0):
        """Run a command to its end; note another exit code than ``code``; return its output."""
        return self.end(self.begin(*words), words, code)

    def end(self, process, words, code=0):
        try:
            out, err = process.communicate(timeout=LIMIT)
        except subprocess.TimeoutExpired:
            process.kill()
            out, err = process.communicate()
            self.wrong.append(f'{words} hangs: {out}{err}')
        else:
            if process.returncode != code or 'Traceback' in err:
                self.wrong.append(f'{words}: {process.returncode}: {out}{err}')
        return out

    @property
    def pid(self):
        return int((self.folder / 'paster.pid').read_text())

    # -- daemons ------------------------------------------------------------------------

    def daemon(self):
        """Start a daemon and end it, in one of many ways."""
        way = self.dice.choice(['stop', 'TERM', 'restart', 'KILL', 'two'])
        if way == 'two':
            both = [self.begin('start', *self.args) for _ in range(2)]
            out = ''.join([self.end(one, 'start') for one in both])
        else:
            out = self.run('start', *self.args)
        try:
            pid = self.pid
            self.ask(out)
            if way == 'restart':
                self.ask(self.run('restart', *self.args) or out)
                if self.pid == pid:
                    self.wrong.append('restart: the process is the same')
                pid = self.pid
            if f'process {pid}' not in self.run('status'):
                self.wrong.append(f'status does not name process {pid}')
            if way in ('TERM', 'KILL'):
                os.kill(pid, getattr(signal, f'SIG{way}'))
                self.await_end(pid)
            self.run('status', code={'KILL': 1, 'TERM': 3}.get(way, 0))
            self.run('stop')
            self.await_end(pid)
        except (OSError, ValueError, LookupError) as error:
            self.wrong.append(f'{way}: {error!r}')
        self.look(way)

    def ask(self, out):
        (port,) = set(re.findall(r'^Serving on http://127.0.0.1:(\d+)$', out, re.M))
        with Connection(('127.0.0.1', int(port))) as connection:
            status = connection.get('/', connection='close').status
            if status != 200:
                self.wrong.append(f'the response is {status}')

    def await_end(self, pid):
        until = time.monotonic() + LIMIT
        while not has_ended(pid) and time.monotonic() < until:
            time.sleep(0.01)
        if not has_ended(pid):
            self.wrong.append(f'process {pid} does not end')

    def look(self, way):
        until = time.monotonic() + LIMIT
        while (pids := list(self.processes())) and time.monotonic() < until:
            time.sleep(0.01)
        if pids:
            self.wrong.append(f'{way}: processes are left: {pids}')
        left = {*os.listdir(self.folder)} - {*FILES, 'paster.log', '__pycache__'}
        if way == 'KILL':  # nobody could remove what the site has made
            left = {name for name in left if not name.startswith('open.')}
            for path in self.folder.glob('open.*'):
                path.unlink()
        log = self.folder / 'paster.log'
        text = log.read_text() if log.exists() else ''
        log.unlink(missing_ok=True)
        if left or 'Traceback' in text:
            self.wrong.append(f'{way}: files are left: {sorted(left)}\n{text[-3000:]}')

    def processes(self):
        for found in Path('/proc').glob('[0-9]*'):
            with contextlib.suppress(OSError):
                if os.readlink(found / 'cwd') == str(self.folder):
                    yield int(found.name)

    # -- graceful restarts -----------------------------------------------------------------

    def graceful(self, count):
        """Restart a site ``count`` times, under load; return the number of requests."""
        out = self.run('start', '--workers', '2', *self.args)
        port = int(re.search(r'^Serving on http://127.0.0.1:(\d+)$', out, re.M)[1])
        supervisor, sizes = self.pid, []
        with Load(port, clients=2) as load:
            for number in range(count):
                said = self.run('graceful')
                if f'Generation {number + 2} serves' not in said:
                    self.wrong.append(f'restart {number + 1}: {said}')
                sizes.append(rss(supervisor))
            status = json.loads(self.run('status', '--json'))
            if status['pid'] != supervisor or len(status['workers']) != 2:
                self.wrong.append(f'status: {status}')
        self.wrong += [f'a request failed: {why}' for _, _, why in load.failed]
        half = sizes[len(sizes) // 2 :]
        if len(half) > 10 and half[-1] - half[0] > GROWTH:
            self.wrong.append(f'the supervisor grew from {half[0]} to {half[-1]} kB')
        self.run('stop')
        self.look('graceful')
        return load.count


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--count', type=int, default=260)
    parser.add_argument('--seed', type=int, default=0)
    parser.add_argument('--kind', choices=['daemon', 'graceful'], action='append')
    parser.add_argument('--workers', default='0', help='workers of each daemon')
    options = parser.parse_args()
    failed = 0
    for kind in options.kind or ['daemon', 'graceful']:
        began, more = time.monotonic(), ''
        args = ['--workers', options.workers] if options.workers != '0' else []
        with tempfile.TemporaryDirectory() as folder:
            if kind == 'daemon':
                cycles = Cycles(folder, options.seed, args)
                for _ in range(options.count):
                    cycles.daemon()
            else:
                cycles = Cycles(folder, options.seed)
                more = f', {cycles.graceful(options.count)} requests'
        failed += len(cycles.wrong)
        print(
            f'{kind}: {options.count} in {time.monotonic() - began:.0f} s{more}, '
            f'{len(cycles.wrong)} wrong',
            *cycles.wrong[:20],
            sep='\n',
            flush=True,
        )
    return bool(failed)


if __name__ == '__main__':
    sys.exit(main())
