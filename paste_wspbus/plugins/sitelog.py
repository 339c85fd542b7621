"""The site's log: what the bus says goes to `logging`, and log files are reopened on demand."""

from __future__ import annotations

import contextlib
import logging
import os
import stat
import sys

from paste_wspbus.plugins import Plugin, on

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Generator, Iterator
    from typing import Any

    from paste_wspbus.bus import Bus

#: Where the text of an exception begins in a message of the bus.
_TRACEBACK = '\nTraceback (most recent call last):\n'


class SiteLog(Plugin):
    """Messages on 'log' become records of the logger ``paste_wspbus``.

    ``tracebacks``: whether those in the messages are kept. ``quiet``: whether
    warnings alone are logged. The command sets both while the site starts, and
    tells of a failure itself, in one line. ``files``: what `redirect` is to
    open again, a list of (path, file descriptors).
    """

    def __init__(self, bus: Bus, logger: str = 'paste_wspbus') -> None:
        super().__init__(bus)
        self.logger = logging.getLogger(logger)
        self.tracebacks = True
        self.quiet = False
        self.files: list[tuple[str, tuple[int, ...]]] = []

    def name(self, process: str) -> None:
        """Have all log lines of this process carry its name, such as 'worker 2'.

        Those of the bus in the logger's name, all records as %(processName)s.
        """
        name = f'paste_wspbus.{process.replace(" ", "")}'
        self.logger = logging.getLogger(name)
        name_process(process)

    @on('log')
    def log(self, msg: str, level: int = logging.INFO) -> None:
        """Log one message of the bus."""
        if self.quiet and level != logging.WARNING:
            return
        if not self.tracebacks:
            msg = msg.partition(_TRACEBACK)[0]
        self.logger.log(level, '%s', msg)

    def redirect(self, path: str | os.PathLike[str], *fds: int) -> None:
        """Have file descriptors of the process, such as 1 and 2, appended to a file.

        From now on, 'reopen_logs' opens it anew. A file that is made is 0644.

        :raises OSError: if the file cannot be opened; nothing is changed then.
        """
        path = os.path.abspath(path)
        append_to(path, fds)
        others = [
            (other, tuple(fd for fd in taken if fd not in fds))
            for other, taken in self.files
        ]
        self.files = [*(one for one in others if one[1]), (path, fds)]

    @on('reopen_logs')
    def reopen_logs(self) -> None:
        """Open the log files anew, by their paths: for whoever moved them away.

        Those of every `logging.FileHandler` that exists, whichever logger or
        handler it belongs to, and ``files``. A file that cannot be opened is
        logged, and the old one stays in use.
        """
        failures: dict[str, Exception] = {}
        for path, fds in self.files:
            try:
                if all(map(_is_file, fds)):
                    # The site may have set another umask since.
                    append_to(path, fds, stat.S_IMODE(os.fstat(fds[0]).st_mode))
            except OSError as error:
                failures[path] = error
        for handler in _file_handlers():
            try:
                _reopen(handler)
            except Exception as error:  # handlers are anybody's
                failures[handler.baseFilename] = error
        for path, failure in failures.items():
            reason = getattr(failure, 'strerror', None) or failure
            self.bus.log(f'Cannot reopen {path}: {reason}; the old file is used', 40)


def name_process(name: str) -> None:
    """Have log records carry ``name`` as %(processName)s, whoever makes them."""
    make = logging.getLogRecordFactory()

    def factory(*args: Any, **kwargs: Any) -> logging.LogRecord:
        record = make(*args, **kwargs)
        record.processName = name
        return record

    logging.setLogRecordFactory(factory)


def append_to(path: str, fds: tuple[int, ...], mode: int | None = None) -> None:
    """Have descriptors of this process appended to a file, made with mode 0644.

    :param mode: the mode instead, whatever the umask says.

    :raises OSError: if it cannot be opened; nothing is changed then.
    """
    append = os.O_WRONLY | os.O_APPEND
    try:
        # A pipe that nobody reads would be waited for.
        opened = os.open(path, append | getattr(os, 'O_NONBLOCK', 0))
        if hasattr(os, 'O_NONBLOCK'):
            os.set_blocking(opened, True)
    except FileNotFoundError:
        opened = os.open(path, append | os.O_CREAT, 0o644)
        if mode is not None:
            os.fchmod(opened, mode)
    try:
        for stream in (sys.stdout, sys.stderr):
            # None where there is none (pythonw); what it holds back is the old file's.
            with contextlib.suppress(AttributeError, OSError, ValueError):
                stream.flush()
        for fd in fds:
            if fd != opened:
                os.dup2(opened, fd, inheritable=fd <= 2)
            else:  # it was closed, and so is the first that the system gave
                os.set_inheritable(fd, fd <= 2)
    finally:
        if opened not in fds:
            os.close(opened)


def _is_file(fd: int) -> bool:
    """Not a terminal, a pipe or a device: opening those anew is of no use, and may wait."""
    return stat.S_ISREG(os.fstat(fd).st_mode)


def _file_handlers() -> list[logging.FileHandler]:
    """All that exist, each once."""
    handlers = dict.fromkeys([*_created_handlers(), *_handlers_of_loggers()])
    return [one for one in handlers if isinstance(one, logging.FileHandler)]


def _created_handlers() -> Iterator[logging.Handler | None]:
    # What logging itself closes at exit: also those inside other handlers
    # (MemoryHandler's target, QueueListener's) and of nobody's logger.
    for reference in list(getattr(logging, '_handlerList', ())):
        yield reference()


def _handlers_of_loggers() -> Iterator[logging.Handler]:
    # fileConfig and dictConfig make logging forget those that were there before.
    yield from logging.root.handlers
    for logger in list(logging.root.manager.loggerDict.values()):
        if isinstance(logger, logging.Logger):
            yield from logger.handlers


def _reopen(handler: logging.FileHandler) -> None:
    """Put a new stream in the place of the old one, between two records.

    :raises OSError: if there is none to be had; the old one stays.
    """
    if _file_type(handler.stream) not in (0, stat.S_IFREG):
        return  # whoever waits for a pipe's reader holds the lock
    with _locked(handler):
        old: Any = handler.stream  # None: never opened, or closed
        if _file_type(old) != stat.S_IFREG:
            return
        with _appending(handler):
            handler.stream = handler._open()
        if hasattr(handler, '_statstream'):
            handler._statstream()  # WatchedFileHandler: this is the file it watches
    # What it could not write before is lost; the new one is in use.
    with contextlib.suppress(OSError):
        old.close()


def _file_type(stream: Any) -> int:
    """As `stat` has it; 0 of a stream that is closed, in memory, or None."""
    try:
        return stat.S_IFMT(os.fstat(stream.fileno()).st_mode)
    except (AttributeError, OSError, ValueError):
        return 0


@contextlib.contextmanager
def _locked(handler: logging.Handler) -> Generator[None]:
    handler.acquire()
    try:
        yield
    finally:
        handler.release()


@contextlib.contextmanager
def _appending(handler: logging.FileHandler) -> Generator[None]:
    """Nobody may have moved the file away: 'w' would empty it, 'x' refuse it."""
    mode = handler.mode
    handler.mode = mode.replace('w', 'a').replace('x', 'a')
    try:
        yield
    finally:
        handler.mode = mode
