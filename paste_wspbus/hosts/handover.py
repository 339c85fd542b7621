"""An .ini whose server owns its process: wspserve opens the files, and becomes gunicorn."""

from __future__ import annotations

import os
from contextlib import suppress

from paste_wspbus.bus import exit_code_of
from paste_wspbus.hosts import gunicorn
from paste_wspbus.report import Report

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from paste_wspbus.arguments import Options
    from paste_wspbus.loader import Config
    from paste_wspbus.process import Process


def settings_for(config: Config, options: Options) -> dict[str, Any] | None:
    """What gunicorn is to do in wspserve's place, if [server:main] is gunicorn.

    Its workers, its user, where it listens and whether it reloads are its own then, and
    are taken out of ``options`` and of the settings of [wspbus:main].

    :returns: gunicorn's settings, as the command line and [wspbus:main] ask for them;
        None if it is another server.
    """
    if options.server or not gunicorn.is_server(config, options.server_name):
        return None
    settings = config.settings
    workers = settings['workers'] if options.workers is None else options.workers
    asked = {
        'workers': workers,
        'preload_app': settings['preload'],
        'bind': options.listen,
        'user': options.user,
        'group': options.group,
        'reload': options.reload,
    }
    options.identity = options.listen = options.reloader = None
    options.monitor_restart = options.reload = False
    options.workers = settings['workers'] = 0
    settings['restart'] = 'execv'
    return {key: value for key, value in asked.items() if value}


def hand_over(process: Process, settings: dict[str, Any]) -> int:
    """Be gunicorn's master until it ends.

    :param process: opened; its control socket is closed, for nobody would answer.
    :returns: the exit code: 1 if the site did not start, else gunicorn's.
    :raises SystemExit: in a worker, at its end.
    """
    options, pid = process.options, os.getpid()
    if process.control is not None:
        process.control.close()
        process.control = None
    report = options.report
    # A forked child has no report: the first worker gets a copy of it.
    waiting = None if report.fd is None else os.dup(report.fd)

    def started(urls: list[str]) -> None:
        lines = [f'Starting server in PID {pid}.']
        lines += [f'Serving on {url}' for url in urls]
        lines = lines if options.verbosity > 0 else []
        Report(waiting).ready(lines)
        if lines:
            with suppress(OSError, ValueError):  # nobody reads it
                print('\n'.join(lines), flush=True)

    name, app_name = options.server_name, options.app_name
    try:
        code = gunicorn.serve(process.config, name, app_name, settings, started)
    except SystemExit as left:
        if os.getpid() != pid:
            raise
        code = exit_code_of(left)
    if code in (gunicorn.BOOT_ERROR, gunicorn.LOAD_ERROR):
        code = 1
    where = process.log_file or 'what gunicorn has printed'
    report.failed(code or 1, f'The site did not start: {where} says why.')
    return code
