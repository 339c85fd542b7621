"""The format of the log on a terminal, if the .ini says nothing about logging."""

from __future__ import annotations

import logging
import os

from paste_wspbus.plugins.sitelog import SafeFormatter

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

#: From the least level to the colour of a line: the parameters of SGR (ECMA-48).
COLOURS = ((logging.ERROR, '31'), (logging.WARNING, '33'))
FAINT = '2'


class TerminalFormatter(SafeFormatter):
    """Short lines: the time of day, the message, and what else matters.

    :param process: the name of this process, such as 'worker 2'; '' if there is only one.
    :param colours: whether to colour warnings, errors and the time.
    """

    def __init__(self, process: str = '', colours: bool = False) -> None:
        name = '[%(processName)s] ' if process else ''
        super().__init__(f'%(asctime)s {name}%(mark)s%(message)s', '%H:%M:%S')
        self._colours = colours

    def formatMessage(self, record: logging.LogRecord) -> str:
        """Put the level of warnings and errors, and other loggers, before the message."""
        level = f'{record.levelname} ' if record.levelno >= logging.WARNING else ''
        is_ours = record.name.partition('.')[0] == __name__.partition('.')[0]
        record.mark = level if is_ours else f'{level}[{record.name}] '
        return super().formatMessage(record)

    def format(self, record: logging.LogRecord) -> str:
        """Return the record as text; only its colours are control sequences."""
        text = super().format(record)
        if not self._colours:
            return text
        time, space, rest = text.partition(' ')
        for level, colour in COLOURS:
            if record.levelno >= level:
                rest = _coloured(rest, colour)
                break
        return f'{_coloured(time, FAINT)}{space}{rest}'


def shows_colours(environ: Mapping[str, str] = os.environ) -> bool:
    """Whether the terminal shows colours, and its user wants them (https://no-color.org)."""
    if environ.get('NO_COLOR') or os.name == 'nt':
        return False
    return environ.get('TERM', 'dumb') != 'dumb'


def _coloured(text: str, colour: str) -> str:
    return f'\033[{colour}m{text}\033[0m'
