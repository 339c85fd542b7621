"""Reports: a file for each crash, kill, deadline and hang of a process of the site."""

from __future__ import annotations

import json
import time
from collections import deque

from paste_wspbus.control.stacks import limited, request_words, thread_lines
from paste_wspbus.ini.masking import masked_text
from paste_wspbus.unix import report_files
from paste_wspbus.values import printable
from paste_wspbus.workers.children import how
from paste_wspbus.workers.threads import threads_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from typing import Any

    from paste_wspbus.requests.marks import Limits
    from paste_wspbus.requests.stacks import Frame
    from paste_wspbus.workers.handle import WorkerHandle
    from paste_wspbus.workers.supervisor import Supervisor

#: The number of reports that are kept.
KEPT = 20

#: The number of events and of errors that a report has at most, of characters of each, of
#: frames, and of requests in flight.
EVENTS, ERRORS, TEXT, FRAMES, REQUESTS = 50, 20, 500, 2000, 100

#: The ends of lines that are the headings of stacks, which the events do not have.
HEADINGS = ' The innermost call first:', ' Stacks:'

#: The keys of sizes in bytes.
SIZES = 'rss', 'max_memory'


class Reports:
    """Writes the reports, if the plan has a folder for them; it never ends the site.

    ``about`` returns what a report says of the site: ``versions``, ``settings``, ``ini``.
    """

    def __init__(self, supervisor: Supervisor) -> None:
        self.supervisor, self.bus = supervisor, supervisor.bus
        self.about: Callable[[], dict[str, Any]] = dict
        self._events: deque[tuple[float, str]] = deque(maxlen=EVENTS)
        self._errors: deque[tuple[float, str]] = deque(maxlen=ERRORS)
        #: The last stacks of processes that are about to be killed.
        self._stacks: dict[int, dict[int, list[Frame]]] = {}
        #: From process IDs to the paths of the last reports.
        self.paths: dict[int, str] = {}
        #: The IDs of processes that have a report: their end needs no second one.
        self._reported: set[int] = set()
        #: The last problem, which is logged once.
        self._problem = ''
        self.bus.subscribe('worker_started', self._note_start)
        self.bus.subscribe('worker_died', self._note_end)
        self.bus.subscribe('log', self._note_line)

    # -- what happens -----------------------------------------------------------------

    def _note_start(self, name: str, pid: int) -> None:
        self._note(f'{name} (process {pid or "?"}) started')

    def _note_end(self, name: str, pid: int, code: int | None) -> None:
        self._note(f'{name} (process {pid}) ended, {how(code)}')

    def _note(self, text: str) -> None:
        self._events.append((time.time(), text))

    def _note_line(self, text: str, level: int = 20) -> None:
        line, more, _ = text.partition('\n')
        for heading in HEADINGS if more else ():
            line = line.removesuffix(heading)
        line = line[:TEXT]
        self._note(line)
        if level >= 40:
            self._errors.append((time.time(), line))

    # -- what is reported -------------------------------------------------------------

    def crashed(self, worker: WorkerHandle, last: dict[str, Any] | None = None) -> None:
        """Report the crash of a process.

        :param last: what `Crashes` knows of it.
        """
        if worker.pid not in self._reported:
            self.write('crash', worker, f'crashed, {how(worker.code)}', end=last)

    def look(self, worker: WorkerHandle) -> None:
        """Ask a process for its stacks that is about to be killed."""

        def note(stacks: dict[int, list[Frame]] | None) -> None:
            if stacks and not worker.ended:
                self._stacks[worker.pid] = stacks

        if self.supervisor.plan.reports is not None:
            self.supervisor.stacks.ask(worker, note)

    def killed(self, worker: WorkerHandle) -> None:
        """Report that a process is killed, because it does not stop in time."""
        if worker.pid not in self._reported:
            stacks = self._stacks.get(worker.pid)
            self.write('kill', worker, 'did not stop in time: it is killed', stacks)

    def is_overdue(self, worker: WorkerHandle, what: str) -> None:
        """Report the first request of a process that is past its deadline.

        :param what: the request, as a text.
        """
        if self.supervisor.plan.reports is None or worker.pid in self._reported:
            return
        self._reported.add(worker.pid)

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
        self._reported = (self._reported & alive) | {worker.pid}
        self._stacks = {pid: one for pid, one in self._stacks.items() if pid in alive}
        try:
            report = self._describe(kind, worker, what, stacks, end)
            path = report_files.write(folder, _name(report), _text(report))
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
            'events': [_event(*one) for one in self._events],
            'errors': [_event(*one) for one in self._errors],
        }


def _limits(limits: Limits | None) -> dict[str, str]:
    """Return the limits of requests as texts, with those of paths."""
    if limits is None:
        return {}
    return {'slow_request': str(limits.slow), 'request_deadline': str(limits.deadline)}


def _event(at: float, text: str) -> dict[str, Any]:
    return {'time': round(at, 3), 'text': masked_text(printable(text))}


def _name(report: dict[str, Any]) -> str:
    whole, fraction = divmod(report['time'], 1)
    moment = time.strftime('%Y%m%d-%H%M%S', time.gmtime(whole))
    name = report['name'].replace(' ', '-')
    at = f'{moment}-{fraction * 1e6:06.0f}'
    return f'{at}-{report["kind"]}-{name}-{report["pid"]}.txt'


# -- as text ------------------------------------------------------------------------------


def _text(report: dict[str, Any]) -> str:
    """Return a report as text for people; its last line is the same as JSON."""
    ready_for = report['ready_for']
    served = '' if ready_for is None else f', ready for {ready_for:.0f} s'
    parts = [
        [
            f'{report["what"]}.',
            f'{_time(report["time"])}, {report["name"]}, process {report["pid"]}, '
            f'generation {report["generation"]}{served}',
        ],
        _part('How it ended', _end_lines(report['end'])),
        _part('Requests in flight', map(request_words, report['requests'])),
        _part('Stacks', thread_lines(report['threads'])),
        _part('Versions', _pairs(report.get('versions', {}))),
        _part('The plan of the supervisor', _pairs(report['plan'])),
    ]
    for section, values in report.get('settings', {}).items():
        title = f'[{section}] of {report.get("ini")}, secrets are masked'
        parts.append(_part(title, _pairs(values)))
    for key, title in (('events', 'The last events'), ('errors', 'The last errors')):
        events = (f'{_time(one["time"])} {one["text"]}' for one in report[key])
        parts.append(_part(f'{title} of the supervisor', events))
    texts = ['\n'.join(part) for part in parts if part]
    return '\n\n'.join([*texts, f'As JSON\n{json.dumps(report)}\n'])


def _part(title: str, lines: Iterable[str]) -> list[str]:
    lines = [f'  {printable(line)}' for line in lines]
    return [title, *lines] if lines else []


def _pairs(values: dict[str, Any]) -> Iterable[str]:
    return (
        f'{key} = {" ".join(_value(key, value).split())}'
        for key, value in values.items()
        if value is not None
    )


def _value(key: str, value: object) -> str:
    """Return a value for people; the line of JSON has it as it is."""
    if isinstance(value, bool):
        return 'yes' if value else 'no'
    if key in SIZES and isinstance(value, int):
        return f'{value / (1 << 20):.1f} MB' if value else '0'
    return f'{value:g}' if isinstance(value, float) else str(value)


def _end_lines(end: dict[str, Any] | None) -> list[str]:
    """Return what is known of an end; the requests stand elsewhere."""
    known = {key: value for key, value in (end or {}).items() if value is not None}
    shown_above = {'time', 'pid', 'requests'}
    return list(_pairs({key: known[key] for key in known if key not in shown_above}))


def _time(at: float) -> str:
    return time.strftime('%Y-%m-%d %H:%M:%S %z', time.localtime(at))
