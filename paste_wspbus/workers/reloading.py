"""The strategy of ``--reload``: when a file has changed, it restarts all processes at once."""

from __future__ import annotations

import contextlib
import os
import time
from typing import NamedTuple

from paste_wspbus.bus import State
from paste_wspbus.bus.host import note_reason
from paste_wspbus.control.status import followed
from paste_wspbus.errors import BindError
from paste_wspbus.role import CLUSTER, SITE, WORKER, Role
from paste_wspbus.servers.rebinding import bind_anew
from paste_wspbus.unix.tty import Terminal
from paste_wspbus.watching.files import Files, change_of, is_installed, what_changed
from paste_wspbus.watching.watcher import Watcher
from paste_wspbus.workers.children import WorkerFailed
from paste_wspbus.workers.crashes import requests_of
from paste_wspbus.workers.loading import Loading
from paste_wspbus.workers.spares import Spares
from paste_wspbus.workers.strategy import Source
from paste_wspbus.workers.waiting import how_it_crashed

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from paste_wspbus.workers.handle import WorkerHandle
    from paste_wspbus.workers.supervisor import Supervisor

#: Seconds that the old code has to stop before the supervisor orders it to hurry.
PATIENCE = 1.0

#: Seconds without a change that end a burst of changes. After a later change, while the
#: site starts, the site starts again.
QUIET = 0.01


class Outdated(Exception):
    """A file has changed while the site was starting."""


class ReloadPlan(NamedTuple):
    """What ``--reload`` asks for.

    ``style`` is 'fork', 'child' or 'execv'. ``files`` are watched from the beginning, each
    as it was before it was read. ``interval`` is in seconds: if the system does not report
    changes, the files are checked so often. ``show`` prints a line for the developer.
    ``fail`` prints why the site fails, with the traceback, and logs it. ``poll`` says
    whether the files are checked in any case.
    """

    style: str
    files: Files
    interval: float
    show: Callable[[str], object]
    fail: Callable[[str], object]
    poll: bool = False


class Failure(NamedTuple):
    """A failed start: the traceback, the file in which it ends, and the data for the page."""

    trace: str
    file: str | None
    problem: str


class Reloading:
    """The strategy for development: the old code stops, then the new code starts.

    The sockets stay open, so that requests wait. If the site does not start, a worker
    shows the reason in its place.
    """

    replaces = False

    def __init__(self, supervisor: Supervisor, plan: ReloadPlan) -> None:
        self.supervisor, self.plan = supervisor, plan
        self.bus, self.waiting = supervisor.bus, supervisor.waiting
        self.current, self.leaving = supervisor.current, supervisor.leaving
        self.spares = Spares(supervisor, plan.style)
        self.loading = Loading(supervisor, plan.show)
        self.watcher: Watcher | None = None
        #: The terminal: a debugger may leave it without echo when its process ends.
        self.terminal = Terminal()
        self.bus.subscribe('exit', self.terminal.restore)
        #: The files that have changed since the last reload began.
        self._changed: list[str] = []
        #: The time.monotonic() at which the first of them was noticed.
        self._noticed: float | None = None
        #: Whether a change ends the start that is in progress.
        self._abandons = False
        self._failures: dict[WorkerHandle, Failure] = {}
        supervisor.children.hear('failed', self._has_failed)
        #: The failure that was printed last.
        self._shown = ''
        supervisor.children.hear('learnt', self._has_learnt)
        supervisor.children.hear('outdated', self._is_outdated)
        supervisor.children.hear('restarts', self._has_stopped)

    # -- what changed -----------------------------------------------------------

    def start(self) -> None:
        """Watch the files, and start the site; if that fails, start a worker that shows why."""
        self.watcher = Watcher(
            self.bus.events,
            self.plan.files,
            self._have_changed,
            quiet=QUIET,
            interval=self.plan.interval,
            poll=self.plan.poll,
            log=self.plan.show,
        )
        self.spares.begin()
        self._start_all()
        self.bus.events.call_later(0, self.spares.prepare)

    def close_in_child(self) -> None:
        """Close the watcher in a forked child: it belongs to the parent."""
        if self.watcher is not None:
            self.watcher.close()

    def _have_changed(self, paths: list[str]) -> None:
        assert self.watcher is not None
        self._changed += paths
        self._noticed = self._noticed or self.watcher.noticed
        self.bus.publish('changed', paths)
        self.bus.asked_by = change_of(paths)
        self.plan.show(what_changed(paths))
        if not self.supervisor.is_renewing:  # else see the end of `renew`
            self.bus.graceful()

    def _has_learnt(self, worker: WorkerHandle, message: dict[str, Any]) -> None:
        self.spares.learn(message['modules'])
        if message['learnt'] and self.watcher is not None and not worker.leaving:
            self.watcher.add(message['learnt'])

    def _is_outdated(self, worker: WorkerHandle, message: dict[str, Any]) -> None:
        """React to a worker that accepts no more connections: it must be replaced."""
        if self.watcher is not None and not worker.leaving:
            self.watcher.insist(message['outdated'])

    # -- a reload -----------------------------------------------------------------

    def renew(self) -> None:
        """Stop all processes, and start them with the code as it is now."""
        supervisor = self.supervisor
        supervisor.renewals.enter()
        began = self._noticed or time.monotonic()
        if not self._changed:
            self.plan.show('A restart was requested')
        paths: list[str] = []
        self._abandons, supervisor.renewals.failure = True, None
        self._look_after_sockets()
        while True:
            paths += self._changed
            self._changed, self._noticed = [], None
            if any(is_installed(path) for path in paths):
                self.spares.renounce()
            self._stop_all()
            self.terminal.restore()
            self.spares.wait()
            supervisor.generation = supervisor.latest = supervisor.latest + 1
            try:
                self._start_all()
                break
            except Outdated:
                # Do not abandon the start again: a developer who saves all the time
                # must see the site, too.
                self._abandons = False
            except WorkerFailed as failed:  # the system has no process for it now
                for role in supervisor.roles(supervisor.generation):
                    self._try_again_unless_it_runs(role, str(failed))
                raise
        took = (time.monotonic() - began) * 1000
        for worker in [old for old in self.current.values() if old.ended]:
            if worker.was_ready or worker.role.problem:
                self._has_crashed(worker)  # it crashed while others started
        self.plan.show(self._outcome(took))
        if self._changed:  # it is too late for this reload to begin again
            self.bus.graceful()
        self.bus.events.call_later(0, self.spares.prepare)

    def _look_after_sockets(self) -> None:
        """Bind Unix sockets anew whose files are gone; with execv, the next program does it."""
        server = self.supervisor.server
        if server is None or self.spares.style == 'execv':
            return
        try:
            lost = bind_anew(server)
        except BindError as error:
            self.bus.log(str(error), 40)
            return
        for one in lost:
            one.close()
            self.plan.show(f'The file of {one.url()} was removed: it is bound again')
        if lost:
            self.spares.renounce()  # they have the sockets that no client can reach

    def _outcome(self, took: float) -> str:
        if any(worker.role.problem for worker in self.current.values()):
            return 'the site cannot be served'
        outcome = f'served in {took:.0f} ms'
        if any(not worker.was_ready for worker in self.current.values()):
            outcome += ', without its site plugins'
        return outcome

    def _stop_all(self) -> None:
        going = [worker for worker in self.current.values() if not worker.ended]
        for worker in going:
            self.leaving.have_restart(worker, PATIENCE)
        # Wait until each process is about to end, or has replaced itself.
        self.waiting.until(
            lambda: all(
                worker.is_about_to_end or not worker.leaving for worker in going
            )
        )

    def _has_stopped(self, worker: WorkerHandle, message: dict[str, Any]) -> None:
        """React to a process that has stopped and reports how to start it again."""
        style = message['restarts']
        if style == 'execv':  # the same process will be the site again
            worker.role = worker.role._replace(problem='')
            self.supervisor.children.forget_timers(worker)
            worker.begins_anew(self.supervisor.plan.start_timeout)
            self.supervisor.slow_starts.watch(worker)
            if self.leaving.is_stopping:
                worker.is_asked_to_leave()
                self.supervisor.children.press(worker)
            return
        self.spares.change_style(style)
        if not worker.leaving:  # the site asked for it itself
            worker.is_asked_to_leave()
            self.bus.graceful()

    # -- starting ------------------------------------------------------------------

    def source(self, role: Role) -> Source:
        """Return the process that has imported the packages, if it can fork.

        A process that shows a problem is forked from the supervisor: it needs nothing
        of the site.
        """
        return Source(None, False) if role.problem else self.spares.source()

    def is_prepared(self, role: Role) -> bool:
        """Return True: this strategy can replace any process at once."""
        return True

    def _start_all(self) -> None:
        supervisor = self.supervisor
        roles = supervisor.roles(supervisor.generation)
        if supervisor.plan.site_plugins:
            roles = [Role(SITE, generation=supervisor.generation), *roles]
        if CLUSTER in supervisor.singles():
            roles.append(Role(CLUSTER, generation=supervisor.generation))
        for role in roles:
            # A start that is not abandoned must serve, although its files have changed.
            insists = supervisor.is_renewing and not self._abandons
            role = role._replace(insists=insists)
            old = self.current.get(role.name)
            if old is None or old.is_about_to_end:
                self.current[role.name] = self._begin(role)
        with self.loading.watched():
            for role in roles:
                self._await_or_show(role)

    def _begin(self, role: Role) -> WorkerHandle:
        if role.kind == CLUSTER:  # only the supervisor forks it
            return self.supervisor.spawn(role)
        return self.spares.take(role) or self.supervisor.spawn(role)

    def _await_ready(self, role: Role) -> None:
        worker = self.current[role.name]
        self.waiting.until_ready([worker], check=self._check_whether_outdated)

    def _check_whether_outdated(self) -> None:
        if self.supervisor.is_renewing and self._changed and self._abandons:
            raise Outdated

    def _await_or_show(self, role: Role) -> None:
        try:
            self._await_ready(role)
            return
        except WorkerFailed as failed:
            worker, failure = self.current[role.name], failed
        if self._may_be_the_forks(worker) and self._starts_afresh(role):
            self.spares.renounce_for_good()
            line = followed(str(failure), 'it starts in a fresh interpreter')
            self.bus.log(f'{line}, and so will each later reload', 30)
        elif self._show_problem(role, worker, failure):
            # This may fail, too: the server may be code of the broken site.
            with contextlib.suppress(WorkerFailed):
                self._await_ready(role)

    def _may_be_the_forks(self, worker: WorkerHandle) -> bool:
        """Whether the failure may come from a package that was imported before the fork."""
        if worker.template is None:
            return False
        file = self._failures[worker].file if worker in self._failures else None
        return file is None or is_installed(os.path.dirname(file))

    def _starts_afresh(self, role: Role) -> bool:
        fresh = self.spares.fresh_source()
        self.current[role.name] = self.supervisor.spawn(role, fresh)
        try:
            self._await_ready(role)
        except WorkerFailed:
            return False
        return True

    # -- what cannot be served --------------------------------------------------------

    def _has_failed(self, worker: WorkerHandle, message: dict[str, Any]) -> None:
        self._failures[worker] = Failure(
            message['traceback'], message['file'], message['problem']
        )

    def _show_problem(
        self, role: Role, worker: WorkerHandle, failure: WorkerFailed
    ) -> bool:
        """Print why the site fails; start a worker that serves this; return whether it does."""
        supervisor = self.supervisor
        known = self._failures.pop(worker, None)
        trace = known.trace if known else ''
        supervisor.failures.logged += bool(trace)
        self._failures = {  # those of workers that are shown next
            one: failed
            for one, failed in self._failures.items()
            if self.current.get(one.name) is one
        }
        if known is None:
            self._watch_folders()
        text = f'{trace}{failure}'
        if supervisor.renewals.failure is None or text != self._shown:
            self._shown = text
            self.plan.fail(text)  # once, if all workers fail alike
        supervisor.renewals.failure = str(failure)
        if role.kind != WORKER:
            return False
        text = (known.problem if known else '') or str(failure)
        role = role._replace(problem=text)
        try:
            self.current[role.name] = supervisor.spawn(role)
        except WorkerFailed as failed:
            self._try_again_unless_it_runs(role, str(failed))
            return False
        return True

    def _try_again_unless_it_runs(self, role: Role, why: str) -> None:
        """Start a worker after a wait: the system may have the memory or processes by then."""
        old = self.current.get(role.name)
        if self.supervisor.was_started and (old is None or old.ended):
            self.supervisor.replacing.try_again(role, why, None, excused=True)

    def _watch_folders(self) -> None:
        """Watch the folders of the .ini: a process that crashed did not report its files."""
        assert self.watcher is not None
        files = Files()
        folders = {os.path.dirname(path) for path in self.plan.files.signatures}
        for folder in folders:
            if not is_installed(folder):
                files.add(os.path.join(folder, '**', '*.py'))
        self.watcher.add(files.news())

    def has_ended(self, worker: WorkerHandle) -> None:
        """Show that a worker crashed; if it has stopped the site itself, stop the site."""
        self.spares.forget(worker)
        supervisor, role = self.supervisor, worker.role
        if supervisor.is_renewing or self.current.get(role.name) is not worker:
            return
        if self.bus.state is not State.STARTED or self.bus.leaving:
            return
        if worker.leaving and not worker.too_slow:
            self.bus.events.call_later(0, lambda: supervisor.replacing.respawn(role))
        elif worker.code == 0 and not worker.too_slow:
            note_reason(self.bus, f'{worker.title} has ended')
            self.bus.exit()
        else:
            self._has_crashed(worker)

    def _has_crashed(self, worker: WorkerHandle) -> None:
        """Show that a worker crashed; only the next edit starts the site again.

        If the worker was one that showed a problem, another one shows it, after a wait.
        """
        what = how_it_crashed(worker, self.supervisor.crashes.note(worker))
        if had := requests_of(worker):
            self.bus.log(had, 40)
        if worker.role.kind == WORKER and not worker.role.problem:
            self.bus.events.call_later(0, lambda: self._show_crash(worker, what))
        elif worker.role.problem:
            self._try_again_unless_it_runs(worker.role, what)
        else:
            self.bus.log(what, 40)

    def _show_crash(self, worker: WorkerHandle, what: str) -> None:
        is_current = self.current.get(worker.name) is worker
        if is_current and not self.leaving.is_stopping:
            self._show_problem(worker.role, worker, WorkerFailed(1, what))
        else:
            self.bus.log(what, 40)
