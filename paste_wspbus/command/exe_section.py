"""The section [exe] of an .ini that was executed itself: the command line that it stands for."""

from __future__ import annotations

import os
import re

from paste_wspbus.errors import UsageError


def exe_options(path: str) -> list[str]:
    """Return the options in the [exe] section of an executed .ini, as paster reads them."""
    names = {'here': os.path.dirname(path), '__file__': path}
    options: list[str] = []
    inside = False
    with open(path) as lines:
        for line in map(str.strip, lines):
            if line.startswith('['):
                inside = re.fullmatch(r'\[\s*exe\s*\]', line) is not None
            elif inside and line and line[0] not in '#;':
                options += _option(path, line, names)
    return options


def _option(path: str, line: str, names: dict[str, str]) -> list[str]:
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
