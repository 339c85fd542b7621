"""What a process holds before there is a site: PID file, log file, sockets."""

from __future__ import annotations

import functools
import importlib
import os
import sys
import time
from _thread import allocate_lock, start_new_thread  # before a site patches Python

from paste_wspbus.bus.interrupts import threads_are_greenlets
from paste_wspbus.errors import RestartImpossible, WSPBusError
from paste_wspbus.ini.config import Config
from paste_wspbus.ini.file import wait_for_no_pipe
from paste_wspbus.plugins.signals import SignalHandler
from paste_wspbus.process.names import Names
from paste_wspbus.process.opening import Opening
from paste_wspbus.process.succession import Succession
from paste_wspbus.streams import fill_numbers
from paste_wspbus.values import working_folder

TYPE_CHECKING = False
if TYPE_CHECKING:
    from paste_wspbus.bus import Bus
    from paste_wspbus.control.register import Beacon, Registration
    from paste_wspbus.control.server import Connection, Control
    from paste_wspbus.ops.holding import Ops
    from paste_wspbus.plugins.autoreload import Autoreloader
    from paste_wspbus.process.answers import Answers
    from paste_wspbus.process.inheritance import Inheritance
    from paste_wspbus.process.launch import Launch
    from paste_wspbus.process.renewal import Renewal
    from paste_wspbus.process.supervised_end import SupervisedEnd
    from paste_wspbus.process.trials import Trials
    from paste_wspbus.role import Role
    from paste_wspbus.servers.server import Server
    from paste_wspbus.unix.pid_lock import PIDLock


class Process:
    """Holds what the site needs before it is loaded; attaches to the site's bus afterwards.

    ``server`` is the adapter of the site's server, with its sockets bound. It is None if
    wspserve has no adapter for the server.
    """

    #: The bus of the site, or of the supervisor, as soon as this process rides it.
    bus: Bus | None = None
    #: What it holds for its ops listener, if there is one.
    ops: Ops | None = None
    #: The folder of the site's own metrics, in the process of the ops listener.
    metrics_folder: str | None = None

    def __init__(
        self, config: Config, launch: Launch, inheritance: Inheritance
    ) -> None:
        self.config, self.inheritance = config, inheritance
        self.launch, self.options = launch, launch.options
        self.server: Server | None = None
        self.lock: PIDLock | None = None
        self.control: Control | None = None
        #: Its entry among the running sites.
        self.entry: Registration | None = None
        #: The object by which commands see that it runs, if it can have no entry.
        self.beacon: Beacon | None = None
        #: Whether it opens everything only when the site is loaded.
        self.opens_late = False
        #: Whether it loads the site only when the process of the old site has ended.
        self.awaits_the_end = False
        #: Whether it may register when it serves, and not before the load.
        self.registers_late = False
        #: The connection and the role of a process that has a supervisor.
        self.worker: SupervisedEnd | None = None
        self.signal_handler = SignalHandler
        #: The log file to which descriptors 1 and 2 lead.
        self.log_file: str | None = None
        #: Whether this process has made the log file.
        self.made_log = False
        #: Lines for the log, which does not exist yet.
        self.notes: list[str] = []
        #: The answers on the control socket, if there is one.
        self.answers: Answers | None = None
        #: Which site it is: what commands ask for.
        self.names = Names(launch.options)
        self.succession = Succession(self)
        #: The time.time() and the time.monotonic() of the beginning of this process.
        self.began, self.began_monotonic = time.time(), time.monotonic()
        self.folder = working_folder()
        self._real_folder = os.getcwd()
        #: A traceback that is shown in the place of the site, and the signatures of the
        #: files that must change before it can be right.
        self.problem = inheritance.problem
        #: See `Inheritance`.
        self.reload: tuple[float, bool] | None = None
        #: The last restart in place of this process; it may be in progress.
        self.renewal = _renewal_of(inheritance)
        #: Whether the URLs of the site are on the terminal already.
        self.announced = inheritance.reload is not None
        #: The trials of new code, since the first one.
        self.trials: Trials | None = None
        self._making = allocate_lock()
        #: The watcher of a process that reloads itself.
        self.autoreloader: Autoreloader | None = None

    # -- opening --------------------------------------------------------------

    def open(self) -> None:
        """Open the PID file, the log file and the sockets; then change the user.

        :raises AlreadyRunning: if the site runs, and this start does not replace it.
        :raises WSPBusError: if something cannot be opened.
        """
        Opening(self).run()
        if self.ops is not None and not self.is_supervised:
            from paste_wspbus.process.ops_source import answer_in_thread

            answer_in_thread(self)

    @property
    def workers(self) -> int:
        """The number of workers; 0 stands for no worker, or for one without a number."""
        workers: int | None = self.options.workers
        return self.config.settings['workers'] if workers is None else workers

    @property
    def restarter(self) -> str:
        """How the site is restarted: 'execv', 'child' or 'fork'."""
        style: str | None = self.options.reloader or self.config.settings['restart']
        if style is None:
            can_fork = hasattr(os, 'fork')
            style = 'fork' if self.options.reload and can_fork else 'execv'
        return style

    @property
    def is_supervised(self) -> bool:
        """Whether other processes serve, and this one is their supervisor."""
        return bool(
            self.workers
            or self.options.monitor_restart
            or self.restarter != 'execv'
            or os.getpid() == 1
        )

    def known_server(self, config: Config) -> Server | None:
        """Return the server of a configuration, if wspserve has an adapter for it."""
        options = self.options
        return config.known_server(options.server_name, options.server, options.listen)

    def follow_link(self) -> None:
        """Change to the folder to which the link of the working folder leads now.

        A deployment changes that link. From now on, modules are imported from there, too.
        """
        try:
            if os.path.samefile(self.folder, os.curdir):
                return
            os.chdir(self.folder)
        except OSError:
            return  # there is no such folder: stay in the old one
        before, self._real_folder = self._real_folder, os.getcwd()
        for number, path in enumerate(sys.path):
            inside = path.removeprefix(before)
            if inside != path and inside[:1] in ('', os.sep):
                sys.path[number] = f'{self._real_folder}{inside}'
        importlib.invalidate_caches()

    # -- riding a bus -----------------------------------------------------------

    def open_late(self, bus: Bus) -> None:
        """Open everything when the site is loaded: the site that runs now stops first.

        The errors are those of `open`.
        """
        self.open()
        self.plug_in_pid_file(bus)
        for note in self.notes:
            bus.log(note, 30)
        self.notes.clear()

    def plug_in_pid_file(self, bus: Bus) -> None:
        """Plug in the plugin for the PID file, if there is one."""
        if self.lock is not None:
            from paste_wspbus.plugins.pidfile import PIDFile

            pid_file = bus.plugins['pidfile'] = PIDFile(bus, self.lock)
            pid_file.subscribe()
            # `close` removes the PID file last: until then, this process exists.
            bus.unsubscribe('exit', pid_file.exit)

    def plug_in(self, bus: Bus) -> None:
        """Plug in the plugins whose work was done before there was a bus."""
        self.plug_in_pid_file(bus)
        if self.worker is None and self.config.settings['reports'] is not None:
            from paste_wspbus.process.own_reports import plug_in

            plug_in(self, bus)
        if self.worker is not None:
            self.worker.plug_in(bus)
        elif self.config.watches_requests:
            from paste_wspbus.process.watched import watch_requests

            watch_requests(bus, self.config)
        if self.options.ops or self.config.settings['ops']:
            from paste_wspbus.process.counting import count_requests
            from paste_wspbus.process.health import find_resources

            count_requests(bus)
            find_resources(bus)
        # A worker needs no check: if a restart fails, the supervisor handles that.
        if hasattr(bus, 'restart_checks') and not self.is_worker:
            bus.restart_checks.append(self._check_restart)
        options = self.options
        if options.daemon:
            from paste_wspbus.plugins.daemon import Daemonizer

            daemonizer = bus.plugins['daemonizer'] = Daemonizer(bus)
            daemonizer.finalized = True
        if options.identity is not None:
            from paste_wspbus.plugins.daemon import DropPrivileges

            dropped = DropPrivileges(bus, uid=options.user, gid=options.group)
            dropped.finalized = True
            bus.plugins['privileges'] = dropped

    def _check_restart(self) -> None:
        file = self.config.file
        if file is not None and not os.access(file, os.R_OK):
            why = 'cannot be read by this user' if os.path.exists(file) else 'is gone'
            raise RestartImpossible(f'{file} {why}')
        try:
            if self.lock is not None:
                self.lock.check()
            if self.server is not None and any(s.is_unix for s in self.server.sockets):
                from paste_wspbus.listening.unix_sockets import check

                for listening in self.server.sockets:
                    check(listening)
        except (WSPBusError, OSError) as error:
            raise RestartImpossible(str(error)) from None

    def ride(self, bus: Bus) -> None:
        """Attach to the bus: control requests and orders act on it from now on."""
        wait_for_no_pipe()
        self.bus = bus
        self.succession.ride(bus)
        if self._tries_first():
            bus.try_restart = functools.partial(self.try_restart, bus)
        if self.answers is not None:
            self.answers.bus = bus
        if self.worker is not None:
            self.worker.ride(bus)
        elif self.control is not None:
            self.control.serve(bus)
        if self.worker is None:
            bus.subscribe('reload_failed', self.is_not_renewed)

    def is_renewed(self) -> None:
        """Note that the site serves: if this process was restarted, that has ended now."""
        if self.renewal is not None and self.renewal.took is None:
            self.renewal.ends(None, self.renewal.reason)
        if self.answers is not None:
            self.answers.started({})

    def is_not_renewed(self, reason: str) -> None:
        """Note that a restart of this process was refused."""
        try:
            from paste_wspbus.process.repairing import note_refusal
        except OSError:  # no descriptor is free
            return
        note_refusal(self, reason)

    def register(self, bus: Bus) -> None:
        """Register the site, which serves now, if that was not done before the load."""
        if not self.registers_late:
            return
        self.registers_late = False
        fill_numbers()  # a request may have closed them
        try:
            from paste_wspbus.process.registering import Registering

            Registering(self).open()
        except OSError as error:  # no descriptor is free
            self.notes.append(f'The site cannot be found by commands: {error.strerror}')
        for note in self.notes:
            bus.log(note, 30)
        self.notes.clear()
        if self.control is not None and self.answers is not None:
            self.answers.bus = bus
            Registering(self).serve(self.control, bus)

    def _tries_first(self) -> bool:
        """Whether a restart in place waits until another process has loaded the new code."""
        is_alone = not (self.is_worker or self.is_supervised or self.options.reload)
        is_possible = os.name == 'posix' and not threads_are_greenlets()
        return is_alone and is_possible and self.config.settings['trial'] is not False

    def try_restart(self, bus: Bus, connection: Connection | None = None) -> None:
        """Restart the site if its new code can be loaded; return at once: see `Trials.ask`.

        A signal handler may call this. So another thread also imports what it needs.

        :raises RuntimeError: if the system starts no more threads.
        """

        def ask() -> None:
            try:
                from paste_wspbus.process.trials import Trials
            except (OSError, ImportError) as error:  # no descriptor is free
                said = str(RestartImpossible(str(error)))
                bus.log(said, 40)
                bus.post('reload_failed', said)
                if connection:
                    connection.answer({'error': said})
                return
            with self._making:
                self.trials = trials = self.trials or Trials(self, bus)
            trials.ask(connection)

        start_new_thread(ask, ())

    @property
    def is_worker(self) -> bool:
        """Whether another process holds the PID file and the control socket."""
        return self.worker is not None

    @property
    def role(self) -> Role | None:
        """The role of a worker; None for any other process."""
        return None if self.worker is None else self.worker.role

    @property
    def is_drained(self) -> bool:
        """Whether the site was drained when this program or worker began."""
        return self.inheritance.drained if self.role is None else self.role.drained

    @property
    def name(self) -> str:
        """Its name in log lines: 'worker 2'; '' if the site has one process."""
        return '' if self.worker is None else self.worker.name

    # -- leaving --------------------------------------------------------------

    def finish(self, code: int) -> None:
        """After the stop: answer the requests for it, and hand everything to the successor."""
        if self.worker is not None:
            self.worker.report.exits(code)
        if self.answers is not None:
            self.answers.stopped(code)
        if self.lock is not None:
            self.lock.stays = False
        if self.answers is not None and self.answers.successor is not None:
            from paste_wspbus.process.bequeathing import leave_to

            leave_to(self.answers.successor, self.succession)

    def close_control(self) -> None:
        """Close the control socket, because this process does not answer there any more."""
        if self.control is not None:
            self.control.close()
            self.control = None

    def close(self) -> None:
        """Close what is open; remove the PID file and the control socket."""
        if self.worker is not None:
            self.worker.close()
        if self.server is not None:
            self.server.close()
        if self.ops is not None:
            self.ops.close()
        if self.entry is not None:
            self.entry.close()
        if self.beacon is not None:
            self.beacon.close()
        if self.control is not None:
            self.control.close()
        if self.lock is not None:
            self.lock.release()


def _renewal_of(inheritance: Inheritance) -> Renewal | None:
    """Return the restart in place that has led to this program, if there was one."""
    if inheritance.renewal is None:
        return None
    from paste_wspbus.process.renewal import Renewal

    return Renewal.from_program_before(inheritance.renewal)
