"""How the command finds a site that may run: by its PID file, or by its control socket."""

from __future__ import annotations

import contextlib
import errno
import os

from paste_wspbus.command.arguments import PID_FILE
from paste_wspbus.control.client import NoAnswer, ask, connect
from paste_wspbus.control.paths import (
    UnsafeFolder,
    check_private,
    path_for,
    runtime_paths,
)
from paste_wspbus.control.status import process_of
from paste_wspbus.errors import WSPBusError
from paste_wspbus.exits import FAILED
from paste_wspbus.unix.pid_lock import (
    ForeignPIDFile,
    PIDFileError,
    PIDLock,
    StalePIDFile,
)
from paste_wspbus.values import working_folder

TYPE_CHECKING = False
if TYPE_CHECKING:
    from paste_wspbus.process.options import Options

#: The states of a site, as far as the command knows them.
RUNNING, DEAD, NOT_RUNNING, UNKNOWN = 'RUNNING', 'DEAD', 'NOT RUNNING', 'UNKNOWN'


class NotDone(WSPBusError):
    """A site has not done what it was asked for; ``exit_code`` is that of the command."""

    def __init__(self, problem: str, exit_code: int = FAILED) -> None:
        super().__init__(problem)
        self.exit_code = exit_code


class Found:
    """What the command knows about a site: its ``state``, and the ``problem`` as a text.

    ``control`` is the path of its control socket. ``pid`` is None if it is not known.
    ``lock`` is its PID file, if it has one. ``error`` is the reason why nobody can know
    whether the site runs.
    """

    problem = ''
    error: WSPBusError | None = None

    def __init__(
        self, state: str, control: str, pid: int | None, lock: PIDLock | None = None
    ) -> None:
        self.state, self.control, self.pid, self.lock = state, control, pid, lock

    @property
    def who(self) -> str:
        """Its process, in brackets; an empty text if the process is not known."""
        return f' (process {self.pid})' if self.pid else ''

    def is_there(self) -> bool:
        """Whether the site still runs, or another one that has replaced it."""
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
    """Find the site by its PID file; if it has none, by its socket in the user's folder."""
    unsafe: UnsafeFolder | None = None
    if options.pid_file is None and not PIDLock(PID_FILE).exists:
        for control in runtime_paths(_ini(options.config)) if options.config else ():
            try:
                found = _find_by_socket(control)
            except UnsafeFolder as error:
                unsafe = error
                continue
            if found is not None:
                return found
    found = _find_by_pid_file(PIDLock(options.pid_file or PID_FILE))
    if (
        unsafe is not None and found.state == NOT_RUNNING
    ):  # a site may run without a socket
        found.state, found.error, found.problem = UNKNOWN, unsafe, str(unsafe)
        return found
    missing = options.config and not os.path.exists(_ini(options.config))
    if found.state == NOT_RUNNING and missing:
        found.problem += f', and there is no {_ini(options.config)} here'
    return found


def _ini(config: str) -> str:
    return config.removeprefix('config:').partition('#')[0]


def is_gunicorns(found: Found, options: Options) -> bool:
    """Whether the .ini's server is gunicorn, whose process has no control socket."""
    if not found.pid or os.path.exists(found.control):
        return False
    from paste_wspbus.hosts.gunicorn import is_server
    from paste_wspbus.ini.config import Config

    try:
        config = Config(options.config, options.vars, working_folder())
    except (WSPBusError, OSError):
        return False
    return not options.server and is_server(config, options.server_name)


def _find_by_socket(control: str) -> Found | None:
    try:
        check_private(os.path.dirname(control))
    except OSError:
        return None
    try:
        pid = process_of(ask(control, 'status'))
    except NoAnswer as error:
        found = Found(RUNNING, control, None)
        found.problem = why(error)
        return found if error.listens else None
    return Found(RUNNING, control, pid)


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
            holds = os.path.exists(lock.path)
            name = _short(lock.path)
            found.problem = (
                f'no process holds {name}' if holds else f'there is no {name}'
            )
    return found


def why(error: NoAnswer) -> str:
    """Return why a running site does not answer."""
    # A starting site may have no socket yet, or no thread that answers there.
    starting = errno.ENOENT, errno.ECONNREFUSED, errno.ETIMEDOUT
    return (
        'it is still starting, or it hangs'
        if error.code in starting
        else error.reason.lower()
    )


def _short(path: str) -> str:
    with contextlib.suppress(FileNotFoundError, ValueError):
        relative = os.path.relpath(path)
        return relative if len(relative) < len(path) else path
    return path
