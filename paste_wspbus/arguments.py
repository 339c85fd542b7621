"""The command line: `paster serve`'s options and vars, in any order."""

from __future__ import annotations

import os
import re

from paste_wspbus.errors import UsageError
from paste_wspbus.settings import MAX_WORKERS, nearest, worker_count

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable, Sequence
    from typing import NoReturn

    from paste_wspbus.learning import Learner
    from paste_wspbus.plugins.daemon import Identity
    from paste_wspbus.report import Report
    from paste_wspbus.sources import Files

USAGE = (
    '%(prog)s [options] CONFIG_FILE [start|stop|restart|graceful|status] [var=value …]'
)
SUMMARY = 'Serve the site that a PasteDeploy .ini describes, on a Web Site Process Bus'

SUBCOMMANDS = frozenset({'start', 'stop', 'restart', 'graceful', 'status'})

#: paster's names for the files of a daemon, in the working directory.
PID_FILE, LOG_FILE = 'paster.pid', 'paster.log'


class Options:
    """The command line, parsed."""

    args: list[str]
    verbose = 0
    quiet = 0
    app_name: str | None = None
    server: str | None = None
    server_name: str | None = None
    log_file: str | None = None
    pid_file: str | None = None
    daemon = False
    monitor_restart = False
    user: str | None = None
    group: str | None = None
    status = False
    stop_daemon = False
    listen: str | None = None
    #: How many worker processes; None: what the .ini says.
    workers: int | None = None
    #: Whether `graceful` returns at once.
    no_wait = False
    #: Whether `status` prints JSON.
    json = False
    #: Whether the site is restarted when a file of it changes.
    reload = False
    #: 'fork', 'child' or 'execv'; None: the one of the .ini, or fork where it can be.
    reloader: str | None = None
    #: Seconds between looks, where the system does not tell of changes.
    reload_interval = 1.0
    #: Whether a browser shows the site when it serves.
    browser = False
    check = False
    version = False
    #: The first of ``args``, and the others.
    config: str
    vars: dict[str, str]
    #: 0 nothing is printed, 1 the usual, 2 and more: tracebacks, too.
    verbosity: int
    #: One of SUBCOMMANDS.
    subcommand: str | None = None
    #: Whether a site that runs makes way for this one.
    replaces = False
    #: Whether that one is gone.
    took_over = False
    #: Whom --user and --group name.
    identity: Identity | None = None
    #: Where stderr was before --log-file.
    terminal: int | None = None
    #: Whether stderr is the log file now.
    logs = False
    #: Whoever waits for this start.
    report: Report
    #: The signals that came before the site could handle them.
    early: list[int]
    #: What is watched under --reload.
    files: Files | None = None
    #: Globs of files that are not: pserve's ignore_files.
    ignore: Sequence[str] = ()
    #: Notes what a site under --reload is made of.
    learner: Learner | None = None
    #: Whether the site has been started before: errors are looked for in its log.
    later = False


def make_parser(prog: str) -> argparse.ArgumentParser:
    """The command line's parser; its options are spelled as `paster serve`'s."""
    import argparse  # costs as much as all of ours: only where there is an option

    class Parser(argparse.ArgumentParser):
        def error(self, message: str) -> NoReturn:
            raise UsageError(f'{self.prog}: {_explained(message, self)}')

    parser = Parser(
        prog=prog,
        usage=USAGE,
        description=SUMMARY + '.',
        epilog='var=value sets %(var)s in the file. $PASTE_CONFIG_FILE names a file to '
        'serve if none is given.',
        allow_abbrev=False,
    )
    parser.add_argument(
        'args', nargs='*', metavar='CONFIG_FILE', help=argparse.SUPPRESS
    )
    _add_general(parser.add_argument)
    _add_site(parser.add_argument)
    _add_process(parser.add_argument)
    _add_development(parser.add_argument)
    return parser


def _add_general(add: Callable[..., object]) -> None:
    add('-v', '--verbose', action='count', default=0, help='Log more, show tracebacks')
    add('-q', '--quiet', action='count', default=0, help='Print nothing')
    add('--version', action='store_true', help='Print the version')
    add(
        '--check',
        action='store_true',
        help='Look for mistakes; compose and serve nothing',
    )
    add('--status', action='store_true', help='As the subcommand status')
    add('--json', action='store_true', help='status: print one JSON document')
    add('--stop-daemon', action='store_true', help='As the subcommand stop')
    add('--no-wait', action='store_true', help='graceful: ask, and return at once')


def _add_site(add: Callable[..., object]) -> None:
    add(
        '-n',
        '--app-name',
        metavar='NAME',
        help='Load the named application (default main)',
    )
    add(
        '-s',
        '--server',
        metavar='SERVER_TYPE',
        help='Use this server of egg:PasteScript',
    )
    add(
        '--server-name',
        metavar='SECTION_NAME',
        help='Use [server:SECTION_NAME] (default main)',
    )
    add(
        '--listen',
        metavar='ADDRESS',
        help='HOST:PORT, unix:PATH or fd://N: where to listen, '
        'for a file without [server:main], or instead of what that says',
    )


def _add_process(add: Callable[..., object]) -> None:
    add('--daemon', action='store_true', help='Run in the background')
    add(
        '--pid-file',
        metavar='FILENAME',
        help=f'Lock this file and write the process ID to it (a daemon: {PID_FILE})',
    )
    add(
        '--log-file',
        metavar='LOG_FILE',
        help=f'Append output to this file (a daemon: {LOG_FILE})',
    )
    add('--user', metavar='USERNAME', help='Become this user, by name or number')
    add('--group', metavar='GROUP', help='Become this group, by name or number')
    add(
        '--workers',
        type=_workers,
        metavar='N|auto',
        help='Serve from N worker processes, or one per CPU; 0: from one process, '
        'without a supervisor',
    )
    add(
        '--monitor-restart',
        action='store_true',
        help='Start the site again when it crashes',
    )


def _add_development(add: Callable[..., object]) -> None:
    add(
        '--reload',
        action='store_true',
        help='For development: serve the new code when a file has changed, and show '
        'the traceback of what cannot be served',
    )
    add(
        '--reloader',
        choices=('fork', 'child', 'execv'),
        help='How: fork from a process that has imported the packages (default), in a '
        'fresh child process, or by replacing this process',
    )
    add(
        '--reload-interval',
        type=_interval,
        metavar='SECONDS',
        help='Look for changes so often where the system does not tell of them (default 1)',
    )
    add('-b', '--browser', action='store_true', help='Show the site in a browser')


def _interval(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds < float('inf'):
        raise UsageError(f'--reload-interval {text}: a number of seconds above 0')
    return seconds


def _workers(text: str) -> int:
    try:
        return worker_count(text)
    except ValueError:
        raise UsageError(
            f'--workers {text}: a number of workers from 0 to {MAX_WORKERS}, or auto'
        ) from None


def _explained(message: str, parser: argparse.ArgumentParser) -> str:
    unknown = re.match(r'unrecognized arguments: (\S+)', message)
    if not unknown:
        return message
    option = unknown[1].partition('=')[0]
    return f'unknown option {option}{nearest(option, parser._option_string_actions)}'


def _parse(argv: list[str], prog: str) -> Options:
    options = Options()
    if any(arg.startswith('-') for arg in argv):
        make_parser(prog).parse_intermixed_args(argv, options)
    else:
        options.args = list(argv)
    return options


def parse(argv: list[str], prog: str) -> Options:
    """Parse the command line, with what the environment and an [exe] section add.

    :raises UsageError: if it is wrong.
    """
    options = _parse(argv, prog)
    if options.args and _is_script(options.args[0]):
        options = _parse([*_exe_options(options.args[0]), *argv], prog)
    options.verbosity = 1 + options.verbose - options.quiet
    if os.environ.get('PASTE_DEFAULT_QUIET'):
        options.verbosity = 0
    args = options.args
    default = os.environ.get('PASTE_CONFIG_FILE')
    if default and (not args or '=' in args[0] or args[0] in SUBCOMMANDS):
        args.insert(0, default)
    if options.version and not args:
        return options
    if not args and not (options.status or options.stop_daemon):
        usage = USAGE % {'prog': prog}
        raise UsageError(f'{prog}: which file? Usage: {usage}')
    if args[1:] and args[0] in SUBCOMMANDS and not os.path.exists(args[0]):
        raise UsageError(f'{prog}: the file comes first: {prog} {args[1]} {args[0]}')
    options.config = args[0] if args else ''
    _take_subcommand(options, args)
    options.vars = _parse_vars(args[1:], prog)
    if options.user is not None or options.group is not None:
        from paste_wspbus.plugins.daemon import Identity

        options.identity = Identity(options.user, options.group)
    return options


def _take_subcommand(options: Options, args: list[str]) -> None:
    given = [arg for arg in args[1:] if arg in SUBCOMMANDS]
    given += ['status'] * options.status + ['stop'] * options.stop_daemon
    if len(set(given)) > 1:
        raise UsageError(f'one of them at a time: {", ".join(given)}')
    if given:
        options.subcommand = given[0]
        args[1:] = [arg for arg in args[1:] if arg not in SUBCOMMANDS]
    for option, of, said in (
        ('--json', 'status', options.json),
        ('--no-wait', 'graceful', options.no_wait),
    ):
        if said and options.subcommand != of:
            raise UsageError(f'{option} is for the subcommand {of}')
    if options.subcommand == 'graceful' and options.workers is not None:
        raise UsageError('graceful takes the number of workers from the file')
    options.replaces = options.subcommand == 'restart'
    options.daemon = options.daemon or options.subcommand in ('start', 'restart')
    if options.reloader is not None and not options.reload:
        raise UsageError('--reloader says how to --reload, which is missing')
    if options.reload and options.daemon:
        raise UsageError(
            '--reload is for development, in the foreground: leave out --daemon, start '
            'and restart'
        )
    if options.daemon:
        options.pid_file = options.pid_file or PID_FILE
        options.log_file = options.log_file or LOG_FILE
    files = options.pid_file, options.log_file
    if all(files) and len(set(map(os.path.realpath, filter(None, files)))) == 1:
        raise UsageError('--pid-file and --log-file are the same file')


def _parse_vars(args: list[str], prog: str) -> dict[str, str]:
    vars = {}
    for arg in args:
        if arg.startswith('-'):  # argparse takes one that has a space for a value
            option = arg.partition('=')[0]
            known = make_parser(prog)._option_string_actions
            raise UsageError(f'{prog}: unknown option {option}{nearest(option, known)}')
        name, equals, value = arg.partition('=')
        if not equals or not name:
            hint = nearest(arg, SUBCOMMANDS)
            raise UsageError(f'{prog}: {arg!r} is not a variable: NAME=VALUE{hint}')
        vars[name] = value
    return vars


def _is_script(path: str) -> bool:
    """Whether the .ini itself was executed: it is what the shell says it ran."""
    return (
        bool(os.environ.get('_')) and os.environ['_'] == path and os.path.isfile(path)
    )


def _exe_options(path: str) -> list[str]:
    """The options in the [exe] section of an executed .ini, as paster reads them."""
    names = {'here': os.path.dirname(path), '__file__': path}
    options: list[str] = []
    inside = False
    with open(path) as lines:
        for line in map(str.strip, lines):
            if line.startswith('['):
                inside = re.fullmatch(r'\[\s*exe\s*\]', line) is not None
            elif inside and line and line[0] not in '#;':
                options += _exe_option(path, line, names)
    return options


def _exe_option(path: str, line: str, names: dict[str, str]) -> list[str]:
    name, equals, value = map(str.strip, line.partition('='))
    if not equals:
        raise UsageError(f'{path} [exe]: {line!r} has no =')
    if name in ('require', 'plugin'):
        return []
    if name in ('command', 'add'):
        import shlex

        words = shlex.split(value)
        return words[1:] if name == 'command' else words
    return [f'--{name.replace("_", "-")}={value % names}']
