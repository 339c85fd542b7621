"""The end of processes: the supervisor orders them to stop, and kills those that are late."""

from __future__ import annotations

import signal
import time

from paste_wspbus.role import CLUSTER, LOADING, OPS, PACKAGES, PRELOAD, SITE, WORKER

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from paste_wspbus.servers.server import Server
    from paste_wspbus.workers.children import Children
    from paste_wspbus.workers.handle import WorkerHandle
    from paste_wspbus.workers.plan import Plan
    from paste_wspbus.workers.supervisor import SupervisorBus

#: The kinds of processes that stop after those that run plugins, in this order.
LAST = PRELOAD, PACKAGES, LOADING, OPS

#: Seconds from the order to hurry until the process is killed.
HURRIED = 2.0

#: Seconds before a process is killed at which its stacks may be asked for.
SOON = 0.5

#: Seconds within which the end of a killed process must be known. If it is not known, the
#: process that has forked it hangs, and is killed, too.
REPORTS = 0.5


class Leaving:
    """Orders processes to stop, and kills those that do not.

    ``plan`` and ``server`` are those of the present configuration.
    """

    def __init__(
        self, bus: SupervisorBus, children: Children, plan: Plan, server: Server | None
    ) -> None:
        self.bus, self.events, self.children = bus, bus.events, children
        self.plan, self.server = plan, server
        #: They are called with a process half a second before it is killed, and just before.
        self.soon: Callable[[WorkerHandle], None] = lambda worker: None
        self.killed: list[Callable[[WorkerHandle], None]] = []
        #: Whether the whole site stops.
        self.is_stopping = False

    # -- one of them ----------------------------------------------------------------

    def let_go(self, worker: WorkerHandle) -> None:
        """Order a process to stop gracefully: another takes its place, or nobody needs it."""
        if worker.ended:
            return
        worker.is_asked_to_leave()
        for number in sorted(worker.board.overdue):
            worker.tell('give_up', number)
        worker.tell('make_way')
        limit = self.plan.time_to_leave(is_last=worker.role.kind != WORKER)
        if not worker.was_ready:
            self.children.press(worker)
            limit = self.plan.time_to_give_up
        self._announce(worker, limit)
        self.call_later(worker, limit, lambda: self.kill(worker))

    def _announce(self, worker: WorkerHandle, limit: float) -> None:
        """Call `soon` just before a process is killed: that is in ``limit`` seconds."""
        self.call_later(worker, max(limit - SOON, 0), lambda: self.soon(worker))

    def have_restart(self, worker: WorkerHandle, patience: float) -> None:
        """Order a process to stop the site for a restart.

        :param patience: seconds until this orders it to hurry.
        """
        worker.is_asked_to_leave()
        if worker.was_ready:
            worker.tell('restart')
        else:
            self.children.press(worker)
        self.call_later(worker, patience, lambda: self._hurry(worker))

    def _hurry(self, worker: WorkerHandle) -> None:
        if not worker.ended and worker.leaving:
            worker.tell('hurry')
            self.call_later(worker, HURRIED, lambda: self.kill(worker))

    def ask_again(self, worker: WorkerHandle) -> None:
        """Order a process again to stop: it did not read orders before."""
        # SIGTERM does not always help: it may have come after the composing.
        if self.is_stopping:
            self._order_stop(worker)
        else:
            worker.tell('make_way')

    def kill(self, worker: WorkerHandle) -> None:
        """Kill a process that does not stop."""
        if worker.ended:
            return
        was_killed, worker.killed = worker.killed, True
        if not was_killed:
            self.bus.log(f'{worker.title} did not stop in time: it is killed', 50)
            for function in self.killed:
                self.events.run(function, worker)
        worker.signal(signal.SIGKILL)
        template = worker.template
        if template is not None and (was_killed or worker.silent or not worker.pid):
            # The template hangs: it has not forked the worker, or not reported its end.
            self.kill(template)

    def call_later(
        self, worker: WorkerHandle, seconds: float, function: Callable[[], None]
    ) -> None:
        """Call a function later, unless the process has ended by then."""
        worker.timers.append(self.events.call_later(seconds, function))

    # -- all of them ------------------------------------------------------------------

    def stop_all(self) -> None:
        """Order all to stop, and wait for their end: first the workers, which started last."""
        began = time.monotonic()
        self.is_stopping = True
        for kinds in ((WORKER,), (SITE, CLUSTER), *((one,) for one in LAST)):
            all_of = [one for kind in kinds for one in self.children.of_kind(kind)]
            # A process that has ended is still in the list if a failure has interrupted
            # the steps that follow an end.
            group = [one for one in all_of if not one.ended]
            for child in group:
                self._order_stop(child)
            limit = self.plan.time_to_leave(is_last=WORKER not in kinds)
            for child in group:
                self._announce(child, began + limit - time.monotonic())
            until = began + limit
            if OPS in kinds:  # it has nothing to lose: kill it, also if it hangs
                until = min(until, time.monotonic() + REPORTS)
            self._wait_for_the_end(group, until)

    def _wait_for_the_end(self, group: list[WorkerHandle], until: float) -> None:
        hurried = False
        while not all(child.ended for child in group):
            if self.bus.hurried and not hurried:
                hurried = True
                self.children.tell_all('hurry')
            remaining = until - time.monotonic()
            if remaining <= 0:
                for child in group:
                    self.kill(child)
                remaining = REPORTS
                until = time.monotonic() + remaining
            self.events.step(remaining)

    def _order_stop(self, child: WorkerHandle) -> None:
        child.is_asked_to_leave()
        if child.role.kind in (PACKAGES, LOADING):
            # It runs no code of the site, and may not read its orders for a long time.
            child.signal(signal.SIGKILL)
        elif child.role.spare or child.role.kind == OPS:
            child.tell('stop')  # a spare ends at any order except 'go'
        elif not child.was_ready:
            self.children.press(child)  # it does not read orders yet
        else:
            # If no other program accepts from the sockets, 'stop' empties them first.
            sockets = self.server.sockets if self.server is not None else []
            owned = any(listening.owned for listening in sockets)
            child.tell('stop' if owned else 'release')
