"""The sections for logging: [loggers], [handlers], [formatters] and those that they name."""

from __future__ import annotations

import configparser
import os
from logging.config import fileConfig

from paste_wspbus.errors import ConfigError
from paste_wspbus.ini.factories import one_line
from paste_wspbus.ini.file import (
    Interpolation,
    interpolation_error,
    literal,
    read_lines,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping


def logging_parser(file: str, vars: Mapping[str, str]) -> configparser.ConfigParser:
    """Return the file as `logging.config` reads it, with ``here`` and the vars."""
    path = os.path.abspath(file)
    names = {'here': os.path.dirname(path), '__file__': path}
    # `logging.config` lower-cases the names that it looks up.
    known = {key.lower(): value for key, value in vars.items()} | dict(vars)
    parser = configparser.ConfigParser(
        {key: literal(value) for key, value in names.items()},
        interpolation=Interpolation(known),
    )
    parser.read_file(read_lines(path))
    return parser


def configure_logging(file: str, vars: Mapping[str, str]) -> None:
    """Set up logging as the .ini says, but do not disable existing loggers.

    :raises ConfigError: if its logging sections are wrong.
    """
    try:
        fileConfig(logging_parser(file, vars), disable_existing_loggers=False)
    except configparser.InterpolationError as error:
        raise interpolation_error(file, error) from None
    except Exception as error:
        raise ConfigError(
            file, f'its logging sections are wrong: {one_line(error)}'
        ) from error
