"""The runner of a supervisor: this process starts, watches and replaces those of the site."""

from __future__ import annotations

import functools
import os
import sys

from paste_wspbus.command.announcing import Announcement
from paste_wspbus.command.defaults import DefaultPlugins
from paste_wspbus.command.terminal import one_line, print_line, without_folder
from paste_wspbus.errors import ConfigError, WSPBusError
from paste_wspbus.exits import FAILED
from paste_wspbus.ini.exited import EARLY
from paste_wspbus.ini.limits import limits_of
from paste_wspbus.ini.listed import is_clustered
from paste_wspbus.ini.settings import HUNG_AFTER, section_of
from paste_wspbus.plugins.log_files import log_to_files
from paste_wspbus.plugins.sitelog import name_process
from paste_wspbus.process.names import MAIN
from paste_wspbus.process.repairing import repair
from paste_wspbus.process.reporting import check_folder
from paste_wspbus.process.rereading import ListenAddressNotice, reconfigure
from paste_wspbus.role import CLUSTER, OPS
from paste_wspbus.unix.holding import hold
from paste_wspbus.unix.titles import set_title
from paste_wspbus.workers.children import BecomeWorker
from paste_wspbus.workers.output import give_back_streams, take_over_streams
from paste_wspbus.workers.plan import Configuration, Plan
from paste_wspbus.workers.supervisor import (
    SIGNALS,
    Supervisor,
    SupervisorBus,
    SupervisorSignals,
)
from paste_wspbus.workers.worker import become, start_afresh

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from paste_wspbus.cluster.facts import Release
    from paste_wspbus.metrics.folder import MetricsFolder
    from paste_wspbus.process.launch import Launch
    from paste_wspbus.process.process import Process
    from paste_wspbus.workers.log_handlers import LogHandlers


class Supervised:
    """Lets other processes run the site: workers, or one process that it restarts."""

    def __init__(self, launch: Launch, process: Process) -> None:
        self.launch, self.options, self.process = launch, launch.options, process
        self.defaults = DefaultPlugins(launch, process)
        self.announcement = Announcement(launch, process)
        self.bus = SupervisorBus()
        self._handlers: LogHandlers | None = None
        self.supervisor = self._make_supervisor()
        if process.workers:
            self._join_cluster()
        check_folder(self.process.config, self.supervisor.plan.reports)
        self.supervisor.reports.about = self._about
        if process.ops is not None:
            from paste_wspbus.process.ops_answers import OpsAnswers
            from paste_wspbus.workers.ops_feed import OpsFeed

            self.supervisor.ops = OpsFeed(self.supervisor, OpsAnswers(process).ask)
        self.metrics: MetricsFolder | None = None

    def run(self) -> int | None:
        """Run the supervisor to its end.

        :returns: the exit code; but None in a forked child, which is a worker now.
        :raises WSPBusError: if the site does not start.
        """
        bus, process = self.bus, self.process
        if process.config.settings['site_metrics'] != 'off':
            from paste_wspbus.metrics.folder import MetricsFolder, check

            check(process.config.file, section_of(process.config.loader))
            self.metrics = MetricsFolder()
        take_over_streams(bus.events)
        bus.plugins['supervisor'] = self.supervisor
        self.defaults.set_up_logging()
        name_process('supervisor', os.getpid())
        set_title('supervisor', process.names.ini)
        configured = self._use_site_handlers() is not None
        sitelog = self.defaults.plug_in_sitelog(bus, configured=True)
        sitelog.tells_reason = self.defaults.tells_reason and not configured
        # If the first start fails, one line says so. Under --reload, one line says it of
        # each reload.
        is_shown = self.defaults.is_on_terminal and not configured
        sitelog.quiet = self.options.verbosity <= 1 - is_shown
        sitelog.reports_failure = False
        sitelog.until_started = not self.options.reload
        self._prepare()
        code = FAILED
        try:
            self.launch.loads(os.getpid())
            code = self.supervisor.run(self._announce)
            # If the site was READY, this was reported, and this report has no effect.
            self.launch.report.failed(code or FAILED, EARLY)
            return code
        except BecomeWorker as became:
            child = became
        except WSPBusError as error:
            code, error.trace = error.exit_code, self.supervisor.failures.text()
            raise
        finally:
            if bus.pid == os.getpid():
                process.finish(code)
                if self.metrics is not None:
                    self.metrics.remove()
            else:
                bus.plugins['signals'].unsubscribe()
        self._become(child)
        return None

    def _become(self, child: BecomeWorker) -> None:
        """Make a worker of this process, which the supervisor has forked."""
        self.supervisor.close_in_child()
        give_back_streams()
        if self.metrics is not None and child.role.kind == OPS:
            self.process.metrics_folder = self.metrics.path
        elif self.metrics is not None:
            self.metrics.use()
        role = child.role
        if role.kind == CLUSTER and self.supervisor.cluster is not None:
            role = role._replace(lease=self.supervisor.cluster.stand_guard())
        if child.fresh:
            hold(True)
            start_afresh(self.process, self.bus, child.connection, role, child.board)
        become(self.process, child.connection, role, child.board)

    def _join_cluster(self) -> None:
        """Prepare the part of this site in its cluster, if it belongs to one.

        :raises ConfigError: if [cluster:main] is wrong, or a library is missing.
        :raises UnsafeFolder: if no folder can have the files of a cluster on this machine.
        """
        config = self.process.config
        if not is_clustered(config):
            return
        from paste_wspbus.cluster.settings import LOCAL, find_maker, read
        from paste_wspbus.unix.paths import runtime_folder
        from paste_wspbus.workers.clustered import Clustered

        settings = read(config.loader, str(config.file))
        folder = runtime_folder() if settings.scheme == LOCAL else None
        maker = find_maker(settings, lambda _, problem: WSPBusError(problem))
        make = functools.partial(maker, settings, folder or '')
        ini, began = str(config.file), self.process.began
        cluster = Clustered(self.supervisor, settings, make, ini, began)
        self.supervisor.cluster = cluster
        if (answers := self.process.answers) is not None:
            answers.commands.update(cluster.operators.commands)

    def _cluster_notes(self) -> list[str]:
        """Return what to say if [cluster:main] has changed: a graceful restart keeps it.

        :raises ConfigError: if it is wrong.
        """
        config, cluster = self.process.config, self.supervisor.cluster
        if not (self.process.workers and is_clustered(config)):
            return []
        from paste_wspbus.cluster.settings import read

        if cluster is not None and cluster.settings == read(
            config.loader, str(config.file)
        ):
            return []
        what = 'has changed' if cluster is not None else 'is new'
        return [
            f'[cluster:main] {what}, which takes a restart: stop wspserve and start it again'
        ]

    def _make_supervisor(self) -> Supervisor:
        bus, options, process = self.bus, self.options, self.process
        plan, server = self._plan(), process.server
        if not options.reload:
            from paste_wspbus.workers.rolling import Rolling

            rolling = functools.partial(Rolling, fresh=process.restarter == 'child')
            return Supervisor(bus, plan, server, self._configure_anew, rolling)
        from paste_wspbus.workers.reloading import Reloading, ReloadPlan

        assert self.launch.files is not None

        def show(text: str) -> None:
            if options.verbosity > 0:
                print_line(text, 'stderr')

        def fail(text: str) -> None:
            if options.verbosity > 0:
                trace, end, line = text.rpartition('\n')
                print_line(f'{trace}{end}{without_folder(line)}', 'stderr')
                log_to_files(text)
            else:
                bus.log(text, 40)

        bus.listeners.setdefault('changed', set())
        bus.subscribe('changed', ListenAddressNotice(process, show).look)
        reload_plan = ReloadPlan(
            process.restarter,
            self.launch.files,
            options.reload_interval,
            show,
            fail,
            bool(self.launch.poll),
        )
        reloading = functools.partial(Reloading, plan=reload_plan)
        return Supervisor(bus, plan, server, self._configure_anew, reloading)

    def _prepare(self) -> None:
        """Plug in the plugins of the supervisor's bus, and handle signals."""
        bus, process = self.bus, self.process
        table = process.config.settings['signals']
        table = {**SIGNALS, **table} if process.workers else table
        signals = SupervisorSignals(bus, table)
        bus.plugins['signals'] = signals
        self.supervisor.subscribe(signals)
        if self.options.verbosity > 0 and not self.options.reload:
            bus.subscribe('generation_serves', _print_generation)
        self.defaults.plug_in_systemd(bus)
        process.ride(bus)
        bus.subscribe('graceful', repair, process, bus, priority=0)
        self.launch.early.give_to(signals)
        self.launch.early.repeat()

    # -- what the supervisor needs --------------------------------------------

    def _plan(self) -> Plan:
        process, options = self.process, self.options
        settings, workers = process.config.settings, process.workers
        return Plan(
            workers=workers,
            restarts=bool(workers) or options.monitor_restart,
            preload=bool(workers) and settings['preload'] and not options.reload,
            site_plugins=bool(workers) and bool(settings['site_plugins']),
            cluster_plugins=settings['cluster_plugins'] if workers else (),
            release=self._release() if workers else None,
            start_timeout=settings['start_timeout'],
            stop_timeout=settings['stop_timeout'],
            soak=settings['soak'],
            smoke=bool(settings['smoke']),
            max_requests=0 if options.reload else settings['max_requests'],
            max_memory=0 if options.reload else settings['max_memory'],
            max_age=0 if options.reload else settings['max_age'],
            hung_after=0 if options.reload else self._hung_after(),
            reports=settings['reports'],
            limits=limits_of(settings, has_workers=bool(workers)),
        )

    def _release(self) -> Release | None:
        config, names = self.process.config, self.process.names
        if not is_clustered(config):
            return None
        from paste_wspbus.cluster.facts import release_of

        return release_of(config, names.ini, names.app or MAIN)

    def _about(self) -> dict[str, Any]:
        from paste_wspbus.process.about import about  # the first report needs it

        self._hide_secrets()
        return about(self.process)

    def _hide_secrets(self) -> None:
        """Let no report show the secrets of the .ini as it was read last."""
        from paste_wspbus.ini.masking import secrets_of

        self.supervisor.reports.notes.hide(secrets_of(self.process.config))

    def _hung_after(self) -> float:
        hung_after: float | None = self.process.config.settings['hung_after']
        if hung_after is None:
            return HUNG_AFTER if self.process.workers else 0.0
        return hung_after

    def _configure_anew(self) -> Configuration:
        """Read the .ini as it is now, for a graceful restart.

        :raises WSPBusError: if it is wrong.
        """
        process, plan = self.process, self.supervisor.plan
        try:
            undo = reconfigure(process)
        except WSPBusError as error:
            refused = WSPBusError(one_line(error))
            refused.exit_code = error.exit_code
            raise refused from None
        new, notes = self._plan(), process.notes
        try:
            check_folder(process.config, new.reports)
            if new.reports:  # if this generation fails, the .ini before counts again
                self._hide_secrets()
            notes += self._cluster_notes()
        except ConfigError:
            undo()
            raise
        if bool(new.workers) != bool(plan.workers):
            notes.append(
                f'workers = {new.workers}: to use it, stop wspserve and start it again; '
                f'a restart makes {"one worker" if plan.workers else "no workers"} of it'
            )
            new = new._replace(workers=1 if plan.workers else 0, restarts=plan.restarts)
        process.notes = []
        undo_handlers = self._use_site_handlers()

        def undo_all() -> None:
            undo()
            if undo_handlers is not None:
                undo_handlers()

        for note in notes:
            self.bus.log(note, 30)
        return Configuration(new, process.server, undo_all, notes)

    def _use_site_handlers(self) -> Callable[[], object] | None:
        """Let the lines of this process go where the .ini sends those of the site.

        :returns: a function that takes this back; None if the .ini says nothing of logging.
        """
        config = self.process.config
        if config.file is None or not config.loader.parser.has_section('loggers'):
            return None
        from paste_wspbus.workers.log_handlers import LogHandlers

        self._handlers = self._handlers or LogHandlers()
        try:
            parser = config.logging_parser()
        except Exception:  # it is wrong, or this user cannot read it any more
            return lambda: None
        return self._handlers.use(parser)

    def _announce(self, lines: list[str]) -> None:
        """Announce that the first generation is ready.

        :param lines: the lines of its first worker for the terminal.
        """
        process, supervisor = self.process, self.supervisor
        if supervisor.plan.workers:
            urls = process.server.urls if process.server else ()
            lines = self.announcement.lines(urls)
            if lines:
                lines.append(f'Workers in PIDs {", ".join(map(str, supervisor.pids))}.')
                print_line('\n'.join(lines))
        self.launch.report.ready(lines)
        if url := self.announcement.url_to_show():
            # Start another program, because this process must not have threads.
            command = [sys.executable, '-m', 'webbrowser', url]
            os.posix_spawn(sys.executable, command, os.environ)


def _print_generation(generation: int, pids: list[int]) -> None:
    numbers = ', '.join(map(str, pids))
    print_line(f'Generation {generation} serves, workers in PIDs {numbers}.')
