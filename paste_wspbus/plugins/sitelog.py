"""The site's log: it makes log records of the bus's messages, and has log files reopened."""

from __future__ import annotations

import logging
import os
import re

from paste_wspbus.bus.host import REASON
from paste_wspbus.plugins import Plugin, on
from paste_wspbus.streams import attempt, is_foreign, standard
from paste_wspbus.values import printable

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from paste_wspbus.bus import Bus

#: The number of frames from here to the code that has called bus.log: log, publish, Bus.log.
CALLER = 4

#: The text with which an exception begins in a message of the bus.
_TRACEBACK = '\nTraceback (most recent call last):\n'


#: The texts with which stacks begin in a message of the bus: from there on, line feeds stay.
_STACKS = _TRACEBACK, '\n  File "', '\nThread '

#: A line of a message that belongs to the line before: nothing can forge a record with it.
_CONTINUED = '\n  '

#: The texts with which the bus reports a start that fails: the command reports it, too.
_START_FAILED = (
    "Error in 'start' listener |Shutting down due to error in start listener: |"
    "'start' listener .+ takes longer than .+; cut here:"
)

#: The lines of the bus and of the supervisor in each start and stop.
_ROUTINE = r'Bus \w+|.+ \(process \d+\) is ready'


#: The fields of this process in JSON records: its number and its generation.
fields_of_process: dict[str, int] = {}


def divided(message: str) -> tuple[str, str]:
    """Return a message of the bus, and the stacks that follow it, or ''."""
    ends = [end for stack in _STACKS if (end := message.find(stack)) >= 0]
    end = min(ends, default=len(message))
    return message[:end], message[end:]


class SafeFormatter(logging.Formatter):
    """The formatter of the command's own handler: no text can forge a record.

    Control characters are escaped. In the records of this package, line feeds are
    escaped, too, but not those of a traceback, and not before a line that is indented.
    """

    def formatMessage(self, record: logging.LogRecord) -> str:
        """Put the message of this package on one line, and on others that are indented."""
        if record.name.partition('.')[0] == __name__.partition('.')[0]:
            text, stacks = divided(record.message)
            lines = map(printable, text.split(_CONTINUED))
            record.message = _CONTINUED.join(lines) + stacks
        return super().formatMessage(record)

    def format(self, record: logging.LogRecord) -> str:
        """Return the record as text, without control characters."""
        return printable(super().format(record), lines=True)


class Console(logging.StreamHandler):  # type: ignore[type-arg]
    """The command's own handler: it writes to standard error.

    The site may have put something there that cannot be written to, or not be flushed:
    then records go to the stream that was there before.
    """

    def emit(self, record: logging.LogRecord) -> None:
        """Write a record, whatever the stream raises."""
        try:
            super().emit(record)
        except BaseException as error:
            if not is_foreign(error):
                raise
            self.handleError(record)

    def handleError(self, record: logging.LogRecord) -> None:
        """Write the record to the stream before; if that fails, too, report it as usual."""
        before = standard('__stderr__')
        if before is None or self.stream is before:
            attempt(super(), 'handleError', record)
        else:
            self.stream = before
            self.emit(record)

    def flush(self) -> None:
        """Write what is buffered, if that is possible."""
        attempt(super(), 'flush')


class SiteLog(Plugin):
    """Makes records of the logger ``paste_wspbus`` from messages on 'log'.

    ``tracebacks`` says whether to keep the tracebacks in the messages. ``quiet`` says
    whether to log only warnings and errors, without the error of a start listener. The
    command sets both while the site starts, because it reports a failed start itself, in
    one line. ``files`` are the files that `redirect` has opened, a list of (path, file
    descriptors).

    :param logger: the name of the logger.
    """

    def __init__(self, bus: Bus, logger: str = 'paste_wspbus') -> None:
        super().__init__(bus)
        self.logger = logging.getLogger(logger)
        self.tracebacks = True
        self.quiet = False
        #: Whether to log the error of a start listener even if everything else is logged.
        self.reports_failure = True
        #: Whether ``tracebacks`` and ``quiet`` are only for the time before STARTED: then
        #: everything is logged.
        self.until_started = False
        #: Whether the lines of each start and stop are only for DEBUG: under --reload, two
        #: lines on the terminal say what each save does.
        self.routine_is_debug = False
        #: Whether to log why the site stops, even if only warnings are logged otherwise.
        self.tells_reason = False
        self.files: list[tuple[str, tuple[int, ...]]] = []
        #: The name of this process, '' if it is the only one, and its generation.
        self.process, self.generation = '', 1
        #: Returns more fields of a record, for JSON.
        self.extra: Callable[[Bus, str], dict[str, Any]] | None = None

    def name(self, process: str, generation: int = 1) -> None:
        """Put the name of this process, such as 'worker 2', into all its log records.

        The records of the bus have it in the name of their logger
        (``paste_wspbus.worker2``), and all records have it as %(processName)s.
        """
        self.process, self.generation = process, generation
        fields_of_process['generation'] = generation
        if (number := process.rpartition(' ')[2]).isdecimal():
            fields_of_process['worker'] = int(number)
        if not process:
            return
        name = f'paste_wspbus.{process.replace(" ", "")}'
        self.logger = logging.getLogger(name)
        name_process(process)

    @on('log')
    def log(self, msg: str, level: int = logging.INFO) -> None:
        """Log one message of the bus; ``level`` is as in `logging`."""
        if self.until_started and getattr(self.bus, 'was_started', True):
            # This happens here and not after start() has returned. Before that, a queued
            # command may have run, and no other code would print its errors.
            self.until_started = self.quiet = False
            self.tracebacks = self.reports_failure = True
        if (
            self.routine_is_debug
            and level == logging.INFO
            and re.fullmatch(_ROUTINE, msg)
        ):
            level = logging.DEBUG
        if self._tells_anyway(msg, level):
            self._log_anyway(msg)
            return
        if self.quiet and level < logging.WARNING:
            return
        if (self.quiet or not self.reports_failure) and re.match(_START_FAILED, msg):
            return
        is_shown = self.until_started and re.match(_START_FAILED, msg)
        # The command shows the traceback at its end.
        if not self.tracebacks or is_shown:
            msg = without_traceback(msg)
        extra = self.extra and self.extra(self.bus, msg)
        try:
            self.logger.log(level, '%s', msg, stacklevel=CALLER, extra=extra)
        except BaseException as error:  # the stream of a handler of the site
            if not is_foreign(error):
                raise

    def _tells_anyway(self, msg: str, level: int) -> bool:
        is_reason = level == logging.INFO and msg.startswith(REASON)
        return self.tells_reason and is_reason and not self.logger.isEnabledFor(level)

    def _log_anyway(self, msg: str) -> None:
        record = self.logger.makeRecord(
            self.logger.name, logging.INFO, __file__, 0, '%s', (msg,), None
        )
        for handler in logging.getLogger().handlers:
            handler.handle(record)

    def redirect(self, path: str | os.PathLike[str], *fds: int) -> None:
        """Append what is written to file descriptors to a file.

        From now on, 'reopen_logs' opens the file anew. A new file has the mode 0644.

        :param path: the file.
        :param fds: the descriptors, such as 1 and 2.
        :raises OSError: if the file cannot be opened; then nothing is changed.
        """
        from paste_wspbus.plugins.log_files import append_to

        path = os.path.abspath(path)
        append_to(path, fds)
        others = [
            (other, tuple(fd for fd in taken if fd not in fds))
            for other, taken in self.files
        ]
        self.files = [*(one for one in others if one[1]), (path, fds)]

    @on('reopen_logs')
    def reopen_logs(self) -> None:
        """Open all log files anew by their paths, after logrotate(8) has moved them away.

        These are the files of every `logging.FileHandler` that exists, whichever logger
        or handler it belongs to, and ``files``. If a file cannot be opened, that is
        logged, and the old file stays in use.
        """
        from paste_wspbus.plugins.log_files import reopen

        for path, failure in reopen(self.files).items():
            reason = getattr(failure, 'strerror', None) or failure
            self.bus.log(f'Cannot reopen {path}: {reason}; the old file is used', 40)


def without_traceback(msg: str) -> str:
    """Return a message of the bus with the exception, but without its traceback."""
    head, found, trace = msg.rpartition(_TRACEBACK)
    if not found:
        return msg
    lines = (line for line in trace.splitlines() if line[:1] not in ('', ' '))
    return f'{head.partition(_TRACEBACK)[0]} ({next(lines, "")})'


def name_process(name: str, pid: int | None = None) -> None:
    """Put ``name`` into all log records as %(processName)s, whichever code makes them.

    :param pid: the process to which the name belongs; None includes those that it forks.
    """
    make = logging.getLogRecordFactory()

    def factory(*args: Any, **kwargs: Any) -> logging.LogRecord:
        record = make(*args, **kwargs)
        if pid in (None, os.getpid()):
            record.processName = name
        return record

    logging.setLogRecordFactory(factory)
