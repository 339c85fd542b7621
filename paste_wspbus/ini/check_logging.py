"""The check of the sections for logging: what `logging.config` would refuse, by section and key."""

from __future__ import annotations

import ast
import configparser
import importlib.util
import logging
import logging.handlers
import os
import re
import sys

from paste_wspbus.errors import ConfigError
from paste_wspbus.ini.mistakes import in_interpolation
from paste_wspbus.values import nearest

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import NoReturn

#: The values that `logging.config` does not interpolate: their % are for records.
_RAW = frozenset(('formatter', key) for key in ('format', 'datefmt', 'style'))

#: The sections that list the names of others, and the prefix of these others.
LISTS = {'loggers': 'logger', 'handlers': 'handler', 'formatters': 'formatter'}

#: The attributes of log records that are made when a record is formatted.
_FORMATTED = ('message', 'asctime')


#: A field without the letter that says how it is written.
_WITHOUT_LETTER = re.compile(
    r'%\(\w+\)(?![#0\- +]*(?:\d+|\*)?(?:\.\d+)?[diouxXeEfFgGcrsa])'
)


class _Zeros(dict[str, int]):
    """The fields of a record: each may be written as a number or as a text."""

    def __missing__(self, name: str) -> int:
        return 0


def is_logging(section: str) -> bool:
    """Whether it is the section of a logger, a handler or a formatter."""
    return section.partition('_')[0] in LISTS.values()


class LoggingCheck:
    """Checks the sections of one file; no handler is made, and no module is imported.

    :param parser: the file, as `logging.config` reads it.
    """

    def __init__(self, file: str, parser: configparser.ConfigParser) -> None:
        self.file, self._parser = file, parser

    def run(self) -> list[str]:
        """Check all sections.

        :returns: warnings.
        :raises ConfigError: if `logging.config` would refuse a section.
        """
        try:
            self._check_values()
            return self._check_all() if self._parser.has_section('loggers') else []
        except configparser.InterpolationError as error:
            raise in_interpolation(self.file, error, self._parser) from None

    def _check_all(self) -> list[str]:
        names = {kind: self._names(kind) for kind in LISTS}
        if 'root' not in names['loggers']:
            self._fail('loggers', 'keys', 'it must contain root')
        warnings: list[str] = []
        for name in names['formatters']:
            warnings += self._check_formatter(f'formatter_{name}')
        for name in names['handlers']:
            self._check_handler(f'handler_{name}', names['formatters'])
            warnings += self._check_folder(f'handler_{name}')
        for name in names['loggers']:
            self._check_logger(f'logger_{name}', name, names['handlers'])
        return warnings

    def _check_values(self) -> None:
        for section in filter(is_logging, self._parser.sections()):
            for key, _ in self._parser.items(section, raw=True):
                raw = (section.partition('_')[0], key) in _RAW
                self._parser.get(section, key, raw=raw)

    def _names(self, kind: str) -> list[str]:
        """Return the names that ``keys`` of [loggers], [handlers] or [formatters] lists."""
        names = _split(self._value(kind, 'keys'))
        for section in (f'{LISTS[kind]}_{name}' for name in names):
            if not self._parser.has_section(section):
                hint = nearest(section, self._parser.sections())
                self._fail(kind, 'keys', f'there is no section [{section}]{hint}')
        return names

    def _check_logger(self, section: str, name: str, handlers: list[str]) -> None:
        for one in _split(self._value(section, 'handlers')):
            if one not in handlers:
                problem = f'[handlers] keys does not list {one!r}'
                self._fail(section, 'handlers', f'{problem}{nearest(one, handlers)}')
        if name != 'root':
            self._value(section, 'qualname')
            propagate = self._parser.get(section, 'propagate', fallback='1')
            if (
                not propagate.strip().isdecimal()
            ):  # logging.config takes no true or false
                self._fail(section, 'propagate', f'{propagate!r} is not 0 or 1')
        self._check_level(section)

    def _check_handler(self, section: str, formatters: list[str]) -> None:
        self._check_class(section, self._value(section, 'class'))
        formatter = self._parser.get(section, 'formatter', fallback='')
        if formatter and formatter not in formatters:
            problem = f'[formatters] keys does not list {formatter!r}'
            hint = nearest(formatter, formatters)
            self._fail(section, 'formatter', f'{problem}{hint}')
        self._check_level(section)
        for key in ('args', 'kwargs'):
            text = self._parser.get(section, key, fallback='()')
            try:
                tree = ast.parse(text, key, 'eval')
            except (SyntaxError, ValueError):
                example = "('site.log', 'a')" if key == 'args' else "{'mode': 'a'}"
                problem = f'it is not Python; write it as in {key} = {example}'
                self._fail(section, key, problem)
            self._check_names_of_sys(section, key, tree)
            self._check_kind(section, key, tree.body)

    def _check_kind(self, section: str, key: str, value: ast.expr) -> None:
        """Check that ``args`` is a tuple, and ``kwargs`` a dictionary."""
        if isinstance(value, (ast.Constant, ast.Name, ast.Attribute)):
            text = ast.unparse(value)
            how = f'({text},)' if key == 'args' else "{'mode': 'a'}"
            kind = 'tuple' if key == 'args' else 'dictionary'
            self._fail(section, key, f'{text} is not a {kind}: write {key} = {how}')

    def _check_names_of_sys(self, section: str, key: str, tree: ast.AST) -> None:
        """Check such names as sys.stderr: `logging` evaluates the value."""
        for node in ast.walk(tree):
            if not (
                isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name)
            ):
                continue
            if node.value.id == 'sys' and not hasattr(sys, node.attr):
                hint = nearest(node.attr, dir(sys))
                self._fail(section, key, f'sys has no {node.attr!r}{hint}')

    def _check_folder(self, section: str) -> Iterator[str]:
        """Refuse a file in a folder that is not there; warn if it may be opened later."""
        args = self._parser.get(section, 'args', fallback='()')
        try:
            path, *more = ast.literal_eval(args)
        except (ValueError, TypeError, LookupError):
            return
        if self._parser.get(section, 'class').endswith('FileHandler'):
            folder = os.path.dirname(path) if isinstance(path, str) else ''
            if folder and not os.path.isdir(folder):
                missing = f'there is no folder {folder}'
                if not (more[2:] or self._parser.has_option(section, 'kwargs')):
                    self._fail(section, 'args', missing)
                yield f'[{section}] args: {missing}'  # perhaps with delay

    def _check_formatter(self, section: str) -> Iterator[str]:
        if self._parser.has_option(section, 'class'):
            self._check_class(section, self._parser.get(section, 'class'))
            return
        style = self._parser.get(section, 'style', raw=True, fallback='%')
        if style not in ('%', '{', '$'):
            self._fail(section, 'style', f'{style!r} is none of %, {{ and $')
        text = self._parser.get(section, 'format', raw=True, fallback='')
        try:
            logging.Formatter(text or None, style=style)  # type: ignore[arg-type]
        except ValueError as error:
            self._fail(section, 'format', str(error))
        if style == '%':
            self._check_percent_signs(section, text)
            record = logging.makeLogRecord({})
            known = [*vars(record), *_FORMATTED, 'request_id']
            for name in re.findall(r'%\(([^)]*)\)', text):
                # A filter or a caller may add others, but their names are no near misses.
                if name in known:
                    continue
                if (hint := nearest(name, known)) or not name.isidentifier():
                    yield f'[{section}] format: log records have no {name!r}{hint}'

    def _check_percent_signs(self, section: str, text: str) -> None:
        """Check what follows each percent sign: `logging` looks only at a record."""
        try:
            text % _Zeros()
        except (TypeError, ValueError) as error:
            bare = _WITHOUT_LETTER.search(text)
            problem = f'{error}; for a percent sign, write %%'
            if bare is not None:
                problem = f'after {bare[0]} there must be a letter: write {bare[0]}s'
            self._fail(section, 'format', problem)

    def _check_level(self, section: str) -> None:
        if self._parser.has_option(section, 'level'):
            level = self._parser.get(section, 'level')
            known = logging.getLevelNamesMapping()
            if level not in known:
                hint = nearest(level.upper(), known)
                self._fail(section, 'level', f'{level!r} is not a level{hint}')

    def _check_class(self, section: str, name: str) -> None:
        """Check that a class exists in `logging`, or that the package of its module does."""
        module, _, rest = name.strip().rpartition('.')
        if module in ('', 'handlers', 'logging', 'logging.handlers'):
            place = logging.handlers if module.endswith('handlers') else logging
            if not hasattr(place, rest):
                others = [f'handlers.{one}' for one in vars(logging.handlers)]
                hint = nearest(name, [*vars(logging), *others])
                problem = f'{place.__name__} has no class {rest!r}{hint}'
                self._fail(section, 'class', problem)
            return
        top = name.strip().partition('.')[0]
        if not hasattr(logging, top) and not _exists(top):
            self._fail(section, 'class', f'{name}: there is no module {top!r}')

    def _value(self, section: str, key: str) -> str:
        if not self._parser.has_section(section):
            hint = nearest(section, self._parser.sections())
            raise ConfigError(self.file, f'there is no section [{section}]{hint}')
        if not self._parser.has_option(section, key):
            self._fail(section, key, 'this key is missing')
        return self._parser.get(section, key)

    def _fail(self, section: str, key: str, problem: str) -> NoReturn:
        raise ConfigError(self.file, problem, section=section, key=key)


def _exists(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ValueError:  # it is imported, but has no spec
        return True


def _split(text: str) -> list[str]:
    return [one.strip() for one in text.split(',') if one.strip()]
