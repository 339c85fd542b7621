"""The threads of the processes of a supervisor, with their requests: as data, and for the log."""

from __future__ import annotations

import functools

from paste_wspbus.control.stacks import (
    describe_threads,
    hidden_line,
    limited,
    of_site,
    thread_lines,
)
from paste_wspbus.role import WITHOUT_BUS, WORKER

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from paste_wspbus.requests.stacks import Frame
    from paste_wspbus.workers.handle import WorkerHandle
    from paste_wspbus.workers.supervisor import Supervisor

    #: It is called with a function that returns the processes and their threads.
    Answer = Callable[[Callable[[], list[dict[str, Any]]]], object]

#: The number of frames of a process that are logged at most.
LOGGED = 5000

#: The text for a process whose stacks are not known, unless something has stopped it.
UNKNOWN = (
    'its stacks are not known: it does not handle the signal for them, or not yet, or this '
    'system has no such signal'
)


def _why_unknown(why_stopped: str | None) -> str:
    return f'its stacks are not known: {why_stopped}' if why_stopped else UNKNOWN


def threads_of(
    worker: WorkerHandle, stacks: dict[int, list[Frame]] | None
) -> list[dict[str, Any]]:
    """Return the threads of a process as data: see `describe_threads`.

    :param stacks: what `Stacks.ask` has answered.
    """
    return describe_threads(stacks or {}, worker.requests_of_threads())


def stacks_text(
    worker: WorkerHandle, stacks: dict[int, list[Frame]] | None, others: str = ''
) -> str:
    """Return the stacks of a process and its requests for the log: a sentence, and lines.

    :param others: the words that say where the threads and frames of other code are
        shown, such as '`stacks -v` shows all'; '' to show them here.
    """
    threads = threads_of(worker, stacks)
    if not threads:
        return f'{UNKNOWN[0].upper()}{UNKNOWN[1:]}'
    shown = of_site(threads) if others else []
    if not shown:
        return '\n'.join(['Stacks:', *_log_lines(threads)])
    lines = _log_lines(shown, full=False)
    if hidden := len(threads) - len(shown):
        lines.append(f'  ({hidden_line(hidden)}: {others})')
    return '\n'.join(['Stacks:', *lines])


def _log_lines(threads: list[dict[str, Any]], *, full: bool = True) -> list[str]:
    """Return the lines on threads; a site with a thousand threads must not flood the log."""
    (process,) = limited([{'threads': threads}], LOGGED)
    lines = thread_lines(process['threads'], full)
    if process['left_out']:
        lines.append(f'  ({process["left_out"]} more threads are left out)')
    return lines


def describe_all(supervisor: Supervisor, answer: Answer) -> None:
    """Call ``answer`` with what describes all threads when all have written their stacks.

    It is called after `stacks.PATIENCE` seconds at the latest.
    """
    asked = sorted(
        supervisor.children.alive,
        key=lambda one: (one.role.kind != WORKER, one.role.number, one.pid),
    )
    answers: dict[WorkerHandle, dict[int, list[Frame]] | None] = {}

    def make() -> list[dict[str, Any]]:
        return limited([_described(one, answers[one]) for one in asked])

    if not asked:
        answer(make)

    def note(worker: WorkerHandle, stacks: dict[int, list[Frame]] | None) -> None:
        answers[worker] = stacks
        if len(answers) == len(asked):
            answer(make)

    for worker in asked:
        supervisor.stacks.ask(worker, functools.partial(note, worker))


def _described(
    worker: WorkerHandle, stacks: dict[int, list[Frame]] | None
) -> dict[str, Any]:
    told = worker.describe()
    return {
        **{key: told[key] for key in ('name', 'pid', 'generation', 'state')},
        'problem': None if stacks else _why_unknown(told['why_stopped']),
        'threads': threads_of(worker, stacks),
    }


def log_all(supervisor: Supervisor) -> None:
    """Log the stacks of all processes; one whose stacks are not known is asked to log them."""

    def log(worker: WorkerHandle, stacks: dict[int, list[Frame]] | None) -> None:
        if stacks:
            text = '\n'.join(_log_lines(threads_of(worker, stacks)))
            supervisor.bus.log(f'Stacks of process {worker.pid}:\n{text}', 30)
        elif worker.role.kind not in WITHOUT_BUS and not worker.ended:
            worker.tell('stacks')

    for worker in list(supervisor.children.alive):
        supervisor.stacks.ask(worker, functools.partial(log, worker))
