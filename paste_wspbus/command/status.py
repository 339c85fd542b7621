"""The subcommand ``status``: whether the site runs, and what it does."""

from __future__ import annotations

import json

from paste_wspbus.command.finding import (
    DEAD,
    NOT_RUNNING,
    RUNNING,
    UNKNOWN,
    Found,
    find,
    is_gunicorns,
    why,
)
from paste_wspbus.command.terminal import in_columns, print_answer
from paste_wspbus.control.client import NoAnswer, ask
from paste_wspbus.control.status import (
    number,
    plural,
    text,
    texts,
    what_it_waits_for,
    workers_of,
)
from paste_wspbus.exits import IS_DEAD, IS_NOT_RUNNING, IS_RUNNING, IS_UNKNOWN
from paste_wspbus.values import printable

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from paste_wspbus.process.options import Options

#: The state of a site whose server is gunicorn, which reports nothing else.
GUNICORNS = 'RUNNING BY GUNICORN'

#: The exit code of each state.
EXIT_CODES = {
    RUNNING: IS_RUNNING,
    GUNICORNS: IS_RUNNING,
    DEAD: IS_DEAD,
    NOT_RUNNING: IS_NOT_RUNNING,
    UNKNOWN: IS_UNKNOWN,
}


def status(options: Options) -> int:
    """Print whether the site runs.

    :returns: the exit code, as the Linux Standard Base defines it.
    """
    found = find(options)
    answer: dict[str, Any] = {}
    if found.state == RUNNING and not found.problem:
        try:
            answer = ask(found.control, 'status')
        except NoAnswer as error:
            found.problem = why(error)
    if found.state == RUNNING and found.problem and is_gunicorns(found, options):
        found.state, found.problem = GUNICORNS, 'gunicorn reports nothing else'
    if options.json:
        told = json.dumps(answer or _without_answer(found), indent=2)
        print_answer(told, absolute=True)
    elif answer:
        print_answer('\n'.join(_describe(answer, found)))
    elif found.state == RUNNING:
        print_answer(
            f'The site is running{found.who}, but does not answer: {found.problem}.'
        )
    elif found.state == GUNICORNS:
        print_answer(f'The site is running{found.who}: {found.problem}.')
    elif found.state == NOT_RUNNING:
        print_answer(f'The site is not running ({found.problem}).')
    elif found.state == DEAD:
        print_answer(f'The site is dead: {found.problem}')
    else:
        print_answer(f'It is not known whether the site runs: {found.problem}')
    return EXIT_CODES[found.state]


def _without_answer(found: Found) -> dict[str, Any]:
    """Return what `status --json` prints for a site that does not answer."""
    return {
        'state': 'NO ANSWER' if found.state == RUNNING else found.state,
        'pid': found.pid or None,  # 0 stands for a site that is about to write it
        'problem': found.problem,
    }


def _describe(answer: dict[str, Any], found: Found) -> list[str]:
    state = text(answer.get('state', 'running'))
    line = f'The site is {"running" if state == "STARTED" else state.lower()}'
    line += f' (process {found.pid or text(answer.get("pid"))})'
    age, workers = number(answer, 'age'), workers_of(answer)
    if age is not None:
        line += f', for {_age(age)}'
    if workers:
        numbers = {
            text(worker.get('number'))
            for worker in workers
            if worker.get('state') != 'draining'
        }
        count = len(numbers - {'?'})
        line += f': generation {text(answer.get("generation"))}'
        line += f', {plural(count, "worker")}' if count else ''
    lines = [f'{line}.', *(f'Serving on {url}' for url in texts(answer, 'urls'))]
    if workers:
        lines += ['', *_table(workers), '']
    if answer.get('is_crashed'):
        lines.append('It has crashed, and is about to be started again.')
    if answer.get('failure'):
        failure = printable(' '.join(str(answer['failure']).split()))
        lines.append(f'The last graceful restart failed: {failure}')
    if answer.get('requests') or answer.get('calling'):
        waits = what_it_waits_for(answer)
        lines.append(waits[0].upper() + waits[1:])
    return lines if lines[-1] else lines[:-1]


def _table(workers: list[dict[str, Any]]) -> list[str]:
    """Return a heading and a line for each process, in aligned columns."""
    rows = [('WORKER', 'PROCESS', 'STATE', 'GENERATION', 'AGE', 'REQUESTS')]
    for worker in workers:
        name, pid, state, generation = (
            text(worker.get(key, '?')) for key in ('name', 'pid', 'state', 'generation')
        )
        age = number(worker, 'age')
        age_text = '?' if age is None else _age(age)
        rows.append((name, pid, state, generation, age_text, _requests(worker)))
    return in_columns(rows)


def _requests(worker: dict[str, Any]) -> str:
    if not isinstance(worker.get('requests'), list):
        return 'does not answer' if worker.get('state') == 'ready' else '?'
    requests = texts(worker, 'requests')
    if not requests:
        return '0'
    return f'{len(requests)}: {", ".join(requests[:3])}{", …" * (len(requests) > 3)}'


def _age(seconds: float) -> str:
    for unit, length in (('day', 86400), ('hour', 3600), ('minute', 60)):
        if seconds >= 2 * length:
            return plural(int(seconds // length), unit)
    return plural(max(round(seconds), 0), 'second')
