"""The words for a file that cannot be opened or parsed: errors become ConfigErrors.

Only an error needs this module. A supervisor meets such errors, too, and keeps what it has
imported: so this stands apart from `mistakes`.
"""

from __future__ import annotations

import configparser
import os

from paste_wspbus.errors import ConfigError
from paste_wspbus.ini.factories import one_line

TYPE_CHECKING = False
if TYPE_CHECKING:
    import re

#: The number of characters of a wrong line that a message shows.
SHOWN = 60

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


def with_nul(path: str, text: str) -> ConfigError:
    """Return the ConfigError for a text in which NUL stands, as in UTF-16 without its mark."""
    line = text.count('\n', 0, text.index('\0')) + 1
    problem = 'it has the character NUL: it is UTF-16, or no text; save it as UTF-8'
    return ConfigError(path, problem, line=line)


def in_brackets(path: str, text: str, found: re.Match[str]) -> ConfigError:
    """Return the ConfigError for a section that `file.NO_SECTION` has found."""
    line = found[0].strip()
    number = text.count('\n', 0, found.start()) + 1
    if ']' not in line:
        return ConfigError(path, f'{_shown(line)} has no closing bracket', line=number)
    return ConfigError(path, f'{_shown(line)} {IS_INDENTED}', line=number)


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
