"""The parser of the command line: its options, and what `--help` says of them."""

from __future__ import annotations

import argparse
import sys

from paste_wspbus.command import option_values, without_file
from paste_wspbus.command.arguments import (
    LOG_FILE,
    PID_FILE,
    SUBCOMMANDS,
    SUMMARY,
)
from paste_wspbus.command.terminal import encodable
from paste_wspbus.errors import SettingError, UsageError
from paste_wspbus.exits import DONE

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, NoReturn

    from paste_wspbus.process.options import Options


#: The examples at the end of `--help`.
EXAMPLES = """
examples:
  %(prog)s site.ini --reload             Develop: restart when a file changes
  %(prog)s site.ini start --workers 4    Serve in the background, by 4 processes
  %(prog)s site.ini graceful             Deploy new code, and lose no request"""

EPILOG = '$PASTE_CONFIG_FILE names a file to serve if none is given.'

#: The words of a command line that are no subcommands.
WORDS = {
    'CONFIG_FILE': 'Serve this site, in the foreground',
    'var=value': 'Put this value in the place of each %%(var)s in the file',
}


def make_parser(prog: str) -> argparse.ArgumentParser:
    """Make the parser of the command line; its options have the names of `paster serve`."""

    class Parser(argparse.ArgumentParser):
        def error(self, message: str) -> NoReturn:
            raise UsageError(f'{self.prog}: {option_values.explained(message, self)}')

        def _print_message(self, message: str, file: Any = None) -> None:
            if message:
                super()._print_message(encodable(message, file or sys.stdout), file)

    parser = Parser(
        prog=prog,
        usage=without_file.USAGE + without_file.USAGES,
        description=f'{SUMMARY}.\n{EXAMPLES}',
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        add_help=False,
        allow_abbrev=False,
    )
    parser.add_argument(
        'args', nargs='*', metavar='CONFIG_FILE', help=argparse.SUPPRESS
    )
    texts = {**WORDS, **SUBCOMMANDS, **without_file.HELP}
    for title, subcommands, add_options in GROUPS:
        group = parser.add_argument_group(title)
        # The parser prints them as it prints options, and does not look for them.
        group._group_actions += [
            argparse.Action([], name, help=texts[name]) for name in subcommands
        ]
        add_options(group.add_argument)
    return parser


def parse_options(argv: list[str], prog: str, options: Options) -> None:
    """Parse a command line; --help behind a subcommand prints the help of this one."""
    if not {'-h', '--help'}.isdisjoint(argv):
        from paste_wspbus.command.subcommand_help import print_help, subcommand_of

        if (name := subcommand_of(argv)) is not None:
            print_help(prog, name)
            raise SystemExit(DONE)
    make_parser(prog).parse_intermixed_args(argv, options)


def _add_serving(add: Callable[..., object]) -> None:
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
        help='Use this server of egg:PasteScript instead of [server:main]',
    )
    add(
        '--server-name',
        metavar='SECTION_NAME',
        help='Use [server:SECTION_NAME] (default main)',
    )
    add(
        '--listen',
        action='append',
        metavar='ADDRESS',
        help='Listen at HOST:PORT, unix:PATH or fd://N: for a file without '
        '[server:main], or instead of the address in it',
    )
    add(
        '--ops',
        action='extend',
        type=_ops,
        metavar='ADDRESS',
        help='Answer probes and show what the site does at HOST:PORT or unix:PATH, '
        'instead of ops in the file',
    )


def _ops(text: str) -> list[str]:
    from paste_wspbus.ini.ops import addresses

    found = addresses(text, '--ops')
    if not found:
        raise SettingError('--ops', 'it is empty')
    return found


def _add_production(add: Callable[..., object]) -> None:
    add('--daemon', action='store_true', help='Run in the background')
    add(
        '--pid-file',
        metavar='FILENAME',
        help=f'Lock this file and write the process ID to it (default of a daemon: '
        f'{PID_FILE})',
    )
    add(
        '--log-file',
        metavar='LOG_FILE',
        help=f'Append output to this file (default of a daemon: {LOG_FILE})',
    )
    add('--user', metavar='USERNAME', help='Run as this user (name or number)')
    add('--group', metavar='GROUP', help='Run as this group (name or number)')
    add(
        '--workers',
        type=option_values.workers,
        metavar='N|auto',
        help='Serve from N worker processes; auto: one for each CPU; 0: one process '
        'without a supervisor',
    )
    add(
        '--monitor-restart',
        action='store_true',
        help='Start the site again when it crashes',
    )
    add('--stop-daemon', action='store_true', help='The same as the subcommand stop')
    add(
        '--no-wait',
        action='store_true',
        help='With graceful: return at once, without waiting for the result',
    )
    add(
        '--no-soak',
        action='store_true',
        help='With graceful: do not watch the first new worker before old ones stop',
    )


def _add_development(add: Callable[..., object]) -> None:
    add(
        '--reload',
        action='store_true',
        help='For development: restart the site when a file changes; if it does not '
        'start, the browser shows the traceback',
    )
    add(
        '--reloader',
        choices=('fork', 'child', 'execv'),
        help='How to reload: fork from a process that has imported the packages '
        '(default), start a fresh child process, or replace this process (execv)',
    )
    add(
        '--reload-interval',
        type=option_values.interval,
        metavar='SECONDS',
        help='Look for changes this often if the system does not report them (default 1)',
    )
    add(
        '--reload-poll',
        action='store_true',
        help='Look for changes this often in any case: the system may report none of '
        'network folders and of folders that a virtual machine shares',
    )
    add('-b', '--browser', action='store_true', help='Show the site in a browser')
    add(
        '--check',
        action='store_true',
        help='Look for mistakes; load and serve nothing',
    )
    add(
        '--compose',
        action='store_true',
        help='With --check: load the site, too, and print how long each section takes',
    )


def _add_asking(add: Callable[..., object]) -> None:
    add('--status', action='store_true', help='The same as the subcommand status')
    add(
        '--json',
        action='store_true',
        help='With subcommands that show something: print one JSON document',
    )
    add(
        '--cluster',
        action='store_true',
        help='With graceful: restart one machine of the cluster after the other. With '
        'status and ps: show all machines',
    )
    add(
        '--watch',
        action='store_true',
        help='With status: show it in place, and again and again; keys act on the site',
    )
    add(
        '--interval',
        type=option_values.watch_interval,
        metavar='SECONDS',
        help='With --watch: the time between two looks at the site (default 1)',
    )
    add(
        '--load',
        action='store_true',
        help='With blame: load the site in another process, and show its imports',
    )
    add('--timeline', metavar='FILE', help='With stop: draw the stop (.svg or .html)')


def _add_general(add: Callable[..., object]) -> None:
    add(
        '-h',
        '--help',
        action='help',
        help='Print this help; with a subcommand: its own',
    )
    add('-v', '--verbose', action='count', default=0, help='Log more, show tracebacks')
    add(
        '-q',
        '--quiet',
        action='count',
        default=0,
        help='Print errors and warnings only',
    )
    add('--version', action='store_true', help='Print the version')
    add(
        '--from',
        dest='from_file',
        metavar='FILE|MACHINE',
        nargs='?',
        const='',
        help='Print an .ini that says what this .ini of uWSGI says; with new ini: copy this '
        'sample, or list the samples; with graceful --cluster: begin with this machine',
    )
    add(
        '--completion',
        choices=('bash', 'zsh', 'fish'),
        help='Print a script by which this shell completes the command line',
    )


#: The groups of `--help`: the title, the words or subcommands, and what adds the options.
GROUPS: tuple[tuple[str, tuple[str, ...], Callable[..., None]], ...] = (
    ('serving', tuple(WORDS), _add_serving),
    ('development', ('new', 'plugins', 'setup-app', 'plan'), _add_development),
    (
        'production',
        ('start', 'stop', 'restart', 'graceful', 'drain', 'undrain'),
        _add_production,
    ),
    (
        'asking a running site',
        ('status', 'stacks', 'blame', 'timeline', 'ps'),
        _add_asking,
    ),
    ('general', (), _add_general),
)
