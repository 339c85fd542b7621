"""The site's log: what the bus says goes to `logging`, and log files are reopened on demand."""

from __future__ import annotations

import logging

from paste_wspbus.plugins import Plugin, on

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from paste_wspbus.bus import Bus

#: Where the text of an exception begins in a message of the bus.
_TRACEBACK = '\nTraceback (most recent call last):\n'


class SiteLog(Plugin):
    """Messages on 'log' become records of the logger ``paste_wspbus``.

    ``tracebacks``: whether those in the messages are kept. ``quiet``: whether
    nothing is logged at all. The command sets both while the site starts, and
    tells of a failure itself, in one line.
    """

    def __init__(self, bus: Bus, logger: str = 'paste_wspbus') -> None:
        super().__init__(bus)
        self.logger = logging.getLogger(logger)
        self.tracebacks = True
        self.quiet = False

    @on('log')
    def log(self, msg: str, level: int = logging.INFO) -> None:
        """Log one message of the bus."""
        if self.quiet:
            return
        if not self.tracebacks:
            msg = msg.partition(_TRACEBACK)[0]
        self.logger.log(level, '%s', msg)

    @on('reopen_logs')
    def reopen_logs(self) -> None:
        """Close and open again the file of every handler of every logger."""
        for handler in set(_handlers()):
            if isinstance(handler, logging.FileHandler) and handler.stream:
                handler.acquire()
                try:
                    handler.stream.close()
                    handler.stream = handler._open()
                finally:
                    handler.release()


def _handlers() -> Iterator[logging.Handler]:
    yield from logging.root.handlers
    for logger in list(logging.root.manager.loggerDict.values()):
        if isinstance(logger, logging.Logger):
            yield from logger.handlers
