"""``CONFIG status`` and ``CONFIG stop``: what is asked of a site that runs already."""

from __future__ import annotations

import contextlib
import os
import time

from paste_wspbus.bus import EX_SOFTWARE
from paste_wspbus.control import NoAnswer, ask, path_for
from paste_wspbus.errors import WSPBusError
from paste_wspbus.plugins.pidfile import (
    ForeignPIDFile,
    PIDFileError,
    PIDLock,
    StalePIDFile,
)
from paste_wspbus.stopping import clean_up, stop_site, what_it_waits_for

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from paste_wspbus.arguments import Options

#: LSB's exit codes of `status`.
RUNNING, DEAD, NOT_RUNNING, UNKNOWN = 0, 1, 3, 4

#: Seconds between two looks at a site that another command is starting.
LOOK = 0.05


def status(options: Options) -> int:
    """Print whether the site runs; the exit code is LSB's."""
    lock = PIDLock(options.pid_file or 'paster.pid')
    try:
        pid = lock.read()
    except (StalePIDFile, ForeignPIDFile) as error:
        _print(f'The site is dead: {error}')
        return DEAD
    except PIDFileError as error:
        _print(f'Whether the site runs cannot be known: {error}')
        return UNKNOWN
    if pid is None:
        _print(f'The site is not running (no process holds {_short(lock.path)}).')
        return NOT_RUNNING
    _print('\n'.join(_describe(pid, lock)))
    return RUNNING


def _describe(pid: int, lock: PIDLock) -> list[str]:
    try:
        told = ask(path_for(lock.path), 'status')
    except NoAnswer:
        who = f' (process {pid})' if pid else ''
        return [f'The site is running{who}, but does not answer: it starts, or hangs.']
    age = _age(time.time() - told['since'])
    lines = [f'The site is {_in_words(told["state"])} (process {pid}), for {age}.']
    lines += [f'Serving on {url}' for url in told['urls']]
    if told['is_crashed']:
        lines.append('It has crashed, and is about to be started again.')
    if told['requests'] or told['calling']:
        waits = what_it_waits_for(told)
        lines.append(waits[0].upper() + waits[1:])
    return lines


def _in_words(state: str) -> str:
    return 'running' if state == 'STARTED' else state.lower()


def _age(seconds: float) -> str:
    for unit, length in (('days', 86400), ('hours', 3600), ('minutes', 60)):
        if seconds >= 2 * length:
            return f'{seconds // length:.0f} {unit}'
    return f'{seconds:.0f} seconds'


def stop(options: Options) -> int:
    """Stop the site; 0 also if it does not run."""
    lock = PIDLock(options.pid_file or 'paster.pid')
    try:
        pid = lock.read()
    except (StalePIDFile, ForeignPIDFile) as error:
        removed = '; removed' if clean_up(lock) else ''
        _print(f'The site is not running: {error}{removed}')
        return 0
    if pid is None:
        clean_up(lock)
        _print(f'The site is not running (no process holds {_short(lock.path)}).')
        return 0
    code = stop_site(lock)
    clean_up(lock)
    if code == EX_SOFTWARE:
        _print('The site was forced out: see its log.')
        return 1
    if code:
        _print(f'The site stopped with failures (exit code {code}): see its log.')
        return 1
    _print('The site has stopped.')
    return 0


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
    while time.monotonic() < until:
        with contextlib.suppress(NoAnswer):
            told = ask(path_for(lock.path), 'status')
        if told.get('state') == 'STARTED':
            return f'The site is running already (process {told["pid"]}).'
        try:
            if lock.read() is None:
                break
        except PIDFileError:
            break
        time.sleep(LOOK)
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
    print(text, flush=True)


SUBCOMMANDS = {'status': status, 'stop': stop}
