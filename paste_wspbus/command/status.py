"""The subcommand ``status``: whether the site runs, and what it does."""

from __future__ import annotations

import json
import sys

from paste_wspbus.command.answer import print_answer
from paste_wspbus.command.finding import (
    DEAD,
    NOT_RUNNING,
    RUNNING,
    UNKNOWN,
    Ambiguous,
    Found,
    find,
    why,
)
from paste_wspbus.command.status_text import describe
from paste_wspbus.control.client import NoAnswer, ask
from paste_wspbus.exits import IS_DEAD, IS_NOT_RUNNING, IS_RUNNING, IS_UNKNOWN
from paste_wspbus.unix.processes import memory_of, why_stopped

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from paste_wspbus.process.options import Options

#: The state of a site whose server is gunicorn, which reports nothing else.
GUNICORNS = 'RUNNING BY GUNICORN'

#: Seconds that a site has to say what it knows of all machines: its engine may be slow.
PATIENCE = 8.0

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
    more = {'machines': True, 'timeout': PATIENCE} if options.cluster else {}
    found, answer = look(options, **more)
    if options.json:
        told = json.dumps(answer or _without_answer(found), indent=2)
        print_answer(told, absolute=True)
    elif answer and options.cluster:
        from paste_wspbus.command.cluster_text import describe as describe_cluster

        lines = describe_cluster(answer.get('cluster'))
        print_answer('\n'.join(line.text for line in lines), absolute=True)
    elif answer:
        lines = describe(answer, found.pid, folds=sys.stdout.isatty())
        print_answer('\n'.join(line.text for line in lines))
    else:
        print_answer(without_answer(found))
    return EXIT_CODES[found.state]


def look(options: Options, **more: Any) -> tuple[Found, dict[str, Any]]:
    """Find the site, and ask for its status.

    :param more: other arguments of `control.client.ask`.
    :returns: what was found, and the answer; {} if there is none, and ``problem`` says why.
    """
    found = find(options)
    answer: dict[str, Any] = {}
    if found.state == RUNNING and not found.problem:
        try:
            answer = ask(found.control, 'status', **more)
        except NoAnswer as error:
            found.problem = why(error, found.pid)
    if found.state == RUNNING and found.problem and found.is_gunicorns:
        found.state, found.problem = GUNICORNS, 'gunicorn reports nothing else'
    if answer:
        # This process looks itself: in a busy site, the answer would wait for the GIL.
        answer.setdefault('rss', memory_of(found.pid) if found.pid else None)
    elif found.state == RUNNING and found.pid:
        found.problem = why_stopped(found.pid) or found.problem
    return found, answer


def without_answer(found: Found) -> str:
    """Return what `status` prints of a site that has not answered."""
    if found.state == RUNNING:
        return f'The site is running{found.who}, but does not answer: {found.problem}.'
    if found.state == GUNICORNS:
        return f'The site is running{found.who}: {found.problem}.'
    if found.state == NOT_RUNNING:
        return f'The site is not running ({found.problem}).'
    if found.state == DEAD:
        return f'The site is dead: {found.problem}'
    if isinstance(found.error, Ambiguous):
        return f'It is not known which site is meant: {found.problem}'
    return f'It is not known whether the site runs: {found.problem}'


def _without_answer(found: Found) -> dict[str, Any]:
    """Return what `status --json` prints for a site that does not answer."""
    return {
        'state': 'NO ANSWER' if found.state == RUNNING else found.state,
        'pid': found.pid or None,  # 0: the site is about to write its process ID
        'problem': found.problem,
    }
