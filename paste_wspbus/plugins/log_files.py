"""Log files: which the site has, appending to them, and opening them anew."""

from __future__ import annotations

import contextlib
import logging
import os
import stat

from paste_wspbus.streams import flush_streams
from paste_wspbus.values import printable

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Generator, Iterable, Iterator
    from typing import Any


def log_file() -> str | None:
    """Return the absolute path of the file to which the .ini sends this package's lines."""
    return next((_path_of(handler) for handler in _handlers_with_files()), None)


def path_of_log(bus: Any) -> str | None:
    """Return the absolute path of the file in which the lines of a bus are; None if in none."""
    files = getattr(bus.plugins.get('sitelog'), 'files', ())
    return log_file() or (files[0][0] if files else None)


def log_to_files(text: str, level: int = logging.ERROR) -> str | None:
    """Log a text to the site's log files alone: it is printed in another way.

    :returns: the absolute path of the first file; None if there is none.
    """
    logger, path = logging.getLogger('paste_wspbus'), None
    record = logger.makeRecord(
        logger.name, level, __file__, 0, '%s', (printable(text, lines=True),), None
    )
    for handler in _handlers_with_files():
        if logger.isEnabledFor(level) and level >= handler.level:
            handler.handle(record)
            path = path or _path_of(handler)
    return path


def _handlers_with_files() -> Iterator[logging.Handler]:
    logger: logging.Logger | None = logging.getLogger('paste_wspbus')
    while logger is not None:
        yield from (one for one in logger.handlers if os.path.isfile(_path_of(one)))
        logger = logger.parent if logger.propagate else None


def _path_of(handler: logging.Handler) -> str:
    return str(getattr(handler, 'baseFilename', ''))


def append_to(path: str, fds: tuple[int, ...], mode: int | None = None) -> bool:
    """Append what is written to descriptors of this process to a file.

    :param path: the file; it is made if there is none.
    :param fds: the descriptors, such as 1 and 2.
    :param mode: the mode of a new file, whatever the umask is. None stands for 0644
        without the bits of the umask.
    :returns: whether the file is new.
    :raises OSError: if the file cannot be opened; then nothing is changed. See
        `exposed.open_file` for what root opens.
    """
    from paste_wspbus.unix.exposed import open_or_make

    # Without O_NONBLOCK, a pipe without a reader would block here (open(2)).
    flags = os.O_WRONLY | os.O_APPEND | getattr(os, 'O_NONBLOCK', 0)
    opened, is_new = open_or_make(path, flags, 0o644)
    if is_new and mode is not None:
        os.fchmod(opened, mode)
    if hasattr(os, 'O_NONBLOCK'):
        os.set_blocking(opened, True)
    try:
        flush_streams()  # what they have buffered belongs to the old file
        for fd in fds:
            if fd != opened:
                os.dup2(opened, fd, inheritable=fd <= 2)
            else:  # fd was closed, and the new file got its number
                os.set_inheritable(fd, fd <= 2)
    finally:
        if opened not in fds:
            os.close(opened)
    return is_new


def why_not_made(path: str, error: OSError) -> str:
    """Return why a log file cannot be opened."""
    folder = os.path.dirname(path)
    if isinstance(error, FileNotFoundError):
        is_there = os.path.isdir(folder)  # such as /proc
        missing = f'there is no folder {folder}'
        return 'the system makes no file there' if is_there else missing
    if isinstance(error, IsADirectoryError):
        return 'it is a directory'
    return (error.strerror or str(error)).lower()


def reopen(files: Iterable[tuple[str, tuple[int, ...]]]) -> dict[str, Exception]:
    """Open log files anew by their paths: see `SiteLog.reopen_logs`.

    :param files: paths, each with the descriptors that are appended to it.
    :returns: from each path that could not be opened to the error.
    """
    failures: dict[str, Exception] = {}
    for path, fds in files:
        try:
            if all(map(_is_file, fds)):
                # The mode is given because the site may have changed the umask.
                append_to(path, fds, stat.S_IMODE(os.fstat(fds[0]).st_mode))
        except OSError as error:
            failures[path] = error
    for handler in _file_handlers():
        try:
            _reopen(handler)
        except Exception as error:  # a handler may be of any class
            failures[handler.baseFilename] = error
    return failures


def _is_file(fd: int) -> bool:
    """Whether it is a file: do not open a terminal, pipe or device anew, which may block."""
    return stat.S_ISREG(os.fstat(fd).st_mode)


def _file_handlers() -> list[logging.FileHandler]:
    """Return all file handlers that exist, each once."""
    handlers = dict.fromkeys([*_created_handlers(), *_handlers_of_loggers()])
    return [one for one in handlers if isinstance(one, logging.FileHandler)]


def _created_handlers() -> Iterator[logging.Handler | None]:
    # These are the handlers that logging closes at exit. They include handlers inside
    # other handlers (MemoryHandler, QueueListener), and handlers without a logger.
    for reference in list(getattr(logging, '_handlerList', ())):
        yield reference()


def _handlers_of_loggers() -> Iterator[logging.Handler]:
    # fileConfig and dictConfig remove existing handlers from that list, so look here, too.
    yield from logging.root.handlers
    for logger in list(logging.root.manager.loggerDict.values()):
        if isinstance(logger, logging.Logger):
            yield from logger.handlers


def _reopen(handler: logging.FileHandler) -> None:
    """Replace the stream of a handler with a new one, between two records.

    :raises OSError: if the file cannot be opened; then the handler keeps the old stream.
    """
    if _file_type(handler.stream) not in (0, stat.S_IFREG):
        return  # a thread that waits for the reader of a pipe may hold the lock
    with _locked(handler):
        old: Any = handler.stream  # None if it was not opened yet, or is closed
        if _file_type(old) != stat.S_IFREG:
            return
        with _appending(handler):
            handler.stream = handler._open()
        if hasattr(handler, '_statstream'):
            handler._statstream()  # a WatchedFileHandler watches the new file now
    # If the old stream cannot write its buffer now, this is lost.
    with contextlib.suppress(OSError):
        old.close()


def _file_type(stream: Any) -> int:
    """Return the file type as in `stat`; 0 if the stream is closed, in memory, or None."""
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
    """Open for appending: if the file was not moved away, 'w' would empty it, and 'x' fail."""
    mode = handler.mode
    handler.mode = mode.replace('w', 'a').replace('x', 'a')
    try:
        yield
    finally:
        handler.mode = mode
