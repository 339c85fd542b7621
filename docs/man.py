"""Writes docs/wspserve.1: the manual page of the command.

    python docs/man.py [FILE]

reads subcommands and options from the parser of the command line. The package must be
installed.
"""

import argparse
import sys
import textwrap
from pathlib import Path

from paste_wspbus import exits
from paste_wspbus.command import parser, without_file
from paste_wspbus.command.arguments import LOG_FILE, PID_FILE, SUMMARY

PAGE = Path(__file__).resolve().parent / 'wspserve.1'
PROG = 'wspserve'

DESCRIPTION = (
    f'{PROG} takes the place of "paster serve". All parts of the site start in order and '
    'stop in reverse order. The file is an .ini of PasteDeploy: it names the application, '
    'the server and the plugins.',
    'Without a subcommand, the site runs in the foreground, and Ctrl-C stops it. '
    'Subcommands find a running site by its .ini, from any folder.',
)

#: The exit codes that a script may ask for.
EXIT_CODES = (
    (
        exits.DONE,
        'The site has started and stopped without failures; or the command has succeeded.',
    ),
    (exits.FAILED, 'The site did not start, or it has stopped with failures.'),
    (exits.USAGE, 'The command line or the configuration is wrong.'),
    (exits.DOES_NOT_DIE, 'stop: the process does not end, not even after SIGKILL.'),
    (exits.NOT_PERMITTED, 'stop: the process belongs to another user.'),
    (exits.EX_SOFTWARE, 'The site was ended by force, after its deadline.'),
    (exits.INTERRUPTED, 'Ctrl-C came before the site could handle it.'),
    (exits.TERMINATED, 'SIGTERM came before the site could handle it.'),
)

OF_STATUS = (
    f'status has the codes of the Linux Standard Base: {exits.IS_RUNNING} the site is running, '
    f'{exits.IS_DEAD} it is dead, and its PID file exists, {exits.IS_NOT_RUNNING} it is not '
    f'running, {exits.IS_UNKNOWN} unknown.'
)

ENVIRONMENT = (
    ('PASTE_CONFIG_FILE', 'The file to serve if the command line names none.'),
    (
        'PASTE_DEFAULT_QUIET',
        'If it is not empty, only errors and warnings are printed.',
    ),
)

FILES = (
    (
        PID_FILE,
        'The process ID of a daemon, if neither --pid-file nor the .ini names one.',
    ),
    (LOG_FILE, 'Its output, if neither --log-file nor the .ini names one.'),
)


def escaped(text):
    """Return a text as troff prints it, letter by letter."""
    text = text.replace('\\', '\\e').replace('-', '\\-').replace('…', '...')
    return '\n'.join(
        f'\\&{line}' if line.startswith(('.', "'")) else line
        for line in text.split('\n')
    )


def literal(text):
    """Return lines that are not filled."""
    return ['.nf', escaped(text), '.fi']


def filled(text):
    """Return a text in short lines, which troff fills anew."""
    lines = textwrap.wrap(text, 72, break_long_words=False, break_on_hyphens=False)
    return escaped('\n'.join(lines))


def entry(head, text):
    """Return an item of a list; its head has its markup already."""
    return ['.TP', head, filled(text)]


def bold(text):
    """Return a text in bold."""
    return f'\\fB{escaped(text)}\\fR'


def value_of(action):
    """Return what follows an option: its value, in italics, or its choices."""
    if action.nargs == 0:
        return ''
    if action.choices:
        return ' ' + '|'.join(map(bold, action.choices))
    return f' \\fI{escaped(action.metavar or action.dest.upper())}\\fR'


def section(group):
    """Return the section of a group of `--help`; argparse has groups that print nothing."""
    shown = [one for one in group._group_actions if one.help != argparse.SUPPRESS]
    if shown:
        yield f'.SH {group.title.upper()}'
    for action in shown:
        names = action.option_strings or [action.dest]
        value = value_of(action) if action.option_strings else ''
        head = ', '.join(bold(name) + value for name in names)
        yield from entry(head, f'{action.help % {}}.')


def page():
    """Return the page, in the macros of man(7)."""
    made = parser.make_parser(PROG)
    usages = (without_file.USAGE + without_file.USAGES) % {'prog': PROG}
    examples = parser.EXAMPLES % {'prog': PROG}
    lines = [
        '.\\" docs/man.py writes this page from the parser of the command line.',
        f'.TH {PROG.upper()} 1 "" "paste_wspbus" "User Commands"',
        '.ad l',
        '.nh',
        '.SH NAME',
        f'{PROG} \\- {filled(SUMMARY[0].lower() + SUMMARY[1:])}',
        '.SH SYNOPSIS',
        *literal('\n'.join(line.strip() for line in usages.splitlines())),
        '.SH DESCRIPTION',
        filled(DESCRIPTION[0]),
        '.PP',
        filled(DESCRIPTION[1]),
        '.SH EXAMPLES',
    ]
    for line in examples.strip().splitlines()[1:]:
        call, _, text = line.strip().partition('   ')
        lines += entry(bold(call), f'{text.strip()}.')
    for group in made._action_groups:
        lines += section(group)
    lines.append('.SH EXIT STATUS')
    for code, text in EXIT_CODES:
        lines += entry(bold(str(code)), text)
    lines += ['.PP', filled(OF_STATUS), '.SH ENVIRONMENT']
    for name, text in ENVIRONMENT:
        lines += entry(bold(name), text)
    lines.append('.SH FILES')
    for name, text in FILES:
        lines += entry(bold(name), text)
    return '\n'.join(lines) + '\n'


if __name__ == '__main__':
    Path(sys.argv[1] if sys.argv[1:] else PAGE).write_text(page())
