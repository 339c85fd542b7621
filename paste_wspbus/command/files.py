"""The choice of the PID file and the log file: one site has the same ones in each command."""

from __future__ import annotations

from paste_wspbus.command.arguments import LOG_FILE, PID_FILE, refuse_one_file
from paste_wspbus.ini.settings import FILES
from paste_wspbus.values import named_path, real_path

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from paste_wspbus.command.finding import Found
    from paste_wspbus.process.inheritance import Inheritance
    from paste_wspbus.process.launch import Launch
    from paste_wspbus.process.options import Options


def choose_files(
    launch: Launch, settings: dict[str, Any], inheritance: Inheritance
) -> tuple[str | None, list[str]]:
    """Set the PID file, the log file and the control socket of a process that runs the site.

    The command line goes first, then [wspbus:main]. `start` and `restart` take those of
    the site that runs, from whichever folder they are called.

    :param settings: those of [wspbus:main].
    :returns: a line that reports that the site runs already, without a PID file; and lines
        for the log.
    :raises UsageError: if both are the same file.
    :raises NotKnown: if it is not known which running site is meant.
    :raises NotDone: if another site has the PID file, or if the running site has none.
    """
    options = launch.options
    wanted = {key: settings[key] for key in FILES if getattr(options, key) is None}
    notes = _keep(wanted, inheritance)
    runs = None
    is_first = not inheritance.daemon and inheritance.worker is None
    if inheritance.files is not None:
        launch.found_files = inheritance.files
    elif is_first and options.subcommand in ('start', 'restart'):
        runs = _look_for_site(launch, wanted)
    for key, path in wanted.items():
        setattr(options, key, path)
    if launch.found_files is not None:
        pid_file, log_file = launch.found_files
        options.pid_file = options.pid_file or pid_file
        options.log_file = options.log_file or log_file or None
    if options.daemon:
        options.pid_file = options.pid_file or PID_FILE
        options.log_file = options.log_file or LOG_FILE
    refuse_one_file(options)
    return runs, notes


def _keep(wanted: dict[str, str | None], inheritance: Inheritance) -> list[str]:
    """Keep the files of the program before this one; return a line for each other file."""
    entry, notes = inheritance.registration(), []
    fields = entry.fields if entry is not None else {}
    for key in wanted if entry is not None else ():
        old, new = fields.get(key), wanted[key]
        if new is not None and real_path(new) != old:
            wanted[key] = old
            if named_path(new) == fields.get(f'named_{key}'):
                continue  # a deployment has changed a link in the name
            notes.append(
                f'{key} in [wspbus:main] has changed, which takes a restart: stop '
                f'wspserve and start it again; until then {old or "none"} stays'
            )
    return notes


def _look_for_site(launch: Launch, wanted: dict[str, str | None]) -> str | None:
    """Look for the site that runs, and for its files."""
    from paste_wspbus.command import (
        finding,  # a start in the foreground does not need it
    )

    options = launch.options
    found = finding.find(options, exactly=True, settings=wanted)
    if found.other:
        file = options.pid_file or wanted.get('pid_file') or PID_FILE
        raise finding.NotDone(
            f'{file} is that of {found.other}{found.who}: name another one by --pid-file'
        )
    if isinstance(found.error, finding.Ambiguous):
        raise found.error
    if found.entry is None:
        return None  # the lock of the PID file decides
    if found.lock is None:
        return _runs_without_pid_file(found, options)
    named, held = options.pid_file or wanted.get('pid_file'), found.lock.path
    if found.state == finding.RUNNING and named not in (None, held):
        wanted['pid_file'] = held
        if found.entry.named_pid_file == named_path(str(named)):
            # A deployment has changed a link in the name: the file is where it was made.
            options.named_pid_file = named
        elif options.replaces:
            raise finding.NotDone(
                f'The site{found.who} has another PID file, {held}: stop it, and start '
                'it again'
            )
    if options.pid_file is not None:
        options.pid_file = held
        return None
    log_file = found.entry.log_file if finding.is_own(found.entry.owner) else None
    launch.found_files = [held, log_file or '']
    return None


def _runs_without_pid_file(found: Found, options: Options) -> str:
    from paste_wspbus.command.finding import LOST, NotDone, is_gunicorns
    from paste_wspbus.control.client import NoAnswer, ask

    if found.problem == LOST:
        raise NotDone(f'The site is running{found.who}, but {LOST}')
    if options.replaces:
        raise NotDone(
            f'The site is running{found.who} without a PID file, so restart cannot '
            'replace it: use graceful, or stop it first'
        )
    line = f'The site is running already{found.who}.'
    if is_gunicorns(found, options):
        return line
    try:
        state = ask(found.control, 'status').get('state')
    except NoAnswer:
        state = None
    if state != 'STARTED':
        raise NotDone(
            f'The site is running{found.who}, but does not answer: '
            'it is still starting, or it hangs'
        )
    return line
