"""What a process holds before there is a site: PID file, log file, sockets, a user."""

from __future__ import annotations

import _thread
import contextlib
import errno
import io
import os
import signal
import socket
import stat
import sys
import threading
import time

from paste_wspbus.bus import EX_SOFTWARE, State
from paste_wspbus.deadlines import stacks
from paste_wspbus.errors import BindError, RestartImpossible, UsageError, WSPBusError
from paste_wspbus.inheritance import Inheritance
from paste_wspbus.loader import Config, Terminated
from paste_wspbus.plugins.signals import SignalHandler
from paste_wspbus.plugins.sitelog import append_to
from paste_wspbus.report import Report
from paste_wspbus.settings import working_folder
from paste_wspbus.sockets import ListeningSocket, inherited

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, NoReturn

    from paste_wspbus.activation import Activated
    from paste_wspbus.arguments import Options
    from paste_wspbus.bus import Bus
    from paste_wspbus.control import Connection, Control
    from paste_wspbus.plugins.autoreload import Autoreloader
    from paste_wspbus.plugins.pidfile import PIDLock
    from paste_wspbus.servers import Server
    from paste_wspbus.worker import Role


#: Seconds that a site has for answering, before it is stopped by signals.
ANSWER = 2.0


#: Seconds for the workers of a supervisor that was killed to notice, and to let go of
#: the port; and between two looks.
ORPHANS, LOOK = 5.0, 0.02


class Process:
    """Opens everything that a start needs, in the order that privileges demand.

    ``server`` is the known server, its sockets bound; None if the site's is
    not a known one.
    """

    def __init__(
        self, config: Config, options: Options, inheritance: Inheritance
    ) -> None:
        self.config, self.options, self.inheritance = config, options, inheritance
        self.server: Server | None = None
        self.lock: PIDLock | None = None
        self.control: Control | None = None
        #: The connection to the process that forked this one to run the site, and
        #: what it is for.
        self.supervisor: socket.socket | None = None
        self.role: Role | None = None
        self.signal_handler = SignalHandler
        #: The log file that descriptors 1 and 2 are.
        self.log_file: str | None = None
        #: Whether it was told to stop while it composed.
        self._terminated = False
        #: What is worth a line in the log, once there is one.
        self.notes: list[str] = []
        self._bus: Bus | None = None
        self._began = time.time()
        self._forked = time.monotonic()
        self.folder = working_folder()
        self._asked_to_stop: list[Connection] = []
        self._successor: Connection | None = None
        self._took_over_from_the_dead = False
        #: What of the .ini's was told to take a restart.
        self._told_where: dict[str, Any] | None = None
        self._left: list[ListeningSocket] = []
        self._owned = True
        self._shared: list[ListeningSocket] = []
        #: What is shown in the place of the site: a traceback; and the signatures of
        #: the files whose change may heal it.
        self.problem = inheritance.problem
        #: What has changed, and since when it is being reloaded.
        self.reload: tuple[str, float] | None = None
        #: Whether the terminal was told where the site is served.
        self.announced = inheritance.reload is not None
        #: Of a process that reloads itself.
        self.autoreloader: Autoreloader | None = None

    # -- opening --------------------------------------------------------------

    def open(self) -> None:
        """PID file, log file, sockets; then become who the site runs as.

        Nothing of the site's own is imported.

        :raises AlreadyRunning: if the site runs, and is not to be replaced.
        :raises WSPBusError: for what cannot be had.
        """
        options = self.options
        if options.replaces:  # a mistake is told while the old site goes on
            self._known_server(self.config)
        if options.pid_file:
            self._open_pid_file(options.pid_file)
        if options.log_file:
            self._open_log(options.log_file)
        self.server = self._known_server(self.config)
        self._check_workers(self.server)
        if self.server is not None:
            self._open_sockets(self.server)
        if self.lock is not None:
            self.lock.write()
            self._open_control(self.lock.path)
        elif self.is_supervised:
            self._open_control_in_runtime_folder()
        if options.identity is not None:
            self._change_owner()
            # getaddrinfo imports it late; its file may not be the user's to read.
            import encodings.idna  # noqa: F401

            options.identity.take()

    @property
    def workers(self) -> int:
        """How many worker processes are asked for; 0: none, or one without a number."""
        asked: int | None = self.options.workers
        return self.config.settings['workers'] if asked is None else asked

    @property
    def restarter(self) -> str:
        """How a site is restarted: 'execv', 'child' or 'fork'."""
        asked: str | None = self.options.reloader or self.config.settings['restart']
        if asked is None:
            can_fork = hasattr(os, 'fork')
            asked = 'fork' if self.options.reload and can_fork else 'execv'
        return asked

    @property
    def is_supervised(self) -> bool:
        """Whether other processes serve, and this one looks after them."""
        return bool(
            self.workers
            or self.options.monitor_restart
            or self.restarter != 'execv'
            or os.getpid() == 1
        )

    def open_as_worker(self, connection: socket.socket, role: Role) -> None:
        """The same for one that a supervisor has started, or that has replaced itself:
        all is open already.
        """
        if self.options.log_file:
            self.log_file = os.path.abspath(self.options.log_file)
        self.server = self._known_server(self.config)
        left = [
            ListeningSocket(socket.socket(fileno=fd), owned=self.inheritance.owned)
            for fd in self.inheritance.take_sockets()
        ]
        if self.server is not None:
            self.server.adopt(left)
        self.become(connection, role)

    def _known_server(self, config: Config) -> Server | None:
        options = self.options
        return config.known_server(options.server_name, options.server, options.listen)

    def _check_workers(self, server: Server | None) -> None:
        if self.is_supervised and not hasattr(os, 'fork'):
            raise UsageError(
                'workers, --monitor-restart, and child and fork as restarters: '
                'this system has no fork(2)'
            )
        self.config.check_workers(self.workers, server)

    def reconfigure(self) -> Callable[[], None]:
        """Read the .ini anew, for what is composed from now on; the sockets stay.

        :returns: what takes it back.
        :raises WSPBusError: if it is wrong; nothing is changed then.
        """
        before, file = self.config, self.config.file
        if file is not None and os.path.exists(file) and not os.access(file, os.R_OK):
            # It was read before this process became the user that it is.
            self.notes.append(
                f'{file} cannot be read by this user; it is used as it was'
            )
            return lambda: None
        config = Config(self.options.config, self.options.vars, self.folder)
        server, old = self._known_server(config), self.server
        if (server is None) != (old is None):
            raise UsageError(
                'another kind of server in the .ini takes a restart, not a graceful one'
            )
        if server is not None and old is not None:
            if server.where != old.where and not self.is_worker:
                self.notes.append(
                    f'Where to listen has changed in the .ini: it takes a restart; '
                    f'{", ".join(old.urls)} stays'
                )
                server.where = old.where
            server.adopt(old.sockets)
            old.sockets = []
        self.config, self.server = config, server

        def undo() -> None:
            if server is not None and old is not None:
                old.adopt(server.sockets)
                server.sockets = []
            self.config, self.server = before, old

        return undo

    def tell_of_where(self, changed: list[str], tell: Callable[[str], object]) -> None:
        """Under --reload: say it once if the .ini has another place to listen now."""
        files = {os.path.abspath(path) for path in self.config.files}
        if self.server is None or files.isdisjoint(changed):
            return
        try:
            config = Config(self.options.config, self.options.vars, self.folder)
            server = self._known_server(config)
        except WSPBusError:
            return  # the next process says what is wrong
        if server is None or server.where == self._told_where:
            return
        self._told_where = server.where
        if server.where != self.server.where:
            tell(
                'Where to listen has changed in the .ini: it takes a restart; '
                f'{", ".join(self.server.urls)} stays'
            )

    def _open_pid_file(self, path: str) -> None:
        from paste_wspbus.control import path_for, remove_socket
        from paste_wspbus.plugins.pidfile import AlreadyRunning, PIDLock

        self.lock = PIDLock(path)
        if self.inheritance.pid_file is not None:
            self._adopt(self.inheritance.pid_file, path)
            return
        try:
            left = self.lock.acquire()
        except AlreadyRunning:
            if not self.options.replaces:
                raise
            left = self._succeed(self.lock)
        if left is not None:
            self._took_over_from_the_dead = True
            self.notes.append(f'{left}; taken over')
            remove_socket(path_for(self.lock.path))

    def _succeed(self, lock: PIDLock) -> WSPBusError | None:
        """Have the running site stop and leave its sockets to this process."""
        from paste_wspbus.plugins.pidfile import AlreadyRunning
        from paste_wspbus.stopping import patience, stop_site

        while True:  # another restart may be first: then that one's site is next
            status = _status_of(lock)
            if not status:
                stop_site(lock)
            left = self._ask_for_all(lock, patience(status)) if status else None
            if left is not None and left.pid_file is not None:
                self.inheritance, self.options.took_over = left, True
                self._adopt(left.pid_file, lock.path)
                return None
            try:
                return lock.acquire()
            except AlreadyRunning as error:
                if error.pid == status.get('pid'):
                    stop_site(lock)

    def _ask_for_all(self, lock: PIDLock, seconds: float) -> Inheritance | None:
        """What the running site leaves when it has stopped; None if it refuses or is gone."""
        from paste_wspbus.control import NoAnswer, connect, path_for, send

        try:
            with connect(path_for(lock.path), seconds) as sock:
                send(sock, 'replace')
                return Inheritance.receive(sock)
        except (NoAnswer, OSError):
            return None

    def _adopt(self, pid_file: int, path: str) -> None:
        """Take over what stands beside each other: if the start fails, it is removed."""
        assert self.lock is not None
        self.lock.adopt(pid_file)
        if self.inheritance.control is not None:
            self.control = self._make_control(path)
            self.control.adopt(self.inheritance.control)

    def _open_log(self, path: str) -> None:
        path = os.path.abspath(path)
        terminal = None if self.options.daemon else os.dup(2)
        try:
            append_to(path, (1, 2))
        except OSError as error:
            if terminal is not None:
                os.close(terminal)
            if error.errno not in (errno.EACCES, errno.EPERM) or not self.inherits:
                reason = (error.strerror or str(error)).lower()
                raise UsageError(f'--log-file {path}: {reason}') from None
            self.notes.append(f'{path} cannot be opened by this user any more')
            return
        self.log_file, self.options.terminal = path, terminal
        self.options.logs = True
        for stream in (sys.stdout, sys.stderr):
            if isinstance(stream, io.TextIOWrapper):  # a rotation must not tear lines
                stream.reconfigure(line_buffering=True)

    @property
    def inherits(self) -> bool:
        """Whether this process was another program before, as another user perhaps."""
        return bool(self.inheritance.descriptors)

    def _open_sockets(self, server: Server) -> None:
        passed = _passed()
        left = [
            ListeningSocket(socket.socket(fileno=fd), owned=self.inheritance.owned)
            for fd in self.inheritance.take_sockets()
        ]
        for listening in left:
            listening.take_new()
        complete = left and all(listening.is_reachable for listening in left)
        if complete and server.where == self.inheritance.where:
            server.adopt(left)
        elif passed and self._wants(passed):
            server.adopt([_adopted(one) for one in self._chosen(passed)])
        else:
            self._bind(server, left)

    def _bind(self, server: Server, left: list[ListeningSocket]) -> None:
        until = time.monotonic() + (ORPHANS if self._took_over_from_the_dead else 0)
        name, listen = self.options.server_name, self.options.listen
        while True:
            try:
                return self.config.bind(server, name, listen, left)
            except BindError:
                if time.monotonic() > until:
                    raise
            time.sleep(LOOK)

    def _wants(self, passed: list[Activated]) -> bool:
        listen = self.options.listen or 'fd://'
        if listen.startswith('fd://') and not listen[5:].isdigit():
            return True
        self.notes.append(
            f'{len(passed)} sockets that were passed (LISTEN_FDS) are not used: '
            f'--listen {listen}'
        )
        return False

    def _chosen(self, passed: list[Activated]) -> list[Activated]:
        from paste_wspbus.activation import named

        name = (self.options.listen or '').removeprefix('fd://')
        return named(passed, name) if name else passed

    def _make_control(self, pid_file: str) -> Control:
        from paste_wspbus.control import path_for

        return self._control_at(path_for(pid_file))

    def _control_at(self, path: str) -> Control:
        from paste_wspbus.control import Control

        commands = {
            'status': self._status,
            'stop': self._stop,
            'replace': self._replace,
            'graceful': self._graceful,
        }
        return Control(path, commands)

    def _open_control(self, pid_file: str) -> None:
        if self.control is None:
            self._listen(self._make_control(pid_file))

    def _open_control_in_runtime_folder(self) -> None:
        from paste_wspbus.control import runtime_path, runtime_paths

        file = self.config.file
        path = file and runtime_path(file)
        if file and path:
            self._listen(self._control_at(path), shared=True)
            if self.control is not None:
                self.control.link(runtime_paths(file)[0])

    def _listen(self, control: Control, shared: bool = False) -> None:
        try:
            control.open(shared=shared)
        except OSError as error:
            self.notes.append(
                f'no control socket {control.path}: {error.strerror or error}'
            )
        else:
            self.control = control

    def _change_owner(self) -> None:
        identity = self.options.identity
        assert identity is not None
        if identity.is_current or os.geteuid() != 0:
            return
        uid = -1 if identity.uid is None else identity.uid
        gid = -1 if identity.gid is None else identity.gid
        if self.lock is not None:
            self.lock.chown(uid, gid)
        if self.control is not None:
            self.control.chown(uid, gid)
        if self.log_file is not None:
            _chown_log(self.log_file, uid, gid)
        for listening in self._sockets():
            if listening.owned:
                listening.chown(uid, gid)

    def _sockets(self) -> list[ListeningSocket]:
        return self.server.sockets if self.server is not None else []

    # -- riding a bus -----------------------------------------------------------

    def plug_in(self, bus: Bus) -> None:
        """What was done before there was a bus, as the plugins that do it."""
        if self.lock is not None:
            from paste_wspbus.plugins.pidfile import PIDFile

            pid_file = bus.plugins['pidfile'] = PIDFile(bus, self.lock)
            pid_file.subscribe()
            # It goes last, in `close`: until then, this process is there.
            bus.unsubscribe('exit', pid_file.exit)
        # In the place of a worker the supervisor starts another, or what shows why not.
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

    def ride(self, bus: Bus) -> None:
        """From now on it is this bus that is asked about and stopped."""
        self._bus = bus
        bus.subscribe('stop', self._keep_sockets, priority=float('-inf'))
        if self.supervisor is not None:
            from paste_wspbus.worker import Orders

            report = self.options.report
            Orders(bus, self.supervisor, report, self._shared).subscribe()
        elif self.control is not None:
            self.control.serve(bus)

    @property
    def is_worker(self) -> bool:
        """Whether another process holds PID file and control socket."""
        return self.supervisor is not None

    def _status(self, connection: Connection) -> dict[str, Any] | None:
        assert self._bus is not None
        supervisor = self._bus.plugins.get('supervisor')
        if supervisor is None:
            return self._describe()

        def answer() -> None:
            connection.answer(self._describe() | _in_words(supervisor.describe()))

        supervisor.inquire(connection, answer)
        return None

    def _describe(self) -> dict[str, Any]:
        bus = self._bus
        assert bus is not None
        requests = bus.plugins.get('requests')
        return _in_words(
            {
                'pid': os.getpid(),
                'state': bus.state.name,
                'is_crashed': False,
                'since': self._began,
                'urls': self.server.urls if self.server is not None else [],
                'generation': 1,
                'workers': [],
                'requests': requests.report()['requests_in_flight'] if requests else [],
                'threads': _lingering() if bus.state is State.EXITING else [],
                'calling': bus.calling,
                'deadline': bus.stop_timeout,
                'failure': None,
            }
        )

    def _graceful(self, connection: Connection) -> dict[str, Any] | None:
        bus = self._bus
        assert bus is not None
        supervisor = bus.plugins.get('supervisor')
        if supervisor is not None:
            return supervisor.ask_for_renewal(connection)  # type: ignore[no-any-return]
        bus._check_restart()
        connection.answer({'restarting': True})  # before it is another program
        bus.restart()
        return None

    def _stop(self, connection: Connection) -> None:
        assert self._bus is not None
        self._asked_to_stop.append(connection)
        self._bus.exit()

    def _replace(self, connection: Connection) -> dict[str, Any] | None:
        assert self._bus is not None
        if self._successor is not None:
            return {'error': 'another process takes over already'}
        self._successor = connection
        self._bus.exit()
        return None

    # -- leaving --------------------------------------------------------------

    def _keep_sockets(self) -> None:
        """The first 'stop' listener: what waits is the successor's, if one comes."""
        assert self._bus is not None
        # A site under --reload that fails to start: what tells why is served next.
        is_shown = self.options.reload and State.STARTED not in self._bus._visited
        if not (self._bus.execv or self._successor or is_shown):
            return
        if self.lock is not None:
            self.lock.stays = True
        self.bequeath()

    def bequeath(self) -> None:
        """The sockets are for whoever takes this process's place."""
        if self.server is not None and not self._left:
            self._owned = all(listening.owned for listening in self.server.sockets)
            self._left = self.server.bequeath()

    def finish(self, code: int) -> None:
        """The site has stopped: tell whoever asked for it; leave all to the successor."""
        if self.is_worker:
            self.options.report.exits(code)
        for connection in self._asked_to_stop:
            connection.answer({'exit_code': code})
        if self.lock is not None:
            self.lock.stays = False
        if self._successor is not None:
            left = self._inheritance()
            try:
                left.send(self._successor.sock)
            except OSError:  # it is gone, so all this is ours to remove
                left.forget()
                return
            if self.lock is not None:
                self.lock.forget()
            if self.control is not None:
                self.control.forget()

    def repeat_stop(self) -> None:
        """A signal to stop that came too late for this program is the next one's."""
        signals = self._bus and self._bus.plugins.get('signals')
        if getattr(signals, 'asked_to_leave', 0):
            os.kill(os.getpid(), signal.SIGTERM)  # held until then

    def leave_to_next_program(self) -> list[int]:
        """What this process executes next gets everything; the descriptors to keep open."""
        left = self._inheritance()
        left.daemon = self.options.daemon
        left.problem = self.problem
        left.reload = self.reload if self.announced else None
        if self.supervisor is not None and self.role is not None:
            self.options.report.restarts('execv')
            role = self.role._replace(later=True, problem='')
            left.worker = self.supervisor.fileno(), [*role]
        else:
            left.report = self.options.report.fd
        left.to_environ(os.environ)
        return left.kept

    def start_afresh(self, bus: Bus, connection: socket.socket, role: Role) -> NoReturn:
        """In a forked child: become a fresh interpreter that does it."""
        left = Inheritance(
            where=self.server.where if self.server is not None else {},
            sockets=[listening.sock.fileno() for listening in self._sockets()],
            owned=all(listening.owned for listening in self._sockets()),
            daemon=self.options.daemon,
            worker=(connection.fileno(), [*role]),
        )
        left.to_environ(os.environ)
        bus.kept_files, bus.before_execv = left.kept, None
        # Ctrl-C is the supervisor's; a handler does not outlast execv(2).
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        bus._do_execv()
        raise AssertionError('execv has returned')

    def _inheritance(self) -> Inheritance:
        return Inheritance(
            where=self.server.where if self.server is not None else {},
            sockets=[listening.sock.detach() for listening in self._left],
            pid_file=None if self.lock is None else self.lock.copy(),
            control=None if self.control is None else self.control.bequeath(),
            owned=self._owned,
        )

    def become(self, connection: socket.socket, role: Role) -> None:
        """In a forked child: PID file and control socket are the parent's."""
        from paste_wspbus import worker

        if self.control is not None:
            self.control.forget()
        self.lock = self.control = None
        self.supervisor, self.role = connection, role
        self.options.later = role.later
        self._forked, self._terminated = time.monotonic(), False
        is_numbered = role.number or role.kind != worker.WORKER
        self.signal_handler = (
            worker.NumberedSignals if is_numbered else worker.WorkerSignals
        )
        if self.server is not None:
            self.server.shared = False  # not with what the site forks
            self.server.competes = role.several
        if role.kind == worker.SITE:
            self._forget_sockets()
        else:
            self._share_sockets()
        # Ctrl-C reaches the supervisor, too, and that says what comes of it. Not
        # SIG_IGN, which programs that the site starts would inherit.
        signal.signal(signal.SIGINT, lambda *_: None)
        signal.signal(signal.SIGTERM, self._terminate)
        self.options.report.close()
        self.options.report = Report(connection.dup().detach(), lasting=True)
        self.options.report.pid()
        worker.close_in_children(connection)
        worker.watch_for_the_end(connection, self._lose_supervisor)

    @property
    def name(self) -> str:
        """What log lines name it by: 'worker 2'; '' where there is one process for the site."""
        role = self.role
        return '' if role is None or role.name == 'site' else role.name

    @property
    def runs_site_plugins(self) -> bool:
        """Whether it is for the site plugins, and nothing else."""
        return self.role is not None and self.role.kind == 'site plugins'

    def waits_for_the_word(self) -> bool:
        """Wait, composed, until it may start; False if it is not to."""
        from paste_wspbus import worker

        role, connection = self.role, self.supervisor
        if role is None or connection is None:
            return True
        if not role.hold and role.kind != worker.SITE:
            return True
        self.options.report.composed()
        told = worker.wait_for_the_word(connection)
        if role.spare:
            self._forked = time.monotonic()
        return told

    def fork_workers(self, bus: Bus) -> bool:
        """Fork, composed, a worker for each order; True in each of them, False at the end.

        :raises IsSupervised: if this is not the process that the supervisor forked.
        """
        from paste_wspbus.plugins.daemon import IsSupervised
        from paste_wspbus.preload import Forker

        assert self.supervisor is not None
        if self.supervisor.fileno() < 0:  # closed by a fork of the site's
            raise IsSupervised
        if self.server is not None:
            self.server.shared = True
        sitelog = bus.plugins['sitelog']
        forker = Forker(self.supervisor, self.options.report, sitelog.reopen_logs)
        forked = forker.run()
        if forked is None:
            return False
        self.become(*forked)
        bus._pid = os.getpid()
        # Those are the other process's, and nobody else may wait for them.
        multiprocessing = sys.modules.get('multiprocessing.process')
        if multiprocessing is not None:
            multiprocessing._children = set()  # type: ignore[attr-defined]
        sitelog.name(self.name)
        return True

    def fork_from_packages(self) -> bool:
        """Import what is ordered, and fork a worker for each order; True in each of
        them, which composes the site then, False at the end.
        """
        from paste_wspbus.preload import Forker

        assert self.supervisor is not None and self.options.learner is not None
        if self.server is not None:
            self.server.shared = True
        forked = Forker(
            self.supervisor,
            self.options.report,
            lambda: None,
            self.options.learner.import_all,
        ).run()
        if forked is None:
            return False
        self.become(*forked)
        return True

    def _share_sockets(self) -> None:
        owned = [listening for listening in self._sockets() if listening.owned]
        self._shared = self._shared or owned
        for listening in self._shared:
            listening.owned = False  # the supervisor says when that changes

    def _forget_sockets(self) -> None:
        for listening in self._sockets():
            listening.owned = False
        if self.server is not None:
            self.server.close()
        self.server = None

    def _lose_supervisor(self) -> None:
        """Stop; and should somebody swallow that exception (a callback of fork's), be gone."""

        def leave() -> None:
            time.sleep(self.config.settings['stop_timeout'] + ANSWER)
            os._exit(EX_SOFTWARE)

        # Not a Thread: its start() takes locks, and this is a signal handler.
        _thread.start_new_thread(leave, ())
        self._terminate()

    @property
    def was_told_to_stop(self) -> bool:
        """Whether SIGTERM came while the site was composed."""
        return self._terminated or signal.SIGTERM in self.options.early

    def _terminate(self, *_: object) -> None:
        """SIGTERM while the site is composed; it may come again and again."""
        if self._terminated:
            return  # what cleans up is not to be disturbed
        self._terminated = True
        limit = self.config.settings['start_timeout']
        if time.monotonic() - self._forked >= limit:
            text = f'The site was not composed within {limit:g} s. Stacks:\n{stacks()}'
            os.write(2, text.encode('utf-8', 'backslashreplace'))
        raise Terminated(128 + signal.SIGTERM)

    @property
    def time_to_start(self) -> float:
        """Seconds that are left of ``start_timeout``: a supervisor waits no longer."""
        limit: float = self.config.settings['start_timeout']
        if self.role is None:
            return limit
        return max(limit - (time.monotonic() - self._forked), 0.1)

    def close(self) -> None:
        """Close what is open; remove the PID file and the control socket."""
        if self.supervisor is not None:
            self.supervisor.close()
        if self.server is not None:
            self.server.close()
        if self.control is not None:
            self.control.close()
        if self.lock is not None:
            self.lock.release()


def abandon(inheritance: Inheritance, pid_file: str | None) -> None:
    """The start has failed before there was a `Process`: leave nothing behind."""
    if pid_file is None or inheritance.pid_file is None:
        return
    from paste_wspbus.control import Control, path_for
    from paste_wspbus.plugins.pidfile import PIDLock

    lock = PIDLock(pid_file)
    lock.adopt(inheritance.pid_file)
    control = Control(path_for(lock.path), {})
    if inheritance.control is not None:
        control.adopt(inheritance.control)
    control.close()
    lock.release()


def _status_of(lock: PIDLock) -> dict[str, Any]:
    """What the site says of itself; {} if it does not answer for a while.

    One that has just taken over may not listen yet.
    """
    from paste_wspbus.control import NoAnswer, ask, path_for

    until = time.monotonic() + ANSWER
    while True:
        with contextlib.suppress(NoAnswer):
            return ask(path_for(lock.path), 'status')
        if time.monotonic() > until:
            return {}
        time.sleep(0.02)


def _in_words(told: dict[str, Any]) -> dict[str, Any]:
    """With ``calling`` (channel, listener, since when) as a text."""
    if told['calling'] is not None:
        channel, listener, since = told['calling']
        seconds = time.time() - since
        told['calling'] = f'{channel!r} listener {listener}, {seconds:.1f} s'
    return told


def _lingering() -> list[str]:
    """The threads that the end of the process waits for."""
    return [
        thread.name
        for thread in threading.enumerate()
        if thread is not threading.main_thread() and not thread.daemon
    ]


def _chown_log(path: str, uid: int, gid: int) -> None:
    """Give the log file away, but not what a link in the user's folder leads to."""
    log, there = os.fstat(1), os.lstat(path)
    same = (log.st_dev, log.st_ino) == (there.st_dev, there.st_ino)
    if same and stat.S_ISREG(log.st_mode) and log.st_nlink == 1:
        os.fchown(1, uid, gid)


def _passed() -> list[Activated]:
    if 'LISTEN_PID' not in os.environ:
        return []
    from paste_wspbus.activation import activated

    return activated()


def _adopted(one: Activated) -> ListeningSocket:
    try:
        return inherited(one.fd)
    finally:
        os.close(one.fd)
