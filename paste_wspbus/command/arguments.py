"""The command line: the options and variables of `paster serve`, in any order."""

from __future__ import annotations

import os
import re

from paste_wspbus.errors import UsageError
from paste_wspbus.process.options import Options

SUMMARY = 'Serve the site that a PasteDeploy .ini describes, on a Web Site Process Bus'

#: The subcommands, and their texts in `--help`.
SUBCOMMANDS = {
    'start': 'Run the site in the background; return when it serves',
    'stop': 'Stop the running site',
    'restart': 'Replace the running site by a new process, in the background',
    'graceful': 'Load the code of the running site again; no request is lost',
    'drain': 'Let health checks say that the site is not ready; it keeps serving',
    'undrain': 'Let health checks say again that the site is ready',
    'status': 'Say whether the site is running, and what it does',
    'stacks': 'Show where the threads of the running site are, with their requests',
    'plan': 'Show what would start, in which order, and when it stops; start nothing',
    'blame': 'Show what the start of the running site has waited for',
    'timeline': 'Draw the start, the last graceful restart and a stop: timeline FILE.svg',
    'setup-app': 'Prepare what the application needs: its tables, folders, first users',
}

#: The subcommand that the file may follow, as with paster.
SETUP_APP = 'setup-app'

#: The subcommands that need no file; see `without_file`.
WITHOUT_FILE = ('ps', 'plugins', 'new')

#: The names that paster uses for the files of a daemon, in the working directory.
PID_FILE, LOG_FILE = 'paster.pid', 'paster.log'

#: The beginning of an .ini's URI, as pserve accepts it; a path follows, and perhaps
#: #NAME.
URI = r'(?i)^(?:pastedeploy(?:\+ini)?|file\+ini):(?://)?'


def _has_options(argv: list[str]) -> bool:
    return any(arg.startswith('-') for arg in argv)


def _parse(argv: list[str], prog: str) -> Options:
    options = Options()
    if _has_options(argv):
        # argparse takes as long to import as this package.
        from paste_wspbus.command.parser import parse_options

        parse_options(argv, prog, options)
    else:
        options.args = list(argv)
    return options


def parse(argv: list[str], prog: str) -> Options:
    """Parse the command line, with the additions of the environment and an [exe] section.

    :raises UsageError: if it is wrong.
    """
    if argv[:1] == ['help'] and not os.path.isfile('help'):
        argv = [*argv[1:], '--help']
    options = _parse(argv, prog)
    if options.args and _is_script(options.args[0]):
        from paste_wspbus.command.exe_section import exe_options

        argv = [*exe_options(options.args[0]), *argv]
        options = _parse(argv, prog)
    options.verbosity = 1 + options.verbose - options.quiet
    if os.environ.get('PASTE_DEFAULT_QUIET'):
        options.verbosity = 0
    args = options.args
    if _names_no_file(options, prog):
        return options
    _take_file(options, prog)
    if options.version and not args:
        return options
    _take_subcommand(options, args)
    if options.subcommand is not None or _has_options(argv):
        from paste_wspbus.command.together import check

        check(options)
    options.vars = _parse_vars(args[1:], prog)
    if options.user is not None or options.group is not None:
        from paste_wspbus.unix.users import Identity

        options.identity = Identity(options.user, options.group)
    return options


def _names_no_file(options: Options, prog: str) -> bool:
    """Take the words of a command line that names no file; return whether it is one."""
    if options.cluster or 'graceful' in options.args:  # --from names a machine there
        options.machine, options.from_file = options.from_file, None
    if options.from_file is not None or options.completion is not None:
        from paste_wspbus.command.without_file import take_option

        take_option(options, prog)
        return True
    args = options.args
    if args and args[0] in WITHOUT_FILE and not os.path.isfile(args[0]):
        from paste_wspbus.command.without_file import take

        take(options, prog)
        return True
    return False


def _take_file(options: Options, prog: str) -> None:
    """Take the .ini, which is the first word, or that of the environment.

    :raises UsageError: if there is none.
    """
    args = options.args
    default = os.environ.get('PASTE_CONFIG_FILE')
    if default and (not args or '=' in args[0] or args[0] in SUBCOMMANDS):
        args.insert(0, default)
    if not args and not (options.version or options.status or options.stop_daemon):
        from paste_wspbus.command.unnamed import no_file

        raise no_file(prog)
    if args[1:] and args[0] == SETUP_APP and not os.path.exists(SETUP_APP):
        args[:2] = [args[1], args[0]]
    if args and args[0] in SUBCOMMANDS and not os.path.exists(args[0]):
        if not args[1:]:
            from paste_wspbus.command.unnamed import no_file

            raise no_file(prog, args[0])
        raise UsageError(f'{prog}: the file comes first: {prog} {args[1]} {args[0]}')
    options.config = args[0] if args else ''
    if ':' in options.config:
        options.config = re.sub(URI, '', options.config)


def _take_subcommand(options: Options, args: list[str]) -> None:
    given = [arg for arg in args[1:] if arg in SUBCOMMANDS]
    given += ['status'] * options.status + ['stop'] * options.stop_daemon
    if len(set(given)) > 1:
        raise UsageError(f'give one subcommand only: {", ".join(given)}')
    if given:
        options.subcommand = given[0]
        args[1:] = [arg for arg in args[1:] if arg not in SUBCOMMANDS]
        if given[0] in ('plan', 'timeline'):
            from paste_wspbus.command.subcommands import prepare

            prepare(options, args)
    options.replaces = options.subcommand == 'restart'
    options.daemon = options.daemon or options.subcommand in ('start', 'restart')


def _parse_vars(args: list[str], prog: str) -> dict[str, str]:
    vars = {}
    for arg in args:
        name, equals, value = arg.partition('=')
        # For argparse, an option with a space in it is a value.
        if arg.startswith('-') or not equals or not name:
            from paste_wspbus.command.unnamed import no_word

            raise no_word(prog, arg)
        vars[name] = value
    return vars


def _is_script(path: str) -> bool:
    """Whether the .ini itself was executed: the shell has set $_ to its path."""
    return (
        bool(os.environ.get('_')) and os.environ['_'] == path and os.path.isfile(path)
    )
