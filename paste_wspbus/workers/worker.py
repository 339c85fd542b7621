"""The worker itself: how a process becomes a worker, and its connection to the supervisor."""

from __future__ import annotations

import _thread
import contextlib
import os
import signal
import socket
import sys
import time

from paste_wspbus.bus import EX_SOFTWARE
from paste_wspbus.bus.deadlines import stacks
from paste_wspbus.bus.interrupts import in_main_thread
from paste_wspbus.forks import close_in_child
from paste_wspbus.ini.masking import without_secrets
from paste_wspbus.listening.sockets import ListeningSocket
from paste_wspbus.process import watched
from paste_wspbus.process.health import reporter
from paste_wspbus.process.inheritance import Inheritance
from paste_wspbus.process.supervised_report import SupervisedReport
from paste_wspbus.requests import written_stacks
from paste_wspbus.requests.scoreboard import Scoreboard
from paste_wspbus.requests.watched import WatchedRequests
from paste_wspbus.role import CLUSTER, LOADING, OPS, SITE, WORKER, Role
from paste_wspbus.unix.holding import hold
from paste_wspbus.unix.titles import set_title
from paste_wspbus.workers.orders import Orders, wait_to_go, watch_for_the_end
from paste_wspbus.workers.signals import NumberedSignals, WorkerSignals

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, NoReturn

    from paste_wspbus.bus import Bus
    from paste_wspbus.listening.sockets import ListeningSocket
    from paste_wspbus.process.process import Process
    from paste_wspbus.workers.forker import Forker

#: Seconds from the deadline of a worker that has lost its supervisor to the end of its
#: process, which another thread enforces.
MARGIN = 2.0

#: Said of a worker without its part of the shared memory: the site may have closed it.
NOT_COUNTED = (
    'The requests of this process are missing in the metrics: it has lost the memory in which '
    'it counts them for all. The site may have closed its descriptor while it was loaded'
)

#: From the kinds of processes that run plugins alone to the keys that list these.
PLUGINS = {SITE: 'site_plugins', CLUSTER: 'cluster_plugins'}


class Worker:
    """A process in its role: it holds the connection to the supervisor.

    ``workers.handle.WorkerHandle`` is the supervisor's view of it. ``shared`` are those of
    the supervisor's listening sockets that belong to this site alone. ``board`` is the
    descriptor of the scoreboard on which ``requests`` are shown; -1 stands for none.
    """

    def __init__(
        self,
        process: Process,
        connection: socket.socket,
        role: Role,
        shared: list[ListeningSocket],
        board: int,
        requests: WatchedRequests,
    ) -> None:
        self.process, self.connection, self.role = process, connection, role
        process.launch.mask = lambda line: without_secrets(line, process.config)
        self.shared = shared
        self.board, self.requests = board, requests
        self._forked = time.monotonic()
        self._orders: Orders | None = None

    @property
    def name(self) -> str:
        """Its name in log lines: 'worker 2'; '' if the site has one process."""
        return '' if self.role.name == 'site' else self.role.name

    @property
    def runs_plugins(self) -> str:
        """The key of [wspbus:main] whose plugins it runs, and nothing else; '' for the site."""
        return PLUGINS.get(self.role.kind, '')

    @property
    def report(self) -> SupervisedReport:
        """The reports to the supervisor."""
        report = self.process.launch.report
        assert isinstance(report, SupervisedReport)
        return report

    @property
    def time_to_start(self) -> float:
        """The remaining seconds of ``start_timeout``: the supervisor waits no longer."""
        limit: float = self.process.config.settings['start_timeout']
        return max(limit - (time.monotonic() - self._forked), 0.1)

    def limit_stop(self, bus: Bus) -> None:
        """Let the bus stop within the time that the supervisor gives to this process.

        If the site's code has set a shorter time, the shorter time counts.
        """
        limits = [self.role.time_to_stop, bus.stop_timeout]
        bus.stop_timeout = min([one for one in limits if one is not None], default=None)

    def plug_in(self, bus: Bus) -> None:
        """Show the requests of the site on the scoreboard."""
        watched.use(bus, self.requests, self.process.config)
        if self.role.lease >= 0:
            from paste_wspbus.cluster.lease import Lease

            bus.lease = Lease(self.role.lease)

    def ride(self, bus: Bus) -> None:
        """Let the bus carry out the supervisor's orders."""
        meter = bus.plugins.get('wspbus.meter')
        if meter is not None:
            counts = meter.ledger.attach(self.role.ledger, self.role.place)
            if not counts and self.role.kind == WORKER:
                bus.log(NOT_COUNTED, 30)
        bus.tell_health = reporter(self.process.config, self.report.health)
        self._orders = Orders(bus, self.connection, self.report, self.shared)
        self._orders.subscribe()
        if self.role.lease >= 0:
            self._watch_lease(bus, self._orders)

    def _watch_lease(self, bus: Bus, orders: Orders) -> None:
        """Stop the site of this process before its lease ends."""
        from paste_wspbus.cluster.lease import Lease, Watch

        def ask(remaining: float) -> None:
            bus.log(
                f'The lease was not renewed: this process stops, and is killed in '
                f'{remaining:.1f} s',
                40,
            )
            orders.leave()

        watch = Watch(Lease(self.role.lease), ask)
        bus.subscribe('start', watch.start, priority=float('-inf'))
        bus.subscribe('exit', watch.end)

    def crashes(self) -> None:
        """Let the supervisor take the coming end of this process for a crash.

        Otherwise the stop of its bus would be a wish to stop the whole site.
        """
        if self._orders is not None:
            self._orders.announces = False

    def close(self) -> None:
        """Close the connection, and stop watching it."""
        if self.connection.fileno() >= 0 and in_main_thread():
            watch_for_the_end(self.connection, None)
        self.connection.close()

    # -- becoming one -------------------------------------------------------------

    def take_over(self) -> None:
        """Set up signals, sockets and reports in a process that was just forked."""
        process, role = self.process, self.role
        process.launch.later = role.later
        set_title(role.name, process.names.ini)
        is_numbered = role.number or role.kind != WORKER
        process.signal_handler = NumberedSignals if is_numbered else WorkerSignals
        self._take_sockets()
        if self.board >= 0:
            self.requests.ids.renew()
            self.requests.board.attach(self.board)
            written_stacks.register(self.board)
        # Ctrl-C also reaches the supervisor, which stops its workers. Do not use SIG_IGN:
        # programs that the site starts would inherit it.
        signal.signal(signal.SIGINT, lambda *_: None)
        early = process.launch.early
        early.begin_anew()
        if self.board < 0 or written_stacks.SIGNAL is None:
            # The supervisor cannot ask for the stacks of this process.
            early.before = self._say_where_it_hangs
        signal.signal(signal.SIGTERM, early.handle)
        hold(False)  # the signals were held for the fork
        process.launch.report.close()
        process.launch.report = SupervisedReport(os.dup(self.connection.fileno()))
        self.report.pid()
        # A child of the site must not keep the connection open: when it closes, the
        # supervisor knows that this process has ended.
        close_in_child(self.connection, socket.socket.close)
        self._enter_metrics()
        watch_for_the_end(self.connection, self._lose_supervisor)

    def _enter_metrics(self) -> None:
        """Add the site's own metrics of the processes that have ended."""
        if self.process.config.settings['site_metrics'] == 'off':
            return
        if self.role.kind in (OPS, LOADING):  # they run no code of the site
            return
        from paste_wspbus.metrics.site import begin

        if note := begin():
            self.process.notes.append(note)

    def _take_sockets(self) -> None:
        server = self.process.server
        if server is None:
            return
        server.shared = False  # children of the site do not get the sockets
        server.competes = self.role.several
        if server.board is not None:
            server.board.share(self.role.place, server, self.role.several)
        owned = [listening for listening in server.sockets if listening.owned]
        for listening in owned:
            listening.owned = False  # the order 'stop' changes that
        if self.runs_plugins or self.role.kind == OPS:
            server.close()
            self.process.server = None
        else:
            self.shared = self.shared or owned

    def _lose_supervisor(self) -> None:
        """Stop composing the site; if the site swallows the exception, end the process."""

        def leave() -> None:
            time.sleep(self.process.config.settings['stop_timeout'] + MARGIN)
            os._exit(EX_SOFTWARE)

        # This is not a Thread: its start() takes locks, and this is a signal handler.
        with contextlib.suppress(RuntimeError):  # the system starts no more threads
            _thread.start_new_thread(leave, ())
        self.process.launch.early.ask(signal.SIGTERM)

    def _say_where_it_hangs(self) -> None:
        """Write the stacks if SIGTERM came because the load takes too long."""
        limit = self.process.config.settings['start_timeout']
        if time.monotonic() - self._forked >= limit:
            text = f'The site was not loaded within {limit:g} s. Stacks:\n{stacks()}\n'
            os.write(2, text.encode('utf-8', 'backslashreplace'))

    # -- waiting and forking ------------------------------------------------------

    def waits_to_go(self) -> bool:
        """After composing, wait for an order of the supervisor; return whether it is 'go'."""
        if not self.role.hold and not self.runs_plugins:
            return True
        self.report.composed()
        goes = wait_to_go(self.connection)
        if self.role.spare:
            self._forked = time.monotonic()
        return goes

    def fork_workers(self, bus: Bus) -> bool:
        """After composing, fork a worker for each order.

        :returns: True in each worker; False in this process, at its end.
        :raises IsSupervised: if this is not the process that the supervisor forked.
        """
        from paste_wspbus.plugins.daemon import IsSupervised
        from paste_wspbus.workers.forker import Forker

        if self.connection.fileno() < 0:  # the site has forked, and this is the child
            raise IsSupervised
        sitelog = bus.plugins['sitelog']
        if not self._fork(Forker(self.connection, self.report, sitelog.reopen_logs)):
            return False
        bus.claim_process()
        # The list contains children of the parent: only the parent may wait for them.
        multiprocessing = sys.modules.get('multiprocessing.process')
        if multiprocessing is not None:
            multiprocessing._children = set()  # type: ignore[attr-defined]
        sitelog.name(self.process.name, self.role.generation)
        return True

    def fork_from_packages(self, import_all: Callable[[list[str]], object]) -> bool:
        """Import the modules that are ordered, and fork a worker for each order to fork.

        :param import_all: imports modules.
        :returns: True in each worker, which then composes the site; False in this process,
            at its end.
        """
        from paste_wspbus.workers.forker import Forker

        return self._fork(
            Forker(self.connection, self.report, lambda: None, import_all)
        )

    def show_loading(self) -> None:
        """Answer browsers while another process loads the site, until it serves."""
        from paste_wspbus.workers.loading_page import show_loading

        server = self.process.server
        if server is not None:
            show_loading(self.connection, server.sockets, self.report.ready)

    def answer_requests(self) -> None:
        """Answer the requests of the ops listener, until the supervisor orders an end."""
        from paste_wspbus.workers.ops_listener import answer_requests

        ops = self.process.ops
        if ops is not None:
            from paste_wspbus.ops.snapshot import Numbers
            from paste_wspbus.requests.ledger import Book

            book = Book(self.role.ledger)
            numbers = Numbers(book.read, self.process.metrics_folder)
            answer_requests(self.connection, ops, self.report, numbers)

    def _fork(self, forker: Forker) -> bool:
        if self.process.server is not None:
            self.process.server.shared = True
        forked = forker.run()
        if forked is None:
            return False
        become(self.process, *forked)
        return True

    def bequeath(self) -> tuple[int, list[Any], int]:
        """Report that this process replaces itself.

        :returns: what the next program needs: the connection, the fields of its role, and
            the scoreboard.
        """
        self.report.restarts('execv')
        drained = (
            self.role.drained if self._orders is None else self._orders.bus.drained
        )
        role = self.role._replace(later=True, problem='', drained=drained)
        return self.connection.fileno(), [*role], self.board


def become(process: Process, connection: socket.socket, role: Role, board: int) -> None:
    """Make a worker of a forked process: the parent keeps the PID file and control socket.

    :param board: the descriptor of its scoreboard; -1 stands for none.
    """
    if process.control is not None:
        process.control.forget()
    process.lock = process.control = None
    if process.ops is not None and role.kind != OPS:
        process.ops.disown()
        process.ops = None
    shared, requests = [], None
    if process.worker is not None:  # it has composed the site
        shared, requests = process.worker.shared, process.worker.requests
        if process.worker.board >= 0:
            os.close(process.worker.board)
    if requests is None:
        requests = WatchedRequests()
        close_in_child(requests.board, Scoreboard.detach)
    process.worker = Worker(process, connection, role, shared, board, requests)
    process.worker.take_over()


def open_as_worker(
    process: Process, connection: socket.socket, role: Role, board: int
) -> None:
    """Make a worker of a fresh interpreter, which has inherited everything open."""
    inheritance = process.inheritance
    if process.options.log_file:
        process.log_file = os.path.abspath(process.options.log_file)
        process.launch.log = process.log_file
    process.server = process.known_server(process.config)
    if process.server is not None:
        process.server.adopt(inheritance.take_sockets())
    become(process, connection, role, board)


def start_afresh(
    process: Process, bus: Bus, connection: socket.socket, role: Role, board: int
) -> NoReturn:
    """Replace a forked child with a fresh interpreter, which takes its role."""
    server = process.server
    sockets = server.sockets if server is not None else []
    inheritance = Inheritance(
        where=server.where if server is not None else {},
        sockets=[listening.sock.fileno() for listening in sockets],
        origins=[listening.origin for listening in sockets],
        owned=all(listening.owned for listening in sockets),
        daemon=process.options.daemon,
        worker=(connection.fileno(), [*role], board),
        files=process.launch.found_files,
    )
    inheritance.to_environ(os.environ)
    bus.kept_files, bus.before_execv = inheritance.kept, None
    bus.startup_folder = process.folder
    bus.plugins['sitelog'].unsubscribe()  # for the log, this process only starts now
    # Only the supervisor handles Ctrl-C. A handler would be lost at execv(2).
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    bus.replace_process()
    raise AssertionError('execv has returned')
