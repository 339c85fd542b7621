"""The subcommand ``stacks``: where the threads of a site are, and which requests they have."""

from __future__ import annotations

import errno
import json

from paste_wspbus.command.finding import RUNNING, NotDone, find, is_gunicorns, why
from paste_wspbus.command.terminal import print_answer
from paste_wspbus.control.client import NoAnswer, ask
from paste_wspbus.control.stacks import process_lines
from paste_wspbus.exits import DONE, IS_NOT_RUNNING
from paste_wspbus.unix.processes import is_stopped

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from paste_wspbus.process.options import Options

#: Seconds that the site has to answer: a supervisor gives its processes a second.
PATIENCE = 5.0


def stacks(options: Options) -> int:
    """Print the stacks of all processes; with -v, all threads and all frames.

    :returns: 0.
    :raises NotDone: with 3 if the site does not run; with 1 if it does not answer.
    :raises NotKnown: (4) if nobody can know whether it runs.
    """
    found = find(options)
    if found.error is not None:
        raise found.error
    if found.state != RUNNING:
        raise NotDone(f'The site is not running: {found.problem}.', IS_NOT_RUNNING)
    if is_gunicorns(found, options):
        raise NotDone(f'gunicorn{found.who} serves the site: it shows no stacks')
    try:
        answer = ask(found.control, 'stacks', PATIENCE)
    except NoAnswer as error:
        if error.code == errno.EPROTO:
            line = f'The site{found.who} refuses: {error.reason}'
        else:
            reason = why(error)
            if found.pid and is_stopped(found.pid):
                reason = 'a signal has stopped it; SIGCONT lets it continue'
            line = f'The site is running{found.who}, but does not answer: {reason}.'
        raise NotDone(line) from None
    processes = _processes(answer)
    if processes is None:  # an earlier version has logged them
        raise NotDone(f'The site{found.who} has logged its stacks: {found.see_log}')
    if options.json:
        print_answer(json.dumps(processes, indent=2), absolute=True)
        return DONE
    full = options.verbosity > 1
    lines = [line for one in processes for line in (*process_lines(one, full), '')]
    print_answer('\n'.join(lines[:-1]), absolute=True)
    return DONE


def _processes(answer: dict[str, Any]) -> list[dict[str, Any]] | None:
    """Return the processes of an answer; None if it has none."""
    processes = answer.get('processes')
    if not isinstance(processes, list):
        return None
    return [one for one in processes if isinstance(one, dict)]
