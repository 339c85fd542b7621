"""How a subcommand asks a site that must be running, and says in words why none answers."""

from __future__ import annotations

import errno

from paste_wspbus.command.finding import RUNNING, NotDone, find, why
from paste_wspbus.control.client import NoAnswer, ask
from paste_wspbus.exits import IS_NOT_RUNNING

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from paste_wspbus.command.finding import Found
    from paste_wspbus.process.options import Options

#: Seconds that the site has to answer: a supervisor gives its processes a second.
PATIENCE = 5.0

#: The end of a message: what a site of gunicorn lacks.
NO_TIMELINE = 'it has no timeline'


def ask_running(
    options: Options, command: str, lacks: str, otherwise: str = ''
) -> tuple[Found, dict[str, Any]]:
    """Find a running site, and ask it.

    :param command: the word for the control socket.
    :param lacks: what a site of gunicorn lacks, such as `NO_TIMELINE`.
    :param otherwise: what the user can do if the site does not run: a sentence.
    :returns: the site, and its answer; for 'timeline', `control.timeline.lives` reads it.
    :raises NotDone: with 3 if the site does not run; with 1 if it does not answer.
    :raises NotKnown: (4) if nobody can know whether it runs.
    """
    found = find(options)
    if found.error is not None:
        raise found.error
    if found.state != RUNNING:
        line = f'The site is not running: {found.problem}.'
        raise NotDone(f'{line} {otherwise}'.rstrip(), IS_NOT_RUNNING)
    found.check_answers(lacks)
    try:
        return found, ask(found.control, command, PATIENCE)
    except NoAnswer as error:
        if error.code == errno.EPROTO:
            line = f'The site{found.who} refuses: {error.reason}'
        else:
            reason = why(error, found.pid)
            line = f'The site is running{found.who}, but does not answer: {reason}.'
        raise NotDone(line) from None
