"""The same site in workers of wspserve, gunicorn, uWSGI and granian: deploy, serve, restart."""

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

#: Seconds that the load of the site takes, as with a few imports.
COMPOSITION = 0.5

#: The number of threads of each worker, if the server has a pool.
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
soak = 0
"""

#: The module that is deployed; its page has its version and the ID of its process.
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
    """The deployed site, in its own folder, and the port on which it is served."""

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
        # Python compares bytecode with its source only by whole seconds.
        self._deployed += 10
        os.utime(module, (self._deployed, self._deployed))


def page_of(version: str, work: str = NO_WORK, composition: float = COMPOSITION) -> str:
    """Return the module of a site whose page shows its version."""
    return APP.format(version=version, work=work, composition=composition)


# -- processes ------------------------------------------------------------------------


def children(pid: int) -> list[int]:
    """Return the children of a process; [] if it has ended."""
    found: list[int] = []
    with contextlib.suppress(OSError):
        for task in Path(f'/proc/{pid}/task').iterdir():
            found += map(int, (task / 'children').read_text().split())
    return found


def workers(pid: int) -> set[int]:
    """Return the processes below this one that have no children themselves."""
    below = children(pid)
    found = set[int]()
    for one in below:
        found |= workers(one) or {one}
    return found


def family(pid: int) -> set[int]:
    """Return a process and all processes below it."""
    return {pid}.union(*map(family, children(pid)))


class Running:
    """A site that is served: the started process is its supervisor."""

    def __init__(self, process: subprocess.Popen[bytes], site: Site, log: Path) -> None:
        self.process, self.site, self._log = process, site, log
        self.pid = process.pid

    @property
    def log(self) -> str:
        """The output of the site until now."""
        return self._log.read_text(errors='replace')

    def workers(self) -> set[int]:
        """Return the process IDs of its workers."""
        return workers(self.pid)

    def wait_until(self, what: str, is_so: Callable[[], bool]) -> None:
        """Wait until a condition is true.

        :raises rounds.Unavailable: if the site ends, or if that takes too long.
        """
        until = time.monotonic() + rounds.PATIENCE
        while not is_so():
            if self.process.poll() is not None:
                raise rounds.Unavailable(f'it exited with {self.process.returncode}')
            if time.monotonic() > until:
                raise rounds.Unavailable(f'not {what} within {rounds.PATIENCE:g} s')
            time.sleep(0.01)


@contextlib.contextmanager
def serving(command: list[str], site: Site) -> Iterator[Running]:
    """Run a command until the block ends; then kill all its processes that remain."""
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
    """Whether all workers exist; wspserve also prints when they have started."""
    are_there = len(running.workers()) >= running.site.workers
    tells = running.process.args[0] == rounds.command('wspserve')
    return are_there and (not tells or 'Serving on' in running.log)


# -- servers ----------------------------------------------------------------------------


class Server:
    """How one server is started and restarted."""

    #: Whether Python's threads are all that a worker has.
    has_pythons_threads = True

    def __init__(self, name: str) -> None:
        self.name = name

    def command(self, site: Site) -> list[str]:
        """Return the command that serves a site.

        :raises rounds.Unavailable: if the server is not installed.
        """
        raise NotImplementedError

    def restart(self, running: Running) -> tuple[int | None, str]:
        """Restart it gracefully; return the exit code, and what the command printed.

        The exit code is None if the server restarts in the background and does not report
        the result.
        """
        raise NotImplementedError

    @contextlib.contextmanager
    def serves(
        self, text: str, workers: int, preload: bool = False
    ) -> Iterator[Running]:
        """Serve a module until the block ends."""
        with tempfile.TemporaryDirectory() as folder:
            site = Site(folder, workers, preload)
            site.deploy(text)
            with serving(self.command(site), site) as running:
                yield running


class Wspserve(Server):
    """wspserve with one of the HTTP servers; its ``graceful`` waits for the result."""

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
        try:
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
        except subprocess.TimeoutExpired as late:
            why = f'graceful did not end within {late.timeout:g} s'
            raise rounds.Unavailable(why) from None
        return said.returncode, (said.stdout + said.stderr).strip()


class Gunicorn(Server):
    """gunicorn, which restarts at SIGHUP."""

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
    """uWSGI; with ``chain``, it restarts one worker after the other, else all at SIGHUP."""

    has_pythons_threads = False

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
            # uWSGI keeps no connection alive, but does not send this header itself.
            '--add-header=Connection: close',
            *(f'--processes={site.workers}', f'--threads={THREADS}'),
            *(f'--http-socket=127.0.0.1:{site.port}', '--module=deployed:app'),
        ]
        return [found, *options]

    def restart(self, running: Running) -> tuple[int | None, str]:
        if self.chain:
            over = 'chain reloading complete'
            before = running.log.count(over)
            later = running.site.trigger.stat().st_mtime + 10  # uWSGI compares seconds
            os.utime(running.site.trigger, (later, later))
            # uWSGI forgets a restart that is asked for during another one.
            with contextlib.suppress(rounds.Unavailable):  # then the caller waits
                running.wait_until(over, lambda: running.log.count(over) > before)
        else:
            running.process.send_signal(signal.SIGHUP)
        return None, ''


class Granian(Server):
    """granian, which replaces its workers at SIGHUP."""

    has_pythons_threads = False

    def __init__(self) -> None:
        super().__init__('granian')

    def command(self, site: Site) -> list[str]:
        if site.preload:
            raise rounds.Unavailable('it has no preload')
        return [
            *(
                rounds.command('granian'),
                '--interface=wsgi',
                '--respawn-failed-workers',
            ),
            *(f'--workers={site.workers}', f'--blocking-threads={THREADS}'),
            *('--host=127.0.0.1', f'--port={site.port}', 'deployed:app'),
        ]

    def restart(self, running: Running) -> tuple[int | None, str]:
        running.process.send_signal(signal.SIGHUP)
        return None, ''
