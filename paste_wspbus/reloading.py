"""Reloads for development: an edit is served at once, or its traceback is."""

from __future__ import annotations

import contextlib
import functools
import json
import os
import signal
import time
from typing import NamedTuple

from paste_wspbus.bus import State
from paste_wspbus.children import Worker, WorkerFailed, how
from paste_wspbus.sources import Files, is_installed
from paste_wspbus.supervisor import Supervisor, ToldToLeave
from paste_wspbus.watching import Watcher, what_changed
from paste_wspbus.worker import PACKAGES, SITE, WORKER, Role

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Generator
    from typing import Any

    from paste_wspbus.servers import Server
    from paste_wspbus.supervisor import Configuration, Plan, SupervisorBus

#: Seconds that the old code has to stop, before it is told to skip its waits.
PATIENCE = 1.0

#: Seconds without a change that end a burst of them. What comes later, while the
#: site starts, has it start again.
QUIET = 0.01

#: How often the packages' process is begun anew without one that spoils it.
ATTEMPTS = 20


class Outdated(Exception):
    """A file has changed while the site was starting."""


class Reloading(NamedTuple):
    """What ``--reload`` asks for.

    ``style``: 'fork', 'child' or 'execv'. ``files``: what is watched from the
    first, each as it was before it was read. ``interval``: seconds between
    looks, where the system does not tell. ``show``: prints a line, or a
    traceback, for whoever edits.
    """

    style: str
    files: Files
    interval: float
    show: Callable[[str], object]


class Failure(NamedTuple):
    """Of a start: the traceback, the file in which it ends, what is to be shown."""

    trace: str
    file: str | None
    problem: str


class ReloadingSupervisor(Supervisor):
    """Stops the old code when a file has changed, and starts the new: all workers at once.

    The sockets stay open: requests wait. In the place of a site that fails to
    start, a worker shows why. With the style 'fork', a process that has imported
    the packages of the site's, but nothing of its own, forks the workers; each
    has a spare, which waits to compose the site as it will be then.
    """

    def __init__(
        self,
        bus: SupervisorBus,
        plan: Plan,
        server: Server | None,
        configure: Callable[[], Configuration],
        reloading: Reloading,
    ) -> None:
        super().__init__(bus, plan, server, configure)
        self.style, self._show = reloading.style, reloading.show
        self._reloading = reloading
        #: Whether the site did not start after a fork, but in a fresh interpreter.
        self._misbehaves = False
        self.watcher: Watcher | None = None
        #: What has changed since the last reload began.
        self._changed: list[str] = []
        self._abandons = False
        self._packages: Worker | None = None
        self._spares: dict[str, Worker] = {}
        #: The modules that the site's processes have imported and that are not its own.
        self._modules: dict[str, None] = {}
        self._spoilers: set[str] = set()
        self._failures: dict[Worker, Failure] = {}
        self.children.hear('learnt', self._learns)
        self.children.hear('restarts', self._restarts)
        self.children.hear('imported', self._has_imported)

    # -- what changed -----------------------------------------------------------

    def start(self) -> None:
        """Watch, and start the site, or what shows why it does not start."""
        self.watcher = Watcher(
            self.events,
            self._reloading.files,
            self._have_changed,
            quiet=QUIET,
            interval=self._reloading.interval,
            log=self._show,
        )
        super().start()
        self.events.call_later(0, self._prepare)

    def close_in_child(self) -> None:
        """In a forked child: what it holds is the parent's."""
        if self.watcher is not None:
            self.watcher.close()

    def _have_changed(self, paths: list[str]) -> None:
        self._changed += paths
        self.bus.publish('changed', paths)
        if self.bus._current != 'graceful':  # else see the end of `_renew`
            self.bus.graceful()

    def _learns(self, worker: Worker, message: dict[str, Any]) -> None:
        self._modules.update(dict.fromkeys(message['modules']))
        if self.watcher is not None and not worker.leaving:
            self.watcher.add(message['learnt'])

    # -- a reload -----------------------------------------------------------------

    def _start_first(self) -> None:
        self._start_all()

    def _renew(self) -> None:
        began = time.monotonic()
        paths: list[str] = []
        self._abandons, self.failure = True, None
        while True:
            paths += self._changed
            self._changed = []
            if any(is_installed(path) for path in paths):
                self._renounce_packages()
            self._stop_all()
            self.generation = self._latest = self._latest + 1
            try:
                self._start_all()
                break
            except Outdated:
                self._abandons = False  # or one who saves all the time gets nothing
        took = (time.monotonic() - began) * 1000
        why = what_changed(list(dict.fromkeys(paths))) if paths else 'asked for'
        for worker in [one for one in self.current.values() if one.ended]:
            if worker.was_ready:
                self._has_crashed(worker)  # while others started
        told = f'reloaded in {took:.0f} ms'
        if any(one.role.problem for one in self.current.values()):
            told = 'cannot be served'
        elif any(not one.was_ready for one in self.current.values()):
            told += ', without its site plugins'
        self._show(f'{why}: {told}')
        if self._changed:  # too late for this one to begin again
            self.bus.graceful()
        self.events.call_later(0, self._prepare)

    def _stop_all(self) -> None:
        going = [one for one in self.current.values() if not one.ended]
        for worker in going:
            worker.leaving = True
            if worker.was_ready:
                worker.tell('restart')
            else:
                self.children.press(worker)
            hurry = functools.partial(self._hurry, worker)
            self._call_later(worker, PATIENCE, hurry)
        while not all(self._is_gone(worker) for worker in going):
            if self.bus.leaving:
                raise ToldToLeave
            self.events.step()

    def _is_gone(self, worker: Worker) -> bool:
        """Whether it has stopped: its process may be about to end, or to begin anew."""
        return worker.ended or worker.code is not None or not worker.leaving

    def _hurry(self, worker: Worker) -> None:
        if not worker.ended and worker.leaving:
            worker.tell('hurry')
            self._call_later(worker, self.hurried, lambda: self._kill(worker))

    #: Seconds that it has then, until it is killed.
    hurried = 2.0

    def _restarts(self, worker: Worker, message: dict[str, Any]) -> None:
        """A process has stopped: how it is to be made next."""
        style = message['restarts']
        if style == 'execv':  # this very process goes on, as the site again
            worker.role = worker.role._replace(problem='')
            self.children.forget_timers(worker)
            worker.begin_anew(self.plan.start_timeout)
            self._watch(worker)
            if self._stopping:
                worker.leaving = True
                self.children.press(worker)
        else:
            self.style = style
            if style != 'fork':
                self._renounce_packages()
        if not worker.leaving and style != 'execv':  # the site asked for it itself
            worker.leaving = True
            self.bus.graceful()

    def _order_stop(self, child: Worker) -> None:
        if child.role.kind == PACKAGES:
            # It runs nothing of the site's, and may be importing for long.
            child.leaving = True
            child.signal(signal.SIGKILL)
        else:
            super()._order_stop(child)

    # -- starting ------------------------------------------------------------------

    def _start_all(self) -> None:
        roles = self._roles(self.generation)
        if self.plan.site_plugins:
            roles = [Role(SITE, generation=self.generation), *roles]
        for role in roles:
            old = self.current.get(role.name)
            if old is None or (self._is_gone(old) and not self._begins_anew(old)):
                self.current[role.name] = self._begin(role)
        for role in roles:
            self._await_or_show(role)

    def _begins_anew(self, worker: Worker) -> bool:
        return not worker.ended and worker.code is None and not worker.leaving

    def _begin(self, role: Role) -> Worker:
        spare = self._spares.pop(role.name, None)
        if spare is not None and not spare.ended:
            spare.role = spare.role._replace(generation=role.generation, spare=False)
            self._go(spare)
            return spare
        return self._spawn(role)

    def _await_or_show(self, role: Role) -> None:
        try:
            self._await_ready(role.name)
            return
        except WorkerFailed as failed:
            worker, failure = self.current[role.name], failed
        if self._may_be_the_forks(worker) and self._starts_afresh(role):
            self._misbehaves = True
            self._renounce_packages()
            line = f'{failure}; in a fresh interpreter it starts'
            self.bus.log(f'{line}: from now on, each reload takes one', 30)
        elif self._show_problem(role, worker, failure):
            # The server may be the site's own, which is broken.
            with contextlib.suppress(WorkerFailed):
                self._await_ready(role.name)

    def _may_be_the_forks(self, worker: Worker) -> bool:
        """Whether a failure may come of a package that was imported before the fork."""
        if worker.template is None:
            return False
        file = self._failures[worker].file if worker in self._failures else None
        return file is None or is_installed(os.path.dirname(file))

    def _starts_afresh(self, role: Role) -> bool:
        self.current[role.name] = self._spawn(role, afresh=True)
        try:
            self._await_ready(role.name)
        except WorkerFailed:
            return False
        return True

    def _show_problem(self, role: Role, worker: Worker, failure: WorkerFailed) -> bool:
        """Tell what failed, and have it served; whether that can be."""
        known = self._failures.get(worker)
        trace = known.trace if known else ''
        self._failures.clear()
        if known is None:
            self._watch_folders()
        if str(failure) != self.failure:  # all workers fail alike
            self._show(f'{trace}{failure}')
        self.failure = str(failure)
        if role.kind != WORKER:
            return False
        text = (known.problem if known else '') or str(failure)
        self.current[role.name] = self.children.spawn(
            role._replace(problem=text, later=self._was_started),
            None,
            self.plan.start_timeout,
        )
        return True

    def _watch_folders(self) -> None:
        """A process that crashed has not told what it has read: it was near the .ini."""
        assert self.watcher is not None
        files = Files()
        folders = {os.path.dirname(path) for path in self._reloading.files.signatures}
        for folder in folders:
            if not is_installed(folder):
                files.add(os.path.join(folder, '**', '*.py'))
        self.watcher.add(files.news())

    def _spawn(self, role: Role, afresh: bool = False) -> Worker:
        template, packages = None, self._packages
        if packages is not None and packages.composed and not afresh:
            template = packages
        role = role._replace(later=self._was_started, several=self.count > 1)
        fresh = template is None and self._was_started
        limit = self.plan.start_timeout
        worker = self.children.spawn(role, template, limit, fresh)
        self._watch(worker)
        self.bus.publish('worker_started', worker.name, worker.pid)
        return worker

    def _raise_if_failed(self, worker: Worker) -> None:
        is_reloading = self.bus._current == 'graceful'
        if is_reloading and self._changed and self._abandons:
            raise Outdated
        super()._raise_if_failed(worker)

    def _has_failed(self, worker: Worker, message: dict[str, Any]) -> None:
        super()._has_failed(worker, message)
        self._failures[worker] = Failure(
            message['traceback'], message['file'], message['problem']
        )

    def _has_crashed(self, worker: Worker) -> None:
        """It waits for an edit, not for the next crash."""
        what = f'{worker.title} crashed, {how(worker.code)}'
        self.bus.log(what, 40)
        if worker.role.kind == WORKER and not worker.role.problem:
            self.events.call_later(0, lambda: self._show_crash(worker, what))

    def _show_crash(self, worker: Worker, what: str) -> None:
        if self.current.get(worker.name) is worker and not self._stopping:
            with self._telling():
                self._show_problem(worker.role, worker, WorkerFailed(1, what))

    @contextlib.contextmanager
    def _telling(self) -> Generator[None]:
        """Nobody waits for what is started here: a system that has no process is told of."""
        try:
            yield
        except WorkerFailed as failed:
            self.bus.log(str(failed), 40)

    def _after_the_end(self, worker: Worker) -> None:
        role = worker.role
        if worker is self._packages:
            self._packages = None
        if self._spares.get(role.name) is worker:
            del self._spares[role.name]
        is_reloading = self.bus._current == 'graceful'
        if is_reloading or self.current.get(role.name) is not worker:
            return
        if self.bus.state is not State.STARTED or self.bus.leaving:
            return
        if worker.leaving:
            self.events.call_later(0, lambda: self._respawn(role))
        elif worker.code == 0:
            self.bus.exit()
        else:
            self._has_crashed(worker)

    # -- the packages ----------------------------------------------------------------

    def _prepare(self) -> None:
        """Have the packages imported, and a spare for each worker wait."""
        if self.style != 'fork' or self._misbehaves or self.bus.leaving:
            return
        if self._stopping or len(self._spoilers) > ATTEMPTS:
            return
        if self._packages is None:
            with self._telling():
                self._packages = self.children.spawn(
                    Role(PACKAGES), None, self.plan.start_timeout, fresh=True
                )
        elif self._packages.was_ready:
            self._have_imported()

    def _is_ready(self, worker: Worker, message: dict[str, Any]) -> None:
        if worker.role.kind == PACKAGES:
            worker.ready_since = time.monotonic()
            self._have_imported()
        else:
            super()._is_ready(worker, message)

    def _have_imported(self) -> None:
        assert self._packages is not None
        names = [
            name
            for name in self._modules
            if name.partition('.')[0] not in self._spoilers
        ]
        self._modules = dict.fromkeys(names)
        self._packages.tell(f'import - {json.dumps(names)}')

    def _has_imported(self, packages: Worker, message: dict[str, Any]) -> None:
        if packages is not self._packages or packages.leaving or self._stopping:
            return
        if message['imported']:
            self._spoilers.add(message['imported'].partition('.')[0])
            self.bus.log(f'{message["imported"]} {message["why"]}: it is not preloaded')
            self._renounce_packages()
            self._prepare()
            return
        packages.composed = True
        for role in self._roles(self.generation):
            spare = self._spares.get(role.name)
            if spare is None or spare.ended:
                waiting = role._replace(spare=True, hold=True)
                with self._telling():
                    self._spares[role.name] = self._spawn(waiting)

    def _renounce_packages(self) -> None:
        """What they have imported is not to be used any more."""
        for worker in [*self._spares.values(), self._packages]:
            if worker is not None:
                self._let_go(worker)
        self._spares, self._packages = {}, None
