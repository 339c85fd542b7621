"""Spare workers: a process that has imported the packages forks them before an edit."""

from __future__ import annotations

import contextlib
import time

from paste_wspbus.role import PACKAGES, Role
from paste_wspbus.unix.cpus import cpu_count
from paste_wspbus.workers.children import WorkerFailed
from paste_wspbus.workers.strategy import Source

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Generator
    from typing import Any

    from paste_wspbus.workers.handle import WorkerHandle
    from paste_wspbus.workers.supervisor import Supervisor

#: The number of attempts to start the process that imports the packages. Each attempt
#: leaves out one more package that must not be imported before a fork.
ATTEMPTS = 20

#: Seconds that a reload waits for the process that imports the packages.
PATIENCE = 3.0


class Spares:
    """Keeps a process that has imported the packages of the site, and spares forked from it.

    A spare waits until a reload needs it; then it composes the site. With a style other
    than 'fork', there are no spares.
    """

    def __init__(self, supervisor: Supervisor, style: str) -> None:
        self.supervisor, self.style = supervisor, style
        #: Whether the site failed to start after a fork, but started in a fresh interpreter.
        self._misbehaves = False
        self._packages: WorkerHandle | None = None
        #: Whether this process has imported the packages, and can fork.
        self._can_fork = False
        #: The number of orders to import that it has not answered.
        self._importing = 0
        self._spares: dict[str, WorkerHandle] = {}
        #: The modules that the site's processes have imported and that are not its own.
        self._modules: dict[str, None] = {}
        self._spoilers: set[str] = set()
        supervisor.children.hear('ready', self._is_ready)
        supervisor.children.hear('imported', self._has_imported)

    def learn(self, modules: list[str]) -> None:
        """Note modules, which the packages' process imports, too, now or the next time."""
        self._modules.update(dict.fromkeys(modules))
        packages = self._packages
        is_first = not self.supervisor.was_started
        if is_first and packages is not None and packages.was_ready:
            self._order_import(packages, modules)

    def begin(self) -> None:
        """Let a process import the packages while the site is loaded for the first time.

        It is forked from the supervisor, which has imported no file that has changed
        since. Without a second CPU, it would only delay the start.
        """
        if self.style == 'fork' and cpu_count() > 1:
            with self.logging_failure():
                self._spawn_packages(fresh=False)

    def _spawn_packages(self, *, fresh: bool) -> None:
        self._can_fork, self._importing = False, 0
        self._packages = self.supervisor.children.spawn(
            Role(PACKAGES), None, self.supervisor.plan.start_timeout, fresh=fresh
        )

    def wait(self) -> None:
        """Wait until the packages' process can fork, if it is importing: that is faster.

        :raises StopRequested: if a stop of the site was requested.
        """
        if not self._is_importing():
            return
        until = time.monotonic() + PATIENCE
        self.supervisor.events.call_later(PATIENCE, lambda: None)  # wakes the loop
        self.supervisor.waiting.until(
            lambda: not self._is_importing() or time.monotonic() >= until
        )

    def _is_importing(self) -> bool:
        packages = self._packages
        if packages is None or packages.leaving or packages.ended:
            return False
        return not packages.was_ready or self._importing > 0

    def prepare(self) -> None:
        """Let a process import the packages and fork a spare for each worker."""
        supervisor = self.supervisor
        if self.style != 'fork' or self._misbehaves or supervisor.bus.leaving:
            return
        if supervisor.is_stopping or len(self._spoilers) > ATTEMPTS:
            return
        if self._packages is None:
            with self.logging_failure():
                self._spawn_packages(fresh=True)
        elif self._packages.was_ready:
            self._have_imported(self._packages)

    def _is_ready(self, worker: WorkerHandle, message: dict[str, Any]) -> None:
        if worker is self._packages:
            self._have_imported(worker)

    def _have_imported(self, packages: WorkerHandle) -> None:
        names = [
            name
            for name in self._modules
            if name.partition('.')[0] not in self._spoilers
        ]
        self._modules = dict.fromkeys(names)
        self._order_import(packages, names)

    def _order_import(self, packages: WorkerHandle, names: list[str]) -> None:
        self._importing += 1
        packages.tell('import', names)

    def _has_imported(self, packages: WorkerHandle, message: dict[str, Any]) -> None:
        supervisor = self.supervisor
        if packages is not self._packages or packages.leaving or supervisor.is_stopping:
            return
        if message['imported']:
            self._spoilers.add(message['imported'].partition('.')[0])
            what = f'{message["imported"]} {message["why"]}: it is imported only when the site is loaded'
            supervisor.bus.log(what)
            self.renounce()
            self.prepare()
            return
        self._importing -= 1
        self._can_fork = not self._importing
        # While the site starts, or is reloaded, the process only imports.
        if self._importing or not supervisor.was_started or supervisor.is_renewing:
            return
        for role in supervisor.roles(supervisor.generation):
            spare = self._spares.get(role.name)
            if spare is None or spare.ended:
                waiting = role._replace(spare=True, hold=True)
                with self.logging_failure():
                    self._spares[role.name] = supervisor.spawn(waiting)

    @contextlib.contextmanager
    def logging_failure(self) -> Generator[None]:
        """Log it if a process cannot be started: nothing here waits for the process."""
        try:
            yield
        except WorkerFailed as failed:
            self.supervisor.bus.log(str(failed), 40)

    # -- using them -----------------------------------------------------------------

    def source(self) -> Source:
        """Return which process forks the next one: the packages' process, if it can."""
        if self._packages is not None and self._can_fork:
            return Source(self._packages, False)
        return self.fresh_source()

    def fresh_source(self) -> Source:
        """Return how to start a process that has imported nothing before."""
        return Source(None, self.supervisor.was_started)

    def take(self, role: Role) -> WorkerHandle | None:
        """Give a role to its spare, which now composes the site; None if there is no spare."""
        spare = self._spares.pop(role.name, None)
        if spare is None or spare.ended:
            return None
        if role.insists:  # the spare has its role already
            self.supervisor.leaving.let_go(spare)
            return None
        spare.role = spare.role._replace(generation=role.generation)
        # It has waited until now: that is no part of a start.
        spare.since = time.monotonic()
        self.supervisor.go(spare)
        return spare

    def renounce(self) -> None:
        """End the packages' process and the spares, because their modules are outdated."""
        for worker in [*self._spares.values(), self._packages]:
            if worker is not None:
                self.supervisor.leaving.let_go(worker)
        self._spares, self._packages = {}, None

    def renounce_for_good(self) -> None:
        """Use no spares from now on, because the site does not start after a fork."""
        self._misbehaves = True
        self.renounce()

    def change_style(self, style: str) -> None:
        """Start the next processes in another way."""
        self.style = style
        if style != 'fork':
            self.renounce()

    def forget(self, worker: WorkerHandle) -> None:
        """Forget a process that has ended, if it was a spare or the packages' process."""
        if worker is self._packages:
            self._packages = None
        if self._spares.get(worker.name) is worker:
            del self._spares[worker.name]
