"""The subcommand ``start`` for a site that runs already, or that another command starts."""

from __future__ import annotations

import errno
import time

from paste_wspbus.command.finding import why
from paste_wspbus.control.client import NoAnswer, ask
from paste_wspbus.errors import WSPBusError
from paste_wspbus.exits import DONE
from paste_wspbus.unix.pid_lock import AlreadyRunning, PIDFileError, PIDLock

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from paste_wspbus.process.launch import Launch
    from paste_wspbus.process.process import Process

#: Seconds between two checks of a site that another command is starting.
LOOK = 0.05

#: The states of a site that another command stops.
STOPS = ('DRAINING', 'STOPPING', 'STOPPED', 'EXITING')


def runs_already(
    error: WSPBusError, launch: Launch, process: Process, asks: bool
) -> int | None:
    """Report that the site runs, as soon as that is known.

    :param error: the reason why the process was not opened.
    :param asks: whether the site answers on a control socket.
    :returns: the exit code; None if the site was stopping and has stopped, so that it can
        be started now.
    :raises WSPBusError: ``error``, if the site does not run; or OtherStartFailed.
    """
    if not isinstance(error, AlreadyRunning):
        raise error
    line = f'The site is running already{_who(error.pid)}.'
    if asks:
        patience = process.config.settings['start_timeout']
        lock = PIDLock(error.path, launch.options.control)
        found = wait_for_other_start(lock, patience)
        if found is None:
            return None
        line = found
    launch.report.ready([line] if launch.options.verbosity > 0 else [])
    return DONE


def _who(pid: int | None) -> str:
    return f' (process {pid})' if pid else ''


class OtherStartFailed(WSPBusError):
    """Another command was starting the site, and the site did not start."""


def _silent(error: NoAnswer | None, pid: int | None) -> OtherStartFailed:
    """Return the error that says why a running site does not answer, or is not started."""
    reason = why(error, pid) if error is not None else 'it is still starting'
    return OtherStartFailed(
        f'The site is running{_who(pid)}, but does not answer: {reason}'
    )


def wait_for_other_start(lock: PIDLock, patience: float) -> str | None:
    """Wait until the site has started; another command starts it, or has started it.

    :param patience: seconds to wait.
    :returns: a line that reports that the site runs; None if it was stopping, and has
        stopped.
    :raises OtherStartFailed: if it did not start.
    """
    until = time.monotonic() + patience
    status: dict[str, Any] = {}
    silent: NoAnswer | None = None
    pid: int | None = None
    while time.monotonic() < until:
        try:
            pid = lock.read()
        except PIDFileError:
            pid = None
        if pid is None:
            break
        try:
            status, silent = ask(lock.control, 'status'), None
        except NoAnswer as error:
            silent = error
        if silent is not None and silent.code == errno.EACCES:
            raise _silent(silent, pid)  # a wait does not change that
        if silent is None and status.get('state') == 'STARTED':
            return f'The site is running already{_who(pid)}.'
        time.sleep(LOOK)
    else:
        raise _silent(silent, pid)
    if status.get('state') in STOPS:
        return None
    raise OtherStartFailed(
        'Another command was starting the site, and it did not start'
    )
