"""uWSGI's .ini files, read by uWSGI's own rules (its core/ini.c, core/config.c, core/utils.c).

They are no files of configparser: keys may be repeated, a key may stand without a value, a
comment ends no line, ``%d`` and other magic variables are replaced in the text, and there are
loops, conditions and includes.
"""

from __future__ import annotations

import glob
import os
import re
import socket
import time
from typing import NamedTuple

from paste_wspbus.errors import ConfigError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

#: The number of bytes that a file has at most, the number of files that lead to each other,
#: and the number of options.
MAX_LENGTH, DEEPEST, MOST = 1_000_000, 20, 10_000

#: The number of references that one value has at most (one may lead to itself),
#: and the number of characters up to which it may grow.
MOST_REFERENCES, LONGEST = 100, 100_000

#: Marks the name of an environment variable in a value: it keeps its name in the new .ini.
MARK = '\0'

#: The keys that name another .ini; the last two name a PasteDeploy .ini.
INCLUDES = ('ini', 'include', 'inherit', 'config', 'ini-paste', 'ini-paste-logged')

#: The keys that end a loop or a condition.
ENDS = ('end', 'endfor', 'endif', 'end-if', 'end-for')


class Option(NamedTuple):
    """One line: its key, its value, the value as it was written, and where it stands."""

    key: str
    value: str
    written: str
    file: str
    line: int


class UWSGIFile:
    """A uWSGI .ini with all that it includes.

    ``options`` has the options in their order, with their values expanded. An environment
    variable keeps its name, between two `MARK`. ``notes`` says what could not be read, and
    what depends on the machine of this command.

    :param path: the path, perhaps with ``:SECTION``.
    :raises ConfigError: if it cannot be read, or is no .ini with such a section.
    """

    def __init__(self, path: str) -> None:
        self.options: list[Option] = []
        self.notes: list[str] = []
        #: Whether the file is an .ini of PasteDeploy, too.
        self.is_of_paste = False
        self._open: list[str] = []
        #: What a line inside a loop or condition becomes; None outside.
        self._logic: Callable[[Option], Iterator[Option]] | None = None
        self._failed = False
        self._read(path)
        self.options = [self._expanded(one) for one in self.options]

    # -- files --------------------------------------------------------------------

    def _read(self, path: str, near: str = '') -> None:
        path, section = _split(path)
        if near and not os.path.exists(path):
            path = os.path.join(os.path.dirname(near), path)
        if len(self._open) >= DEEPEST or os.path.realpath(path) in self._open:
            raise ConfigError(path, 'it includes itself')
        text = read_text(path)
        refuse_other_kinds(path, text)
        self.is_of_paste |= _is_of_paste(text) and not near
        magic, found, own = magic_of(path, section), False, ''
        self._open.append(os.path.realpath(path))
        for number, line in enumerate(text.split('\n'), 1):
            line = line.strip(' \t\r')
            if line.startswith('['):
                own = substituted(line, magic)[1:-1]
            elif line and line[0] not in ';#':
                if own != section:
                    continue
                found = True
                key, _, written = line.partition('=')
                key = substituted(key, magic).rstrip(' \t')
                written = written.strip(' \t\r')
                value = substituted(written, magic)
                self._add(Option(key, value, written, path, number))
        self._open.pop()
        if not found:
            raise ConfigError(path, _no_section(text, section))

    def _add(self, option: Option) -> None:
        if option.key in ENDS:
            self._logic, self._failed = None, False
            return
        if option.key == 'else':
            failed = self._failed
            self._logic = lambda one: iter([one] if failed else [])
            return
        if self._logic is not None:
            for one in self._logic(option):
                self._keep(one)
            return
        starts = self._loop(option) or self._condition(option)
        if starts is not None:
            self._logic = starts
        else:
            self._keep(option)

    def _keep(self, option: Option) -> None:
        if len(self.options) >= MOST:
            raise ConfigError(option.file, f'it has more than {MOST} options')
        if option.key in ('set', 'set-placeholder', 'set-ph'):
            key, _, value = option.value.partition('=')
            self.options.append(option._replace(key=key.strip(), value=value.strip()))
            return
        self.options.append(option)
        if option.key in INCLUDES:
            path = self._expanded(option).value
            try:
                self._read(path.replace(MARK, ''), option.file)
            except ConfigError as error:
                if error.problem == 'it includes itself':
                    raise
                self.notes.append(f'{option.key} = {path.replace(MARK, "$")}: {error}')

    # -- loops and conditions -----------------------------------------------------

    def _loop(self, option: Option) -> Callable[[Option], Iterator[Option]] | None:
        words: list[str]
        if option.key == 'for':
            words = option.value.split()
        elif option.key == 'for-times':
            words = [
                str(one) for one in range(1, min(number(option.value), MOST + 1) + 1)
            ]
        elif option.key == 'for-glob':
            words = sorted(glob.glob(option.value)) or [option.value]
        elif option.key == 'for-readline':
            words = self._file(option.value).splitlines()
        else:
            return None

        def repeat(one: Option) -> Iterator[Option]:
            for word in words:
                yield one._replace(value=one.value.replace('%(_)', word))

        return repeat

    def _condition(self, option: Option) -> Callable[[Option], Iterator[Option]] | None:
        found = re.fullmatch(r'if-?(not-)?([a-z-]+)', option.key)
        if found is None:
            return None
        holds = self._holds(found[2], option.value)
        if holds is None:
            return None
        name, is_true = option.value.partition('=')[0], holds is not bool(found[1])
        self._failed = not is_true
        self.notes.append(
            f'{option.key} = {option.value} ({option.file}, line {option.line}) counts as '
            f'{str(is_true).lower()}, as here and now'
        )
        value = name
        if found[2] == 'env':
            value = os.environ.get(name, '')
        elif found[2] == 'opt':
            value = self._value_of(name) or ''

        def decide(one: Option) -> Iterator[Option]:
            if is_true:
                yield one._replace(value=one.value.replace('%(_)', value))

        return decide

    def _holds(self, kind: str, what: str) -> bool | None:
        """Whether a condition holds; None if it is none."""
        name, equals, value = what.partition('=')
        if kind == 'env':
            there = os.environ.get(name)
            return there == value if equals else there is not None
        if kind == 'opt':
            known = self._value_of(name)
            return known == value if equals else known is not None
        if kind == 'exists':
            return os.path.exists(what)
        if kind == 'file':
            return os.path.isfile(what)
        if kind in ('dir', 'directory'):
            return os.path.isdir(what)
        if kind == 'hostname':
            return socket.gethostname() == what
        if kind == 'hostname-match':
            try:
                return re.search(what, socket.gethostname()) is not None
            except re.error:
                return False
        if kind == 'plugin':
            return True
        return False if kind == 'reload' else None

    # -- values -------------------------------------------------------------------

    def _value_of(self, key: str) -> str | None:
        """Return the value of a placeholder: as in uWSGI, the first one of that name."""
        return next((one.value for one in self.options if one.key == key), None)

    def _expanded(self, option: Option) -> Option:
        value = self._replaced(option.value, r'\$\(([^()]+)\)', _environment)
        value = self._replaced(value, r'@\(([^()]+)\)', self._at_file)
        return option._replace(
            value=self._replaced(value, r'%\(([^()]+)\)', self._placeholder)
        )

    def _replaced(
        self, value: str, pattern: str, what: Callable[[str], str | None]
    ) -> str:
        """Replace references until none is left that has a value."""
        at = 0
        for _ in range(MOST_REFERENCES):
            found = re.compile(pattern).search(value, at)
            if found is None or len(value) > LONGEST:
                break
            new = what(found[1])
            if new is None:
                at = found.end()
            else:
                value, at = value[: found.start()] + new + value[found.end() :], 0
        return value

    def _at_file(self, name: str) -> str | None:
        if '://' in name:
            self.notes.append(f'@({name}) is not read: put its value there')
            return None
        return self._file(name)

    def _file(self, name: str) -> str:
        try:
            return read_text(name).strip()
        except ConfigError as error:
            self.notes.append(f'@({name}): {error.problem}')
            return ''

    def _placeholder(self, names: str) -> str | None:
        """Return what ``%(processes * 2)`` stands for: words are joined, numbers counted."""
        words = names.split(' ')
        if len(words) == 1:
            value = self._value_of(names)
            return None if value is None else self._plain(value)
        result, sign = '', ''
        for word in filter(None, words):
            if word in ('+', '-', '*', '/'):
                sign = word
                continue
            if word in ('++', '--'):
                result, sign = str(number(result) + (1 if word == '++' else -1)), ''
                continue
            value = word
            if not word.isdecimal():
                value = self._plain(self._value_of(word) or '')
            result = _counted(result, sign, value)
        return result

    def _plain(self, value: str) -> str:
        return self._replaced(value, r'\$\(([^()]+)\)', _environment)


def _counted(left: str, sign: str, right: str) -> str:
    if not sign:
        return left + right
    one, two = number(left), number(right)
    if sign == '/':
        return str(int(one / two)) if two else '0'
    return str({'+': one + two, '-': one - two, '*': one * two}[sign])


def number(text: str) -> int:
    """Read a number as uWSGI does, by atoi(3): what follows the digits is left out."""
    found = re.match(r'\s*[+-]?\d{1,18}', text)
    return int(found[0]) if found else 0


def _environment(name: str) -> str | None:
    """Return the mark of an environment variable; its value if it has a default."""
    variable, dash, default = name.partition('-')
    if not dash:
        return f'{MARK}{name}{MARK}'
    if variable.endswith(':'):
        return os.environ.get(variable[:-1]) or default
    return os.environ.get(variable, default)


def _split(path: str) -> tuple[str, str]:
    """Return the path of a file, and the section that is meant."""
    if os.path.exists(path):
        return path, 'uwsgi'
    file, colon, section = path.rpartition(':')
    return (file, section or 'uwsgi') if colon and file else (path, 'uwsgi')


def read_text(path: str) -> str:
    """Read a text file.

    :raises ConfigError: if it cannot be read, or is no text.
    """
    try:
        with open(path, 'rb') as file:
            data = file.read(MAX_LENGTH + 1)
    except FileNotFoundError:
        raise ConfigError(path, 'there is no such file') from None
    except (OSError, ValueError) as error:
        reason = getattr(error, 'strerror', None) or str(error)
        raise ConfigError(path, reason.lower()) from None
    if len(data) > MAX_LENGTH:
        raise ConfigError(path, f'it has more than {MAX_LENGTH} bytes')
    try:
        text = data.decode('utf-8-sig')
    except UnicodeDecodeError:
        text = '\0'
    if '\0' in text:
        raise ConfigError(path, 'it is no text file in UTF-8')
    return text


def refuse_other_kinds(path: str, text: str) -> None:
    """Refuse the other kinds of files that uWSGI reads.

    :raises ConfigError: if it is one of them.
    """
    first = next((line.strip() for line in text.splitlines() if line.strip()), '')
    kind = ''
    if first.startswith('<'):
        kind = 'xml'
    elif first.startswith('{'):
        kind = 'json'
    elif re.search(r'(?m)^[\w-]+[ \t]*:[ \t]*$', text) and not _sections(text):
        kind = 'yaml'
    if kind:
        raise ConfigError(
            path,
            f'it is {kind.upper()}, and this reads the .ini of uWSGI; '
            f'"uwsgi --{kind} FILE --show-config" prints one of it',
        )


def _sections(text: str) -> list[str]:
    return re.findall(r'(?m)^[ \t]*\[([^\]\n]+)\]', text)


def _is_of_paste(text: str) -> bool:
    kinds = {one.partition(':')[0].strip() for one in _sections(text)}
    return not kinds.isdisjoint(('app', 'composite', 'pipeline', 'filter-app'))


def _no_section(text: str, section: str) -> str:
    if section == 'uwsgi' and _is_of_paste(text):
        return (
            'it has no [uwsgi] section. It is an .ini of PasteDeploy, which wspserve '
            'serves as it is'
        )
    return f'it has no [{section}] section, or an empty one'


def magic_of(path: str, section: str) -> dict[str, str]:
    """Return the magic variables of a file, by their letter (its core/uwsgi.c)."""
    whole = os.path.abspath(path)
    folder, name = os.path.split(whole)
    stem, dot, ending = name.rpartition('.')
    magic = {
        '%': '%',
        '(': '%(',
        'o': path,
        'p': whole,
        's': name,
        'd': folder.rstrip('/') + '/',
        'c': os.path.basename(folder),
        'e': ending if dot else '',
        'n': stem if dot else name,
        'x': '' if section == 'uwsgi' else section,
        'v': os.getcwd(),
        'h': socket.gethostname(),
        't': str(int(time.time())),
        'k': str(os.cpu_count() or 1),
        'u': str(os.getuid()) if hasattr(os, 'getuid') else '',
        'g': str(os.getgid()) if hasattr(os, 'getgid') else '',
    }
    magic.update(zip('0123456789', filter(None, folder.split('/')), strict=False))
    return {**magic, **{one.upper(): magic[one] for one in 'opsdcenx'}}


def substituted(text: str, magic: dict[str, str]) -> str:
    """Replace the magic variables of a text; an unknown one is nothing, as in uWSGI."""
    return re.sub(r'%(.)', lambda found: magic.get(found[1], ''), text)
