"""What `--help` says behind a subcommand: its own usage, options and an example."""

from __future__ import annotations

import argparse
import textwrap

from paste_wspbus.command import without_file
from paste_wspbus.command.arguments import SUBCOMMANDS
from paste_wspbus.command.parser import make_parser

#: The options that say which site is meant, and those that each command line may have.
_SITE = ('--app-name', '--server-name', '--pid-file', '--user')
_ANY = ('--help', '--verbose', '--quiet')

#: The options that say how a site is served.
_SERVING = ('--server', '--listen', '--ops', '--workers')
_DAEMON = (*_SERVING, '--log-file', '--group', '--monitor-restart')

#: Options whose text is another one here: from the option, and perhaps the subcommand.
_TEXTS = {
    '--json': 'Print one JSON document',
    '--help': 'Print this help',
    'graceful --cluster': 'Restart one machine of the cluster after the other',
    'graceful --from': 'With --cluster: begin with this machine',
    'status --cluster': 'Show all machines of the cluster',
    'ps --cluster': 'Show all machines of the cluster',
    'new --from': 'With ini: copy this sample, or list the samples',
}

#: The same, where a site that runs is meant.
_FINDING = {
    '--app-name': 'The site that serves this application (default main)',
    '--server-name': 'The site that uses [server:SECTION_NAME] (default main)',
    '--pid-file': 'The site that has this PID file',
    '--user': 'Look for the sites of this user, too (name or number)',
}

#: From each subcommand to what may follow it, its own options, and an example: what
#: follows the name of the program, and what that does.
OF: dict[str, tuple[str, tuple[str, ...], str, str]] = {
    'start': (
        '[var=value …]',
        (*_SITE, *_DAEMON),
        'site.ini start --workers 4',
        'Serve in the background, by 4 processes',
    ),
    'stop': (
        '',
        (*_SITE, '--timeline'),
        'site.ini stop --timeline stop.svg',
        'Stop the site, and draw what it waited for',
    ),
    'restart': (
        '[var=value …]',
        (*_SITE, *_DAEMON),
        'site.ini restart',
        'Load the new code, then stop the old process',
    ),
    'graceful': (
        '',
        (*_SITE, '--no-wait', '--no-soak', '--cluster', '--from'),
        'site.ini graceful && echo deployed',
        'Exit with 0 if the new code serves',
    ),
    'drain': (
        '',
        _SITE,
        'site.ini drain',
        'Before this machine is taken out of the balancer',
    ),
    'undrain': ('', _SITE, 'site.ini undrain', 'The balancer may use it again'),
    'status': (
        '',
        (*_SITE, '--json', '--cluster', '--watch', '--interval'),
        'site.ini status --watch',
        'Show it in place, each second',
    ),
    'stacks': (
        '',
        (*_SITE, '--json'),
        'site.ini stacks',
        'Find the request that hangs',
    ),
    'plan': (
        '[var=value …]',
        ('--app-name', '--server-name', *_SERVING, '--json'),
        'site.ini plan',
        'Check the order before the first start',
    ),
    'blame': (
        '',
        (*_SITE, '--load', '--json'),
        'site.ini blame --load',
        'Find the slowest import, and start nothing',
    ),
    'timeline': (
        'FILE',
        (*_SITE, '--json'),
        'site.ini timeline site.svg',
        'Draw the site that runs',
    ),
    'setup-app': (
        '[var=value …]',
        ('--app-name', '--user', '--group'),
        'site.ini setup-app',
        'Before the first start',
    ),
    'ps': ('', ('--cluster', '--json'), 'ps', 'List the sites of this user'),
    'plugins': (
        '[NAME]',
        ('--json',),
        'plugins cron',
        'Print the keys of cron, and a section to copy',
    ),
    'new': (
        'plugin NAME | site NAME | ini [FILE]',
        ('--from',),
        'new ini --from shop',
        'Copy the sample shop',
    ),
}


def subcommand_of(argv: list[str]) -> str | None:
    """Return the first word of a command line that is a subcommand; None if there is none."""
    return next((word for word in argv if word in OF), None)


def options_of(name: str) -> set[str]:
    """Return the options that a subcommand takes, by their long names."""
    return {*OF[name][1], *_ANY}


def print_help(prog: str, name: str) -> None:
    """Print the help of one subcommand."""
    follows, _, call, does = OF[name]
    kept = options_of(name)
    parser = make_parser(prog)
    actions = [one for one in parser._actions if kept & {*one.option_strings}]
    actions.sort(key=lambda one: bool({*_ANY} & {*one.option_strings}))
    finds = '--pid-file' in kept and not {*_SERVING} & kept
    texts = {**_TEXTS, **_FINDING} if finds else _TEXTS
    for action in actions:
        option = action.option_strings[-1]
        said = texts.get(f'{name} {option}') or texts.get(option) or str(action.help)
        said = said.removeprefix(f'With {name}: ')
        action.help = said[:1].upper() + said[1:]
        if isinstance(action.metavar, str) and '|MACHINE' in action.metavar:
            action.metavar = 'SAMPLE' if name == 'new' else 'MACHINE'
    parser._action_groups = []
    parser.add_argument_group('options')._group_actions += actions
    file = '' if name in without_file.HELP else 'CONFIG_FILE '
    parser.usage = ' '.join(f'%(prog)s {file}{name} [options] {follows}'.split())
    text = '\n'.join(
        textwrap.wrap({**SUBCOMMANDS, **without_file.HELP}[name] + '.', 78)
    )
    parser.description = f'{text}\n\nexample:\n  %(prog)s {call}\n      {does}'
    parser.epilog = f'"{prog} --help" lists the other subcommands and options.'
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.print_help()
