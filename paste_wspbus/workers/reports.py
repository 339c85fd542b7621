"""The reports of a supervisor: on each crash, kill, deadline and hang of its processes."""

from __future__ import annotations

import time

from paste_wspbus.control.stacks import limited
from paste_wspbus.process.reporting import (
    FRAMES,
    KEPT,
    REQUESTS,
    Notes,
    name_of,
    text_of,
)
from paste_wspbus.unix import report_files
from paste_wspbus.unix.processes import how
from paste_wspbus.workers.threads import threads_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from paste_wspbus.requests.marks import Limits
    from paste_wspbus.requests.stacks import Frame
    from paste_wspbus.workers.handle import WorkerHandle
    from paste_wspbus.workers.supervisor import Supervisor


class Reports:
    """Writes the reports, if the plan has a folder for them; it never ends the site.

    ``about`` returns what a report says of the site: ``versions``, ``settings``, ``ini``.
    """

    def __init__(self, supervisor: Supervisor) -> None:
        self.supervisor, self.bus = supervisor, supervisor.bus
        self.about: Callable[[], dict[str, Any]] = dict
        self.notes = Notes()
        #: The last stacks of processes that are about to be killed.
        self._stacks: dict[int, dict[int, list[Frame]]] = {}
        #: From process IDs to the paths of the last reports.
        self.paths: dict[int, str] = {}
        #: From the IDs of processes that have a report to the kind of the last one.
        self._reported: dict[int, str] = {}
        #: The last problem, which is logged once.
        self._problem = ''
        self.bus.subscribe('worker_started', self._note_start)
        self.bus.subscribe('worker_died', self._note_end)
        supervisor.leaving.soon = self.look
        supervisor.leaving.killed.append(self.killed)
        self.bus.subscribe('log', self.notes.note_line)

    # -- what happens -----------------------------------------------------------------

    def _note_start(self, name: str, pid: int) -> None:
        self.notes.note(f'{name} (process {pid or "?"}) started')

    def _note_end(self, name: str, pid: int, code: int | None) -> None:
        self.notes.note(f'{name} (process {pid}) ended, {how(code)}')

    # -- what is reported -------------------------------------------------------------

    def crashed(self, worker: WorkerHandle, last: dict[str, Any] | None = None) -> None:
        """Report the crash of a process.

        :param last: what `Crashes` knows of it.
        """
        if self._end_is_news(worker):
            self.write('crash', worker, f'crashed, {how(worker.code)}', end=last)

    def look(self, worker: WorkerHandle) -> None:
        """Ask a process that is about to be killed for its stacks."""

        def note(stacks: dict[int, list[Frame]] | None) -> None:
            if stacks and not worker.ended:
                self._stacks[worker.pid] = stacks

        if self.supervisor.plan.reports is not None:
            self.supervisor.stacks.ask(worker, note)

    def killed(self, worker: WorkerHandle) -> None:
        """Report that a process is killed, because it does not stop in time."""
        if self._end_is_news(worker):
            stacks = self._stacks.get(worker.pid)
            self.write('kill', worker, 'did not stop in time: it is killed', stacks)

    def _end_is_news(self, worker: WorkerHandle) -> bool:
        """Whether no report says why it ends. One on a deadline does not: it may keep serving."""
        return self._reported.get(worker.pid, 'deadline') == 'deadline'

    def is_overdue(self, worker: WorkerHandle, what: str) -> None:
        """Report the first request of a process that is past its deadline.

        :param what: the request, as a text.
        """
        if self.supervisor.plan.reports is None or worker.pid in self._reported:
            return
        self._reported[worker.pid] = 'deadline'

        def write(stacks: dict[int, list[Frame]] | None) -> None:
            self.write('deadline', worker, f'has an overdue request: {what}', stacks)

        self.supervisor.stacks.ask(worker, write)

    def write(
        self,
        kind: str,
        worker: WorkerHandle,
        what: str,
        stacks: dict[int, list[Frame]] | None = None,
        end: dict[str, Any] | None = None,
    ) -> None:
        """Write a report, and log its path; log a problem once.

        :param kind: 'crash', 'kill', 'deadline' or 'hang'.
        :param what: the predicate of a sentence on the process, such as 'hangs'.
        :param stacks: what `Stacks.ask` has answered.
        :param end: what is known of the end of the process, as `status` shows it.
        """
        folder = self.supervisor.plan.reports
        if folder is None:
            return
        alive = {one.pid for one in self.supervisor.children.alive}
        self._reported = {
            pid: one for pid, one in self._reported.items() if pid in alive
        }
        self._reported[worker.pid] = kind
        self._stacks = {pid: one for pid, one in self._stacks.items() if pid in alive}
        try:
            report = self._describe(kind, worker, what, stacks, end)
            path = report_files.write(folder, name_of(report), text_of(report))
            self._problem = ''
            self.paths[worker.pid] = path
            while len(self.paths) > KEPT:
                del self.paths[next(iter(self.paths))]
            self._tell(f'{worker.title} has a report: {path}', kind)
            report_files.keep_newest(folder, KEPT)
        except OSError as error:
            self._fail(folder, error.strerror or str(error))
        except Exception as error:  # a report must not end a site
            self._fail(folder, f'{type(error).__name__}: {error}')

    def _tell(self, line: str, kind: str) -> None:
        if kind == 'crash' and not self.supervisor.is_stopping:
            # First comes the line that says how the process ended.
            self.supervisor.events.call_later(0, lambda: self.bus.log(line, 30))
        else:
            self.bus.log(line, 30)

    def _fail(self, folder: str, problem: str) -> None:
        if problem != self._problem:
            self._problem = problem
            self.bus.log(f'reports {folder}: {problem}. The site continues', 40)

    def _describe(
        self,
        kind: str,
        worker: WorkerHandle,
        what: str,
        stacks: dict[int, list[Frame]] | None,
        end: dict[str, Any] | None,
    ) -> dict[str, Any]:
        process = {'threads': threads_of(worker, stacks)}
        limited([process], FRAMES)
        ready_for = worker.ready_for
        return {
            'kind': kind,
            'time': time.time(),
            'what': f'{worker.title} {what}',
            'name': worker.name,
            'pid': worker.pid,
            'generation': worker.role.generation,
            'state': worker.describe()['state'],
            'ready_for': None if ready_for is None else round(ready_for, 3),
            'end': end,
            'requests': worker.open_requests()[:REQUESTS],
            'threads': process['threads'] if stacks else [],
            **self.about(),
            'plan': {
                key: value
                for key, value in self.supervisor.plan._asdict().items()
                if isinstance(value, (int, float, str))
            }
            | _limits(self.supervisor.plan.limits),
            **self.notes.describe(),
        }


def _limits(limits: Limits | None) -> dict[str, str]:
    """Return the limits of requests as texts, with those of paths."""
    if limits is None:
        return {}
    return {'slow_request': str(limits.slow), 'request_deadline': str(limits.deadline)}
