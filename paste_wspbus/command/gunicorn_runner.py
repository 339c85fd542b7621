"""The runner for gunicorn: wspserve opens the files, and then runs gunicorn in this process."""

from __future__ import annotations

import os

from paste_wspbus.bus import exit_code_of
from paste_wspbus.command.terminal import print_line
from paste_wspbus.errors import SettingError
from paste_wspbus.exits import FAILED
from paste_wspbus.hosts import gunicorn
from paste_wspbus.report import Report

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

    from paste_wspbus.ini.config import Config
    from paste_wspbus.process.launch import Launch
    from paste_wspbus.process.options import Options
    from paste_wspbus.process.process import Process


_NO_OPS = (
    'there is no ops listener with gunicorn, whose processes wspserve does not start: '
    'use egg:paste_wspbus#health in the site'
)


def settings_for(config: Config, options: Options) -> dict[str, Any] | None:
    """Return the settings for gunicorn in wspserve's place, if [server:main] is gunicorn.

    gunicorn itself then handles its workers, its user, its addresses and its reloads. So
    these settings are removed from ``options`` and from the settings of [wspbus:main].

    :returns: gunicorn's settings, as the command line and [wspbus:main] ask for them;
        None if [server:main] is another server.
    :raises ConfigError: if gunicorn does not accept the settings of [server:main].
    """
    if options.server or not gunicorn.is_server(config, options.server_name):
        return None
    for warning in gunicorn.check_settings(config, options.server_name).values():
        print_line(f'{options.config}: warning: {warning}', 'stderr')
    settings = config.settings
    workers = settings['workers'] if options.workers is None else options.workers
    wanted = {
        'workers': workers,
        'preload_app': settings['preload'],
        'bind': _addresses(options.listen or settings['listen']),
        'user': options.user,
        'group': options.group,
        'reload': options.reload,
    }
    options.identity = options.listen = options.reloader = None
    options.monitor_restart = options.reload = False
    if options.ops or settings['ops']:
        print_line(f'ops: {_NO_OPS}', 'stderr')
    options.ops, settings['ops'] = None, ()
    options.workers, settings['workers'], settings['listen'] = 0, 0, ()
    settings['restart'] = 'execv'
    return {key: value for key, value in wanted.items() if value}


def _addresses(listen: Sequence[str]) -> list[str]:
    for address in listen:
        if '?' in address:
            raise SettingError(
                '--listen', f'{address!r}: gunicorn takes nothing after a question mark'
            )
    return [*listen]


class GunicornRunner:
    """The runner of gunicorn: this process is gunicorn's master until it ends.

    :param process: the process, which has opened everything.
    :param settings: gunicorn's settings, see `settings_for`.
    """

    def __init__(
        self, launch: Launch, process: Process, settings: dict[str, Any]
    ) -> None:
        self.launch, self.process, self.settings = launch, process, settings

    def run(self) -> int:
        """Run gunicorn's master.

        This closes the control socket first, because nobody would answer there.

        :returns: the exit code: 1 if the site did not start, else gunicorn's.
        :raises SystemExit: in a worker, at its end.
        """
        options, process, pid = self.launch.options, self.process, os.getpid()
        process.close_control()
        report = self.launch.report
        # A forked child does not keep the report: the first worker gets a copy.
        waiting = None if report.fd is None else os.dup(report.fd)

        def started(urls: list[str]) -> None:
            lines = [f'Starting server in PID {pid}.']
            lines += [f'Serving on {url}' for url in urls]
            lines = lines if options.verbosity > 0 else []
            Report(waiting).ready(lines)
            if lines:
                print_line('\n'.join(lines))

        name, app_name = options.server_name, options.app_name
        try:
            with self.launch.early.raising():
                code = gunicorn.serve(
                    process.config, name, app_name, self.settings, started
                )
        except SystemExit as error:
            if os.getpid() != pid:
                raise
            code = exit_code_of(error)
        if code in (gunicorn.BOOT_ERROR, gunicorn.LOAD_ERROR):
            code = FAILED
        where = process.log_file or 'the output of gunicorn'
        report.failed(code or FAILED, f'The site did not start: {where} says why.')
        return code
