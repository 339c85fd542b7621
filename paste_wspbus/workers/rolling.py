"""The strategy that renews a site worker by worker, and starts a new one before each stop."""

from __future__ import annotations

import contextlib
import signal

from paste_wspbus.bus import State
from paste_wspbus.control.status import followed
from paste_wspbus.role import CLUSTER, PRELOAD, SITE, WORKER, Role
from paste_wspbus.unix.cpus import cpu_count
from paste_wspbus.unix.processes import how
from paste_wspbus.workers.children import WorkerFailed, exit_code
from paste_wspbus.workers.crashes import requests_of
from paste_wspbus.workers.strategy import Source
from paste_wspbus.workers.waiting import failure_of, how_it_crashed, how_it_failed

TYPE_CHECKING = False
if TYPE_CHECKING:
    from paste_wspbus.workers.handle import WorkerHandle
    from paste_wspbus.workers.supervisor import Supervisor


class Rolling:
    """The strategy without ``--reload``: generations of workers.

    If a new generation fails, it is stopped and the old generation continues.

    :param fresh: whether each process is a fresh interpreter.
    """

    replaces = True

    def __init__(self, supervisor: Supervisor, fresh: bool = False) -> None:
        self.supervisor, self.fresh = supervisor, fresh
        self.bus, self.waiting = supervisor.bus, supervisor.waiting
        self.current = supervisor.current
        self._at_a_time = max(cpu_count(), 2)
        supervisor.children.hear('failed', supervisor.failures.note)

    def close_in_child(self) -> None:
        """Do nothing: this strategy has nothing open."""

    # -- the first generation -------------------------------------------------------

    def start(self) -> None:
        """Start the preload process and the site plugins, then the workers, a few at a time."""
        supervisor = self.supervisor
        for kind in supervisor.singles():
            self.current[kind] = supervisor.spawn(Role(kind))
            self.waiting.until_ready([self.current[kind]])
        roles = supervisor.roles(1)
        at_a_time = self._at_a_time
        if supervisor.plan.smoke:  # the others wait until it has passed
            at_a_time, roles[0] = 1, roles[0]._replace(smokes=True)
        # Only a few at a time, so that each is ready in time. If one has crashed since it was
        # READY, the others wait for their turn among the replacements.
        while roles and not any(map(_has_crashed, supervisor.late)):
            batch, roles = roles[:at_a_time], roles[at_a_time:]
            at_a_time = self._at_a_time
            for role in batch:
                self.current[role.name] = supervisor.spawn(role)
            workers = [self.current[role.name] for role in batch]
            self.waiting.until_ready(workers, self._was_killed)
            if not any(worker.was_ready for worker in workers):
                raise failure_of(workers[0])

    def _was_killed(self, worker: WorkerHandle) -> bool:
        """Whether SIGKILL ended it (an operator, the out-of-memory killer).

        That says nothing about the site: the worker is replaced later.
        """
        if worker.code != -signal.SIGKILL or worker.problem or worker.leaving:
            return False
        if worker not in self.supervisor.late:
            self.supervisor.late.append(worker)
        return True

    # -- where processes come from --------------------------------------------------

    def source(self, role: Role) -> Source:
        """Return the preload process as the source of workers, if there is one.

        :raises WorkerFailed: if that process has died.
        """
        template = None
        if role.kind == WORKER:
            template = self._template(role.generation)
            if template is None and self.supervisor.plan.preload:
                what = f'The process that loaded generation {role.generation}'
                raise WorkerFailed(1, f'{what} has died')
        return Source(template, self.fresh)

    def _template(self, generation: int) -> WorkerHandle | None:
        """Find the preload process of a generation; for the current one, any of them."""
        supervisor = self.supervisor
        composed = supervisor.children.composed()
        own = [child for child in composed if child.role.generation == generation]
        if not own and generation == supervisor.generation and supervisor.plan.preload:
            own = composed  # the site was composed again, after the first process died
        return next(iter(own), None)

    def is_prepared(self, role: Role) -> bool:
        """Whether a worker can be forked; if not, start a preload process.

        The worker is started when the preload process is READY.
        """
        needs_template = role.kind == WORKER and self.supervisor.plan.preload
        if needs_template and self._template(role.generation) is None:
            generation = self.supervisor.generation
            self.supervisor.replacing.respawn(Role(PRELOAD, generation=generation))
            return False
        return True

    # -- a graceful restart -----------------------------------------------------------

    def renew(self) -> None:
        """Start the new generation beside the old one, and exchange worker by worker."""
        supervisor = self.supervisor
        supervisor.successors.give_up()
        supervisor.latest, supervisor.renewals.notes = supervisor.latest + 1, []
        generation, count = supervisor.latest, supervisor.count
        before = supervisor.plan, supervisor.server
        plan, server, undo, supervisor.renewals.notes = supervisor.configure()
        supervisor.use(plan, server)
        if plan.workers != before[0].workers:
            supervisor.count = max(plan.workers, 1)
        singles: dict[str, WorkerHandle] = {}
        try:
            for kind in supervisor.singles():
                role = Role(kind, generation=generation, hold=kind != PRELOAD)
                try:
                    singles[kind] = supervisor.spawn(role)
                    self.waiting.until_ready(
                        [singles[kind]], lambda one: one.is_composed
                    )
                except WorkerFailed:
                    cluster = supervisor.cluster if kind == CLUSTER else None
                    if cluster is not None and cluster.has_lost(singles.get(kind)):
                        singles.pop(kind, None)
                        continue
                    raise
            soak = plan.soak if supervisor.renewals.soaks else 0.0
            smokes = plan.smoke
            for role in supervisor.roles(generation):
                self._renew_one(role._replace(smokes=smokes), soak)
                soak, smokes = 0.0, False
        except Exception:
            for single in singles.values():
                supervisor.leaving.let_go(single)
            undo()
            supervisor.use(*before)
            supervisor.resizing.shrink_to(count)
            self._restore(generation)
            raise
        supervisor.generation = generation
        supervisor.resizing.shrink_to(supervisor.count)
        for kind in (PRELOAD, SITE):
            self._exchange(kind, singles.get(kind))
        if supervisor.cluster is not None:
            supervisor.cluster.exchange(singles.get(CLUSTER))
            supervisor.cluster.adjust()

    def _renew_one(self, role: Role, soak: float) -> None:
        """Start a worker of the new generation; when it is READY, the old one drains.

        :param soak: seconds for which it serves before the old one drains.
        """
        supervisor, old = self.supervisor, self.current.get(role.name)
        if supervisor.server is not None or old is None:
            worker = supervisor.spawn(role)
            if (soak or supervisor.renewals.must_enter) and old is not None:
                supervisor.soak.run(worker, soak)
                supervisor.take_place(worker)
            self.waiting.until_ready([worker])  # it takes the place of the old one then
            if old is not None:
                self.waiting.until_ended(old)
            return
        # Its server binds itself: it cannot do that before the old worker has ended.
        worker = supervisor.spawn(role._replace(hold=True))
        self.waiting.until_ready([worker], lambda one: one.is_composed)
        try:
            supervisor.renewals.enter()
        except Exception:
            supervisor.leaving.let_go(worker)
            raise
        self.current[role.name] = worker
        supervisor.leaving.let_go(old)
        self.waiting.until_ended(old)
        supervisor.go(worker)
        self.waiting.until_ready([worker])

    def _exchange(self, kind: str, new: WorkerHandle | None) -> None:
        """Replace a process of which only one may run: stop the old one first."""
        supervisor, old = self.supervisor, self.current.pop(kind, None)
        if new is not None:
            self.current[kind] = new
        if old is not None:
            supervisor.leaving.let_go(old)
            if kind == SITE:
                self.waiting.until_ended(old)
        if new is not None and new.role.hold:
            supervisor.go(new)
            self.waiting.until_ready([new])

    def _restore(self, failed: int) -> None:
        """Replace the workers of a failed generation, if the old preload process still runs."""
        supervisor = self.supervisor
        if self._template(supervisor.generation) is None:
            if supervisor.serving() and not supervisor.serving(supervisor.generation):
                supervisor.generation = failed  # no old worker remains
            return
        for name, worker in list(self.current.items()):
            if worker.role.generation == failed:
                role = worker.role._replace(
                    generation=supervisor.generation, smokes=False
                )
                with contextlib.suppress(WorkerFailed):
                    self.waiting.until_ready([supervisor.spawn(role)])
                    self.bus.log(
                        f'{role.title} runs generation {role.generation} again'
                    )
                if self.current[name] is not worker:
                    self.waiting.until_ended(worker)

    # -- ends -----------------------------------------------------------------------

    def has_ended(self, worker: WorkerHandle) -> None:
        """Replace a process that has ended, or stop the site."""
        supervisor = self.supervisor
        if self.bus.state is not State.STARTED or self.bus.leaving:
            return
        if self.current.get(worker.name) is not worker:
            self._forget_candidate(worker)
        elif worker.leaving and not worker.too_slow:
            role = worker.role._replace(smokes=False)
            supervisor.events.call_later(0, lambda: supervisor.replacing.respawn(role))
        elif not supervisor.plan.restarts or (
            worker.code == 0 and not (supervisor.plan.workers or worker.too_slow)
        ):
            supervisor.leave_with(exit_code(worker.code))
        elif worker.role.kind == PRELOAD and worker.was_ready:
            supervisor.crashes.note(worker)
            del self.current[PRELOAD]  # a new one starts when it is needed
            self.bus.log(f'{worker.title} has ended, {how(worker.code)}', 40)
        else:
            self._has_crashed(worker)

    def _forget_candidate(self, worker: WorkerHandle) -> None:
        """Log the end of a worker that was started to take another worker's place."""
        self.supervisor.crashes.note_early(worker)
        is_alone = not self.supervisor.is_renewing  # else the renewal logs its failure
        stopped = worker.leaving and not worker.too_slow
        if not (worker.was_ready or stopped) and is_alone:
            why = worker.problem[1] if worker.problem else how_it_failed(worker)
            old = self.current.get(worker.name)
            hangs = old is not None and old.is_late
            remains = 'stays, and does not answer' if hangs else 'keeps serving'
            self.bus.log(followed(why, f'{worker.name} {remains}'), 40)

    def _has_crashed(self, worker: WorkerHandle) -> None:
        what = how_it_crashed(worker, self.supervisor.crashes.note(worker))
        role = worker.role._replace(smokes=worker.role.smokes and not worker.was_ready)
        if self._template(role.generation) is None:
            role = role._replace(generation=self.supervisor.generation)
        # A site does not send itself SIGKILL: the out-of-memory killer or an operator did.
        was_killed = worker.was_ready and worker.code == -signal.SIGKILL
        if had := requests_of(worker):
            self.bus.log(had, 40)
        self.supervisor.replacing.try_again(
            role, what, worker.ready_for, excused=was_killed
        )


def _has_crashed(worker: WorkerHandle) -> bool:
    """Whether a worker was READY and has ended by itself, and not by SIGKILL."""
    return worker.was_ready and worker.code != -signal.SIGKILL
