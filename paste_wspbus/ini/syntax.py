"""The words for a file that cannot be opened or parsed: errors become ConfigErrors.

Only an error needs this module. A supervisor meets such errors, too, and keeps what it has
imported: so this stands apart from `mistakes`.
"""

from __future__ import annotations

import configparser
import os
import re

from paste_wspbus.errors import ConfigError
from paste_wspbus.ini.factories import one_line

#: The number of characters of a wrong line that a message shows.
SHOWN = 60

#: The line of a section that configparser takes for something else: without its closing
#: bracket, or indented, so that it is a part of the value above.
NO_SECTION = (
    r'(?m)^\[[^\]\n]*$|'
    r'^[ \t]+\[(app|composite?|pipeline|filter|filter-app|server|plugin|wspbus):.+\]'
    r'[ \t]*([;#].*)?$'
)

#: The problem of an indented section or key: it belongs to the value above it.
IS_INDENTED = (
    'is indented, and so it belongs to the value above: remove the spaces before it'
)


def in_reading(path: str, error: Exception) -> ConfigError:
    """Return the ConfigError for an error of opening or parsing a file."""
    if isinstance(error, FileNotFoundError):
        from paste_wspbus.ini.hints import as_elsewhere, file_hint

        name = os.path.basename(path)
        more = as_elsewhere(name) or file_hint(name, os.path.dirname(path))
        return ConfigError(path, f'there is no such file{more}')
    if isinstance(error, IsADirectoryError):
        return ConfigError(path, 'it is a directory, not an .ini file')
    if isinstance(error, PermissionError):
        return ConfigError(path, 'permission denied')
    if isinstance(error, OSError):
        return ConfigError(path, error.strerror or str(error))
    if isinstance(error, UnicodeDecodeError):
        return _in_decoding(path, error)
    if isinstance(error, ValueError):  # of stat(2)
        return ConfigError(path, 'no name of a file has the character NUL')
    if isinstance(error, configparser.DuplicateSectionError):
        problem = f'the file has this section twice (line {error.lineno})'
        return ConfigError(path, problem, section=error.section)
    if isinstance(error, configparser.DuplicateOptionError):
        problem = f'the section has this key twice (line {error.lineno})'
        return ConfigError(path, problem, section=error.section, key=error.option)
    if isinstance(error, configparser.MissingSectionHeaderError):
        problem = f'{_shown(error.line)} stands before the first [section]'
        return ConfigError(
            path, f'{problem}: this is not an .ini file', line=error.lineno
        )
    if isinstance(error, configparser.ParsingError) and error.errors:
        number, line = error.errors[0]
        problem = f'{_shown(_unquoted(line))} is neither a [section] nor KEY = VALUE'
        return ConfigError(path, problem, line=number)
    return ConfigError(path, f'it is not an .ini file: {one_line(error)}')


def _in_decoding(path: str, error: UnicodeDecodeError) -> ConfigError:
    if error.object[:2] in (b'\xff\xfe', b'\xfe\xff'):
        is_32 = error.object[2:4] == b'\0\0'
        return ConfigError(path, f'it is UTF-{32 if is_32 else 16}: save it as UTF-8')
    line = error.object.count(b'\n', 0, error.start) + 1
    wrong = error.object[error.start]
    problem = f'the byte 0x{wrong:02x} is not {error.encoding}: save the file as UTF-8'
    return ConfigError(path, problem, line=line)


def check_text(path: str, text: str) -> None:
    """Check what configparser would misunderstand.

    :raises ConfigError: for NUL, as in UTF-16 without its mark, and for `NO_SECTION`.
    """
    if '\0' in text:
        problem = 'it has the character NUL: it is UTF-16, or no text; save it as UTF-8'
        raise ConfigError(path, problem, line=_line_of(text, text.index('\0')))
    found = re.search(NO_SECTION, text)
    if found is not None:
        line = found[0].strip()
        what = 'has no closing bracket' if ']' not in line else IS_INDENTED
        number = _line_of(text, found.start())
        raise ConfigError(path, f'{_shown(line)} {what}', line=number)


def _line_of(text: str, at: int) -> int:
    return text.count('\n', 0, at) + 1


def _unquoted(line: str) -> str:
    """Return the line; configparser keeps its repr()."""
    import ast  # only a few mistakes need it

    try:
        return str(ast.literal_eval(line))
    except (SyntaxError, ValueError):
        return line


def _shown(line: str) -> str:
    line = line.strip()
    return repr(line if len(line) <= SHOWN else f'{line[: SHOWN - 1]}…')
