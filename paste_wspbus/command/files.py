"""The choice of the PID file and the log file: one site has the same ones in each command."""

from __future__ import annotations

import os

from paste_wspbus.command.arguments import LOG_FILE, PID_FILE
from paste_wspbus.errors import UsageError
from paste_wspbus.ini.settings import FILES
from paste_wspbus.values import named_path, real_path

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from paste_wspbus.process.inheritance import Inheritance
    from paste_wspbus.process.launch import Launch
    from paste_wspbus.process.options import Options


def choose_files(
    launch: Launch, settings: dict[str, Any], inheritance: Inheritance
) -> tuple[str | None, list[str]]:
    """Set the PID file, the log file and the control socket of a process that runs the site.

    The command line counts first, then [wspbus:main]. `start` and `restart` take those of
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
        from paste_wspbus.command.running_files import look_for_site

        runs = look_for_site(launch, wanted)
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


def refuse_one_file(options: Options) -> None:
    """Refuse a PID file that is the log file, too.

    :raises UsageError: if it is.
    """
    files = options.pid_file, options.log_file
    if all(files) and len(set(map(os.path.realpath, filter(None, files)))) == 1:
        raise UsageError('--pid-file and --log-file are the same file')


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
