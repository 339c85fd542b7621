"""Asks the workers whether they answer, and replaces one that hangs: see `hanging`."""

from __future__ import annotations

import signal
import time
from collections import Counter

from paste_wspbus.bus import State
from paste_wspbus.unix.processes import throttled_periods, tracer_of
from paste_wspbus.watching.loop import Repeat
from paste_wspbus.workers.hanging import Hanging, Machine, Seen, Verdict
from paste_wspbus.workers.threads import stacks_text

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from paste_wspbus.requests.stacks import Frame
    from paste_wspbus.workers.handle import WorkerHandle
    from paste_wspbus.workers.supervisor import Supervisor

    Threads = dict[int, list[Frame]] | None

#: Seconds from the SIGTERM of a worker that hangs, whose successor serves, to SIGKILL.
GRACE = 3.0

#: Seconds before another try after a successor did not become READY.
PAUSE = 60.0


class Liveness:
    """Asks each worker that is READY for its status, and acts if one does not answer.

    The thread of a worker that answers needs the GIL. So a worker whose request holds it
    does not answer. `Hanging` decides; this has the clocks, the log and the signals.
    """

    def __init__(self, supervisor: Supervisor) -> None:
        self.supervisor, self.bus = supervisor, supervisor.bus
        self._hanging: Hanging | None = None
        self._repeat: Repeat | None = None
        #: The worker that is being replaced, since which question it has not answered, and
        #: its successor as soon as that is started.
        self._old: WorkerHandle | None = None
        self._since: float | None = None
        self._new: WorkerHandle | None = None
        self._not_before = float('-inf')
        self._counts: Counter[str] = Counter()
        supervisor.children.hear('ready', self._is_ready)

    def adjust(self) -> None:
        """Look at the workers as often as the plan, which may be new, asks for."""
        hung_after = self.supervisor.plan.hung_after
        if self._hanging is not None and self._hanging.hung_after == hung_after:
            return
        if self._repeat is not None:
            self._repeat.end()
            self._hanging = self._repeat = None
        if hung_after:
            self._hanging = hanging = Hanging(hung_after)
            events = self.supervisor.events
            self._repeat = Repeat(events, hanging.every, lambda: self._look(hanging))

    def describe(self, name: str) -> dict[str, Any]:
        """Return what `status` shows of a name, such as 'worker 2'."""
        return {'hung': self._counts[name]}

    # -- looking ------------------------------------------------------------------------

    def _look(self, hanging: Hanging) -> bool:
        self._note_end()
        workers = {
            worker: _see(worker)
            for worker in self.supervisor.serving()
            if not (worker.leaving or worker.sends_nonsense or worker.silent)
        }
        acts: dict[Verdict, Callable[[WorkerHandle, Hanging], object]] = {
            Verdict.SHOW: self._show,
            Verdict.EXCUSE: self._excuse,
            Verdict.WAIT: self._wait,
            Verdict.REPLACE: self._replace,
        }
        machine, may = _machine(), self._may_replace()
        if self.supervisor.ops is not None:
            self.supervisor.ops.watch(machine, _see)
        for worker, verdict in hanging.look(machine, workers, may):  # type: ignore[arg-type]
            acts[verdict](worker, hanging)  # type: ignore[arg-type]
        for worker in workers:
            worker.ask_for_status()
        return True

    def _may_replace(self) -> bool:
        supervisor, bus = self.supervisor, self.bus
        if self._old is not None or time.monotonic() < self._not_before:
            return False
        if supervisor.is_renewing or supervisor.renewals.is_asked_for:
            return False
        return bus.state is State.STARTED and not bus.leaving

    def _note_end(self) -> None:
        """Note whether a replacement has ended."""
        old, new = self._old, self._new
        if old is None or new is None:
            if old is not None and old.ended:  # without a successor
                self._old = None
            return
        if new.ended and not new.was_ready:
            # The log says why.
            self._not_before = time.monotonic() + PAUSE
            self._old = self._new = None
        elif old.ended or new.ended:
            self._old = self._new = None

    # -- acting -------------------------------------------------------------------------

    def _show(self, worker: WorkerHandle, hanging: Hanging) -> None:
        asked = worker.asked_since
        silence = time.monotonic() - asked if asked is not None else 0.0

        def log(stacks: Threads) -> None:
            what = f'{worker.title} has not answered for {silence:.3g} s'
            why = f'it will be replaced after {hanging.hung_after:g} s (hung_after)'
            text = stacks_text(worker, stacks, '`stacks -v` shows all')
            self.bus.log(f'{what}; {why}. {text}', 30)

        self.supervisor.stacks.ask(worker, log)

    def _excuse(self, worker: WorkerHandle, hanging: Hanging) -> None:
        excuse = _see(worker).excuse
        if excuse:
            self.bus.log(f'{worker.title} does not answer: {excuse}', 30)

    def _wait(self, worker: WorkerHandle, hanging: Hanging) -> None:
        self.bus.log(
            f'No worker has answered for {hanging.hung_after / 2:g} s or more: this may be '
            'the machine, or something that all of them wait for. wspserve waits '
            f'{hanging.hung_after:g} s once more (hung_after) before it replaces one',
            40,
        )

    def _replace(self, worker: WorkerHandle, hanging: Hanging) -> None:
        self._old, self._since = worker, worker.asked_since
        silence = hanging.silence(worker)

        def replace(stacks: Threads) -> None:
            if self._old is not worker:
                return
            if worker.ended or not self._is_silent():  # it has answered at last
                self._old = None
                return
            limit = f'hung_after = {hanging.hung_after:g} s'
            why = f'hangs: it has not answered for {silence:.3g} s ({limit})'
            self._log_hang(worker, why, stacks)
            self._start_successor(worker, why)

        self.supervisor.stacks.ask(worker, replace)

    def _log_hang(self, worker: WorkerHandle, why: str, stacks: Threads) -> None:
        self._counts[worker.name] += 1
        has_report = self.supervisor.plan.reports is not None
        text = stacks_text(worker, stacks, 'the report has all' * has_report)
        self.bus.log(f'{worker.title} {why}. {text}', 40)
        self.supervisor.reports.write('hang', worker, why, stacks)

    def _start_successor(self, worker: WorkerHandle, why: str) -> None:
        supervisor = self.supervisor
        oldest = worker.open_requests()[:1]
        request = next((f'{one["method"]} {one["path"]}' for one in oldest), None)
        if supervisor.server is None:
            supervisor.successors.note(worker, None, 'hang', request)
            # Its server binds itself: its successor cannot do that before its end.
            supervisor.leaving.let_go(worker)
            self._end(worker)
            return
        if supervisor.strategy.is_prepared(worker.role):
            self._new = supervisor.successors.start(worker, 'hangs', 'hang')
        if self._new is not None:
            supervisor.successors.note(worker, self._new, 'hang', request)
        else:
            self._old = None
            self._not_before = time.monotonic() + self._pause(worker)

    def _pause(self, worker: WorkerHandle) -> float:
        # If another process must be ready first, look again soon.
        is_prepared = self.supervisor.strategy.is_prepared(worker.role)
        return PAUSE if is_prepared else 0.0

    def _is_silent(self) -> bool:
        return self._old is not None and self._old.asked_since == self._since

    def _is_ready(self, worker: WorkerHandle, message: dict[str, Any]) -> None:
        """End the worker that hangs: its successor serves, and has taken its place."""
        if worker is self._new and self._old is not None and self._is_silent():
            self._end(self._old)

    def _end(self, worker: WorkerHandle) -> None:
        """End a worker that does not read its orders: first by SIGTERM, then by SIGKILL."""
        if worker.ended:
            return
        worker.signal(signal.SIGTERM)
        leaving = self.supervisor.leaving
        leaving.call_later(worker, GRACE, lambda: leaving.kill(worker))


def _see(worker: WorkerHandle) -> Seen:
    since = worker.asked_since
    if since is None:
        return Seen()
    tracer = tracer_of(worker.pid) or 0
    return Seen(since, worker.is_stopped, tracer, worker.debugger)


def _machine() -> Machine:
    boottime = None
    if hasattr(time, 'CLOCK_BOOTTIME'):
        boottime = time.clock_gettime(time.CLOCK_BOOTTIME)
    return Machine(time.monotonic(), boottime, throttled_periods())
