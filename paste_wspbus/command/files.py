"""The choice of the PID file and the log file: one site has the same ones in each command."""

from __future__ import annotations

import os

from paste_wspbus.command.arguments import LOG_FILE, PID_FILE
from paste_wspbus.errors import UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from paste_wspbus.command.finding import Found
    from paste_wspbus.process.inheritance import Inheritance
    from paste_wspbus.process.options import Options


def choose_files(options: Options, inheritance: Inheritance) -> str | None:
    """Set the PID file and the log file of a process that is going to run the site.

    The command line goes first. `start` and `restart` then take those of the site that
    runs, from whichever folder they are called.

    :returns: a line that reports that the site runs already, without a PID file.
    :raises UsageError: if both are the same file.
    :raises NotKnown: if it is not known which running site is meant.
    :raises NotDone: if another site has the PID file, or if the running site has none.
    """
    runs = None
    is_first = not inheritance.daemon and inheritance.worker is None
    if inheritance.files is not None:
        options.files = inheritance.files
    elif is_first and options.subcommand in ('start', 'restart'):
        runs = _look_for_site(options)
    if options.files is not None:
        pid_file, log_file = options.files
        options.pid_file = options.pid_file or pid_file
        options.log_file = options.log_file or log_file or None
    if options.daemon:
        options.pid_file = options.pid_file or PID_FILE
        options.log_file = options.log_file or LOG_FILE
    files = options.pid_file, options.log_file
    if all(files) and len(set(map(os.path.realpath, filter(None, files)))) == 1:
        raise UsageError('--pid-file and --log-file are the same file')
    return runs


def _look_for_site(options: Options) -> str | None:
    """Look for the site that runs, and for its files."""
    from paste_wspbus.command import (
        finding,  # a start in the foreground does not need it
    )

    found = finding.find(options, exactly=True)
    if found.other:
        file = options.pid_file or PID_FILE
        raise finding.NotDone(
            f'{file} is that of {found.other}{found.who}: name another one by --pid-file'
        )
    if isinstance(found.error, finding.Ambiguous):
        raise found.error
    if options.pid_file is not None or found.entry is None:
        return None  # the lock of the PID file decides
    if found.lock is not None:
        log_file = found.entry.log_file if finding.is_own(found.entry.owner) else None
        options.files = [found.lock.path, log_file or '']
        return None
    return _runs_without_pid_file(found, options)


def _runs_without_pid_file(found: Found, options: Options) -> str:
    from paste_wspbus.command.finding import NotDone
    from paste_wspbus.control.client import NoAnswer, ask

    if options.replaces:
        raise NotDone(
            f'The site is running{found.who} without a PID file, so restart cannot '
            'replace it: use graceful, or stop it first'
        )
    try:
        state = ask(found.control, 'status').get('state')
    except NoAnswer:
        state = None
    if state != 'STARTED':
        raise NotDone(
            f'The site is running{found.who}, but does not answer: '
            'it is still starting, or it hangs'
        )
    return f'The site is running already{found.who}.'
