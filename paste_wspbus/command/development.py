"""The runner under --reload: if the site does not start, it serves the traceback."""

from __future__ import annotations

import functools
import os

from paste_wspbus.bus import Bus
from paste_wspbus.bus.host import WSPSERVE
from paste_wspbus.command.leaving import end_at_once
from paste_wspbus.command.single import Single
from paste_wspbus.command.terminal import one_line, print_line, without_folder
from paste_wspbus.errors import ConfigError, SettingError
from paste_wspbus.exits import DONE
from paste_wspbus.ini.config import Site
from paste_wspbus.role import LOADING
from paste_wspbus.servers.server import Server
from paste_wspbus.values import split_file
from paste_wspbus.watching.files import Files, is_installed
from paste_wspbus.watching.imports import missing_modules

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from paste_wspbus.errors import WSPBusError
    from paste_wspbus.ini.config import Config
    from paste_wspbus.process.launch import Launch
    from paste_wspbus.process.process import Process
    from paste_wspbus.process.supervised_end import SupervisedEnd
    from paste_wspbus.watching.gate import Gate
    from paste_wspbus.workers.learner import Learner
    from paste_wspbus.workers.loading import Whereabouts


#: The priority with which a gate begins: before the server, which accepts then.
GATE = 74


def watch_file(launch: Launch) -> None:
    """Note the state of the .ini before it is read, so that a later change is noticed."""
    launch.files = Files()
    launch.files.add(split_file(launch.options.config.removeprefix('config:'))[0])


def watch_more(launch: Launch, config: Config) -> None:
    """Note the other files of the .ini, and read the settings in its [pserve].

    :raises ConfigError: if [pserve] is wrong.
    """
    from paste_wspbus.ini.pserve import reload_settings

    assert launch.files is not None
    before, here = launch.files.news(), os.path.dirname(config.file or '')
    try:
        settings = reload_settings(config.section('pserve'), here)
    except SettingError as error:
        raise ConfigError(
            config.file, error.problem, section='pserve', key=error.key
        ) from None
    launch.ignore, launch.files = settings.ignore, Files(settings.ignore)
    launch.files.merge(before)
    launch.watch = settings.watch
    launch.poll = _why_to_poll(launch, settings.poll, here)
    for path in [*config.files, *settings.watch]:
        launch.files.add(path)


def _why_to_poll(launch: Launch, said: bool | None, folder: str) -> str:
    """Return why the files are polled; '' if the kernel is to report changes.

    :param said: ``poll`` in [pserve]; None if it is not there.
    :param folder: that of the .ini.
    """
    if launch.options.reload_poll:
        return '--reload-poll'
    if said is not None:
        return '[pserve] poll' if said else ''
    monitor = os.environ.get('HUPPER_DEFAULT_MONITOR', '')
    if monitor.endswith('PollingFileMonitor'):
        return f'HUPPER_DEFAULT_MONITOR={monitor}'
    from paste_wspbus.watching.mounts import silent_file_system

    for each in dict.fromkeys([folder or os.curdir, os.curdir]):
        if kind := silent_file_system(each):
            return f'{os.path.abspath(each)} is on {kind}, which reports no changes'
    return ''


def warn(process: Process) -> None:
    """Print once that the files are polled, and that other machines can read the sources."""
    server, inheritance = process.server, process.inheritance
    if process.is_worker or inheritance.reload or inheritance.problem:
        return
    if process.launch.poll and process.options.verbosity > 0:
        interval = process.options.reload_interval
        line = f'Looking for changes every {interval:g} s: {process.launch.poll}'
        print_line(line, 'stderr')
    if server is None:
        return
    urls = [one.url(server.scheme) for one in server.sockets if not one.is_local]
    if urls and process.options.verbosity > 0:
        line = f'--reload: other machines reach {", ".join(urls)}; a mistake shows '
        line += 'the sources of the site there. Listen on 127.0.0.1 instead'
        print_line(line, 'stderr')


class Development(Single):
    """Runs the site under --reload, in this process or as a supervisor's worker."""

    #: Notes which files the site consists of; None in a process that reloads itself.
    learner: Learner | None = None
    #: Answers the supervisor's question at which line a long load is.
    _whereabouts: Whereabouts | None = None

    def plug_in(self, bus: Bus) -> None:
        """Plug in the plugin that notes the files of the site.

        A process that reloads itself also watches them; for other processes, the
        supervisor does that.
        """
        if self.learner is not None:
            self.learner.ride(bus)
        else:
            self._plug_in_reloader(bus)

    def _plug_in_reloader(self, bus: Bus) -> None:
        if 'autoreload' in self.process.config.settings['defaults']:
            from paste_wspbus.ini.defaults import made

            bus.plugins['autoreload'] = made(self.process.config, 'autoreload', bus)
            with self.defaults.naming('autoreload'):
                bus.plugins['autoreload'].subscribe()
            return
        from paste_wspbus.command.reloader import Reloader

        reloader = Reloader(bus, self.launch, self.process)
        bus.plugins['autoreload'] = self.process.autoreloader = reloader
        reloader.subscribe()

    # -- composing ------------------------------------------------------------

    def compose_in_role(self) -> Site | None:
        """Return the site when it is time to start it, or the page that shows why it fails.

        :returns: None if the supervisor does not need this process any more.
        """
        from paste_wspbus.workers.loading import told_by_itself

        process, worker = self.process, self.process.worker
        if worker is None:
            if problem := process.problem:
                site = self._compose_problem(problem[0])
            else:
                with told_by_itself(self._show):
                    site = self.compose()
            self._make_replaceable(site)
            return site
        if worker.role.kind == LOADING:
            worker.show_loading()
            end_at_once(DONE)
        if worker.role.problem:
            return self._compose_problem(worker.role.problem)
        return self._compose_as_worker(worker)

    def _show(self, line: str) -> None:
        if self.options.verbosity > 0:
            print_line(line, 'stderr')

    def _make_replaceable(self, site: Site) -> None:
        """Let the watcher of this process show a mistake in the place of the site."""
        from paste_wspbus.command.reloader import Reloader, Shown

        if isinstance(reloader := self.process.autoreloader, Reloader):
            site.app = reloader.shown = Shown(site.app)

    def _compose_as_worker(self, worker: SupervisedEnd) -> Site | None:
        """Load the site; a spare worker first waits until the supervisor needs it.

        The process that imports the packages forks the processes that load the site.
        """
        from paste_wspbus.process.rereading import reconfigure
        from paste_wspbus.workers.learner import Learner
        from paste_wspbus.workers.loading import Whereabouts
        from paste_wspbus.workers.packages import own_memory

        launch, process = self.launch, self.process
        self.learner = learner = Learner(launch.ignore)
        is_forked = worker.role.kind == 'packages'
        if is_forked and not worker.fork_from_packages(learner.import_all):
            end_at_once(DONE)
        worker = process.worker or worker  # after a fork, it is another object
        is_spare = worker.role.spare
        named = Files()
        for path in launch.watch:
            named.add(path)
        learner.files.merge(named.news())  # without news: the supervisor knows them
        if not launch.later and process.restarter == 'fork':
            learner.report_early(worker.report)
        learner.gate = gate = self._make_gate(learner.files)
        if gate is not None:
            gate.reopen(at_all=True)  # nothing of the site has been read yet
        if is_spare:
            if is_forked and launch.report.fd is not None:
                own_memory(launch.report.fd)
            if not worker.waits_to_go():
                return None
            if gate is not None:
                gate.reopen()
        if is_forked and launch.files is not None and launch.files.changed():
            # The process that has forked this one has read the .ini before the change.
            reconfigure(process)
        for path in process.config.files:
            learner.files.add(path)
        self._whereabouts = Whereabouts(worker.report)
        site = self.compose()
        self._put_before(site, gate)
        return site if is_spare or worker.waits_to_go() else None

    def _make_gate(self, files: Files) -> Gate | None:
        """Return a gate that reports to the supervisor when it shuts.

        :returns: None if this process has no server that would ask, or polls.
        """
        from paste_wspbus.watching.gate import Gate

        process = self.process
        if process.server is None or process.worker is None or self.launch.poll:
            return None
        gate = Gate(files, process.worker.report.outdated)
        files.search()
        gate.prepare()
        return gate

    def _put_before(
        self, site: Site, gate: Gate | None, *, at_all: bool = False
    ) -> None:
        """Let the server of a site ask a gate before it accepts a connection.

        :param at_all: see `Gate.begin`.
        """
        role = self.process.role
        if gate is not None and role is not None and isinstance(site.server, Server):
            site.server.gate = gate
            begin = functools.partial(gate.begin, at_all=at_all, insists=role.insists)
            site.bus.subscribe('start', begin, priority=GATE)

    def _compose_problem(self, problem: str) -> Site:
        """Return the site that is served in the place of one that does not start."""
        from paste_wspbus.errorpage.page import make_app

        bus = Bus()
        bus.host = WSPSERVE
        self.defaults.plug_in(bus, configured=False)
        if not self.process.is_worker:
            self._plug_in_reloader(bus)
        server = self.make_server(bus)
        server.plug_in(bus)
        site = Site(self.process.config.file, bus, server)
        site.app = make_app(problem)
        if self.launch.files is not None:
            # The supervisor has forked this process, and knows the files that failed.
            gate = self._make_gate(self.launch.files)
            self._put_before(site, gate, at_all=True)
        return site

    # -- leaving --------------------------------------------------------------

    def show(self, error: WSPBusError) -> None:
        """Let the traceback be served in the place of the site.

        A worker reports it to its supervisor. A process that reloads itself replaces
        itself with a program that serves the traceback.
        """
        from paste_wspbus.errorpage.problem import problem_of, trace_of

        launch, process = self.launch, self.process
        (trace, file), line = trace_of(error), one_line(error)
        shown = without_folder(line)
        problem = problem_of(error, shown)
        if process.is_worker:
            self.before_ready()
            launch.report.failed(error.exit_code, line, trace, file, problem)
        elif process.problem is None:
            print_line(f'{trace}{shown}', 'stderr')
            process.problem = problem, self._own_files(error)
            if process.renewal is not None:
                process.renewal.reason = line
            process.reload = process.inheritance.reload
            process.succession.keep_open()
            bus = Bus()
            bus.before_execv = functools.partial(self.before_execv, bus)
            bus.startup_folder = process.folder
            bus.replace_process()

    def _own_files(self, error: WSPBusError) -> dict[str, Any]:
        """Return the files that may have caused an error, each as it was when it was read."""
        autoreloader = self.process.autoreloader
        if autoreloader is None:
            return {}
        learnt = autoreloader.learnt.signatures.items()
        own: dict[str, Any] = {
            path: was for path, was in learnt if not is_installed(path)
        }
        return {**dict.fromkeys(missing_modules(error)), **own}

    def before_ready(self) -> None:
        """Report the files of the site: the supervisor watches them."""
        if self._whereabouts is not None:
            self._whereabouts.end()
        if self.learner is not None and self.process.worker is not None:
            self.learner.report_to(self.process.worker.report)

    def end(self, code: int) -> None:
        """End a worker at once: the worker that replaces it waits for that."""
        if self.process.is_worker:
            end_at_once(code)
