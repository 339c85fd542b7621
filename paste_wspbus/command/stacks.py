"""The subcommand ``stacks``: where the threads of a site are, and which requests they have."""

from __future__ import annotations

import json

from paste_wspbus.command.answer import print_answer
from paste_wspbus.command.asking import ask_running
from paste_wspbus.command.finding import NotDone
from paste_wspbus.control.stacks import process_lines
from paste_wspbus.exits import DONE

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from paste_wspbus.process.options import Options


def stacks(options: Options) -> int:
    """Print the stacks of all processes; with -v, all threads and all frames.

    :returns: 0.
    :raises NotDone: with 3 if the site does not run; with 1 if it does not answer.
    :raises NotKnown: (4) if nobody can know whether it runs.
    """
    found, answer = ask_running(options, 'stacks', 'it shows no stacks')
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
