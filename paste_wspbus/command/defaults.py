"""The default plugins on the bus of each site that the command runs."""

from __future__ import annotations

import contextlib
import logging
import os

from paste_wspbus.plugins import restart
from paste_wspbus.plugins.sitelog import Console, SafeFormatter, SiteLog
from paste_wspbus.plugins.threads import ThreadManager
from paste_wspbus.streams import is_terminal, standard

TYPE_CHECKING = False
if TYPE_CHECKING:
    from contextlib import AbstractContextManager
    from typing import Any

    from paste_wspbus.bus import Bus
    from paste_wspbus.plugins import Plugin
    from paste_wspbus.process.launch import Launch
    from paste_wspbus.process.process import Process

#: From the style of a restart to the plugin for a process that restarts itself.
RESTARTERS = {
    'execv': restart.ExecvRestarter,
    'child': restart.ChildRestarter,
    'fork': restart.ForkRestarter,
}


class DefaultPlugins:
    """Plugs in the default plugins; a site finds them in ``bus.plugins``."""

    def __init__(self, launch: Launch, process: Process) -> None:
        self.launch, self.options, self.process = launch, launch.options, process

    def plug_in(self, bus: Bus, configured: bool) -> None:
        """Plug in the default plugins of a process that runs the site.

        :param configured: whether the .ini has set up logging.
        """
        options, process = self.options, self.process
        sitelog = self.plug_in_sitelog(bus, configured)
        # If the start fails, the command itself prints the error.
        sitelog.tracebacks = options.verbosity > 1
        first = options.reload or not self.launch.later
        sitelog.quiet = first and not configured and options.verbosity <= 1
        sitelog.until_started = True
        sitelog.reports_failure = not process.is_worker  # its supervisor reports it
        if sitelog.quiet and options.verbosity == 1 and self.is_on_terminal:
            sitelog.quiet, sitelog.reports_failure = False, False
        handler = process.signal_handler
        signals: Any = self._replaced('signals', bus) if not process.is_worker else None
        targets = process.config.settings['signals']
        if signals is None:
            signals = handler(bus, targets)
        elif hasattr(signals, 'handlers'):
            signals.handlers.update(targets)
        bus.plugins['signals'] = signals
        if hasattr(signals, 'know_the_site'):
            signals.know_the_site()
        threads = self._replaced('threads', bus) or ThreadManager(bus)
        bus.plugins['threads'] = threads
        with self.naming('threads'):
            threads.subscribe()
        process.plug_in(bus)
        restarter = bus.plugins['restart'] = self._restarter(bus)
        with self.naming('restarter'):
            restarter.subscribe()
        self.plug_in_systemd(bus)

    def _restarter(self, bus: Bus) -> Plugin:
        process = self.process
        if process.is_worker and not self.options.reload:
            from paste_wspbus.plugins.graceful import GracefulRestarter

            def renew() -> None:
                if process.worker is not None:  # after a fork, it is another object
                    process.worker.report.renew()

            return GracefulRestarter(bus, renew)
        style = process.restarter if process.is_worker else 'execv'
        return self._replaced('restarter', bus) or RESTARTERS[style](bus)

    def _replaced(self, key: str, bus: Bus) -> Any:
        """Return the plugin that a key of [wspbus:main] makes; None if it is not set."""
        config = self.process.config
        if key not in config.settings['defaults']:
            return None
        from paste_wspbus.ini.defaults import made

        return made(config, key, bus)

    def naming(self, key: str) -> AbstractContextManager[None]:
        """Return a context manager that makes the error of a key's plugin name the key."""
        config = self.process.config
        if key not in config.settings['defaults']:
            return contextlib.nullcontext()
        from paste_wspbus.ini.defaults import failing

        return failing(config, key)

    def plug_in_systemd(self, bus: Bus) -> None:
        """Plug in the plugin that reports to systemd, if systemd has started this process."""
        if 'NOTIFY_SOCKET' not in os.environ:
            return
        notifier = self._replaced('systemd', bus)
        if notifier is None:
            from paste_wspbus.plugins.systemd import SystemdNotifier

            notifier = SystemdNotifier(bus)
        bus.plugins['systemd'] = notifier
        with self.naming('systemd'):
            notifier.subscribe()

    def plug_in_sitelog(self, bus: Bus, configured: bool) -> SiteLog:
        """Plug in the log of the bus; set up logging if the .ini has not."""
        process = self.process
        if not configured:
            self.set_up_logging()
        sitelog = bus.plugins['sitelog'] = SiteLog(bus)
        if process.config.settings['log_format'] == 'json':
            from paste_wspbus.plugins import json_log

            json_log.begin(sitelog)
        sitelog.routine_is_debug = self.options.reload
        sitelog.tells_reason = self.tells_reason and not configured
        if process.role is not None:
            sitelog.name(process.name, process.role.generation)
        if process.log_file is not None:
            sitelog.files.append((process.log_file, (1, 2)))
        sitelog.subscribe()
        for note in process.notes:
            bus.log(note, 30)
        process.notes.clear()
        return sitelog

    def set_up_logging(self) -> None:
        """Set up logging to standard error, for a site whose .ini says nothing about it."""
        options, process = self.options, self.process
        # A worker's root logger has the supervisor's handler.
        force = bool(process.name)
        handler = Console()
        if self.is_on_terminal:
            from paste_wspbus.plugins import terminal_log

            colours = terminal_log.shows_colours()
            formatter = terminal_log.TerminalFormatter(process.name, colours)
            handler.setFormatter(formatter)
            if options.verbosity > 0:
                logging.getLogger('paste_wspbus').setLevel(logging.INFO)
        elif process.config.settings['log_format'] == 'json':
            from paste_wspbus.plugins.json_log import JsonFormatter
            from paste_wspbus.requests.records import add_request_ids

            add_request_ids()
            handler.setFormatter(JsonFormatter())
            if options.verbosity > 0:
                logging.getLogger('paste_wspbus').setLevel(logging.INFO)
        else:
            parts = ['%(asctime)s'] if process.log_file else []
            parts += ['%(levelname)-5.5s']
            parts += ['[%(processName)s]'] if process.name else []
            parts += ['[%(name)s] %(message)s']
            handler.setFormatter(SafeFormatter(' '.join(parts)))
        level = logging.INFO if options.verbosity > 1 else logging.WARNING
        logging.basicConfig(level=level, handlers=[handler], force=force)

    @property
    def tells_reason(self) -> bool:
        """Whether a log that has only warnings otherwise says why the site stops."""
        return self.options.verbosity == 1 and not _is_terminal()

    @property
    def is_on_terminal(self) -> bool:
        """Whether people read the log on a terminal; --reload shows them other lines."""
        return not self.options.reload and _is_terminal()


def _is_terminal() -> bool:
    return is_terminal(standard('stderr'))
