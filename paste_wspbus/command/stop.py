"""The subcommand ``stop``: the site stops, or it is killed after its own deadline."""

from __future__ import annotations

from paste_wspbus.command.answer import print_answer
from paste_wspbus.command.finding import DEAD, RUNNING, Found, NotDone, find
from paste_wspbus.command.terminal import print_line
from paste_wspbus.control.stop import clean_up, stop_process, stop_site
from paste_wspbus.exits import DONE, EX_SOFTWARE, FAILED, TERMINATED
from paste_wspbus.unix.pid_lock import PIDLock

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from paste_wspbus.control.stop import Heard
    from paste_wspbus.process.options import Options


def stop(options: Options) -> int:
    """Stop the site.

    :returns: the exit code; it is also 0 if the site does not run.
    :raises WSPBusError: if it cannot be stopped.
    """
    if options.timeline is not None:
        from paste_wspbus.command.timeline import check

        check(options.timeline)  # before anything stops
    found = find(options)
    if found.error is not None:
        raise found.error
    if found.state != RUNNING:
        removed = found.lock is not None and clean_up(found.lock)
        if found.state == DEAD:
            what = '; removed' if removed else ''
            print_answer(f'The site is not running: {found.problem}{what}')
        else:
            print_answer(f'The site is not running ({found.problem}).')
        return DONE
    told: dict[str, Any] = {}
    code = _stop(found, None if options.timeline is None else told.update)
    if options.timeline is not None:
        _draw(options.timeline, told)
    if code == EX_SOFTWARE:
        print_answer(f'The site was ended by force: {found.see_log}.', absolute=True)
        return FAILED
    if code and code != TERMINATED:  # TERMINATED: it was stopped before it had started
        failed = f'The site stopped with failures (exit code {code})'
        print_answer(f'{failed}: {found.see_log}.', absolute=True)
        return FAILED
    print_answer('The site has stopped.')
    return DONE


def _draw(path: str, told: dict[str, Any]) -> None:
    """Draw the stop; a picture that fails is no failure of the stop."""
    from paste_wspbus.command.timeline import NotWritten, save

    try:
        save(path, told)
    except NotWritten as error:
        print_line(str(error), 'stderr')


def _stop(found: Found, heard: Heard | None) -> int | None:
    if found.lock is not None:
        code = stop_site(found.lock, heard)
        clean_up(found.lock)
        return code
    if found.pid is None:
        raise NotDone(
            'The site runs, but does not answer: it is still starting, or it hangs; '
            'without a PID file, nobody knows its process ID'
        )
    code = stop_process(found.control, found.pid, found.entry, heard)
    if found.entry is not None and found.entry.pid_file is not None:
        clean_up(PIDLock(found.entry.pid_file, found.control))
    return code
