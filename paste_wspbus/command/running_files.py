"""The PID file and the log file of the site that runs: `start` and `restart` keep them."""

from __future__ import annotations

from paste_wspbus.command import finding
from paste_wspbus.command.arguments import PID_FILE
from paste_wspbus.command.finding import NotDone
from paste_wspbus.command.terminal import print_line
from paste_wspbus.control.client import NoAnswer, ask
from paste_wspbus.values import named_path

TYPE_CHECKING = False
if TYPE_CHECKING:
    from paste_wspbus.command.finding import Found
    from paste_wspbus.process.launch import Launch
    from paste_wspbus.process.options import Options


def look_for_site(launch: Launch, wanted: dict[str, str | None]) -> str | None:
    """Look for the site that runs, and for its files; set those of the options.

    :param wanted: the files that [wspbus:main] names.
    :returns: a line that reports that the site runs already, without a PID file.
    :raises NotKnown: if it is not known which running site is meant.
    :raises NotDone: if another site has the PID file, or if the running site has none.
    """
    options = launch.options
    found = finding.find(options, exactly=True, settings=wanted)
    _check(found, options, wanted)
    if found.entry is None:
        if isinstance(found.error, finding.NotKnown) and options.verbosity > 0:
            stops = ', and stops no other process' if options.replaces else ''
            line = f'{found.error}. `{options.subcommand}` starts it now{stops}'
            print_line(line, 'stderr', level=30)
        return None  # the lock of the PID file decides
    if found.lock is None:
        return _runs_without_pid_file(found, options)
    named, held = options.pid_file or wanted.get('pid_file'), found.lock.path
    if found.state == finding.RUNNING and named not in (None, held):
        wanted['pid_file'] = held
        if found.entry.named_pid_file == named_path(str(named)):
            # A deployment has changed a link in the name: the file is where it was made.
            options.named_pid_file = named
        elif options.replaces:
            raise NotDone(
                f'The site{found.who} has another PID file, {held}: stop it, and start '
                'it again'
            )
    if options.pid_file is not None:
        options.pid_file = held
        return None
    log_file = found.entry.log_file if finding.is_own(found.entry.owner) else None
    launch.found_files = [held, log_file or '']
    return None


def _check(found: Found, options: Options, wanted: dict[str, str | None]) -> None:
    """Raise an error if it is not certain which site runs, or if it can never answer."""
    if found.other:
        file = options.pid_file or wanted.get('pid_file') or PID_FILE
        raise NotDone(
            f'{file} is that of {found.other}{found.who}: name another one by --pid-file'
        )
    if isinstance(found.error, finding.Ambiguous):
        raise found.error
    if isinstance(found.error, finding.Blind):
        raise NotDone(str(found.error))
    if found.lock is None or not options.replaces:
        found.check_answers()


def _runs_without_pid_file(found: Found, options: Options) -> str:
    if options.replaces and found.unlocked:
        raise NotDone(
            f'The site is running{found.who}, but {found.unlocked} is not its lock any '
            'more: stop it, and start it again'
        )
    if options.replaces:
        raise NotDone(
            f'The site is running{found.who} without a PID file, so restart cannot '
            'replace it: use graceful, or stop it first'
        )
    line = f'The site is running already{found.who}.'
    if found.is_gunicorns:
        return line
    reason = 'it is still starting, or it hangs'
    try:
        state = ask(found.control, 'status').get('state')
    except NoAnswer as error:
        state, reason = None, finding.why(error, found.pid)
    if state != 'STARTED':
        raise NotDone(f'The site is running{found.who}, but does not answer: {reason}')
    return line
