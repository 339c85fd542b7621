"""The handlers of the .ini's logging sections, as far as a supervisor can use them itself."""

from __future__ import annotations

import ast
import configparser
import contextlib
import inspect
import locale
import logging
import logging.config
import logging.handlers
import os
import stat
import sys

from paste_wspbus.plugins.sitelog import SafeFormatter
from paste_wspbus.unix.exposed import open_or_make

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from typing import Any, TextIO

#: The logger of the supervisor's lines, and so of everything that this module sets up.
_OURS = 'paste_wspbus'

#: The handlers in whose place a supervisor uses `AppendHandler`.
_FILES: dict[str, Any] = {
    'FileHandler': logging.FileHandler,
    'handlers.RotatingFileHandler': logging.handlers.RotatingFileHandler,
    'handlers.TimedRotatingFileHandler': logging.handlers.TimedRotatingFileHandler,
    'handlers.WatchedFileHandler': logging.handlers.WatchedFileHandler,
}
_JSON = 'paste_wspbus.plugins.json_log.JsonFormatter'
_FORMATTERS = frozenset({'', 'Formatter', 'logging.Formatter', _JSON})

#: The arguments of a `StreamHandler`, from the text of its ``args``.
_STREAM_ARGS = {
    '()': '(sys.stderr,)',
    '(sys.stderr,)': '(sys.stderr,)',
    '(sys.stdout,)': '(sys.stdout,)',
}

#: The name of a handler and of a formatter. A supervisor uses them if it cannot use those
#: of the site.
_STDERR = 'stderr of wspserve'


class AppendHandler(logging.Handler):
    """Appends each record to a file, which is open only meanwhile.

    So logrotate(8), or a handler of a worker, may rename the file at any time, and a
    forked process inherits no descriptor. The site's user opens the file, for the
    supervisor has changed its user before. If it cannot be written, or is no regular
    file (the reader of a FIFO may stop reading), the record goes to standard error,
    whose `Output` never waits.

    :param path: the file; the working folder does not matter later.
    """

    def __init__(self, path: str, encoding: str | None = None) -> None:
        super().__init__()
        #: The name of this attribute is that of `logging.FileHandler`.
        self.baseFilename = os.path.abspath(path)
        self._encoding = encoding or locale.getpreferredencoding(False)

    def emit(self, record: logging.LogRecord) -> None:
        """Append a record."""
        try:
            text = f'{self.format(record)}\n'
            stream = self._append(text.encode(self._encoding, 'backslashreplace'))
            if stream is not None:
                stream.write(text)
                stream.flush()
        except Exception:
            self.handleError(record)

    def _append(self, data: bytes) -> TextIO | None:
        """Write to the file, or return the stream that takes the text in its place."""
        flags = os.O_WRONLY | os.O_APPEND | os.O_NONBLOCK
        try:
            fd, _ = open_or_make(self.baseFilename, flags)
        except OSError:
            return sys.stderr
        try:
            status = os.fstat(fd)
            if not stat.S_ISREG(status.st_mode):
                return _stream_of(status)
            while data:
                data = data[os.write(fd, data) :]
        except OSError:
            return sys.stderr
        finally:
            os.close(fd)
        return None


def _stream_of(status: os.stat_result) -> TextIO:
    """Return the standard stream that leads to a file, such as /dev/stdout; else stderr."""
    with contextlib.suppress(OSError):
        if os.path.samestat(os.fstat(1), status):
            return sys.stdout
    return sys.stderr


class LogHandlers:
    """Lets the lines of a supervisor go where the .ini sends those of the site.

    A supervisor runs no code of the site. So this makes only the loggers that get its
    lines, and only handlers and formatters of the standard library that need no other
    arguments than texts and numbers. If a logger has none of them, its lines go to
    standard error.
    """

    def __init__(self) -> None:
        #: The sections that are in use.
        self._used: configparser.RawConfigParser | None = None

    def use(self, parser: configparser.ConfigParser) -> Callable[[], object]:
        """Set up logging; keep what was in use if a section is wrong.

        The process that loads the site reports what is wrong.

        :param parser: the sections, as `logging.config` reads them.
        :returns: a function that takes everything back.
        """
        before = self._used
        try:
            self._set_up(usable(parser))
        except Exception:  # a handler may refuse its arguments in any way
            self._set_up(before)
        return lambda: self._set_up(before)

    def _set_up(self, sections: configparser.RawConfigParser | None) -> None:
        if sections is not None:
            logging.config.fileConfig(sections, disable_existing_loggers=False)
            self._used = sections


def usable(parser: configparser.ConfigParser) -> configparser.RawConfigParser:
    """Return the logging sections that a supervisor can use; see `LogHandlers`."""
    made = configparser.RawConfigParser()
    formatters = {
        name: raw
        for name in _names(parser, 'formatters')
        if parser.get(f'formatter_{name}', 'class', fallback='') in _FORMATTERS
        for raw in [dict(parser.items(f'formatter_{name}', raw=True))]
    }
    handlers = {
        name: section
        for name in _names(parser, 'handlers')
        if (section := _handler(parser, f'handler_{name}', formatters)) is not None
    }
    loggers = {}
    for name in _names(parser, 'loggers'):
        section = dict(parser.items(f'logger_{name}'))
        channel = section.get('qualname', '') if name != 'root' else _OURS
        if channel.partition('.')[0] != _OURS:
            continue
        wanted = _split(section.get('handlers', ''))
        found = [one for one in wanted if one in handlers]
        section['handlers'] = ','.join(found or [_STDERR] * bool(wanted))
        loggers[name] = section
    handlers[_STDERR] = {
        'class': 'StreamHandler',
        'args': '(sys.stderr,)',
        'formatter': _STDERR,
    }
    formatters[_STDERR] = {'format': '%(levelname)-5.5s [%(name)s] %(message)s'}
    if any(raw.get('class') == _JSON for raw in formatters.values()):
        formatters[_STDERR]['class'] = _JSON
    for raw in formatters.values():
        if raw.get('class') == _JSON:
            continue
        raw['class'] = f'{SafeFormatter.__module__}.{SafeFormatter.__qualname__}'
    for kind, sections in (
        ('logger', loggers),
        ('handler', handlers),
        ('formatter', formatters),
    ):
        made[f'{kind}s'] = {'keys': ','.join(sections)}
        for name, section in sections.items():
            made[f'{kind}_{name}'] = section
    return made


def _handler(
    parser: configparser.ConfigParser, name: str, formatters: Iterable[str]
) -> dict[str, str] | None:
    """Return the section of a handler for the supervisor; None if it cannot use this one."""
    section = dict(parser.items(name))
    if section.get('formatter', '') not in ('', *formatters):
        return None
    kind = section['class'].removeprefix('logging.')
    text = section.get('args', '()')
    if kind == 'StreamHandler':
        args = _STREAM_ARGS.get(text.replace(' ', ''))
        if args is None or 'kwargs' in section:
            return None
    elif kind in _FILES:
        try:
            path, encoding = _file_of(_FILES[kind], text, section.get('kwargs', '{}'))
        except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
            return None
        kind = f'{AppendHandler.__module__}.{AppendHandler.__qualname__}'
        args = repr((path, encoding))
    else:
        return None
    kept = [key for key in ('level', 'formatter') if key in section]
    return {'class': kind, 'args': args, **{key: section[key] for key in kept}}


def _file_of(kind: Any, args: str, kwargs: str) -> tuple[str, str | None]:
    """Return the path and the encoding of a file handler, without evaluating code.

    :raises ValueError, TypeError: if the texts are not literal, or not its arguments.
    """
    values, more = ast.literal_eval(args), ast.literal_eval(kwargs)
    given = inspect.signature(kind).bind(*values, **more).arguments
    path, encoding = given['filename'], given.get('encoding')
    if not isinstance(path, str) or not isinstance(encoding, (str, type(None))):
        raise TypeError(path)
    return path, encoding


def _names(parser: configparser.ConfigParser, kind: str) -> list[str]:
    return _split(parser.get(kind, 'keys'))


def _split(text: str) -> list[str]:
    return [name.strip() for name in text.split(',') if name.strip()]
