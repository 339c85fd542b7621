"""A line on the terminal that shows how far a stop or a graceful restart is."""

from __future__ import annotations

import contextlib
import os
import sys

from paste_wspbus.values import printable


class ProgressLine:
    """A line on standard error that is written again and again; only on a terminal."""

    def __init__(self) -> None:
        self.is_seen = sys.stderr is not None and sys.stderr.isatty()
        self._there = False

    def show(self, line: str) -> None:
        """Write a line over the one before, cut where the terminal ends."""
        if self.is_seen:
            self._there = True
            columns = 0
            with contextlib.suppress(OSError):
                columns = os.get_terminal_size(2).columns
            self._write(f'\r\033[K{printable(line)[: (columns or 80) - 1]}')

    def end(self) -> None:
        """Erase the line, so that the next output stands in its place."""
        if self._there:
            self._there = False
            self._write('\r\033[K')

    def _write(self, text: str) -> None:
        with contextlib.suppress(OSError):  # the terminal may have been closed
            sys.stderr.write(text)
            sys.stderr.flush()
