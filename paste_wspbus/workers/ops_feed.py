"""The supervisor's side of the ops listener: it starts the process, and answers it."""

from __future__ import annotations

import signal
import time

from paste_wspbus.ops.snapshot import State
from paste_wspbus.role import OPS, Role
from paste_wspbus.unix.processes import how
from paste_wspbus.wire.lines import order
from paste_wspbus.workers.children import WorkerFailed
from paste_wspbus.workers.describing import checked_of
from paste_wspbus.workers.hanging import Hanging, Machine, Seen, Verdict

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from paste_wspbus.bus import Bus
    from paste_wspbus.workers.handle import WorkerHandle
    from paste_wspbus.workers.supervisor import Supervisor

#: Seconds until the process is started again, if it has ended: the first time, and the most.
AGAIN, MOST = 0.5, 30.0

#: Seconds between two reports of health, at least; and at least so many times as long
#: as the last report took: many workers with many checks must not hold up the
#: supervisor.
RARELY, TIMES = 0.25, 50

#: Seconds without an answer after which a worker does not count as serving.
SILENT = 5.0

#: Seconds between two questions to the workers that are asked because somebody probes.
PROBED = 1.0

#: The number of bytes that an answer has at most.
MAX_ANSWER = 1 << 20


class OpsFeed:
    """Keeps the process of the ops listener running, and sends it the state of the site.

    The process learns each change of the state before the supervisor sleeps. It learns
    the rest only when it has a client that wants it.

    :param ask: calls a function with an answer of a kind about the site: see `OpsAnswers`.
    """

    def __init__(
        self,
        supervisor: Supervisor,
        ask: Callable[[str, Bus, Callable[[Any], object]], object],
    ) -> None:
        self.supervisor = supervisor
        self._process: WorkerHandle | None = None
        self._sent: State | None = None
        self._wait = AGAIN
        #: The health of each process as it was sent last; when it may be sent again
        #: (time.monotonic()); and whether a timer waits for that.
        self._known: list[tuple[str, int, int]] = []
        self._next_health, self._is_timed = 0.0, False
        self._ask = ask
        self._asked_workers = float('-inf')
        self._hanging: Hanging | None = None
        supervisor.children.hear('wants', self._is_asked)

    def start(self) -> None:
        """Start the process.

        :raises BecomeWorker: in the child.
        """
        supervisor = self.supervisor
        if supervisor.is_stopping:
            return
        try:
            self._process = supervisor.children.spawn(
                Role(OPS), None, supervisor.plan.start_timeout
            )
        except WorkerFailed as failed:
            supervisor.bus.log(str(failed), 40)
            self._start_again()
            return
        self._sent, self._known, self._hanging = None, [], None
        self.look()
        if self.look not in supervisor.events.before_sleep:
            supervisor.events.before_sleep.append(self.look)

    def _start_again(self) -> None:
        self.supervisor.events.call_later(self._wait, self.start)
        self._wait = min(self._wait * 2, MOST)

    def has_ended(self, process: WorkerHandle) -> None:
        """Note that the process has ended; start another one, but not if the site stops."""
        if process is not self._process or self.supervisor.is_stopping:
            return
        if (process.ready_for or 0.0) > MOST:
            self._wait = AGAIN
        self._process = None
        self.supervisor.bus.log(f'{process.title} has ended, {how(process.code)}', 40)
        self._start_again()

    def watch(self, machine: Machine, seen: Callable[[WorkerHandle], Seen]) -> None:
        """Kill the process if it hangs: another one is started then.

        `Liveness` calls this as often as it looks at the workers. The process runs no code
        of the site, so nobody has stopped it to look at it: a signal such as SIGSTOP is no
        excuse.

        :param seen: returns how a process looks.
        """
        process, hung_after = self._process, self.supervisor.plan.hung_after
        if process is None or not process.is_ready:
            return
        if self._hanging is None or self._hanging.hung_after != hung_after:
            self._hanging = Hanging(hung_after)
        looks = seen(process)._replace(is_stopped=False)
        for _, verdict in self._hanging.look(machine, {process: looks}, True):
            silence = self._hanging.silence(process)
            if verdict is Verdict.EXCUSE:
                text = f'{process.title} does not answer: {looks.excuse}'
                self.supervisor.bus.log(text, 30)
            elif verdict is Verdict.REPLACE:
                limit = f'hung_after = {hung_after:g} s'
                why = f'it has not answered for {silence:.3g} s ({limit})'
                self.supervisor.bus.log(f'{process.title} hangs: {why}', 40)
                process.signal(signal.SIGKILL)
                return
        process.ask_for_status()

    # -- what it learns -------------------------------------------------------------

    def look(self) -> None:
        """Send the state if it has changed; if the process does not read, send it later."""
        process = self._process
        if process is None or process.outbox.is_waiting:
            return
        self._look_at_health(process)
        state = self._state()
        if self._sent is None or state != self._sent._replace(since=0.0):
            self._sent = state._replace(since=time.monotonic())
            process.tell('state', [*self._sent])

    def _look_at_health(self, process: WorkerHandle) -> None:
        handles = [one for one in self.supervisor.current.values() if one.is_ready]
        known = [(one.name, one.pid, one.health_reports) for one in handles]
        if (cluster := self.supervisor.cluster) is not None:
            known.append(('cluster', 0, cluster.words))
        if loop := self.supervisor.crashes.loop:
            known.append((loop, 0, 0))
        if known == self._known:
            return
        now = time.monotonic()
        if now < self._next_health:
            if not self._is_timed:
                self._is_timed = True
                self.supervisor.events.call_later(self._next_health - now, self._is_due)
            return
        self._known = known
        process.tell('checked', checked_of(self.supervisor))
        took = time.monotonic() - now
        self._next_health = now + max(RARELY, took * TIMES)

    def _is_due(self) -> None:
        self._is_timed = False  # `look` comes next

    def _state(self) -> State:
        supervisor = self.supervisor
        bus = supervisor.bus
        serving = (
            sum(  # a worker with a problem answers each request with an error page
                not (is_silent(worker) or worker.role.problem)
                for worker in supervisor.serving()
            )
        )
        # Without --reload, the old workers serve until the new ones do, unless all have died.
        serves_on = serving > 0 or not supervisor.strategy.replaces
        return State(
            name=bus.state.name,
            was_started=bus.was_started,
            drained=bus.drained,
            renewing=supervisor.is_renewing and serves_on,
            serving=serving,
            wanted=supervisor.count,
        )

    def _is_asked(self, process: WorkerHandle, message: dict[str, Any]) -> None:
        kind, bus = message['wants'], self.supervisor.bus

        def answer(value: Any) -> None:
            if process.ended or process.outbox.is_waiting:
                return
            line = order('tells', kind, value)
            if len(line) > MAX_ANSWER:
                too_long = f'the answer has more than {MAX_ANSWER} bytes'
                line = order('tells', kind, {'error': too_long})
            process.outbox.put(line)

        if process is not self._process:
            return
        if kind == 'state':
            self._ask_workers()
            self._sent = None  # `look` sends it before the next sleep
        else:
            self._ask(kind, bus, answer)

    def _ask_workers(self) -> None:
        """Ask the workers whether they answer, but not all the time."""
        now = time.monotonic()
        if now - self._asked_workers >= PROBED:
            self._asked_workers = now
            for worker in self.supervisor.serving():
                if not (worker.leaving or worker.sends_nonsense or worker.silent):
                    worker.ask_for_status()


def is_silent(worker: WorkerHandle) -> bool:
    """Whether a worker has not answered its supervisor for a while: it hangs, or is stopped.

    The supervisor asks it again and again if `hung_after` is set, and while somebody probes.
    """
    since = worker.asked_since
    return since is not None and time.monotonic() - since > SILENT
