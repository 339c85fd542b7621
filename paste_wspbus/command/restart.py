"""The subcommand ``restart``: the new code is loaded before the old site stops."""

from __future__ import annotations

import os

from paste_wspbus.command.failure import print_to_log
from paste_wspbus.control.status import followed
from paste_wspbus.errors import WSPBusError
from paste_wspbus.process.opening import Opening
from paste_wspbus.process.trials import Failed, TrialProcess, Untried
from paste_wspbus.unix.pid_lock import PIDFileError, PIDLock

TYPE_CHECKING = False
if TYPE_CHECKING:
    from paste_wspbus.process.launch import Launch
    from paste_wspbus.process.process import Process


class NotLoaded(WSPBusError):
    """The new code cannot be loaded, so the old site was not asked to stop."""

    def __init__(self, failed: Failed) -> None:
        super().__init__(followed(failed.line, 'the old site was not stopped'))
        self.exit_code, self.is_logged = failed.code, bool(failed.trace)


class Stopped(WSPBusError):
    """Somebody has stopped the old site while the new one was loaded."""

    def __init__(self) -> None:
        super().__init__(
            'The site was stopped while its new code was loaded: it is not started again'
        )


def load_beside(launch: Launch, process: Process) -> bool:
    """Let another process load the new code, while the old site serves.

    That process has the user that this one will have, and nothing of the site is open in it.

    :returns: whether this process can load the code itself before the old site stops. It
        cannot if it still needs its privileges, or if its workers load the site.
    :raises NotLoaded: if the new code cannot be loaded.
    :raises Stopped: if the old site was stopped meanwhile.
    :raises WSPBusError: if the .ini is wrong, or the log file cannot be opened.
    """
    settings, identity = process.config.settings, launch.options.identity
    is_tried = settings['trial'] is not False and os.name == 'posix'
    # This program may be the next one of the process that `restart` has made.
    is_next = process.inheritance.pid_file is not None
    if is_next or not is_tried or not _runs(launch):
        return False
    server = process.known_server(process.config)
    launch.stderr = os.dup(2)
    Opening(process).open_log()
    with launch.early.raising():
        trial = TrialProcess(
            process,
            settings['start_timeout'],
            logs=True,
            stack_file=launch.stack_file,
        )
        launch.loads(trial.child.pid)
        outcome = trial.outcome()
        launch.loads(0)  # it may take long until the old site has stopped
    if isinstance(outcome, Failed):
        if outcome.trace:
            print_to_log(f'The new code fails:\n{outcome.trace.rstrip()}')
        raise NotLoaded(outcome)
    check_not_stopped(launch)
    if isinstance(outcome, Untried):
        if outcome.why:
            process.notes.append(
                'The new code cannot be loaded beside the old site, which stops first: '
                f'{outcome.why}'
            )
        process.awaits_the_end = bool(outcome.why)
        return False
    if server is None or process.is_supervised:
        return False
    if identity is not None and not identity.is_current:
        return False
    process.server = server
    return True


def check_not_stopped(launch: Launch) -> None:
    """Check that nobody has stopped the old site while the new one was loaded.

    A site that has crashed meanwhile leaves its PID file.

    :raises Stopped: if it was stopped: then the new site must not start, either.
    """
    options = launch.options
    if not PIDLock(str(options.pid_file), options.control).exists:
        raise Stopped


def _runs(launch: Launch) -> bool:
    """Whether a running site holds the PID file."""
    options = launch.options
    try:
        return PIDLock(str(options.pid_file), options.control).read() is not None
    except PIDFileError:
        return False
