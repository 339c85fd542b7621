"""The tracebacks of processes that do not start: each is logged once."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from paste_wspbus.workers.handle import WorkerHandle
    from paste_wspbus.workers.supervisor import Supervisor

#: The number of tracebacks that are remembered, and the characters of each.
KEPT, MOST = 10, 50_000


class Failures:
    """Collects the tracebacks until the site is started, and logs them later.

    All workers run the same code, so they mostly fail alike: the same text is logged
    again only when another graceful restart has begun, or a process was READY since,
    outside of a crash loop.
    """

    def __init__(self, supervisor: Supervisor) -> None:
        self._supervisor = supervisor
        #: From each traceback to the names of the processes that have sent it.
        self._names: dict[str, list[str]] = {}
        #: The number of tracebacks that the log has.
        self.logged = 0
        supervisor.bus.subscribe('worker_ready', self._is_ready)
        supervisor.bus.subscribe('graceful', self.forget, priority=0)

    def note(self, worker: WorkerHandle, message: dict[str, Any]) -> None:
        """Note the report of a process that does not start; log its traceback if it is new."""
        trace, supervisor = message['traceback'].rstrip('\n')[:MOST], self._supervisor
        if not trace:
            return
        names = self._names.setdefault(trace, [])
        if supervisor.was_started and not names:
            who = f'{worker.name} (process {worker.pid})'
            supervisor.bus.log(f'The start of {who} has failed:\n{trace}', 40)
            self.logged += 1
        if worker.name not in names:
            names.append(worker.name)
        while len(self._names) > KEPT:
            del self._names[next(iter(self._names))]

    def text(self) -> str:
        """Return the tracebacks of a first start, each once; '' if there is none."""
        if len(self._names) < 2:
            return ''.join(self._names)
        return '\n'.join(
            f'The start of {", ".join(names)} has failed:\n{trace}'
            for trace, names in self._names.items()
        )

    def forget(self) -> None:
        """Log each traceback that comes from now on."""
        self._names.clear()

    def _is_ready(self, name: str, pid: int) -> None:
        if self._supervisor.was_started and not self._supervisor.crashes.loop:
            self.forget()
