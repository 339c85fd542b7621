"""The same site in worker processes of ours, gunicorn and uWSGI: deploy, serve, restart."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import rounds

#: Seconds that the site takes to be composed, as one with a few imports does.
COMPOSITION = 0.5

#: Threads of each worker, where there is a pool.
THREADS = 4

INI = """
[app:main]
use = call:deployed:make_app

[server:main]
use = {server}
host = 127.0.0.1
port = {port}
{threads}

[wspbus:main]
preload = {preload}
"""

#: The module that is deployed; its page is its version and the process that answers.
APP = """
import logging
import os
import time

# waitress logs each request that waits for a thread.
logging.getLogger('waitress.queue').setLevel(logging.ERROR)

{work}
def app(environ, start_response):
    compute()
    body = b'{version} %d\\n' % os.getpid()
    headers = [('Content-Type', 'text/plain'), ('Content-Length', str(len(body)))]
    start_response('200 OK', headers)
    return [body]


def make_app(global_conf):
    return app


time.sleep({composition})
"""

NO_WORK = """
def compute():
    pass

"""


class Site:
    """What is deployed, in a folder of its own, and where it is served."""

    def __init__(self, folder: str, workers: int, preload: bool = False) -> None:
        self.folder, self.workers, self.preload = Path(folder), workers, preload
        self.port = rounds.free_port()
        self.pid_file = self.folder / 'site.pid'
        self.trigger = self.folder / 'trigger'
        self.trigger.touch()
        self._deployed = 0

    def deploy(self, text: str) -> None:
        """Write the site's module."""
        module = self.folder / 'deployed.py'
        module.write_text(text)
        # Bytecode is told from a newer source by whole seconds.
        self._deployed += 10
        os.utime(module, (self._deployed, self._deployed))


def page_of(version: str, work: str = NO_WORK, composition: float = COMPOSITION) -> str:
    """The module of a site whose page tells its version."""
    return APP.format(version=version, work=work, composition=composition)


# -- processes ------------------------------------------------------------------------


def children(pid: int) -> list[int]:
    """A process's children; none if it is gone."""
    found: list[int] = []
    with contextlib.suppress(OSError):
        for task in Path(f'/proc/{pid}/task').iterdir():
            found += map(int, (task / 'children').read_text().split())
    return found


def workers(pid: int) -> set[int]:
    """The processes below this one that have no children themselves."""
    below = children(pid)
    found = set[int]()
    for one in below:
        found |= workers(one) or {one}
    return found


def family(pid: int) -> set[int]:
    """A process, and all below it."""
    return {pid}.union(*map(family, children(pid)))


class Running:
    """A site that is served: the process that was started is its supervisor."""

    def __init__(self, process: subprocess.Popen[bytes], site: Site, log: Path) -> None:
        self.process, self.site, self._log = process, site, log
        self.pid = process.pid

    @property
    def log(self) -> str:
        """What it has printed."""
        return self._log.read_text(errors='replace')

    def workers(self) -> set[int]:
        """Its worker processes, by their IDs."""
        return workers(self.pid)

    def wait_until(self, what: str, is_so: Callable[[], bool]) -> None:
        """:raises rounds.Unavailable: if it ends, or if that takes too long."""
        until = time.monotonic() + rounds.PATIENCE
        while not is_so():
            if self.process.poll() is not None:
                raise rounds.Unavailable(f'it exited with {self.process.returncode}')
            if time.monotonic() > until:
                raise rounds.Unavailable(f'not {what} within {rounds.PATIENCE:g} s')
            time.sleep(0.01)


@contextlib.contextmanager
def serving(command: list[str], site: Site) -> Iterator[Running]:
    """The command's process, until the block ends; nothing of it stays."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith('PYTHON')}
    environment['PYTHONPATH'] = str(site.folder)
    path = site.folder / 'log'
    with path.open('wb') as log:
        process = subprocess.Popen(
            command,
            cwd=site.folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
        )
    running = Running(process, site, path)
    try:
        rounds.wait_for_response(site.port, process)
        running.wait_until('all workers there', lambda: is_up(running))
        yield running
    except rounds.Unavailable as why:
        said = running.log.strip().splitlines()
        raise rounds.Unavailable(f'{why}: {said[-1]}' if said else str(why)) from None
    finally:
        all_of_it = family(process.pid)
        process.terminate()
        try:
            rounds.wait_for_end(process)
        except rounds.Unavailable as why:
            print(f'note: {Path(command[0]).name} was told to stop: {why}')
        for pid in all_of_it | family(process.pid):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        process.wait(rounds.PATIENCE)


def is_up(running: Running) -> bool:
    """Whether all workers are there; ours tells when they have started, too."""
    are_there = len(running.workers()) >= running.site.workers
    tells = running.process.args[0] == rounds.command('wspserve')
    return are_there and (not tells or 'Serving on' in running.log)


# -- servers ----------------------------------------------------------------------------


class Server:
    """How one server is started, and told to restart."""

    def __init__(self, name: str) -> None:
        self.name = name

    def command(self, site: Site) -> list[str]:
        """:raises rounds.Unavailable: if it is not installed."""
        raise NotImplementedError

    def restart(self, running: Running) -> tuple[int | None, str]:
        """Have it restart gracefully: the exit code and what was said, if it says.

        ``None``: the server does not tell, and goes on in the background.
        """
        raise NotImplementedError

    @contextlib.contextmanager
    def serves(
        self, text: str, workers: int, preload: bool = False
    ) -> Iterator[Running]:
        """It serves a module, until the block ends."""
        with tempfile.TemporaryDirectory() as folder:
            site = Site(folder, workers, preload)
            site.deploy(text)
            with serving(self.command(site), site) as running:
                yield running


class Wspserve(Server):
    """Ours, with one of the HTTP servers; ``graceful`` waits for the outcome."""

    def __init__(self, server: str) -> None:
        super().__init__(f'wspserve, {server}')
        self.server, self.option = {
            'waitress': ('egg:waitress', 'threads'),
            'cheroot': ('egg:paste_wspbus#cheroot', 'numthreads'),
        }[server]

    def command(self, site: Site) -> list[str]:
        ini = site.folder / 'site.ini'
        text = INI.format(
            server=self.server,
            port=site.port,
            threads=f'{self.option} = {THREADS}',
            preload=str(site.preload).lower(),
        )
        ini.write_text(text)
        options = [f'--workers={site.workers}', f'--pid-file={site.pid_file}']
        return [rounds.command('wspserve'), str(ini), *options]

    def restart(self, running: Running) -> tuple[int | None, str]:
        site = running.site
        said = subprocess.run(
            [
                rounds.command('wspserve'),
                str(site.folder / 'site.ini'),
                'graceful',
                f'--pid-file={site.pid_file}',
            ],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=rounds.PATIENCE * 3,
            text=True,
        )
        return said.returncode, (said.stdout + said.stderr).strip()


class Gunicorn(Server):
    """gunicorn: SIGHUP."""

    def __init__(self, worker: str) -> None:
        super().__init__(f'gunicorn, {worker}')
        self.worker = worker

    def command(self, site: Site) -> list[str]:
        threads = [f'--threads={THREADS}'] if self.worker == 'gthread' else []
        preload = ['--preload'] if site.preload else []
        return [
            rounds.command('gunicorn'),
            *(f'--worker-class={self.worker}', *threads, *preload),
            *(f'--workers={site.workers}', '--no-control-socket'),
            *(f'--bind=127.0.0.1:{site.port}', 'deployed:app'),
        ]

    def restart(self, running: Running) -> tuple[int | None, str]:
        running.process.send_signal(signal.SIGHUP)
        return None, ''


class UWSGI(Server):
    """uWSGI: ``chain``: one worker after the other, else all of them by SIGHUP."""

    def __init__(self, chain: bool) -> None:
        super().__init__('uWSGI, chain reload' if chain else 'uWSGI, SIGHUP')
        self.chain = chain

    def command(self, site: Site) -> list[str]:
        path = Path(sys.executable).with_name('uwsgi')
        found = str(path) if path.exists() else shutil.which('uwsgi')
        if found is None:
            raise rounds.Unavailable('not installed')
        options = [
            *('--master', '--enable-threads', '--lazy-apps', '--die-on-term'),
            *('--disable-logging', '--need-app', '--no-orphans'),
            f'--touch-chain-reload={site.trigger}',
            # It keeps no connection alive, and does not say so.
            '--add-header=Connection: close',
            *(f'--processes={site.workers}', f'--threads={THREADS}'),
            *(f'--http-socket=127.0.0.1:{site.port}', '--module=deployed:app'),
        ]
        return [found, *options]

    def restart(self, running: Running) -> tuple[int | None, str]:
        if self.chain:
            over = 'chain reloading complete'
            before = running.log.count(over)
            later = running.site.trigger.stat().st_mtime + 10  # seconds count
            os.utime(running.site.trigger, (later, later))
            # While one is under way, it forgets the next.
            with contextlib.suppress(rounds.Unavailable):  # it goes on after it
                running.wait_until(over, lambda: running.log.count(over) > before)
        else:
            running.process.send_signal(signal.SIGHUP)
        return None, ''
