"""``CONFIG status``, ``graceful`` and ``stop``: what is asked of a site that runs already."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import select
import signal
import sys
import time

from paste_wspbus.arguments import PID_FILE
from paste_wspbus.bus import EX_SOFTWARE
from paste_wspbus.control import (
    NoAnswer,
    ask,
    connect,
    is_private,
    path_for,
    receive,
    runtime_paths,
    send,
)
from paste_wspbus.errors import WSPBusError
from paste_wspbus.plugins.daemon import OtherProcess
from paste_wspbus.plugins.pidfile import (
    ForeignPIDFile,
    PIDFileError,
    PIDLock,
    StalePIDFile,
)
from paste_wspbus.settings import working_folder
from paste_wspbus.stopping import (
    ProgressLine,
    clean_up,
    number,
    stop_process,
    stop_site,
    texts,
    what_it_waits_for,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    import socket
    from typing import Any

    from paste_wspbus.arguments import Options

#: LSB's exit codes of `status`, by what it finds.
RUNNING, DEAD, NOT_RUNNING, UNKNOWN = 'RUNNING', 'DEAD', 'NOT RUNNING', 'UNKNOWN'
#: That of gunicorn, which has nothing to be asked by.
GUNICORNS = 'RUNNING BY GUNICORN'
LSB = {RUNNING: 0, GUNICORNS: 0, DEAD: 1, NOT_RUNNING: 3, UNKNOWN: 4}

#: 128 + SIGINT.
INTERRUPTED = 128 + signal.SIGINT

#: Seconds between two looks at a site that another command is starting.
LOOK = 0.05

#: Seconds after which a site that runs, and says nothing, is taken to hang.
SILENCE = 300.0

#: Seconds until a site that runs must have a control socket, and speak sense.
SOON = 10.0


# -- finding it -----------------------------------------------------------------------


class Found:
    """What there is of a site: a ``state`` of `LSB`, and in words the ``problem``.

    ``control``: the path of its control socket; ``pid``: None if it is not
    known; ``lock``: its PID file, if it has one; ``error``: why that says nothing.
    """

    problem = ''
    error: PIDFileError | None = None

    def __init__(
        self, state: str, control: str, pid: int | None, lock: PIDLock | None = None
    ) -> None:
        self.state, self.control, self.pid, self.lock = state, control, pid, lock

    @property
    def who(self) -> str:
        """Its process, in brackets."""
        return f' (process {self.pid})' if self.pid else ''

    def is_there(self) -> bool:
        """Whether it still runs, or is replaced by one that does."""
        if self.lock is None:
            try:
                connect(self.control, 1).close()
            except NoAnswer as error:
                return error.listens
            return True
        try:
            return self.lock.read() is not None
        except PIDFileError:
            return False


def find(options: Options) -> Found:
    """Find the site: by its PID file, or without one by its socket in the user's folder."""
    if options.pid_file is None and not os.path.lexists(PID_FILE):
        for control in runtime_paths(_ini(options.config)) if options.config else ():
            found = _find_by_socket(control)
            if found is not None:
                return found
    found = _find_by_pid_file(PIDLock(options.pid_file or PID_FILE))
    missing = options.config and not os.path.exists(_ini(options.config))
    if found.state == NOT_RUNNING and missing:
        found.problem += f', and there is no {_ini(options.config)} here'
    return found


def _ini(config: str) -> str:
    return config.removeprefix('config:').partition('#')[0]


def is_gunicorns(found: Found, options: Options) -> bool:
    """Whether the .ini's server is gunicorn, whose process has no socket to ask it by."""
    if not found.pid or os.path.exists(found.control):
        return False
    from paste_wspbus.hosts.gunicorn import is_server
    from paste_wspbus.loader import Config

    try:
        config = Config(options.config, options.vars, working_folder())
    except (WSPBusError, OSError):
        return False
    return not options.server and is_server(config, options.server_name)


def _find_by_socket(control: str) -> Found | None:
    if not is_private(os.path.dirname(control)):
        return None  # whoever made it might answer with any number
    try:
        pid = ask(control, 'status').get('pid')
    except NoAnswer as error:
        found = Found(RUNNING, control, None)
        found.problem = _why(error)
        return found if error.listens else None
    return Found(RUNNING, control, pid if isinstance(pid, int) and pid > 0 else None)


def _find_by_pid_file(lock: PIDLock) -> Found:
    found = Found(RUNNING, path_for(lock.path), None, lock)
    try:
        found.pid = lock.read()
    except (StalePIDFile, ForeignPIDFile) as error:
        found.state, found.pid, found.problem = DEAD, error.pid, str(error)
    except PIDFileError as error:
        found.state, found.error, found.problem = UNKNOWN, error, str(error)
    else:
        if found.pid is None:
            found.state = NOT_RUNNING
            found.problem = f'no process holds {_short(lock.path)}'
    return found


# -- status ---------------------------------------------------------------------------


def status(options: Options) -> int:
    """Print whether the site runs; the exit code is LSB's."""
    found = find(options)
    told: dict[str, Any] = {}
    if found.state == RUNNING and not found.problem:
        try:
            told = ask(found.control, 'status')
        except NoAnswer as error:
            found.problem = _why(error)
            if is_gunicorns(found, options):
                found.state, found.problem = GUNICORNS, 'gunicorn tells no more'
    if options.json:
        _print(json.dumps(told or _untold(found), indent=2))
    elif told:
        _print('\n'.join(_describe(told, found)))
    elif found.state == RUNNING:
        _print(f'The site is running{found.who}, but does not answer: {found.problem}.')
    elif found.state == GUNICORNS:
        _print(f'The site is running{found.who}: {found.problem}.')
    elif found.state == NOT_RUNNING:
        _print(f'The site is not running ({found.problem}).')
    elif found.state == DEAD:
        _print(f'The site is dead: {found.problem}')
    else:
        _print(f'Whether the site runs cannot be known: {found.problem}')
    return LSB[found.state]


def _untold(found: Found) -> dict[str, Any]:
    """What `status --json` prints of a site that does not answer."""
    return {
        'state': 'NO ANSWER' if found.state == RUNNING else found.state,
        'pid': found.pid or None,  # 0: it is about to write it
        'problem': found.problem,
    }


def _describe(told: dict[str, Any], found: Found) -> list[str]:
    state = str(told.get('state', 'running'))
    line = f'The site is {"running" if state == "STARTED" else state.lower()}'
    line += f' (process {found.pid or told.get("pid")})'
    since, workers = number(told, 'since'), _workers(told)
    if since is not None:
        line += f', for {_age(time.time() - since)}'
    if workers:
        numbers = {
            one.get('number') for one in workers if one.get('state') != 'draining'
        }
        count = len(numbers - {None})
        line += f': generation {told.get("generation")}'
        line += f', {_plural(count, "worker")}' if count else ''
    lines = [f'{line}.', *(f'Serving on {url}' for url in texts(told, 'urls'))]
    if workers:
        lines += ['', *_table(workers), '']
    if told.get('is_crashed'):
        lines.append('It has crashed, and is about to be started again.')
    if told.get('failure'):
        failure = ' '.join(str(told['failure']).split())
        lines.append(f'The last graceful restart failed: {failure}')
    if told.get('requests') or told.get('calling'):
        waits = what_it_waits_for(told)
        lines.append(waits[0].upper() + waits[1:])
    return lines if lines[-1] else lines[:-1]


def _why(error: NoAnswer) -> str:
    """Why a site that runs does not answer."""
    # One that starts may have no socket yet, or nobody who looks after it.
    starting = errno.ENOENT, errno.ECONNREFUSED, errno.ETIMEDOUT
    return 'it starts, or hangs' if error.code in starting else error.reason.lower()


def _workers(told: dict[str, Any]) -> list[dict[str, Any]]:
    workers = told.get('workers')
    if not isinstance(workers, list):
        return []
    return [worker for worker in workers if isinstance(worker, dict)]


def _table(workers: list[dict[str, Any]]) -> list[str]:
    """A line for each process, under a head, the columns aligned."""
    rows = [('WORKER', 'PROCESS', 'STATE', 'GENERATION', 'AGE', 'REQUESTS')]
    for worker in workers:
        name, pid, state, generation = (
            str(worker.get(key, '?')) for key in ('name', 'pid', 'state', 'generation')
        )
        age = number(worker, 'age')
        age_text = '?' if age is None else _age(age)
        rows.append((name, pid, state, generation, age_text, _requests(worker)))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        '  '.join(
            cell.ljust(width) for cell, width in zip(row, widths, strict=True)
        ).rstrip()
        for row in rows
    ]


def _requests(worker: dict[str, Any]) -> str:
    if not isinstance(worker.get('requests'), list):
        return 'does not answer' if worker.get('state') == 'ready' else '?'
    requests = texts(worker, 'requests')
    if not requests:
        return '0'
    return f'{len(requests)}: {", ".join(requests[:3])}{", …" * (len(requests) > 3)}'


def _age(seconds: float) -> str:
    for unit, length in (('day', 86400), ('hour', 3600), ('minute', 60)):
        if seconds >= 2 * length:
            return _plural(int(seconds // length), unit)
    return _plural(max(round(seconds), 0), 'second')


def _plural(count: int, noun: str) -> str:
    return f'{count} {noun}{"s" * (count != 1)}'


# -- stop -----------------------------------------------------------------------------


def stop(options: Options) -> int:
    """Stop the site; 0 also if it does not run."""
    found = find(options)
    if found.error is not None:
        raise found.error
    if found.state != RUNNING:
        removed = found.lock is not None and clean_up(found.lock)
        if found.state == DEAD:
            what = '; removed' if removed else ''
            _print(f'The site is not running: {found.problem}{what}')
        else:
            _print(f'The site is not running ({found.problem}).')
        return 0
    code = _stop(found)
    if code == EX_SOFTWARE:
        _print('The site was forced out: see its log.')
        return 1
    if code:
        _print(f'The site stopped with failures (exit code {code}): see its log.')
        return 1
    _print('The site has stopped.')
    return 0


def _stop(found: Found) -> int | None:
    if found.lock is not None:
        code = stop_site(found.lock)
        clean_up(found.lock)
        return code
    if found.pid is None:
        raise NotDone(
            'The site runs, but does not answer: it starts, or hangs; '
            'and without a PID file its process is not known'
        )
    return stop_process(found.control, found.pid)


class NotDone(WSPBusError):
    """What was asked of the site is not done: why, and what the command exits with."""

    def __init__(self, problem: str, exit_code: int = 1) -> None:
        super().__init__(problem)
        self.exit_code = exit_code


# -- graceful -------------------------------------------------------------------------


def graceful(options: Options) -> int:
    """Have the site restart without a request lost; it waits for one that is starting.

    :returns: 0 when the new generation serves (with --no-wait: when it is
        asked for), 130 after Ctrl-C, which does not end the restart.
    :raises NotDone: if the new generation failed, with its exit code; with 1
        if nothing runs: LSB's 7, "not running", is about programs that this
        command would have had to start.
    """
    found = find(options)
    if found.error is not None:
        raise found.error
    if found.state == DEAD:
        raise NotDone(f'The site is not running: {found.problem}')
    if found.state == NOT_RUNNING:
        raise NotDone(f'The site is not running ({found.problem}).')
    if found.pid and is_gunicorns(found, options):
        try:
            os.kill(found.pid, signal.SIGHUP)  # it holds the lock of its PID file
        except OSError as error:
            raise NotDone(f'gunicorn{found.who}: {error.strerror}') from None
        _print(f'gunicorn{found.who} was told to reload; its log says what came of it.')
        return 0
    restart = Graceful(found)
    try:
        line = restart.run(wait=not options.no_wait)
        restart.progress.end()
        _print(line)
    except KeyboardInterrupt:
        restart.progress.end()
        if not restart.asked:
            raise
        line = 'The graceful restart goes on; `status` tells how far it is.'
        print(line, file=sys.stderr, flush=True)
        return INTERRUPTED
    finally:
        restart.progress.end()
    return 0


class Graceful:
    """One graceful restart of one site, seen from outside."""

    def __init__(self, found: Found) -> None:
        self.found, self.progress = found, ProgressLine()
        #: Whether the site was asked for it.
        self.asked = False
        self._began = time.monotonic()

    def run(self, wait: bool) -> str:
        """Ask for it; wait for what comes of it.

        :returns: a line that says so.
        :raises NotDone: if it failed, or the site went away.
        """
        told = self._wait_until_started()
        self.found.pid = pid = int(number(told, 'pid') or self.found.pid or 0)
        process = OtherProcess(pid)
        try:
            with self._ask(wait) as connection:
                answer = self._hear(connection, process)
            if 'error' in answer:
                raise NotDone(f'The site{self.found.who} refuses: {answer["error"]}')
            if 'failed' in answer:
                raise self._failed(answer)
            if not wait:
                return f'Process {pid} was asked for a graceful restart.'
            if not answer.get('restarting'):
                notes = [str(note) for note in answer.get('notes') or ()]
                serves = (
                    f'Generation {answer.get("generation")} serves (process {pid}).'
                )
                return '\n'.join([*notes, serves])
            self._wait_for_program(told, process)
            return f'The site has restarted (process {pid}).'
        finally:
            process.close()

    def _wait_until_started(self) -> dict[str, Any]:
        """It cannot restart before; returns its status."""
        began, doing = time.monotonic(), 'starting'
        while True:
            try:
                told = ask(self.found.control, 'status')
            except NoAnswer as error:
                patience = SILENCE if error.code == errno.ETIMEDOUT else SOON
                if error.code == errno.EACCES or time.monotonic() - began > patience:
                    raise self._silent(error) from None
            else:
                if told.get('state') == 'STARTED':
                    return told
                began, doing = time.monotonic(), str(told.get('state')).lower()
            if not self.found.is_there():
                raise NotDone(
                    f'The site{self.found.who} has stopped, or did not start: '
                    'see its log.'
                )
            self._show(f'it is {doing}')
            time.sleep(LOOK)

    def _silent(self, error: NoAnswer) -> NotDone:
        who = self.found.who
        return NotDone(f'The site is running{who}, but does not answer: {_why(error)}.')

    def _ask(self, wait: bool) -> socket.socket:
        try:
            connection = connect(self.found.control, 2)
            self.asked = True
            send(connection, 'graceful', wait=wait)
        except NoAnswer as error:
            raise self._silent(error) from None
        return connection

    def _hear(self, connection: socket.socket, process: OtherProcess) -> dict[str, Any]:
        """Wait for the answer, minutes perhaps."""
        look = time.monotonic() + 1
        while not process.is_gone_within(look - time.monotonic(), [connection]):
            if select.select([connection], [], [], 0)[0]:
                break
            look = time.monotonic() + 1
            if self.progress.is_seen:
                self._show_workers()
        with contextlib.suppress(NoAnswer):
            answer = receive(connection)
            if answer is not None:
                return answer
        if process.is_gone_within(1):
            raise NotDone(f'The site{self.found.who} is gone: see its log.')
        raise NotDone(f'The site{self.found.who} gave no answer: see its log.')

    def _failed(self, answer: dict[str, Any]) -> NotDone:
        code, goes_on = answer['failed'], ''
        if answer.get('mixed'):
            goes_on = f' half-way, {answer["mixed"]}'
        elif answer.get('generation') is not None:
            goes_on = f', generation {answer["generation"]} goes on'
        elif 'generation' in answer:
            goes_on = ', and nobody serves'
        line = str(answer.get('line') or 'see its log')
        if answer.get('is_new') and answer.get('generation') is not None:
            generation = answer['generation']
            return NotDone(f'Generation {generation} serves, but not all of it: {line}')
        return NotDone(
            f'The graceful restart failed{goes_on}: {line}',
            code if isinstance(code, int) and 0 < code < 256 else 1,
        )

    def _wait_for_program(self, before: dict[str, Any], process: OtherProcess) -> None:
        """The process replaces itself: wait until the new program has started."""
        until = time.monotonic() + SOON
        while time.monotonic() < until:
            if process.is_gone_within(LOOK):
                raise NotDone('The site did not start again: see its log.')
            told: dict[str, Any] = {}
            with contextlib.suppress(NoAnswer):
                told = ask(self.found.control, 'status', 1)
            is_new = bool(told) and told.get('since') != before.get('since')
            if is_new and told.get('state') == 'STARTED':
                return
            if is_new or told.get('state') != 'STARTED':
                until = time.monotonic() + SILENCE
            self._show('it is starting' if is_new else what_it_waits_for(told))
        raise NotDone(f'The site{self.found.who} does not restart: see its log.')

    def _show_workers(self) -> None:
        told: dict[str, Any] = {}
        with contextlib.suppress(NoAnswer):
            told = ask(self.found.control, 'status', 1)
        self._show('; '.join(_under_way(told)) or what_it_waits_for(told))

    def _show(self, what: str) -> None:
        seconds = time.monotonic() - self._began
        self.progress.show(f'Graceful restart, {seconds:.0f} s: {what}')


def _under_way(told: dict[str, Any]) -> list[str]:
    """What a graceful restart waits for: workers that start, then those that end."""
    starting, draining = [], []
    for worker in _workers(told):
        name, state = worker.get('name'), worker.get('state')
        if state == 'starting':
            starting.append(f'{name} starts, {number(worker, "age") or 0:.0f} s')
        elif state == 'draining':
            count = len(texts(worker, 'requests'))
            draining.append(f'{name} finishes {_plural(count, "request")}')
    return starting + draining


# -- start ----------------------------------------------------------------------------


class OtherStartFailed(WSPBusError):
    """Another command was starting the site, and it did not start."""


def wait_for_other_start(lock: PIDLock, patience: float) -> str:
    """Another command starts the site, or has: wait for what comes of it.

    :param patience: seconds.
    :returns: a line that says that the site runs.
    :raises OtherStartFailed: if it did not start.
    """
    until = time.monotonic() + patience
    told: dict[str, Any] = {}
    pid: int | None = None
    while time.monotonic() < until:
        with contextlib.suppress(NoAnswer):
            told = ask(path_for(lock.path), 'status')
        if told.get('state') == 'STARTED':
            return f'The site is running already (process {told["pid"]}).'
        try:
            pid = lock.read()
        except PIDFileError:
            break
        if pid is None:
            break
        time.sleep(LOOK)
    else:
        raise OtherStartFailed(
            f'The site is running (process {pid}), but does not answer: '
            'it starts, or hangs'
        )
    raise OtherStartFailed(
        'Another command was starting the site, and it did not start'
    )


def _short(path: str) -> str:
    with contextlib.suppress(FileNotFoundError, ValueError):
        relative = os.path.relpath(path)
        return relative if len(relative) < len(path) else path
    return path


def _print(text: str) -> None:
    with contextlib.suppress(FileNotFoundError):
        text = text.replace(os.getcwd() + os.sep, '')
    encoding = sys.stdout.encoding or 'utf-8'  # the terminal may not have each letter
    text = text.encode(encoding, 'backslashreplace').decode(encoding)
    with contextlib.suppress(OSError):  # nobody reads it
        print(text, flush=True)


SUBCOMMANDS = {'status': status, 'stop': stop, 'graceful': graceful}
