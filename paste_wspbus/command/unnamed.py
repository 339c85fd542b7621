"""A command line that names no file, or has one word too many: hints on what was meant."""

from __future__ import annotations

import os
import re
import shlex
from glob import glob

from paste_wspbus.command.arguments import SUBCOMMANDS, WITHOUT_FILE
from paste_wspbus.command.option_values import near
from paste_wspbus.command.parser import make_parser
from paste_wspbus.command.without_file import USAGE, needs_no_file
from paste_wspbus.errors import UsageError
from paste_wspbus.values import nearest

#: The beginning of a section that can be served. alembic.ini and tox.ini have none.
APPLICATION = rb'(?m)^(?:\xef\xbb\xbf)?\[(?:app|application|composite|composit|pipeline|filter-app)[:\]]'

#: The number of bytes in which it is looked for, and the number of files that a line names.
LOOKED_AT, NAMED = 100_000, 5


def no_file(prog: str, subcommand: str = '') -> UsageError:
    """Return the error for a command line without a file: it names those of this folder.

    :param subcommand: what the command line has in its place; '' if it has nothing.
    """
    said = f'{prog}: no file is named'
    files = _ini_files()
    sites = [file for file in files if _has_application(file)]
    if sites:
        be = 'are' if len(sites) > 1 else 'is'
        call = f'{prog} {shlex.quote(sites[0])} {subcommand}'.rstrip()
        return UsageError(f'{said}. Here {be} {_list(sites)}: {call}')
    usage = f'Usage: {USAGE % {"prog": prog}}; {prog} --help explains it'
    if files:
        return UsageError(f'{said}, and no application is in {_list(files)}. {usage}')
    return UsageError(
        f'{said}, and this folder has no .ini: {prog} new ini makes one. {usage}'
    )


def no_word(prog: str, word: str) -> UsageError:
    """Return the error for a word behind the file: no subcommand, option or variable."""
    if word.startswith('-'):
        option = word.partition('=')[0]
        hint = near(option, make_parser(prog))
        return UsageError(f'{prog}: unknown option {option}{hint}')
    if word in WITHOUT_FILE:
        return needs_no_file(word, prog)
    hint = '' if word.endswith('.ini') else nearest(word, SUBCOMMANDS)
    if word == 'reload':
        hint = "; 'graceful' loads the new code of a running site, --reload is for development"
    if os.path.isfile(word):
        hint = f'; the file comes first: {prog} {shlex.quote(word)}'
    problem = f'{word!r} is neither a subcommand nor a variable (NAME=VALUE)'
    return UsageError(f'{prog}: {problem}{hint}')


def _list(files: list[str]) -> str:
    more = len(files) - NAMED
    return ', '.join(files[:NAMED]) + (f' and {more} more' if more > 0 else '')


def _ini_files() -> list[str]:
    """Return the .ini files of this folder: not the hidden ones, nor what looks like an option."""
    return sorted(filter(os.path.isfile, glob('[!.-]*.ini')))


def _has_application(file: str) -> bool:
    try:
        with open(file, 'rb') as opened:
            return re.search(APPLICATION, opened.read(LOOKED_AT)) is not None
    except OSError:
        return False
