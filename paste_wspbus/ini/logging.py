"""The sections for logging: [loggers], [handlers], [formatters] and those that they name."""

from __future__ import annotations

import configparser
import contextlib
import logging
import os
import sys
import time
from logging.config import fileConfig

from paste_wspbus.errors import ConfigError, FactoryError
from paste_wspbus.ini.factories import at_place, one_line
from paste_wspbus.ini.file import (
    Interpolation,
    literal,
)
from paste_wspbus.ini.settings import section_of
from paste_wspbus.streams import attempt, standard

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from types import ModuleType
    from typing import Any

    from paste_wspbus.ini.config import Config

#: The formatter of records in JSON, and the name of its section.
JSON = 'paste_wspbus.plugins.json_log.JsonFormatter'
_JSON_SECTION = 'json_of_wspbus'


class Formatter(logging.Formatter):
    """Writes '-' for a field that a record does not have.

    Python's own prints a traceback for each such record in the place of its line. Filters
    and callers may add fields to some records only.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        # A format that is wrong would be a traceback for each record.
        with contextlib.suppress(TypeError):  # a field of numbers that this one lacks
            self.formatMessage(logging.makeLogRecord({'message': '', 'asctime': ''}))

    def formatMessage(self, record: logging.LogRecord) -> str:
        """Return the line of a record."""
        while True:
            try:
                return super().formatMessage(record)
            except ValueError as error:
                missing = error.__context__
                if not isinstance(missing, KeyError) or missing.args[0] in vars(record):
                    raise
                vars(record)[missing.args[0]] = '-'


class Losses:
    """The `handleError` of a handler that cannot write: it prints a line, at most once a minute.

    Python's own prints a traceback for each record: if nobody listens at /dev/log, or
    the disk is full.

    :param where: the file and the section of the handler.
    """

    def __init__(self, where: str, handler: logging.Handler) -> None:
        self._where, self._handler = where, handler
        self._count, self._tell_at = 0, float('-inf')

    def __call__(self, record: logging.LogRecord) -> None:
        """Print which records were lost; the handler calls this while its error is handled."""
        error = sys.exception()
        if not isinstance(
            error, OSError
        ):  # a mistake in the code, such as a wrong format
            type(self._handler).handleError(self._handler, record)
            return
        self._count += 1
        now = time.monotonic()
        if now < self._tell_at or not logging.raiseExceptions:
            return
        address = getattr(self._handler, 'address', '')
        at = f' at {address}' if address and error.filename is None else ''
        lost = f'records that are lost: {self._count} ({error}{at})'
        self._count, self._tell_at = 0, now + TELL_AGAIN
        attempt(standard('stderr'), 'write', f'{self._where}: {lost}\n')


#: Seconds between two lines of `Losses`.
TELL_AGAIN = 60


def _tell_losses(file: str) -> None:
    """Let each handler of the loggers tell its losses, unless its class has a way of its own."""
    loggers = (logging.root, *logging.root.manager.loggerDict.values())
    for logger in loggers:
        for handler in getattr(logger, 'handlers', ()):
            if type(handler).handleError is logging.Handler.handleError:
                where = f'{file} [handler_{handler.name}]'
                handler.handleError = Losses(where, handler)


def logging_parser(
    file: str, text: str, vars: Mapping[str, str], logs_json: bool = False
) -> configparser.ConfigParser:
    """Return the file as `logging.config` reads it, with ``here`` and the vars.

    :param text: what is in the file.
    :param logs_json: whether formatters without a ``class`` make JSON.
    """
    path = os.path.abspath(file)
    names = {'here': os.path.dirname(path), '__file__': path}
    # `logging.config` lower-cases the names that it looks up.
    known = {key.lower(): value for key, value in vars.items()} | dict(vars)
    parser = configparser.ConfigParser(
        {key: literal(value) for key, value in names.items()},
        interpolation=Interpolation(known),
        # It lower-cases all keys, also those of applications, where url and Url are two.
        # The loader of the .ini refuses what is there twice.
        strict=False,
    )
    parser.read_string(text)
    formats = [
        parser.get(name, 'format', raw=True, fallback='')
        for name in _formatters(parser)
    ]
    if logs_json:
        _make_json(parser)
    if logs_json or any('request_id' in text for text in formats):
        from paste_wspbus.requests.records import add_request_ids

        add_request_ids()
    return parser


def _formatters(parser: configparser.ConfigParser) -> list[str]:
    return [name for name in parser.sections() if name.startswith('formatter_')]


def _make_json(parser: configparser.ConfigParser) -> None:
    """Let all formatters make JSON that have no ``class``, and all handlers without one."""
    for section in parser.sections():
        kind = section.partition('_')[0]
        if kind == 'formatter' and not parser.has_option(section, 'class'):
            parser.set(section, 'class', JSON)
        elif kind == 'handler' and not parser.get(section, 'formatter', fallback=''):
            parser.set(section, 'formatter', _JSON_SECTION)
    if parser.has_option('formatters', 'keys'):
        keys = parser.get('formatters', 'keys', raw=True)
        parser.set('formatters', 'keys', f'{keys}, {_JSON_SECTION}'.strip(', '))
        parser[f'formatter_{_JSON_SECTION}'] = {'class': JSON}


def _args(parser: configparser.ConfigParser) -> list[str]:
    handlers = (one for one in parser.sections() if one.startswith('handler_'))
    return [parser.get(one, 'args', raw=True, fallback='()') for one in handlers]


def _may_be_no_tuple(args: str) -> bool:
    """Whether it may be a text: `logging` takes its letters as the arguments."""
    return ',' not in args and args.strip() not in ('()', '[]')


def configure_logging(
    file: str, text: str, vars: Mapping[str, str], logs_json: bool = False
) -> None:
    """Set up logging as the .ini says, but do not disable existing loggers.

    :param text: what is in the file.
    :raises ConfigError: if its logging sections are wrong.
    """
    parser = logging_parser(file, text, vars, logs_json)
    for name in _formatters(parser):
        if not parser.has_option(name, 'class'):
            parser.set(name, 'class', f'{__name__}.{Formatter.__name__}')
    if any(map(_may_be_no_tuple, _args(parser))):
        from paste_wspbus.ini.check_logging import LoggingCheck

        LoggingCheck(file, logging_parser(file, text, vars, logs_json)).run()
    try:
        fileConfig(parser, disable_existing_loggers=False)
    except configparser.InterpolationError as error:
        from paste_wspbus.ini.mistakes import in_interpolation

        raise in_interpolation(file, error, parser) from None
    except Exception as error:
        from paste_wspbus.ini.check_logging import LoggingCheck

        LoggingCheck(file, logging_parser(file, text, vars, logs_json)).run()
        # What the check cannot know: the class of a handler refuses its arguments.
        section = _section_of(error)
        key = 'args' if section and section.startswith('handler_') else None
        problem, at = one_line(error), at_place(error)
        if at:
            problem += at
            raise FactoryError(file, problem, section=section, key=key) from error
        raise ConfigError(file, problem, section=section, key=key) from None
    _tell_losses(file)


def load_json(config: Config) -> ModuleType:
    """Return the module that makes JSON.

    :raises ConfigError: if python-json-logger is not installed.
    """
    try:
        from paste_wspbus.plugins import json_log
    except ModuleNotFoundError as error:
        if (error.name or '').partition('.')[0] != 'pythonjsonlogger':
            raise
        how = "pip install 'paste_wspbus[json]'"
        problem = f'json needs python-json-logger 3 or newer: {how}'
        section = section_of(config.loader)
        raise ConfigError(
            config.file, problem, section=section, key='log_format'
        ) from None
    return json_log


def _section_of(error: BaseException) -> str | None:
    """Return the section that `logging.config` was reading when it failed."""
    from traceback import walk_tb  # only an error needs it

    for frame, _ in walk_tb(error.__traceback__):
        if frame.f_globals.get('__name__') == fileConfig.__module__:
            section = frame.f_locals.get('section')
            if isinstance(section, configparser.SectionProxy):
                return section.name
    return None
