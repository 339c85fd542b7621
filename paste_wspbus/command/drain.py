"""The subcommands ``drain`` and ``undrain``: health checks take the site out of service."""

from __future__ import annotations

import errno

from paste_wspbus.command.answer import print_answer
from paste_wspbus.command.finding import RUNNING, NotDone, find, why
from paste_wspbus.control.client import NoAnswer, ask
from paste_wspbus.control.status import process_of
from paste_wspbus.exits import DONE, IS_NOT_RUNNING

TYPE_CHECKING = False
if TYPE_CHECKING:
    from paste_wspbus.process.options import Options


def drain(options: Options) -> int:
    """Set or clear ``bus.drained``, as the subcommand says; the site keeps serving.

    :returns: 0, also if the site has the flag already.
    :raises NotDone: with 3 if the site does not run; with 1 if it does not do it.
    :raises NotKnown: (4) if nobody can know whether it runs.
    """
    found, command = find(options), str(options.subcommand)
    if found.error is not None:
        raise found.error
    if found.state != RUNNING:
        raise NotDone(f'The site is not running: {found.problem}.', IS_NOT_RUNNING)
    found.check_answers(f'it has no {command}')
    try:
        answer = ask(found.control, command)
    except NoAnswer as error:
        if error.code == errno.EPROTO:  # an older version, which has no such command
            line = f'The site{found.who} refuses: {error.reason}'
        else:
            reason = why(error, found.pid)
            line = f'The site is running{found.who}, but does not answer: {reason}.'
        raise NotDone(line) from None
    found.pid = process_of(answer) or found.pid
    print_answer(_SAID[command, answer.get('was') is True].format(found.who))
    return DONE


#: From the subcommand, and whether the site was drained before, to the line that is
#: printed.
_SAID = {
    ('drain', False): 'The site{} is drained (bus.drained is true), and keeps serving.',
    ('drain', True): 'The site{} was drained already.',
    ('undrain', True): 'The site{} is not drained any more: bus.drained is false.',
    ('undrain', False): 'The site{} was not drained.',
}
