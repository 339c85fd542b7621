"""Random faults under load: ``python -m tests.attacks.chaos --minutes 10``.

A daemon with workers serves four clients without a pause. Meanwhile its processes are killed
and stopped, its code is broken, its disk is full, or its .ini cannot be read. After each fault,
`status` must answer in time, and must be right. A request may fail only if the process that had
it was killed: the application notes which process begins it. If none had begun it, it was in a
server's queue, and may fail only for a moment after a kill. In the second half, the supervisor
is not killed: its memory must not grow.
"""

import argparse
import contextlib
import http.client
import itertools
import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

from tests.kit.places import ROOT

#: Seconds that `status` may take, that any other command may take, and that a client's
#: request may take.
STATUS_LIMIT, LIMIT, PATIENCE = 10, 60, 30

#: Seconds after a kill in which requests of the killed process may fail. If it was the
#: supervisor, they count from the moment when a new one serves.
AFTERMATH = 1.5

INI = """\
[app:main]
use = call:webapp:make
[server:main]
use = egg:waitress
host = 127.0.0.1
port = {port}
[wspbus:main]
soak = 0
plugins = db
workers = 2
stop_timeout = 10
start_timeout = 20
[plugin:db]
use = call:webapp:db
[loggers]
keys = root
[handlers]
keys = file
[formatters]
keys =
[logger_root]
level = INFO
handlers = file
[handler_file]
class = FileHandler
args = ('disk/site.log',)
"""

WEBAPP = """
import os
import time


def make(global_conf):
    begun = os.open('begun', os.O_WRONLY | os.O_CREAT | os.O_APPEND)

    def app(environ, start_response):
        path = environ['PATH_INFO']
        if path.startswith('/asked/'):
            os.write(begun, f'{path[7:]} {os.getpid()}\\n'.encode())
        if path == '/memory':
            held = bytearray(100_000_000)
            time.sleep(0.1)
        if path == '/descriptors':
            held = []
            try:
                while True:
                    held.append(os.open('/dev/null', os.O_RDONLY))
            except OSError:
                time.sleep(0.1)
            finally:
                for fd in held:
                    os.close(fd)
        time.sleep(0.005)
        start_response('200 OK', [('Content-Length', '2')])
        return [b'hi']
    return app


def db(bus, global_conf):
    yield
"""

BROKEN = WEBAPP + '\nraise RuntimeError("broken on purpose")\n'


class Load:
    """Clients that send requests without a pause.

    ``failed`` has (its name, when it began, when it ended, reason) for each failed request.
    """

    def __init__(self, port, clients=4):
        self.port, self.count, self.failed = port, 0, []
        self._over, self._names = threading.Event(), itertools.count()
        self._threads = [threading.Thread(target=self._ask) for _ in range(clients)]

    def __enter__(self):
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_):
        self._over.set()
        for thread in self._threads:
            thread.join()

    def _ask(self):
        while not self._over.is_set():
            began, name = time.monotonic(), str(next(self._names))
            try:
                self.get(f'/asked/{name}')
                self.count += 1
            except (OSError, http.client.HTTPException) as error:
                self.failed.append((name, began, time.monotonic(), repr(error)))
                self._over.wait(0.02)

    def get(self, path):
        """Send one request on a new connection."""
        connection = http.client.HTTPConnection(
            '127.0.0.1', self.port, timeout=PATIENCE
        )
        with contextlib.closing(connection):
            connection.request('GET', path, headers={'Connection': 'close'})
            response = connection.getresponse()
            body = response.read()
            if response.status != 200 or body != b'hi':
                raise http.client.HTTPException(f'{response.status} {body[:100]!r}')


class Chaos:
    """One site under faults. ``wrong`` has a text for each failure."""

    def __init__(self, folder, minutes, seed):
        self.folder, self.seconds, self.dice = (
            Path(folder),
            minutes * 60,
            random.Random(seed),
        )
        self.wrong, self.kills, self.memory, self.done = [], [], [], {}
        #: The processes that were killed, or whose supervisor was killed.
        self.killed = set()
        #: How many failed requests a killed process had begun, and how many none had.
        self.of_killed = self.of_nobody = 0
        with contextlib.closing(socket.socket()) as sock:
            sock.bind(('127.0.0.1', 0))
            self.port = sock.getsockname()[1]
        self.is_mounted = self.is_late = False

    def run(self):
        self.write('site.ini', INI.format(port=self.port))
        self.write('webapp.py', WEBAPP)
        (self.folder / 'disk').mkdir()
        mount = [
            'mount',
            '-t',
            'tmpfs',
            '-o',
            'size=256k',
            'tmpfs',
            self.folder / 'disk',
        ]
        self.is_mounted = not subprocess.run(mount, capture_output=True).returncode
        try:
            self.start()
            with Load(self.port) as self.load:
                self.harm()
            self.command('stop')
        finally:
            for pid in self.processes():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            if self.is_mounted:
                subprocess.run(['umount', '-l', self.folder / 'disk'], check=False)
        self.judge()

    def harm(self):
        began = time.monotonic()
        faults = [name for name in dir(self) if name.startswith('fault_')]
        while (age := time.monotonic() - began) < self.seconds:
            self.is_late = age > self.seconds / 2
            name = self.dice.choice(faults)
            self.done[name[6:]] = self.done.get(name[6:], 0) + 1
            getattr(self, name)()
            self.check_status(name)
            self.memory.append((age / self.seconds, self.pid, rss(self.pid)))
            time.sleep(self.dice.uniform(0, 0.5))

    # -- the faults ----------------------------------------------------------------

    def fault_kill_a_worker(self):
        workers = self.workers()
        if workers:
            self.kill(self.dice.choice(workers), signal.SIGKILL)

    def fault_kill_the_supervisor(self):
        # Do this rarely, because it ends the site.
        if self.is_late or self.dice.random() < 0.8:
            return
        began = time.monotonic()
        self.killed.update(self.workers())
        self.kill(self.pid, signal.SIGKILL)
        until = time.monotonic() + LIMIT
        while Path(f'/proc/{self.pid}').exists() and time.monotonic() < until:
            time.sleep(0.01)
        code, _ = self.command('status', limit=STATUS_LIMIT)
        if code not in (1, 3):
            self.wrong.append(
                f'status exits with {code}, and the supervisor was killed'
            )
        self.start()
        self.kills.append((began, time.monotonic() + AFTERMATH))

    def fault_stop_a_worker(self):
        workers = self.workers()
        if workers:
            worker = self.dice.choice(workers)
            self.send(worker, signal.SIGSTOP)
            time.sleep(self.dice.uniform(0, 1))
            self.check_status('while a worker is stopped')
            self.send(worker, signal.SIGCONT)

    def fault_hup(self):
        self.send(self.pid, signal.SIGHUP)

    def fault_hup_with_broken_code(self):
        self.write('webapp.py', BROKEN)
        self.send(self.pid, signal.SIGHUP)
        time.sleep(self.dice.uniform(0, 1))
        self.write('webapp.py', WEBAPP)

    def fault_graceful(self):
        code, text = self.command('graceful')
        if code not in (0, 1):
            self.wrong.append(f'graceful exits with {code}: {text}')

    def fault_more_workers(self):
        self.send(self.pid, signal.SIGTTIN)

    def fault_fewer_workers(self):
        self.send(self.pid, signal.SIGTTOU)

    def fault_reopen_logs(self):
        self.send(self.pid, signal.SIGUSR1)

    def fault_full_disk(self):
        if self.is_mounted:
            with (
                contextlib.suppress(OSError),
                open(self.folder / 'disk/full', 'wb') as file,
            ):
                file.write(b'x' * 300_000)
            time.sleep(self.dice.uniform(0, 1))
            self.check_status('while the disk is full')
            (self.folder / 'disk/full').unlink(missing_ok=True)
            (self.folder / 'disk/site.log').write_text('')

    def fault_unreadable_ini(self):
        # Root can read every file, so a folder takes the place of the .ini.
        os.rename(self.folder / 'site.ini', self.folder / 'kept.ini')
        (self.folder / 'site.ini').mkdir()
        self.send(self.pid, signal.SIGHUP)
        time.sleep(self.dice.uniform(0, 0.5))
        (self.folder / 'site.ini').rmdir()
        os.rename(self.folder / 'kept.ini', self.folder / 'site.ini')

    def fault_memory(self):
        self.ask('/memory')

    def fault_descriptors(self):
        self.ask('/descriptors')

    # -- the checks ------------------------------------------------------------------

    def check_status(self, when):
        code, text = self.command('status', '--json', limit=STATUS_LIMIT)
        if code != 0:
            self.wrong.append(f'{when}: status exits with {code}: {text}')
            return
        status = json.loads(text.partition('\nstderr:')[0])
        if status.get('pid') != self.pid:
            self.wrong.append(f'{when}: status names process {status.get("pid")}')

    def judge(self):
        lines = (self.folder / 'begun').read_text().splitlines()
        owners = dict(line.split() for line in lines)
        for name, began, ended, why in self.load.failed:
            owner = owners.get(name)
            if owner is None:
                self.of_nobody += 1
                if not any(began <= last and ended >= at for at, last in self.kills):
                    self.wrong.append(
                        f'a request failed, and nothing was killed: {why}'
                    )
            elif int(owner) in self.killed:
                self.of_killed += 1
            else:
                self.wrong.append(f'process {owner} had it, and was not killed: {why}')
        late = [(age, pid, size) for age, pid, size in self.memory if age > 0.5]
        for pid in {pid for _, pid, _ in late}:
            sizes = [size for _, one, size in late if one == pid]
            if len(sizes) > 10 and sizes[-1] - sizes[0] > 1024:
                self.wrong.append(f'the supervisor grew: {sizes[0]} to {sizes[-1]} kB')

    # -- the tools ---------------------------------------------------------------------

    def command(self, *args, limit=LIMIT):
        """Run a subcommand; return its exit code (None if it hung) and its output."""
        words = [
            sys.executable,
            '-m',
            'paste_wspbus',
            'site.ini',
            '--pid-file=site.pid',
        ]
        try:
            done = subprocess.run(
                [*words, '--log-file=site.err', *args],
                cwd=self.folder,
                env={**os.environ, 'PYTHONPATH': f'{ROOT}{os.pathsep}{self.folder}'},
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                timeout=limit,
            )
        except subprocess.TimeoutExpired:
            self.wrong.append(f'{args} hangs')
            return None, ''
        return done.returncode, f'{done.stdout}\nstderr: {done.stderr}'

    def start(self):
        code, text = self.command('start')
        if code != 0:
            raise AssertionError(f'start exits with {code}: {text}')
        self.pid = int((self.folder / 'site.pid').read_text())

    def workers(self):
        return [
            int(Path(found).name)
            for found in Path('/proc').glob('[0-9]*')
            if _parent(found) == self.pid
        ]

    def processes(self):
        for found in Path('/proc').glob('[0-9]*'):
            with contextlib.suppress(OSError):
                if os.readlink(found / 'cwd') == str(self.folder):
                    yield int(found.name)

    def kill(self, pid, signum):
        now = time.monotonic()
        self.kills.append((now - 0.1, now + AFTERMATH))
        self.killed.add(pid)
        self.send(pid, signum)

    def send(self, pid, signum):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signum)

    def ask(self, path):
        with contextlib.suppress(OSError, http.client.HTTPException):
            self.load.get(path)

    def write(self, name, text):
        fresh = self.folder / f'{name}.new'
        fresh.write_text(text)
        os.replace(fresh, self.folder / name)


def _parent(process):
    try:
        return int((process / 'stat').read_text().rpartition(')')[2].split()[1])
    except OSError:
        return None


def rss(pid):
    """Return the memory of a process in kB; 0 if it has ended."""
    with contextlib.suppress(OSError):
        for line in Path(f'/proc/{pid}/status').read_text().splitlines():
            if line.startswith('VmRSS:'):
                return int(line.split()[1])
    return 0


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--minutes', type=float, default=10)
    parser.add_argument('--seed', type=int, default=0)
    options = parser.parse_args()
    folder = tempfile.mkdtemp()
    chaos = Chaos(folder, options.minutes, options.seed)
    try:
        chaos.run()
    finally:
        log = Path(folder, 'site.err').read_text(errors='replace')[-6000:]
        shutil.rmtree(folder, ignore_errors=True)
    faults = ', '.join(f'{count} {name}' for name, count in sorted(chaos.done.items()))
    sizes = [size for _, _, size in chaos.memory]
    print(
        f'{chaos.load.count} requests answered; {faults}',
        f'{len(chaos.load.failed)} requests failed: {chaos.of_killed} that a killed process had '
        f'begun, {chaos.of_nobody} that none had begun',
        f'memory of the supervisor: {sizes[0]} kB at first, {sizes[-1]} kB at last',
        f'{len(chaos.wrong)} wrong',
        *chaos.wrong[:20],
        sep='\n',
    )
    if chaos.wrong:
        print(log)
    return bool(chaos.wrong)


if __name__ == '__main__':
    sys.exit(main())
